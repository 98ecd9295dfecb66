// Steps of the walk alone, over many packets, for benches and tests. Each is what a packet meets in
// processBatch(), and nothing around it.

import { FLOW_ADDRESS_A, FLOW_ADDRESS_B, FLOW_PORT_A } from "./abi/policy";
import { REASON_NONE } from "./abi/verdict";
import { writeFlowKey } from "./flow-key";
import { openOutbox } from "./outbox";
import { clearOffload, descriptorAt, packetLength, packetStart, setPacket, workerOfSlot } from
  "./packet";
import { flowCandidate } from "./table/flow";
import { encapsulate } from "./tunnel/tunnel";
import { checkIp, ipTotalLength, ipTransport } from "./wire/ip";

const FACTOR: u32 = 16777619;

/** Checks the headers of the packets in `count` slots and makes the keys of their flows. Returns a
 * number that all keys go into. */
export function parseMany(first: i32, count: i32): i32 {
  const key = flowCandidate(workerOfSlot(first));
  let sum: u32 = 0;
  for (let slot = first; slot < first + count; slot += 1) {
    const descriptor = descriptorAt(slot);
    const packet = packetStart(descriptor);
    if (checkIp(packet, packetLength(descriptor)) != REASON_NONE) continue;
    writeFlowKey(key, packet, ipTransport(packet), ipTotalLength(packet));
    const ends = load<u32>(key + 12, FLOW_ADDRESS_A) ^ load<u32>(key + 12, FLOW_ADDRESS_B);
    sum = (sum ^ ends ^ load<u32>(key, FLOW_PORT_A)) * FACTOR;
  }
  return <i32>sum;
}

/** Puts a peer's headers in front of the packets in `count` slots and sends them to it. The slots'
 * descriptors are as before; the outbox is not. */
export function encapsulateMany(first: i32, count: i32, peer: usize): void {
  const worker = workerOfSlot(first);
  openOutbox(worker);
  for (let slot = first; slot < first + count; slot += 1) {
    const descriptor = descriptorAt(slot);
    const packet = packetStart(descriptor);
    const length = packetLength(descriptor);
    clearOffload(descriptor);
    encapsulate(descriptor, worker, peer);
    setPacket(descriptor, packet, length);
  }
}
