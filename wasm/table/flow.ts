// The flow table: a hash of 64-byte entries. Workers share it; who calls holds its lock (lock.ts),
// so nothing here needs atomics.
//
// Theory of operation. Entries stand in groups of 16, with 16 tags that one SIMD comparison looks
// through (the idea is Abseil's Swiss table). A key has a home group and a second one, and is never
// elsewhere: a lookup reads two groups at most, there are no tombstones, and nothing is ever moved.
// The hash is keyed, so nobody can aim flows at a group (flow-hash.ts).
//
// An insert takes a free entry, at home if it can; then the entry of both groups that has expired,
// or the one of those that may be given up that was silent for longest. Established flows are not,
// except for UDP's that have been silent for as long as an exchange may be: questions that use a
// port again soon look like a conversation. So floods of SYNs and of exchanges go round in their
// own entries, an honest new flow gets one too, and who waits for an answer is the last to go. What
// neither expires nor is wanted is swept, one group a turn. The slow twin is
// test/reference/flows.ts.
//
// Pairs. A connection to a Service has two entries: the session, as its client has it, and the
// translated flow, as its backend has it. Each leads to the other, and only both together count:
// where one has been given up or taken over, the other has no pair any more. A session lives by the
// time and state of its pair.

import { PROTOCOL_UDP } from "../abi/headers";
import {
  DIRECTORY_FLOWS, DIRECTORY_FLOW_COUNT, WORKERS_START, WORKER_AFFINITY, WORKER_CANDIDATE,
  WORKER_FLOW, WORKER_FLOWS, WORKER_FLOW_SWEEP, WORKER_QUOTED, WORKER_SESSION, WORKER_STRIDE,
} from "../abi/layout";
import {
  FLOW_EXPIRES, FLOW_FLAGS, FLOW_FLAG_SESSION, FLOW_FLAG_TRANSLATED, FLOW_GROUP_SIZE, FLOW_KEYS,
  FLOW_KEYS_ADDRESS_A, FLOW_KEYS_ADDRESS_B, FLOW_KEYS_REST, FLOW_KEYS_SPREAD, FLOW_LIFETIME,
  FLOW_PAIR, FLOW_PROTOCOL, FLOW_SIZE, FLOW_STATE, FLOW_STATE_ESTABLISHED, FLOW_TIMEOUT_NEW,
} from "../abi/policy";
import { flowMatches } from "../flow-key";
import { directory } from "../packet";
import { flowKeyHash, flowKeyHashWith, homeGroup, secondGroup, tagOf } from "./flow-hash";

const WELL_FILLED: i32 = 10;
/** Keys that flowFindMany() looks up at a time, and bytes of an answer. */
const FIND_MANY: i32 = 32;
const ANSWER_SIZE: i32 = 4;

/** The worker's room for the key that is looked up, an entry long. */
export function flowCandidate(worker: i32): usize {
  return workerField(worker, WORKER_CANDIDATE);
}

/** Likewise for the key of the packet that an ICMP error quotes. */
export function flowQuoted(worker: i32): usize {
  return workerField(worker, WORKER_QUOTED);
}

/** Likewise for the key of a packet that came for a Service. */
export function flowSession(worker: i32): usize {
  return workerField(worker, WORKER_SESSION);
}

/** Likewise for the key of an affinity. */
export function flowAffinity(worker: i32): usize {
  return workerField(worker, WORKER_AFFINITY);
}

/** The flow of the packet in hand, 0 where it has none. */
export function packetFlow(worker: i32): usize {
  return load<u32>(workerField(worker, WORKER_FLOW));
}

export function setPacketFlow(worker: i32, flow: usize): void {
  store<u32>(workerField(worker, WORKER_FLOW), <u32>flow);
}

/** Address of the entry of a key, 0 if there is none. It may have expired. */
// @ts-ignore: decorator
@inline
export function flowFind(key: usize): usize {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable();
  const tags = table + <usize>(count * FLOW_SIZE);
  const hash = flowKeyHash(key);
  const home = homeGroup(hash, count);
  const match = sameTags(tags, home, hash);
  if (match != 0) {
    const flow = entryAt(table, home + ctz(match));
    if (flowMatches(flow, key)) return flow;
  }
  return search(table, count, hash, key);
}

/** Looks up `count` keys, an entry apart, in a table of `entries`, and writes the u32 address of
 * each one's entry, or 0. The first pass computes hashes and reads tags, the second reads entries:
 * in neither does a key wait for the one before, so that many are on their way from memory at a
 * time. For tests and benches. Precondition: `count` is a multiple of FIND_MANY. */
export function flowFindMany(
  table: usize, entries: i32, keys: usize, count: i32, found: usize,
): void {
  const tags = table + <usize>(entries * FLOW_SIZE);
  for (let end = keys + <usize>(count * FLOW_SIZE); keys < end; keys += FIND_MANY * FLOW_SIZE) {
    findLikely(table, tags, entries, keys, found);
    confirmLikely(table, entries, keys, found);
    found += FIND_MANY * ANSWER_SIZE;
  }
}

