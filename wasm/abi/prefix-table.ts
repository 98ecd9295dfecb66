// Longest-prefix-match table: what its region of linear memory holds, and what its exports answer.
// One table serves one family. Keys are 128 bits, left aligned: an IPv4 address is 4 bytes and 12
// zeros. Values are next hop ids or identities, 0 is "nothing matches". A table of narrow leaves
// takes values of 16 bits, one of wide leaves values up to PREFIX_VALUE_MAX.
//
//        0 +--------------------------------+
//          | header, pool header            |
//          | scratch, one part per depth    |
//          +--------------------------------+ PREFIX_DIRECT
//          | direct table: first 18 bits    |   what workers read: this
//          +--------------------------------+ PREFIX_PENDING
//          | entries built, not published   |
//          +--------------------------------+ table + PREFIX_HEADER_SIZE
//          | arena: Poptrie nodes, leaves   |   and this
//          +--------------------------------+
//          | ring: blocks retired           |
//          | tags: one byte per granule     |
//          | trie: the control side's copy  |
//          +--------------------------------+
//
// How big. Nodes and leaves share the arena, 24 and 2 (wide: 4) bytes each. In use, narrow:
//                                                  nodes     leaves   lookup structure
//   cluster, 5,000 remote nodes, a /24 of each        79      5,001   1.0 MiB
//   BGP table of 2025, 901,899 IPv4               66,127    982,039   4.6 MiB
//   BGP table of 2025, 160,147 IPv6               70,288    253,218   3.3 MiB
//   as many IPv6 prefixes, evenly scattered      265,831    441,770   9.1 MiB
// A change is built beside what it replaces: limits of twice these figures let every change pass,
// even prefixPublish() and a change of the default route; 1.15 times are enough for changes of
// prefixes from /16 on. Memory is only reserved; pages are touched when they are used.

// Answers of the exports that change a table.
export const PREFIX_OK = 0;
export const PREFIX_TABLE_FULL = 1;           // a limit is reached; nothing was changed
export const PREFIX_TABLE_BUSY = 2;           // memory waits for workers; nothing was changed
export const PREFIX_NOT_FOUND = 3;
export const PREFIX_BAD_KEY = 4;              // length, value, or a bit set beyond the length

// What prefixUsage() is asked for.
export const PREFIX_USAGE_PREFIXES = 0;
export const PREFIX_USAGE_NODES = 1;          // of the lookup structure
export const PREFIX_USAGE_LEAVES = 2;
export const PREFIX_USAGE_RETIRED = 3;        // blocks waiting for workers
export const PREFIX_USAGE_LOOKUP_BYTES = 4;   // direct table and blocks in use, retired ones too
export const PREFIX_USAGE_CONTROL_BYTES = 5;  // trie nodes in use
export const PREFIX_USAGE_FREE_BYTES = 6;     // of the arena
export const PREFIX_USAGE_FREE_PIECES = 7;    // they are in so many pieces

export const PREFIX_LENGTH_MAX = 128;         // bits
export const PREFIX_VALUE_MAX = 1048575;      // below every address of a node
export const PREFIX_NARROW_MAX = 65535;
export const PREFIX_LEAF_NARROW = 2;          // leaf sizes, bytes
export const PREFIX_LEAF_WIDE = 4;
export const PREFIX_KEY_SIZE = 16;            // bytes, network order
export const PREFIX_LIMIT_MAX = 16777216;
export const PREFIX_GRANULES_MAX = 16777216;  // 24 bits: 128 MiB of arena

// Header. u32 fields.
export const PREFIX_COUNT = 0;
export const PREFIX_LIMIT = 4;
export const PREFIX_NODES = 8;
export const PREFIX_LEAVES = 12;
export const PREFIX_NODES_BEFORE = 16;        // as before the change in progress
export const PREFIX_LEAVES_BEFORE = 20;
export const PREFIX_TRIE_ROOT = 24;           // address, 0: empty
export const PREFIX_TRIE_FREE = 28;           // address of the first of a list
export const PREFIX_TRIE_NEXT = 32;           // address of the first node never used
export const PREFIX_TRIE_USED = 36;           // nodes
export const PREFIX_LEAF_SIZE = 40;           // PREFIX_LEAF_NARROW or PREFIX_LEAF_WIDE

