// Modules on a running node, and the same ones offline: each flow has the same verdicts, from the
// same module or policy.
//
//   [ node-1: culvert run, culvert sync ]
//     |             |             |
//   pod-1-10      pod-1-11      pod-1-12
//   some ports of pod-1-10 are open to pod-1-11 alone; pod-1-12 may not speak to port 7009 at all

import { mkdirSync, rmSync, truncateSync, copyFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as v from 'valibot';
import type { Bed } from '../../cli/demo/bed.ts';
import { VerdictReportSchema, type VerdictReport } from '../../engine/model.ts';
import { ModuleReportSchema, type ModuleReport } from '../../engine/model-modules.ts';
import { clusterNode } from '../netns/support/forge-cluster.ts';
import { Place, openBed, type Pod } from '../netns/support/forge-scene.ts';
import { culvert } from '../support/command.ts';
import { needs, testNeeding } from '../support/needs.ts';
import { buildObedientModule } from '../support/obedient-module.ts';

interface Context {
  bed: Bed;
  one: Place;
  server: Pod;
  clients: Pod[];
  /** A folder for modules, and the component in it. */
  folder: string;
  module: string;
}

const test = suite<Context>('cli/module-node');
const PORTS = [7001, 7002, 7003, 7004, 7005, 7006, 7007, 7008, 7009];
const SHORT_MS = 300;
/** The first module may allow, the second may not; what the Admin tier says is asked of neither. */
const GATE = ['7001 deny', '7002 reject', '7003 allow', '7004 deny ingress', '7005 allow egress',
  '7009 allow'].join('\n');
const LATE = '7003 deny\n7005 deny ingress\n7006 allow\n7007 reject egress\n';
/** Soon disabled; what counts then is what counted before. */
const BAD = '7008 trap\n';
const POLICIES = [
  {
    apiVersion: 'networking.k8s.io/v1', kind: 'NetworkPolicy',
    metadata: { name: 'friends', namespace: 'test' },
    spec: {
      podSelector: { matchLabels: { name: 'pod-1-10' } },
      policyTypes: ['Ingress'],
      ingress: [{ from: [{ podSelector: { matchLabels: { name: 'pod-1-11' } } }] }],
    },
  },
  {
    apiVersion: 'policy.networking.k8s.io/v1alpha2', kind: 'ClusterNetworkPolicy',
    metadata: { name: 'guard' },
    spec: {
      tier: 'Admin', priority: 5,
      subject: { pods: { podSelector: { matchLabels: { name: 'pod-1-12' } } } },
      egress: [{
        name: 'no-7009', action: 'Deny', to: [{ pods: { podSelector: {} } }],
        protocols: [{ tcp: { destinationPort: { number: 7009 } } }],
      }],
    },
  },
];

test.before(async (context) => {
  if (!needs.tun) return;
  const bed = await openBed();
  context.bed = bed;
  try {
    const one = await Place.add(bed, 1, [1]);
    one.write([clusterNode(1)], POLICIES);
    await one.culvert.start();
    const folder = join(bed.folder, 'modules');
    mkdirSync(folder);
    Object.assign(context, {
      one, server: await one.addPod(10), clients: [await one.addPod(11), await one.addPod(12)],
      folder, module: await buildObedientModule(join(folder, 'obedient')),
    });
    await context.server.host.agent.ask({ verb: 'serve' });
  } catch (error) {
    await bed.close();
    throw error;
  }
});
test.after(async ({ bed }) => {
  if (needs.tun) await bed.close();
});

/** Runs a verb that must succeed. Returns what it printed. */
async function ask({ one }: Context, words: string[]): Promise<string> {
  const directory = ['--runtime-directory', one.culvert.runtimeDirectory];
  const { code, stdout, stderr } = await culvert([...words, ...directory]);
  assert.equal([code, stderr], [0, '']);
  return stdout;
}

async function modulesOf(context: Context): Promise<ModuleReport[]> {
  const text = await ask(context, ['module', 'list', '-o', 'json']);
  return v.parse(v.array(ModuleReportSchema), JSON.parse(text));
}

/** Writes a configuration. Returns its path. */
function configFile({ folder }: Context, name: string, text: string): string {
  const file = join(folder, `${name}.txt`);
  writeFileSync(file, text);
  return file;
}

/** `VERDICT EGRESS INGRESS WHO` of each flow, by its name. */
type Verdicts = Map<string, string>;

/** Has clients open connections to all ports, and reads what the node has judged. */
async function onNode(context: Context): Promise<Verdicts> {
  const { clients, server } = context;
  const targets = server.addresses.flatMap((address) => PORTS.map((port) => ({ address, port })));
  await Promise.all(clients.flatMap(({ host }) => targets.map((target) =>
    host.agent.ask({ verb: 'who', ...target, timeoutMs: SHORT_MS }))));
  const verdicts = new Map<string, { egress?: VerdictReport; ingress?: VerdictReport }>();
  const text = await ask(context, ['observe', '-o', 'json', '--last', '1000']);
  for (const line of text.split('\n').filter(Boolean)) {
    const report = v.parse(VerdictReportSchema, JSON.parse(line));
    const { source, destination, destinationPort, direction } = report;
    if (!PORTS.includes(destinationPort)) continue;
    const name = `${source} ${destination} ${destinationPort}`;
    verdicts.set(name, { ...verdicts.get(name), [direction]: report });
  }
  return new Map([...verdicts].map(([name, { egress, ingress }]) =>
    [name, lineOf(egress, ingress)]));
}

function linesOf(verdicts: Verdicts): string[] {
  return [...verdicts].map(([flow, line]) => `${flow}: ${line}`).sort();
}

/** As `policy test` puts the verdicts of two ends together. */
function lineOf(egress?: VerdictReport, ingress?: VerdictReport): string {
  const who = (report?: VerdictReport): string | null =>
    (report?.module ? `module ${report.module}` : report?.policy ?? null);
  const word = (report?: VerdictReport): string => (report?.allowed ? 'allow' : 'deny');
  const isEgress = !egress?.allowed || (ingress?.allowed && who(ingress) === null);
  const verdict = egress?.allowed && ingress?.allowed ? 'allow' : 'deny';
  return `${verdict} ${word(egress)} ${word(ingress)} ${who(isEgress ? egress : ingress)}`;
}

/** The same flows through `policy test`. */
async function offline(context: Context, modules: string[]): Promise<Verdicts> {
  const { clients, server, one, folder } = context;
  const flows = clients.flatMap((client) => server.addresses.flatMap((address, family) =>
    PORTS.map((port) => {
      const source = client.addresses[family] ?? '';
      return {
        id: `${source} ${address} ${port}`, src: { ip: source }, dst: { ip: address },
        protocol: 'TCP', port,
      };
    })));
  const file = join(folder, 'flows.json');
  writeFileSync(file, JSON.stringify({ flows }));
  const { code, stdout, stderr } = await culvert(['policy', 'test', '--objects', one.source,
    '--flows', file, '-o', 'json', ...modules.flatMap((word) => ['--module', word])]);
  assert.is(code, 0, stderr);
  const { results } = JSON.parse(stdout) as { results: Record<string, string | null>[] };
  return new Map(results.map(({ id, verdict, egress, ingress, policy }) =>
    [id ?? '', `${verdict} ${egress} ${ingress} ${policy}`]));
}

testNeeding('tun', test, 'offline and on a node a module says the same', async (context) => {
  const { module } = context;
  const [gate, late, bad] = [
    configFile(context, 'gate', GATE), configFile(context, 'late', LATE),
    configFile(context, 'bad', BAD),
  ];
  await ask(context, ['module', 'add', module, '--name', 'gate', '--config', gate, '--may-allow']);
  await ask(context, ['module', 'add', module, '--name', 'late', '--config', late]);
  await ask(context, ['module', 'add', module, '--name', 'bad', '--order', '1', '--config', bad,
    '--failure', 'pass']);
  const seen = await onNode(context);
  const expected = await offline(context, [
    `${module},name=late,order=2,config=${late}`,
    `${module},name=bad,order=1,config=${bad},failure=pass`,
    `${module},name=gate,order=0,config=${gate},may-allow`,
  ]);
  assert.equal(linesOf(seen), linesOf(expected));
  const words = new Set([...seen.values()]);
  for (const line of [
    'deny deny deny module gate', 'deny allow deny module gate', 'allow allow allow module gate',
    'deny allow deny module late', 'deny allow deny NetworkPolicy test/friends',
    'allow allow allow NetworkPolicy test/friends', 'deny deny allow ClusterNetworkPolicy guard',
  ]) {
    assert.ok(words.has(line), `${line} in\n${[...words].join('\n')}`);
  }
});

testNeeding('tun', test, 'list says what they did, and remove takes them', async (context) => {
  const [first, second, third] = await modulesOf(context);
  assert.equal([first?.name, second?.name, third?.name], ['gate', 'bad', 'late']);
  assert.equal([first?.version, first?.path, first?.state], ['1.2.3', 'direct', 'enabled']);
  assert.ok((first?.evaluations.deny ?? 0) > 0);
  assert.ok((second?.faults.trap ?? 0) > 0);
  assert.equal([second?.state, second?.failure], ['disabled', 'pass']);
  const table = await ask(context, ['module', 'list']);
  assert.match(table, /^NAME +VERSION +SHA256 +PATH +ORDER +EVALS +FAULTS +MEMORY +STATE\n/);
  assert.match(table, /^gate +1\.2\.3 +[0-9a-f]{12} +direct +0 /m);
  assert.match(table, /^bad .* disabled \(.+\)$/m);
  assert.match(await ask(context, ['status']), /^Module: +Degraded +bad, disabled: /m);
  for (const name of ['gate', 'bad', 'late']) {
    assert.match(await ask(context, ['module', 'remove', name]), new RegExp(`^${name} `, 'm'));
  }
  assert.equal(await modulesOf(context), []);
});

testNeeding('tun', test, 'a module that rejects tells the client', async (context) => {
  const { module, clients: [friend], server } = context;
  const [address = ''] = server.addresses;
  const config = configFile(context, 'reject', '8080 reject\n');
  const call = async (): Promise<{ ok: boolean; detail: string; elapsedMs: number }> =>
    friend === undefined ? { ok: false, detail: '', elapsedMs: 0 }
      : friend.host.agent.ask({ verb: 'tcp', address, timeoutMs: 20 * SHORT_MS });
  assert.is((await call()).ok, true);
  await ask(context, ['module', 'add', module, '--config', config]);
  const { ok, detail } = await call();
  assert.is(ok, false);
  assert.match(detail, /ECONNREFUSED/);
  const words = ['observe', '--verdict', 'denied', '--last', '1'];
  const [line = ''] = (await ask(context, [...words, '--module', 'obedient'])).split('\n');
  assert.is(await ask(context, [...words, '--module', 'nobody']), '');
  assert.match(line, / module obedient (EGRESS|INGRESS) DENIED \(TCP Flags: SYN\)$/);
  await ask(context, ['module', 'remove', 'obedient']);
  assert.is((await call()).ok, true);
});

testNeeding('tun', test, 'what a daemon refuses leaves things as they are', async (context) => {
  const { one, folder, module } = context;
  const config = configFile(context, 'ok', '7001 deny\n');
  await ask(context, ['module', 'add', module, '--config', config]);
  const before = await modulesOf(context);
  const cut = join(folder, 'cut.wasm');
  copyFileSync(module, cut);
  truncateSync(cut, 3000);
  const wrong = configFile(context, 'wrong', 'nonsense\n');
  for (const [words, expected] of [
    [['add', cut], /^culvert: module add .*cut\.wasm: /],
    [['add', module, '--config', wrong], /^culvert: module add .*not PORT WORD: nonsense/],
    [['add', join(folder, 'gone.wasm')], /^culvert: module add: .*gone\.wasm: ENOENT/],
    [['add', module, '--name', 'Bad Name'], /Bad Name|name/],
    [['remove', 'nobody'], /^culvert: module remove nobody: .*nobody/],
  ] as [words: string[], expected: RegExp][]) {
    const { code, stdout, stderr } = await culvert(
      ['module', ...words, '--runtime-directory', one.culvert.runtimeDirectory]);
    assert.equal([code, stdout], [1, ''], words.join(' '));
    assert.match(stderr, expected);
  }
  const after = await modulesOf(context);
  assert.equal(after.map(({ name, sha256, state }) => [name, sha256, state]),
    before.map(({ name, sha256, state }) => [name, sha256, state]));
  rmSync(cut);
});

test.run();