/** Writes for each of FIND_MANY keys the entry of its home group that has its tag, or any entry. */
function findLikely(table: usize, tags: usize, entries: i32, keys: usize, found: usize): void {
  const a = v128.load(FLOW_KEYS, FLOW_KEYS_ADDRESS_A);
  const b = v128.load(FLOW_KEYS, FLOW_KEYS_ADDRESS_B);
  const factor = load<u64>(FLOW_KEYS, FLOW_KEYS_REST);
  const spread = load<u64>(FLOW_KEYS, FLOW_KEYS_SPREAD);
  for (let end = keys + (FIND_MANY * FLOW_SIZE); keys < end; found += 4 * ANSWER_SIZE) {
    let hash = flowKeyHashWith(keys, a, b, factor, spread);
    store<u32>(found, likelyEntry(table, tags, entries, hash));
    hash = flowKeyHashWith(keys + FLOW_SIZE, a, b, factor, spread);
    store<u32>(found, likelyEntry(table, tags, entries, hash), ANSWER_SIZE);
    hash = flowKeyHashWith(keys + (2 * FLOW_SIZE), a, b, factor, spread);
    store<u32>(found, likelyEntry(table, tags, entries, hash), 2 * ANSWER_SIZE);
    hash = flowKeyHashWith(keys + (3 * FLOW_SIZE), a, b, factor, spread);
    store<u32>(found, likelyEntry(table, tags, entries, hash), 3 * ANSWER_SIZE);
    keys += 4 * FLOW_SIZE;
  }
}

// @ts-ignore: decorator
@inline
function likelyEntry(table: usize, tags: usize, entries: i32, hash: u64): u32 {
  const home = homeGroup(hash, entries);
  const place = home + (ctz(sameTags(tags, home, hash)) & (FLOW_GROUP_SIZE - 1));
  return <u32>entryAt(table, place);
}

/** Looks further for those of FIND_MANY keys whose likely entry is another's. */
function confirmLikely(table: usize, entries: i32, keys: usize, found: usize): void {
  for (let end = keys + (FIND_MANY * FLOW_SIZE); keys < end; keys += 4 * FLOW_SIZE) {
    confirm(table, entries, keys, found);
    confirm(table, entries, keys + FLOW_SIZE, found + ANSWER_SIZE);
    confirm(table, entries, keys + (2 * FLOW_SIZE), found + (2 * ANSWER_SIZE));
    confirm(table, entries, keys + (3 * FLOW_SIZE), found + (3 * ANSWER_SIZE));
    found += 4 * ANSWER_SIZE;
  }
}

// @ts-ignore: decorator
@inline
function confirm(table: usize, entries: i32, key: usize, answer: usize): void {
  if (flowMatches(load<u32>(answer), key)) return;
  store<u32>(answer, <u32>search(table, entries, flowKeyHash(key), key));
}

/** Copies an entry into the table, with its key in it. Returns its address there, or 0: both groups
 * are full of flows that stay. Precondition: flowFind() does not find the key. */
export function flowInsert(worker: i32, entry: usize, nowMs: i32): usize {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable();
  const tags = table + <usize>(count * FLOW_SIZE);
  const hash = flowKeyHash(entry);
  const home = homeGroup(hash, count);
  const second = secondGroup(hash, count);
  let place = freeEntry(tags, home, second);
  if (place >= 0) addToCount(worker, 1);
  else place = spareEntry(table, home, second, nowMs);
  if (place < 0) return 0;
  const target = entryAt(table, place);
  memory.copy(target, entry, FLOW_SIZE);
  store<u8>(tags + <usize>place, tagOf(hash));
  return target;
}

/** Takes an entry out. */
export function flowRemove(worker: i32, flow: usize): void {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable();
  store<u8>(flow, 0, FLOW_FLAGS);
  store<u8>(table + <usize>(count * FLOW_SIZE) + ((flow - table) / FLOW_SIZE), 0);
  addToCount(worker, -1);
}

const PAIR_FLAGS: i32 = FLOW_FLAG_SESSION | FLOW_FLAG_TRANSLATED;

/** The other entry of a pair; 0 where there is none, or it has been given up. */
export function flowPair(flow: usize): usize {
  const flags = load<u8>(flow, FLOW_FLAGS) & PAIR_FLAGS;
  if (flags == 0) return 0;
  const other = <usize>load<u32>(flow, FLOW_PAIR);
  const isPair = load<u32>(other, FLOW_PAIR) == <u32>flow
    && (load<u8>(other, FLOW_FLAGS) & PAIR_FLAGS) == (flags ^ PAIR_FLAGS);
  return isPair ? other : 0;
}

export function flowIsSession(flow: usize): bool {
  return (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_SESSION) != 0;
}

