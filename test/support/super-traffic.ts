// Super-packets that mean something to the node of home.ts: what its pods hand over behind vnet
// headers, and what its peers send in trains. Most of it is sound, some lies, some is damaged.

import * as layout from '../../wasm/abi/layout.ts';
import { addressFamily } from '../../engine/address.ts';
import { GATEWAY_MAC } from '../../engine/tables/device.ts';
import { takeApart, unfinished } from '../reference/offload.ts';
import { ETHER_TYPE, PROTOCOL, concat, ethernet, optionsHeader, vxlan } from './packets.ts';
import type { Random } from './random.ts';
import type { Scene } from './scene.ts';
import type { Slot } from './offload-twin.ts';
import { Trains, type Ends, type Stream, type Super } from './trains.ts';
import { vnet } from './vnet.ts';

const ETHERNET_SIZE = 14;
const DESTINATIONS = {
  IPv4: ['10.244.1.7', '10.244.1.7', '10.244.2.9', '10.244.0.5', '10.244.0.6', '192.0.2.10',
    '198.51.100.7', '10.244.201.1', '10.244.200.1', '10.244.0.77'],
  IPv6: ['fd00:10:244:1::7', 'fd00:10:244:1::7', 'fd00:10:244:2::9', 'fd00:10:244::5',
    'fd00:10:244::6', '2001:db8::10', '2001:db8:9::7', 'fd00:10:244:c9::1', 'fd00:10:244:c8::1',
    'fd00:10:244::77'],
};

/** A packet of a local device, behind its vnet header. */
export interface Given {
  input: number;
  header: Uint8Array;
  received: Uint8Array;
}

/** Packets of the pods of test/support/home.ts: super-packets most of all. */
export class Pods {
  readonly #scene: Scene;
  readonly #random: Random;
  readonly #trains: Trains;

  constructor(scene: Scene, random: Random) {
    this.#scene = scene;
    this.#random = random;
    this.#trains = new Trains(random);
  }

  next(): Given {
    const random = this.#random;
    const pod = random.pick(this.#scene.settings.pods);
    const source = random.pick(pod.addresses);
    const family = addressFamily(source);
    const ends = { family, source, destination: random.pick(DESTINATIONS[family]) };
    const { header, packet } = this.#packet(ends);
    const input = this.#scene.endpoints.get(pod.name)?.device ?? 0;
    if (pod.mac === null) return { input, header, received: packet };
    const type = family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
    const received = ethernet({ destination: GATEWAY_MAC, source: pod.mac, type }, packet);
    return { input, header: behindEthernet(header), received };
  }

  #packet(ends: Ends): Pick<Super, 'header' | 'packet'> {
    const random = this.#random;
    switch (random.below(12)) {
      case 0: return this.#plain(ends);
      case 1: return this.#open(ends);
      case 2: return this.#lie(ends);
      case 3: return this.#extended(ends);
      default: return this.#whole(ends);
    }
  }

