// The `culvert` command as a user types it: help, exit codes, and what it shows of a daemon that
// runs in a namespace.
//
//   [ edge-1: culvert0, eth0 192.0.2.1 ]----veth----[ hub ]
//        |              |
//   [ web: TUN ]   [ legacy: TAP ]

import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import { Bed } from '../../cli/demo/bed.ts';
import { CulvertNode } from '../../cli/demo/culvert-node.ts';
import { VERSION } from '../../cli/version.ts';
import {
  EndpointReportSchema, PeerReportSchema, RouteReportSchema, StatusReportSchema,
} from '../../engine/model.ts';
import { flagName, settingPaths } from '../../host/config.ts';
import { CLI, Command, culvert, unprivileged, type Outcome } from '../support/command.ts';
import { until } from '../support/until.ts';
import { needs, printSkip, testNeeding } from '../support/needs.ts';
import { ROOT } from '../support/source.ts';

const test = suite('cli');
const folder = mkdtempSync(join(tmpdir(), `culvert-cli-${process.pid}-`));
const CLUSTER = join(ROOT, 'deploy', 'demo', 'cluster.yaml');
const VERBS = [
  'run', 'sync', 'status', 'peer list', 'route list', 'route get', 'endpoint list', 'observe',
  'doctor', 'demo', 'policy test', 'policy explain', 'policy list',
];
/** Of the cluster's pods. */
const UIDS = {
  web: '5b1c7a52-0001-4000-8000-000000000001', legacy: '5b1c7a52-0001-4000-8000-000000000002',
};
const nobody = await unprivileged();

test.after(() => rmSync(folder, { recursive: true, force: true }));

/** Nothing but the explanation, on standard error, and the exit code. */
function assertRefused(outcome: Outcome, code: number, expected: RegExp): void {
  assert.is(outcome.signal, null, 'it ends by itself');
  assert.match(outcome.stderr, expected, `${outcome.code}: ${outcome.stderr}`);
  assert.is(outcome.code, code, outcome.stderr);
  assert.is(outcome.stdout, '', 'standard output is for answers');
  assert.not.match(outcome.stderr, /^ {4}at /m, 'no stack for a user');
}

/** The one JSON document on standard output, as the schema's type. */
function answerOf<S extends v.GenericSchema>(schema: S, outcome: Outcome): v.InferOutput<S> {
  assert.is(outcome.code, 0, outcome.stderr);
  assert.is(outcome.stdout.trimEnd().split('\n').length, 1);
  return v.parse(schema, JSON.parse(outcome.stdout));
}

test('help lists the verbs, and each verb shows an example of itself', async () => {
  const { code, stdout, stderr } = await culvert(['--help']);
  assert.is(code, 0, stderr);
  for (const verb of VERBS) assert.match(stdout, new RegExp(`^ {2}${verb.split(' ')[0]} `, 'm'));
  await Promise.all(VERBS.map(async (verb) => {
    const help = await culvert([...verb.split(' '), '--help']);
    assert.is(help.code, 0, verb);
    assert.match(help.stdout, /^Examples?:$/m, verb);
    assert.match(help.stdout, new RegExp(`^ {2}culvert ${verb}( |$)`, 'm'));
    assert.is(help.stderr, '');
  }));
});

test('help of run has a flag for every setting', async () => {
  const { stdout } = await culvert(['run', '--help']);
  for (const { path } of settingPaths()) {
    assert.ok(stdout.includes(`  ${flagName(path)} <value>`), flagName(path));
  }
});

test('the version is the package\'s', async () => {
  for (const flag of ['--version', '-V']) {
    assert.equal(await culvert([flag]), {
      code: 0, signal: null, stdout: `${VERSION}\n`, stderr: '',
    });
  }
});

test('a command that is not one ends with 2 and says what there is', async () => {
  const cases: [words: string[], expected: RegExp][] = [
    [[], /^Usage: culvert/],
    [['peer'], /^Usage: culvert peer/],
    [['bogus'], /unknown command 'bogus'/],
    [['status', '--bogus'], /unknown option '--bogus'/],
    [['status', '-o', 'xml'], /'xml' is invalid\. Allowed choices are table, json/],
    [['status', 'extra'], /too many arguments/],
    [['route', 'get'], /missing required argument 'address'/],
    [['route', 'get', 'somewhere'], /route get: somewhere is not an IP address/],
    [['observe', '--last', '0'], /observe: --last 0: not a count from 1 on/],
    [['sync', '--node-name', 'a'], /required option '--source <source>'/],
    [['sync', '--source', 'file:x'], /required option '--node-name <name>'/],
  ];
  await Promise.all(cases.map(async ([words, expected]) =>
    assertRefused(await culvert(words), 2, expected)));
});

