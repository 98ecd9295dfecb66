// Policy and flows in linear memory: docs/POLICY.md says what they mean. Blocks are immutable once
// something leads to them; addresses are of linear memory, fields little-endian u32 unless said.

// Rule set: a hash of (identity, program), open addressing, linear probing. The home slot of an
// identity is ((identity * RULE_SET_HASH) >>> 12) & mask. A slot whose program is 0 is empty; at
// least one is.
export const RULE_SET_MASK = 0;               // slots - 1, slots a power of two
export const RULE_SET_DEFAULT = 4;            // program of all identities that have no slot
export const RULE_SET_SLOTS = 8;
export const RULE_SET_SLOT_IDENTITY = 0;
export const RULE_SET_SLOT_PROGRAM = 4;
export const RULE_SET_SLOT_SIZE = 8;
export const RULE_SET_HASH = 506952113;
export const RULE_SET_HASH_SHIFT = 12;

// Program: `count` keys in ascending order, the first 0, then as many answers. The answer of a key
// is that of the greatest boundary not above it.
export const PROGRAM_COUNT = 0;
export const PROGRAM_KEYS = 4;
export const PROGRAM_KEY_PROTOCOL_SHIFT = 16; // key: protocol << 16 | destination port
export const ANSWER_ALLOW = 1;                // bit 0 of an answer
export const ANSWER_FINAL = 2;                // bit 1: the admin tier's, so no module is asked
export const ANSWER_MODULE_SHIFT = 2;         // 5 bits: place of the module that decided + 1, or 0
export const ANSWER_MODULE_MASK = 0x1f;
export const ANSWER_REJECT = 0x80;            // a module denies, and the sender is to be told
export const ANSWER_RULE_SHIFT = 8;           // rule number above it, 0 for none
export const IDENTITY_NONE = 0;               // an address that nobody named
export const IDENTITY_MAX = 1048575;

// Flow: 64 bytes. A and B are the two ends, A the lower in byte order of address, then port, so
// that both directions find one entry. IPv4 addresses are IPv4-mapped (RFC 4291 section 2.5.5.2).
// Entries stand in groups of 16, a key may be in two of them. Each entry has a tag, one byte: 0
// where it is free, otherwise FLOW_TAG_USED and 7 bits of the key's hash.
export const FLOW_ADDRESS_A = 0;              // 16 bytes
export const FLOW_ADDRESS_B = 16;
export const FLOW_PORT_A = 32;                // u16 network order; ICMP query: identifier in both
export const FLOW_PORT_B = 34;
export const FLOW_PROTOCOL = 36;              // u8
export const FLOW_FLAGS = 37;                 // u8
export const FLOW_STATE = 38;                 // u8
export const FLOW_SIGNAL = 39;               // u8 of the packet that opened it: see below
export const FLOW_EPOCH = 40;                 // policy epoch of the verdict
export const FLOW_EPOCH_WATCHED_SHIFT = 31;   // bit of it that is inverted while modules watch
export const FLOW_EXPIRES = 44;               // nowMs at which it is void
export const FLOW_ANSWER_EGRESS = 48;         // answers that let it pass
export const FLOW_ANSWER_INGRESS = 52;
export const FLOW_PAIR = 56;                  // address of its pair's entry, if it has one
export const FLOW_LIFETIME = 60;              // milliseconds without packets, in its state
export const FLOW_SIZE = 64;
export const FLOW_FLAG_USED = 1;
export const FLOW_FLAG_FROM_B = 2;            // B opened it
export const FLOW_FLAG_REPLIED = 4;           // the other end has answered
export const FLOW_FLAG_FIN_A = 8;             // TCP: A has closed its direction
export const FLOW_FLAG_FIN_B = 16;
export const FLOW_FLAG_SESSION = 32;          // a pair's first: as the client of a Service has it
export const FLOW_FLAG_TRANSLATED = 64;       // a pair's second: as its backend has it
// Signal: TCP's flags, ICMP's type, SCTP's first chunk type; of UDP when it was opened, in steps of
// time. A session has in the words of answers:
export const SESSION_EPOCH = 48;              // service epoch in which its backend was there
export const SESSION_FRONT_EPOCH = 52;        // epoch of the front that had it
// An affinity is an entry of protocol 0: client, with the protocol for a port, and front.
export const AFFINITY_SEED = 56;              // of the client's backend
export const FLOW_GROUP_SIZE = 16;
export const FLOW_TAG_USED = 0x80;
export const FLOW_STATE_NEW = 0;              // its opener has not answered an answer yet
export const FLOW_STATE_ESTABLISHED = 1;      // gives way to no new flow, unless of UDP and idle
export const FLOW_STATE_CLOSING = 2;          // TCP: RST seen, or FIN from both ends
export const FLOW_STEP_SHIFT = 8;             // a step of time is 256 ms; a u8 counts 65 seconds
export const FLOW_EXCHANGE_STEPS = 8;         // UDP: not established before, some 2 seconds

