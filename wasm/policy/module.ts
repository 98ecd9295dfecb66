// Policy modules: what they make of a program's answer. Admin tier, modules, NetworkPolicy,
// baseline tier: what the admin tier has decided is final; of the rest modules are asked in order.
//
// A module is called through the function table, with what modules/wit/policy.wit says of a flow as
// 16 integers. Its memory is its own; all it can do to the core is not to come back. So before a
// call the worker's block says which module it is and where its verdict is to go. Where a call ends
// by a trap, the host puts the failure verdict there and goes on with the batch (process.ts). What
// others have said of the packet stands there, too, so none is asked twice.

import { PROTOCOL_TCP } from "../abi/headers";
import {
  DIRECTORY_MODULES, DIRECTORY_MODULE_COUNTS, DIRECTORY_START, WORKER_MODULE, WORKER_MODULE_SHIFT,
  WORKER_PENDING, WORKER_SAID,
} from "../abi/layout";
import {
  MODULE_COUNTS_STRIDE, MODULE_DISABLED, MODULE_FAILURE_MASK, MODULE_FAILURE_SHIFT,
  MODULE_FAULT_ANSWER, MODULE_HAS_PAYLOAD, MODULE_LIST_COUNT, MODULE_LIST_ENTRIES,
  MODULE_LIST_FLAGS, MODULE_MAY_ALLOW, MODULE_PER_PACKET, MODULE_PLACES, MODULE_PLACE_MASK,
  MODULE_TABLE_BASE, MODULE_VERDICT_ALLOW, MODULE_VERDICT_DENY, MODULE_VERDICT_MORE,
  MODULE_VERDICT_PASS, MODULE_VERDICT_REJECT, SAID_BITS, SAID_MASK, WATCH_INGRESS_SHIFT,
} from "../abi/module";
import {
  ANSWER_ALLOW, ANSWER_FINAL, ANSWER_MODULE_SHIFT, ANSWER_REJECT, FLOW_PORT_A, FLOW_PROTOCOL,
  FLOW_SIGNAL, PROGRAM_KEY_PROTOCOL_SHIFT,
} from "../abi/policy";
import {
  flowDestination, flowIsIpv4, flowPolicyKey, flowSource, flowSourcePort,
} from "../flow-key";
import { directory } from "../packet";
import { flowCandidate, workerField } from "../table/flow";
import { hasPorts } from "../wire/transport";
import { identityOf } from "./judge";

const SAID_SIZE: i32 = 8;
const PORT_MASK: u32 = 0xffff;

/** Address of the list of modules in force, 0 where there are none. */
// @ts-ignore: decorator
@inline
export function moduleList(): usize {
  return <usize>atomic.load<u32>(DIRECTORY_START, DIRECTORY_MODULES);
}

/** True where some module looks at each packet of a flow. */
export function modulesWatch(list: usize): bool {
  return (load<u32>(list, MODULE_LIST_FLAGS) & MODULE_PER_PACKET) != 0;
}

/** True where some module may look at more than the first packet of a flow. */
// @ts-ignore: decorator
@inline
export function modulesLookOn(list: usize): bool {
  return (load<u32>(list, MODULE_LIST_FLAGS) & (MODULE_PER_PACKET | MODULE_HAS_PAYLOAD)) != 0;
}

/** What comes of a program's answer for one end of a flow, once the modules are asked. `key` is the
 * flow's, as programs are asked for it. Most nodes that have modules have one, which passes: what
 * that takes stands here, in the judgement itself. */
