// Flows whose payload modules want to see (abi/module.ts): a small table in sets, found by the
// flow's entry. A watch lives as long as its flow's epoch says that it is watched; what is left of
// others is free. Workers share it, under the lock of flows.

import { DIRECTORY_WATCHES } from "../abi/layout";
import {
  WATCH_BYTES, WATCH_FLOW, WATCH_HASH, WATCH_HASH_SHIFT, WATCH_LIMIT, WATCH_PACKETS, WATCH_PENDING,
  WATCH_PORTS, WATCH_SEQUENCE, WATCH_SIZE, WATCH_WAYS,
} from "../abi/module";
import {
  FLOW_EPOCH, FLOW_EPOCH_WATCHED_SHIFT, FLOW_FLAGS, FLOW_FLAG_USED, FLOW_PORT_A, FLOW_SIZE,
} from "../abi/policy";
import { directory } from "../packet";
import { flowTable } from "./flow";

if (WATCH_LIMIT / WATCH_WAYS != 1 << (32 - WATCH_HASH_SHIFT)) {
  ERROR("WATCH_HASH_SHIFT does not fit the number of sets");
}

/** The epoch that a flow has which modules watch: never the present one, so that each of its
 * packets is looked at, and yet it tells whether policy has changed since. */
export function watchedEpoch(epoch: u32): u32 {
  return epoch ^ (1 << FLOW_EPOCH_WATCHED_SHIFT);
}

/** The watch of a flow, 0 where it has none. */
export function watchFind(flow: usize): usize {
  const set = watchSet(flow);
  for (let watch = set; watch < set + (WATCH_WAYS * WATCH_SIZE); watch += WATCH_SIZE) {
    if (load<u32>(watch, WATCH_FLOW) == <u32>flow) return isCurrent(watch, flow) ? watch : 0;
  }
  return 0;
}

/** Makes the watch of a flow that begins at a sequence number. 0: the set is full. `epoch` is that
 * of policy. */
export function watchOpen(flow: usize, pending: u32, sequence: u32, epoch: u32): usize {
  const set = watchSet(flow);
  let free: usize = 0;
  for (let watch = set; watch < set + (WATCH_WAYS * WATCH_SIZE); watch += WATCH_SIZE) {
    const other = <usize>load<u32>(watch, WATCH_FLOW);
    if (other == flow || (free == 0 && isFree(watch, other, epoch))) free = watch;
    if (other == flow) break;
  }
  if (free == 0) return 0;
  store<u32>(free, <u32>flow, WATCH_FLOW);
  store<u32>(free, load<u32>(flow, FLOW_PORT_A), WATCH_PORTS);
  store<u32>(free, pending, WATCH_PENDING);
  store<u32>(free, sequence, WATCH_SEQUENCE);
  store<u32>(free, 0, WATCH_BYTES);
  store<u32>(free, 0, WATCH_PACKETS);
  return free;
}

export function watchClose(watch: usize): void {
  store<u32>(watch, 0, WATCH_FLOW);
}

/** True of a watch whose flow has gone, or is judged for good. */
function isFree(watch: usize, flow: usize, epoch: u32): bool {
  return flow == 0 || !isCurrent(watch, flow) || load<u32>(flow, FLOW_EPOCH) == epoch;
}

/** True where the entry is still of the flow that is watched. */
function isCurrent(watch: usize, flow: usize): bool {
  return (load<u8>(flow, FLOW_FLAGS) & FLOW_FLAG_USED) != 0
    && load<u32>(flow, FLOW_PORT_A) == load<u32>(watch, WATCH_PORTS);
}

function watchSet(flow: usize): usize {
  const index = <i32>((flow - flowTable()) / FLOW_SIZE);
  const set = (index * WATCH_HASH) >>> WATCH_HASH_SHIFT;
  return <usize>(directory(DIRECTORY_WATCHES) + (set * WATCH_WAYS * WATCH_SIZE));
}
