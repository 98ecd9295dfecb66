// A flow table that a process left when it died, at any instruction, taken over by the next one.
//
// Theory of operation. The table is a file (host/kept-flows.ts), so it holds every store that was
// made, and an entry may be half of one flow and half of another. It stands where its key's hash
// says, with the tag that the hash says, so mixed keys are found; ports, protocol, flags and state
// share one word, so they are of one flow. What is not sound goes. What is sound is judged anew at
// its next packet, since policy may have changed, but as the connection it is: its replies pass.
// Connections to Services stay with their backends, which are looked for among those of now.
import {
  DIRECTORY_FLOW_COUNT, DIRECTORY_POLICY_EPOCH, DIRECTORY_SERVICE_EPOCH, WORKER_FLOWS,
} from "../abi/layout";
import {
  FLOW_EPOCH, FLOW_FLAGS, FLOW_FLAG_TRANSLATED, FLOW_FLAG_USED, FLOW_GROUP_SIZE, FLOW_LIFETIME,
  FLOW_PAIR, FLOW_PROTOCOL, FLOW_SIZE, FLOW_STATE, FLOW_STATE_CLOSING, FLOW_TIMEOUT_TCP,
  SESSION_EPOCH,
} from "../abi/policy";
import { AFFINITY_LIMIT } from "../abi/service";
import { directory } from "../packet";
import { flowIsSession, flowTable, flowTimeLeft, workerField } from "./flow";
import { flowKeyHash, homeGroup, secondGroup, tagOf } from "./flow-hash";

/** Takes over the table; the hash is keyed as it was. Returns how many flows are in it, all on the
 * first worker's count. Precondition: no worker turns, and their counts are 0. */
export function flowAdopt(nowMs: i32): i32 {
  const count = directory(DIRECTORY_FLOW_COUNT);
  const table = flowTable();
  const tags = table + <usize>(count * FLOW_SIZE);
  const unconfirmed = directory(DIRECTORY_POLICY_EPOCH) - 1;
  const unseen = directory(DIRECTORY_SERVICE_EPOCH) - 1;
  let kept = 0;
  for (let place = 0; place < count; place += 1) {
    const tag = load<u8>(tags + <usize>place);
    if (tag == 0) continue;
    const flow = table + <usize>(place * FLOW_SIZE);
    if (isSound(flow, place & -FLOW_GROUP_SIZE, tag, count, nowMs)) {
      store<u32>(flow, unconfirmed, FLOW_EPOCH);
      if (flowIsSession(flow)) store<u32>(flow, unseen, SESSION_EPOCH);
      kept += 1;
    } else {
      store<u8>(flow, 0, FLOW_FLAGS);
      store<u8>(tags + <usize>place, 0);
    }
  }
  store<i32>(workerField(0, WORKER_FLOWS), kept);
  return kept;
}

function isSound(flow: usize, group: i32, tag: u8, count: i32, nowMs: i32): bool {
  const hash = flowKeyHash(flow);
  if (tag != tagOf(hash) || (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_USED) == 0) return false;
  if (group != homeGroup(hash, count) && group != secondGroup(hash, count)) return false;
  if (<i32>load<u8>(flow, FLOW_STATE) > FLOW_STATE_CLOSING) return false;
  const isPaired = flowIsSession(flow) || (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_TRANSLATED) != 0;
  if (isPaired && !isEntry(load<u32>(flow, FLOW_PAIR), count)) return false;
  const left = flowTimeLeft(flow, nowMs);
  if (load<u8>(flow, FLOW_PROTOCOL) == 0) return left > 0 && left <= AFFINITY_LIMIT;
  // A session lives by its pair, and has no lifetime of its own.
  if (flowIsSession(flow)) return left > 0 && left <= FLOW_TIMEOUT_TCP;
  const lifetime = load<i32>(flow, FLOW_LIFETIME);
  return min(left, lifetime) > 0 && max(left, lifetime) <= FLOW_TIMEOUT_TCP;
}

/** True where an address is that of an entry. */
function isEntry(address: usize, count: i32): bool {
  const offset = address - flowTable();
  return address >= flowTable() && offset < <usize>(count * FLOW_SIZE) && offset % FLOW_SIZE == 0;
}
