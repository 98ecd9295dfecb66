// Blocks of 1 to 192 granules for a prefix table, and when they may be used again.
//
// Theory of operation. The arena is a row of granules of 8 bytes, cut into blocks in use and free
// pieces. Two free pieces never touch: a block that is freed melts with its neighbours. A list per
// size, up to 255 granules, and one for all larger pieces make the best fit the first found; what
// is left of a piece stays one. (Buddies were tried: blocks of nearly 256 granules then break every
// whole chunk for ever, and 2.5 times the memory in use was not enough.) A tag per granule tells
// whether a free piece begins or ends there: 0 no, 1 a piece of one granule, 2 a longer one, which
// has its size in its second granule and in its last.
//
// Readers may still be in a block that was replaced, so it is retired first: its bytes stay, only
// its place and size go into the ring. A worker holds its turn counter odd while it may look into
// tables. Blocks are free once every worker was outside a turn, or has ended the turn it was in,
// after they were unlinked. The ring is three stretches:
//
//   tail ......... mark ......... head ......... retiring          taken ......... tail
//    retired before  | retired since | unlinked by the | free entries | given to the |
//    turns were read |               | coming publish  |              | change       |
//
// A change takes and retires blocks and ends in poolCommit() or poolRollback(). The ring has an
// entry for every block the arena can be cut into, so it cannot overflow.
import {
  POOL_ARENA, POOL_ENTRY_SHIFT, POOL_GRANULES, POOL_GRANULE_SHIFT, POOL_HEAD, POOL_LISTS, POOL_MARK,
  POOL_PIECES, POOL_PIECE_NEXT, POOL_PIECE_PREVIOUS, POOL_PIECE_SIZE, POOL_PIECE_SIZE_AT_END,
  POOL_RETIRING, POOL_RING, POOL_RING_LIMIT, POOL_SIZE, POOL_SIZES, POOL_SIZE_LARGE,
  POOL_SIZE_WORDS, POOL_TAGS, POOL_TAG_LONGER, POOL_TAG_SINGLE, POOL_TAIL, POOL_TAKEN, POOL_TURNS,
  POOL_USED,
} from "../abi/prefix-table";
import {
  DIRECTORY_START, DIRECTORY_WORKER_COUNT, WORKERS_START, WORKER_LIMIT, WORKER_STRIDE, WORKER_TURN,
} from "../abi/layout";

/**
 * Entries the ring of an arena needs. Each block of leaves has a node, and each block of nodes at
 * least one, so with 3 granules to a node there are at most half as many blocks as granules.
 */
export function poolRingLimit(granules: i32): i32 {
  return (granules >>> 1) + 2;
}

/** Makes the whole arena free. The tags must be zero. */
export function poolInit(pool: usize, arena: usize, granules: i32, ring: usize, tags: usize): void {
  memory.fill(pool, 0, POOL_SIZE);
  store<u32>(pool, <u32>arena, POOL_ARENA);
  store<u32>(pool, granules, POOL_GRANULES);
  store<u32>(pool, <u32>ring, POOL_RING);
  store<u32>(pool, poolRingLimit(granules), POOL_RING_LIMIT);
  store<u32>(pool, <u32>tags, POOL_TAGS);
  linkPiece(pool, 0, granules);
}

/** Address of a block of `granules`, noted for a rollback; 0 if there is none. */
export function poolTake(pool: usize, granules: i32): usize {
  const index = bestFit(pool, granules);
  if (index < 0) return 0;
  const size = pieceSize(pool, index, POOL_PIECE_SIZE);
  unlinkPiece(pool, index, size);
  if (size > granules) linkPiece(pool, index + granules, size - granules);
  store<i32>(pool, load<i32>(pool, POOL_USED) + granules, POOL_USED);
  noteTaken(pool, (index << POOL_ENTRY_SHIFT) | granules);
  return granuleAddress(pool, index);
}

/** Retires a block once the change in progress is committed. */
export function poolRetire(pool: usize, block: usize, granules: i32): void {
  const index = <i32>((block - <usize>load<u32>(pool, POOL_ARENA)) >>> POOL_GRANULE_SHIFT);
  const at = load<i32>(pool, POOL_RETIRING);
  store<i32>(ringEntry(pool, at), (index << POOL_ENTRY_SHIFT) | granules);
  store<i32>(pool, ringStep(pool, at, 1), POOL_RETIRING);
}

