// The verdict ring (abi/policy.ts): one record for each judgement, for whoever watches. A reader
// takes the records up to the head, reads the head again, and leaves out what was overwritten.

import { DIRECTORY_DEVICES, DEVICE_STRIDE, DIRECTORY_VERDICTS, DIRECTORY_VERDICT_LIMIT } from
  "../abi/layout";
import {
  ANSWER_ALLOW, ANSWER_MODULE_MASK, ANSWER_MODULE_SHIFT, FLOW_PROTOCOL, FLOW_SIGNAL,
  VERDICTS_HEAD, VERDICTS_RECORDS, VERDICT_ALLOWED, VERDICT_ANSWER, VERDICT_DESTINATION,
  VERDICT_DESTINATION_IDENTITY, VERDICT_DEVICE, VERDICT_FAMILY,
  VERDICT_INGRESS, VERDICT_KEY, VERDICT_SIZE, VERDICT_SOURCE, VERDICT_SOURCE_IDENTITY,
  VERDICT_SOURCE_PORT, VERDICT_TCP_FLAGS, VERDICT_TIME,
} from "../abi/policy";
import { PROTOCOL_TCP } from "../abi/headers";
import { EVENT_EGRESS_ALLOWED } from "../abi/verdict";
import { countEvent } from "../count";
import { flowDestination, flowIsIpv4, flowSource, flowSourcePort } from "../flow-key";
import { directory } from "../packet";

/** Writes what `device` enforced about a flow. */
export function recordVerdict(
  worker: i32,
  nowMs: i32,
  flow: usize,
  device: usize,
  ingress: i32,
  answer: u32,
  sourceIdentity: i32,
  destinationIdentity: i32,
  key: u32,
): void {
  const limit = directory(DIRECTORY_VERDICT_LIMIT);
  const size = VERDICTS_RECORDS + (limit * VERDICT_SIZE);
  const ring = <usize>(directory(DIRECTORY_VERDICTS) + (worker * size));
  const head = load<i32>(ring, VERDICTS_HEAD);
  const record = ring + VERDICTS_RECORDS + <usize>((head & (limit - 1)) * VERDICT_SIZE);
  const index = (device - <usize>directory(DIRECTORY_DEVICES)) / DEVICE_STRIDE;
  const isTcp = load<u8>(flow, FLOW_PROTOCOL) == PROTOCOL_TCP;
  store<i32>(record, nowMs, VERDICT_TIME);
  store<u16>(record, <u16>index, VERDICT_DEVICE);
  store<u8>(record, <u8>ingress, VERDICT_INGRESS);
  store<u8>(record, <u8>(answer & ANSWER_ALLOW), VERDICT_ALLOWED);
  store<u32>(record, answer, VERDICT_ANSWER);
  store<i32>(record, sourceIdentity, VERDICT_SOURCE_IDENTITY);
  store<i32>(record, destinationIdentity, VERDICT_DESTINATION_IDENTITY);
  store<u32>(record, key, VERDICT_KEY);
  store<u16>(record, <u16>flowSourcePort(flow), VERDICT_SOURCE_PORT);
  store<u8>(record, isTcp ? load<u8>(flow, FLOW_SIGNAL) : 0, VERDICT_TCP_FLAGS);
  store<u8>(record, flowIsIpv4(flow) ? 4 : 6, VERDICT_FAMILY);
  copyAddress(record + VERDICT_SOURCE, flowSource(flow), flowIsIpv4(flow));
  copyAddress(record + VERDICT_DESTINATION, flowDestination(flow), flowIsIpv4(flow));
  atomic.store<i32>(ring, head + 1, VERDICTS_HEAD);
  const denied = (answer & ANSWER_ALLOW) == 0 ? 1 : 0;
  const byModule = ((answer >>> ANSWER_MODULE_SHIFT) & ANSWER_MODULE_MASK) != 0 ? 4 : 0;
  countEvent(worker, EVENT_EGRESS_ALLOWED + denied + (2 * ingress) + byModule);
}

/** An IPv4 address goes into the first four bytes. */
function copyAddress(target: usize, address: usize, ipv4: bool): void {
  if (ipv4) store<u32>(target, load<u32>(address, 12));
  else v128.store(target, v128.load(address));
}
