// A component from its bytes to verdicts: what it says of itself, its configuration, both ways to
// `evaluate`, payload, the log, the clock, and the image on disk.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { imagePath } from '../../modules/image.ts';
import { inspectComponent, instantiateModule, loadImage, ModuleError, saveImage, type CompileCost,
  type ModuleImage } from '../../modules/runtime.ts';
import { denyPort, makeGuest } from '../support/guest.ts';

const OPTIONS = { allow: [], memoryCapBytes: 1024 * 1024 } as const;
const QUIET = { log: () => {} };
const LOG = '(import "culvert:policy/host@0.1.0" "log" (func $log (param i32 i32 i32)))';

function flow(dstPort: number): number[] {
  return [0, 1, 6, 2, 40000, dstPort, 7, 9, 0x0a000001, 0, 0, 0, 0x0a000002, 0, 0, 0];
}

function kindOf(act: () => unknown): string {
  try {
    act();
    return 'nothing';
  } catch (error) {
    return error instanceof ModuleError ? error.kind : String(error);
  }
}

test('a module is compiled, described and judges by its raw function', async () => {
  const bytes = await makeGuest({ name: 'no-telnet', stateful: true, evaluate: denyPort(23) });
  const image = await inspectComponent(bytes, OPTIONS);
  assert.equal([image.name, image.version, image.stateful, image.path, image.hasPayload],
    ['no-telnet', '1.0.0', true, 'direct', false]);
  const module = instantiateModule(image, QUIET);
  module.configure(new Uint8Array());
  module.endpoints([{
    id: 7, namespace: 'shop', pod: 'web-0', labels: [{ key: 'app', value: 'web' }],
  }]);
  assert.equal([23, 80].map((port) => module.evaluate(...flow(port))), [2, 0]);
  assert.is(module.memoryBytes(), 65536);
});

test('compiling a component takes no more memory than a small board has', async () => {
  const costs: CompileCost[] = [];
  const bytes = await makeGuest({ evaluate: denyPort(23) });
  await inspectComponent(bytes, OPTIONS, (cost) => { costs.push(cost); });
  const [{ peakBytes, milliseconds } = { peakBytes: 0, milliseconds: 0 }] = costs;
  const mebibytes = Math.round(peakBytes / (1024 * 1024));
  console.log(`compiling a component: ${mebibytes} MiB, ${Math.round(milliseconds)} ms`);
  assert.ok(mebibytes > 20 && mebibytes < 160, `${mebibytes} MiB`);
});

test('no code that was made of a component runs where its core module is enough', async () => {
  const script = 'throw new Error("the bindings run")';
  const image = { ...await inspectComponent(await makeGuest(), OPTIONS), script };
  assert.is(image.plain, 'module.core.wasm');
  const module = instantiateModule(image, QUIET);
  assert.equal(module.describe(), { name: 'guest', version: '1.0.0', stateful: false });
  module.configure(new Uint8Array(70_000));
  module.endpoints([{ id: 1, namespace: 'a', pod: 'b', labels: [] }]);
  assert.throws(() => instantiateModule({ ...image, path: 'component' }, QUIET), /bindings run/);
});

test('control calls say the same with bindings and without', async () => {
  // The problem is all that was passed: the configuration, or a list of pods as it lies in memory.
  const configure = `(i32.store8 (i32.const 600) (i32.const 1))
    (i32.store (i32.const 604) (local.get $config)) (i32.store (i32.const 608) (local.get $length))
    (i32.const 600)`;
  const imports = LOG;
  const pod = '(i32.add (local.get $list) (i32.const 28))';
  const label = `(i32.load offset=20 ${pod})`;
  const part = (at: string, offset: number): string => `(call $log (i32.const 1)
    (i32.load offset=${offset} ${at}) (i32.load offset=${offset + 4} ${at}))`;
  const endpoints = [
    part(pod, 4), part(pod, 12), part(label, 0), part(label, 8), part(label, 16), part(label, 24),
    `(i32.store8 (i32.const 700) (i32.add (i32.const 48) (i32.load ${pod})))`,
    '(call $log (local.get $count) (i32.const 700) (i32.const 1))',
  ].join('\n');
  const image = await inspectComponent(
    await makeGuest({ imports, configure, endpoints }), OPTIONS);
  const said = [image.plain, null].map((plain) => {
    const lines: string[] = [];
    const module = instantiateModule({ ...image, plain },
      { log: (level, text) => lines.push(`${level} ${text}`) });
    module.endpoints([
      { id: 5, namespace: 'first', pod: 'p', labels: [] },
      { id: 7, namespace: 'shöp', pod: 'wéb-0', labels: [
        { key: 'app', value: '' }, { key: 'tier', value: 'x'.repeat(300) }] },
    ]);
    const again = instantiateModule({ ...image, plain }, QUIET);
    try {
      again.configure(new TextEncoder().encode('größe: 3'));
    } catch (error) {
      lines.push((error as Error).message);
    }
    return lines;
  });
  assert.equal(said[0], ['info shöp', 'info wéb-0', 'info app', 'info', 'info tier',
    `info ${'x'.repeat(300)}`, 'warn 7', 'The module refuses its configuration: größe: 3.']
    .map((line) => (line === 'info' ? 'info ' : line)));
  assert.equal(said[1], said[0]);
});