  /** A packet that asks for nothing. */
  #plain(ends: Ends): Pick<Super, 'header' | 'packet'> {
    const trains = this.#trains;
    const packet = trains.next(trains.stream(ends), trains.payload(this.#random.below(1300)));
    return { header: vnet({}), packet };
  }

  /** A packet whose checksum is left to finish: its own, or that of a tunnel's inside. */
  #open(ends: Ends): Pick<Super, 'header' | 'packet'> {
    const trains = this.#trains;
    const stream = trains.stream(ends);
    if (this.#random.oneIn(2)) {
      const packet = unfinished(trains.next(stream, trains.payload(this.#random.below(1300))));
      const said = { flags: 1, checksumStart: takeApart(packet).ip.length };
      const isTcp = stream.protocol === PROTOCOL.tcp;
      return { header: vnet({ ...said, checksumOffset: isTcp ? 16 : 6 }), packet };
    }
    const inner = trains.next(trains.stream(ends), trains.payload(400));
    const packet = trains.next({ ...stream, protocol: PROTOCOL.udp }, concat([1, 2, 3, 4], inner));
    const start = takeApart(packet).ip.length + 12 + takeApart(inner).ip.length;
    const offset = this.#random.pick([6, 16]);
    return { header: vnet({ flags: 1, checksumStart: start, checksumOffset: offset }), packet };
  }

  /** A header that says what the packet is not, or what nothing can be. */
  #lie(ends: Ends): Pick<Super, 'header' | 'packet'> {
    const random = this.#random;
    const { header, packet } = this.#whole(ends);
    const lied = header.slice();
    for (let left = random.between(1, 2); left > 0; left -= 1) {
      const at = random.pick([0, 1, 1, 4, 5, 6, 7, 8, 9]);
      lied[at] = random.pick([0, 1, 3, 4, 5, 6, 7, 16, 20, 40, 0x81, 0x84, 0x85, 0xff]);
    }
    return { header: lied, packet };
  }

  /** Options and extension headers are copied to every packet. */
  #extended(ends: Ends): Pick<Super, 'header' | 'packet'> {
    const random = this.#random;
    const trains = this.#trains;
    const stream = trains.stream(ends);
    const payload = trains.payload(random.between(1000, 9000));
    const ipOptions = random.pick([Uint8Array.of(1, 1, 1, 0), random.bytes(0),
      Uint8Array.of(7, 39, 4, ...new Uint8Array(36), 0)]);
    let packet = trains.next(stream, payload, { ipOptions });
    if (ends.family === 'IPv6') {
      const units = random.pick([1, 2, 8, 12]);
      packet = withExtension(packet, units);
    }
    const size = random.between(500, 1200);
    return { header: trains.header(packet, size), packet: unfinished(packet) };
  }

  #whole(ends: Ends): Super {
    const random = this.#random;
    const trains = this.#trains;
    const stream = trains.stream(ends);
    if (random.oneIn(8)) stream.ttl = random.pick([0, 1]);
    const segmentSize = random.oneIn(10)
      ? random.pick([1, 2, 35, 1385, 1460, 9000])
      : random.between(400, 1360);
    const most = Math.min(65_000, segmentSize * random.pick([2, 5, 45, 70, 1100]));
    const flags = random.pick([0x10, 0x10, 0x18, 0x19, 0x90, 0x98, 0x30, 0xd1, 0x02, 0x14]);
    const size = random.between(0, most);
    const made = trains.whole(stream, size, segmentSize, { flags, urgent: random.below(9) });
    if ((flags & 0x80) !== 0 && made.header[1] !== 5 && random.oneIn(2)) {
      made.header[1] = (made.header[1] ?? 0) | 0x80;
    }
    return made;
  }
}

/** Offsets count from the frame. */
function behindEthernet(header: Uint8Array): Uint8Array {
  const moved = header.slice();
  const start = ((moved[6] ?? 0) | ((moved[7] ?? 0) << 8)) + ETHERNET_SIZE;
  moved.set([start & 0xff, (start >> 8) & 0xff], 6);
  return moved;
}

/** Destination options between the IPv6 header and the transport. */
function withExtension(packet: Uint8Array, units: number): Uint8Array {
  const extension = optionsHeader(packet[6] ?? 0, units);
  const extended = concat(packet.subarray(0, 40), extension, packet.subarray(40));
  const length = extended.length - 40;
  extended.set([length >> 8, length & 0xff], 4);
  extended[6] = PROTOCOL.destinationOptions;
  return extended;
}

/** Pods of peers, with the outer address and the last bytes of the MACs that they come with. */
const SENDERS = [
  { pod: '10.244.1.7', peer: '192.0.2.11', macs: '04:11' },
  { pod: 'fd00:10:244:1::7', peer: '2001:db8::11', macs: '06:11' },
  { pod: '10.244.2.9', peer: '2001:db8::12', macs: '04:12' },
  { pod: 'fd00:10:244:2::9', peer: '192.0.2.12', macs: '06:12' },
];
const LOCAL = {
  IPv4: ['10.244.0.5', '10.244.0.5', '10.244.0.6', '192.0.2.10', '10.244.0.77', '10.244.1.3'],
  IPv6: ['fd00:10:244::5', 'fd00:10:244::5', 'fd00:10:244::6', '2001:db8::10', 'fd00:10:244::77',
    'fd00:10:244:1::3'],
};
/** Most datagrams, and bytes, that the kernel joins (UDP_GRO). */
const JOINED_DATAGRAMS = 64;
const JOINED_BYTES = 65_000;

/** A datagram on its way here, and what says whether the kernel may join it to the one before. */
interface Sent {
  input: number;
  source: { address: string; port: number };
  outerTos: number;
  datagram: Uint8Array;
}

/** Trains of the peers of test/support/home.ts, as they arrive in slots. */
export class Peers {
  readonly #random: Random;
  readonly #trains: Trains;

  constructor(random: Random) {
    this.#random = random;
    this.#trains = new Trains(random);
  }

