// Random packets that mean something to a scene: mostly sound ones between addresses it knows, of
// every kind the core tells apart, and damaged ones.

import * as layout from '../../wasm/abi/layout.ts';
import { addressFamily, type Family } from '../../engine/address.ts';
import { GATEWAY_MAC } from '../../engine/tables/device.ts';
import type { TwinPeer } from '../reference/tunnels.ts';
import type { Remote } from './core.ts';
import { ETHER_TYPE, PROTOCOL, arp, authenticationHeader, concat, ethernet, fragmentHeader, geneve,
  icmp, icmpv6, internetChecksum, ipv4, ipv6, neighbour, optionsHeader, read16, routingHeader,
  tcp, udp,
  vxlan } from './packets.ts';
import type { Random } from './random.ts';
import type { Scene, ScenePod } from './scene.ts';

/** A packet and where it comes from. */
export interface Arrival {
  input: number;
  packet: Uint8Array;
  source: Remote;
}

const STRANGER: Remote = { address: '203.0.113.99', port: 4789 };
const SPECIAL: Record<Family, string[]> = {
  IPv4: ['0.0.0.0', '127.0.0.1', '224.0.0.5', '239.1.2.3', '255.255.255.255', '169.254.1.1',
    '198.51.100.7', '240.0.0.1', '223.255.255.255'],
  IPv6: ['::', '::1', 'ff02::1', 'ff0e::5', '::ffff:10.0.0.1', 'fe80::1', 'febf::1', 'fec0::1',
    '2001:db8:ffff::7', '::2'],
};

/** Makes arrivals for one scene. */
export class Traffic {
  #scene: Scene;
  #random: Random;
  #addresses: Record<Family, string[]>;
  #peers: { node: string; peer: TwinPeer; family: Family }[] = [];

  constructor(scene: Scene, random: Random) {
    this.#scene = scene;
    this.#random = random;
    const { local, remotes, pods, special } = scene.settings;
    const known = [
      ...[local, ...remotes].flatMap(({ addresses, podCidrs }) =>
        [...addresses, ...podCidrs.flatMap((prefix) => this.#inside(prefix))]),
      ...pods.flatMap(({ addresses }) => addresses),
      ...special.flatMap(({ prefix }) => this.#inside(prefix)),
    ];
    const ofFamily = (family: Family): string[] =>
      known.filter((address) => addressFamily(address) === family);
    this.#addresses = { IPv4: ofFamily('IPv4'), IPv6: ofFamily('IPv6') };
    for (const { node, families, nextHop } of scene.forwarding.peers.values()) {
      const target = scene.targets.get(nextHop);
      if (target?.kind !== 'peer') continue;
      for (const family of families) this.#peers.push({ node, peer: target.peer, family });
    }
  }

  next(): Arrival {
    const arrival = this.#random.oneIn(2) ? this.#outbound() : this.#inbound();
    if (this.#random.oneIn(5)) arrival.packet = this.#damage(arrival.packet);
    return arrival;
  }

  #outbound(): Arrival {
    const random = this.#random;
    if (random.oneIn(8)) return this.#arrival(layout.DEVICE_NODE, this.#nodePacket());
    if (random.oneIn(60)) {
      return this.#arrival(random.pick([40, 63, 64, 65, 65535]), this.#nodePacket());
    }
    const pod = random.pick(this.#scene.settings.pods);
    const device = this.#scene.endpoints.get(pod.name)?.device ?? 0;
    return this.#arrival(device, pod.mac === null ? this.#podPacket(pod) : this.#podFrame(pod));
  }

  #arrival(input: number, packet: Uint8Array): Arrival {
    return { input, packet, source: STRANGER };
  }

  #nodePacket(): Uint8Array {
    const family = this.#family();
    const { local } = this.#scene.settings;
    const own = local.addresses.filter((address) => addressFamily(address) === family);
    const source = this.#random.oneIn(4) ? this.#address(family) : this.#random.pick(own);
    return this.#ipPacket(family, source, this.#address(family));
  }

  #podPacket(pod: ScenePod): Uint8Array {
    const own = this.#random.pick(pod.addresses);
    const family = addressFamily(own);
    return this.#ipPacket(family, this.#random.oneIn(10) ? this.#address(family) : own,
      this.#address(family));
  }

  #podFrame(pod: ScenePod): Uint8Array {
    const random = this.#random;
    const mac = pod.mac ?? '';
    if (random.oneIn(8)) return this.#question(pod, mac);
    const packet = this.#podPacket(pod);
    const ipv4First = (packet[0] ?? 0) >> 4 === 4;
    const type = ipv4First ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
    const destination = random.oneIn(12)
      ? random.pick(['ff:ff:ff:ff:ff:ff', '33:33:00:00:00:01', '02:99:99:99:99:99', mac])
      : GATEWAY_MAC;
    const types = [ETHER_TYPE.ipv4, ETHER_TYPE.ipv6, ETHER_TYPE.arp, 0x8100, 1500];
    return ethernet(
      { destination, source: mac, type: random.oneIn(15) ? random.pick(types) : type }, packet);
  }

  /** ARP or a neighbour solicitation. */
  #question(pod: ScenePod, mac: string): Uint8Array {
    const random = this.#random;
    const family = this.#family();
    const own = pod.addresses.filter((address) => addressFamily(address) === family);
    const source = own.length === 0 || random.oneIn(6) ? this.#address(family) : random.pick(own);
    const target = random.oneIn(6) ? source : this.#address(family);
    if (family === 'IPv4') {
      const destination = random.oneIn(3) ? GATEWAY_MAC : 'ff:ff:ff:ff:ff:ff';
      const packet = arp({
        operation: random.oneIn(8) ? 2 : 1, senderMac: mac, senderAddress: source,
        targetMac: '00:00:00:00:00:00', targetAddress: target,
        hardwareType: random.oneIn(20) ? 6 : 1,
      });
      const padding = new Uint8Array(random.pick([0, 18]));
      return ethernet({ destination, source: mac, type: ETHER_TYPE.arp }, concat(packet, padding));
    }
    const packet = neighbour({
      source: random.oneIn(5) ? 'fe80::99' : source, destination: 'ff02::1:ff00:1',
      type: random.oneIn(8) ? 136 : 135, target, mac: random.oneIn(4) ? null : mac,
      hopLimit: random.oneIn(10) ? 64 : 255,
    });
    const destination = random.oneIn(3) ? GATEWAY_MAC : '33:33:ff:00:00:01';
    return ethernet({ destination, source: mac, type: ETHER_TYPE.ipv6 }, packet);
  }

