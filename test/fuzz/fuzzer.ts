// Sends damaged packets through the core by the million and watches what it must never do: trap,
// write anywhere but into the batch's slots and descriptors, its own counters, flows, fragments and
// verdicts, lose a packet uncounted, or hand on one that does not lie in its slot.

import * as layout from '../../wasm/abi/layout.ts';
import * as verdict from '../../wasm/abi/verdict.ts';
import { readDrops, readEvents } from '../../engine/counters.ts';
import type { Core } from '../../engine/core.ts';
import { isUnderlay, sendAt, slotEnd, slotStart, TEST_LIMITS } from '../support/core.ts';
import { makeHome } from '../support/home.ts';
import { toHex } from '../support/packets.ts';
import type { Scene } from '../support/scene.ts';
import { readCorpus, type CorpusEntry } from './corpus.ts';
import { MemoryWatch, type Open } from './memory-watch.ts';
import { Mutator, PACKET_REACH } from './mutate.ts';

const BATCH = 64;
const FILL = 0xa5;
/** What flannel's udp takes of the scene's underlay. */
const UDP_MTU = 1472;
/** Devices that send to peers. */
const UNDERLAY = Array.from({ length: layout.DEVICE_FIRST_ENDPOINT }, (_, index) => index)
  .filter(isUnderlay);
/** The core puts at most 70 bytes in front of a packet; the rest of the headroom stays as it is. */
const HEADROOM_GUARD = layout.PACKET_HEADROOM - 72;
/** Batches between two looks at the whole memory. */
const LOOK_EVERY = 1024;

export interface FuzzReport {
  packets: number;
  sent: number;
  dropped: number;
  icmpSent: number;
  neighbourAnswered: number;
  /** Reasons that were seen, by name. */
  drops: Record<string, number>;
  milliseconds: number;
}

export class Fuzzer {
  readonly scene: Scene;
  readonly entries: CorpusEntry[];
  readonly #core: Core;
  readonly #seed: number;
  readonly #firstSlot: number;
  #mutator: Mutator;
  #batches = 0;
  #sent = 0;
  /** Index of the next send of the batch that is judged. */
  #send = 0;
  #answered = 0;
  readonly #outputs: Set<number>;
  /** Where the peers' remotes are. */
  readonly #remotes: number[] = [];

