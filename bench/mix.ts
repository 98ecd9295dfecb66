// The traffic of the pipeline and policy benches (docs/BENCHMARKS.md, "The mix").
//
// 65,536 flows of TCP between pods, established before anything is timed. Half of them are between
// two pods of this node, a quarter goes to a peer, a quarter comes from one. Which flow a packet
// belongs to is drawn by Zipf's law with exponent 1.1. A given part of the packets, 5 % in the mix,
// are SYNs: each is the first packet of a flow that was never seen and never will be again, between
// pods taken in turn, so that every rule set is asked. The core's clock goes on by CLOCK_STEP for
// each batch; so SYNs nobody answers expire and leave the flow table about five sixths full.

import {
  DIRECTORY_FLOWS,
  DIRECTORY_FLOW_COUNT,
  DIRECTORY_VERDICTS,
  DIRECTORY_VERDICT_LIMIT,
  WORKERS_START,
  WORKER_FLOWS,
} from '../wasm/abi/layout.ts';
import {
  ANSWER_RULE_SHIFT,
  FLOW_SIZE,
  VERDICTS_HEAD,
  VERDICTS_RECORDS,
  VERDICT_ANSWER,
  VERDICT_SIZE,
} from '../wasm/abi/policy.ts';
import type { Core } from '../engine/core.ts';
import { readDrops } from '../engine/counters.ts';
import { ACK, Feed, SYN, SYN_ACK } from './feed.ts';
import { Hash, Random, Zipf } from './random.ts';
import { BATCH } from './scene.ts';

export const FLOWS = 65536;
export const ZIPF_EXPONENT = 1.1;
/** Entries of the flow table. */
export const FLOW_TABLE = 131_072;
/** Milliseconds of the core's clock for each batch. */
const CLOCK_STEP = 3;
const SCHEDULE = 1 << 18;
const FIRST = -1;
const SEED = 7919;
const HASHED_BATCHES = 256;
const KNOWN_PORT = 1024;
const FIRST_PORT = 2048;
/** Steps between pods of consecutive first packets, and from a flow's source to its destination.
 * Primes, so that each pod has its turn and neighbours in time are none in memory. */
const STRIDE = 31847;
export const SHIFT = 7919;

/** Which way a flow goes. */
export type Way = 'any' | 'outbound' | 'inbound';

export interface MixSettings {
  pods: number;
  family: 4 | 6;
  way: Way;
  /** Part of the packets that are the first of their flow. */
  first: number;
  /** The destination port of flows to a pod. */
  portOf: (pod: number) => number;
  /** In place of the core's processBatch(). */
  process?: (first: number, count: number, nowMs: number) => number;
}

/** Packets of the mix for one core, batch after batch. */
export class Mix {
  readonly feed: Feed;
  #core: Core;
  #settings: MixSettings;
  #processBatch: NonNullable<MixSettings['process']>;
  #schedule: Int32Array;
  #next = 0;
  #firsts = 0;
  #clock = 1_000_000;

  constructor(core: Core, settings: MixSettings) {
    this.#core = core;
    this.#settings = settings;
    this.#processBatch = settings.process ?? core.exports.processBatch;
    this.feed = new Feed(core);
    this.#schedule = makeSchedule(settings.first);
  }

