// `trace`: the walk of one packet, as this node's core decides it now.
//
// Theory of operation. The tables are copied, without the flows, and a further instance of the core
// is put over the copy: the packet is a real one, of a flow that nobody knows, and what it does to
// the copy is forgotten with it. What was decided is read where it always stands, in the packet's
// descriptor, the ring of verdicts and the outbox; names come from those who wrote the tables.

import {
  DESCRIPTOR_INPUT, DESCRIPTOR_LENGTH, DESCRIPTOR_REASON, DESCRIPTOR_START, DESCRIPTOR_VERDICT,
  DEVICE_GATEWAY_MAC, DEVICE_KIND, DEVICE_KIND_TAP, DEVICE_MAC, DEVICE_NODE, DEVICE_STRIDE,
  DIRECTORY_DEVICES, DIRECTORY_MODULES,
} from '../wasm/abi/layout.ts';
import {
  ETHERNET_HEADER_SIZE, ETHERNET_SOURCE, ETHERNET_TYPE, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6,
  IPV4_DESTINATION, IPV4_HEADER_SIZE, IPV6_DESTINATION, IPV6_HEADER_SIZE,
} from '../wasm/abi/headers.ts';
import {
  REASON_POLICY_PENDING, REASON_SERVICE_CONFLICT, REASON_SERVICE_EMPTY, REASON_SERVICE_GONE,
  REASON_SERVICE_PORT, REASON_SERVICE_PROTOCOL, REASON_SERVICE_SESSION, REASON_SERVICE_SILENT,
  REASON_SPOOFED_SOURCE, REASON_TOO_BIG, VERDICT_SEND,
} from '../wasm/abi/verdict.ts';
import { addressBytes, addressFamily, addressText } from '../engine/address.ts';
import { RequestError } from '../engine/connection.ts';
import type { Core } from '../engine/core.ts';
import { REASON_NAMES } from '../engine/counters.ts';
import { emitPacket } from '../engine/first-packet.ts';
import type { Peer } from '../engine/forwarding.ts';
import type { TraceQuery, TraceReport, TraceStep } from '../engine/model-capture.ts';
import type { Route } from '../engine/model.ts';
import type { PolicyTables } from '../engine/tables/policy.ts';
import { VerdictReader, type Verdict } from '../engine/verdicts.ts';
import { monotonicClock } from './clock.ts';
import type { DataPlane } from './data-plane.ts';
import type { Endpoints } from './endpoints.ts';
import type { Host } from './main.ts';

/** What the traced packet comes from; nothing is known of it, as of any first packet. */
const SOURCE_PORT = 49_152;
const SERVICE_REASONS: ReadonlySet<number> = new Set([
  REASON_SERVICE_PORT, REASON_SERVICE_PROTOCOL, REASON_SERVICE_EMPTY, REASON_SERVICE_SILENT,
  REASON_SERVICE_GONE, REASON_SERVICE_CONFLICT, REASON_SERVICE_SESSION,
]);

/** What the tables' writers know by name. */
export interface TraceHost extends Pick<Host, 'core' | 'forwarding'> {
  readonly policy: { readonly tables: Pick<PolicyTables, 'explain'> };
  readonly endpoints: Pick<Endpoints, 'find'>;
  readonly dataPlane: Pick<DataPlane, 'deviceName'>;
}

/** Routes that lead nowhere. */
const DEAD_ENDS: ReadonlySet<Route['kind']> = new Set(['unreachable', 'prohibit', 'blackhole']);

/** What the core has said. */
interface Outcome {
  reason: number;
  isAnswered: boolean;
  verdicts: Verdict[];
  /** Where it goes after a Service's address was replaced. */
  destination: string;
  port: number;
}

/** Where a packet of an address comes in. */
interface Entrance {
  device: number;
  about: string;
}

export function trace(host: TraceHost, query: TraceQuery): TraceReport {
  const { source, destination } = query;
  if (addressFamily(source) !== addressFamily(destination)) {
    throw new RequestError('family', `${source} and ${destination} are of different families`);
  }
  const entrance = entranceOf(host, source);
  const copy = host.core.copy();
  const hasModules = copy.directory(DIRECTORY_MODULES) !== 0;
  copy.setDirectory(DIRECTORY_MODULES, 0);
  const outcome = run(copy, entrance.device, query);
  const walk = new Walk(host, query, outcome);
  const steps = walk.steps(entrance);
  if (hasModules) {
    const detail = 'policy modules are not asked here; culvert observe shows what they say';
    steps.push({ step: 'modules', outcome: 'note', detail });
  }
  return { ...walk.verdict(), steps };
}

