// Blocks of 1 to 192 granules for a prefix table, and when they may be used again.
//
// Theory of operation. The arena is a row of chunks of 256 granules of 8 bytes. Free space is kept
// as a buddy system does, in aligned pieces of 1, 2, 4 ... 256 granules with one list per size,
// but a block is exactly as long as was asked: the rest of its piece goes back to the lists, and a
// block that is freed is cut into aligned pieces again. Pieces whose neighbours are free melt
// together, so a pool whose blocks are all freed is whole chunks again. A tag per granule says
// "a free piece of this order starts here".
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
  POOL_ARENA, POOL_CHUNK, POOL_ENTRY_SHIFT, POOL_FREE, POOL_GRANULES, POOL_GRANULE_SHIFT,
  POOL_HEAD, POOL_MARK, POOL_NEXT, POOL_ORDER_MAX, POOL_RETIRING, POOL_RING, POOL_RING_LIMIT,
  POOL_TAGS, POOL_TAIL, POOL_TAKEN, POOL_TURNS, POOL_USED,
} from "../abi/prefix-table";
import {
  DIRECTORY_START, DIRECTORY_WORKER_COUNT, WORKERS_START, WORKER_LIMIT, WORKER_STRIDE, WORKER_TURN,
} from "../abi/layout";

/** Entries a ring needs for an arena: a block is 1 granule of leaves, or 3 and more of nodes. */
export function poolRingLimit(granules: i32): i32 {
  return granules + 1;
}

/** Makes the whole arena free. The tags must be zero. */
export function poolInit(pool: usize, arena: usize, granules: i32, ring: usize, tags: usize): void {
  memory.fill(pool, 0, POOL_FREE + (4 * (POOL_ORDER_MAX + 1)));
  store<u32>(pool, <u32>arena, POOL_ARENA);
  store<u32>(pool, granules, POOL_GRANULES);
  store<u32>(pool, <u32>ring, POOL_RING);
  store<u32>(pool, poolRingLimit(granules), POOL_RING_LIMIT);
  store<u32>(pool, <u32>tags, POOL_TAGS);
}

/** Address of a block of `granules`, noted for a rollback; 0 if there is none. */
export function poolTake(pool: usize, granules: i32): usize {
  let order = granules <= 1 ? 0 : 32 - clz(granules - 1);
  const list = pool + POOL_FREE;
  while (order <= POOL_ORDER_MAX && load<u32>(list + (<usize>order << 2)) == 0) order++;
  let index: i32;
  if (order <= POOL_ORDER_MAX) {
    index = <i32>load<u32>(list + (<usize>order << 2)) - 1;
    unlinkPiece(pool, index, order);
  } else {
    index = load<i32>(pool, POOL_NEXT);
    if (index + POOL_CHUNK > load<i32>(pool, POOL_GRANULES)) return 0;
    store<i32>(pool, index + POOL_CHUNK, POOL_NEXT);
    order = POOL_ORDER_MAX;
  }
  freeRange(pool, index + granules, (1 << order) - granules);
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

/** Chunks of the arena that are free as a whole. */
export function poolFreeChunks(pool: usize): i32 {
  const next = load<i32>(pool, POOL_NEXT);
  const tags = <usize>load<u32>(pool, POOL_TAGS);
  let count = (load<i32>(pool, POOL_GRANULES) - next) / POOL_CHUNK;
  for (let index = 0; index < next; index += POOL_CHUNK) {
    if (load<u8>(tags + <usize>index) == POOL_ORDER_MAX + 1) count++;
  }
  return count;
}

function workerTurn(worker: i32): usize {
  return WORKERS_START + (<usize>worker * WORKER_STRIDE) + WORKER_TURN;
}

function workerCount(): i32 {
  return min<i32>(atomic.load<u32>(DIRECTORY_START, DIRECTORY_WORKER_COUNT), WORKER_LIMIT);
}

function readTurns(pool: usize): void {
  for (let worker = 0; worker < WORKER_LIMIT; worker++) {
    store<u32>(pool + (<usize>worker << 2), atomic.load<u32>(workerTurn(worker)), POOL_TURNS);
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

function freeEntry(pool: usize, entry: i32): void {
  const granules = entry & ((1 << POOL_ENTRY_SHIFT) - 1);
  store<i32>(pool, load<i32>(pool, POOL_USED) - granules, POOL_USED);
  freeRange(pool, entry >>> POOL_ENTRY_SHIFT, granules);
}

/** Cuts a stretch into aligned pieces and frees each. */
function freeRange(pool: usize, index: i32, granules: i32): void {
  while (granules > 0) {
    const order = min(ctz(index | POOL_CHUNK), 31 - clz(granules));
    freePiece(pool, index, order);
    index += 1 << order;
    granules -= 1 << order;
  }
}

/** Frees an aligned piece, after melting it with its free neighbours. */
function freePiece(pool: usize, index: i32, order: i32): void {
  const tags = <usize>load<u32>(pool, POOL_TAGS);
  while (order < POOL_ORDER_MAX) {
    const buddy = index ^ (1 << order);
    if (<i32>load<u8>(tags + <usize>buddy) != order + 1) break;
    unlinkPiece(pool, buddy, order);
    index &= ~(1 << order);
    order++;
  }
  const list = pool + POOL_FREE + (<usize>order << 2);
  const next = load<u32>(list);
  const piece = granuleAddress(pool, index);
  store<u32>(piece, next);
  store<u32>(piece, 0, 4);
  if (next != 0) store<u32>(granuleAddress(pool, <i32>next - 1), index + 1, 4);
  store<u32>(list, index + 1);
  store<u8>(tags + <usize>index, <u8>(order + 1));
}

/** Takes a piece out of its list. */
function unlinkPiece(pool: usize, index: i32, order: i32): void {
  const piece = granuleAddress(pool, index);
  const next = load<u32>(piece);
  const previous = load<u32>(piece, 4);
  if (next != 0) store<u32>(granuleAddress(pool, <i32>next - 1), previous, 4);
  if (previous != 0) store<u32>(granuleAddress(pool, <i32>previous - 1), next);
  else store<u32>(pool + POOL_FREE + (<usize>order << 2), next);
  store<u8>(<usize>load<u32>(pool, POOL_TAGS) + <usize>index, 0);
}