  /** Writes the next batch into the slots. */
  fill(): void {
    const schedule = this.#schedule;
    for (let slot = 0; slot < BATCH; slot += 1) {
      const flow = schedule[this.#next] ?? 0;
      this.#next = (this.#next + 1) & (SCHEDULE - 1);
      if (flow === FIRST) this.#putFirst(slot);
      else this.#putKnown(slot, flow, false, ACK);
    }
  }

  /** Writes the next batch and has the core process it. */
  turn(): void {
    this.fill();
    this.process();
  }

  process(): void {
    this.#clock = (this.#clock + CLOCK_STEP) | 0;
    const done = this.#processBatch(this.feed.firstSlot, BATCH, this.#clock);
    if (done !== BATCH) throw new Error(`${done} packets of a batch were processed`);
  }

  /** Opens every flow by SYN, SYN with ACK, ACK. */
  establish(): void {
    for (let first = 0; first < FLOWS; first += BATCH) {
      for (const [reply, flags] of [[false, SYN], [true, SYN_ACK], [false, ACK]] as const) {
        for (let slot = 0; slot < BATCH; slot += 1) {
          this.#putKnown(slot, first + slot, reply, flags);
        }
        this.#processBatch(this.feed.firstSlot, BATCH, this.#clock);
      }
    }
    this.expectNoDrops();
  }

  /** Processes a fixed number of batches; says what came out. */
  hash(): string {
    const hash = new Hash();
    for (let batch = 0; batch < HASHED_BATCHES; batch += 1) {
      this.turn();
      this.feed.hashSlots(hash);
    }
    return hash.text();
  }

  /** Throws if any packet was dropped: then it was another path that was measured. */
  expectNoDrops(): void {
    for (const direction of ['outbound', 'inbound'] as const) {
      for (const [reason, count] of Object.entries(readDrops(this.#core, direction))) {
        if (count > 0) throw new Error(`${count} ${direction} packets dropped: ${reason}`);
      }
    }
  }

  /** True where no packet is of a known flow. */
  get isOfFirsts(): boolean {
    return this.#settings.first === 1;
  }

  /** Begins with the first batch again; what was the first of its flow is of a known one now. */
  rewind(): void {
    this.#next = 0;
    this.#firsts = 0;
  }

  /** Flows in the table, expired ones included. */
  flowCount(): number {
    return this.#core.view.getUint32(this.#flowCounter(), true);
  }

  /** Forgets every flow, by the tags of the table. */
  forgetFlows(): void {
    const count = this.#core.directory(DIRECTORY_FLOW_COUNT);
    const tags = this.#core.directory(DIRECTORY_FLOWS) + (count * FLOW_SIZE);
    this.#core.bytes.fill(0, tags, tags + count);
    this.#core.view.setUint32(this.#flowCounter(), 0, true);
  }

  /** Sends first packets until each pod has sent one of each kind, and counts the rules that have
   * decided about them. */
  countRules(): number {
    const rules = new Set<number>();
    let read = this.#verdictHead();
    const limit = this.#core.directory(DIRECTORY_VERDICT_LIMIT);
    for (let sent = 0; sent < this.#settings.pods * 4; sent += BATCH) {
      this.turn();
      for (const head = this.#verdictHead(); read !== head; read += 1) {
        const record = VERDICTS_RECORDS + ((read & (limit - 1)) * VERDICT_SIZE);
        const answer = this.#core.view.getUint32(this.#verdicts() + record + VERDICT_ANSWER, true);
        rules.add(answer >>> ANSWER_RULE_SHIFT);
      }
    }
    return rules.size;
  }

  #verdicts(): number {
    return this.#core.directory(DIRECTORY_VERDICTS);
  }

  #verdictHead(): number {
    return this.#core.view.getUint32(this.#verdicts() + VERDICTS_HEAD, true);
  }

  #flowCounter(): number {
    return WORKERS_START + WORKER_FLOWS;
  }

  /** A packet of an established flow, of its other end where `reply` says so. */
  #putKnown(slot: number, flow: number, reply: boolean, flags: number): void {
    const { pods } = this.#settings;
    const from = flow % pods;
    const to = (from + SHIFT) % pods;
    const port = KNOWN_PORT + ((flow / pods) | 0);
    if (reply) this.#put(slot, to, from, flow & 3, true, this.#settings.portOf(to), port, flags);
    else this.#put(slot, from, to, flow & 3, false, port, this.#settings.portOf(to), flags);
  }

  /** The only packet of a new flow. */
  #putFirst(slot: number): void {
    const { pods } = this.#settings;
    const pass = (this.#firsts / pods) | 0;
    const from = ((this.#firsts % pods) * STRIDE) % pods;
    const to = (from + SHIFT) % pods;
    const kind = (this.#firsts + pass) & 3;
    this.#firsts += 1;
    const port = FIRST_PORT + (pass % 60_000);
    this.#put(slot, from, to, kind, false, port, this.#settings.portOf(to), SYN);
  }

  #put(
    slot: number, from: number, to: number, kind: number, reply: boolean,
    sourcePort: number, destinationPort: number, flags: number,
  ): void {
    const { way, family } = this.#settings;
    const openerLocal = way === 'any' ? kind !== 3 : way === 'outbound';
    const otherLocal = way === 'any' ? kind !== 2 : way === 'inbound';
    const fromLocal = reply ? otherLocal : openerLocal;
    const toLocal = reply ? openerLocal : otherLocal;
    if (family === 4) {
      this.feed.putIpv4(slot, from, fromLocal, to, toLocal, sourcePort, destinationPort, flags);
    } else {
      this.feed.putIpv6(slot, from, fromLocal, to, toLocal, sourcePort, destinationPort, flags);
    }
  }
}

/** Flows of consecutive packets, FIRST for the first of a new one. */
function makeSchedule(first: number): Int32Array {
  const random = new Random(SEED);
  const zipf = new Zipf(random, FLOWS, ZIPF_EXPONENT);
  const schedule = new Int32Array(SCHEDULE);
  for (let index = 0; index < SCHEDULE; index += 1) {
    const isFirst = random.next() / 0x100000000 < first;
    // An odd factor scatters the ranks: flows of like weight are no neighbours in memory.
    schedule[index] = isFirst ? FIRST : Math.imul(zipf.next(), 40503) & (FLOWS - 1);
  }
  return schedule;
}
