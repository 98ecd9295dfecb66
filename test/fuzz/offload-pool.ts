// The offload fuzzer's starting points, made once: sound packets and super-packets of pods behind
// their vnet headers, and trains of sound datagrams from peers.

import * as layout from '../../wasm/abi/layout.ts';
import { addressFamily } from '../../engine/address.ts';
import { GATEWAY_MAC } from '../../engine/tables/device.ts';
import { takeApart, unfinished } from '../reference/offload.ts';
import type { Remote } from '../support/core.ts';
import { ETHER_TYPE, PROTOCOL, concat, ethernet, vxlan } from '../support/packets.ts';
import type { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { Trains, type Ends } from '../support/trains.ts';
import { vnet } from '../support/vnet.ts';

const ENTRIES = 80;
const TUNNEL_SIZE = 22;
const SLOT_BYTES = 65_000;
const DESTINATIONS = {
  IPv4: ['10.244.1.7', '10.244.2.9', '10.244.0.5', '10.244.0.6', '192.0.2.10', '198.51.100.7',
    '10.244.200.1', '10.244.0.77'],
  IPv6: ['fd00:10:244:1::7', 'fd00:10:244:2::9', 'fd00:10:244::5', 'fd00:10:244::6',
    '2001:db8::10', '2001:db8:9::7', 'fd00:10:244:c8::1', 'fd00:10:244::77'],
};
/** Pods of peers, with the outer address, and the last bytes of the MACs, that they come with. */
const SENDERS = [
  { pod: '10.244.1.7', peer: '192.0.2.11', macs: '04:11' },
  { pod: 'fd00:10:244:1::7', peer: '2001:db8::11', macs: '06:11' },
  { pod: '10.244.2.9', peer: '2001:db8::12', macs: '04:12' },
  { pod: 'fd00:10:244:2::9', peer: '192.0.2.12', macs: '06:12' },
];

export interface LocalEntry {
  input: number;
  vnet: Uint8Array;
  /** Behind an Ethernet header where the pod has a TAP. */
  packet: Uint8Array;
  layer3: number;
  /** Packets that it stands for. */
  segments: number;
}

export interface TrainEntry {
  input: number;
  source: Remote;
  /** Datagrams one behind the other, where each begins, and the size of all but the last. */
  bytes: Uint8Array;
  starts: number[];
  size: number;
}

export interface Pool {
  local: LocalEntry[];
  trains: TrainEntry[];
}

export function makePool(scene: Scene, random: Random): Pool {
  const trains = new Trains(random);
  return {
    local: Array.from({ length: ENTRIES }, () => makeLocal(scene, random, trains)),
    trains: Array.from({ length: ENTRIES }, () => makeTrain(random, trains)),
  };
}

function makeLocal(scene: Scene, random: Random, trains: Trains): LocalEntry {
  const pod = random.pick(scene.settings.pods);
  const source = random.pick(pod.addresses);
  const family = addressFamily(source);
  const stream = trains.stream({ family, source, destination: random.pick(DESTINATIONS[family]) });
  const layer3 = pod.mac === null ? 0 : 14;
  const size = random.pick([8, 100, 536, 1200, 1360]);
  const count = random.oneIn(5) ? 1 : random.between(2, 40);
  const payload = trains.payload(Math.min(size * count, 60_000) - random.below(size));
  const flags = random.pick([0x10, 0x18, 0x19, 0x90, 0x30]);
  const whole = trains.next(stream, payload, { flags });
  const header = vnetOf(whole, layer3, size, stream.protocol === PROTOCOL.tcp, random);
  const isOpen = header[0] === 1;
  const packet = isOpen ? unfinished(whole) : whole;
  const type = family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
  const input = scene.endpoints.get(pod.name)?.device ?? 0;
  const segments = header[1] === 0 ? 1 : Math.max(1, Math.ceil(payload.length / size));
  return {
    input, vnet: header, layer3, segments,
    packet: pod.mac === null
      ? packet
      : ethernet({ destination: GATEWAY_MAC, source: pod.mac, type }, packet),
  };
}

function vnetOf(
  packet: Uint8Array, layer3: number, size: number, isTcp: boolean, random: Random,
): Uint8Array {
  const { ip, payload } = takeApart(packet);
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  if (payload.length <= size && random.oneIn(2)) return vnet({});
  return vnet({
    flags: 1, gsoType: payload.length <= size ? 0 : isTcp ? (isIpv4 ? 1 : 4) : 5,
    gsoSize: size, checksumStart: layer3 + ip.length, checksumOffset: isTcp ? 16 : 6,
  });
}

function makeTrain(random: Random, trains: Trains): TrainEntry {
  const { pod, peer, macs } = random.pick(SENDERS);
  const family = addressFamily(pod);
  const local = family === 'IPv4'
    ? ['10.244.0.5', '10.244.0.6', '192.0.2.10', '10.244.0.77', '10.244.201.3']
    : ['fd00:10:244::5', 'fd00:10:244::6', '2001:db8::10', 'fd00:10:244::77', 'fd00:10:244:c9::3'];
  const destination = random.pick(local);
  const ends: Ends = { family, source: pod, destination };
  const size = random.pick([1, 60, 536, 1200, 1360]);
  const count = Math.min(random.between(1, 48), Math.floor(SLOT_BYTES / (size + 150)));
  const packets = trains.train(trains.stream(ends), count, size, random.between(1, size));
  const type = family === 'IPv4' ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6;
  const [kind, node] = macs.split(':');
  const datagrams = packets.map((packet) => vxlan({ vni: 1 }, ethernet({
    destination: `0e:00:00:00:${kind}:10`, source: `0e:00:00:00:${kind}:${node}`, type,
  }, packet)));
  const starts: number[] = [];
  let at = 0;
  for (const { length } of datagrams) {
    starts.push(at);
    at += length;
  }
  return {
    input: addressFamily(peer) === 'IPv4'
      ? layout.DEVICE_UNDERLAY_IPV4
      : layout.DEVICE_UNDERLAY_IPV6,
    source: { address: peer, port: 40_000 + random.below(2) },
    bytes: concat(...datagrams), starts, size: datagrams[0]?.length ?? TUNNEL_SIZE,
  };
}
