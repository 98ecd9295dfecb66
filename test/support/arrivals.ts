// What the home node's underlay sockets receive from a peer, `edge` of test/golden/README.md, as
// the kernel lays it into slots with UDP_GRO; and what devices get of it.

import * as layout from '../../wasm/abi/layout.ts';
import { VNET_HEADER_SIZE } from '../../wasm/abi/headers.ts';
import { readDrops, readEvents, readTraffic } from '../../engine/counters.ts';
import { Sends } from '../../host/sends.ts';
import { placePacket, type Remote } from './core.ts';
import { HOME, deviceIndex, makeHome } from './home.ts';
import { ETHER_TYPE, concat, ethernet, parseEthernet, vxlan } from './packets.ts';
import type { Scene, SceneSettings } from './scene.ts';
import { parseVnet, type Vnet } from './vnet.ts';

export const EDGE: Remote = { address: '192.0.2.11', port: 40000 };
export const EDGE6: Remote = { address: '2001:db8::11', port: 40000 };

/** What one slot holds: datagrams, all but the last of the first's size. */
export interface Arrival {
  datagrams: Uint8Array[];
  source?: Remote;
  tos?: number;
  /** Of a packet from a local device: its name. */
  device?: string;
}

/** What a local device is given, without link header. */
export interface Delivery {
  device: string;
  header: Vnet;
  packet: Uint8Array;
  packets: number;
}

/** The home node with vnet headers on all devices. */
export function makeJoining(coalesce: number, changes: Partial<SceneSettings> = {}): Scene {
  const scene = makeHome(changes);
  setOffloads(scene, coalesce);
  return scene;
}

/** Gives every device a vnet header, and says what is joined. */
function setOffloads({ core, endpoints }: Scene, coalesce: number): void {
  core.setDirectory(layout.DIRECTORY_COALESCE, coalesce);
  const devices = core.directory(layout.DIRECTORY_DEVICES);
  for (const device of [layout.DEVICE_NODE, ...[...endpoints.values()].map((pod) => pod.device)]) {
    const at = devices + (device * layout.DEVICE_STRIDE) + layout.DEVICE_VNET_SIZE;
    core.bytes[at] = VNET_HEADER_SIZE;
  }
}

/** A packet as `edge` encapsulates it. */
export function fromEdge(
  packet: Uint8Array, macs: { destination?: string; source?: string } = {},
): Uint8Array {
  const isIpv4 = (packet[0] ?? 0) >> 4 === 4;
  const family = isIpv4 ? '04' : '06';
  return vxlan({ vni: 1 }, ethernet({
    destination: macs.destination ?? `0e:00:00:00:${family}:10`,
    source: macs.source ?? `0e:00:00:00:${family}:11`,
    type: isIpv4 ? ETHER_TYPE.ipv4 : ETHER_TYPE.ipv6,
  }, packet));
}

/** Lays datagrams behind each other into a slot. */
export function placeArrival(scene: Scene, slot: number, arrival: Arrival): void {
  const { core } = scene;
  const [first = new Uint8Array(0)] = arrival.datagrams;
  const source = arrival.source ?? EDGE;
  const input = source.address.includes(':') ? 'underlay-ipv6' : 'underlay-ipv4';
  const device = deviceIndex(scene, arrival.device ?? input);
  placePacket(core, slot, concat(...arrival.datagrams), device, source);
  const descriptor = core.descriptorAddress(slot);
  const size = arrival.datagrams.length > 1 ? first.length : 0;
  core.view.setUint16(descriptor + layout.DESCRIPTOR_SEGMENT_SIZE, size, true);
  core.bytes[descriptor + layout.DESCRIPTOR_OUTER_TOS] = arrival.tos ?? 0;
}

/** Runs slots through the core in one batch, or as many as the outbox asks for, and says what
 * devices got, in order. */
export function receive(scene: Scene, arrivals: Arrival[], nowMs = 1_000_000): Delivery[] {
  arrivals.forEach((arrival, slot) => placeArrival(scene, slot, arrival));
  const deliveries: Delivery[] = [];
  for (let done = 0; done < arrivals.length;) {
    done += scene.core.exports.processBatch(done, arrivals.length - done, nowMs);
    deliveries.push(...readDeliveries(scene));
  }
  return deliveries;
}

/** What the outbox holds for local devices. */
export function readDeliveries(scene: Scene): Delivery[] {
  const names = ['node', ...scene.endpoints.keys()];
  const deliveries: Delivery[] = [];
  for (const { device, bytes, packets } of readSends(scene)) {
    const name = names.find((candidate) => deviceIndex(scene, candidate) === device);
    if (name === undefined) continue;
    const frame = bytes.subarray(VNET_HEADER_SIZE);
    const isTap = HOME.pods.some((pod) => pod.name === name && pod.mac !== null);
    const packet = isTap ? parseEthernet(frame).payload : frame;
    deliveries.push({ device: name, header: parseVnet(bytes), packet, packets });
  }
  return deliveries;
}

/** The outbox, each send's pieces together. */
export function readSends({ core }: Scene): {
  device: number; bytes: Uint8Array; packets: number;
}[] {
  const sends = new Sends(core, 0, 0);
  return Array.from({ length: sends.count }, (_, send) => ({
    device: sends.device(send), bytes: sends.copy(send), packets: sends.packets(send),
  }));
}

/** Counters of what came in by a tunnel of `edge`. */
export function inboundCounts(scene: Scene, family = 'IPv4') {
  const { core, forwarding } = scene;
  const nextHop = forwarding.peers.get(`edge/${family}`)?.nextHop ?? 0;
  const drops = Object.entries(readDrops(core, 'inbound')).filter(([, count]) => count > 0);
  return {
    rxPackets: readTraffic(core, nextHop).rxPackets,
    coalesced: readEvents(core).coalesced ?? 0,
    drops: Object.fromEntries(drops),
  };
}