  #inbound(): Arrival {
    const random = this.#random;
    const { node, peer, family } = random.pick(this.#peers);
    const theirs = this.#addressesOf(node, family);
    const source = random.oneIn(10) ? this.#address(family) : random.pick(theirs);
    const packet = this.#ipPacket(family, source, this.#localAddress(family));
    const { kind, remote, devices } = peer;
    if (kind === 'direct') return this.#arrival(layout.DEVICE_NODE, packet);
    const known = { address: remote.address, port: random.between(1024, 65535) };
    const strange = random.oneIn(20);
    return {
      input: random.oneIn(30) ? random.between(1, 12) : devices[family],
      packet: this.#enclosed(peer, packet),
      source: strange ? random.pick([STRANGER, random.pick(this.#peers).peer.remote]) : known,
    };
  }

  /** What a peer's tunnel brings, some of it a little wrong. */
  #enclosed(peer: TwinPeer, packet: Uint8Array): Uint8Array {
    const random = this.#random;
    const type = (packet[0] ?? 0) >> 4 === 4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
    switch (peer.kind) {
      case 'vxlan': {
        const header = random.oneIn(20)
          ? random.pick([{ flags: 0 }, { flags: 0x88 }, { flags: 9 }, { reserved: 1 },
            { reservedLast: 1 }, { vni: peer.vni + 1 }])
          : {};
        return vxlan({ vni: peer.vni, ...header }, this.#frame(peer, packet, type));
      }
      case 'geneve': {
        const options = random.bytes(4 * random.pick([0, 0, 0, 1, 2, 63]));
        const header = random.oneIn(10)
          ? random.pick([{ version: 1 }, { flags: 0x80 }, { flags: 0x40 }, { flags: 0x3f },
            { reservedLast: 7 }, { vni: peer.vni + 1 }, { protocol: ETHER_TYPE.ethernet },
            { protocol: type }, { protocol: ETHER_TYPE.arp }])
          : {};
        const hasFrame = peer.mac !== null;
        const protocol = hasFrame ? ETHER_TYPE.ethernet : type;
        const payload = hasFrame ? this.#frame(peer, packet, type) : packet;
        return geneve({ vni: peer.vni, protocol, options, ...header }, payload);
      }
      case 'ipip': {
        if (addressFamily(peer.remote.address) === 'IPv6') return packet;
        const protocol = type === ETHER_TYPE.ipv4 ? 4 : 41;
        const outer = { source: peer.remote.address, destination: '192.0.2.1', protocol };
        return ipv4({ ...outer, options: new Uint8Array(random.pick([0, 0, 4, 40])) }, packet);
      }
      default: return packet;
    }
  }

  #frame(peer: TwinPeer, packet: Uint8Array, real: number): Uint8Array {
    const random = this.#random;
    const odd = random.oneIn(8);
    const mac = peer.mac ?? '';
    return ethernet({
      destination: odd && random.oneIn(2)
        ? random.pick(['ff:ff:ff:ff:ff:ff', mac, '33:33:00:00:00:01'])
        : peer.ownMac,
      source: odd && random.oneIn(3) ? peer.ownMac : mac,
      type: odd && random.oneIn(3)
        ? random.pick([ETHER_TYPE.arp, ETHER_TYPE.ipv4, ETHER_TYPE.ipv6])
        : real,
    }, packet);
  }

  #family(): Family {
    return this.#random.oneIn(2) ? 'IPv4' : 'IPv6';
  }

  #address(family: Family): string {
    return this.#random.pick(this.#random.oneIn(10) ? SPECIAL[family] : this.#addresses[family]);
  }