/** The device of a pod of this node, or the node's own. */
function entranceOf({ forwarding, endpoints, dataPlane }: TraceHost, source: string): Entrance {
  const route = forwarding.lookUp(source);
  if (route?.kind === 'endpoint') {
    const [namespace = '', name = ''] = (route.via ?? '').split('/');
    const found = endpoints.find(namespace, name);
    if (found === null || found.device < 0) {
      throw new RequestError('lost', `${route.via}: its interface was deleted`);
    }
    return { device: found.device, about: `pod ${route.via}, ${found.state}` };
  }
  if (route?.kind === 'peer') {
    throw new RequestError('elsewhere', `${source} is on node ${route.via}: trace it there`);
  }
  const name = dataPlane.deviceName(DEVICE_NODE);
  return { device: DEVICE_NODE, about: `the node's own device ${name}` };
}

/** Has the core decide about the packet. */
function run(core: Core, device: number, query: TraceQuery): Outcome {
  const { view } = core;
  const record = core.directory(DIRECTORY_DEVICES) + (device * DEVICE_STRIDE);
  const isTap = core.bytes[record + DEVICE_KIND] === DEVICE_KIND_TAP;
  const at = core.packetAddress(0);
  const packet = at + (isTap ? ETHERNET_HEADER_SIZE : 0);
  const source = addressBytes(query.source);
  if (isTap) {
    const { bytes } = core;
    bytes.copyWithin(at, record + DEVICE_GATEWAY_MAC, record + DEVICE_GATEWAY_MAC + 6);
    bytes.copyWithin(at + ETHERNET_SOURCE, record + DEVICE_MAC, record + DEVICE_MAC + 6);
    view.setUint16(at + ETHERNET_TYPE, source.length === 4 ? ETHER_TYPE_IPV4 : ETHER_TYPE_IPV6);
  }
  const length = emitPacket(view, packet, {
    source, destination: addressBytes(query.destination), protocol: query.protocol,
    sourcePort: SOURCE_PORT, destinationPort: query.port ?? 0, payload: query.size,
  });
  const descriptor = core.descriptorAddress(0);
  view.setUint32(descriptor + DESCRIPTOR_START, at, true);
  view.setUint32(descriptor + DESCRIPTOR_LENGTH, packet - at + length, true);
  view.setUint16(descriptor + DESCRIPTOR_INPUT, device, true);
  const reader = new VerdictReader(core);
  core.exports.processBatch(0, 1, monotonicClock()());
  const reason = core.bytes[descriptor + DESCRIPTOR_REASON] ?? 0;
  const verdicts = reader.read();
  const isSent = core.bytes[descriptor + DESCRIPTOR_VERDICT] === VERDICT_SEND;
  const now = reason === 0 ? endOf(core, packet, source.length === 4) : null;
  const [judged] = verdicts;
  return {
    reason, isAnswered: reason !== 0 && isSent, verdicts,
    destination: now?.address ?? judged?.destination ?? query.destination,
    port: now?.port ?? judged?.destinationPort ?? query.port ?? 0,
  };
}

/** Destination and port as they stand in a packet without options. */
function endOf(core: Core, at: number, isIpv4: boolean): { address: string; port: number } {
  const from = at + (isIpv4 ? IPV4_DESTINATION : IPV6_DESTINATION);
  const transport = at + (isIpv4 ? IPV4_HEADER_SIZE : IPV6_HEADER_SIZE);
  return {
    address: addressText(core.bytes.slice(from, from + (isIpv4 ? 4 : 16))),
    port: core.view.getUint16(transport + 2),
  };
}

/** Puts what was decided into words, in the order in which a packet meets it. */
class Walk {
  readonly #host: TraceHost;
  readonly #query: TraceQuery;
  readonly #outcome: Outcome;
  readonly #route: Route | null;
  readonly #peer: Peer | null;