export function flowIsTranslated(flow: usize): bool {
  return (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_TRANSLATED) != 0;
}

/** The entry whose time and state are this one's; 0 of a session without a pair. */
function livingEntry(flow: usize): usize {
  return flowIsSession(flow) ? flowPair(flow) : flow;
}

/** Milliseconds until the entry expires, 0 or less if it has. The clock may wrap. */
export function flowTimeLeft(flow: usize, nowMs: i32): i32 {
  const living = livingEntry(flow);
  return living == 0 ? 0 : load<i32>(living, FLOW_EXPIRES) - nowMs;
}

/** Takes expired entries out of the next group in turn. Once around the table must take less than
 * 24 days, else expired entries look as if they had time again. */
export function flowSweep(worker: i32, nowMs: i32): void {
  const count = directory(DIRECTORY_FLOW_COUNT);
  if (count == 0) return;
  const table = flowTable();
  const next = workerField(worker, WORKER_FLOW_SWEEP);
  const group = load<i32>(next) & ((count / FLOW_GROUP_SIZE) - 1);
  store<i32>(next, group + 1);
  const first = group * FLOW_GROUP_SIZE;
  const tags = table + <usize>((count * FLOW_SIZE) + first);
  for (let used = usedEntries(tags); used != 0; used &= used - 1) {
    const flow = entryAt(table, first + ctz(used));
    if (flowTimeLeft(flow, nowMs) <= 0) flowRemove(worker, flow);
  }
}

/** Address of a field of the worker's block. */
export function workerField(worker: i32, field: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE) + field);
}

/** Address of the table's first entry; the tags follow the last one. */
export function flowTable(): usize {
  return <usize>directory(DIRECTORY_FLOWS);
}

// @ts-ignore: decorator
@inline
function entryAt(table: usize, place: i32): usize {
  return table + <usize>(place * FLOW_SIZE);
}

/** A bit for each entry of the group from `first` on that has the tag of a hash. */
// @ts-ignore: decorator
@inline
function sameTags(tags: usize, first: i32, hash: u64): i32 {
  return i8x16.bitmask(i8x16.eq(v128.load(tags + <usize>first), i8x16.splat(tagOf(hash))));
}

/** Address of the entry of a key in either of its groups, 0 if there is none. */
function search(table: usize, count: i32, hash: u64, key: usize): usize {
  const found = searchGroup(table, count, homeGroup(hash, count), hash, key);
  return found != 0 ? found : searchGroup(table, count, secondGroup(hash, count), hash, key);
}

// @ts-ignore: decorator
@inline
function searchGroup(table: usize, count: i32, first: i32, hash: u64, key: usize): usize {
  const tags = table + <usize>(count * FLOW_SIZE);
  for (let match = sameTags(tags, first, hash); match != 0; match &= match - 1) {
    const flow = entryAt(table, first + ctz(match));
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
  const atHome = usedEntries(tags + <usize>home);
  const inSecond = usedEntries(tags + <usize>second);
  const isHome = popcnt(atHome) < WELL_FILLED || popcnt(atHome) <= popcnt(inSecond);
  const free = ~(isHome ? atHome : inSecond) & 0xffff;
  return free == 0 ? -1 : (isHome ? home : second) + ctz(free);
}

/** Index of the entry that a new flow may take over, the one that was silent for longest; -1 if
 * there is none. Precondition: no entry is free. */
function spareEntry(table: usize, home: i32, second: i32, nowMs: i32): i32 {
  let best = -1;
  let longest: i32 = i32.MIN_VALUE;
  for (let index = 0; index < FLOW_GROUP_SIZE * 2; index += 1) {
    const group = index < FLOW_GROUP_SIZE ? home : second;
    const place = group + (index & (FLOW_GROUP_SIZE - 1));
    const silence = spareSilence(entryAt(table, place), nowMs);
    if (silence <= longest) continue;
    best = place;
    longest = silence;
  }
  return best;
}

/** Milliseconds since the last packet of a flow that may be given up, as its lifetime tells them:
 * what is to live longer than that is as if its last packet were still to come. The greatest number
 * for what has expired, the least for what may not be given up. */
function spareSilence(flow: usize, nowMs: i32): i32 {
  const living = livingEntry(flow);
  const left = living == 0 ? 0 : load<i32>(living, FLOW_EXPIRES) - nowMs;
  if (left <= 0) return i32.MAX_VALUE;
  const silence = load<i32>(living, FLOW_LIFETIME) - left;
  if (load<u8>(living, FLOW_STATE) != FLOW_STATE_ESTABLISHED) return silence;
  const isIdle = load<u8>(living, FLOW_PROTOCOL) == PROTOCOL_UDP && silence >= FLOW_TIMEOUT_NEW;
  return isIdle ? silence : i32.MIN_VALUE;
}

function addToCount(worker: i32, change: i32): void {
  const count = workerField(worker, WORKER_FLOWS);
  store<i32>(count, load<i32>(count) + change);
}
