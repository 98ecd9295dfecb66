// What a module can do to those who add it, and what it gets for it: a refusal with a reason, or an
// instance that cannot reach further than its own memory. The caller goes on in any case.

import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { parse, print } from '@bytecodealliance/jco-transpile/wasm-tools';
import { limitCore } from '../../modules/core-module.ts';
import { MODULE_COMPONENT_BYTES, MODULE_MEMORY_CAP_BYTES_LIMIT } from '../../modules/limits.ts';
import { inspectComponent, instantiateModule, ModuleError, type ModuleFault, type ModuleImage,
  type WasiName } from '../../modules/runtime.ts';
import { denyPort, makeGuest, policyWit, type Guest } from '../support/guest.ts';

const CAP = 1024 * 1024;
const QUIET = { log: () => {} };
const FLOW = [0, 1, 6, 2, 40000, 80, 7, 9, 0x0a000001, 0, 0, 0, 0x0a000002, 0, 0, 0];

function inspect(bytes: Uint8Array, allow: WasiName[] = [], memoryCapBytes = CAP)
  : Promise<ModuleImage> {
  return inspectComponent(bytes, { allow, memoryCapBytes });
}

/** Expects a refusal of a kind whose message matches. */
async function expectRefusal(
  act: () => Promise<unknown> | unknown, kind: ModuleFault, message: RegExp,
): Promise<void> {
  try {
    await act();
  } catch (error) {
    assert.instance(error, ModuleError, String(error));
    assert.is((error as ModuleError).kind, kind, (error as ModuleError).message);
    assert.match((error as ModuleError).message, message);
    assert.match((error as ModuleError).message, /^[A-Z`][^]*\.$/);
    return;
  }
  assert.unreachable(`expected ${kind}`);
}

async function refuse(guest: Guest, kind: ModuleFault, message: RegExp): Promise<void> {
  const bytes = await makeGuest(guest);
  await expectRefusal(() => inspect(bytes), kind, message);
}

test('what is no component is refused', async () => {
  const cases: [Uint8Array, RegExp][] = [
    [new Uint8Array(), /no WebAssembly/],
    [new TextEncoder().encode('#!/bin/sh\necho hello\n'), /no WebAssembly/],
    [await parse('(module)'), /core WebAssembly module/],
    [Uint8Array.from([0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0]), /exports no culvert:policy/],
    [Uint8Array.from([0, 0x61, 0x73, 0x6d, 0x0d, 0, 1, 0, 99, 1, 0]), /damaged/],
  ];
  for (const [bytes, message] of cases) {
    const kind = message.source.startsWith('exports') ? 'wit-version' : 'not-a-component';
    await expectRefusal(() => inspect(bytes), kind, message);
  }
});

test('a truncated component is refused', async () => {
  const bytes = await makeGuest({ evaluate: denyPort(23) });
  const lengths = Array.from({ length: 12 }, (_, n) => Math.floor((bytes.length * (n + 1)) / 13));
  for (const length of [7, 8, ...lengths, bytes.length - 1]) {
    try {
      // The sections that follow the exports say what tools made it: without them it is whole.
      const image = await inspect(bytes.slice(0, length));
      assert.is(image.path, 'direct', `${length} of ${bytes.length} bytes`);
      assert.ok(length > bytes.length - 200, `${length} of ${bytes.length} bytes`);
    } catch (error) {
      assert.ok(['not-a-component', 'wit-version'].includes((error as ModuleError).kind),
        `${length}: ${(error as Error).message}`);
    }
  }
});

test('a huge component is refused before it is looked at', async () => {
  const huge = new Uint8Array(MODULE_COMPONENT_BYTES + 1);
  await expectRefusal(() => inspect(huge), 'too-big', /bytes/);
});

test('a component that takes too much memory to compile is ended', async () => {
  const mebibytes = 30;
  const bytes = await makeGuest({
    memory: `(memory (export "memory") ${(mebibytes + 1) * 16})`,
    more: `(data (i32.const 8192) "${'abcdefgh'.repeat(mebibytes * 131072)}")`,
  });
  assert.ok(bytes.length < MODULE_COMPONENT_BYTES);
  await expectRefusal(() => inspect(bytes, [], 32 * CAP), 'limit', /takes more than 268435456/);
});

test('another version of the interface is refused, a newer patch of it is not', async () => {
  await refuse({ witVersion: '0.2.0' }, 'wit-version', /made for culvert:policy\/policy@0\.2\.0/);
  await refuse({ witVersion: '1.0.0' }, 'wit-version', /this Culvert runs modules of version/);
  const image = await inspect(await makeGuest({ witVersion: '0.1.7', evaluate: denyPort(80) }));
  assert.is(instantiateModule(image, QUIET).evaluate(...FLOW), 2);
});

test('other types under the right names are refused', async () => {
  const wit = policyWit();
  const changes: [string, string, RegExp][] = [
    ['enum family { ipv4, ipv6 }', 'enum family { ipv6, ipv4 }', /Family/],
    ['evaluate: func(f: flow) -> verdict;',
      'evaluate: func(f: flow) -> family;\n  use types.{family};', /evaluate|Family/],
    ['    src-port: u16,\n    dst-port: u16,', '    dst-port: u16,\n    src-port: u16,', /Flow/],
    ['evaluate: func(f: flow) -> verdict;',
      'evaluate: func(f: flow) -> verdict;\n  use types.{verdict as family};', /Family/],
  ];
  for (const [from, to, message] of changes) {
    assert.ok(wit.includes(from));
    await refuse({ wit: wit.replace(from, to) }, 'signature', message);
  }
});

test('a component without the interface is refused', async () => {
  const wit = `${policyWit()}\nworld other { import host; export clock; }`;
  const more = '(func (export "culvert:policy/clock@0.1.0#now-ms") (result i32) (i32.const 1))';
  await refuse({ wit, world: 'other', more }, 'wit-version', /no policy module/);
});

/** WASI's interfaces, as far as the tests use them. */
const WASI = `
package wasi:cli@0.2.3 {
  interface environment { get-environment: func() -> list<tuple<string, string>>; }
  interface exit { exit: func(status: result); }
}
package wasi:filesystem@0.2.3 {
  interface types { resource descriptor { sync: func() -> result; } }
  interface preopens {
    use types.{descriptor};
    get-directories: func() -> list<tuple<descriptor, string>>;
  }
}
package wasi:sockets@0.2.3 {
  interface network { resource network; }
  interface instance-network { use network.{network}; instance-network: func() -> network; }
}
package other:company@1.0.0 {
  interface telemetry { send: func(what: string); }
}`;

function wasiGuest(imported: string, imports: string, evaluate: string): Guest {
  const world = `world wide { include policy-module; import ${imported}; }`;
  const wit = policyWit().replace(/^/, '').concat(world, WASI);
  return { wit, world: 'wide', imports, evaluate };
}

const ENVIRONMENT = wasiGuest('wasi:cli/environment@0.2.3',
  '(import "wasi:cli/environment@0.2.3" "get-environment" (func $get (param i32)))',
  // The number of variables.
  '(call $get (i32.const 700)) (i32.load (i32.const 704))');
const EXIT = wasiGuest('wasi:cli/exit@0.2.3',
  '(import "wasi:cli/exit@0.2.3" "exit" (func $exit (param i32)))',
  '(call $exit (i32.const 1)) (i32.const 0)');
const FILES = wasiGuest('wasi:filesystem/preopens@0.2.3',
  '(import "wasi:filesystem/preopens@0.2.3" "get-directories" (func $get (param i32)))',
  '(call $get (i32.const 700)) (i32.load (i32.const 704))');
const NETWORK = wasiGuest('wasi:sockets/instance-network@0.2.3',
  '(import "wasi:sockets/instance-network@0.2.3" "instance-network" (func $get (result i32)))',
  '(call $get)');
const STRANGER = wasiGuest('other:company/telemetry@1.0.0',
  '(import "other:company/telemetry@1.0.0" "send" (func $send (param i32 i32)))',
  '(call $send (i32.const 0) (i32.const 1)) (i32.const 0)');

test('imports that were not granted are refused, each with what would grant it', async () => {
  await refuse(ENVIRONMENT, 'imports',
    /wasi:cli\/environment@0\.2\.3, which needs --allow wasi-cli/);
  await refuse(FILES, 'imports', /--allow wasi-filesystem/);
  await refuse(NETWORK, 'imports', /wasi:sockets\/\S+, which cannot be granted/);
  await refuse(STRANGER, 'imports', /other:company\/telemetry@1\.0\.0, which cannot be granted/);
  const bytes = await makeGuest(NETWORK);
  const all: WasiName[] = ['clock', 'wasi-cli', 'wasi-clocks', 'wasi-filesystem', 'wasi-io',
    'wasi-random'];
  await expectRefusal(() => inspect(bytes, all), 'imports', /cannot be granted/);
});

test('a granted environment is empty, a granted file system has no files', async () => {
  process.env.CULVERT_TEST_SECRET = 'seen';
  for (const [guest, grant] of [[ENVIRONMENT, 'wasi-cli'], [FILES, 'wasi-filesystem']] as const) {
    const image = await inspect(await makeGuest(guest), [grant]);
    for (const path of ['direct', 'component'] as const) {
      assert.is(instantiateModule({ ...image, path }, QUIET).evaluate(...FLOW), 0, grant);
    }
  }
});

test('exit() ends the call, not the process', async () => {
  const image = await inspect(await makeGuest(EXIT), ['wasi-cli']);
  for (const path of ['direct', 'component'] as const) {
    const module = instantiateModule({ ...image, path }, QUIET);
    assert.throws(() => module.evaluate(...FLOW), /exit\(\)/);
  }
});

test('memory grows to the cap and no further', async () => {
  const evaluate = `(if (result i32) (i32.eq (memory.grow (i32.const 8)) (i32.const -1))
    (then (i32.const 3)) (else (i32.const 0)))`;
  const image = await inspect(await makeGuest({ evaluate }));
  const module = instantiateModule(image, QUIET);
  assert.is(module.evaluate(...FLOW), 0);
  assert.is(module.evaluate(...FLOW), 3);
  assert.is(module.memoryBytes(), 9 * 65536);
  for (let round = 0; round < 1000; round += 1) module.evaluate(...FLOW);
  assert.ok(module.memoryBytes() <= CAP);
});

test('a module that needs more memory than the cap is refused', async () => {
  await refuse({ memory: '(memory (export "memory") 17)' }, 'memory', /needs 1114112 bytes/);
  const bytes = await makeGuest({ memory: '(memory (export "memory") 16 65536)' });
  assert.is((await inspect(bytes)).path, 'direct');
  await expectRefusal(() => inspect(bytes, [], MODULE_MEMORY_CAP_BYTES_LIMIT + 1), 'memory',
    /at most/);
});

test('what no limit reaches is refused', async () => {
  const cases: [string, ModuleFault, RegExp][] = [
    ['(module (memory 1 2 shared))', 'unsupported', /shared or 64-bit memory/],
    ['(module (memory i64 1))', 'unsupported', /shared or 64-bit memory/],
    ['(module (import "a" "b" (memory i64 1)))', 'unsupported', /shared or 64-bit memory/],
    ['(module (table 70000 funcref))', 'memory', /table of 70000/],
    ['(module (type (struct (field i32))))', 'unsupported', /garbage-collected/],
    ['(module (type (array i8)))', 'unsupported', /garbage-collected/],
    ['(module (tag))', 'unsupported', /exceptions/],
    ['(module (import "a" "b" (tag)))', 'unsupported', /exceptions/],
    ['(module (func (export "it\\27s")))', 'unsupported', /quotes/],
    ['(module (func (export "a\\0ab")))', 'unsupported', /quotes/],
    ['(module (import "a\\5c" "b" (func)))', 'unsupported', /quotes/],
  ];
  for (const [text, kind, message] of cases) {
    const bytes = await parse(text);
    await expectRefusal(() => limitCore(bytes, CAP), kind, message);
  }
  const table = limitCore(await parse('(module (table (export "t") 1 funcref))'), CAP);
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(table.bytes), {});
  assert.throws(() => (exports.t as WebAssembly.Table).grow(70_000));
});

test('instances of core modules are counted with what each has', async () => {
  const text = await print(await makeGuest());
  const withMore = (module: string, count: number): Promise<Uint8Array> => {
    const instances = '(core instance (instantiate $more))'.repeat(count);
    return parse(text.replace('(core instance $main',
      `(core module $more ${module}) ${instances} (core instance $main`));
  };
  assert.is((await inspect(await withMore('(table 1 funcref)', 8))).name, 'guest');
  await expectRefusal(async () => inspect(await withMore('(memory 1)', 1)), 'memory', /several/);
  await expectRefusal(async () => inspect(await withMore('(table 1 funcref)', 9)), 'memory',
    /more than 8 tables/);
  await expectRefusal(async () => inspect(await withMore('', 64)), 'memory', /64 instances/);
});

test('a name that would become code in the bindings is refused before they run', async () => {
  // jco writes the names of core modules into its file as they are.
  const names = [
    'x\'];globalThis.CULVERT_TEST_REACHED=1;//', 'x"];globalThis.CULVERT_TEST_REACHED=1;//',
    'x\\\\', 'x\n;globalThis.CULVERT_TEST_REACHED=1;//', '`${globalThis.CULVERT_TEST_REACHED=1}`',
  ];
  for (const name of names) {
    const text = name.replaceAll('"', '\\22').replaceAll('\n', '\\0a');
    await refuse({ more: `(func (export "${text}"))` }, 'unsupported', /quotes/);
  }
  assert.not.ok('CULVERT_TEST_REACHED' in globalThis);
});

test('a module that loops while it starts or describes itself is ended', async () => {
  const loop = '(loop $l (br $l))';
  await Promise.all([
    refuse({ more: `(func $s ${loop}) (start $s)` }, 'timeout', /did not start/),
    refuse({ describe: `${loop} (i32.const 0)` }, 'timeout', /did not start/),
  ]);
});

test('a module that traps while it starts or describes itself is refused', async () => {
  await refuse({ more: '(func $s unreachable) (start $s)' }, 'start', /unreachable/);
  await refuse({ describe: 'unreachable' }, 'trap', /describe\(\) failed: .*unreachable/);
  await refuse({ describe: '(i32.const -8)' }, 'trap', /describe\(\) failed/);
});

test('a module with a name that is none is refused', async () => {
  for (const name of ['', 'Upper', 'a b', '../../etc', 'x'.repeat(64), '\\1b[2J']) {
    await refuse({ name }, 'describe', /describes itself with the name/);
  }
  await refuse({ version: '1 0' }, 'describe', /the version/);
});

test('deep recursion is a fault of the call', async () => {
  const more = '(func $down (result i32) (i32.add (call $down) (i32.const 1)))';
  const evaluate = `(if (result i32) (i32.eq (local.get $dstPort) (i32.const 80))
    (then (call $down)) (else (i32.const 2)))`;
  const image = await inspect(await makeGuest({ more, evaluate }));
  const module = instantiateModule(image, QUIET);
  for (let round = 0; round < 3; round += 1) {
    assert.throws(() => module.evaluate(...FLOW), /call stack/);
    assert.is(module.evaluate(...FLOW.map((word) => (word === 80 ? 81 : word))), 2);
  }
});

test('a control call that traps is told, and so is one that loops by its caller', async () => {
  const image = await inspect(await makeGuest({
    configure: 'unreachable', endpoints: '(drop (i32.load (i32.const -4)))',
  }));
  const module = instantiateModule(image, QUIET);
  await expectRefusal(() => module.configure(new Uint8Array(4)), 'configure',
    /configure\(\) failed/);
  await expectRefusal(() => instantiateModule(image, QUIET).endpoints([]), 'trap', /endpoints\(\)/);
});

test('nonsense in answers to control calls is contained', async () => {
  const bad = [
    '(i32.store8 (i32.const 600) (i32.const 7)) (i32.const 600)',
    '(i32.store8 (i32.const 600) (i32.const 1)) (i32.store (i32.const 604) (i32.const -9)) '
      + '(i32.store (i32.const 608) (i32.const 100)) (i32.const 600)',
    '(i32.const -1)',
  ];
  for (const configure of bad) {
    const image = await inspect(await makeGuest({ configure }));
    await expectRefusal(() => instantiateModule(image, QUIET).configure(new Uint8Array(1)),
      'configure', /configure\(\) failed|refuses/);
  }
});

test.run();
