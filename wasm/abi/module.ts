// Policy modules (docs/MODULES.md). A module's instance sits at a place: its `evaluate` stands in
// the function table of every worker's core at MODULE_TABLE_BASE + place. A list says which places
// are asked, and in which order; lists are immutable but for MODULE_DISABLED.
export const MODULE_LIMIT = 16;               // modules in a list
export const MODULE_PLACES = 24;              // more, so that one is swapped for another beside it
export const MODULE_TABLE_BASE = 64;          // the core's own entries are below

// List. While workers may be reading one, the next is written in another's place.
export const MODULE_LISTS = 8;
export const MODULE_LIST_COUNT = 0;           // u32
export const MODULE_LIST_FLAGS = 4;           // u32, MODULE_* of all of its entries together
export const MODULE_LIST_ENTRIES = 8;         // u32 each: the fields below
export const MODULE_LIST_SIZE = 128;
export const MODULE_PLACE_MASK = 0xff;        // entry: place
export const MODULE_FAILURE_SHIFT = 8;        // entry: MODULE_VERDICT_* where it fails, 4 bits
export const MODULE_FAILURE_MASK = 0xf;
export const MODULE_MAY_ALLOW = 0x10000;      // entry: its `allow` skips NetworkPolicy
export const MODULE_PER_PACKET = 0x20000;     // entry: asked about each packet
export const MODULE_HAS_PAYLOAD = 0x40000;    // entry: may ask for payload
export const MODULE_DISABLED = 0x80000;       // entry: not called, its failure verdict applies

// Verdicts, as modules/wit/policy.wit numbers them.
export const MODULE_VERDICT_PASS = 0;
export const MODULE_VERDICT_ALLOW = 1;
export const MODULE_VERDICT_DENY = 2;
export const MODULE_VERDICT_REJECT = 3;
export const MODULE_VERDICT_MORE = 4;         // pass, and show the payload
export const MODULE_VERDICT_COUNT = 5;
// What has been said about the packet in hand, in the order of the list: a verdict + 1 in each.
export const SAID_BITS = 4;
export const SAID_MASK = 0xf;

// Counts of one place on one worker, u64: verdicts first, then faults.
export const MODULE_FAULT_TRAP = 5;           // an exception, exhausted stack included
export const MODULE_FAULT_TIMEOUT = 6;        // it did not come back
export const MODULE_FAULT_MEMORY = 7;         // it got no memory
export const MODULE_FAULT_ANSWER = 8;         // it said what is no verdict
export const MODULE_COUNT_KINDS = 9;
export const MODULE_COUNTS_STRIDE = 128;

// Watch: a flow of which modules want to see the first payload that its opener sends. In sets of
// WATCH_WAYS, by the index of the flow's entry.
export const WATCH_FLOW = 0;                  // u32 address of its entry, 0: free
export const WATCH_PORTS = 4;                 // u32, as in its entry
export const WATCH_PENDING = 8;               // u32, a bit for each in the order of the list
export const WATCH_INGRESS_SHIFT = 16;        // of the bits for ingress, above those for egress
export const WATCH_SEQUENCE = 12;             // u32, TCP: sequence number of its first byte
export const WATCH_BYTES = 16;                // u32, bytes that have gone by
export const WATCH_PACKETS = 20;              // u32, packets with payload
export const WATCH_SIZE = 32;
export const WATCH_WAYS = 8;
export const WATCH_LIMIT = 4096;              // watches at a time
// The set of a flow is (index of its entry * WATCH_HASH) >>> WATCH_HASH_SHIFT, one of 512.
export const WATCH_HASH = 506952113;
export const WATCH_HASH_SHIFT = 23;
export const MODULE_PAYLOAD_PACKETS = 8;      // of one flow that are shown
export const MODULE_PAYLOAD_BYTES = 16384;
