// The outbox: what the host is to write when the turn is over, in order. A send is made of pieces,
// runs of bytes in linear memory that the kernel gathers, so no payload is ever copied. A packet
// that is cut or joined is a list of pieces; a plain one is a single piece.
//
// Sends, pieces and header blocks are taken one behind the other and all given back at the next
// openOutbox(). Before each slot the outbox must have room for the most that one slot can become,
// and for the run that is open before it, so nothing in between has to ask.

import {
  DIRECTORY_BASE, DIRECTORY_HEADERS, DIRECTORY_PIECES, DIRECTORY_POINTER_SIZE,
  DIRECTORY_SEGMENT_LIMIT, DIRECTORY_SENDS, DIRECTORY_START, HEADER_LIMIT, HEADER_STRIDE,
  PEER_REMOTE, PIECE_LIMIT, PIECE_SIZE, RUN_SEGMENTS_MAX, SEGMENTS_MAX, SEND_DEVICE, SEND_FLAGS,
  SEND_FLAG_CLOSED, SEND_FLAG_FRAME, SEND_FLOW_HASH, SEND_LENGTH, SEND_LIMIT, SEND_PACKETS,
  SEND_PEER, SEND_PIECES, SEND_PIECE_COUNT, SEND_REMOTE, SEND_SEGMENT_SIZE, SEND_STRIDE, SEND_TOS,
  DATAGRAMS_BYTES_MAX, WORKERS_START, WORKER_HEADERS, WORKER_PIECES, WORKER_SENDS, WORKER_STRIDE,
} from "./abi/layout";
import {
  directory, packetHead, packetLength, packetPieces, packetSegments, packetStart, setOutput,
} from "./packet";

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

/** Packets that one slot, and a run that ends before it, may become. */
const PACKETS_MAX: i32 = SEGMENTS_MAX + RUN_SEGMENTS_MAX;

/** True while one more slot fits, whatever becomes of it: at worst each packet has a header block,
 * two pieces and a send of its own. */
export function outboxHasRoom(worker: i32): bool {
  const block = workerBlock(worker);
  return load<i32>(block, WORKER_SENDS) <= SEND_LIMIT - PACKETS_MAX
    && load<i32>(block, WORKER_PIECES) <= PIECE_LIMIT - (2 * PACKETS_MAX)
    && load<i32>(block, WORKER_HEADERS) <= HEADER_LIMIT - PACKETS_MAX;
}

/** Address of the piece that addPiece() fills next. */
export function nextPiece(worker: i32): usize {
  const first = directory(DIRECTORY_PIECES) + (worker * PIECE_LIMIT * PIECE_SIZE);
  return <usize>(first + (load<i32>(workerBlock(worker), WORKER_PIECES) * pieceSize()));
}

/** Takes `count` pieces, to be pointed by setPiece(); returns the first. */
export function takePieces(worker: i32, count: i32): usize {
  const first = nextPiece(worker);
  const block = workerBlock(worker);
  store<i32>(block, load<i32>(block, WORKER_PIECES) + count, WORKER_PIECES);
  return first;
}

