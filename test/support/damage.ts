// Damaged components: what a bad disk, a bad link or a bad mind makes of a module, and what becomes
// of each when it is compiled.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { makeGuest } from './guest.ts';
import { Random } from './random.ts';

const MANY = fileURLToPath(new URL('./compile-many.js', import.meta.url));
const HEADER_SIZE = 8;
/** Bytes that mean something in many places: sections, types, opcodes, ends of LEB128 numbers. */
const TELLING = [0, 1, 2, 3, 4, 7, 0x0a, 0x0b, 0x40, 0x5f, 0x60, 0x70, 0x7f, 0x80, 0xff];
/** One component that neither compiles nor fails for so long is one that loops. */
const STUCK_MS = 15_000;

/** The component with some damage behind its header; the same for the same seed. */
export function damage(whole: Uint8Array, seed: number): Uint8Array {
  const random = new Random(seed);
  let bytes = Uint8Array.from(whole);
  for (let left = random.pick([1, 1, 1, 2, 4]); left > 0; left -= 1) {
    const at = random.between(HEADER_SIZE, bytes.length - 1);
    const length = Math.min(random.between(1, 40), bytes.length - at);
    const kind = random.below(16);
    if (kind < 7) bytes[at] = random.pick(TELLING);
    else if (kind < 14) bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
    else if (kind === 14) {
      bytes = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + length)]);
    } else {
      const part = bytes.subarray(at, at + length);
      bytes = Uint8Array.from([...bytes.subarray(0, at), ...part, ...bytes.subarray(at)]);
    }
  }
  return bytes;
}

/** What became of damaged components: how many of each outcome, and what must not be. */
export interface Damaged {
  outcomes: Map<string, number>;
  bugs: string[];
}

/** A guest with something of everything that modules have. */
export function fullGuest(): Promise<Uint8Array> {
  return makeGuest({
    imports: '(import "culvert:policy/host@0.1.0" "log" (func $log (param i32 i32 i32)))',
    more: `(table 4 8 funcref) (elem (i32.const 0) func $down)
      (global $calls (mut i32) (i32.const 0))
      (func $down (param i32) (result i32) (i32.add (local.get 0) (i32.const 1)))
      (func $s (global.set $calls (i32.const 1))) (start $s)`,
    evaluate: `(call $log (i32.const 1) (i32.const 16) (i32.const 5))
      (drop (call_indirect (param i32) (result i32) (local.get $dstPort) (i32.const 0)))
      (i32.const 4)`,
    inspect: '(i32.load8_u (i32.load offset=52 (local.get $from)))',
  });
}

/** Compiles the seeds from `first` to `last` in one process; where it ends before that, answers the
 * seed to go on with. */
function compileSome(path: string, first: number, last: number, found: Damaged): Promise<number> {
  const child = spawn(process.execPath, [MANY, path, String(first), String(last)],
    { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  let next = first;
  const end = (): void => {
    child.kill('SIGKILL');
  };
  let timer = setTimeout(end, STUCK_MS);
  const take = (line: string): void => {
    const [seed = '', kind = '', ...words] = line.split(' ');
    if (kind === 'begins' || seed === '') return;
    next = Number(seed) + 1;
    found.outcomes.set(kind, (found.outcomes.get(kind) ?? 0) + 1);
    if (kind === 'BUG') found.bugs.push(`${seed}: ${words.join(' ')}`);
  };
  child.stdout.on('data', (chunk: Buffer) => {
    clearTimeout(timer);
    timer = setTimeout(end, STUCK_MS);
    const lines = (text + chunk.toString()).split('\n');
    text = lines.pop() ?? '';
    lines.forEach(take);
  });
  let said = '';
  child.stderr.on('data', (chunk: Buffer) => { said += chunk.toString(); });
  return new Promise((resolve) => {
    child.on('close', (code) => {
      clearTimeout(timer);
      if (next > last || (code === 0 && next > first)) return resolve(next);
      // The first of a process ended it: by a loop, or by what takes the process along.
      const kind = code === 0 ? 'trapped' : 'ended the process';
      found.outcomes.set(kind, (found.outcomes.get(kind) ?? 0) + 1);
      if (code !== 0 && code !== null) found.bugs.push(`${next}: exit ${code}: ${said}`);
      resolve(next + 1);
    });
  });
}

/** Compiles so many damaged components. */
export async function compileDamaged(count: number): Promise<Damaged> {
  const folder = mkdtempSync(join(tmpdir(), 'culvert-damage-'));
  const found: Damaged = { outcomes: new Map(), bugs: [] };
  try {
    const path = join(folder, 'whole.wasm');
    writeFileSync(path, await fullGuest());
    for (let seed = 1; seed <= count;) seed = await compileSome(path, seed, count, found);
    return found;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