  /** At most `limit` slots; each holds one datagram or several. */
  next(limit: number): Slot[] {
    const random = this.#random;
    const streams = Array.from({ length: random.between(1, 3) }, () => this.#train());
    const sent = random.oneIn(3) ? interleaved(streams, random) : streams.flat();
    this.#disturb(sent);
    return this.#slots(sent).slice(0, limit);
  }

  #train(): Sent[] {
    const random = this.#random;
    const { pod, peer, macs } = random.pick(SENDERS);
    const family = addressFamily(pod);
    const ends = { family, source: pod, destination: random.pick(LOCAL[family]) };
    const stream = this.#trains.stream(ends);
    if (random.oneIn(20)) stream.ttl = random.pick([0, 1]);
    const size = random.pick([1, 35, 172, 536, 1200, 1360, random.between(1, 1400)]);
    const packets = this.#packets(stream, random.between(1, 60), size);
    const [kind, node] = macs.split(':');
    const type = family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
    const outerTos = random.pick([0, 0, 0, 1, 2, 3]);
    const port = random.between(1024, 65535);
    return packets.map((packet) => ({
      input: addressFamily(peer) === 'IPv4'
        ? layout.DEVICE_UNDERLAY_IPV4
        : layout.DEVICE_UNDERLAY_IPV6,
      source: { address: peer, port },
      outerTos: random.oneIn(200) ? random.below(256) : outerTos,
      datagram: vxlan({ vni: random.oneIn(300) ? 2 : 1 }, ethernet({
        destination: `0e:00:00:00:${kind}:10`, source: `0e:00:00:00:${kind}:${node}`, type,
      }, random.oneIn(100) ? concat(packet, new Uint8Array(random.between(1, 20))) : packet)),
    }));
  }

  #packets(stream: Stream, count: number, size: number): Uint8Array[] {
    const random = this.#random;
    const trains = this.#trains;
    return Array.from({ length: count }, (_, index) => {
      const odd = random.oneIn(40);
      const length = index === count - 1 || odd ? random.between(0, size + 5) : size;
      const flags = random.oneIn(20)
        ? random.pick([0x18, 0x19, 0x11, 0x12, 0x14, 0x30, 0x50, 0x90])
        : 0x10;
      if (random.oneIn(60)) vary(stream, random);
      return trains.next(stream, trains.payload(length), { flags });
    });
  }

  /** Loses, doubles, swaps and damages some. */
  #disturb(sent: Sent[]): void {
    const random = this.#random;
    for (let left = random.below(4); left > 0 && sent.length > 1; left -= 1) {
      const at = random.below(sent.length - 1);
      const [first, second] = [sent[at], sent[at + 1]];
      if (first === undefined || second === undefined) return;
      const how = random.below(4);
      if (how === 0) sent.splice(at, 1);
      else if (how === 1) sent.splice(at, 0, first);
      else if (how === 2) sent.splice(at, 2, second, first);
      else sent[at] = { ...first, datagram: this.#damaged(first.datagram) };
    }
  }

  #damaged(datagram: Uint8Array): Uint8Array {
    const damaged = datagram.slice();
    const reach = this.#random.oneIn(2) ? damaged.length : Math.min(100, damaged.length);
    const at = this.#random.below(reach);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << this.#random.below(8));
    return damaged;
  }

  /** As the kernel joins them: of one sender, of one size but for a shorter last one. */
  #slots(sent: Sent[]): Slot[] {
    const slots: Slot[] = [];
    for (const { datagram, ...around } of sent) {
      const slot = slots.at(-1);
      const [first, last] = [slot?.datagrams[0], slot?.datagrams.at(-1)];
      const goesOn = slot !== undefined && first !== undefined && last !== undefined
        && slot.source.address === around.source.address && slot.source.port === around.source.port
        && slot.outerTos === around.outerTos && last.length === first.length
        && datagram.length <= first.length && slot.datagrams.length < JOINED_DATAGRAMS
        && (slot.datagrams.length + 1) * first.length <= JOINED_BYTES;
      if (goesOn && !this.#random.oneIn(15)) slot.datagrams.push(datagram);
      else slots.push({ ...around, datagrams: [datagram] });
    }
    return slots;
  }
}

/** Changes something that all packets of a train have in common. */
function vary(stream: Stream, random: Random): void {
  const changes: (() => void)[] = [
    () => { stream.tos ^= 1 << random.below(8); },
    () => { stream.ttl = Math.max(2, stream.ttl - 1); },
    () => { stream.flowLabel ^= 1; },
    () => { stream.dontFragment = !stream.dontFragment; },
    () => { stream.identification = (stream.identification + 1) & 0xffff; },
    () => { stream.sequence = (stream.sequence + 1) >>> 0; },
    () => { stream.acknowledgment = (stream.acknowledgment + 1) >>> 0; },
    () => { stream.window ^= 1; },
    () => { stream.sourcePort ^= 1; },
    () => { stream.options = random.bytes(stream.options.length); },
  ];
  random.pick(changes)();
}

function interleaved<T>(lists: T[][], random: Random): T[] {
  const left = lists.map((list) => [...list]);
  const mixed: T[] = [];
  while (left.some((list) => list.length > 0)) {
    const from = random.pick(left.filter((list) => list.length > 0));
    mixed.push(...from.splice(0, random.between(1, 8)));
  }
  return mixed;
}
