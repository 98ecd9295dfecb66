// The offload fuzzer's starting points, made once: sound packets and super-packets of pods behind
// their vnet headers, and trains of sound datagrams from peers.

import { addressBytes, addressFamily } from '../../engine/address.ts';
import { GATEWAY_MAC } from '../../engine/tables/device.ts';
import { takeApart, unfinished } from '../reference/offload.ts';
import { enclosed } from '../reference/tunnels.ts';
import type { Remote } from '../support/core.ts';
import { ETHER_TYPE, PROTOCOL, concat, ethernet } from '../support/packets.ts';
import type { Random } from '../support/random.ts';
import type { Scene } from '../support/scene.ts';
import { Trains, type Ends } from '../support/trains.ts';
import { vnet } from '../support/vnet.ts';

const ENTRIES = 80;
const SLOT_BYTES = 65_000;
const DESTINATIONS = {
  IPv4: ['10.244.1.7', '10.244.2.9', '10.244.0.5', '10.244.0.6', '192.0.2.10', '198.51.100.7',
    '10.244.200.1', '10.244.0.77', '10.244.3.7', '10.244.4.7', '10.244.5.7', '10.244.7.7'],
  IPv6: ['fd00:10:244:1::7', 'fd00:10:244:2::9', 'fd00:10:244::5', 'fd00:10:244::6',
    '2001:db8::10', '2001:db8:9::7', 'fd00:10:244:c8::1', 'fd00:10:244::77',
    'fd00:10:244:3::7', 'fd00:10:244:4::7', 'fd00:10:244:5::7', 'fd00:10:244:7::7'],
};
/** Pods of peers whose datagrams the kernel joins: by VXLAN, Geneve with frames and without, and
 * flannel's udp. */
const SENDERS = [
  '10.244.1.7', 'fd00:10:244:1::7', '10.244.2.9', 'fd00:10:244:2::9', '10.244.3.7',
  'fd00:10:244:3::7', '10.244.6.7',
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
    trains: Array.from({ length: ENTRIES }, () => makeTrain(scene, random, trains)),
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

function makeTrain(scene: Scene, random: Random, trains: Trains): TrainEntry {
  const pod = random.pick(SENDERS);
  const target = scene.twin.tables.routes.find(addressBytes(pod));
  if (target?.kind !== 'peer') throw new Error(`no peer has ${pod}`);
  const { peer } = target;
  const family = addressFamily(pod);
  const local = family === 'IPv4'
    ? ['10.244.0.5', '10.244.0.6', '192.0.2.10', '10.244.0.77', '10.244.201.3']
    : ['fd00:10:244::5', 'fd00:10:244::6', '2001:db8::10', 'fd00:10:244::77', 'fd00:10:244:c9::3'];
  const destination = random.pick(local);
  const ends: Ends = { family, source: pod, destination };
  const size = random.pick([1, 60, 536, 1200, 1360]);
  const count = Math.min(random.between(1, 48), Math.floor(SLOT_BYTES / (size + 150)));
  const packets = trains.train(trains.stream(ends), count, size, random.between(1, size));
  const theirs = peer.mac === null ? peer : { ...peer, mac: peer.ownMac, ownMac: peer.mac };
  const datagrams = packets.map((packet) => enclosed(packet, theirs));
  const starts: number[] = [];
  let at = 0;
  for (const { length } of datagrams) {
    starts.push(at);
    at += length;
  }
  return {
    input: peer.devices[family],
    source: { address: peer.remote.address, port: 40_000 + random.below(2) },
    bytes: concat(...datagrams), starts, size: datagrams[0]?.length ?? 1,
  };
}
