// Packets for a Service's address. Nobody has that address: such a packet is served, that is, given
// to a backend, before it is routed and judged like any other.
//
// Theory of operation. A connection is a pair of entries (table/flow.ts). A packet of a known
// session goes to the backend of its pair while the Service still has that; what chooses anew
// otherwise is a packet that opens a connection, and any of a protocol without connections. The
// entries are made once the packet may pass (settle.ts). Two flows with the same ends and ports
// could not be told apart in replies, so a backend to which there is such a flow is passed over.
//
// A pod, or the node, that is its own backend would meet its own address as a source. There the
// Service's address takes its place: the reply comes back here, is known by its pair, and is
// translated at both ends. Nowhere else is a source changed.
//
// A client with affinity gets the backend it had, by an entry that each new flow of it renews.

import {
  PROTOCOL_SCTP, PROTOCOL_TCP, SCTP_HEADER_SIZE, TCP_HEADER_SIZE, UDP_HEADER_SIZE,
} from "../abi/headers";
import {
  DIRECTORY_SERVICE_EPOCH, DIRECTORY_START, NEXT_HOP_KIND_ENDPOINT, NEXT_HOP_KIND_NODE,
  TRANSLATED_REPLY, TRANSLATED_SERVED, WORKERS_START, WORKER_FRONT, WORKER_STRIDE,
} from "../abi/layout";
import {
  AFFINITY_SEED, FLOW_EXPIRES, FLOW_PROTOCOL, FLOW_STATE, FLOW_STATE_CLOSING, FLOW_STATE_NEW,
  SESSION_EPOCH, SESSION_FRONT_EPOCH,
} from "../abi/policy";
import {
  BACKEND_ADDRESS, BACKEND_PORT, FRONT_AFFINITY, FRONT_COUNTS_REFUSED, FRONT_EPOCH, FRONT_FLAGS,
  FRONT_FLAG_SILENT, FRONT_OFFERED,
} from "../abi/service";
import {
  REASON_FRAGMENT_TABLE_FULL, REASON_FRAGMENT_UNKNOWN, REASON_NONE, REASON_SERVICE_CONFLICT,
  REASON_SERVICE_EMPTY, REASON_SERVICE_GONE, REASON_SERVICE_PORT, REASON_SERVICE_PROTOCOL,
  REASON_SERVICE_SESSION, REASON_SERVICE_SILENT, REASON_TOO_SHORT,
} from "../abi/verdict";
import { countFront } from "../count";
import { quotedFlow } from "../flow-error";
import { laterFlow, rememberFirst } from "../flow-fragment";
import {
  composeFlowKey, flowDestination, flowIsError, flowIsIpv4, flowOpenerPorts, flowOpens, flowSameWay,
  flowSource, writeFlowKey,
} from "../flow-key";
import { advance, closeFlow, findLive } from "../flow-track";
import { lockFlows, unlockFlows } from "../lock";
import { packetStart } from "../packet";
import {
  flowAffinity, flowCandidate, flowInsert, flowIsSession, flowIsTranslated, flowPair, flowRemove,
  flowSession, setPacketFlow,
} from "../table/flow";
import { flowKeyHash } from "../table/flow-hash";
import { backendAt, frontFind, hasBackend } from "../table/front";
import { nextHopAt, nextHopKind } from "../table/record";
import { routeIpv4, routeIpv6 } from "../table/route";
import { ipTotalLength, ipTransport } from "../wire/ip";
import {
  hasPorts, isFragment, isHeaderless, isLaterFragment, transportOffset, transportProtocol,
} from "../wire/transport";
import { backendOfSeed, backendSeed, backendWeight, bestBackend, WEIGHT_LIMIT } from "./choose";
import { translate, translateQuote } from "./translate";

/** Backends that are tried for a flow whose ends and ports another has already. */
const TRIES: i32 = 8;

/** Makes a checked packet for a Service one for its backend. REASON_NONE: it is to be routed again;
 * otherwise it is as it came, and to be dropped. */
export function serve(descriptor: usize, worker: i32, nowMs: i32): i32 {
  lockFlows(worker);
  const reason = serveAlone(descriptor, worker, nowMs);
  unlockFlows();
  return reason;
}