  /** `prepare` changes the scene before the memory is looked at; `only` is what names of the corpus
   * begin with that are used. */
  constructor(seed: number, prepare: (scene: Scene) => void = () => {}, only = '') {
    this.#seed = seed;
    const slots = BATCH * 2;
    this.scene = makeHome({ icmpRate: 100_000, icmpBurst: 1000 }, { ...TEST_LIMITS, slots });
    this.#core = this.scene.core;
    prepare(this.scene);
    this.#firstSlot = BATCH;
    this.entries = readCorpus(this.scene).filter(({ name }) => name.startsWith(only));
    if (this.entries.length > BATCH) throw new Error('the corpus has more files than slots');
    const slotsAt = slotStart(this.#core, 0);
    this.#core.bytes.fill(FILL, slotsAt, slotsAt + (slots * layout.SLOT_STRIDE));
    this.#mutator = new Mutator(this.#core, this.entries, this.#firstSlot, seed);
    const pods = [...this.scene.endpoints.values()].map(({ device }) => device);
    this.#outputs = new Set([layout.DEVICE_NODE, ...UNDERLAY, ...pods]);
    const peers = this.#core.directory(layout.DIRECTORY_PEERS);
    for (const { record } of this.scene.forwarding.peers.values()) {
      this.#remotes.push(peers + (record * layout.PEER_STRIDE) + layout.PEER_REMOTE);
    }
  }

  /** Fuzzes until `packets` have gone through. Throws what it finds. */
  run(packets: number): FuzzReport {
    const watch = new MemoryWatch(this.#core, BATCH, this.#openSlots());
    const start = performance.now();
    let done = 0;
    for (; done < packets; done += BATCH) {
      this.#runBatch();
      if (this.#batches % LOOK_EVERY === 0) watch.look(`batch ${this.#batches}`);
    }
    watch.look(`batch ${this.#batches}`);
    return this.#report(done, performance.now() - start);
  }

  #runBatch(): void {
    for (let slot = 0; slot < BATCH; slot += 1) this.#mutator.fill(slot);
    this.#batches += 1;
    try {
      this.#core.exports.processBatch(0, BATCH, this.#nowMs());
    } catch (error) {
      throw new Error(`batch ${this.#batches} traps: ${String(error)}\n${this.#findTrap()}`);
    }
    this.#send = 0;
    for (let slot = 0; slot < BATCH; slot += 1) {
      const fault = this.#judge(slot);
      if (fault === '') continue;
      throw new Error(`batch ${this.#batches}, slot ${slot}: ${fault}\n${this.#recall(slot)}`);
    }
  }

  #nowMs(): number {
    return (this.#batches * 3) | 0;
  }

  /** What is wrong with the verdict of a slot; empty where nothing is. */
  #judge(slot: number): string {
    const { view } = this.#core;
    const descriptor = this.#core.descriptorAddress(slot);
    const decided = view.getUint8(descriptor + layout.DESCRIPTOR_VERDICT);
    const reason = view.getUint8(descriptor + layout.DESCRIPTOR_REASON);
    const isHosts = reason >= verdict.REASON_DEVICE_FULL && reason <= verdict.REASON_FAULT;
    if (isHosts || reason >= verdict.REASON_COUNT) return `reason ${reason}`;
    if (decided === verdict.VERDICT_DROP) return reason === 0 ? 'dropped for no reason' : '';
    if (decided !== verdict.VERDICT_SEND) return `verdict ${decided}`;
    this.#sent += 1;
    if (reason !== verdict.REASON_NONE) this.#answered += 1;
    const start = view.getUint32(descriptor + layout.DESCRIPTOR_START, true);
    const length = view.getUint32(descriptor + layout.DESCRIPTOR_LENGTH, true);
    const first = slotStart(this.#core, slot) + HEADROOM_GUARD;
    if (start < first || length === 0 || start + length > slotEnd(this.#core, slot)) {
      return `packet at ${start - first}, ${length} bytes, is not within its slot`;
    }
    const output = view.getUint16(descriptor + layout.DESCRIPTOR_OUTPUT, true);
    if (!this.#outputs.has(output)) return `output device ${output}`;
    const isUdp = output === layout.DEVICE_UDP_IPV4 && reason === verdict.REASON_NONE;
    if (isUdp && length > UDP_MTU) return this.#judgeFragments(start, length);
    const send = sendAt(this.#core, this.#send);
    this.#send += 1;
    const piece = view.getUint32(send + layout.SEND_PIECES, true);
    if (view.getUint32(send + layout.SEND_PIECE_COUNT, true) !== 1) return 'not one piece';
    if (view.getUint32(send + layout.SEND_LENGTH, true) !== length
      || view.getBigUint64(piece, true) !== BigInt(start)
      || view.getBigUint64(piece + 8, true) !== BigInt(length)
      || view.getUint16(send + layout.SEND_DEVICE, true) !== output) return 'not what is sent';
    if (!isUnderlay(output)) return '';
    return this.#isPeer(send + layout.SEND_REMOTE) ? '' : 'remote of no peer';
  }

  /** What is wrong with the fragments of a packet; empty where nothing is. */
  #judgeFragments(start: number, length: number): string {
    const { view, bytes } = this.#core;
    const header = ((bytes[start] ?? 0) & 0x0f) * 4;
    for (let at = header; at < length;) {
      const send = sendAt(this.#core, this.#send);
      this.#send += 1;
      const first = view.getUint32(send + layout.SEND_PIECES, true);
      const second = first + layout.PIECE_SIZE;
      if (view.getUint32(send + layout.SEND_PIECE_COUNT, true) !== 2
        || view.getBigUint64(first + 8, true) !== BigInt(header)
        || view.getBigUint64(second, true) !== BigInt(start + at)) return 'no fragment';
      at += view.getUint32(second + 8, true);
      if (at > length) return 'fragments of more than there is';
    }
    return '';
  }

  /** True where the remote at an address is a peer's, byte for byte. */
  #isPeer(remote: number): boolean {
    const { view } = this.#core;
    return this.#remotes.some((known) => {
      for (let at = 0; at < layout.REMOTE_IPV6_SIZE; at += 4) {
        if (view.getUint32(remote + at) !== view.getUint32(known + at)) return false;
      }
      return true;
    });
  }

  /** What a batch may write of its slots. */
  #openSlots(): Open[] {
    return Array.from({ length: BATCH }, (_, slot) => ({
      start: slotStart(this.#core, slot) + HEADROOM_GUARD,
      end: this.#core.packetAddress(slot) + PACKET_REACH,
    }));
  }

  #report(packets: number, milliseconds: number): FuzzReport {
    const drops: Record<string, number> = {};
    let dropped = 0;
    for (const direction of ['outbound', 'inbound'] as const) {
      for (const [name, count] of Object.entries(readDrops(this.#core, direction))) {
        if (count > 0) drops[`${direction} ${name}`] = count;
        dropped += count;
      }
    }
    const { icmpSent = 0, resetSent = 0, neighbourAnswered = 0 } = readEvents(this.#core);
    const answers = icmpSent + resetSent;
    if (answers !== this.#answered) {
      throw new Error(`${this.#answered} answers in slots, ${answers} counted`);
    }
    // An ICMP error or a reset takes the place of a packet that was counted as dropped.
    if (this.#sent - answers + dropped !== packets) {
      throw new Error(`${packets} packets, but ${this.#sent} sent, ${answers} of them answers, `
        + `and ${dropped} dropped`);
    }
    return {
      packets, sent: this.#sent, dropped, icmpSent, neighbourAnswered, drops, milliseconds,
    };
  }

  /** Makes the packets of this batch once more, unprocessed. */
  #rewind(): void {
    this.#mutator = new Mutator(this.#core, this.entries, this.#firstSlot, this.#seed);
    for (let batch = 0; batch < this.#batches; batch += 1) {
      for (let slot = 0; slot < BATCH; slot += 1) this.#mutator.fill(slot);
    }
  }

  /** The slot's packet as a file for the corpus. */
  #recall(slot: number): string {
    this.#rewind();
    return this.#describe(slot);
  }

  #findTrap(): string {
    this.#rewind();
    for (let slot = 0; slot < BATCH; slot += 1) {
      const packet = this.#describe(slot);
      try {
        this.#core.exports.processBatch(slot, 1, this.#nowMs());
      } catch {
        return packet;
      }
    }
    return 'no packet of the batch traps alone';
  }

  #describe(slot: number): string {
    const { view, bytes } = this.#core;
    const descriptor = this.#core.descriptorAddress(slot);
    const start = view.getUint32(descriptor + layout.DESCRIPTOR_START, true);
    const length = view.getUint32(descriptor + layout.DESCRIPTOR_LENGTH, true);
    const input = view.getUint16(descriptor + layout.DESCRIPTOR_INPUT, true);
    const source = toHex(bytes.slice(descriptor + layout.DESCRIPTOR_SOURCE,
      descriptor + layout.DESCRIPTOR_SOURCE + layout.REMOTE_IPV6_SIZE));
    const shown = bytes.slice(start, start + Math.min(length, PACKET_REACH));
    return `# device ${input}, remote ${source}, ${length} bytes\n${toHex(shown)}\n`;
  }
}
