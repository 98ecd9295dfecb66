// One node's core, set up so that flows' first packets meet it as they would on that node.
//
// Theory of operation. The node's pods are endpoints without devices, the other nodes are peers
// with made-up tunnels, everything else lies outside. A packet comes in where it would: from the
// pod's device, from the node's own, or in a frame from a peer. Whether it passes stands in its
// descriptor, who decided in the ring of verdicts, which has a record for each end that policy
// looked at. Each packet of a batch has a source port of its own, which no other one is sent to,
// and the flow table is emptied between batches, so that no flow rides on another.

import {
  DESCRIPTOR_INPUT, DESCRIPTOR_LENGTH, DESCRIPTOR_REASON, DESCRIPTOR_SOURCE, DESCRIPTOR_START,
  DESCRIPTOR_VERDICT, DEVICE_NODE, DEVICE_UNDERLAY_IPV4, DIRECTORY_FLOWS, DIRECTORY_VERDICTS,
  WORKERS_START, WORKER_FLOWS,
} from '../../wasm/abi/layout.ts';
import {
  FLOW_SIZE, VERDICTS_HEAD, VERDICTS_RECORDS, VERDICT_ALLOWED, VERDICT_ANSWER, VERDICT_INGRESS,
  VERDICT_SIZE, VERDICT_SOURCE_PORT,
} from '../../wasm/abi/policy.ts';
import {
  REASON_MODULE_EGRESS, REASON_MODULE_INGRESS, REASON_MODULE_REJECTED, REASON_NONE,
  REASON_POLICY_EGRESS, REASON_POLICY_INGRESS, VERDICT_SEND,
} from '../../wasm/abi/verdict.ts';
import { hostPrefix, macBytes } from '../../engine/address.ts';
import { Core } from '../../engine/core.ts';
import { REASON_NAMES } from '../../engine/counters.ts';
import { Forwarding, type AttachedEndpoint } from '../../engine/forwarding.ts';
import type { Limits } from '../../engine/memory-map.ts';
import type { ClusterNode, VxlanTunnel } from '../../engine/model.ts';
import { runBatch, type OnFault } from '../../engine/modules.ts';
import { writeRemote } from '../../engine/tables/peer.ts';
import type { BedPlan, ClusterPod, NodeAddresses, Place, PlacedFlow } from './ends.ts';
import { FRAME_SIZE, emitFrame, emitPacket } from '../../engine/first-packet.ts';

/** What one end's policy said to a packet; null where it was not asked. */
export interface EndVerdict {
  allowed: boolean;
  answer: number;
}

export interface BedVerdict {
  egress: EndVerdict | null;
  ingress: EndVerdict | null;
  /** Why the core dropped the packet; empty where it went on. */
  dropped: string;
}

/** The reasons that a verdict of policy gives a drop. */
const DENIALS = new Set([
  REASON_POLICY_EGRESS, REASON_POLICY_INGRESS, REASON_MODULE_EGRESS, REASON_MODULE_INGRESS,
  REASON_MODULE_REJECTED,
].map((reason) => REASON_NAMES[reason]));

/** Packets in one call of the core; the verdict ring must hold twice as many. */
export const BATCH = 256;
/** Entries of the flow table: enough that no packet of a batch is refused. */
export const FLOW_ENTRIES = 4096;
const FIRST_PORT = 49152;
const VNI = 1;
const TUNNEL_PORT = 8472;
const OWN_MAC = '02:00:00:00:00:00';
const UNDERLAY_MTU = 1500;
/** The moment at which all packets come. */
export const NOW_MS = 1000;

export class NodeBed {
  readonly core: Core;
  readonly nodeName: string;
  readonly forwarding: Forwarding;
  readonly endpoints = new Map<string, AttachedEndpoint>();
  /** Is told of faults of modules. */
  onFault: OnFault = () => undefined;
  #identities = new Map<string, string>();
  #peers = new Map<string, VxlanTunnel & { port: number }>();
  #ownMac = macBytes(OWN_MAC);

