// `culvert module new`, `build` and `verify`, and modules in `policy test` and `policy explain`, as
// a user types them; no daemon.
//
//   node n1: shop/web 10.0.1.2   shop/db 10.0.1.3     node n2: ops/probe 10.0.2.2
//   shop/db lets in shop/web alone; nobody reaches 203.0.113.0/24 by UDP 53 (Admin tier)

import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync }
  from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { culvert, type Outcome } from '../support/command.ts';
import { buildExample } from '../support/examples.ts';
import { makeGuest } from '../support/guest.ts';
import { buildObedientModule } from '../support/obedient-module.ts';

const folder = mkdtempSync(join(tmpdir(), `culvert-module-${process.pid}-`));
const objects = join(folder, 'cluster.yaml');
const flowsFile = join(folder, 'flows.json');
let module = '';

const OBJECTS = `
{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: shop, labels: {app: web}},
  spec: {nodeName: n1}, status: {phase: Running, podIP: 10.0.1.2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: db, namespace: shop, labels: {app: db}},
  spec: {nodeName: n1}, status: {phase: Running, podIP: 10.0.1.3}}
---
{apiVersion: v1, kind: Pod, metadata: {name: probe, namespace: ops},
  spec: {nodeName: n2}, status: {phase: Running, podIP: 10.0.2.2}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
  spec: {podSelector: {matchLabels: {app: db}},
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]}}
---
{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy,
  metadata: {name: guard}, spec: {tier: Admin, priority: 5, subject: {namespaces: {}},
  egress: [{name: no-dns, action: Deny, to: [{networks: [203.0.113.0/24]}],
  protocols: [{udp: {destinationPort: {number: 53}}}]},
  {name: web, action: Accept, to: [{networks: [198.51.100.0/24]}],
  protocols: [{tcp: {destinationPort: {number: 443}}}]}]}}
`;

test.before(async () => {
  writeFileSync(objects, OBJECTS);
  module = await buildObedientModule(join(folder, 'obedient'));
});
test.after(() => rmSync(folder, { recursive: true, force: true }));

/** Writes a configuration and returns the word for `--module`. */
function moduleWord(name: string, config: string, more = ''): string {
  const file = join(folder, `${name}.txt`);
  writeFileSync(file, config);
  return `${module},name=${name},config=${file}${more}`;
}

/** Flows `FROM TO PORT` through `policy test`; gives `VERDICT EGRESS INGRESS POLICY` of each. */
async function verdictsOf(modules: string[], flows: string[]): Promise<string[]> {
  writeFileSync(flowsFile, JSON.stringify({
    flows: flows.map((text, at) => {
      const [src = '', dst = '', port = ''] = text.split(' ');
      const [number, protocol = 'TCP'] = port.split('/');
      const end = (name: string): object => (name.includes('/') ? { pod: name } : { ip: name });
      return { id: `${at}`, src: end(src), dst: end(dst), protocol, port: Number(number) };
    }),
  }));
  const { code, stdout, stderr } = await culvert(['policy', 'test', '--objects', objects,
    '--flows', flowsFile, '-o', 'json', ...modules.flatMap((word) => ['--module', word])]);
  assert.is(code, 0, stderr);
  const { results } = JSON.parse(stdout) as { results: Record<string, string | null>[] };
  return results.map(({ verdict, egress, ingress, policy }) =>
    `${verdict} ${egress} ${ingress} ${policy}`);
}

async function explain(modules: string[], from: string, to: string, port: string)
  : Promise<Outcome> {
  return culvert(['policy', 'explain', '--objects', objects, '--from', from, '--to', to,
    '--port', port, ...modules.flatMap((word) => ['--module', word])]);
}

test('new makes a folder that builds, and verify says what came of it', async () => {
  const place = join(folder, 'my-policy');
  assert.is((await culvert(['module', 'new', place])).code, 0);
  const again = await culvert(['module', 'new', place]);
  assert.is(again.code, 1);
  assert.match(again.stderr, /^culvert: module new .*my-policy: .*not empty/);
  const file = join(folder, 'my-policy.wasm');
  const built = await culvert(['module', 'build', place, '-o', file]);
  assert.is(built.code, 0, built.stderr);
  assert.match(built.stdout, /^FILE +SHA256\n.*my-policy\.wasm +[0-9a-f]{64}\n$/);
  assert.match(built.stderr, /^culvert: building /);
  const verified = await culvert(['module', 'verify', file]);
  assert.is(verified.code, 0, verified.stderr);
  assert.match(verified.stdout, /^Name: +my-policy$/m);
  assert.match(verified.stdout, /^Path: +direct/m);
  const json = await culvert(['module', 'verify', file, '-o', 'json']);
  const { ok, name, world, path, sha256, bytes } = JSON.parse(json.stdout) as
    Record<string, unknown>;
  assert.equal([ok, name, world, path], [true, 'my-policy', 'culvert:policy/policy-module',
    'direct']);
  assert.is(bytes, readFileSync(file).length);
  assert.ok(built.stdout.includes(String(sha256)));
});

