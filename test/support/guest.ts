// Policy modules for tests, written as WebAssembly text, so that one is made in milliseconds and
// does exactly what is to be tested. Each part has an obedient default.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { componentEmbed, componentNew, parse } from '@bytecodealliance/jco-transpile/wasm-tools';
import { ROOT } from './source.ts';

const POLICY = 'culvert:policy/policy@0.1.0';
const NAME_AT = 16;
const VERSION_AT = 128;
const INFO_AT = 256;
const OK_AT = 512;
const HEAP_START = 4096;
const PARAMETERS = ['family', 'direction', 'protocol', 'tcp', 'srcPort', 'dstPort', 'srcIdentity',
  'dstIdentity', 'src0', 'src1', 'src2', 'src3', 'dst0', 'dst1', 'dst2', 'dst3'];

/** A module in parts. All code is WebAssembly text; `evaluate` may use its parameters by name. */
export interface Guest {
  name?: string;
  version?: string;
  stateful?: boolean;
  /** Its world in modules/wit/policy.wit, or in `wit`. */
  world?: string;
  wit?: string;
  /** Version of the WIT package; what Culvert has unless said. */
  witVersion?: string;
  /** The module's memory. */
  memory?: string;
  imports?: string;
  /** Globals, tables, more functions, a start. */
  more?: string;
  describe?: string;
  configure?: string;
  endpoints?: string;
  evaluate?: string;
  /** Given for the world `payload-module`; its parameter is `$from`. */
  inspect?: string;
}

/** What evaluates to a verdict: 2 (deny) for a destination port, 0 (pass) otherwise. */
export function denyPort(port: number): string {
  return `(select (i32.const 2) (i32.const 0)
    (i32.eq (local.get $dstPort) (i32.const ${port})))`;
}

function littleEndian(...words: number[]): string {
  const bytes = words.flatMap((word) => [0, 8, 16, 24].map((shift) => (word >>> shift) & 0xff));
  return bytes.map((byte) => `\\${byte.toString(16).padStart(2, '0')}`).join('');
}

/** A memory that only grows: what is passed goes above what was passed before. */
const REALLOC = `
  (global $heap (mut i32) (i32.const ${HEAP_START}))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
    (local.set 4 (i32.and (i32.add (global.get $heap) (i32.const 15)) (i32.const -16)))
    (global.set $heap (i32.add (local.get 4) (local.get 3)))
    (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
      (then (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3)
        (i32.const 65536)))))))
    (local.get 4))`;

/** The text of a guest's core module. */
export function guestText(guest: Guest): string {
  const { name = 'guest', version = '1.0.0', stateful = false } = guest;
  const info = littleEndian(NAME_AT, name.length, VERSION_AT, version.length, Number(stateful));
  const parameters = PARAMETERS.map((parameter) => `(param $${parameter} i32)`).join(' ');
  const inspect = guest.inspect === undefined ? '' : `
  (func (export "culvert:policy/payload@0.1.0#inspect") (param $from i32) (result i32)
    (global.set $heap (i32.const ${HEAP_START}))
    ${guest.inspect})`;
  return `(module
  ${guest.imports ?? ''}
  ${guest.memory ?? '(memory (export "memory") 1)'}
  (data (i32.const ${NAME_AT}) "${name}") (data (i32.const ${VERSION_AT}) "${version}")
  (data (i32.const ${INFO_AT}) "${info}") ${REALLOC} ${guest.more ?? ''}
  (func (export "${POLICY}#describe") (result i32) ${guest.describe ?? `(i32.const ${INFO_AT})`})
  (func (export "${POLICY}#configure") (param $config i32) (param $length i32) (result i32)
    (global.set $heap (i32.const ${HEAP_START}))
    ${guest.configure ?? `(i32.const ${OK_AT})`})
  (func (export "${POLICY}#endpoints") (param $list i32) (param $count i32)
    (global.set $heap (i32.const ${HEAP_START}))
    ${guest.endpoints ?? ''})
  (func (export "${POLICY}#evaluate") ${parameters} (result i32)
    ${guest.evaluate ?? '(i32.const 0)'}) ${inspect})`;
}

/** The component of a guest. */
export async function makeGuest(guest: Guest = {}): Promise<Uint8Array> {
  const world = `timed-${guest.inspect === undefined ? 'policy' : 'payload'}-module`;
  const { witVersion = '0.1.0' } = guest;
  const versioned = (text: string): string => text.replaceAll('@0.1.0', `@${witVersion}`);
  const binary = await parse(versioned(guestText(guest)));
  return await componentOf(binary, versioned(guest.wit ?? policyWit()), guest.world ?? world);
}

/** The WIT of policy modules. */
export function policyWit(): string {
  return readFileSync(join(ROOT, 'modules', 'wit', 'policy.wit'), 'utf8');
}

/** A component of any core module. */
export async function componentOf(binary: Uint8Array, witSource: string, world: string)
  : Promise<Uint8Array> {
  const embedded = await componentEmbed({ binary, witSource, world, stringEncoding: 'utf8' });
  return await componentNew(embedded, []);
}