// @ts-ignore: decorator
@inline
export function askModules(
  list: usize, worker: i32, flow: usize, source: usize, destination: usize, ipv4: bool, key: u32,
  ingress: i32, answer: u32, sourceIdentity: i32, destinationIdentity: i32,
): u32 {
  if ((answer & ANSWER_FINAL) != 0) return answer;
  const said = saidOf(worker, flow, ingress);
  const entry = load<u32>(list, MODULE_LIST_ENTRIES);
  if ((load<u64>(said) | <u64>(entry & MODULE_DISABLED)) == 0) {
    const verdict = call(
      entry, worker, flow, flow, source, destination, ipv4, key, ingress, said, 0,
      sourceIdentity, destinationIdentity);
    store<u64>(said, <u64>(verdict + 1));
    if (verdict == MODULE_VERDICT_PASS) {
      if (load<i32>(list, MODULE_LIST_COUNT) == 1) return answer;
    }
  }
  return askRest(
    list, worker, flow, key, ingress, answer, said, sourceIdentity, destinationIdentity);
}

/** Decides by what modules have said, and asks those in order that have not said anything yet. */
function askRest(
  list: usize, worker: i32, flow: usize, key: u32, ingress: i32, answer: u32, said: usize,
  sourceIdentity: i32, destinationIdentity: i32,
): u32 {
  const count = load<i32>(list, MODULE_LIST_COUNT);
  for (let index = 0; index < count; index += 1) {
    const entry = load<u32>(list + (<usize>index << 2), MODULE_LIST_ENTRIES);
    const shift = index * SAID_BITS;
    const known = <i32>(load<u64>(said) >>> shift) & SAID_MASK;
    const verdict = known != 0
      ? known - 1
      : evaluate(
        entry, worker, flow, flow, ingress, said, shift, sourceIdentity, destinationIdentity);
    if (verdict == MODULE_VERDICT_PASS) continue;
    if (verdict == MODULE_VERDICT_ALLOW && (entry & MODULE_MAY_ALLOW) != 0) {
      return decided(entry, ANSWER_ALLOW);
    }
    if (refuses(verdict)) return refused(entry, verdict);
    if (verdict == MODULE_VERDICT_MORE) {
      setPending(worker, pendingModules(worker) | pendingBit(index, ingress));
    }
  }
  return answer;
}

/** The modules that want to see payload of the flow which was judged last, as in a watch. */
export function pendingModules(worker: i32): u32 {
  return load<u32>(workerField(worker, WORKER_PENDING));
}

export function setPending(worker: i32, pending: u32): void {
  store<u32>(workerField(worker, WORKER_PENDING), pending);
}

/** The bit of a module, by its index in the list, for one end. */
export function pendingBit(index: i32, ingress: i32): u32 {
  return 1 << (index + (ingress * WATCH_INGRESS_SHIFT));
}

// @ts-ignore: decorator
@inline
export function refuses(verdict: i32): bool {
  return verdict == MODULE_VERDICT_DENY || verdict == MODULE_VERDICT_REJECT;
}

/** The answer of a module that refuses. */
export function refused(entry: u32, verdict: i32): u32 {
  return decided(entry, verdict == MODULE_VERDICT_REJECT ? ANSWER_REJECT : 0);
}

/** Forgets what modules have said, when both ends of a flow are judged. */
// @ts-ignore: decorator
@inline
export function closeJudgement(worker: i32, flow: usize): void {
  v128.store(saidOf(worker, flow, 0), i64x2.splat(0)); // and of the other end behind it
}

/** An answer that a module has given in place of a program. */
function decided(entry: u32, bits: u32): u32 {
  return (((entry & MODULE_PLACE_MASK) + 1) << ANSWER_MODULE_SHIFT) | bits;
}

/** Where what modules say of a flow stands until it is judged. An ICMP error may have two judged:
 * the flow that it is about, by its entry, and itself, by its key. */
// @ts-ignore: decorator
@inline
export function saidOf(worker: i32, flow: usize, ingress: i32): usize {
  const isKey = flow == flowCandidate(worker);
  return workerField(worker, WORKER_SAID) + <usize>((<i32>isKey * 2 + ingress) * SAID_SIZE);
}

