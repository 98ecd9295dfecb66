// The slow twins together: a packet of a device with vnet headers, and a slot of datagrams that the
// kernel joined, through test/reference/forward.ts, cut and joined by test/reference/offload.ts.

import type { TwinVerdict } from '../reference/forward.ts';
import { carried } from '../reference/ecn.ts';
import {
  beginning, coalesce, finishChecksum, gsoTypeOf, isSaid, join, segment, takeApart, unfinished,
  vnetOf, type Arrived, type Joined, type Kinds,
} from '../reference/offload.ts';
import * as reason from '../../wasm/abi/verdict.ts';
import type { Remote } from './core.ts';
import { concat, read16, toHex } from './packets.ts';
import type { Scene } from './scene.ts';
import { GSO, VNET_FLAG, parseVnet, vnet, type Vnet } from './vnet.ts';

const ETHERNET_SIZE = 14;
const VNET_SIZE = 10;
const TUNNEL_SIZE = 22;

/** What must leave: one datagram to a peer, or one packet, whole or not, to a local device. A
 * super-packet that leaves whole for a peer has its `gsoSize`, and `ecn`; what a frame puts around
 * its bytes is left out. */
export interface Leaving {
  device: number;
  remote: Remote | null;
  bytes: Uint8Array;
  packets: number;
  gsoSize?: number;
  ecn?: boolean;
}

/** What the node's devices take. */
export interface Taken extends Kinds {
  /** Which local devices take vnet headers. */
  vnet(device: number): boolean;
  /** Whole frames for peers go to a TAP. */
  frames: boolean;
}

/** What is read from an underlay device at a time: datagrams of one sender. */
export interface Slot {
  input: number;
  source: Remote;
  outerTos: number;
  datagrams: Uint8Array[];
}

export class OffloadTwin {
  readonly #scene: Scene;
  readonly #taken: Taken;

  constructor(scene: Scene, taken: Taken) {
    this.#scene = scene;
    this.#taken = taken;
  }

  /** What becomes of a packet, or frame, of a local device behind its vnet header. */
  outbound(input: number, header: Uint8Array, received: Uint8Array, nowMs: number): Leaving[] {
    const link = this.#linkOf(input);
    const packet = received.subarray(link);
    const said = parseVnet(header);
    const [start, gsoSize] = [said.checksumStart - link, said.gsoSize];
    if (!isSaid(packet, { ...said, checksumStart: start })) {
      count(this.#scene.twin.drops.outbound, reason.REASON_OFFLOAD, 1);
      return [];
    }
    const { payload } = takeApart(packet);
    if (said.gsoType !== GSO.none && payload.length > gsoSize) {
      return this.#outboundSuper(input, received, said, nowMs);
    }
    const verdict = this.#scene.twin.decide(input, received, null, nowMs);
    const isAnswer = verdict.reason !== reason.REASON_NONE;
    if (isAnswer || (said.flags & VNET_FLAG.needsChecksum) === 0) return this.#leave(verdict);
    return this.#leaveOpen(verdict, start, said.checksumOffset);
  }

  /** What becomes of a batch of slots from the underlay. */
  inbound(slots: readonly Slot[], nowMs: number): Leaving[] {
    const datagrams = slots.flatMap((slot) =>
      slot.datagrams.map((datagram) => ({ slot, datagram })));
    const arrived = datagrams.map(({ slot, datagram }, index) => arrivedAs(slot, datagram, index));
    let done = 0;
    return coalesce(arrived, this.#taken).flatMap(({ segments, gsoSize }) => {
      const run = datagrams.slice(done, done + segments);
      done += segments;
      return this.#inboundRun(run, gsoSize, nowMs);
    });
  }