// Pool header: blocks of granules from the arena, and the ring. u32 fields.
export const PREFIX_POOL = 64;
export const POOL_ARENA = 0;                  // address
export const POOL_GRANULES = 4;               // in the arena
export const POOL_PIECES = 8;                 // free ones
export const POOL_USED = 12;                  // granules handed out, retired ones too
export const POOL_TAGS = 16;                  // address
export const POOL_RING = 20;                  // address
export const POOL_RING_LIMIT = 24;            // entries
export const POOL_TAIL = 28;                  // oldest retired block
export const POOL_MARK = 32;                  // end of those that the turns below cover
export const POOL_HEAD = 36;                  // end of the retired blocks
export const POOL_RETIRING = 40;              // end of those the change in progress will retire
export const POOL_TAKEN = 44;                 // blocks the change in progress was given
export const POOL_TURNS = 48;                 // u32 per worker, its WORKER_TURN at POOL_MARK
export const POOL_SIZES = 64;                 // u64 words, a bit per list that is not empty
export const POOL_SIZE_WORDS = 5;
export const POOL_LISTS = 104;                // per size: granule index + 1 of the first piece
export const POOL_SIZE_LARGE = 256;           // the last list is for this size and larger
export const POOL_SIZE = 1132;                // POOL_LISTS + 4 * (POOL_SIZE_LARGE + 1)
export const POOL_GRANULE_SIZE = 8;           // bytes
export const POOL_GRANULE_SHIFT = 3;
export const POOL_ENTRY_SHIFT = 8;            // ring entry: granule index << 8 | granules
// Free piece. Byte offsets from its first granule; sizes only if it has more than one.
export const POOL_PIECE_NEXT = 0;             // u32 granule index + 1, 0: none
export const POOL_PIECE_PREVIOUS = 4;
export const POOL_PIECE_SIZE = 8;             // u32 granules
export const POOL_PIECE_SIZE_AT_END = 4;      // again, from its last granule
export const POOL_TAG_SINGLE = 1;
export const POOL_TAG_LONGER = 2;

// Scratch for one node being built; one part per depth.
export const PREFIX_SCRATCH = 1280;
export const SCRATCH_VALUES = 0;              // 64 u32
export const SCRATCH_TRIES = 256;             // 64 u32 addresses, of slots that have a child
export const SCRATCH_STRIDE = 512;

// Direct table entry: a value, or the address of a node, which is always greater.
export const PREFIX_DIRECT = 12288;           // PREFIX_SCRATCH + 19 * SCRATCH_STRIDE, rounded up
export const PREFIX_DIRECT_BITS = 18;         // 18 + 6 = 24: a node for /19 to /24, not two
export const PREFIX_DIRECT_SHIFT = 46;        // of the key's high half
export const PREFIX_DIRECT_SIZE = 1048576;
export const PREFIX_PENDING = 1060864;        // PREFIX_DIRECT + PREFIX_DIRECT_SIZE
export const PREFIX_HEADER_SIZE = 2109440;    // PREFIX_PENDING + PREFIX_DIRECT_SIZE

// Poptrie node: one stride of 6 bits, 64 slots.
export const NODE_BITS = 6;
export const NODE_SLOTS = 64;
export const NODE_VECTOR = 0;                 // u64, a bit per slot that has a child
export const NODE_RUNS = 8;                   // u64, a bit per slot that starts a run of leaves
export const NODE_LEAVES = 16;                // u32 address, less a leaf's size: ranks from 1
export const NODE_CHILDREN = 20;              // u32 address, less NODE_SIZE
export const NODE_SIZE = 24;
export const NODE_GRANULES = 3;

// Trie node of the control side: a prefix, or a place where prefixes part.
export const TRIE_HIGH = 0;                   // u64 key, host order
export const TRIE_LOW = 8;
export const TRIE_CHILDREN = 16;              // two u32 addresses, by the bit after the prefix
export const TRIE_VALUE = 24;                 // u24, 0: parting only
export const TRIE_LENGTH = 27;                // u8
export const TRIE_SIZE = 28;