// Keys of the flow hash: random numbers that nobody who sends packets can guess. They lie in the
// directory; the engine makes them from DIRECTORY_FLOW_SEED.
export const FLOW_KEYS = 1232;                // DIRECTORY_START + DIRECTORY_FLOW_KEYS
export const FLOW_KEYS_ADDRESS_A = 0;         // u32 for each of its words
export const FLOW_KEYS_ADDRESS_B = 16;
export const FLOW_KEYS_REST = 32;             // u64, odd
export const FLOW_KEYS_SPREAD = 40;           // u64, odd
export const FLOW_KEYS_SIZE = 48;

// Timeouts, milliseconds. Half-open flows live short, so that a flood does not fill the table.
export const FLOW_TIMEOUT_NEW = 30000;
export const FLOW_TIMEOUT_TCP = 7440000;      // RFC 5382 REQ-5: 2 hours 4 minutes
export const FLOW_TIMEOUT_HALF_CLOSED = 240000; // RFC 5382 REQ-5: 4 minutes; FIN from one end
export const FLOW_TIMEOUT_CLOSING = 10000;
export const FLOW_TIMEOUT_CUT = 240000;       // TCP tries again within 120 s: RFC 6298 section 2.5
export const FLOW_TIMEOUT_LATE = 10000;       // other protocols: answers that were on their way
export const FLOW_TIMEOUT_UDP = 300000;       // RFC 4787 REQ-5: 5 minutes recommended; established
export const FLOW_TIMEOUT_ICMP = 60000;       // RFC 5508 REQ-1: 60 seconds
export const FLOW_TIMEOUT_OTHER = 600000;

// Fragments: a datagram whose first fragment was let pass. Sets of FRAGMENT_WAYS entries.
export const FRAGMENT_SOURCE = 0;             // 16 bytes, as in a flow
export const FRAGMENT_DESTINATION = 16;
export const FRAGMENT_ID = 32;                // u32 as it lies in the header
export const FRAGMENT_PROTOCOL = 36;          // u32; 0 for IPv6, where later fragments do not tell
export const FRAGMENT_EXPIRES = 40;           // nowMs
export const FRAGMENT_FLOW = 44;              // address of its flow's entry, 0: free
export const FRAGMENT_PORTS = 48;             // u32, as in its flow's entry
export const FRAGMENT_SIZE = 64;
export const FRAGMENT_WAYS = 8;
export const FRAGMENT_TIMEOUT = 30000;        // RFC 791 section 3.2 suggests 15 seconds at least

// Verdict ring, one per worker: what was decided about first packets, for `culvert observe`. The
// worker writes records and then the head; a reader that lags loses the oldest.
export const VERDICTS_HEAD = 0;               // u32, records written so far; wraps
export const VERDICTS_RECORDS = 64;
export const VERDICT_TIME = 0;                // nowMs
export const VERDICT_DEVICE = 4;              // u16, endpoint that enforced
export const VERDICT_INGRESS = 6;             // u8, 1: ingress, 0: egress
export const VERDICT_ALLOWED = 7;             // u8
export const VERDICT_ANSWER = 8;              // answer of the program
export const VERDICT_SOURCE_IDENTITY = 12;
export const VERDICT_DESTINATION_IDENTITY = 16;
export const VERDICT_KEY = 20;                // protocol << 16 | destination port
export const VERDICT_SOURCE_PORT = 24;        // u16 host order
export const VERDICT_TCP_FLAGS = 26;          // u8
export const VERDICT_FAMILY = 27;             // u8, 4 or 6
export const VERDICT_SOURCE = 28;             // 16 bytes, IPv4 in the first four
export const VERDICT_DESTINATION = 44;
export const VERDICT_SIZE = 64;