test('new copies other languages and examples', async () => {
  for (const [place, words, source] of [
    ['in-c', ['--language', 'c'], 'module.c'],
    ['in-rust', ['--language', 'rust'], 'module.rs'],
    ['hosts', ['--from', 'sni-allow'], 'tls.ts'],
  ] as [place: string, words: string[], source: string][]) {
    const { code, stderr } = await culvert(['module', 'new', join(folder, place), ...words]);
    assert.is(code, 0, stderr);
    assert.ok(existsSync(join(folder, place, source)));
  }
  const { code, stderr } = await culvert(['module', 'new', join(folder, 'x'), '--from', 'nothing']);
  assert.is(code, 1);
  assert.match(stderr, /^culvert: module new .*There is no template nothing; there are: /);
});

test('sources that do not compile are an error with what the compiler says', async () => {
  const place = join(folder, 'broken');
  await culvert(['module', 'new', place]);
  writeFileSync(join(place, 'index.ts'), "import { Flow, Verdict } from 'culvert/module';\n"
    + 'export function evaluate(flow: Flow): Verdict { return nothing; }\n');
  const { code, stderr, stdout } = await culvert(['module', 'build', place]);
  assert.equal([code, stdout], [1, '']);
  assert.match(stderr, /Cannot find name 'nothing'/);
});

test('verify refuses what a daemon would refuse, and says why', async () => {
  const cut = join(folder, 'cut.wasm');
  writeFileSync(cut, readFileSync(module));
  truncateSync(cut, 1000);
  const text = join(folder, 'text.wasm');
  writeFileSync(text, 'no module at all');
  for (const file of [cut, text]) {
    const { code, stdout, stderr } = await culvert(['module', 'verify', file, '-o', 'json']);
    assert.is(code, 1);
    const { ok, kind, reason } = JSON.parse(stdout) as Record<string, unknown>;
    assert.equal([ok, kind], [false, 'not-a-component'], String(reason));
    assert.ok(stderr.startsWith(`culvert: module verify: ${file}: `), stderr);
  }
  const gone = await culvert(['module', 'verify', join(folder, 'gone.wasm')]);
  assert.is(gone.code, 1);
  assert.match(gone.stderr, /^culvert: module verify: .*gone\.wasm: ENOENT/);
  const large = join(folder, 'large.wasm');
  writeFileSync(large, '');
  truncateSync(large, 40 * 1024 * 1024);
  const refused = await culvert(['module', 'verify', large]);
  assert.is(refused.code, 1);
  assert.match(refused.stderr, /large\.wasm: it has 40\.0 MiB, the limit is 32\.0 MiB/);
  const grant = await culvert(['module', 'verify', module, '--allow', 'everything']);
  assert.is(grant.code, 2);
  assert.match(grant.stderr, /--allow everything: not one of clock, /);
});

test('a module has its say behind the Admin tier and before NetworkPolicy', async () => {
  const config = '80 deny\n81 reject\n82 allow\n53 allow\n443 deny\n84 deny ingress\n';
  const flows = [
    'shop/web shop/db 79', 'shop/web shop/db 80', 'shop/web shop/db 81', 'ops/probe shop/db 82',
    'shop/web 203.0.113.9 53/UDP', 'shop/web 198.51.100.9 443', 'shop/web ops/probe 84',
    'shop/web shop/db 82',
  ];
  assert.equal(await verdictsOf([moduleWord('gate', config)], flows), [
    'allow allow allow NetworkPolicy shop/db',
    'deny deny deny module gate',
    'deny deny deny module gate',
    'deny allow deny NetworkPolicy shop/db',
    'deny deny allow ClusterNetworkPolicy guard',
    'allow allow allow ClusterNetworkPolicy guard',
    'deny allow deny module gate',
    'allow allow allow NetworkPolicy shop/db',
  ]);
  assert.equal(await verdictsOf([moduleWord('gate', config, ',may-allow')], flows.slice(3, 4)),
    ['allow allow allow module gate']);
});

test('modules are asked in their order', async () => {
  const deny = moduleWord('one', '80 deny\n81 allow\n', ',may-allow');
  const allow = moduleWord('two', '80 allow\n81 deny\n', ',may-allow');
  const flows = ['shop/web ops/probe 80', 'shop/web ops/probe 81'];
  assert.equal(await verdictsOf([deny, allow], flows),
    ['deny deny deny module one', 'allow allow allow module one']);
  assert.equal(await verdictsOf([deny, `${allow},order=0`], flows),
    ['allow allow allow module two', 'deny deny deny module two']);
});