  constructor(host: TraceHost, query: TraceQuery, outcome: Outcome) {
    this.#host = host;
    this.#query = query;
    this.#outcome = outcome;
    this.#route = host.forwarding.lookUp(outcome.destination);
    const family = addressFamily(outcome.destination);
    this.#peer = this.#route?.kind !== 'peer' ? null
      : [...host.forwarding.peers.values()].find(({ node, families }) =>
        node === this.#route?.via && families.includes(family)) ?? null;
  }

  /** All steps up to the one that dropped it. */
  steps({ about }: Entrance): TraceStep[] {
    const { reason } = this.#outcome;
    const steps: TraceStep[] = [
      { step: 'device', outcome: 'ok', detail: about },
      {
        step: 'source', outcome: reason === REASON_SPOOFED_SOURCE ? 'drop' : 'ok',
        detail: reason === REASON_SPOOFED_SOURCE
          ? `${this.#query.source} is not an address of it` : `${this.#query.source} is its own`,
      },
      ...this.#serviceSteps(),
      ...this.#outcome.verdicts.map((verdict) => this.#policyStep(verdict)),
      ...this.#routeSteps(),
    ];
    const end = steps.findIndex(({ outcome }) => outcome === 'drop');
    if (reason === 0) return steps;
    return end >= 0 ? [...steps.slice(0, end + 1), ...this.#answerSteps()]
      : [...steps, this.#dropStep(), ...this.#answerSteps()];
  }

  /** The end of it. */
  verdict(): Omit<TraceReport, 'steps'> {
    const { reason, verdicts } = this.#outcome;
    const end = (direction: Verdict['direction']): TraceReport['egress'] => {
      const verdict = verdicts.find((one) => one.direction === direction);
      if (verdict === undefined) return null;
      const rule = this.#host.policy.tables.explain(verdict.answer);
      const { policy = null, rule: name = null } = rule ?? {};
      return { allowed: verdict.allowed, policy, rule: name };
    };
    const passed = this.#peer === null ? 'delivered' : 'sent';
    return {
      verdict: reason === 0 ? passed : 'dropped',
      reason: reason === 0 ? null : REASON_NAMES[reason] ?? String(reason),
      egress: end('egress'),
      ingress: end('ingress'),
    };
  }

  #serviceSteps(): TraceStep[] {
    const { forwarding } = this.#host;
    const { reason, destination, port } = this.#outcome;
    const route = forwarding.lookUp(this.#query.destination);
    if (route?.kind !== 'service') return [];
    const name = `Service ${route.via}, ${this.#query.port ?? ''}/${this.#query.protocol}`;
    return SERVICE_REASONS.has(reason)
      ? [{ step: 'service', outcome: 'drop', detail: `${name}: ${REASON_NAMES[reason]}` }]
      : [{ step: 'service', outcome: 'ok', detail: `${name}: ${destination} port ${port}` }];
  }

  #policyStep({ direction, allowed, answer }: Verdict): TraceStep {
    const rule = this.#host.policy.tables.explain(answer);
    const what = rule === null ? 'no policy is about it' : `${rule.policy}, ${rule.rule}`;
    return { step: direction, outcome: allowed ? 'ok' : 'drop', detail: what };
  }

  #routeSteps(): TraceStep[] {
    const { reason, destination } = this.#outcome;
    const route = this.#route;
    if (route === null) {
      return [{ step: 'route', outcome: 'drop', detail: `none to ${destination}` }];
    }
    const via = route.via === null ? '' : ` ${route.via}`;
    const isDead = reason !== 0 && DEAD_ENDS.has(route.kind);
    const steps: TraceStep[] = [{
      step: 'route', outcome: isDead ? 'drop' : 'ok',
      detail: `${route.prefix}: ${route.kind}${via}`,
    }];
    const peer = this.#peer;
    if (peer === null) return steps;
    const { tunnel: { kind, remote, port }, mtu } = peer;
    const to = port === 0 ? remote : `${remote} port ${port}`;
    const isTooBig = reason === REASON_TOO_BIG;
    return [
      ...steps,
      { step: 'tunnel', outcome: 'ok', detail: kind === 'direct' ? `none, to ${remote}`
        : `${kind} to ${to}` },
      { step: 'mtu', outcome: isTooBig ? 'drop' : 'ok', detail: isTooBig
        ? `larger than ${mtu} bytes, and not to be fragmented` : `${mtu} bytes at most` },
      { step: 'ingress', outcome: 'note', detail: `node ${peer.node} decides for its pod` },
    ];
  }

  #dropStep(): TraceStep {
    const { reason } = this.#outcome;
    return reason === REASON_POLICY_PENDING
      ? { step: 'policy', outcome: 'drop', detail: 'not known yet of a pod at one of its ends' }
      : { step: 'core', outcome: 'drop', detail: REASON_NAMES[reason] ?? String(reason) };
  }

  #answerSteps(): TraceStep[] {
    return this.#outcome.isAnswered
      ? [{ step: 'answer', outcome: 'note', detail: 'the sender is told' }] : [];
  }
}