test('without a daemon the verbs that ask it end with 69', async () => {
  const none = join(folder, 'none');
  const path = `${none}/control.sock`;
  const expected = new RegExp(`^culvert: connect ${path}: no daemon answers; is .culvert run.`);
  for (const words of [['status'], ['peer', 'list', '-o', 'json'], ['route', 'get', '10.0.0.1']]) {
    assertRefused(await culvert([...words, '--runtime-directory', none]), 69, expected);
  }
  const env = { CULVERT_RUNTIME_DIRECTORY: none };
  assertRefused(await culvert(['endpoint', 'list'], { env }), 69, expected);
});

test('bad configuration ends with 78 and names the place', async () => {
  const file = join(folder, 'config.yaml');
  const run = (content: string, words: string[] = [], env = {}): Promise<Outcome> => {
    writeFileSync(file, content);
    return culvert(['run', '--config', file, ...words], { env });
  };
  const at = (text: string): RegExp => new RegExp(`^culvert: ${file}${text}`);
  assertRefused(await run('nodeName: a\nunderlay:\n  port: x\n'), 78,
    at(':3: underlay\\.port: .*Expected number'));
  assertRefused(await run('nodename: a\n'), 78, at(':1: nodename: there is no such field'));
  assertRefused(await run('nodeName: [a\n'), 78, at(':2: '));
  assertRefused(await run('nodeName: a\n'), 78, /^culvert: underlay\.interface: missing/);
  assertRefused(await run('', ['--underlay-send-sockets', '0']), 78,
    /^culvert: --underlay-send-sockets: /);
  assertRefused(await run('', [], { CULVERT_MEMORY: 'tiny' }), 78, /^culvert: CULVERT_MEMORY: /);
  rmSync(file);
  assertRefused(await culvert(['run', '--config', file]), 78, /^culvert: read .*: ENOENT/);
  const words = ['run', '--stop-on-stdin-end', '--config', file];
  const withOpenInput = new Command([process.execPath, CLI, ...words]);
  assertRefused(await withOpenInput.ended, 78, /^culvert: read .*: ENOENT/);
});

test('what sync cannot follow is an error that names it', async () => {
  const words = ['sync', '--node-name', 'a', '--runtime-directory', folder];
  assertRefused(await culvert([...words, '--source', 'somewhere']), 1,
    /source somewhere: not known; there are kubernetes and file:PATH/);
});

const CheckSchema = v.strictObject({
  name: v.string(), ok: v.boolean(), needed: v.boolean(), found: v.string(),
  fix: v.nullable(v.string()),
});
const TIER = v.picklist(['T0', 'T1', 'T2', 'T3']);
const DoctorSchema = v.strictObject({
  ok: v.boolean(),
  version: v.literal(VERSION),
  node: v.literal(process.version),
  arch: v.literal(process.arch),
  tier: v.strictObject({ used: TIER, kernelOffers: TIER, limits: v.array(v.string()) }),
  tunnel: v.string(),
  peers: v.nullable(v.array(v.unknown())),
  checks: v.array(CheckSchema),
  notes: v.array(v.string()),
});

function checkDoctor({ code, stdout }: Outcome): v.InferOutput<typeof DoctorSchema> {
  assert.is(stdout.trimEnd().split('\n').length, 1);
  const report = v.parse(DoctorSchema, JSON.parse(stdout));
  assert.is(code, report.ok ? 0 : 77);
  assert.is(report.ok, report.checks.every(({ ok, needed }) => ok || !needed));
  for (const { name, ok, fix } of report.checks) assert.is(fix === null, ok, `${name}: ${fix}`);
  return report;
}

test('doctor says what is there, and the way out where something is missing', async () => {
  const report = checkDoctor(await culvert(['doctor', '-o', 'json']));
  const find = (name: string): boolean | undefined =>
    report.checks.find((check) => check.name === name)?.ok;
  assert.is(find('Node.js'), true);
  assert.is(find('network namespaces'), needs.root);
  assert.is(find('kernel vxlan'), needs.vxlan);
  if (needs.tun) assert.is(find('open a TUN'), true);
  const { stdout } = await culvert(['doctor']);
  assert.match(stdout, /^CHECK +STATE +FOUND +FIX$/m);
  for (const { name } of report.checks) assert.match(stdout, new RegExp(`^${name} `, 'm'));
});

/** A test that needs a user without privileges. */
function testUnprivileged(name: string, body: (as: object) => Promise<void>): void {
  if (nobody !== null) return void test(name, () => body(nobody));
  test.skip(name);
  printSkip(name, 'another user must be able to read this tree');
}