test('the bindings say the same as the raw function, word for word', async () => {
  const flows = Array.from({ length: 16 }, (_, word) =>
    Array.from({ length: 16 }, (_, at) => (at === word ? 1 : 0)));
  // The verdict is which half of the words is set: each word alone tells that it has its place.
  const halves = ['family', 'protocol', 'srcPort', 'srcIdentity', 'src0', 'src2', 'dst0', 'dst2'];
  const sum = halves.reduce((text, name) => `(i32.or ${text} (local.get $${name}))`,
    '(i32.const 0)');
  const image = await inspectComponent(await makeGuest({ evaluate: sum }), OPTIONS);
  const raw = instantiateModule(image, QUIET);
  const bound = instantiateModule({ ...image, path: 'component' }, QUIET);
  const verdicts = flows.map((words) => raw.evaluate(...words));
  assert.equal(verdicts, flows.map((_, word) => 1 - (word % 2)));
  assert.equal(flows.map((words) => bound.evaluate(...words)), verdicts);
});

test('a module that wants to be told when a call has ended is called by the bindings', async () => {
  const more = `(global $open (mut i32) (i32.const 0))
    (func (export "cabi_post_culvert:policy/policy@0.1.0#evaluate") (param i32)
      (global.set $open (i32.const 0)))`;
  const evaluate = `(if (global.get $open) (then unreachable)) (global.set $open (i32.const 1))
    ${denyPort(23)}`;
  const image = await inspectComponent(await makeGuest({ more, evaluate }), OPTIONS);
  assert.is(image.path, 'component');
  const module = instantiateModule(image, QUIET);
  assert.equal([23, 80, 23].map((port) => module.evaluate(...flow(port))), [2, 0, 2]);
});

test('both ways to evaluate fit a function table', async () => {
  const image = await inspectComponent(await makeGuest({ evaluate: denyPort(1) }), OPTIONS);
  const table = Reflect.construct(WebAssembly.Table, [{ initial: 2, element: 'anyfunc' }]) as
    WebAssembly.Table;
  for (const path of ['direct', 'component'] as const) {
    const { evaluate } = instantiateModule({ ...image, path }, QUIET);
    table.set(0, evaluate);
    assert.is(table.get(0), evaluate);
  }
});

test('payload is judged through memory, raw and by the bindings', async () => {
  // Denies when the payload's first byte is 0x16 and the offset is 5.
  const inspect = `(if (result i32) (i32.and
      (i32.eq (i32.load8_u (i32.load offset=52 (local.get $from))) (i32.const 0x16))
      (i32.eq (i32.load offset=48 (local.get $from)) (i32.const 5)))
    (then (i32.const 2)) (else (i32.load16_u offset=6 (local.get $from))))`;
  const image = await inspectComponent(
    await makeGuest({ evaluate: '(i32.const 4)', inspect }), OPTIONS);
  assert.is(image.hasPayload, true);
  for (const path of ['direct', 'component'] as const) {
    const module = instantiateModule({ ...image, path }, QUIET);
    assert.is(module.evaluate(...flow(443)), 4);
    for (let round = 0; round < 100; round += 1) {
      const payload = new Uint8Array(1400).fill(0x16);
      assert.is(module.inspect(flow(3), 5, payload), 2, path);
      assert.is(module.inspect(flow(3), 0, payload), 3, path);
      assert.is(module.inspect(flow(1), 5, new Uint8Array(3)), 1, path);
    }
  }
});