/** Takes the next piece and points it at `length` bytes. */
export function addPiece(worker: i32, address: usize, length: i32): void {
  setPiece(takePieces(worker, 1), address, length);
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

/** Address of the first byte of a piece that was taken before. */
export function pieceStart(piece: usize): usize {
  return load<u32>(piece) - load<u32>(DIRECTORY_START + DIRECTORY_BASE);
}

/** Bytes of a piece that was taken before. */
export function pieceLength(piece: usize): i32 {
  return load<i32>(piece + (<usize>pieceSize() >> 1));
}

/** Bytes from one piece to the next: those of the process's struct iovec. */
export function pieceSize(): i32 {
  return directory(DIRECTORY_POINTER_SIZE) == 4 ? 8 : PIECE_SIZE;
}

/** Takes header blocks, HEADER_STRIDE bytes each; returns the first. */
export function takeHeaders(worker: i32, count: i32): usize {
  const block = workerBlock(worker);
  const taken = load<i32>(block, WORKER_HEADERS);
  store<i32>(block, taken + count, WORKER_HEADERS);
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

/** Gives the packet, as it lies, to a local device. The pieces of a joined one stand already, but
 * for the first, which has grown by the headers put in front. */
export function sendToDevice(descriptor: usize, worker: i32, device: i32): void {
  const segments = packetSegments(descriptor);
  const joined = packetPieces(descriptor);
  const pieces = joined == 0 ? takePieces(worker, 1) : joined;
  setPiece(pieces, packetStart(descriptor), packetHead(descriptor));
  const count = joined == 0 ? 1 : segments;
  addSend(worker, device, pieces, count, packetLength(descriptor), segments);
  setOutput(descriptor, device);
}

/** The same with `size` bytes at `header` in front, where there is no room before the packet. The
 * place before a joined packet's pieces is free for it. */
export function sendBehind(
  descriptor: usize,
  worker: i32,
  device: i32,
  header: usize,
  size: i32,
): void {
  const segments = packetSegments(descriptor);
  const joined = packetPieces(descriptor);
  const pieces = joined == 0 ? takePieces(worker, 2) : joined - <usize>pieceSize();
  setPiece(pieces, header, size);
  setPiece(pieces + <usize>pieceSize(), packetStart(descriptor), packetHead(descriptor));
  const count = joined == 0 ? 2 : segments + 1;
  addSend(worker, device, pieces, count, size + packetLength(descriptor), segments);
  setOutput(descriptor, device);
}

/** Adds a datagram of `count` pieces, the last taken, for a peer, by a device. Where the kernel
 * cuts sends (linux/udp.h, UDP_SEGMENT), it joins the one before, if it could have been that one's
 * next: same peer and flow, same TOS, same length or shorter. `joins` false leaves it alone,
 * because the kernel must fragment it. */
export function addDatagram(
  worker: i32,
  peer: usize,
  device: i32,
  count: i32,
  length: i32,
  flowHash: u32,
  tos: i32,
  joins: bool,
): void {
  const pieces = nextPiece(worker) - <usize>(count * pieceSize());
  const send = joins ? openSend(worker, peer, pieces, flowHash, tos) : 0;
  if (send != 0 && fillSend(send, 1, count, length, length) != 0) return;
  const alone = addSend(worker, device, pieces, count, length, 1);
  addressSend(alone, peer, flowHash, tos, joins ? 0 : SEND_FLAG_CLOSED);
}

/** The same for `packets` datagrams of `count` pieces each. All have `length` bytes but the last,
 * which may be shorter. */
export function addDatagrams(
  worker: i32,
  peer: usize,
  device: i32,
  packets: i32,
  count: i32,
  length: i32,
  lastLength: i32,
  flowHash: u32,
  tos: i32,
  joins: bool,
): void {
  let left = packets;
  let pieces = nextPiece(worker) - <usize>(packets * count * pieceSize());
  let send = joins ? openSend(worker, peer, pieces, flowHash, tos) : 0;
  while (left > 0) {
    let added = send == 0 ? 0 : fillSend(send, left, count, length, lastLength);
    if (added == 0) {
      added = 1;
      send = addSend(worker, device, pieces, count, left == 1 ? lastLength : length, 1);
      addressSend(send, peer, flowHash, tos, joins ? 0 : SEND_FLAG_CLOSED);
    }
    left -= added;
    pieces += <usize>(added * count * pieceSize());
  }
}

/** The last send, if it is for this peer and flow, and its pieces end where `pieces` begin (a run
 * that came to nothing leaves pieces that are no send's); otherwise 0. */
function openSend(worker: i32, peer: usize, pieces: usize, flowHash: u32, tos: i32): usize {
  const sends = load<i32>(workerBlock(worker), WORKER_SENDS);
  if (sends == 0) return 0;
  const send = sendAt(worker, sends - 1);
  if (<usize>load<u32>(send, SEND_PEER) != peer || load<u32>(send, SEND_FLOW_HASH) != flowHash
    || <i32>load<u8>(send, SEND_TOS) != tos) return 0;
  const size = load<i32>(send, SEND_PIECE_COUNT) * pieceSize();
  return <usize>load<u32>(send, SEND_PIECES) + <usize>size == pieces ? send : 0;
}

/** Adds to a send as many of `left` datagrams as go with those in it; returns how many. A shorter
 * one closes it. */
function fillSend(send: usize, left: i32, count: i32, length: i32, lastLength: i32): i32 {
  const before = <i32>load<u16>(send, SEND_PACKETS);
  const total = load<i32>(send, SEND_LENGTH);
  const size = before == 1 ? total : <i32>load<u16>(send, SEND_SEGMENT_SIZE);
  const next = left == 1 ? lastLength : length;
  if (load<u8>(send, SEND_FLAGS) != 0 || next > size) return 0;
  // A single one needs no division.
  const isSingle = left == 1 || next < size;
  const room = DATAGRAMS_BYTES_MAX - total;
  const fit = isSingle ? (next <= room ? 1 : 0) : room / next;
  const added = min(min(left, fit), directory(DIRECTORY_SEGMENT_LIMIT) - before);
  if (added <= 0) return 0;
  const bytes = added == left ? ((added - 1) * length) + lastLength : added * length;
  const isShort = next < size || (added == left && lastLength < size);
  store<u16>(send, <u16>size, SEND_SEGMENT_SIZE);
  store<u16>(send, <u16>(before + added), SEND_PACKETS);
  store<i32>(send, total + bytes, SEND_LENGTH);
  store<i32>(send, load<i32>(send, SEND_PIECE_COUNT) + (added * count), SEND_PIECE_COUNT);
  if (isShort) store<u8>(send, SEND_FLAG_CLOSED, SEND_FLAGS);
  return added;
}

/** Adds a whole frame that carries the packet of `descriptor` to a peer. */
export function addFrame(
  descriptor: usize,
  worker: i32,
  peer: usize,
  device: i32,
  flowHash: u32,
  tos: i32,
): void {
  sendToDevice(descriptor, worker, device);
  const last = load<i32>(workerBlock(worker), WORKER_SENDS) - 1;
  addressSend(sendAt(worker, last), peer, flowHash, tos, SEND_FLAG_FRAME);
}

function addressSend(send: usize, peer: usize, flowHash: u32, tos: i32, flags: i32): void {
  store<u8>(send, <u8>tos, SEND_TOS);
  store<u8>(send, <u8>flags, SEND_FLAGS);
  store<u32>(send, flowHash, SEND_FLOW_HASH);
  store<u32>(send, <u32>peer, SEND_PEER);
  v128.store(send, v128.load(peer, PEER_REMOTE), SEND_REMOTE);
  v128.store(send, v128.load(peer + 16, PEER_REMOTE), SEND_REMOTE + 16);
}

function sendAt(worker: i32, index: i32): usize {
  return <usize>(directory(DIRECTORY_SENDS) + (((worker * SEND_LIMIT) + index) * SEND_STRIDE));
}