/** Ends a change whose new blocks are published. */
export function poolCommit(pool: usize): void {
  store<i32>(pool, load<i32>(pool, POOL_RETIRING), POOL_HEAD);
  store<i32>(pool, 0, POOL_TAKEN);
}

/** Ends a change that failed: blocks it took are free, blocks it retired stay in use. */
export function poolRollback(pool: usize): void {
  let at = load<i32>(pool, POOL_TAIL);
  for (let left = load<i32>(pool, POOL_TAKEN); left > 0; left--) {
    at = ringStep(pool, at, -1);
    freeEntry(pool, load<i32>(ringEntry(pool, at)));
  }
  store<i32>(pool, 0, POOL_TAKEN);
  store<i32>(pool, load<i32>(pool, POOL_HEAD), POOL_RETIRING);
}

/** Frees every retired block that no worker can be in. Precondition: no change is in progress. */
export function poolReclaim(pool: usize): void {
  const head = load<i32>(pool, POOL_HEAD);
  let tail = load<i32>(pool, POOL_TAIL);
  while (tail != head) {
    const mark = load<i32>(pool, POOL_MARK);
    if (tail != mark && !turnsPassed(pool)) break;
    for (; tail != mark; tail = ringStep(pool, tail, 1)) {
      freeEntry(pool, load<i32>(ringEntry(pool, tail)));
    }
    store<i32>(pool, tail, POOL_TAIL);
    if (mark != head) readTurns(pool);
    store<i32>(pool, head, POOL_MARK);
  }
}

/** Blocks retired and not free yet. */
export function poolRetired(pool: usize): i32 {
  const count = load<i32>(pool, POOL_HEAD) - load<i32>(pool, POOL_TAIL);
  return count < 0 ? count + load<i32>(pool, POOL_RING_LIMIT) : count;
}

function workerTurn(worker: i32): usize {
  return <usize>(WORKERS_START + (worker * WORKER_STRIDE) + WORKER_TURN);
}

function workerCount(): i32 {
  return min<i32>(atomic.load<u32>(DIRECTORY_START, DIRECTORY_WORKER_COUNT), WORKER_LIMIT);
}

function readTurns(pool: usize): void {
  for (let worker = 0; worker < WORKER_LIMIT; worker++) {
    const turn = atomic.load<u32>(workerTurn(worker));
    store<u32>(pool + (<usize>worker << 2), turn, POOL_TURNS);
  }
}

function turnsPassed(pool: usize): bool {
  const workers = workerCount();
  for (let worker = 0; worker < workers; worker++) {
    const turn = load<u32>(pool + (<usize>worker << 2), POOL_TURNS);
    if ((turn & 1) != 0 && atomic.load<u32>(workerTurn(worker)) == turn) return false;
  }
  return true;
}

function noteTaken(pool: usize, entry: i32): void {
  const taken = load<i32>(pool, POOL_TAKEN) + 1;
  store<i32>(ringEntry(pool, ringStep(pool, load<i32>(pool, POOL_TAIL), -taken)), entry);
  store<i32>(pool, taken, POOL_TAKEN);
}

function ringEntry(pool: usize, at: i32): usize {
  return <usize>load<u32>(pool, POOL_RING) + (<usize>at << 2);
}

function ringStep(pool: usize, at: i32, by: i32): i32 {
  const limit = load<i32>(pool, POOL_RING_LIMIT);
  const next = at + by;
  return next < 0 ? next + limit : next >= limit ? next - limit : next;
}

function granuleAddress(pool: usize, index: i32): usize {
  return <usize>load<u32>(pool, POOL_ARENA) + (<usize>index << POOL_GRANULE_SHIFT);
}

function tagAddress(pool: usize, index: i32): usize {
  return <usize>load<u32>(pool, POOL_TAGS) + <usize>index;
}

