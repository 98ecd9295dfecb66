// Warms the core up before the first packet. V8 compiles a function of WebAssembly quickly at
// first and well only after it ran for a while; the good code belongs to the module, so it serves
// every instance in every thread. A thread of its own, which ends with all its memory, sends
// packets that no pod sent from one small core to another, until both have had enough.

import { parentPort, Worker, workerData } from 'node:worker_threads';
import {
  DEVICE_UNDERLAY_IPV4, DEVICE_UNDERLAY_IPV6, FAMILY_IPV4, REMOTE_IPV6_SIZE,
} from '../wasm/abi/layout.ts';
import {
  IPV4_HEADER_SIZE, IPV6_HEADER_SIZE, PROTOCOL_TCP, PROTOCOL_UDP, VNET_HEADER_SIZE,
} from '../wasm/abi/headers.ts';
import { Core } from '../engine/core.ts';
import { Forwarding } from '../engine/forwarding.ts';
import type { Limits } from '../engine/memory-map.ts';
import type { ClusterNode } from '../engine/model.ts';
import type { Offloads } from '../engine/tables/device.ts';
import { writeRemote } from '../engine/tables/peer.ts';
import { samplePacket } from './sample-packet.ts';
import { Slots } from './slots.ts';

/** Ends the warm-up, ready or not. */
const WARM_UP_LIMIT_MS = 300;
/** Turns that each core has in any case that time allows: V8 takes a function's better code after
 * some thousand calls of it. */
const TURNS = 1500;
const FLOWS = 256;
const SEGMENT_SIZE = 256;
const SEGMENTS = 8;
const SMALL_PAYLOAD = 64;
const NOW_MS = 1_000_000;
const PORT = 8472;
const UNDERLAY_MTU = 1500;
const PREFIXES = { prefixes: 64, nodes: 512, leaves: 1024 };
const LIMITS: Limits = {
  workers: 1, slots: 64, nextHops: 64, peers: 16, devices: 32,
  routesIpv4: PREFIXES, routesIpv6: PREFIXES, remotesIpv4: PREFIXES, remotesIpv6: PREFIXES,
  policy: {
    identitiesIpv4: PREFIXES, identitiesIpv6: PREFIXES,
    flows: 4096, fragments: 64, verdicts: 64, arenaBytes: 65536,
  },
  services: { fronts: 0, backends: 0 },
};

interface WarmUpData {
  module: WebAssembly.Module;
  offloads: Offloads;
}

/** Warms a module up in a thread. Resolves when that is done, or has failed: then the first packets
 * are slower, nothing else. */
export function warmUp(module: WebAssembly.Module, offloads: Offloads): Promise<void> {
  const data: WarmUpData = { module, offloads };
  const worker = new Worker(new URL('./warm-up.js', import.meta.url), {
    workerData: data, name: 'culvert-warm-up',
  });
  worker.on('error', () => {});
  return new Promise((resolve) => worker.once('exit', () => resolve()));
}

/** Node `n` of two, which has pod 2 of its networks. */
function nodeOf(n: number): ClusterNode {
  const addresses = { IPv4: `192.0.2.${n}`, IPv6: `2001:db8::${n}` };
  return {
    name: `node-${n}`,
    podCidrs: [`10.0.${n}.0/24`, `fd00:0:0:${n}::/64`],
    addresses: Object.values(addresses),
    tunnels: (['IPv4', 'IPv6'] as const).map((family) => ({
      family, kind: 'vxlan', remote: addresses[family], port: PORT, vni: 1,
      mac: `02:00:00:00:0${n}:0${family === 'IPv4' ? 4 : 6}`,
    })),
  };
}

/** One of two nodes that know each other. */
class SampleNode {
  readonly slots: Slots;
  readonly pod: number;
  /** Our underlay addresses as a receiver has them, IPv4 and IPv6. */
  readonly #remotes: Uint8Array[];

