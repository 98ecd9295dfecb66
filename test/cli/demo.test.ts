// The demo as a user runs it: what it prints, and that nothing is left of it, however it ends. Each
// run has a folder for temporary files of its own.

import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { parseAllDocuments, stringify } from 'yaml';
import { makeFolder, removeLeftovers } from '../../cli/demo/folder.ts';
import { closeFd } from '../../ffi/file.ts';
import { Links } from '../../ffi/netlink.ts';
import { findTool } from '../../scripts/tools.ts';
import { CLI, Command, unprivileged, type Outcome } from '../support/command.ts';
import { until } from '../support/until.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';

interface Context { run: Run }
const test = suite<Context>('cli/demo');
const CLUSTER = join(ROOT, 'deploy', 'demo', 'cluster.yaml');
const WITHOUT_VXLAN = fileURLToPath(new URL('./demo-without-vxlan.js', import.meta.url));
const DEMO = [process.execPath, CLI, 'demo'];
const USER_NAMESPACE = ['unshare', '--user', '--map-root-user', '--net', '--mount'];
const PROTOCOLS = ['TCP', 'UDP', 'ICMP'];
const FAMILIES = ['IPv4', 'IPv6'];
/** Where the ends of the shipped cluster are. */
const PLACES: Record<string, string> = {
  'demo/web': 'edge-1', 'demo/legacy': 'edge-1', 'demo/api': 'edge-2', 'demo/db': 'core-1',
  'kube-system/dns': 'edge-2',
  'node/edge-1': 'edge-1', 'node/edge-2': 'edge-2', 'node/core-1': 'core-1',
};

const PairSchema = v.strictObject({
  from: v.string(),
  to: v.string(),
  protocol: v.picklist(PROTOCOLS),
  family: v.picklist(FAMILIES),
  expected: v.picklist(['reach', 'blocked']),
  seen: v.picklist(['reach', 'blocked']),
});
const SkippedSchema = v.strictObject({
  ...v.pick(PairSchema, ['from', 'to', 'protocol', 'family']).entries, reason: v.string(),
});
const TrialSchema = v.strictObject({
  from: v.string(),
  service: v.string(),
  family: v.picklist(FAMILIES),
  address: v.string(),
  port: v.number(),
  admitted: v.array(v.string()),
  answered: v.array(v.string()),
  seesClient: v.boolean(),
  ok: v.boolean(),
});
const NameSchema = v.strictObject({
  from: v.string(),
  name: v.string(),
  family: v.picklist(FAMILIES),
  server: v.string(),
  expected: v.picklist(['reach', 'blocked']),
  answer: v.string(),
  ok: v.boolean(),
});
const ReportSchema = v.strictObject({
  ok: v.boolean(),
  nodes: v.array(v.strictObject({
    name: v.string(), kind: v.picklist(['culvert', 'kernel-vxlan']), podCidrs: v.array(v.string()),
  })),
  pairs: v.array(PairSchema),
  skipped: v.array(SkippedSchema),
  services: v.array(TrialSchema),
  names: v.array(NameSchema),
  namesSkipped: v.string(),
  throughputMbps: v.number(),
});
type Report = v.InferOutput<typeof ReportSchema>;

/** One run of the demo, and what was there before it. */
class Run {
  readonly folder = mkdtempSync(join(tmpdir(), `culvert-demo-test-${process.pid}-`));
  readonly commands: Command[] = [];
  readonly #links: string[];

  private constructor(links: string[]) {
    this.#links = links;
  }

  static async create(): Promise<Run> {
    return new Run(await linkNames());
  }

  start(command: string[], options: object = {}): Command {
    const started = new Command(command, { env: { TMPDIR: this.folder }, ...options });
    this.commands.push(started);
    return started;
  }

