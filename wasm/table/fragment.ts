// Datagrams whose first fragment was let pass: a small table in sets of FRAGMENT_WAYS entries,
// found by addresses and identification (RFC 791 section 3.2, RFC 8200 section 4.5). An entry leads
// to its flow. Only packets that policy allows enter it, so others cannot fill it. Workers share
// it, under the lock of flows: a datagram's fragments need not come to one worker.

import { DIRECTORY_FRAGMENTS, DIRECTORY_FRAGMENT_LIMIT } from "../abi/layout";
import {
  FLOW_FLAGS, FLOW_FLAG_USED, FLOW_PORT_A, FRAGMENT_DESTINATION, FRAGMENT_EXPIRES, FRAGMENT_FLOW,
  FRAGMENT_ID, FRAGMENT_PORTS, FRAGMENT_PROTOCOL, FRAGMENT_SIZE, FRAGMENT_SOURCE, FRAGMENT_TIMEOUT,
  FRAGMENT_WAYS,
} from "../abi/policy";
import { flowDestination, flowSameEnds, flowSource } from "../flow-key";
import { directory } from "../packet";
import { flowTimeLeft } from "./flow";
import { endsHash } from "./flow-hash";

/** Remembers a first fragment that passed as part of `flow`; `key` is the packet's own. False: the
 * set is full of datagrams not yet timed out. */
export function fragmentRemember(
  key: usize,
  id: u32,
  protocol: i32,
  flow: usize,
  nowMs: i32,
): bool {
  const set = fragmentSet(key, id);
  let entry = findInSet(set, key, id, protocol, nowMs);
  if (entry == 0) entry = freeInSet(set, nowMs);
  if (entry == 0) return false;
  v128.store(entry, v128.load(flowSource(key)), FRAGMENT_SOURCE);
  v128.store(entry, v128.load(flowDestination(key)), FRAGMENT_DESTINATION);
  store<u32>(entry, id, FRAGMENT_ID);
  store<i32>(entry, protocol, FRAGMENT_PROTOCOL);
  store<i32>(entry, nowMs + FRAGMENT_TIMEOUT, FRAGMENT_EXPIRES);
  store<u32>(entry, <u32>flow, FRAGMENT_FLOW);
  store<u32>(entry, load<u32>(flow, FLOW_PORT_A), FRAGMENT_PORTS);
  return true;
}

/** The flow of a later fragment; 0 if its first was not seen, or the flow has ended. */
export function fragmentFlow(key: usize, id: u32, protocol: i32, nowMs: i32): usize {
  const entry = findInSet(fragmentSet(key, id), key, id, protocol, nowMs);
  if (entry == 0) return 0;
  const flow = <usize>load<u32>(entry, FRAGMENT_FLOW);
  const lives = (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_USED) != 0
    && load<u32>(flow, FLOW_PORT_A) == load<u32>(entry, FRAGMENT_PORTS)
    && flowSameEnds(flow, key) && flowTimeLeft(flow, nowMs) > 0;
  return lives ? flow : 0;
}

function fragmentSet(key: usize, id: u32): usize {
  const limit = directory(DIRECTORY_FRAGMENT_LIMIT);
  const set = <i32>(endsHash(key, id) >>> 40) & ((limit / FRAGMENT_WAYS) - 1);
  return <usize>(directory(DIRECTORY_FRAGMENTS) + (set * FRAGMENT_WAYS * FRAGMENT_SIZE));
}

function findInSet(set: usize, key: usize, id: u32, protocol: i32, nowMs: i32): usize {
  const end = set + (FRAGMENT_WAYS * FRAGMENT_SIZE);
  for (let entry = set; entry < end; entry += FRAGMENT_SIZE) {
    if (isLive(entry, nowMs) && load<u32>(entry, FRAGMENT_ID) == id
      && load<i32>(entry, FRAGMENT_PROTOCOL) == protocol
      && sameAddress(entry + FRAGMENT_SOURCE, flowSource(key))
      && sameAddress(entry + FRAGMENT_DESTINATION, flowDestination(key))) return entry;
  }
  return 0;
}

function freeInSet(set: usize, nowMs: i32): usize {
  const end = set + (FRAGMENT_WAYS * FRAGMENT_SIZE);
  for (let entry = set; entry < end; entry += FRAGMENT_SIZE) {
    if (!isLive(entry, nowMs)) return entry;
  }
  return 0;
}

function isLive(entry: usize, nowMs: i32): bool {
  return load<u32>(entry, FRAGMENT_FLOW) != 0 && load<i32>(entry, FRAGMENT_EXPIRES) - nowMs > 0;
}

function sameAddress(left: usize, right: usize): bool {
  return !v128.any_true(v128.xor(v128.load(left), v128.load(right)));
}