  #localAddress(family: Family): string {
    const { local, pods } = this.#scene.settings;
    const ours = [...local.addresses, ...pods.flatMap(({ addresses }) => addresses)]
      .filter((address) => addressFamily(address) === family);
    return this.#random.oneIn(4) ? this.#address(family) : this.#random.pick(ours);
  }

  #addressesOf(name: string, family: Family): string[] {
    const node = this.#scene.settings.remotes.find((remote) => remote.name === name);
    return [...node?.addresses ?? [],
      ...(node?.podCidrs ?? []).flatMap((prefix) => this.#inside(prefix))]
      .filter((address) => addressFamily(address) === family);
  }

  /** The base and two other addresses of a prefix, which must end on a byte. */
  #inside(prefix: string): string[] {
    const [base = ''] = prefix.split('/');
    if (addressFamily(base) === 'IPv6') return [base, `${base}5`, `${base}abcd`];
    const start = base.slice(0, base.lastIndexOf('.'));
    const last = Number(base.slice(base.lastIndexOf('.') + 1));
    return [base, `${start}.${last + 5}`, `${start}.${last + 60}`];
  }

  #ipPacket(family: Family, source: string, destination: string): Uint8Array {
    const random = this.#random;
    const padding = new Uint8Array(random.oneIn(10) ? random.between(1, 20) : 0);
    const hops = random.oneIn(8) ? random.pick([0, 1, 2]) : random.between(3, 255);
    const packet = family === 'IPv4'
      ? this.#ipv4Packet(source, destination, hops)
      : this.#ipv6Packet(source, destination, hops);
    return concat(packet, padding);
  }

  #ipv4Packet(source: string, destination: string, ttl: number): Uint8Array {
    const random = this.#random;
    const fragment = random.oneIn(10);
    const [protocol, segment] = this.#segment('IPv4', source, destination);
    return ipv4({
      source, destination, protocol, ttl, tos: random.below(256),
      identification: random.below(65536), dontFragment: random.oneIn(2),
      moreFragments: fragment && random.oneIn(2),
      offset: fragment ? random.pick([0, 1, 185, 8191]) : 0,
      options: random.oneIn(8) ? this.#options() : new Uint8Array(0),
    }, segment);
  }

  #options(): Uint8Array {
    const random = this.#random;
    return random.pick([
      Uint8Array.of(1, 1, 1, 0), Uint8Array.of(131, 7, 4, 10, 0, 0, 1), Uint8Array.of(1, 137, 3, 4),
      Uint8Array.of(7, 7, 4, 0, 0, 0, 0), Uint8Array.of(0, 131, 3, 4), Uint8Array.of(148, 4, 0, 0),
      Uint8Array.of(7, 0, 131, 3), Uint8Array.of(68, 1, 131, 3), Uint8Array.of(1, 1, 1, 148),
      Uint8Array.of(148, 40, 131, 4), random.bytes(random.between(1, 40)),
    ]);
  }

  #ipv6Packet(source: string, destination: string, hopLimit: number): Uint8Array {
    const random = this.#random;
    let [nextHeader, payload] = this.#segment('IPv6', source, destination);
    const count = random.oneIn(3) ? random.pick([1, 1, 2, 3, 7, 8, 9]) : 0;
    for (let left = count; left > 0; left -= 1) {
      const [type, header] = this.#extension(nextHeader);
      payload = concat(header, payload);
      nextHeader = type;
    }
    return ipv6({
      source, destination, nextHeader, hopLimit, trafficClass: random.below(256),
      flowLabel: random.below(1 << 20),
    }, payload);
  }

  #extension(next: number): [number, Uint8Array] {
    const random = this.#random;
    const units = random.oneIn(20) ? 200 : random.between(1, 3);
    return random.pick<() => [number, Uint8Array]>([
      () => [PROTOCOL.hopByHop, optionsHeader(next, Math.min(units, 30))],
      () => [PROTOCOL.destinationOptions, optionsHeader(next, Math.min(units, 30))],
      () => [PROTOCOL.routing, routingHeader(next, random.pick([2, 3, 4, 0]))],
      () => [PROTOCOL.fragment, fragmentHeader(next, random.pick([0, 0, 1, 180]), random.oneIn(2))],
      () => [PROTOCOL.authentication, authenticationHeader(next)],
      () => [PROTOCOL.hopByHop, concat([next, units - 1], new Uint8Array(6))],
    ])();
  }

  /** A transport protocol and a segment of it, most of them short. */
  #segment(family: Family, source: string, destination: string): [number, Uint8Array] {
    const random = this.#random;
    const sizes = [1192, 1240, 1400, 1402, 1410, 1420, 1422, 1430, 1450, 1452, 1472, 3000, 65000];
    const size = random.oneIn(8) ? random.pick(sizes) : random.below(100);
    const payload = new Uint8Array(random.oneIn(200) ? size : Math.min(size, 3000)).fill(0x42);
    const sourcePort = random.pick([53, 1024, 40000]);
    const fields = { source, destination, sourcePort, destinationPort: random.pick([53, 80]) };
    const errors = family === 'IPv4' ? [3, 4, 5, 11, 12] : [1, 2, 3, 4, 127, 137];
    const messages = family === 'IPv4' ? [0, 8, 13, 1, 255] : [128, 129, 135, 200];
    const type = random.pick(random.oneIn(2) ? errors : messages);
    return random.pick<() => [number, Uint8Array]>([
      () => [PROTOCOL.udp, udp(fields, payload)],
      () => [PROTOCOL.tcp, tcp(fields, payload)],
      () => family === 'IPv4'
        ? [PROTOCOL.icmp, icmp(type, 0, 0, payload)]
        : [PROTOCOL.icmpv6, icmpv6({ source, destination, type }, payload)],
      () => [random.pick([1, 58, 17, 6, 132, 47, 59]), random.bytes(random.below(12))],
    ])();
  }

  /** Flips, cuts, lengthens; often makes an IPv4 header checksum right again behind the damage. */
  #damage(whole: Uint8Array): Uint8Array {
    const random = this.#random;
    let packet: Uint8Array = whole.slice();
    for (let left = random.between(1, 3); left > 0; left -= 1) {
      const at = random.below(Math.min(packet.length, 100));
      const how = random.below(4);
      if (how === 0) packet[at] = (packet[at] ?? 0) ^ (1 << random.below(8));
      else if (how === 1) packet[at] = random.pick([0, 1, 0x45, 0x60, 0x7f, 0x80, 0xff]);
      else if (how === 2) packet = packet.slice(0, random.below(packet.length + 1));
      else packet = concat(packet, random.bytes(random.below(30)));
      if (packet.length === 0) return packet;
    }
    if (random.oneIn(3)) return packet;
    for (const start of [0, 14, 22]) repairIpv4(packet, start);
    return packet;
  }
}

/** Makes the header checksum right if an IPv4 header seems to start there. */
function repairIpv4(packet: Uint8Array, start: number): void {
  const first = packet[start] ?? 0;
  const size = (first & 0x0f) * 4;
  const looksLikeIt = start === 0 || read16(packet, start - 2) === ETHER_TYPE.ipv4;
  if (first >> 4 !== 4 || size < 20 || !looksLikeIt || packet.length < start + size) return;
  const header = packet.subarray(start, start + size);
  header.set([0, 0], 10);
  const sum = internetChecksum(header);
  header.set([sum >> 8, sum & 0xff], 10);
}
