// Damages super-packets, vnet headers and slots of joined datagrams by the thousand and watches
// what the core must never do: trap, write astray, send what does not lie in a slot or a header
// block, ask the kernel to cut what it cannot, or lose a packet: as many must leave or be counted
// as dropped as came, each by the packets that it stands for.

import * as layout from '../../wasm/abi/layout.ts';
import { EVENT_ICMP_SENT, REASON_COUNT } from '../../wasm/abi/verdict.ts';
import { readDrops, readEvents, REASON_NAMES } from '../../engine/counters.ts';
import type { Core } from '../../engine/core.ts';
import { writeRemote } from '../../engine/tables/peer.ts';
import { isUnderlay, sendAt, slotStart, TEST_LIMITS } from '../support/core.ts';
import { makeHome } from '../support/home.ts';
import { toHex } from '../support/packets.ts';
import { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { MemoryWatch } from './memory-watch.ts';
import { makePool, type LocalEntry, type Pool, type TrainEntry } from './offload-pool.ts';

const BATCH = 16;
/** Devices that send to peers. */
const UNDERLAY = Array.from({ length: layout.DEVICE_FIRST_ENDPOINT }, (_, index) => index)
  .filter(isUnderlay);
const FILL = 0xa5;
/** The core puts at most 108 bytes in front of a packet: a whole frame's headers. */
const HEADROOM_GUARD = layout.PACKET_HEADROOM - 112;
const LOOK_EVERY = 256;
/** Where damage is most likely to mean something: headers. */
const HEADERS_REACH = 140;
const SHOWN_BYTES = 200;
const EXTREMES = [0, 1, 2, 4, 5, 6, 7, 8, 16, 20, 40, 0x45, 0x60, 0x7f, 0x80, 0x81, 0x84, 0xff];

export interface OffloadFuzzReport {
  batches: number;
  packets: number;
  sent: number;
  dropped: number;
  segmented: number;
  coalesced: number;
  drops: Record<string, number>;
  milliseconds: number;
}

export interface OffloadFuzzOptions {
  seed: number;
  /** Whole frames go to a TAP, tier T3. */
  frames: boolean;
  segmentLimit: number;
}

export class OffloadFuzzer {
  readonly #scene: Scene;
  readonly #core: Core;
  readonly #random: Random;
  readonly #pool: Pool;
  readonly #options: OffloadFuzzOptions;
  readonly #outputs: Set<number>;
  #batches = 0;
  #packets = 0;
  #sent = 0;
  #dropped = 0;

  constructor(options: OffloadFuzzOptions) {
    this.#options = options;
    const { frames, segmentLimit } = options;
    const offloads = {
      vnetSize: 10, segmentLimit, coalesce: layout.COALESCE_TCP | layout.COALESCE_UDP,
    };
    const limits = { ...TEST_LIMITS, slots: BATCH };
    this.#scene = makeHome({ offloads, icmpRate: 100_000, icmpBurst: 1000 }, limits);
    const { core, forwarding: { devices }, endpoints } = this.#scene;
    this.#core = core;
    devices.setSenders('IPv4', '192.0.2.10', [40_000, 40_001, 40_002]);
    devices.setSenders('IPv6', '2001:db8::10', [40_003, 40_004, 40_005]);
    if (frames) {
      devices.setTunnelTap('IPv4', '0e:00:00:00:0a:04');
      devices.setTunnelTap('IPv6', '0e:00:00:00:0a:06');
    }
    this.#random = new Random(options.seed);
    this.#pool = makePool(this.#scene, this.#random);
    const pods = [...endpoints.values()].map(({ device }) => device);
    this.#outputs = new Set([layout.DEVICE_NODE, ...UNDERLAY, ...pods]);
    core.bytes.fill(FILL, slotStart(core, 0), slotStart(core, BATCH));
  }

  /** Fuzzes until `batches` have gone through or `limitMs` has passed. Throws what it finds. */
  run(batches: number, limitMs = Infinity): OffloadFuzzReport {
    const core = this.#core;
    const watch = new MemoryWatch(core, BATCH, Array.from({ length: BATCH }, (_, slot) => ({
      start: slotStart(core, slot) + HEADROOM_GUARD,
      end: core.packetAddress(slot) + layout.PACKET_CAPACITY,
    })));
    const start = performance.now();
    for (let done = 0; done < batches && performance.now() - start < limitMs; done += 1) {
      this.#batches += 1;
      const kind = this.#random.below(3);
      if (kind === 0) this.#runLocal();
      else this.#runUnderlay(kind === 2);
      if (this.#batches % LOOK_EVERY === 0) watch.look(this.#where());
    }
    watch.look(this.#where());
    return this.#report(performance.now() - start);
  }

  #where(): string {
    return `batch ${this.#batches} of seed ${this.#options.seed}`;
  }

  /** Damaged packets of pods, one to a turn, so that each can be held to what it stands for. */
  #runLocal(): void {
    const slot = this.#random.below(BATCH);
    const entry = this.#random.pick(this.#pool.local);
    const length = this.#fillLocal(slot, entry, true);
    const gsoSize = this.#core.view.getUint16(this.#vnetOf(slot, entry) + 4, true);
    const came = this.#turn(slot, 1, () => this.#show(slot));
    const most = Math.max(1, gsoSize === 0 ? 1 : Math.ceil(length / gsoSize));
    if (came < 1 || came > most) {
      throw new Error(`${this.#where()}: ${came} packets of one\n${this.#show(slot)}`);
    }
    this.#packets += came;
  }

  /** A batch of slots from the underlay, damaged; `mixed` with sound packets of pods. */
  #runUnderlay(mixed: boolean): void {
    let expected = 0;
    for (let slot = 0; slot < BATCH; slot += 1) {
      if (mixed && this.#random.oneIn(4)) {
        const entry = this.#random.pick(this.#pool.local);
        this.#fillLocal(slot, entry, false);
        expected += entry.segments;
      } else {
        expected += this.#fillTrain(slot, this.#random.pick(this.#pool.trains));
      }
    }
    const came = this.#turn(0, BATCH, () =>
      Array.from({ length: BATCH }, (_, slot) => this.#show(slot)).join('\n'));
    if (came !== expected) {
      throw new Error(`${this.#where()}: ${expected} packets came, ${came} left or were dropped`);
    }
    this.#packets += came;
  }

  /** Runs slots through the core and judges what it wants sent. Returns packets sent and dropped,
   * without the errors that the core made. */
  #turn(first: number, count: number, show: () => string): number {
    const [dropped, errors] = [this.#countDrops(), this.#countErrors()];
    let sent = 0;
    for (let done = 0; done < count;) {
      let now = 0;
      try {
        now = this.#core.exports.processBatch(first + done, count - done, (this.#batches * 3) | 0);
      } catch (error) {
        throw new Error(`${this.#where()} traps: ${String(error)}\n${show()}`);
      }
      if (now < 1) throw new Error(`${this.#where()} does not go on\n${show()}`);
      done += now;
      const sends = this.#core.view.getUint32(layout.WORKERS_START + layout.WORKER_SENDS, true);
      for (let send = 0; send < sends; send += 1) {
        const fault = this.#judge(sendAt(this.#core, send));
        if (fault !== '') throw new Error(`${this.#where()}, send ${send}: ${fault}\n${show()}`);
        sent += this.#core.view.getUint16(sendAt(this.#core, send) + layout.SEND_PACKETS, true);
      }
    }
    const [lost, made] = [this.#countDrops() - dropped, this.#countErrors() - errors];
    this.#sent += sent - made;
    this.#dropped += lost;
    return sent - made + lost;
  }

  /** What is wrong with a send; empty where nothing is. */
  #judge(send: number): string {
    const { view } = this.#core;
    const device = view.getUint16(send + layout.SEND_DEVICE, true);
    if (!this.#outputs.has(device)) return `output device ${device}`;
    const first = view.getUint32(send + layout.SEND_PIECES, true);
    const count = view.getUint32(send + layout.SEND_PIECE_COUNT, true);
    const length = view.getUint32(send + layout.SEND_LENGTH, true);
    let total = 0;
    for (let piece = 0; piece < count; piece += 1) {
      const at = first + (piece * layout.PIECE_SIZE);
      const fault = this.#judgePiece(view.getUint32(at, true), view.getUint32(at + 8, true));
      if (fault !== '') return fault;
      total += view.getUint32(at + 8, true);
    }
    if (total !== length || count === 0) return `${length} bytes, but pieces of ${total}`;
    const packets = view.getUint16(send + layout.SEND_PACKETS, true);
    if (packets < 1 || packets > layout.SEGMENTS_MAX) return `${packets} packets`;
    const isToPeer = isUnderlay(device);
    if (isToPeer !== (view.getUint32(send + layout.SEND_PEER, true) !== 0)) return 'no peer';
    const isFrame = (view.getUint8(send + layout.SEND_FLAGS) & layout.SEND_FLAG_FRAME) !== 0;
    const size = view.getUint16(send + layout.SEND_SEGMENT_SIZE, true);
    if (!isToPeer || isFrame || packets === 1) {
      return size === 0 ? '' : `one datagram of ${packets} packets in sizes of ${size}`;
    }
    const isCuttable = size > 0 && Math.ceil(length / size) === packets
      && packets <= this.#options.segmentLimit && length <= layout.DATAGRAMS_BYTES_MAX;
    return isCuttable ? '' : `${packets} datagrams of ${size} in ${length} bytes`;
  }

  /** A piece lies in a slot, or in header blocks that were taken. */
  #judgePiece(start: number, length: number): string {
    const core = this.#core;
    const end = start + length;
    const headers = core.directory(layout.DIRECTORY_HEADERS);
    const taken = core.view.getUint32(layout.WORKERS_START + layout.WORKER_HEADERS, true);
    const slots = slotStart(core, 0);
    const slot = Math.floor((start - slots) / layout.SLOT_STRIDE);
    const isWithin = start >= slots
      ? slot < BATCH && end <= slotStart(core, slot + 1)
      : start >= headers && end <= headers + (taken * layout.HEADER_STRIDE);
    if (isWithin && length > 0) return '';
    return `a piece of ${length} bytes at ${start} lies in no slot or block`;
  }

  #vnetOf(slot: number, { vnet }: LocalEntry): number {
    return this.#core.packetAddress(slot) - vnet.length;
  }

  /** Puts a packet of a pod into a slot. Returns its length. */
  #fillLocal(slot: number, entry: LocalEntry, isDamaged: boolean): number {
    const { bytes } = this.#core;
    const start = this.#core.packetAddress(slot);
    const header = this.#vnetOf(slot, entry);
    bytes.set(entry.vnet, header);
    bytes.set(entry.packet, start);
    let { length } = entry.packet;
    for (let left = isDamaged ? this.#random.below(4) : 0; left > 0; left -= 1) {
      const how = this.#random.below(6);
      if (how < 3) this.#set(header + this.#random.below(entry.vnet.length));
      else if (how === 3) this.#set(start + this.#random.below(Math.min(length, HEADERS_REACH)));
      else if (how === 4) this.#flip(start, length);
      else length = this.#random.oneIn(2) ? this.#random.below(length + 1) : length;
      if (length === 0) break;
    }
    if (this.#random.below(4) > 0) this.#repair(start + entry.layer3, length - entry.layer3);
    this.#describe(slot, { length, input: entry.input, segmentSize: 0, outerTos: 0 });
    return length;
  }

  /** Puts datagrams of a train into a slot. Returns how many the slot stands for. */
  #fillTrain(slot: number, entry: TrainEntry): number {
    const random = this.#random;
    const { bytes } = this.#core;
    const start = this.#core.packetAddress(slot);
    const first = random.below(entry.starts.length);
    const from = entry.starts[first] ?? 0;
    const to = entry.starts[first + random.between(1, 48)] ?? entry.bytes.length;
    bytes.set(entry.bytes.subarray(from, to), start);
    let length = to - from;
    for (let left = random.below(4); left > 0; left -= 1) {
      const datagram = start + (random.below(Math.ceil(length / entry.size)) * entry.size);
      const how = random.below(8);
      if (how < 4) this.#set(datagram + random.below(HEADERS_REACH));
      else if (how < 6) this.#flip(start, length);
      else if (how === 6) this.#set(datagram + 22 + random.pick([0, 1, 6, 8, 9, 33, 32]));
      else length = random.between(1, length);
    }
    if (random.oneIn(2)) this.#repair(start + 22, length - 22);
    const segmentSize = random.oneIn(12)
      ? random.pick([0, 70, entry.size - 1, entry.size + 1, 65_535,
        random.oneIn(20) ? random.pick([1, 21, 22, 23]) : 900])
      : entry.size;
    this.#describe(slot, { length, input: entry.input, segmentSize, outerTos: random.below(4) });
    const at = this.#core.descriptorAddress(slot) + layout.DESCRIPTOR_SOURCE;
    writeRemote(this.#core.view, bytes, at, entry.source.address, entry.source.port);
    if (random.oneIn(50)) this.#flip(at, layout.REMOTE_IPV6_SIZE);
    return segmentSize === 0 ? 1 : Math.ceil(length / segmentSize);
  }

  #describe(
    slot: number,
    given: { length: number; input: number; segmentSize: number; outerTos: number },
  ): void {
    const { view } = this.#core;
    const descriptor = this.#core.descriptorAddress(slot);
    view.setUint32(descriptor + layout.DESCRIPTOR_START, this.#core.packetAddress(slot), true);
    view.setUint32(descriptor + layout.DESCRIPTOR_LENGTH, given.length, true);
    view.setUint16(descriptor + layout.DESCRIPTOR_INPUT, given.input, true);
    view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, given.segmentSize, true);
    view.setUint8(descriptor + layout.DESCRIPTOR_OUTER_TOS, given.outerTos);
  }

  #set(at: number): void {
    this.#core.bytes[at] = this.#random.pick(EXTREMES);
  }

  #flip(start: number, length: number): void {
    if (length === 0) return;
    const reach = this.#random.oneIn(2) ? length : Math.min(length, HEADERS_REACH);
    const at = start + this.#random.below(reach);
    this.#core.bytes[at] = (this.#core.bytes[at] ?? 0) ^ (1 << this.#random.below(8));
  }

  /** Makes length and checksum of an IPv4 header, or the length of an IPv6 one, right again. */
  #repair(header: number, length: number): void {
    const { bytes, view } = this.#core;
    if (length < 40) return;
    const first = bytes[header] ?? 0;
    if (first >> 4 === 6 && this.#random.oneIn(2)) view.setUint16(header + 4, length - 40);
    const size = (first & 0x0f) * 4;
    if (first >> 4 !== 4 || size < 20 || size > length) return;
    if (this.#random.oneIn(2)) view.setUint16(header + 2, length);
    view.setUint16(header + 10, 0);
    let sum = 0;
    for (let at = 0; at < size; at += 2) sum += view.getUint16(header + at);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    view.setUint16(header + 10, 0xffff - sum);
  }

  #countDrops(): number {
    let sum = 0;
    for (let direction = 0; direction < 2; direction += 1) {
      for (let reason = 1; reason < REASON_COUNT; reason += 1) {
        const index = (direction * layout.WORKER_DROP_REASONS) + reason;
        const at = layout.WORKERS_START + layout.WORKER_DROPS
          + (index * layout.WORKER_DROP_STRIDE);
        sum += this.#core.view.getUint32(at, true);
      }
    }
    return sum;
  }

  #countErrors(): number {
    const at = layout.WORKERS_START + layout.WORKER_EVENTS + (EVENT_ICMP_SENT * 8);
    return this.#core.view.getUint32(at, true);
  }

  #show(slot: number): string {
    const { view, bytes } = this.#core;
    const descriptor = this.#core.descriptorAddress(slot);
    const length = view.getUint32(descriptor + layout.DESCRIPTOR_LENGTH, true);
    const input = view.getUint16(descriptor + layout.DESCRIPTOR_INPUT, true);
    const size = view.getUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, true);
    const start = this.#core.packetAddress(slot);
    return `# slot ${slot}, device ${input}, ${length} bytes, in sizes of ${size}\n`
      + `${toHex(bytes.slice(start - 10, start))} | `
      + toHex(bytes.slice(start, start + Math.min(length, SHOWN_BYTES)));
  }

  #report(milliseconds: number): OffloadFuzzReport {
    const { segmented = 0, coalesced = 0 } = readEvents(this.#core);
    const drops: Record<string, number> = {};
    for (const direction of ['outbound', 'inbound'] as const) {
      for (const [name, count] of Object.entries(readDrops(this.#core, direction))) {
        if (count > 0 && REASON_NAMES.includes(name)) drops[`${direction} ${name}`] = count;
      }
    }
    return {
      batches: this.#batches, packets: this.#packets, sent: this.#sent, dropped: this.#dropped,
      segmented, coalesced, drops, milliseconds,
    };
  }
}
