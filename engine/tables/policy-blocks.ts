// Programs and rule sets as blocks of the policy arena (wasm/abi/policy.ts). Programs are interned
// by content and counted; a program lives as long as a rule set that was added leads to it.

import { DIRECTORY_POLICY_ARENA, DIRECTORY_POLICY_ARENA_SIZE } from '../../wasm/abi/layout.ts';
import {
  PROGRAM_COUNT,
  PROGRAM_KEYS,
  RULE_SET_DEFAULT,
  RULE_SET_HASH,
  RULE_SET_HASH_SHIFT,
  RULE_SET_MASK,
  RULE_SET_SLOTS,
  RULE_SET_SLOT_IDENTITY,
  RULE_SET_SLOT_PROGRAM,
  RULE_SET_SLOT_SIZE,
} from '../../wasm/abi/policy.ts';
import type { Core } from '../core.ts';
import type { Program, RuleSet } from '../model.ts';
import { Arena } from './arena.ts';
import { TableFullError } from './limits.ts';

/** Slots in use in a row, at most: no lookup looks at more. The hash is made larger first. */
const RUN_LIMIT = 16;
const SLOTS_MAX = 1 << 21;

export class PolicyBlocks {
  readonly arena: Arena;
  #core: Core;
  #programs = new Map<string, { address: number; uses: number }>();
  #contents = new Map<number, string>();

  constructor(core: Core) {
    this.#core = core;
    const start = core.directory(DIRECTORY_POLICY_ARENA);
    this.arena = new Arena(core, start, core.directory(DIRECTORY_POLICY_ARENA_SIZE));
  }

  /** Different programs in use. */
  get programCount(): number {
    return this.#programs.size;
  }

  /** Writes a rule set, and those of its programs that are new. Throws TableFullError; then nothing
   * has changed. */
  add(ruleSet: RuleSet): number {
    const used: number[] = [];
    try {
      for (const program of ruleSet.programs) used.push(this.#intern(program, ruleSet.number));
      const fallback = used[ruleSet.fallback] ?? 0;
      const entries = new Map(ruleSet.entries.map(([identity, index]) =>
        [identity, used[index] ?? 0]));
      const block = this.#write(fallback, entries, `rule set ${ruleSet.number}`);
      for (const program of this.#programsOf(block)) this.#use(program);
      return block;
    } finally {
      this.#drop(used, true);
    }
  }

  /** A copy of a rule set that knows more identities. It does not keep programs alive. */
  extend(block: number, more: Map<number, number>): number {
    const entries = this.entries(block);
    for (const [identity, program] of more) entries.set(identity, program);
    return this.#write(this.fallback(block), entries, 'a copy of a rule set');
  }

  /** Takes back a rule set that nothing ever led to. */
  cancel(block: number): void {
    this.#drop(this.#programsOf(block), true);
    this.arena.free(block);
  }

  /** Gives rule sets back that nothing leads to any more, and copies. */
  release(blocks: number[], copies: number[]): void {
    const programs = blocks.flatMap((block) => this.#drop(this.#programsOf(block), false));
    this.arena.retire([...blocks, ...copies, ...programs]);
  }

  fallback(block: number): number {
    return this.#core.view.getUint32(block + RULE_SET_DEFAULT, true);
  }

  /** Identities that have a program of their own, and which. */
  entries(block: number): Map<number, number> {
    const { view } = this.#core;
    const entries = new Map<number, number>();
    const end = slotAddress(block, view.getUint32(block + RULE_SET_MASK, true) + 1);
    for (let at = slotAddress(block, 0); at < end; at += RULE_SET_SLOT_SIZE) {
      const program = view.getUint32(at + RULE_SET_SLOT_PROGRAM, true);
      if (program === 0) continue;
      entries.set(view.getUint32(at + RULE_SET_SLOT_IDENTITY, true), program);
    }
    return entries;
  }

  /** The program that the core finds; 0 for rule set 0. */
  program(block: number, identity: number): number {
    return block === 0 ? 0 : this.#core.exports.policyProgram(block, identity);
  }

  /** True where two rule sets answer alike for every identity. */
  same(left: number, right: number): boolean {
    if (this.fallback(left) !== this.fallback(right)) return false;
    const [some, others] = [this.entries(left), this.entries(right)];
    return some.size === others.size
      && [...some].every(([identity, program]) => others.get(identity) === program);
  }

  /** Boundaries and answers of a program, as the core reads them. */
  readProgram(address: number): Program {
    const { view } = this.#core;
    const count = view.getUint32(address + PROGRAM_COUNT, true);
    return Array.from({ length: count }, (_, index) => [
      view.getUint32(address + PROGRAM_KEYS + (index * 4), true),
      view.getUint32(address + PROGRAM_KEYS + ((count + index) * 4), true),
    ]);
  }

  /** Programs a rule set leads to, each as often as it does. */
  #programsOf(block: number): number[] {
    return [this.fallback(block), ...this.entries(block).values()];
  }

  #take(bytes: number, object: string): number {
    const block = this.arena.take(bytes);
    if (block !== 0) return block;
    throw new TableFullError('policy arena', this.arena.limit, object, 'bytes');
  }

  /** Address of a program, used once more. */
  #intern(program: Program, ruleSet: number): number {
    const content = program.join();
    const known = this.#programs.get(content);
    if (known !== undefined) {
      known.uses += 1;
      return known.address;
    }
    const object = `a program of rule set ${ruleSet}`;
    const address = this.#take(PROGRAM_KEYS + (program.length * 8), object);
    const { view } = this.#core;
    view.setUint32(address + PROGRAM_COUNT, program.length, true);
    for (const [index, [key, answer]] of program.entries()) {
      view.setUint32(address + PROGRAM_KEYS + (index * 4), key, true);
      view.setUint32(address + PROGRAM_KEYS + ((program.length + index) * 4), answer, true);
    }
    this.#programs.set(content, { address, uses: 1 });
    this.#contents.set(address, content);
    return address;
  }

