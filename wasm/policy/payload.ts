// Shows modules what a flow's opener sends. Payload stays where it lies; the host copies it into
// the module's memory, a chunk at a time where the packet was joined from several.

import { PROTOCOL_TCP, PROTOCOL_UDP, TCP_FLAG_SYN, UDP_HEADER_SIZE } from "../abi/headers";
import { WORKER_MODULE_FLOW } from "../abi/layout";
import {
  MODULE_DISABLED, MODULE_PAYLOAD_BYTES, MODULE_PLACE_MASK, MODULE_VERDICT_MORE, SAID_MASK,
  WATCH_BYTES, WATCH_SEQUENCE,
} from "../abi/module";
import { packetInHand } from "../hand";
import { pieceLength, pieceSize, pieceStart } from "../outbox";
import { packetHead, packetLength, packetPieces, packetSegments, packetStart } from "../packet";
import { flowCandidate, workerField } from "../table/flow";
import { ipTransport } from "../wire/ip";
import { checkTcp, tcpFlags, tcpHeaderLength, tcpSequence } from "../wire/tcp";
import { isHeaderless, transportOffset, transportProtocol } from "../wire/transport";
import { enterModule, failureOf, leaveModule, noteSaid, writeModuleFlow } from "./module";

// @ts-ignore: decorator
@external("env", "inspectPayload")
declare function inspectPayload(
  place: i32, flow: usize, offset: i32, payload: usize, length: i32): i32;

/** Bytes of the packet in hand before its payload: behind the headers of TCP and UDP, or with the
 * header of any other transport. All of the packet where there is none. */
export function payloadStart(worker: i32): i32 {
  const descriptor = packetInHand(worker);
  const length = packetLength(descriptor);
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  if (isHeaderless(transport)) return length;
  const offset = transportOffset(transport);
  const protocol = transportProtocol(transport);
  if (protocol == PROTOCOL_UDP) return min(offset + UDP_HEADER_SIZE, length);
  if (protocol != PROTOCOL_TCP) return offset;
  const header = packet + <usize>offset;
  return checkTcp(header, packetHead(descriptor) - offset)
    ? offset + tcpHeaderLength(header)
    : length;
}

/** Sequence number of the first byte of payload that a flow's opener sends, where this packet of
 * TCP opens it; of no meaning for others. */
export function firstSequence(worker: i32): u32 {
  const tcp = tcpInHand(worker);
  if (tcp == 0) return 0;
  return tcpSequence(tcp) + <u32>((tcpFlags(tcp) & TCP_FLAG_SYN) != 0);
}

/** Where the payload in hand belongs in what the opener sends. Without sequence numbers it comes
 * behind all that has come before. What is not within reach is at the limit. */
export function payloadOffset(worker: i32, watch: usize): i32 {
  const tcp = tcpInHand(worker);
  const before = tcp == 0
    ? load<u32>(watch, WATCH_BYTES)
    : tcpSequence(tcp) + <u32>((tcpFlags(tcp) & TCP_FLAG_SYN) != 0)
      - load<u32>(watch, WATCH_SEQUENCE);
  return <i32>min<u32>(before, MODULE_PAYLOAD_BYTES);
}

/** Address of the TCP header in hand, 0 where there is no whole one. */
function tcpInHand(worker: i32): usize {
  const descriptor = packetInHand(worker);
  const packet = packetStart(descriptor);
  const transport = ipTransport(packet);
  if (isHeaderless(transport) || transportProtocol(transport) != PROTOCOL_TCP) return 0;
  const offset = transportOffset(transport);
  const header = packet + <usize>offset;
  return checkTcp(header, packetHead(descriptor) - offset) ? header : 0;
}

/** Shows one module the payload in hand, which begins `start` bytes into the packet and `offset`
 * into what the opener sends. `said` and `shift` are where its verdict goes, or stands already. */
export function showPayload(
  entry: u32, worker: i32, flow: usize, ingress: i32, said: usize, shift: i32,
  start: i32, offset: i32,
): i32 {
  const known = <i32>(load<u64>(said) >>> shift) & SAID_MASK;
  if (known != 0) return known - 1;
  if ((entry & MODULE_DISABLED) != 0) return failureOf(entry);
  const words = workerField(worker, WORKER_MODULE_FLOW);
  writeModuleFlow(words, flow, flowCandidate(worker), ingress);
  enterModule(worker, entry, said, shift);
  const verdict = inspectChunks(<i32>(entry & MODULE_PLACE_MASK), words, worker, start, offset);
  return noteSaid(said, shift, leaveModule(worker, entry, verdict));
}

/** The first chunk is what lies together from the packet's start on; each further one is the
 * payload of one of the packets that were joined (packet.ts). */
function inspectChunks(place: i32, words: usize, worker: i32, start: i32, offset: i32): i32 {
  const descriptor = packetInHand(worker);
  const first = packetPieces(descriptor);
  const count = first == 0 ? 1 : packetSegments(descriptor);
  let verdict = MODULE_VERDICT_MORE;
  let at = packetStart(descriptor) + <usize>start;
  let length = packetHead(descriptor) - start;
  for (let chunk = 0; chunk < count && verdict == MODULE_VERDICT_MORE; chunk += 1) {
    if (chunk > 0) {
      const piece = first + <usize>(chunk * pieceSize());
      at = pieceStart(piece);
      length = pieceLength(piece);
    }
    const shown = min(length, MODULE_PAYLOAD_BYTES - offset);
    if (shown <= 0) break;
    verdict = inspectPayload(place, words, offset, at, shown);
    offset += shown;
  }
  return verdict;
}