  /** Packets of one run: all go the way of the first, and an error is told once. */
  #inboundRun(
    run: { slot: Slot; datagram: Uint8Array }[], gsoSize: number, nowMs: number,
  ): Leaving[] {
    const { twin } = this.#scene;
    const decide = ({ slot, datagram }: { slot: Slot; datagram: Uint8Array }): TwinVerdict =>
      twin.decide(slot.input, datagram, slot.source, nowMs, slot.outerTos);
    const [first, ...rest] = run;
    if (first === undefined) return [];
    if (gsoSize === 0) return this.#leave(decide(first));
    twin.events.coalesced += 1;
    const packets = run.map(({ datagram }) => trimmed(datagram.subarray(TUNNEL_SIZE)));
    const whole = unfinished(join(packets));
    const quoted = concat(first.datagram.subarray(0, TUNNEL_SIZE),
      beginning(whole, { gsoType: gsoTypeOf(whole), segmentSize: gsoSize }));
    const verdict = this.#decideFirst(run.length, 'inbound', () =>
      decide({ ...first, datagram: quoted }));
    if (verdict.reason !== reason.REASON_NONE) return this.#leave(verdict);
    const verdicts = [{ ...verdict, bytes: withTransport(verdict.bytes, packets[0] ?? whole) },
      ...rest.map(decide)];
    const link = this.#linkOf(verdict.output);
    const joined = join(verdicts.map(({ bytes }) => bytes.subarray(link)));
    if (!this.#taken.vnet(verdict.output)) {
      twin.events.segmented += 1;
      const cut = segment(joined, { gsoType: gsoTypeOf(joined), segmentSize: gsoSize });
      return cut.flatMap((one) =>
        this.#leave({ ...verdict, bytes: concat(verdict.bytes.subarray(0, link), one) }));
    }
    const packet = unfinished(joined);
    return [this.#leaveJoined(verdict, { packet, segments: run.length, gsoSize })];
  }

  /** Packets of one super-packet: all go the way of the first, and an error is told once. */
  #outboundSuper(input: number, received: Uint8Array, said: Vnet, nowMs: number): Leaving[] {
    const { twin } = this.#scene;
    const link = received.subarray(0, this.#linkOf(input));
    const packet = received.subarray(link.length);
    const cut = { gsoType: said.gsoType, segmentSize: said.gsoSize };
    const packets = segment(packet, cut);
    const verdict = this.#decideFirst(packets.length, 'outbound', () =>
      twin.decide(input, concat(link, beginning(packet, cut)), null, nowMs));
    if (verdict.reason !== reason.REASON_NONE) return this.#leave(verdict);
    const [first = packet, ...rest] = packets;
    const verdicts = [{ ...verdict, bytes: withTransport(verdict.bytes, first) },
      ...rest.map((one) => twin.decide(input, concat(link, one), null, nowMs))];
    const outLink = verdict.remote === null ? this.#linkOf(verdict.output) : TUNNEL_SIZE;
    const whole = join(verdicts.map(({ bytes }) => bytes.subarray(outLink)));
    if (verdict.remote !== null && this.#fitsFrame(verdict, whole, first)) {
      const bytes = concat(verdict.bytes.subarray(0, outLink), unfinished(whole));
      return [{ device: verdict.output, remote: verdict.remote, bytes, packets: packets.length,
        gsoSize: said.gsoSize, ecn: (said.gsoType & GSO.ecn) !== 0 }];
    }
    if (verdict.remote !== null || !this.#taken.vnet(verdict.output)) {
      twin.events.segmented += 1;
      return verdicts.flatMap((one) => this.#leave(one));
    }
    const joined = { packet: unfinished(whole), segments: packets.length, gsoSize: said.gsoSize };
    return [this.#leaveJoined(verdict, joined, said.gsoType & GSO.ecn)];
  }

  /** A frame is an IP packet, and none of its packets may have to be fragmented. */
  #fitsFrame({ remote }: TwinVerdict, whole: Uint8Array, first: Uint8Array): boolean {
    const target = this.#scene.twin.tables.remotes.get(remote?.address ?? '');
    if (target?.kind !== 'peer' || !this.#taken.frames) return false;
    const outer = (remote?.address.includes(':') === true ? 40 : 20) + 8 + TUNNEL_SIZE;
    return whole.length + outer <= 65_535 && first.length <= target.peer.mtu;
  }

  /** Decides the first of several packets that go one way. Where that is nowhere, all are counted
   * as received, where the first was, and as dropped. */
  #decideFirst(
    packets: number, direction: 'outbound' | 'inbound', decide: () => TwinVerdict,
  ): TwinVerdict {
    const { drops, traffic } = this.#scene.twin;
    const received = new Map([...traffic].map(([target, { rxPackets }]) => [target, rxPackets]));
    const verdict = decide();
    if (verdict.reason === reason.REASON_NONE) return verdict;
    count(drops[direction], verdict.reason, packets - 1);
    for (const [target, counted] of traffic) {
      if (counted.rxPackets > (received.get(target) ?? 0)) counted.rxPackets += packets - 1;
    }
    return verdict;
  }

  /** A packet whose checksum was left to us: a device with vnet headers finishes it itself. */
  #leaveOpen(verdict: TwinVerdict, start: number, offset: number): Leaving[] {
    const link = verdict.remote === null ? this.#linkOf(verdict.output) : TUNNEL_SIZE;
    if (verdict.remote !== null || !this.#taken.vnet(verdict.output)) {
      const finished = finishChecksum(verdict.bytes.subarray(link), start, offset);
      const bytes = concat(verdict.bytes.subarray(0, link), finished);
      return this.#leave({ ...verdict, bytes });
    }
    const header = vnet({ flags: 1, checksumStart: link + start, checksumOffset: offset });
    return this.#leave(verdict, header);
  }

  #leaveJoined(verdict: TwinVerdict, joined: Joined, ecn = 0): Leaving {
    const link = this.#linkOf(verdict.output);
    const header = vnetOf(joined, link);
    header[1] = (header[1] ?? 0) | ecn;
    const bytes = concat(header, verdict.bytes.subarray(0, link), joined.packet);
    return { device: verdict.output, remote: null, bytes, packets: joined.segments };
  }

  #leave(
    { sent, output, remote, bytes }: TwinVerdict, header: Uint8Array = new Uint8Array(VNET_SIZE),
  ): Leaving[] {
    if (!sent) return [];
    const dressed = remote === null && this.#taken.vnet(output) ? concat(header, bytes) : bytes;
    return [{ device: output, remote, bytes: dressed, packets: 1 }];
  }

  #linkOf(device: number): number {
    return this.#scene.twin.tables.devices.get(device)?.kind === 'tap' ? ETHERNET_SIZE : 0;
  }
}