  #use(address: number): void {
    const known = this.#programs.get(this.#contents.get(address) ?? '');
    if (known !== undefined) known.uses += 1;
  }

  /** Uses programs once less. Returns those that nobody uses now, or frees them at once. */
  #drop(programs: number[], free: boolean): number[] {
    const unused: number[] = [];
    for (const address of programs) {
      const content = this.#contents.get(address) ?? '';
      const known = this.#programs.get(content);
      if (known === undefined) continue;
      known.uses -= 1;
      if (known.uses > 0) continue;
      this.#programs.delete(content);
      this.#contents.delete(address);
      unused.push(address);
      if (free) this.arena.free(address);
    }
    return unused;
  }

  /** Entries that say what the fallback says are left out. */
  #write(fallback: number, entries: Map<number, number>, object: string): number {
    const own = [...entries].filter(([, program]) => program !== fallback);
    const slots = layOutSlots(own.map(([identity]) => identity));
    const block = this.#take(RULE_SET_SLOTS + (slots.length * RULE_SET_SLOT_SIZE), object);
    const { view, bytes } = this.#core;
    bytes.fill(0, block, slotAddress(block, slots.length));
    view.setUint32(block + RULE_SET_MASK, slots.length - 1, true);
    view.setUint32(block + RULE_SET_DEFAULT, fallback, true);
    for (const [slot, index] of slots.entries()) {
      const [identity = 0, program = 0] = own[index] ?? [];
      if (index < 0) continue;
      view.setUint32(slotAddress(block, slot) + RULE_SET_SLOT_IDENTITY, identity, true);
      view.setUint32(slotAddress(block, slot) + RULE_SET_SLOT_PROGRAM, program, true);
    }
    return block;
  }
}

/** The index of the identity in each slot, -1 in empty ones. At most half are full. */
function layOutSlots(identities: number[]): Int32Array {
  for (let count = 2; ; count *= 2) {
    if (count < identities.length * 2) continue;
    const slots = new Int32Array(count).fill(-1);
    for (const [index, identity] of identities.entries()) {
      let slot = (Math.imul(identity, RULE_SET_HASH) >>> RULE_SET_HASH_SHIFT) & (count - 1);
      while ((slots[slot] ?? -1) >= 0) slot = (slot + 1) & (count - 1);
      slots[slot] = index;
    }
    if (longestRun(slots) <= RUN_LIMIT || count >= SLOTS_MAX) return slots;
  }
}

/** Slots in use in a row; a row may go round the end. */
function longestRun(slots: Int32Array): number {
  let [longest, run] = [0, 0];
  for (let at = 0; at < slots.length * 2 && run < slots.length; at += 1) {
    run = (slots[at % slots.length] ?? -1) >= 0 ? run + 1 : 0;
    longest = Math.max(longest, run);
  }
  return longest;
}

function slotAddress(block: number, slot: number): number {
  return block + RULE_SET_SLOTS + (slot * RULE_SET_SLOT_SIZE);
}