test('a refused configuration is told with the module\'s words', async () => {
  // result::err("no"), at address 600.
  const configure = `(i32.store8 (i32.const 600) (i32.const 1))
    (i32.store (i32.const 604) (i32.const 620)) (i32.store (i32.const 608) (i32.const 2))
    (i32.store16 (i32.const 620) (i32.const 0x6f6e)) (i32.const 600)`;
  const image = await inspectComponent(await makeGuest({ configure }), OPTIONS);
  const module = instantiateModule(image, QUIET);
  try {
    module.configure(new TextEncoder().encode('ports: []'));
    assert.unreachable();
  } catch (error) {
    assert.is((error as ModuleError).kind, 'configure');
    assert.is((error as ModuleError).message, 'The module refuses its configuration: no.');
  }
});

test('a log line is cut, and is one line', async () => {
  const more = `(data (i32.const 1024) "two\\nlines\\1b[31m${'x'.repeat(2000)}")`;
  const evaluate = '(call $log (i32.const 2) (i32.const 1024) (i32.const 2000)) (i32.const 0)';
  const image = await inspectComponent(await makeGuest({ imports: LOG, more, evaluate }), OPTIONS);
  const lines: [string, string][] = [];
  const module = instantiateModule(image, { log: (...line) => { lines.push(line); } });
  module.evaluate(...flow(1));
  assert.is(lines.length, 1);
  assert.is(lines[0]?.[0], 'warn');
  assert.match(lines[0]?.[1] ?? '', /^two lines \[31mx+$/);
  assert.ok((lines[0]?.[1].length ?? 0) <= 1024);
});

test('a log line outside the memory is a fault of the call', async () => {
  const evaluate = '(call $log (i32.const 2) (i32.const -16) (i32.const 99)) (i32.const 0)';
  const image = await inspectComponent(await makeGuest({ imports: LOG, evaluate }), OPTIONS);
  assert.throws(() => instantiateModule(image, QUIET).evaluate(...flow(1)));
});

test('the clock is there for those who were granted it', async () => {
  const imports = '(import "culvert:policy/clock@0.1.0" "now-ms" (func $now (result i32)))';
  const bytes = await makeGuest({ imports, evaluate: '(call $now)' });
  const image = await inspectComponent(bytes, { ...OPTIONS, allow: ['clock'] });
  let nowMs = 3;
  for (const path of ['direct', 'component'] as const) {
    nowMs = 3;
    const module = instantiateModule({ ...image, path }, { ...QUIET, nowMs: () => nowMs });
    assert.is(module.evaluate(...flow(1)), 3);
    nowMs = (2 ** 32) + 2;
    assert.is(module.evaluate(...flow(1)), 2);
  }
});

test('a trap leaves the instance able to answer', async () => {
  const evaluate = `(if (i32.eq (local.get $dstPort) (i32.const 7)) (then unreachable))
    ${denyPort(23)}`;
  const image = await inspectComponent(await makeGuest({ evaluate }), OPTIONS);
  const module = instantiateModule(image, QUIET);
  assert.throws(() => module.evaluate(...flow(7)), /unreachable/);
  assert.is(module.evaluate(...flow(23)), 2);
  module.configure(new Uint8Array());
  module.endpoints([]);
});

test('an image survives the disk, and a damaged one is found out', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-image-'));
  try {
    const image: ModuleImage = await inspectComponent(
      await makeGuest({ evaluate: denyPort(9) }), OPTIONS);
    assert.is(loadImage(folder, image.sha256), null);
    saveImage(folder, image);
    const loaded = loadImage(folder, image.sha256);
    assert.equal(loaded, image);
    assert.is(instantiateModule(loaded ?? image, QUIET).evaluate(...flow(9)), 2);
    const path = imagePath(folder, image.sha256);
    const bytes = readFileSync(path);
    for (let at = 0; at < bytes.length; at += 997) {
      const damaged = Uint8Array.from(bytes);
      damaged[at] = (damaged[at] ?? 0) ^ 0x40;
      writeFileSync(path, damaged);
      assert.is(kindOf(() => loadImage(folder, image.sha256)), 'image', `byte ${at}`);
    }
    for (const length of [0, 1, 40, bytes.length - 1]) {
      writeFileSync(path, bytes.subarray(0, length));
      assert.is(kindOf(() => loadImage(folder, image.sha256)), 'image', `${length} bytes`);
    }
    const other = 'a'.repeat(64);
    writeFileSync(imagePath(folder, other), bytes);
    assert.is(kindOf(() => loadImage(folder, other)), 'image', 'of another component');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test.run();
