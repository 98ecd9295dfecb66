// From sources to a component: the template as a user begins with it, what is wrong with sources
// and module.json, and the smallest module.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { buildModule, newModule, templates } from '../../modules/build.ts';
import { inspectComponent, instantiateModule, ModuleError,
  type ModuleInstance } from '../../modules/runtime.ts';
import { configured, exampleImage } from '../support/examples.ts';

const CAP = 16 * 1024 * 1024;

function evaluate(module: ModuleInstance, dstPort: number, protocol = 6): number {
  return module.evaluate(0, 1, protocol, 2, 40000, dstPort, 7, 9, 1, 0, 0, 0, 2, 0, 0, 0);
}

async function inFolder(act: (folder: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-build-'));
  try {
    await act(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

async function refuse(act: () => unknown, message: RegExp): Promise<void> {
  try {
    await act();
  } catch (error) {
    assert.instance(error, ModuleError, String(error));
    assert.is((error as ModuleError).kind, 'build');
    assert.match((error as ModuleError).message, message);
    return;
  }
  assert.unreachable(String(message));
}

test('a new folder becomes a module that judges, with its own name', () => inFolder(async (top) => {
  const folder = join(top, 'My-Ports');
  newModule(folder);
  const built = await buildModule(folder);
  assert.is(built.path, join(folder, 'my-ports.wasm'));
  assert.ok(readFileSync(built.path).equals(built.bytes));
  const image = await inspectComponent(built.bytes, { allow: [], memoryCapBytes: CAP });
  assert.equal([image.name, image.version, image.sha256, image.path],
    ['my-ports', '0.1.0', built.sha256, 'direct']);
  const lines: string[] = [];
  const module = instantiateModule(image, { log: (level, text) => lines.push(`${level} ${text}`) });
  module.configure(new TextEncoder().encode('23\n# a comment\n 8080 # another\n'));
  assert.equal(lines, ['info 2 ports are denied']);
  assert.equal([23, 8080, 80].map((port) => evaluate(module, port)), [2, 2, 0]);
  assert.is(evaluate(module, 23, 17), 0, 'UDP');
  assert.throws(() => module.configure(new TextEncoder().encode('80\nhttp\n')),
    /"http" is not a port/);
}));

test('a folder with something in it, and an unknown template, are refused', () =>
  inFolder(async (folder) => {
    writeFileSync(join(folder, 'notes.txt'), '');
    await refuse(() => newModule(folder), /is not empty/);
    await refuse(() => newModule(join(folder, 'new'), 'nothing'),
      /no template nothing; there are: /);
    assert.ok(['template', 'sni-allow', 'rate-gate', 'prefix-block', 'smallest-c']
      .every((name) => templates().includes(name)));
  }));

test('the smallest module judges', async () => {
  const module = configured(await exampleImage('smallest-as'), '');
  assert.equal([evaluate(module, 23), evaluate(module, 24), evaluate(module, 23, 17)], [2, 0, 0]);
});

test('pods with their labels reach a module, and its memory does not grow with each time', () =>
  inFolder(async (folder) => {
    writeFileSync(join(folder, 'module.json'),
      '{"name":"labels","version":"1.2.3","language":"assemblyscript","stateful":true}');
    writeFileSync(join(folder, 'index.ts'), `
      import { Endpoint, Flow, Verdict } from 'culvert/module';
      const quarantined = new Set<u32>();
      export function endpoints(pods: Endpoint[]): void {
        quarantined.clear();
        for (let at = 0; at < pods.length; at += 1) {
          const labels = pods[at].labels;
          if (labels.has('quarantine') && labels.get('quarantine') == 'yés') {
            quarantined.add(pods[at].id);
          }
        }
      }
      export function evaluate(flow: Flow): Verdict {
        return quarantined.has(flow.srcIdentity) ? Verdict.Reject : Verdict.Pass;
      }`);
    const { bytes } = await buildModule(folder);
    const image = await inspectComponent(bytes, { allow: [], memoryCapBytes: CAP });
    assert.is(image.stateful, true);
    const module = configured(image, 'ignored');
    const pods = Array.from({ length: 250 }, (_, id) => ({
      id, namespace: 'shop', pod: `web-${id}`,
      labels: [{ key: 'app', value: 'web' }, { key: 'quarantine', value: id === 7 ? 'yés' : '' }],
    }));
    for (let round = 0; round < 50; round += 1) module.endpoints(pods);
    const size = module.memoryBytes();
    for (let round = 0; round < 200; round += 1) module.endpoints(pods);
    assert.is(module.memoryBytes(), size);
    assert.is(evaluate(module, 80), 3);
    module.endpoints([]);
    assert.is(evaluate(module, 80), 0);
  }));

test('each word of a flow reaches evaluate, and inspect', () => inFolder(async (folder) => {
  const fields = ['family', 'direction', 'protocol', 'tcp', 'srcPort', 'dstPort', 'srcIdentity',
    'dstIdentity', 'src0', 'src1', 'src2', 'src3', 'dst0', 'dst1', 'dst2', 'dst3'];
  writeFileSync(join(folder, 'module.json'), '{"name":"words","version":"1.0.0",'
    + '"language":"assemblyscript","world":"payload-module"}');
  writeFileSync(join(folder, 'index.ts'), `
    import { Flow, Level, Verdict, log } from 'culvert/module';
    function tell(flow: Flow): void {
      log(Level.Info, ${fields.map((name) => `flow.${name}.toString()`).join(" + ' ' + ")});
    }
    export function evaluate(flow: Flow): Verdict { tell(flow); return Verdict.More; }
    export function inspect(flow: Flow, offset: u32, payload: Uint8Array): Verdict {
      tell(flow);
      return Verdict.Pass;
    }`);
  const { bytes } = await buildModule(folder);
  const image = await inspectComponent(bytes, { allow: [], memoryCapBytes: CAP });
  const lines: string[] = [];
  const module = instantiateModule(image, { log: (_, text) => lines.push(text) });
  const words = [1, 1, 132, 0xff, 0xfffe, 0xfffd,
    ...Array.from({ length: 10 }, (_, at) => 0xfffffff0 + at)];
  assert.is(module.evaluate(...words.map((word) => word | 0)), 4);
  assert.is(module.inspect(words, 0, new Uint8Array(1)), 0);
  assert.equal(lines, [words.join(' '), words.join(' ')]);
}));

test('what a module in AssemblyScript aborts with is in the log', () => inFolder(async (folder) => {
  writeFileSync(join(folder, 'module.json'),
    '{"name":"faulty","version":"1.0.0","language":"assemblyscript"}');
  writeFileSync(join(folder, 'index.ts'), `
    import { Flow, Verdict } from 'culvert/module';
    const list: i32[] = [1, 2, 3];
    export function evaluate(flow: Flow): Verdict { return list[flow.dstPort]; }`);
  const { bytes } = await buildModule(folder);
  const image = await inspectComponent(bytes, { allow: [], memoryCapBytes: CAP });
  const lines: string[] = [];
  const module = instantiateModule(image, { log: (level, text) => lines.push(`${level} ${text}`) });
  assert.is(evaluate(module, 1), 2);
  assert.throws(() => evaluate(module, 80), /unreachable/);
  assert.match(lines[0] ?? '', /^error .*: Index out of range$/);
}));

test('sources that do not compile are told with the place', () => inFolder(async (folder) => {
  const manifest = { name: 'broken', version: '1.0.0', language: 'assemblyscript' };
  const write = (change: object): void =>
    writeFileSync(join(folder, 'module.json'), JSON.stringify({ ...manifest, ...change }));
  await refuse(() => buildModule(folder), /cannot be built: ENOENT/);
  writeFileSync(join(folder, 'module.json'), '{');
  await refuse(() => buildModule(folder), /JSON/);
  write({ name: 'Broken' });
  await refuse(() => buildModule(folder), /module\.json: name: /);
  write({ language: 'cobol' });
  await refuse(() => buildModule(folder), /module\.json: language: /);
  write({ permissions: 'all' });
  await refuse(() => buildModule(folder), /module\.json: permissions: there is no such field/);
  write({});
  await refuse(() => buildModule(folder), /user\/index/);
  mkdirSync(join(folder, 'lib'));
  writeFileSync(join(folder, 'lib', 'rule.ts'), 'export function rule(): i32 { return nothing; }');
  writeFileSync(join(folder, 'index.ts'), `
    import { Flow, Verdict } from 'culvert/module';
    import { rule } from './lib/rule';
    export function evaluate(flow: Flow): Verdict { return rule(); }`);
  await refuse(() => buildModule(folder), /nothing[^]*lib\/rule\.ts\(1,/);
  write({ language: 'c' });
  await refuse(() => buildModule(folder, { compilers: { clang: '/nowhere/clang' } }),
    /\/nowhere\/clang is needed/);
}));

test.run();
