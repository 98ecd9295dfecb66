// Policy modules for tests, made of a few bytes of WebAssembly: one that says what a JavaScript
// function says, which may also throw, and some that never come back as they should.

import type { Core } from '../../engine/core.ts';
import {
  attachEvaluate, ModuleTable, runBatch, type Evaluate, type ModuleEntry, type OnFault,
} from '../../engine/modules.ts';

export const VERDICT = { pass: 0, allow: 1, deny: 2, reject: 3, more: 4 } as const;

const I32 = 0x7f;
const FUNCTION = 0x60;
const PARAMETERS = 16;
const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];

function section(id: number, bytes: number[]): number[] {
  return [id, bytes.length, ...bytes];
}

function types(parameters: number): number[] {
  const all = new Array<number>(parameters).fill(I32);
  return section(1, [1, FUNCTION, parameters, ...all, 1, I32]);
}

const EXPORT_FIRST = section(7, [1, 1, 0x66, 0, 0]);

function instantiate(bytes: number[], imports = {}): Evaluate {
  const module = new WebAssembly.Module(Uint8Array.from(bytes));
  return new WebAssembly.Instance(module, imports).exports['f'] as Evaluate;
}

/** A module that answers as a JavaScript function does. */
export function moduleOfFunction(f: Evaluate): Evaluate {
  const imported = section(2, [1, 1, 0x6d, 1, 0x66, 0, 0]);
  return instantiate([...HEADER, ...types(PARAMETERS), ...imported, ...EXPORT_FIRST], { m: { f } });
}

function moduleOfCode(code: number[], parameters = PARAMETERS): Evaluate {
  const body = [0, ...code, 0x0b];
  return instantiate([
    ...HEADER, ...types(parameters), ...section(3, [1, 0]), ...EXPORT_FIRST,
    ...section(10, [1, body.length, ...body]),
  ]);
}

/** A module that traps. */
export function trappingModule(): Evaluate {
  return moduleOfCode([0x00]);
}

/** A module that calls itself for ever. */
export function recursiveModule(): Evaluate {
  const locals = Array.from({ length: PARAMETERS }, (_, index) => [0x20, index]).flat();
  return moduleOfCode([...locals, 0x10, 0]);
}

/** A module whose function takes one number. */
export function misshapenModule(): Evaluate {
  return moduleOfCode([0x41, 0], 1);
}

/** A list's entry, an ordinary one but for `part`. */
export function moduleEntry(place: number, part: Partial<ModuleEntry> = {}): ModuleEntry {
  return {
    place, failure: 'deny', mayAllow: false, perPacket: false, hasPayload: false, disabled: false,
    ...part,
  };
}

/** Has the core's processBatch() see to faults of modules, as the host does, whoever calls it. */
export function guardBatches(core: Core, onFault: OnFault): void {
  const { exports } = core;
  const bare = Object.create(core, { exports: { value: exports } }) as Core;
  const processBatch = (first: number, count: number, nowMs: number): number =>
    runBatch(bare, first, count, nowMs, onFault);
  Object.defineProperty(core, 'exports', { value: { ...exports, processBatch } });
}

/** Puts one module in force. */
export function useModule(core: Core, evaluate: Evaluate, part: Partial<ModuleEntry> = {}): void {
  attachEvaluate(core, 0, evaluate);
  new ModuleTable(core).set([moduleEntry(0, part)]);
}