  /** Starts, and interrupts where the demo has said something. */
  async interruptAt(text: string, args: string[] = []): Promise<Outcome> {
    const command = this.start([...DEMO, ...args]);
    await command.untilSaid(text);
    command.child.kill('SIGINT');
    return command.ended;
  }

  /** The beds' folders. Other programs, such as npm, leave theirs. */
  beds(): string[] {
    return readdirSync(this.folder).filter((name) => name.startsWith('culvert'));
  }

  async assertNothingIsLeft(): Promise<void> {
    await this.assertNothingRuns();
    assert.equal(this.beds(), []);
  }

  /** Waits for the processes: those whose parent was killed end a moment later. */
  async assertNothingRuns(): Promise<void> {
    const running = (): boolean => this.commands.some((each) => each.processes().length > 0);
    await until('every process to end', () => !running());
    assert.equal(await linkNames(), this.#links);
    assert.not.match(readFileSync('/proc/self/mounts', 'utf8'), this.folder);
  }

  async end(): Promise<void> {
    for (const command of this.commands) await command.end();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function linkNames(): Promise<string[]> {
  const links = new Links();
  try {
    return (await links.list()).map(({ name }) => name);
  } finally {
    links.close();
  }
}

test.before.each(async (context) => {
  context.run = await Run.create();
});
test.after.each(({ run }) => run.end());

/** The report, which is all that standard output holds. */
function reportOf({ stdout, stderr }: Outcome): Report {
  assert.is(stdout.split('\n').length, 2, `one line on standard output:\n${stdout}\n${stderr}`);
  return v.parse(ReportSchema, JSON.parse(stdout));
}

/** What the policies of the shipped cluster say, read by a person. */
function isBlocked({ from, to, protocol }: Report['pairs'][number]): boolean {
  const ownNode = 'node/edge-1'; // of web and of legacy
  const isFromApi = from === 'demo/api' && protocol === 'TCP';
  if (to === 'demo/web' && from !== ownNode && !isFromApi) return true;
  if (from !== 'demo/legacy' || to === ownNode) return false;
  return to !== 'demo/db' || protocol !== 'UDP';
}

function has(command: string): boolean {
  return spawnSync(command, ['--version'], { stdio: 'ignore' }).status === 0;
}

/** Like testNeeding('tun'), for what a probe of this file found. */
function testWith(reason: string, name: string, body: (run: Run) => Promise<void>): void {
  if (reason === '' || !needs.tun) {
    testNeeding('tun', test, name, ({ run }) => body(run));
    return;
  }
  test.skip(name);
  printSkip(name, reason);
}

/** `from to protocol family` of every pair that a cluster with these ends has. */
function allPairs(ends: string[]): string[] {
  const isNode = (end: string): boolean => end.startsWith('node/');
  return ends.flatMap((from) => ends
    .filter((to) => to !== from && !(isNode(from) && isNode(to)))
    .flatMap((to) => PROTOCOLS.flatMap((protocol) =>
      FAMILIES.map((family) => `${from} ${to} ${protocol} ${family}`)))).sort();
}

function pairNames(pairs: Omit<Report['skipped'][number], 'reason'>[]): string[] {
  return pairs.map(({ from, to, protocol, family }) =>
    `${from} ${to} ${protocol} ${family}`).sort();
}

const npmReason = has('npm') ? '' : 'npm is not on PATH';

testWith(npmReason, 'npm run demo tries every pair and prints one JSON document', async (run) => {
  const outcome = await run.start(['npm', 'run', 'demo', '--', '-o', 'json']).ended;
  assert.is(outcome.code, 0, outcome.stderr);
  const report = reportOf(outcome);
  assert.is(report.ok, true);
  assert.ok(report.throughputMbps > 0);
  const nodes = report.nodes.map(({ name, kind, podCidrs }) => `${name} ${kind} ${podCidrs}`);
  assert.equal(nodes.sort(), [
    'core-1 kernel-vxlan 10.244.3.0/24,fd00:10:244:3::/64',
    'edge-1 culvert 10.244.1.0/24,fd00:10:244:1::/64',
    'edge-2 culvert 10.244.2.0/24,fd00:10:244:2::/64',
  ]);
  const { pairs, skipped } = report;
  assert.equal([...pairNames(pairs), ...pairNames(skipped)].sort(), allPairs(Object.keys(PLACES)));
  assert.is(skipped.length > 0, !needs.vxlan);
  for (const pair of pairs) {
    const expected = isBlocked(pair) ? 'blocked' : 'reach';
    assert.equal([pair.expected, pair.seen], [expected, expected], JSON.stringify(pair));
  }
  assertCovers(pairs);
  assertServes(report);
  assertNames(report);
  await run.assertNothingIsLeft();
});

/** Who gets which backends of the shipped Service, read by a person: `web` takes the API only, and
 * its own node; the legacy program may not reach the API. */
function assertServes({ services }: Report): void {
  const wanted: Record<string, string[]> = {
    'demo/api': ['demo/api', 'demo/web'], 'demo/web': ['demo/api'], 'demo/legacy': [],
    'node/edge-1': ['demo/api', 'demo/web'], 'node/edge-2': ['demo/api'],
    'kube-system/dns': ['demo/api'],
  };
  for (const [from, admitted] of Object.entries(wanted)) {
    for (const family of FAMILIES) {
      const trial = services.find((one) => one.from === from && one.family === family);
      assert.is(trial?.ok, true, `${from} ${family}: ${JSON.stringify(trial)}`);
      const others = (names: string[] | undefined): string[] =>
        (names ?? []).filter((name) => name !== from).sort();
      assert.equal(others(trial?.answered), others(admitted), `${from} ${family}`);
      assert.is(trial?.seesClient, true);
    }
  }
}

/** Every pod and node of a Culvert node but the server's own resolves the Service; the legacy
 * program may not ask. */
function assertNames({ names, namesSkipped }: Report): void {
  if (findTool('dnsmasq') === null) return assert.match(namesSkipped, /^dnsmasq is not on this/);
  assert.is(namesSkipped, '');
  const clients = ['demo/api', 'demo/legacy', 'demo/web', 'node/edge-1', 'node/edge-2'];
  const addresses: Record<string, string> = { IPv4: '10.96.0.80', IPv6: 'fd00:10:96::50' };
  assert.equal(names.map(({ from, name, family, answer, ok }) =>
    [from, name, family, answer, ok].join(' ')).sort(), clients.flatMap((from) =>
    FAMILIES.map((family) => {
      const answer = from === 'demo/legacy' ? '' : addresses[family];
      return `${from} front.demo.svc.cluster.local ${family} ${answer} true`;
    })).sort());
}

/** What the pairs must have among them, said without the list of all. */
function assertCovers(pairs: Report['pairs']): void {
  const isCulvert = (place: string): boolean => place.startsWith('edge');
  const kinds: Record<string, (from: string, to: string) => boolean> = {
    'same node': (from, to) => from === to && isCulvert(from),
    'between Culvert nodes': (from, to) => from !== to && isCulvert(from) && isCulvert(to),
  };
  if (needs.vxlan) {
    kinds['to the kernel\'s vxlan'] = (from, to) => isCulvert(from) && !isCulvert(to);
    kinds['from the kernel\'s vxlan'] = (from, to) => !isCulvert(from) && isCulvert(to);
  }
  const places = (end: string): [boolean, string] => [end.startsWith('node/'), PLACES[end] ?? ''];
  for (const [kind, isOfKind] of Object.entries(kinds)) {
    for (const [what, fromNode, toNode] of [
      ['pod to pod', false, false], ['node to pod', true, false], ['pod to node', false, true],
    ] as const) {
      const found = pairs.filter(({ from, to }) => {
        const [[fromIs, at], [toIs, there]] = [places(from), places(to)];
        return fromIs === fromNode && toIs === toNode && isOfKind(at, there);
      });
      const variants = new Set(found.map(({ protocol, family }) => `${protocol} ${family}`));
      assert.is(variants.size, 6, `${what}, ${kind}`);
    }
  }
  const tap = pairs.filter(({ from, to }) => from === 'demo/legacy' || to === 'demo/legacy');
  assert.ok(tap.length >= 2 * 6 * 4, 'the pod on a TAP');
}

testWith(npmReason, 'Ctrl-C under npm ends all of it', async (run) => {
  const command = run.start(['npm', 'run', 'demo'], { detached: true });
  await command.untilSaid('trying every pair');
  process.kill(-(command.child.pid ?? 0), 'SIGINT');
  const { stdout } = await command.ended;
  assert.is(stdout, '');
  await run.assertNothingIsLeft();
});

for (const moment of ['starting culvert', 'trying every pair', 'measuring throughput']) {
  testWith('', `interrupted at "${moment}" it cleans up and fails`, async (run) => {
    const outcome = await run.interruptAt(moment, ['-o', 'json']);
    assert.equal([outcome.code, outcome.signal], [1, null], outcome.stderr);
    assert.is(outcome.stdout, '', 'no report of half a run');
    assert.match(outcome.stderr, /^demo: cleaning up$/m);
    await run.assertNothingIsLeft();
  });
}

testWith('', 'interrupted while it builds, it cleans up and fails', async (run) => {
  const command = run.start(DEMO);
  await until('the folder', () => run.beds().length > 0);
  command.child.kill('SIGINT');
  assert.is((await command.ended).code, 1);
  await run.assertNothingIsLeft();
});

testWith('', 'interrupted twice, it ends at once, and its processes with it', async (run) => {
  const command = run.start(DEMO);
  await command.untilSaid('trying every pair');
  command.child.kill('SIGINT');
  await command.untilSaid('cleaning up');
  command.child.kill('SIGINT');
  assert.is((await command.ended).signal, 'SIGINT');
  await run.assertNothingRuns();
});

testWith('', '--keep leaves everything running until it is interrupted', async (run) => {
  const command = run.start([...DEMO, '--keep', '-o', 'json']);
  await command.untilSaid('interrupt to end it');
  assert.match(command.stderr, /demo: {3}edge-1: nsenter --net=\/proc\/\d+\/fd\/\d+\n/);
  const ours = command.processes().filter((pid) =>
    readFileSync(`/proc/${pid}/comm`, 'utf8') !== 'dnsmasq\n');
  assert.is(ours.length, 5, 'the demo, two daemons, two sidecars');
  command.child.kill('SIGTERM');
  const outcome = await command.ended;
  assert.is(outcome.code, 0, outcome.stderr);
  assert.is(reportOf(outcome).ok, true);
  await run.assertNothingIsLeft();
});

for (const moment of ['starting culvert', 'trying every pair']) {
  testWith('', `killed at "${moment}" its processes end, and the next run removes its files`,
    async (run) => {
      const command = run.start(DEMO);
      await command.untilSaid(moment);
      command.child.kill('SIGKILL');
      assert.is((await command.ended).signal, 'SIGKILL');
      await run.assertNothingRuns();
      assert.is(run.beds().length, 1);
      await run.interruptAt('starting culvert');
      await run.assertNothingIsLeft();
    });
}

test('files of a run that lives are left alone, those of a dead one are removed', ({ run }) => {
  const before = process.env['TMPDIR'];
  process.env['TMPDIR'] = run.folder;
  try {
    const { path, lock } = makeFolder();
    const foreign = join(run.folder, 'culvert-lab-notes');
    writeFileSync(foreign, '');
    removeLeftovers();
    assert.ok(existsSync(path));
    closeFd(lock);
    removeLeftovers();
    assert.is(existsSync(path), false);
    assert.ok(existsSync(foreign), 'a file is nobody\'s bed');
  } finally {
    if (before === undefined) delete process.env['TMPDIR'];
    else process.env['TMPDIR'] = before;
  }
});

interface KubernetesObject {
  kind: string;
  metadata: { name: string };
  status?: { podIPs?: { ip: string }[] };
}

/** The shipped cluster without its third node and its TAP, changed, as a file. */
function clusterFile(run: Run, change: (objects: KubernetesObject[]) => void): string {
  const objects = parseAllDocuments(readFileSync(CLUSTER, 'utf8'))
    .map((document) => document.toJS() as KubernetesObject)
    .filter(({ metadata }) => !['core-1', 'db', 'legacy'].includes(metadata.name));
  change(objects);
  const path = join(run.folder, 'objects.yaml');
  writeFileSync(path, objects.map((object) => stringify(object)).join('---\n'));
  return path;
}

testWith('', 'a pair that is not as expected fails the demo and stands out', async (run) => {
  const file = clusterFile(run, (objects) => {
    const [first] = objects.find(({ metadata }) => metadata.name === 'api')?.status?.podIPs ?? [];
    if (first !== undefined) first.ip = '10.244.9.10'; // of no node's pod network
  });
  const [json, table] = await Promise.all([['-o', 'json'], []].map((words) =>
    run.start([...DEMO, '--cluster', file, ...words]).ended));
  if (json === undefined || table === undefined) throw new Error('two runs');
  assert.is(json.code, 1);
  const report = reportOf(json);
  assert.is(report.ok, false);
  const wrong = report.pairs.filter(({ expected, seen }) => expected !== seen);
  assert.ok(wrong.length > 0 && wrong.length < report.pairs.length);
  assert.ok(wrong.every(({ family, from, to }) =>
    family === 'IPv4' && [from, to].includes('demo/api')), 'and no other pair');
  assert.is(table.code, 1);
  assert.match(table.stdout, /^FROM +TO +FAMILY +TCP +UDP +ICMP +EXPECTED$/m);
  assert.match(table.stdout, /^demo\/web +demo\/api +IPv4 +BLOCKED +BLOCKED +BLOCKED +reach$/m);
  assert.match(table.stdout, /^demo\/web +demo\/api +IPv6 +reach +reach +reach +reach$/m);
  assert.match(table.stdout, /^\d+ pairs, [1-9]\d* not as expected, 0 skipped; /m);
  await run.assertNothingIsLeft();
});

testWith('', 'a DNS server that is not there is an error', async (run) => {
  const { code, stderr } = await run.start([...DEMO, '--dns', '/no/dnsmasq']).ended;
  assert.equal([code, stderr], [1, 'culvert: demo --dns /no/dnsmasq: ENOENT\n']);
  await run.assertNothingIsLeft();
});

testWith('', 'a cluster that cannot be read is an error with file, line and field', async (run) => {
  const demoOf = (file: string): Promise<Outcome> =>
    run.start([...DEMO, '--cluster', file, '-o', 'json']).ended;
  const file = join(run.folder, 'bad.yaml');
  const cases: [content: string, expected: RegExp][] = [
    ['apiVersion: v1\nkind: Node\nmetadata: { name: [] }\n', /^culvert: .*bad\.yaml:3: .*name: /],
    ['kind: [\n', /^culvert: .*bad\.yaml:2: /],
  ];
  for (const [content, expected] of cases) {
    writeFileSync(file, content);
    const { code, stdout, stderr } = await demoOf(file);
    assert.match(stderr, expected);
    assert.is(code, 1);
    assert.is(stdout, '');
  }
  rmSync(file);
  assert.match((await demoOf(file)).stderr, /^culvert: .*ENOENT.*bad\.yaml/);
  await run.assertNothingIsLeft();
});

testWith('', 'a kernel without vxlan has its pairs skipped by name', async (run) => {
  const [json, table] = await Promise.all(['json', 'table'].map((output) =>
    run.start([process.execPath, WITHOUT_VXLAN, output]).ended));
  if (json === undefined || table === undefined) throw new Error('two runs');
  assert.is(json.code, 0, json.stderr);
  const { ok, pairs, skipped } = reportOf(json);
  assert.is(ok, true);
  const without = Object.keys(PLACES).filter((end) => PLACES[end] !== 'core-1');
  assert.equal(pairNames(pairs), allPairs(without));
  assert.equal([...pairNames(pairs), ...pairNames(skipped)].sort(), allPairs(Object.keys(PLACES)));
  const reason = 'node core-1: link add vxlan on flannel.1: EOPNOTSUPP';
  assert.ok(skipped.every((pair) => pair.reason === reason));
  assert.match(table.stdout, /^demo\/web +demo\/db +IPv6 +skipped +skipped +skipped +-$/m);
  assert.ok(table.stdout.includes(`\nskipped: ${reason}\n`));
  assert.match(table.stdout, /^\d+ pairs, 0 not as expected, [1-9]\d* skipped; /m);
  await run.assertNothingIsLeft();
});

testWith('', '--nodes has only the first so many, and says what it leaves out', async (run) => {
  const outcome = await run.start([...DEMO, '--nodes', '2', '-o', 'json']).ended;
  assert.is(outcome.code, 0, outcome.stderr);
  assert.match(outcome.stderr, /^demo: left out: core-1, with what runs there$/m);
  const report = reportOf(outcome);
  assert.equal([report.ok, report.skipped], [true, []]);
  assert.equal(report.nodes.map(({ kind }) => kind), ['culvert', 'culvert']);
  const ends = Object.keys(PLACES).filter((end) => PLACES[end] !== 'core-1');
  assert.equal(pairNames(report.pairs), allPairs(ends));
  assertServes(report);
  for (const count of ['1', '4', 'two']) {
    const { code, stderr } = await run.start([...DEMO, '--nodes', count]).ended;
    assert.is(code, 1);
    assert.match(stderr, /^culvert: demo --nodes .* has 3, and at least 2 are needed$/m);
  }
  await run.assertNothingIsLeft();
});

const NOBODY_TEST = 'without privileges it ends with 77 and says what it needs';
const nobody = await unprivileged();
if (nobody === null) {
  test.skip(NOBODY_TEST);
  printSkip(NOBODY_TEST, 'another user must be able to read this tree');
} else {
  test(NOBODY_TEST, async ({ run }) => {
    const { code, stdout, stderr } = await run.start([...DEMO, '-o', 'json'], nobody).ended;
    assert.is(code, 77, stderr);
    assert.is(stdout, '');
    assert.match(stderr, /^culvert: demo: .*(\/dev\/net\/tun|unshare).*run as root, or in a user /);
    assert.match(stderr, /unshare --user --map-root-user --net --mount culvert demo\n$/);
    assert.is(stderr.split('\n').length, 2);
    await run.assertNothingRuns();
  });
}

/** Why a user namespace of this machine cannot hold a TUN; empty where it can. */
function namespaceReason(): string {
  const doctor = [process.execPath, CLI, 'doctor', '-o', 'json'];
  const [program = '', ...words] = [...USER_NAMESPACE, ...doctor];
  const { status, stderr, error } = spawnSync(program, words, { encoding: 'utf8' });
  if (status === 0) return '';
  if (error !== undefined) return error.message;
  return stderr.trim() || '/dev/net/tun does not open in a user namespace';
}

testWith(needs.tun ? namespaceReason() : '', 'it runs in a user namespace', async (run) => {
  const outcome = await run.start([...USER_NAMESPACE, ...DEMO, '-o', 'json']).ended;
  assert.is(outcome.code, 0, outcome.stderr);
  assert.is(reportOf(outcome).ok, true);
  await run.assertNothingIsLeft();
});

test.run();