test('a fault has the failure verdict, and is told', async () => {
  const config = '80 trap\n81 recurse\n82 nonsense\n83 deny\n';
  const flows = [80, 81, 82, 83, 84].map((port) => `shop/web shop/db ${port}`);
  const denied = 'deny deny deny module bad';
  const passed = 'allow allow allow NetworkPolicy shop/db';
  assert.equal(await verdictsOf([moduleWord('bad', config)], flows),
    [denied, denied, denied, denied, passed]);
  assert.equal(await verdictsOf([moduleWord('bad', config, ',failure=pass')], flows),
    [passed, passed, passed, denied, passed]);
  const { code, stdout } = await explain([moduleWord('bad', config)], 'shop/web', 'shop/db', '80');
  assert.is(code, 0);
  assert.match(stdout, /^egress: +deny +module bad denies it$/m);
  assert.match(stdout, /^module: +bad +.*fails \(trap: .*\), so that its failure verdict counts$/m);
});

test('a module that asks for payload passes, and explain says so', async () => {
  const file = join(folder, 'payload.wasm');
  writeFileSync(file, await makeGuest({
    name: 'curious', world: 'payload-module', evaluate: '(i32.const 4)', inspect: '(i32.const 2)',
  }));
  const words = ['policy', 'explain', '--objects', objects, '--from', 'shop/web', '--to', 'shop/db',
    '--port', '80'];
  const { stdout } = await culvert([...words, '--module', file]);
  assert.match(stdout, /^allow: /);
  assert.match(stdout, /^module: +curious +more: passes for now, and is judged by its payload /m);
  const json = await culvert([...words, '--module', file, '--module',
    moduleWord('strict', '80 deny egress\n'), '-o', 'json']);
  const { egress, ingress, policy, modules } = JSON.parse(json.stdout) as Record<string, object>;
  assert.equal([egress, policy], [
    {
      verdict: 'deny', policy: null, rule: null, reason: 'module strict denies it',
      module: 'strict',
    }, 'module strict',
  ]);
  assert.is((ingress as { policy: string }).policy, 'NetworkPolicy shop/db');
  assert.equal(modules, [
    { name: 'curious', version: '1.0.0', answers: { more: 2 }, faults: 0, fault: null },
    { name: 'strict', version: '1.2.3', answers: { pass: 1, deny: 1 }, faults: 0, fault: null },
  ]);
});

test('all flows come at one moment, in their order', async () => {
  const file = join(folder, 'rate-gate.wasm');
  writeFileSync(file, await buildExample('rate-gate'));
  const config = join(folder, 'rate.txt');
  writeFileSync(config, 'rate 1\nburst 3\nper address\nat ingress\n');
  const flows = [79, 80, 81, 82, 83].map((port) => `shop/web shop/db ${port}`);
  const passed = 'allow allow allow NetworkPolicy shop/db';
  assert.equal(await verdictsOf([`${file},config=${config},allow=clock`], flows), [
    passed, passed, passed, 'deny allow deny module rate-gate', 'deny allow deny module rate-gate',
  ]);
});

test('a module that does not come back ends the command, with its name', async () => {
  for (const [config, expected] of [
    ['80 loop\n', /^culvert: module endless does not come back from a packet\n$/],
    ['80 spin\n', /^culvert: module endless does not come back from its configuration\n$/],
  ] as const) {
    const word = moduleWord('endless', config);
    const { code, stdout, stderr } = await explain([word], 'shop/web', 'shop/db', '80');
    assert.equal([code, stdout], [1, '']);
    assert.match(stderr, expected);
  }
});

test('what --module cannot take is refused', async () => {
  const refused = moduleWord('refused', 'nonsense\n');
  for (const [words, expected] of [
    [[`${module},colour=blue`], /--module .*: "colour=blue" is no option of a module/],
    [[`${module},order=16`], /--order 16: not a number from 0 to 15/],
    [[`${module},memory=lots`], /--memory lots: not bytes/],
    [[`${module},per-packet`], /,per-packet: it is not stateful, so it is asked once/],
    [[module, module], /another module is called obedient; give it a name/],
    [[join(folder, 'gone.wasm')], /--module: .*gone\.wasm: ENOENT/],
    [[objects], /--module .*cluster\.yaml: /],
    [[refused], /--module refused: .*not PORT WORD: nonsense/],
  ] as [words: string[], expected: RegExp][]) {
    const { code, stdout, stderr } = await explain(words, 'shop/web', 'shop/db', '80');
    assert.equal([code, stdout], [2, '']);
    assert.match(stderr, expected);
  }
});

test.run();
