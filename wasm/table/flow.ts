// The flow table: a hash of 64-byte entries, one table per worker, so nothing here needs atomics.
//
// Theory of operation. Entries stand in groups of 16, with 16 tags that one SIMD comparison looks
// through (the idea is Abseil's Swiss table). A key has a home group and a second one, and is never
// elsewhere: a lookup reads two groups at most, there are no tombstones, and nothing is ever moved.
// The hash is keyed, so nobody can aim flows at a group (hash flooding).
//
// An insert takes a free entry, at home if it can; then the entry of both groups that
// has expired or may be given up and has the least time left. Established flows are never given up.
// Flows that are not yet established are, the oldest first: a flood of SYNs goes round in its own
// entries, and an honest new flow gets one too. What neither expires nor is wanted is swept, one
// group a turn. The slow twin is test/reference/flows.ts.

import {
  DIRECTORY_FLOWS,
  DIRECTORY_FLOW_COUNT,
  DIRECTORY_FLOW_SEED,
  WORKERS_START,
  WORKER_CANDIDATE,
  WORKER_FLOWS,
  WORKER_FLOW_SWEEP,
  WORKER_QUOTED,
  WORKER_STRIDE,
} from "../abi/layout";
import {
  FLOW_ADDRESS_A,
  FLOW_ADDRESS_B,
  FLOW_EXPIRES,
  FLOW_FLAGS,
  FLOW_GROUP_SIZE,
  FLOW_PORT_A,
  FLOW_PROTOCOL,
  FLOW_SIZE,
  FLOW_STATE,
  FLOW_STATE_ESTABLISHED,
  FLOW_TAG_USED,
} from "../abi/policy";
import { flowMatches } from "../flow-key";
import { directory } from "../packet";

const WELL_FILLED: i32 = 10;

/** The worker's room for the key that is looked up, an entry long. */
export function flowCandidate(worker: i32): usize {
  return workerField(worker, WORKER_CANDIDATE);
}

/** Likewise for the key of the packet that an ICMP error quotes. */
export function flowQuoted(worker: i32): usize {
  return workerField(worker, WORKER_QUOTED);
}

/** Address of the entry of a key, 0 if there is none. It may have expired. */
export function flowFind(worker: i32, key: usize): usize {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable(worker, count);
  const tags = table + <usize>(count * FLOW_SIZE);
  const hash = flowKeyHash(key);
  const found = findInGroup(table, tags, homeGroup(hash, count), hash, key);
  return found != 0 ? found : findInGroup(table, tags, secondGroup(hash, count), hash, key);
}

/** Copies an entry into the table, with its key in it. Returns its address there, or 0: both groups
 * are full of established flows. Precondition: flowFind() does not find the key. */
export function flowInsert(worker: i32, entry: usize, nowMs: i32): usize {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable(worker, count);
  const tags = table + <usize>(count * FLOW_SIZE);
  const hash = flowKeyHash(entry);
  const home = homeGroup(hash, count);
  const second = secondGroup(hash, count);
  let place = freeEntry(tags, home, second);
  if (place >= 0) addToCount(worker, 1);
  else place = spareEntry(table, home, second, nowMs);
  if (place < 0) return 0;
  const target = table + <usize>(place * FLOW_SIZE);
  memory.copy(target, entry, FLOW_SIZE);
  store<u8>(tags + <usize>place, tagOf(hash));
  return target;
}

/** Takes an entry out. */
export function flowRemove(worker: i32, flow: usize): void {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable(worker, count);
  store<u8>(flow, 0, FLOW_FLAGS);
  store<u8>(table + <usize>(count * FLOW_SIZE) + ((flow - table) / FLOW_SIZE), 0);
  addToCount(worker, -1);
}

/** Milliseconds until the entry expires, 0 or less if it has. The clock may wrap. */
export function flowTimeLeft(flow: usize, nowMs: i32): i32 {
  return load<i32>(flow, FLOW_EXPIRES) - nowMs;
}

/** Takes expired entries out of the next group in turn. Once around the table must take less than
 * 24 days, else expired entries look as if they had time again. */
export function flowSweep(worker: i32, nowMs: i32): void {
  const count = directory(DIRECTORY_FLOW_COUNT);
  if (count == 0) return;
  const table = flowTable(worker, count);
  const next = workerField(worker, WORKER_FLOW_SWEEP);
  const group = load<i32>(next) & (groupCount(count) - 1);
  store<i32>(next, group + 1);
  const tags = table + <usize>((count * FLOW_SIZE) + (group * FLOW_GROUP_SIZE));
  for (let used = usedEntries(tags); used != 0; used &= used - 1) {
    const flow = table + <usize>(((group * FLOW_GROUP_SIZE) + ctz(used)) * FLOW_SIZE);
    if (flowTimeLeft(flow, nowMs) <= 0) flowRemove(worker, flow);
  }
}