testUnprivileged('doctor without privileges ends with 77 or finds all it needs', async (as) => {
  const report = checkDoctor(await culvert(['doctor', '-o', 'json'], as));
  if (!needs.tun) return;
  assert.is(report.ok, false);
  const check = report.checks.find(({ name }) => name === 'open a TUN');
  assert.match(`${check?.found} ${check?.fix}`, /(EACCES|EPERM).*root/);
});

testUnprivileged('run without privileges ends with 77 and says what it needs', async (as) => {
  const directory = mkdtempSync(join(tmpdir(), `culvert-cli-run-${process.pid}-`));
  rmSync(directory, { recursive: true });
  const words = ['run', '--node-name', 'a', '--underlay-interface', 'lo', '--underlay-port',
    '48472', '--memory', 'small'];
  try {
    assertRefused(await culvert([...words, '--runtime-directory', directory], as), 77,
      /^culvert: .*(\/dev\/net\/tun|TUNSETIFF).*(EACCES|EPERM|ENOENT); /);
    if (process.getuid?.() !== 0) return;
    assertRefused(await culvert([...words, '--runtime-directory', join(folder, 'run')], as), 77,
      /^culvert: mkdir on .*: EACCES; /);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test.run();

// A daemon in a namespace, shown.

interface Context { bed: Bed; node: CulvertNode }
const daemon = suite<Context>('cli with a daemon');

daemon.before(async (context) => {
  if (!needs.tun) return;
  context.bed = await Bed.create();
  try {
    const edge = await context.bed.addNode('edge-1', { ipv4: '192.0.2.1', ipv6: '2001:db8::1' });
    const podNetworks = ['10.244.0.0/16', 'fd00:10:244::/48'];
    context.node = new CulvertNode(context.bed, edge, {
      name: 'edge-1', source: CLUSTER, podNetworks,
    });
    await context.node.start();
    const pod = { namespace: 'demo', device: 'tun' as const };
    await context.node.addPod({ ...pod, name: 'web', uid: UIDS.web, addresses: ['10.244.1.10'] });
    await context.node.addPod({
      ...pod, name: 'legacy', uid: UIDS.legacy, device: 'tap',
      addresses: ['10.244.1.11', 'fd00:10:244:1::b'],
    });
  } catch (error) {
    await context.bed.close();
    throw error;
  }
});
daemon.after(async ({ bed }) => {
  if (needs.tun) await bed.close();
});

function show({ node }: Context, words: string, options = {}): Promise<Outcome> {
  const args = [...words.split(' '), '--runtime-directory', node.runtimeDirectory];
  return culvert(args, options);
}

/** Lines of a table without its header, which must be `headers`. */
function tableOf({ code, stdout, stderr }: Outcome, headers: string): string[][] {
  assert.is(code, 0, stderr);
  assert.is(stderr, '');
  const [first = [], ...rows] = stdout.trimEnd().split('\n').map((line) => line.split(/ {3,}/));
  assert.equal(first, headers.split(' '));
  return rows;
}

testNeeding('tun', daemon, 'status shows the node and its parts', async (context) => {
  const status = answerOf(StatusReportSchema, await show(context, 'status -o json'));
  assert.is(status.nodeName, 'edge-1');
  assert.is(status.version, VERSION);
  assert.equal([status.nodes, status.pods, status.endpoints], [3, 2, 2]);
  assert.equal(status.device.addresses, ['10.244.1.0', 'fd00:10:244:1::']);
  assert.is(status.dataPlane.running, true);
  assert.equal(status.sync.problems, []);
  assert.equal(status.policy, { known: true, endpoints: 2, ruleSets: 2 });
  const { code, stdout } = await show(context, 'status');
  assert.is(code, 0);
  assert.match(stdout, /^Node: +Ok +edge-1, culvert [\d.]+, pid \d+, up \d+ s$/m);
  assert.match(stdout, /^Device: +Ok +culvert0, mtu 1430, 10\.244\.1\.0, fd00:10:244:1::$/m);
  assert.match(stdout, /^Underlay: +Ok +eth0, 192\.0\.2\.1, 2001:db8::1, vxlan udp\/8472/m);
  assert.match(stdout, /^Sync: +Ok +revision \d+, 3 nodes, 2 pods here$/m);
  assert.match(stdout, /^Policy: +Ok +known for 2 pods, 2 rule sets$/m);
  assert.match(stdout, /^Engine: +Ok +tier T[0-2], 2 endpoints, /m);
});

testNeeding('tun', daemon, 'peer list shows each tunnel', async (context) => {
  const peers = answerOf(v.array(PeerReportSchema), await show(context, 'peer list -o json'));
  const names = peers.map(({ node, remote }) => `${node} ${remote}`).sort();
  assert.equal(names, ['core-1 192.0.2.3', 'core-1 2001:db8::3', 'edge-2 192.0.2.2',
    'edge-2 2001:db8::2']);
  const headers = 'NODE ENDPOINT ENCAP VNI MAC PODCIDR MTU RX TX';
  const rows = tableOf(await show(context, 'peer list'), headers);
  assert.is(rows.length, 4);
  const row = rows.find(([node, remote]) => node === 'edge-2' && remote?.startsWith('['));
  assert.equal(row?.slice(1, 7), ['[2001:db8::2]:8472', 'vxlan', '1', '02:c0:00:00:02:06',
    'fd00:10:244:2::/64', '1430']);
});

testNeeding('tun', daemon, 'route list and route get show what is in force', async (context) => {
  const routes = answerOf(v.array(RouteReportSchema), await show(context, 'route list -o json'));
  const via = (prefix: string): string | null | undefined =>
    routes.find((route) => route.prefix === prefix)?.via;
  assert.is(via('10.244.2.0/24'), 'edge-2');
  assert.is(via('10.244.1.10/32'), 'demo/web');
  const rows = tableOf(await show(context, 'route list'), 'PREFIX KIND VIA');
  assert.equal(rows, routes.map(({ prefix, kind, via: to }) => [prefix, kind, to ?? '-']));

  const Answer = v.strictObject({ address: v.string(), ...RouteReportSchema.entries });
  const get = async (address: string): Promise<string> => {
    const outcome = await show(context, `route get ${address} -o json`);
    const route = answerOf(Answer, outcome);
    assert.is(route.address, address);
    return `${route.prefix} ${route.kind} ${route.via ?? '-'}`;
  };
  assert.is(await get('10.244.2.9'), '10.244.2.0/24 peer edge-2');
  assert.is(await get('fd00:10:244:1::b'), 'fd00:10:244:1::b/128 endpoint demo/legacy');
  assert.is(await get('10.244.1.99'), '10.244.1.0/24 unreachable -');
  assert.is(await get('198.51.100.9'), '0.0.0.0/0 outside -');
  const table = tableOf(await show(context, 'route get 10.244.1.0'), 'ADDRESS PREFIX KIND VIA');
  assert.equal(table, [['10.244.1.0', '10.244.1.0/32', 'node', '-']]);
});

testNeeding('tun', daemon, 'endpoint list shows attached pods', async (context) => {
  const outcome = await show(context, 'endpoint list -o json');
  const endpoints = answerOf(v.array(EndpointReportSchema), outcome);
  assert.equal(endpoints.map(({ name, kind, state }) => [name, kind, state]),
    [['web', 'tun', 'ready'], ['legacy', 'tap', 'ready']]);
  const headers = 'NAMESPACE NAME DEVICE KIND ADDRESSES STATE RX TX';
  const [, legacy = []] = tableOf(await show(context, 'endpoint list'), headers);
  assert.equal(legacy.slice(0, 2), ['demo', 'legacy']);
  assert.equal(legacy.slice(3, 6), ['tap', '10.244.1.11,fd00:10:244:1::b', 'ready']);
});

if (nobody !== null) {
  testNeeding('tun', daemon, 'another user is told to be root, with 77', async (context) => {
    assertRefused(await show(context, 'status', nobody), 77,
      /^culvert: connect .*control\.sock: EACCES; run as root/);
  });
}

testNeeding('tun', daemon, 'a second daemon is refused', async ({ bed, node }) => {
  const words = ['run', '--node-name', 'edge-1', '--underlay-interface', 'eth0',
    '--runtime-directory', node.runtimeDirectory, '--memory', 'small'];
  const failure = await bed.start(node.node.host, [process.execPath, CLI, ...words], 'ready')
    .then(() => 'none', (error: Error) => error.message);
  assert.match(failure, /: exit 1\nculvert: start daemon: another one holds .*culvert\.lock/);
});

testNeeding('tun', daemon, 'status without its sidecar, then no daemon', async (context) => {
  const { node } = context;
  node.sidecar?.process.stdin?.end();
  await node.waitFor(({ sync }) => !sync.connected);
  const { stdout } = await show(context, 'status');
  assert.match(stdout,
    /^Sync: +Degraded +stale since \S+Z; no sidecar connected; no snapshot yet, 3 nodes, /m);
  assert.match(stdout, /^Engine: +Ok/m);

  node.daemon?.process.stdin?.end();
  await until('the daemon to end', () => node.daemon?.process.exitCode !== null);
  assert.is(node.daemon?.process.exitCode, 0);
  assert.is(node.sidecar?.process.exitCode, 0);
  assert.equal((await node.node.host.links.list()).map(({ name }) => name), ['lo', 'eth0']);
  assert.equal(readdirSync(node.runtimeDirectory), ['culvert.lock']);
  assertRefused(await show(context, 'status'), 69, /no daemon answers/);
});

daemon.run();