function serveAlone(descriptor: usize, worker: i32, nowMs: i32): i32 {
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  const total = ipTotalLength(packet);
  const key = flowSession(worker);
  setPacketFlow(worker, 0);
  writeFlowKey(key, packet, transport, total);
  if (isLaterFragment(transport)) {
    const flow = laterFlow(packet, transport, key, nowMs);
    const pair = flow != 0 ? flowPair(flow) : 0;
    if (pair == 0) return REASON_FRAGMENT_UNKNOWN;
    return passOn(descriptor, transport, worker, nowMs, flow, pair);
  }
  const protocol = transportProtocol(transport);
  const isUnserved = isHeaderless(transport) || !hasPorts(protocol)
    || (protocol == PROTOCOL_SCTP && isFragment(transport));
  if (isUnserved) return serveError(descriptor, transport, worker, nowMs);
  if (total - transportOffset(transport) < headerSize(protocol)) return REASON_TOO_SHORT;
  const known = findSession(key, worker, nowMs);
  if (known != 0) {
    const pair = flowPair(known);
    if (!flowIsSession(known) || keepsBackend(known, pair)) {
      return passOn(descriptor, transport, worker, nowMs, known, pair);
    }
    if (protocol == PROTOCOL_TCP && !flowOpens(key)) {
      closeFlow(pair, nowMs);
      return REASON_SERVICE_GONE;
    }
    flowRemove(worker, known);
  }
  const reason = chooseBackend(key, worker, nowMs);
  if (reason != REASON_NONE) return reason;
  translate(descriptor, worker, flowCandidate(worker), true, TRANSLATED_SERVED);
  return REASON_NONE;
}

/** Bytes of header that a packet must show. */
function headerSize(protocol: i32): i32 {
  if (protocol == PROTOCOL_TCP) return TCP_HEADER_SIZE;
  return protocol == PROTOCOL_SCTP ? SCTP_HEADER_SIZE : UDP_HEADER_SIZE;
}

/** Takes a packet on to the other side of its pair. One of a session goes to the backend. One of a
 * translated flow is from a backend that is the client, too: nobody is left to ask about it. */
function passOn(
  descriptor: usize, transport: i32, worker: i32, nowMs: i32, flow: usize, pair: usize,
): i32 {
  const key = flowSession(worker);
  const byOpener = flowSameWay(flow, key);
  if (flowIsSession(flow)) {
    setPacketFlow(worker, pair);
    translate(descriptor, worker, pair, byOpener, TRANSLATED_SERVED);
    return REASON_NONE;
  }
  if (byOpener) return REASON_SERVICE_SESSION;
  const isFirst = isFragment(transport) && !isLaterFragment(transport);
  if (isFirst && !rememberFirst(packetStart(descriptor), transport, key, flow, nowMs)) {
    return REASON_FRAGMENT_TABLE_FULL;
  }
  if (!isLaterFragment(transport)) advance(flow, key, nowMs);
  translate(descriptor, worker, pair, false, TRANSLATED_REPLY);
  return REASON_NONE;
}

/** An ICMP error about what a Service seems to have sent goes to the backend that did. Services
 * serve no other packet without ports. */
function serveError(descriptor: usize, transport: i32, worker: i32, nowMs: i32): i32 {
  if (isHeaderless(transport) || !flowIsError(flowSession(worker))) return REASON_SERVICE_PROTOCOL;
  const packet = packetStart(descriptor);
  const flow = quotedFlow(packet, transport, ipTotalLength(packet), worker, nowMs, true);
  const pair = flow != 0 ? flowPair(flow) : 0;
  if (pair == 0) return REASON_SERVICE_SESSION;
  translateQuote(descriptor, worker, flow, pair, TRANSLATED_SERVED);
  return REASON_NONE;
}

/** The entry of a key that has a pair, 0 if there is none. What opens a connection where the last
 * one is over is not of that. */
function findSession(key: usize, worker: i32, nowMs: i32): usize {
  const flow = findLive(key, worker, nowMs);
  if (flow == 0) return 0;
  const pair = flowPair(flow);
  const isOver = pair == 0 || (flowOpens(key) && flowIsSession(flow)
    && load<u8>(pair, FLOW_STATE) == FLOW_STATE_CLOSING);
  if (!isOver) return flow;
  flowRemove(worker, flow);
  return 0;
}

function serviceEpoch(): i32 {
  return atomic.load<i32>(DIRECTORY_START, DIRECTORY_SERVICE_EPOCH);
}

/** True while the Service has the session's backend, ready or draining. Nothing is looked up as
 * long as no Service changes, and little as long as this one does not. */
function keepsBackend(session: usize, pair: usize): bool {
  const epoch = serviceEpoch();
  if (load<i32>(session, SESSION_EPOCH) == epoch) return true;
  const front = frontOf(session);
  if (front == 0) return false;
  const frontEpoch = load<i32>(front, FRONT_EPOCH);
  const isChanged = frontEpoch != load<i32>(session, SESSION_FRONT_EPOCH);
  const port = <u16>(flowOpenerPorts(pair) >>> 16);
  if (isChanged && !hasBackend(front, flowDestination(pair), port)) return false;
  store<i32>(session, epoch, SESSION_EPOCH);
  store<i32>(session, frontEpoch, SESSION_FRONT_EPOCH);
  return true;
}

/** The front that a session's client addresses. */
function frontOf(session: usize): usize {
  const port = <u16>(flowOpenerPorts(session) >>> 16);
  return frontFind(flowDestination(session), port, load<u8>(session, FLOW_PROTOCOL));
}

