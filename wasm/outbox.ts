// The outbox: what the host is to write when the turn is over, in order. A send is made of pieces,
// runs of bytes in linear memory that the kernel gathers, so no payload is ever copied. A packet
// that is cut or joined is a list of pieces; a plain one is a single piece.
//
// Sends, pieces and header blocks are taken one behind the other and all given back at the next
// openOutbox(). Before each slot the outbox must have room for the most that one slot can become,
// so nothing in between has to ask.

import {
  DIRECTORY_BASE,
  DIRECTORY_HEADERS,
  DIRECTORY_PIECES,
  DIRECTORY_POINTER_SIZE,
  DIRECTORY_SEGMENT_LIMIT,
  DIRECTORY_SENDS,
  DIRECTORY_START,
  HEADER_LIMIT,
  HEADER_STRIDE,
  PEER_REMOTE,
  PIECE_LIMIT,
  PIECE_SIZE,
  SEGMENTS_MAX,
  SEND_DEVICE,
  SEND_FLAGS,
  SEND_FLAG_CLOSED,
  SEND_FLOW_HASH,
  SEND_LENGTH,
  SEND_LIMIT,
  SEND_PACKETS,
  SEND_PEER,
  SEND_PIECES,
  SEND_PIECE_COUNT,
  SEND_REMOTE,
  SEND_SEGMENT_SIZE,
  SEND_STRIDE,
  SEND_TOS,
  DATAGRAMS_BYTES_MAX,
  WORKERS_START,
  WORKER_HEADERS,
  WORKER_PIECES,
  WORKER_SENDS,
  WORKER_STRIDE,
} from "./abi/layout";
import {
  directory,
  packetLength,
  packetSegments,
  packetStart,
  setOutput,
} from "./packet";
import { peerDevice } from "./table/record";

function workerBlock(worker: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE));
}

/** Empties the outbox. */
export function openOutbox(worker: i32): void {
  const block = workerBlock(worker);
  store<i32>(block, 0, WORKER_SENDS);
  store<i32>(block, 0, WORKER_PIECES);
  store<i32>(block, 0, WORKER_HEADERS);
}

/** True while one more slot fits, whatever becomes of it: a packet of SEGMENTS_MAX segments has as
 * many headers, two pieces for each, and at worst a send for each. */
export function outboxHasRoom(worker: i32): bool {
  const block = workerBlock(worker);
  return load<i32>(block, WORKER_SENDS) <= SEND_LIMIT - SEGMENTS_MAX - 2
    && load<i32>(block, WORKER_PIECES) <= PIECE_LIMIT - (2 * SEGMENTS_MAX) - 2
    && load<i32>(block, WORKER_HEADERS) <= HEADER_LIMIT - SEGMENTS_MAX;
}

/** Address of the piece that addPiece() fills next. */
export function nextPiece(worker: i32): usize {
  const first = directory(DIRECTORY_PIECES) + (worker * PIECE_LIMIT * PIECE_SIZE);
  return <usize>(first + (load<i32>(workerBlock(worker), WORKER_PIECES) * pieceSize()));
}

/** Takes the next piece and points it at `length` bytes. */
export function addPiece(worker: i32, address: usize, length: i32): void {
  setPiece(nextPiece(worker), address, length);
  const block = workerBlock(worker);
  store<i32>(block, load<i32>(block, WORKER_PIECES) + 1, WORKER_PIECES);
}

/** Points a piece that was taken before at `length` bytes. */
export function setPiece(piece: usize, address: usize, length: i32): void {
  const base = load<u64>(DIRECTORY_START + DIRECTORY_BASE);
  if (directory(DIRECTORY_POINTER_SIZE) == 4) {
    store<u32>(piece, <u32>base + <u32>address);
    store<i32>(piece, length, 4);
  } else {
    store<u64>(piece, base + <u64>address);
    store<u64>(piece, <u64>length, 8);
  }
}

/** Bytes from one piece to the next: those of the process's struct iovec. */
export function pieceSize(): i32 {
  return directory(DIRECTORY_POINTER_SIZE) == 4 ? 8 : PIECE_SIZE;
}

/** Takes a header block. */
export function takeHeader(worker: i32): usize {
  const block = workerBlock(worker);
  const taken = load<i32>(block, WORKER_HEADERS);
  store<i32>(block, taken + 1, WORKER_HEADERS);
  const first = directory(DIRECTORY_HEADERS) + (worker * HEADER_LIMIT * HEADER_STRIDE);
  return <usize>(first + (taken * HEADER_STRIDE));
}

