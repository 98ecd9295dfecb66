// Streams of one sender, as they come to Culvert: whole, as super-packets from a pod, or in packets
// from a peer. Everything that a kernel may choose is chosen at random.

import type { Family } from '../../engine/address.ts';
import { gsoTypeOf, takeApart, unfinished } from '../reference/offload.ts';
import { PROTOCOL, ipv4, ipv6, tcp, udp, word32 } from './packets.ts';
import type { Random } from './random.ts';
import { VNET_FLAG, vnet } from './vnet.ts';

export interface Ends {
  family: Family;
  source: string;
  destination: string;
}

/** What all packets of a stream have in common, and where it stands. */
export interface Stream extends Ends {
  protocol: number;
  sourcePort: number;
  destinationPort: number;
  tos: number;
  ttl: number;
  flowLabel: number;
  dontFragment: boolean;
  identification: number;
  sequence: number;
  acknowledgment: number;
  window: number;
  options: Uint8Array;
}

/** What changes from packet to packet. */
export interface Chosen {
  flags?: number;
  urgent?: number;
  ipOptions?: Uint8Array;
}

/** A super-packet with the vnet header that the kernel puts in front. */
export interface Super {
  header: Uint8Array;
  packet: Uint8Array;
  segmentSize: number;
}

const NOISE_BYTES = 1 << 17;
const ACK = 0x10;

export class Trains {
  readonly #random: Random;
  readonly #noise: Uint8Array;

  constructor(random: Random) {
    this.#random = random;
    this.#noise = random.bytes(NOISE_BYTES);
  }

  stream(ends: Ends, protocol: number = this.#protocol()): Stream {
    const random = this.#random;
    // RFC 7323 appendix A: two of padding, then the timestamps.
    const timestamps = Uint8Array.from([1, 1, 8, 10, ...word32(random.next()), ...word32(7)]);
    return {
      ...ends, protocol,
      sourcePort: random.between(1024, 65535), destinationPort: random.pick([80, 443, 5201]),
      tos: random.pick([0, 0, 2, 0x28, 0xb8, 1]), ttl: random.between(2, 255),
      flowLabel: random.below(1 << 20), dontFragment: !random.oneIn(4),
      identification: random.pick([random.below(65536), 65530]),
      sequence: random.pick([random.next(), 0xffff_fff0]), acknowledgment: random.next(),
      window: random.below(65536),
      options: random.pick([timestamps, timestamps, new Uint8Array(0), random.bytes(40),
        random.bytes(4)]),
    };
  }

  /** Any bytes. */
  payload(size: number): Uint8Array {
    const start = this.#random.below(NOISE_BYTES - size);
    return this.#noise.subarray(start, start + size);
  }

  /** The stream's next packet, complete with checksums; the stream moves on. */
  next(stream: Stream, payload: Uint8Array, chosen: Chosen = {}): Uint8Array {
    const { family, protocol, source, destination } = stream;
    const upper = protocol === PROTOCOL.tcp
      ? tcp({ ...stream, flags: chosen.flags ?? ACK, urgent: chosen.urgent ?? 0 }, payload)
      : udp(stream, payload);
    const packet = family === 'IPv4'
      ? ipv4({ ...stream, options: chosen.ipOptions ?? new Uint8Array(0) }, upper)
      : ipv6({ source, destination, nextHeader: protocol, hopLimit: stream.ttl,
        trafficClass: stream.tos, flowLabel: stream.flowLabel }, upper);
    stream.identification = (stream.identification + 1) & 0xffff;
    stream.sequence = (stream.sequence + payload.length) >>> 0;
    return packet;
  }

  /** The stream's next bytes as one super-packet. */
  whole(stream: Stream, size: number, segmentSize: number, chosen: Chosen = {}): Super {
    const packet = unfinished(this.next(stream, this.payload(size), chosen));
    const segments = Math.ceil(size / segmentSize);
    stream.identification = (stream.identification + segments - 1) & 0xffff;
    return { header: this.header(packet, segmentSize), packet, segmentSize };
  }

  /** The vnet header of a super-packet. The kernel's header length is anything that it likes. */
  header(packet: Uint8Array, segmentSize: number): Uint8Array {
    const { ip } = takeApart(packet);
    const gsoType = gsoTypeOf(packet);
    return vnet({
      flags: VNET_FLAG.needsChecksum, gsoType, gsoSize: segmentSize,
      headerLength: this.#random.below(200), checksumStart: ip.length,
      checksumOffset: gsoType === 5 ? 6 : 16,
    });
  }

  /** The stream's next packets, of equal size but for the last. */
  train(stream: Stream, count: number, size: number, last = size): Uint8Array[] {
    return Array.from({ length: count }, (_, index) => {
      const isLast = index === count - 1;
      const flags = isLast ? this.#random.pick([0x10, 0x18, 0x18, 0x19]) : ACK;
      return this.next(stream, this.payload(isLast ? last : size), { flags });
    });
  }

  #protocol(): number {
    return this.#random.pick([PROTOCOL.tcp, PROTOCOL.tcp, PROTOCOL.udp]);
  }
}