function count(drops: Map<number, number>, why: number, packets: number): void {
  if (packets > 0) drops.set(why, (drops.get(why) ?? 0) + packets);
}

/** What was sent, with the transport header and payload that a packet has. */
function withTransport(sent: Uint8Array, packet: Uint8Array): Uint8Array {
  const { ip } = takeApart(packet);
  const link = sent.length - packet.length;
  return concat(sent.subarray(0, link + ip.length), packet.subarray(ip.length));
}

/** What joining looks at. A datagram that has no way to be a packet is like no other. */
function arrivedAs(slot: Slot, datagram: Uint8Array, index: number): Arrived {
  const packet = datagram.subarray(TUNNEL_SIZE);
  const alone = { packet: new Uint8Array(40), from: `alone ${index}` };
  if (packet.length < 20 || ((packet[0] ?? 0) >> 4 === 6 && packet.length < 40)) return alone;
  const marked = carried(trimmed(packet), slot.outerTos);
  if (marked === null || totalLength(packet) > packet.length) return alone;
  const { address, port } = slot.source;
  const header = toHex(datagram.subarray(0, TUNNEL_SIZE));
  return { packet: marked, from: [slot.input, address, port, slot.outerTos, header].join() };
}

/** Without link-layer padding. */
function trimmed(packet: Uint8Array): Uint8Array {
  return packet.subarray(0, totalLength(packet));
}

function totalLength(packet: Uint8Array): number {
  return (packet[0] ?? 0) >> 4 === 4 ? read16(packet, 2) : 40 + read16(packet, 4);
}