/** Adds a send to a local device: `count` pieces from `pieces` on, which stand for `packets`. */
export function addSend(
  worker: i32,
  device: i32,
  pieces: usize,
  count: i32,
  length: i32,
  packets: i32,
): usize {
  const block = workerBlock(worker);
  const taken = load<i32>(block, WORKER_SENDS);
  store<i32>(block, taken + 1, WORKER_SENDS);
  const send = sendAt(worker, taken);
  store<u32>(send, <u32>pieces, SEND_PIECES);
  store<i32>(send, count, SEND_PIECE_COUNT);
  store<i32>(send, length, SEND_LENGTH);
  store<u32>(send, <u32>device, SEND_DEVICE);
  store<u32>(send, <u32>packets, SEND_PACKETS);
  store<u32>(send, 0, SEND_PEER);
  return send;
}

/** Gives the whole packet, as it lies in its slot, to a local device. */
export function sendToDevice(descriptor: usize, worker: i32, device: i32): void {
  const pieces = nextPiece(worker);
  const length = packetLength(descriptor);
  addPiece(worker, packetStart(descriptor), length);
  addSend(worker, device, pieces, 1, length, packetSegments(descriptor));
  setOutput(descriptor, device);
}

/** Adds a datagram of `count` pieces, the last taken, for a peer. Where the kernel cuts, it joins
 * the send before it: same peer and flow, same size (the last may be shorter, RFC 1122 has no say
 * in it: linux/udp.h, UDP_SEGMENT), same TOS. `joins` false leaves it alone, because the kernel
 * must fragment it. */
export function addDatagram(
  worker: i32,
  peer: usize,
  count: i32,
  length: i32,
  flowHash: u32,
  tos: i32,
  joins: bool,
): void {
  if (joins && joinsLast(worker, peer, count, length, flowHash, tos)) return;
  const pieces = nextPiece(worker) - <usize>(count * pieceSize());
  const send = addSend(worker, peerDevice(peer), pieces, count, length, 1);
  store<u8>(send, <u8>tos, SEND_TOS);
  store<u8>(send, <u8>(joins ? 0 : SEND_FLAG_CLOSED), SEND_FLAGS);
  store<u32>(send, flowHash, SEND_FLOW_HASH);
  store<u32>(send, <u32>peer, SEND_PEER);
  v128.store(send, v128.load(peer, PEER_REMOTE), SEND_REMOTE);
  v128.store(send, v128.load(peer + 16, PEER_REMOTE), SEND_REMOTE + 16);
}

function joinsLast(
  worker: i32,
  peer: usize,
  count: i32,
  length: i32,
  flowHash: u32,
  tos: i32,
): bool {
  const limit = directory(DIRECTORY_SEGMENT_LIMIT);
  const taken = load<i32>(workerBlock(worker), WORKER_SENDS);
  if (limit < 2 || taken == 0) return false;
  const send = sendAt(worker, taken - 1);
  if (<usize>load<u32>(send, SEND_PEER) != peer || load<u32>(send, SEND_FLOW_HASH) != flowHash
    || load<u8>(send, SEND_FLAGS) != 0 || <i32>load<u8>(send, SEND_TOS) != tos) return false;
  const packets = <i32>load<u16>(send, SEND_PACKETS);
  const total = load<i32>(send, SEND_LENGTH);
  const size = packets == 1 ? total : <i32>load<u16>(send, SEND_SEGMENT_SIZE);
  if (length > size || packets >= limit || total + length > DATAGRAMS_BYTES_MAX) return false;
  store<u16>(send, <u16>size, SEND_SEGMENT_SIZE);
  store<u16>(send, <u16>(packets + 1), SEND_PACKETS);
  store<i32>(send, total + length, SEND_LENGTH);
  store<i32>(send, load<i32>(send, SEND_PIECE_COUNT) + count, SEND_PIECE_COUNT);
  if (length < size) store<u8>(send, SEND_FLAG_CLOSED, SEND_FLAGS);
  return true;
}

function sendAt(worker: i32, index: i32): usize {
  return <usize>(directory(DIRECTORY_SENDS) + (((worker * SEND_LIMIT) + index) * SEND_STRIDE));
}