/** Address of a field of the worker's block. */
export function workerField(worker: i32, field: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE) + field);
}

/** Address of the worker's table of `count` entries; their tags follow them. */
export function flowTable(worker: i32, count: i32): usize {
  return <usize>(directory(DIRECTORY_FLOWS) + (worker * count * (FLOW_SIZE + 1)));
}

function groupCount(count: i32): i32 {
  return count / FLOW_GROUP_SIZE;
}

/** The hash of an entry's key. */
export function flowKeyHash(key: usize): u64 {
  const rest = (<u64>load<u32>(key, FLOW_PORT_A) << 8) | <u64>load<u8>(key, FLOW_PROTOCOL);
  return endsHash(key, rest);
}

/** A hash of both ends' addresses and `rest`: each word times an odd number of its own that nobody
 * outside knows (Dietzfelbinger et al. 1997). The last round spreads the upper bits. */
export function endsHash(key: usize, rest: u64): u64 {
  const seed = <u64>directory(DIRECTORY_FLOW_SEED) * 0x9e3779b97f4a7c15;
  let sum = load<u64>(key, FLOW_ADDRESS_A) * (seed | 1);
  sum += load<u64>(key + 8, FLOW_ADDRESS_A) * (rotl<u64>(seed, 13) | 1);
  sum += load<u64>(key, FLOW_ADDRESS_B) * (rotl<u64>(seed, 27) | 1);
  sum += load<u64>(key + 8, FLOW_ADDRESS_B) * (rotl<u64>(seed, 41) | 1);
  sum += rest * (rotl<u64>(seed, 53) | 1);
  return (sum ^ (sum >>> 32)) * 0xd6e8feb86659fd93;
}

/** The group that a key is put into first. */
export function homeGroup(hash: u64, count: i32): i32 {
  return <i32>(hash >>> 40) & (groupCount(count) - 1);
}

/** The only other group that it may be in. */
export function secondGroup(hash: u64, count: i32): i32 {
  return <i32>(hash >>> 20) & (groupCount(count) - 1);
}

/** The tag of an entry in use. */
export function tagOf(hash: u64): u8 {
  return <u8>(<i32>(hash >>> 12) | FLOW_TAG_USED);
}

// @ts-ignore: decorator
@inline
function findInGroup(table: usize, tags: usize, group: i32, hash: u64, key: usize): usize {
  const first = <usize>(group * FLOW_GROUP_SIZE);
  const same = i8x16.eq(v128.load(tags + first), i8x16.splat(tagOf(hash)));
  for (let match = i8x16.bitmask(same); match != 0; match &= match - 1) {
    const flow = table + ((first + <usize>ctz(match)) * FLOW_SIZE);
    if (flowMatches(flow, key)) return flow;
  }
  return 0;
}

/** A bit for each entry in use of the group whose tags these are. */
function usedEntries(tags: usize): i32 {
  return i8x16.bitmask(v128.load(tags));
}

/** Index of a free entry, -1 if there is none: at home, or in the second group once home is well
 * filled and the other less so. That way a table takes 85 of 100 before any two groups are full. */
function freeEntry(tags: usize, home: i32, second: i32): i32 {
  const atHome = usedEntries(tags + <usize>(home * FLOW_GROUP_SIZE));
  const inSecond = usedEntries(tags + <usize>(second * FLOW_GROUP_SIZE));
  const isHome = popcnt(atHome) < WELL_FILLED || popcnt(atHome) <= popcnt(inSecond);
  const free = ~(isHome ? atHome : inSecond) & 0xffff;
  return free == 0 ? -1 : ((isHome ? home : second) * FLOW_GROUP_SIZE) + ctz(free);
}

/** Index of the entry that a new flow may take over: of those not established or expired, the one
 * with the least time left; -1 if there is none. Precondition: no entry is free. */
function spareEntry(table: usize, home: i32, second: i32, nowMs: i32): i32 {
  let best = -1;
  let least: i32 = i32.MAX_VALUE;
  for (let index = 0; index < FLOW_GROUP_SIZE * 2; index += 1) {
    const group = index < FLOW_GROUP_SIZE ? home : second;
    const place = (group * FLOW_GROUP_SIZE) + (index & (FLOW_GROUP_SIZE - 1));
    const flow = table + <usize>(place * FLOW_SIZE);
    const left = flowTimeLeft(flow, nowMs);
    if (left >= least || (left > 0 && load<u8>(flow, FLOW_STATE) == FLOW_STATE_ESTABLISHED)) {
      continue;
    }
    best = place;
    least = left;
  }
  return best;
}

function addToCount(worker: i32, change: i32): void {
  const count = workerField(worker, WORKER_FLOWS);
  store<i32>(count, load<i32>(count) + change);
}