  constructor(module: WebAssembly.Module, nodeName: string, limits: Limits) {
    this.nodeName = nodeName;
    this.core = Core.create(module, limits);
    this.forwarding = new Forwarding(this.core, limits, {
      nodeName, podNetworks: [], underlayMtu: UNDERLAY_MTU,
      defaultMac: { IPv4: OWN_MAC, IPv6: OWN_MAC },
    });
    this.forwarding.devices.closedAtStart = true;
  }

  /** Endpoints that go, or are replaced, when the plan comes into force. */
  leaving({ pods }: BedPlan): [string, AttachedEndpoint][] {
    const wanted = new Map(pods.map((pod) => [pod.key, identityOf(pod)]));
    return [...this.endpoints].filter(([key]) => wanted.get(key) !== this.#identities.get(key));
  }

  /** Makes routes and endpoints what the plan says. Policy is not this one's: see `endpoints`. */
  update(plan: BedPlan): void {
    const { addresses, pods, others } = plan;
    for (const [key, endpoint] of this.leaving(plan)) {
      this.forwarding.detachEndpoint(endpoint);
      this.endpoints.delete(key);
    }
    this.#identities = new Map(pods.map((pod) => [pod.key, identityOf(pod)]));
    const local = { name: this.nodeName, podCidrs: [], addresses, tunnels: [] };
    const nodes = [local, ...others.map((other) => this.#peer(other))];
    this.forwarding.applySnapshot({ revision: 0, local: this.nodeName, pods: [], nodes });
    const problems = this.forwarding.problems();
    if (problems.length > 0) throw new Error(problems.join('\n'));
    for (const { key, addresses: own } of pods) {
      if (this.endpoints.has(key)) continue;
      this.endpoints.set(key, this.forwarding.attachEndpoint(key, own, null));
    }
  }

  /** Sends each flow's first packet and returns what the core says about them, in order. */
  judge(flows: readonly PlacedFlow[]): BedVerdict[] {
    const verdicts: BedVerdict[] = [];
    for (let first = 0; first < flows.length; first += BATCH) {
      verdicts.push(...this.#runBatch(flows.slice(first, first + BATCH)));
    }
    return verdicts;
  }

  /** A remote node as a peer; what is its own is routed to it. */
  #peer({ name, addresses }: NodeAddresses): ClusterNode {
    const tunnel = this.#peers.get(name) ?? makeTunnel(this.#peers.size);
    this.#peers.set(name, tunnel);
    return {
      name, podCidrs: addresses.map(hostPrefix), addresses: [],
      tunnels: [tunnel, { ...tunnel, family: 'IPv6' }],
    };
  }

  #runBatch(flows: readonly PlacedFlow[]): BedVerdict[] {
    this.#forgetFlows();
    const ports = this.#choosePorts(flows);
    for (const [slot, flow] of flows.entries()) this.#place(slot, flow, ports[slot] ?? 0);
    const ring = this.core.directory(DIRECTORY_VERDICTS);
    const before = this.core.view.getUint32(ring + VERDICTS_HEAD, true);
    runBatch(this.core, 0, flows.length, NOW_MS, this.onFault);
    const after = this.core.view.getUint32(ring + VERDICTS_HEAD, true);
    const verdicts = flows.map((_, slot): BedVerdict =>
      ({ egress: null, ingress: null, dropped: this.#dropped(slot) }));
    const slots = new Map(ports.map((port, slot) => [port, slot]));
    for (let record = before; record !== after; record = (record + 1) >>> 0) {
      this.#readRecord(record, slots, verdicts);
    }
    for (const [slot, verdict] of verdicts.entries()) this.#check(slot, verdict);
    return verdicts;
  }

  /** Source ports, each used once, none of them a destination port of the batch. */
  #choosePorts(flows: readonly PlacedFlow[]): number[] {
    const taken = new Set(flows.map(({ flow }) => flow.port ?? 0));
    let next = FIRST_PORT;
    return flows.map(() => {
      while (taken.has(next)) next += 1;
      next += 1;
      return next - 1;
    });
  }

  #place(slot: number, { flow, source, destination }: PlacedFlow, sourcePort: number): void {
    const { view, bytes } = this.core;
    const at = this.core.packetAddress(slot);
    const peer = this.#enters(source);
    const start = peer === null ? at : at + FRAME_SIZE;
    const packet = {
      source: source.bytes, destination: destination.bytes, protocol: flow.protocol,
      sourcePort, destinationPort: flow.port ?? 0,
    };
    const size = emitPacket(view, start, packet);
    const descriptor = this.core.descriptorAddress(slot);
    let input = this.endpoints.get(source.pod?.key ?? '')?.device ?? DEVICE_NODE;
    if (peer !== null) {
      input = DEVICE_UNDERLAY_IPV4;
      const macs = { to: this.#ownMac, from: macBytes(peer.mac) };
      emitFrame(view, at, VNI, macs, source.bytes.length === 4);
      writeRemote(view, bytes, descriptor + DESCRIPTOR_SOURCE, peer.remote, peer.port);
    }
    view.setUint32(descriptor + DESCRIPTOR_START, at, true);
    view.setUint32(descriptor + DESCRIPTOR_LENGTH, start - at + size, true);
    view.setUint16(descriptor + DESCRIPTOR_INPUT, input, true);
  }

  /** The peer that a packet of this source comes from; null for one of this node's devices. */
  #enters({ node }: Place): (VxlanTunnel & { port: number }) | null {
    return node === null || node === this.nodeName ? null : this.#peers.get(node) ?? null;
  }

  #dropped(slot: number): string {
    const descriptor = this.core.descriptorAddress(slot);
    const reason = this.core.view.getUint8(descriptor + DESCRIPTOR_REASON);
    const isSent = this.core.view.getUint8(descriptor + DESCRIPTOR_VERDICT) === VERDICT_SEND;
    return isSent && reason === REASON_NONE ? '' : REASON_NAMES[reason] ?? String(reason);
  }

  #readRecord(record: number, slots: Map<number, number>, verdicts: BedVerdict[]): void {
    const { view } = this.core;
    const at = this.core.directory(DIRECTORY_VERDICTS) + VERDICTS_RECORDS
      + ((record & (RING_RECORDS - 1)) * VERDICT_SIZE);
    const slot = slots.get(view.getUint16(at + VERDICT_SOURCE_PORT, true));
    const verdict = slot === undefined ? undefined : verdicts[slot];
    if (verdict === undefined) throw new Error('a record of the verdict ring is of no packet');
    const side = view.getUint8(at + VERDICT_INGRESS) === 1 ? 'ingress' : 'egress';
    verdict[side] = {
      allowed: view.getUint8(at + VERDICT_ALLOWED) === 1,
      answer: view.getUint32(at + VERDICT_ANSWER, true),
    };
  }

  /** The descriptor and the ring must tell the same. */
  #check(slot: number, { egress, ingress, dropped }: BedVerdict): void {
    const isDenied = egress?.allowed === false || ingress?.allowed === false;
    if (isDenied === DENIALS.has(dropped)) return;
    throw new Error(`packet ${slot}: dropped for "${dropped}", the verdict ring says otherwise`);
  }

  /** Empties the flow table. */
  #forgetFlows(): void {
    const table = this.core.directory(DIRECTORY_FLOWS);
    this.core.bytes.fill(0, table + (FLOW_ENTRIES * FLOW_SIZE),
      table + (FLOW_ENTRIES * (FLOW_SIZE + 1)));
    this.core.view.setUint32(WORKERS_START + WORKER_FLOWS, 0, true);
  }
}

/** Records of the verdict ring: two for each packet of a batch. */
export const RING_RECORDS = BATCH * 2;

/** A tunnel that nobody else has. */
function makeTunnel(index: number): VxlanTunnel & { port: number } {
  const [high, low] = [index >>> 8, index & 255];
  return {
    family: 'IPv4', kind: 'vxlan', remote: `100.64.${high}.${low}`, port: TUNNEL_PORT, vni: VNI,
    mac: `02:01:00:00:${hex(high)}:${hex(low)}`,
  };
}

/** What makes a pod another one, to the node. */
function identityOf({ uid, addresses }: ClusterPod): string {
  return `${uid} ${addresses.join()}`;
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}