/** What counts where a module fails. */
export function failureOf(entry: u32): i32 {
  return <i32>(entry >>> MODULE_FAILURE_SHIFT) & MODULE_FAILURE_MASK;
}

/** Asks one module about a flow, of which `flow` is the entry or key, and `seen` the key of the
 * packet whose flags it gets. */
export function evaluate(
  entry: u32, worker: i32, flow: usize, seen: usize, ingress: i32, said: usize, shift: i32,
  sourceIdentity: i32, destinationIdentity: i32,
): i32 {
  const verdict = (entry & MODULE_DISABLED) != 0
    ? failureOf(entry)
    : call(
      entry, worker, flow, seen, flowSource(flow), flowDestination(flow), flowIsIpv4(flow),
      flowPolicyKey(flow), ingress, said, shift, sourceIdentity, destinationIdentity);
  return noteSaid(said, shift, verdict);
}

/** Puts a verdict where it belongs, and returns it. */
export function noteSaid(said: usize, shift: i32, verdict: i32): i32 {
  store<u64>(said, load<u64>(said) | (<u64>(verdict + 1) << shift));
  return verdict;
}

/** The same in place, of a module that is not disabled. IPv4 has one word of address, the first. */
// @ts-ignore: decorator
@inline
function call(
  entry: u32, worker: i32, flow: usize, seen: usize, source: usize, destination: usize, ipv4: bool,
  key: u32, ingress: i32, said: usize, shift: i32, sourceIdentity: i32, destinationIdentity: i32,
): i32 {
  const index = MODULE_TABLE_BASE + <i32>(entry & MODULE_PLACE_MASK);
  const protocol = <i32>(key >>> PROGRAM_KEY_PROTOCOL_SHIFT);
  enterModule(worker, entry, said, shift);
  let flags = 0;
  let from = 0;
  if (protocol == PROTOCOL_TCP) {
    flags = load<u8>(seen, FLOW_SIGNAL);
    from = portOf(flow, source);
  } else if (hasPorts(protocol)) {
    from = portOf(flow, source);
  }
  const to = <i32>(key & PORT_MASK);
  let verdict: i32;
  if (ipv4) {
    verdict = call_indirect<i32>(
      index, 0, 1 - ingress, protocol, flags, from, to, sourceIdentity, destinationIdentity,
      word(source, 12), 0, 0, 0, word(destination, 12), 0, 0, 0);
  } else {
    const sourceWords = hostWords(source);
    const destinationWords = hostWords(destination);
    verdict = call_indirect<i32>(
      index, 1, 1 - ingress, protocol, flags, from, to, sourceIdentity, destinationIdentity,
      i32x4.extract_lane(sourceWords, 0), i32x4.extract_lane(sourceWords, 1),
      i32x4.extract_lane(sourceWords, 2), i32x4.extract_lane(sourceWords, 3),
      i32x4.extract_lane(destinationWords, 0), i32x4.extract_lane(destinationWords, 1),
      i32x4.extract_lane(destinationWords, 2), i32x4.extract_lane(destinationWords, 3));
  }
  return leaveModule(worker, entry, verdict);
}

/** The four words of an address, each in host order: one shuffle, where a processor has to be told
 * each step of turning a single word round. */
// @ts-ignore: decorator
@inline
function hostWords(address: usize): v128 {
  const bytes = v128.load(address);
  return i8x16.shuffle(bytes, bytes, 3, 2, 1, 0, 7, 6, 5, 4, 11, 10, 9, 8, 15, 14, 13, 12);
}

/** The port of the end with this address, in host order: it stands as the address does, and takes
 * an eighth of its bytes. */
// @ts-ignore: decorator
@inline
function portOf(flow: usize, address: usize): i32 {
  return bswap<u16>(load<u16>(flow + ((address - flow) >>> 3), FLOW_PORT_A));
}