/** First of the smallest pieces that are large enough; -1 if there is none. */
function bestFit(pool: usize, granules: i32): i32 {
  let word = granules >>> 6;
  let sizes = load<u64>(pool + (<usize>word << 3), POOL_SIZES) & (~(<u64>0) << <u64>granules);
  while (sizes == 0) {
    if (++word >= POOL_SIZE_WORDS) return -1;
    sizes = load<u64>(pool + (<usize>word << 3), POOL_SIZES);
  }
  return <i32>load<u32>(listAddress(pool, (word << 6) + <i32>ctz(sizes))) - 1;
}

/** Size of a piece from the granule where it begins, or ends. */
function pieceSize(pool: usize, index: i32, field: i32): i32 {
  if (load<u8>(tagAddress(pool, index)) == POOL_TAG_SINGLE) return 1;
  return load<i32>(granuleAddress(pool, index) + <usize>field);
}

function freeEntry(pool: usize, entry: i32): void {
  let index = entry >>> POOL_ENTRY_SHIFT;
  let size = entry & ((1 << POOL_ENTRY_SHIFT) - 1);
  store<i32>(pool, load<i32>(pool, POOL_USED) - size, POOL_USED);
  if (index > 0 && load<u8>(tagAddress(pool, index - 1)) != 0) {
    const before = pieceSize(pool, index - 1, POOL_PIECE_SIZE_AT_END);
    unlinkPiece(pool, index - before, before);
    index -= before;
    size += before;
  }
  const end = index + size;
  if (end < load<i32>(pool, POOL_GRANULES) && load<u8>(tagAddress(pool, end)) != 0) {
    const after = pieceSize(pool, end, POOL_PIECE_SIZE);
    unlinkPiece(pool, end, after);
    size += after;
  }
  linkPiece(pool, index, size);
}

/** Where the list of pieces of a size begins. */
function listAddress(pool: usize, size: i32): usize {
  return pool + POOL_LISTS + (<usize>min(size, POOL_SIZE_LARGE) << 2);
}

function linkPiece(pool: usize, index: i32, size: i32): void {
  const list = listAddress(pool, size);
  const next = load<u32>(list);
  const piece = granuleAddress(pool, index);
  const last = piece + (<usize>(size - 1) << POOL_GRANULE_SHIFT);
  store<u32>(piece, next, POOL_PIECE_NEXT);
  store<u32>(piece, 0, POOL_PIECE_PREVIOUS);
  if (size > 1) {
    store<i32>(piece, size, POOL_PIECE_SIZE);
    store<i32>(last, size, POOL_PIECE_SIZE_AT_END);
  }
  if (next != 0) {
    store<u32>(granuleAddress(pool, <i32>next - 1), index + 1, POOL_PIECE_PREVIOUS);
  } else {
    flipSize(pool, size);
  }
  store<u32>(list, index + 1);
  setTags(pool, index, size, size == 1 ? POOL_TAG_SINGLE : POOL_TAG_LONGER);
  store<i32>(pool, load<i32>(pool, POOL_PIECES) + 1, POOL_PIECES);
}

function unlinkPiece(pool: usize, index: i32, size: i32): void {
  const piece = granuleAddress(pool, index);
  const next = load<u32>(piece, POOL_PIECE_NEXT);
  const previous = load<u32>(piece, POOL_PIECE_PREVIOUS);
  if (next != 0) {
    store<u32>(granuleAddress(pool, <i32>next - 1), previous, POOL_PIECE_PREVIOUS);
  }
  if (previous != 0) {
    store<u32>(granuleAddress(pool, <i32>previous - 1), next, POOL_PIECE_NEXT);
  } else {
    store<u32>(listAddress(pool, size), next);
    if (next == 0) flipSize(pool, size);
  }
  setTags(pool, index, size, 0);
  store<i32>(pool, load<i32>(pool, POOL_PIECES) - 1, POOL_PIECES);
}

/** Notes that the list of a size is no longer empty, or is empty now. */
function flipSize(pool: usize, size: i32): void {
  const list = min(size, POOL_SIZE_LARGE);
  const word = pool + (<usize>(list >>> 6) << 3);
  store<u64>(word, load<u64>(word, POOL_SIZES) ^ (<u64>1 << <u64>list), POOL_SIZES);
}

function setTags(pool: usize, index: i32, size: i32, tag: i32): void {
  const first = tagAddress(pool, index);
  store<u8>(first, <u8>tag);
  store<u8>(first + <usize>(size - 1), <u8>tag);
}