/** Finds a backend for a new session, and writes the key of the flow to it at flowCandidate(). */
function chooseBackend(key: usize, worker: i32, nowMs: i32): i32 {
  store<i32>(key, serviceEpoch(), SESSION_EPOCH); // before the front is read
  const front = frontOf(key);
  if (front == 0) return REASON_SERVICE_PORT;
  store<i32>(key, load<i32>(front, FRONT_EPOCH), SESSION_FRONT_EPOCH);
  const count = <i32>load<u16>(front, FRONT_OFFERED);
  if (count == 0) {
    countFront(worker, front, FRONT_COUNTS_REFUSED);
    const isSilent = (load<u8>(front, FRONT_FLAGS) & FRONT_FLAG_SILENT) != 0;
    return isSilent ? REASON_SERVICE_SILENT : REASON_SERVICE_EMPTY;
  }
  store<u32>(<usize>(WORKERS_START + (worker * WORKER_STRIDE)), <u32>front, WORKER_FRONT);
  const affinity = load<i32>(front, FRONT_AFFINITY);
  const name = affinity > 0 ? writeAffinityKey(key, worker) : key;
  const kept = affinity > 0 ? findLive(name, worker, nowMs) : 0;
  const hash = <u32>(flowKeyHash(name) >>> 32);
  let bound = WEIGHT_LIMIT;
  let index = kept == 0 ? -1 : backendOfSeed(front, count, load<u32>(kept, AFFINITY_SEED));
  for (let tries = 0; tries < TRIES; tries += 1) {
    if (index < 0) {
      index = bestBackend(front, count, hash, bound);
      if (index < 0) break;
      bound = backendWeight(front, index, hash);
    }
    if (isVacant(composeCandidate(key, backendAt(front, index), worker), worker, nowMs)) {
      if (affinity > 0) keepAffinity(kept, worker, nowMs, affinity, backendSeed(front, index));
      return REASON_NONE;
    }
    index = -1;
  }
  return REASON_SERVICE_CONFLICT;
}

/** Writes the key of the flow from a session's client to a backend. */
function composeCandidate(session: usize, backend: usize, worker: i32): usize {
  const candidate = flowCandidate(worker);
  const client = flowSource(session);
  const address = backend + BACKEND_ADDRESS;
  const loops = isSameHost(client, address, flowIsIpv4(session));
  const ports = (flowOpenerPorts(session) & 0xffff) | (<u32>load<u16>(backend, BACKEND_PORT) << 16);
  composeFlowKey(candidate, loops ? flowDestination(session) : client, address, ports,
    load<u8>(session, FLOW_PROTOCOL));
  return candidate;
}

/** True where both addresses are of one pod of this node, or of the node. */
function isSameHost(left: usize, right: usize, ipv4: bool): bool {
  const hop = ipv4 ? routeIpv4(left + 12) : routeIpv6(left);
  if (hop != (ipv4 ? routeIpv4(right + 12) : routeIpv6(right))) return false;
  const kind = nextHopKind(nextHopAt(hop));
  return kind == NEXT_HOP_KIND_ENDPOINT || kind == NEXT_HOP_KIND_NODE;
}

/** True where no other flow that may live on has this key. One that its other end opened, and that
 * nobody has answered, is what is left of a pair whose session was given up. */
function isVacant(candidate: usize, worker: i32, nowMs: i32): bool {
  const flow = findLive(candidate, worker, nowMs);
  if (flow == 0) return true;
  if (flowIsTranslated(flow) || flowIsSession(flow)) {
    return flowPair(flow) == 0 || load<u8>(flow, FLOW_STATE) == FLOW_STATE_CLOSING;
  }
  const state = load<u8>(flow, FLOW_STATE);
  return state == FLOW_STATE_CLOSING
    || (state == FLOW_STATE_NEW && !flowSameWay(flow, candidate));
}

/** Writes the key of a client's affinity: no packet has protocol 0 with ports. */
function writeAffinityKey(session: usize, worker: i32): usize {
  const key = flowAffinity(worker);
  const protocol = <u32>load<u8>(session, FLOW_PROTOCOL);
  const ports = (flowOpenerPorts(session) & 0xffff0000) | protocol;
  composeFlowKey(key, flowSource(session), flowDestination(session), ports, 0);
  return key;
}

/** Renews an affinity, or makes one; where there is no room the next flow chooses again. */
function keepAffinity(kept: usize, worker: i32, nowMs: i32, lifetime: i32, seed: u32): void {
  const entry = kept != 0 ? kept : flowAffinity(worker);
  store<u32>(entry, seed, AFFINITY_SEED);
  store<i32>(entry, nowMs + lifetime, FLOW_EXPIRES);
  if (kept == 0) flowInsert(worker, entry, nowMs);
}