/** A word of an address, in host order. */
// @ts-ignore: decorator
@inline
function word(address: usize, offset: usize): i32 {
  return <i32>bswap<u32>(load<u32>(address + offset));
}

/** Says which module the worker is in from now on, and where its verdict is to go. */
// @ts-ignore: decorator
@inline
export function enterModule(worker: i32, entry: u32, said: usize, shift: i32): void {
  const block = workerField(worker, 0);
  const failure = (entry << (16 - MODULE_FAILURE_SHIFT)) & (MODULE_FAILURE_MASK << 16);
  store<u32>(block, shift | failure, WORKER_MODULE_SHIFT); // and _FAILURE behind it
  const place = (entry & MODULE_PLACE_MASK) + 1;
  store<u64>(block, <u64>place | (<u64>said << 32), WORKER_MODULE); // and _SAID
}

/** Counts what the module has said, and returns it; where that is no verdict, what counts in its
 * place. */
// @ts-ignore: decorator
@inline
export function leaveModule(worker: i32, entry: u32, verdict: i32): i32 {
  store<i32>(workerField(worker, WORKER_MODULE), 0);
  if (<u32>verdict > <u32>MODULE_VERDICT_REJECT) return leaveOddly(worker, entry, verdict);
  count(worker, <i32>(entry & MODULE_PLACE_MASK), verdict);
  return verdict;
}

/** The same of what few modules may say, or none. */
function leaveOddly(worker: i32, entry: u32, verdict: i32): i32 {
  const isVerdict = mayAsk(entry, verdict);
  count(worker, <i32>(entry & MODULE_PLACE_MASK), isVerdict ? verdict : MODULE_FAULT_ANSWER);
  return isVerdict ? verdict : failureOf(entry);
}

/** True of the verdict that only a module which looks at payload has. */
function mayAsk(entry: u32, verdict: i32): bool {
  return verdict == MODULE_VERDICT_MORE && (entry & MODULE_HAS_PAYLOAD) != 0;
}

/** TCP's flags of the packet with this key, or that opened this flow. */
// @ts-ignore: decorator
@inline
function tcpFlags(seen: usize, protocol: i32): i32 {
  return protocol == PROTOCOL_TCP ? <i32>load<u8>(seen, FLOW_SIGNAL) : 0;
}

/** Writes a flow as 16 words in the order of the WIT's record, as evaluate() has it. */
export function writeModuleFlow(words: usize, flow: usize, seen: usize, ingress: i32): void {
  const protocol = <i32>load<u8>(flow, FLOW_PROTOCOL);
  const source = flowSource(flow);
  const destination = flowDestination(flow);
  const ipv4 = flowIsIpv4(flow);
  store<i32>(words, ipv4 ? 0 : 1);
  store<i32>(words, 1 - ingress, 4);
  store<i32>(words, protocol, 8);
  store<i32>(words, tcpFlags(seen, protocol), 12);
  store<i32>(words, hasPorts(protocol) ? flowSourcePort(flow) : 0, 16);
  store<u32>(words, flowPolicyKey(flow) & PORT_MASK, 20);
  store<i32>(words, identityOf(source, ipv4), 24);
  store<i32>(words, identityOf(destination, ipv4), 28);
  for (let at: usize = 0; at < 16; at += 4) {
    store<i32>(words + 32 + at, ipv4 ? 0 : word(source, at));
    store<i32>(words + 48 + at, ipv4 ? 0 : word(destination, at));
  }
  if (!ipv4) return;
  store<i32>(words, word(source, 12), 32);
  store<i32>(words, word(destination, 12), 48);
}

// @ts-ignore: decorator
@inline
function count(worker: i32, place: i32, kind: i32): void {
  const record = (worker * MODULE_PLACES) + place;
  const counter = <usize>(directory(DIRECTORY_MODULE_COUNTS) + (record * MODULE_COUNTS_STRIDE)
    + (kind << 3));
  store<u64>(counter, load<u64>(counter) + 1);
}