  constructor(module: WebAssembly.Module, n: number, offloads: Offloads) {
    const core = Core.create(module, LIMITS);
    const forwarding = new Forwarding(core, LIMITS, {
      nodeName: `node-${n}`,
      podNetworks: ['10.0.0.0/16', 'fd00::/48'],
      underlayMtu: UNDERLAY_MTU,
      defaultMac: { IPv4: '02:00:00:00:00:04', IPv6: '02:00:00:00:00:06' },
    });
    forwarding.devices.setOffloads(offloads);
    const nodes = [nodeOf(1), nodeOf(2)];
    forwarding.applySnapshot({ revision: 1, local: `node-${n}`, nodes, pods: [] });
    const addresses = [`10.0.${n}.2`, `fd00:0:0:${n}::2`];
    this.pod = forwarding.attachEndpoint('pod', addresses, null).device;
    this.slots = new Slots(core, 0);
    this.#remotes = nodeOf(n).addresses.map((address) => {
      const remote = new Uint8Array(REMOTE_IPV6_SIZE);
      writeRemote(new DataView(remote.buffer), remote, 0, address, PORT);
      return remote;
    });
  }

  /** Takes packets of the pod, each behind `vnetSize` bytes of vnet header; the core decides. */
  send(packets: Uint8Array[], vnetSize: number): void {
    const { slots } = this;
    packets.forEach((bytes, at) => {
      const room = slots.room(slots.first + at) - slots.base;
      slots.core.bytes.set(bytes, room - vnetSize);
      slots.fill(slots.first + at, this.pod, bytes.length - vnetSize);
    });
    slots.core.exports.processBatch(slots.first, packets.length, NOW_MS);
  }

  /** Takes what the other sent, train by train; the core decides. */
  receiveFrom(other: SampleNode): void {
    const { slots } = this;
    const { sends } = other.slots;
    const count = Math.min(sends.count, slots.count);
    for (let send = 0; send < count; send += 1) {
      const slot = slots.first + send;
      const isIpv4 = sends.remoteFamily(send) === FAMILY_IPV4;
      const bytes = sends.copy(send);
      slots.core.bytes.set(bytes, slots.room(slot) - slots.base);
      const [ipv4 = bytes, ipv6 = bytes] = other.#remotes;
      slots.core.bytes.set(isIpv4 ? ipv4 : ipv6, slots.source(slot) - slots.base);
      slots.fill(slot, isIpv4 ? DEVICE_UNDERLAY_IPV4 : DEVICE_UNDERLAY_IPV6, bytes.length,
        sends.segmentSize(send));
    }
    slots.core.exports.processBatch(slots.first, count, NOW_MS);
  }
}

/** TCP and UDP of both families, small, and large where the kernel hands that over. */
function samples(vnetSize: number): Uint8Array[] {
  const pairs = [['10.0.1.2', '10.0.2.2'], ['fd00:0:0:1::2', 'fd00:0:0:2::2']] as const;
  const kinds = ([PROTOCOL_TCP, PROTOCOL_UDP] as const).flatMap((protocol) => [
    { protocol, payload: SMALL_PAYLOAD, segmentSize: 0 },
    { protocol, payload: SEGMENTS * SEGMENT_SIZE, segmentSize: SEGMENT_SIZE },
  ]);
  return pairs.flatMap(([source, destination]) => kinds
    .filter(({ segmentSize }) => vnetSize > 0 || segmentSize === 0)
    .map((kind) => samplePacket({ source, destination, ...kind })));
}

/** Sends packets from one core to another until they have had enough, or time is up. Returns both,
 * for tests to look at. */
export function exchangeSamples({ module, offloads }: WarmUpData, limitMs = WARM_UP_LIMIT_MS)
  : SampleNode[] {
  const deadline = performance.now() + limitMs;
  const [near, far] = [1, 2].map((n) => new SampleNode(module, n, offloads));
  if (near === undefined || far === undefined) return [];
  const { vnetSize } = offloads;
  const packets = samples(vnetSize);
  const offered = packets.map((packet) => packet.subarray(VNET_HEADER_SIZE - vnetSize));
  for (let turn = 0; turn < TURNS && performance.now() < deadline; turn += 1) {
    for (const packet of packets) setSourcePort(packet, 1024 + (turn % FLOWS));
    near.send(offered, vnetSize);
    far.receiveFrom(near);
  }
  return [near, far];
}

/** The checksum is unfinished, so nothing else changes with the port. */
function setSourcePort(sample: Uint8Array, port: number): void {
  const isIpv4 = ((sample[VNET_HEADER_SIZE] ?? 0) >>> 4) === 4;
  const at = VNET_HEADER_SIZE + (isIpv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE);
  sample.set([port >>> 8, port & 0xff], at);
}

if (parentPort !== null) exchangeSamples(workerData as WarmUpData);
