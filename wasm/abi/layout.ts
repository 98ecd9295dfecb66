// Linear memory: who finds what where. Sizes of records are fixed here; sizes of tables are chosen
// at start (engine/memory-map.ts) and written into the directory, where the core finds them.
// All fields are little-endian and aligned, except addresses, which are in network order.
//
//        0 +--------------------------------+
//          | never used: null pointers land |
//     1024 +--------------------------------+ DIRECTORY_START
//          | directory: where tables are    |
//     2048 +--------------------------------+ WORKERS_START
//          | one block per worker: turn     |
//          | clock, counters                |
//          +--------------------------------+ CONTROL_SCRATCH_START
//          | keys the control side passes   |
//          +--------------------------------+ TABLES_START
//          | next hops, peers, devices,     |   from here on sizes are start-time,
//          | statistics, prefix tables      |   addresses are in the directory
//          +--------------------------------+
//          | policy: identities, arena;     |
//          | fragments; per worker: verdicts|
//          | and dropped packets            |
//          +--------------------------------+
//          | Services: buckets, arena of    |
//          | fronts; per worker: counts     |
//          +--------------------------------+
//          | modules: lists, watches; per   |
//          | worker: counts                 |
//          +--------------------------------+
//          | outbox, per worker: sends,     |
//          | pieces, header blocks          |
//          +--------------------------------+
//          | kept pages: header, turn       |
//          | records, flows, descriptors,   |
//          | packet slots                   |
//          +--------------------------------+

// Directory. u32 fields, byte offsets from DIRECTORY_START.
export const DIRECTORY_START = 1024;
export const DIRECTORY_MAGIC_FIELD = 0;       // DIRECTORY_MAGIC once the engine has laid the map
export const DIRECTORY_VERSION = 4;           // ABI_VERSION of the engine that laid it
export const DIRECTORY_WORKER_COUNT = 8;
export const DIRECTORY_SLOT_COUNT = 12;       // packet slots per worker
export const DIRECTORY_SLOTS = 16;            // address of the first packet slot
export const DIRECTORY_DESCRIPTORS = 20;
export const DIRECTORY_NEXT_HOPS = 24;
export const DIRECTORY_NEXT_HOP_LIMIT = 28;
export const DIRECTORY_PEERS = 32;
export const DIRECTORY_PEER_LIMIT = 36;
export const DIRECTORY_DEVICES = 40;
export const DIRECTORY_DEVICE_LIMIT = 44;
export const DIRECTORY_STATISTICS = 48;       // per worker: DIRECTORY_NEXT_HOP_LIMIT records
export const DIRECTORY_ROUTES_IPV4 = 52;      // prefix tables: address -> next hop
export const DIRECTORY_ROUTES_IPV6 = 56;
export const DIRECTORY_REMOTES_IPV4 = 60;     // outer source address -> next hop of its peer
export const DIRECTORY_REMOTES_IPV6 = 64;
export const DIRECTORY_NODE_IPV4 = 68;        // 4 bytes: source of ICMP errors; 0 until known
export const DIRECTORY_NODE_IPV6 = 72;        // 16 bytes, likewise
export const DIRECTORY_ICMP_RATE = 88;        // ICMP errors per second and origin
export const DIRECTORY_ICMP_BURST = 92;
export const DIRECTORY_IDENTITIES_IPV4 = 96;  // prefix tables: address -> identity
export const DIRECTORY_IDENTITIES_IPV6 = 100;
export const DIRECTORY_FLOWS = 104;           // entries, then a tag for each
export const DIRECTORY_FLOW_COUNT = 108;      // a power of two
export const DIRECTORY_FLOW_SEED = 112;       // u32, random: keys the hash
export const DIRECTORY_POLICY_EPOCH = 116;    // u32, stored atomically
export const DIRECTORY_VERDICTS = 120;        // per worker: a verdict ring
export const DIRECTORY_VERDICT_LIMIT = 124;   // records in it, a power of two
export const DIRECTORY_FRAGMENTS = 128;       // DIRECTORY_FRAGMENT_LIMIT entries
export const DIRECTORY_FRAGMENT_LIMIT = 132;
export const DIRECTORY_POLICY_ARENA = 136;    // blocks of rule sets and programs
export const DIRECTORY_POLICY_ARENA_SIZE = 140;
export const DIRECTORY_DENY_WITH_ICMP = 144;  // 1: denied packets are answered, 0: dropped silently
export const DIRECTORY_SENDS = 148;           // per worker: SEND_LIMIT records
export const DIRECTORY_PIECES = 152;          // per worker: PIECE_LIMIT places of PIECE_SIZE bytes
export const DIRECTORY_HEADERS = 156;         // per worker: HEADER_LIMIT blocks
export const DIRECTORY_POINTER_SIZE = 160;    // bytes of a pointer in this process: 4 or 8
export const DIRECTORY_SEGMENT_LIMIT = 164;   // datagrams the kernel cuts one send into; 1: none
export const DIRECTORY_BASE = 168;            // u64, where linear memory lies in the process
export const DIRECTORY_COALESCE = 176;        // bit set of COALESCE_*
export const DIRECTORY_SENDER_COUNT = 180;    // sending sockets of each family
export const DIRECTORY_SENDER_PORTS = 184;    // address: u16 each, [family][SENDER_LIMIT]
export const DIRECTORY_UNDERLAY_IPV4 = 188;   // 4 bytes: source of frames that we make whole
export const DIRECTORY_UNDERLAY_IPV6 = 192;   // 16 bytes, likewise
export const DIRECTORY_FLOW_KEYS = 208;       // 48 bytes: FLOW_KEYS in policy.ts is their address
export const DIRECTORY_FLOW_LOCK = 256;       // u32: the worker that has it + 1, or 0; atomic
export const DIRECTORY_FLOW_WAITERS = 260;    // u32, a bit for each worker that sleeps; atomic
export const DIRECTORY_TAKE_UNFINISHED = 264; // 1: peers may leave inner checksums unfinished
export const DIRECTORY_FRONT_LIMIT = 268;
export const DIRECTORY_FRONT_BUCKETS = 272;   // u32 address of each bucket's first front, or 0
export const DIRECTORY_FRONT_BUCKET_COUNT = 276; // a power of two
export const DIRECTORY_FRONT_COUNTS = 280;    // per worker: what each front has seen
export const DIRECTORY_FRONT_ARENA = 284;     // fronts with their backends
export const DIRECTORY_FRONT_ARENA_SIZE = 288;
export const DIRECTORY_SERVICE_EPOCH = 292;   // u32, one more with each change of Services; atomic
export const DIRECTORY_HAS_SERVICES = 296;    // 1 once there has been a front
export const DIRECTORY_KEPT = 300;            // address of the kept pages' header
export const DIRECTORY_MODULES = 304;         // address of the module list in force; atomic
export const DIRECTORY_MODULE_LISTS = 308;    // MODULE_LISTS of them, one beside the other
export const DIRECTORY_MODULE_COUNTS = 312;   // per worker: MODULE_PLACES records
export const DIRECTORY_WATCHES = 316;         // flows whose payload modules want to see
export const DIRECTORY_DROPPED = 320;         // per worker: a ring of packets it has dropped
export const DIRECTORY_CAPTURE = 324;         // bit set of CAPTURE_*: what somebody looks at
export const DIRECTORY_CAPTURE_LENGTH = 328;  // bytes of each packet that they want, at most
export const DIRECTORY_MSS_CLAMP = 332;       // 1: SYN segments name no more than tunnels take
export const DIRECTORY_SIZE = 336;
export const DIRECTORY_MAGIC = 0x54524c43;    // "CLRT"
export const COALESCE_TCP = 1;                // join TCP segments that come from peers
export const COALESCE_UDP = 2;                // join UDP datagrams, too
export const SENDER_LIMIT = 64;
export const CAPTURE_LOCAL = 1;               // packets of pods and of the node, at their devices
export const CAPTURE_UNDERLAY = 2;            // packets in tunnels
export const CAPTURE_DROPPED = 4;             // packets that are dropped, by the rings

// Ring of dropped packets, one per worker. It is written to only while CAPTURE_DROPPED is set; the
// worker's own thread reads it after each batch, so that it needs no atomics.
export const DROPPED_HEAD = 0;                // u32, records written so far; wraps
export const DROPPED_RECORDS = 64;
export const DROPPED_LIMIT = 512;             // a power of two
export const DROPPED_LENGTH = 0;              // u32 bytes of the packet
export const DROPPED_CAPTURED = 4;            // u16, bytes of it that are here
export const DROPPED_DEVICE = 6;              // u16, where it came from
export const DROPPED_PACKETS = 8;             // u16, packets that it stands for
export const DROPPED_REASON = 10;             // u8, REASON_*
export const DROPPED_DIRECTION = 11;          // u8, DIRECTION_*
export const DROPPED_BYTES = 16;              // its first bytes
export const DROPPED_BYTES_MAX = 240;
export const DROPPED_SIZE = 256;

// Worker blocks. Each worker writes only its own, so counters need no atomics.
export const WORKERS_START = 2048;
export const WORKER_LIMIT = 4;
export const WORKER_TURN = 0;                 // u32, odd while the worker is inside processBatch
export const WORKER_FLOWS = 4;                // u32, flows it opened less those it ended; may wrap
export const WORKER_FLOW_SWEEP = 8;           // u32, group of the flow table to sweep next
export const WORKER_SENDS = 12;               // u32, entries in use in its outbox, this turn
export const WORKER_PIECES = 16;              // u32, likewise
export const WORKER_HEADERS = 20;             // u32, likewise
export const WORKER_DROPS = 64;               // u64 packets, u64 bytes: [direction][reason]
export const WORKER_DROP_STRIDE = 16;
export const WORKER_DROP_REASONS = 64;        // room for REASON_COUNT to grow
export const WORKER_EVENTS = 2112;            // WORKER_DROPS + 2 * 64 * 16; u64 [event]
export const WORKER_EVENT_LIMIT = 64;
export const WORKER_CANDIDATE = 2688;         // a flow entry: what is looked up or made
export const WORKER_QUOTED = 2752;            // likewise, of the packet an ICMP error quotes
export const WORKER_RUN = 2816;               // 128 bytes: the run of packets being joined
export const WORKER_SESSION = 2944;           // a flow entry: the client's side of what is served
export const WORKER_AFFINITY = 3008;          // likewise, an affinity
export const WORKER_FLOW = 3072;              // u32 address of the flow of the packet in hand, or 0
export const WORKER_FRONT = 3076;             // u32 address of the front that it opens a flow of
export const WORKER_ENDS = 3080;              // ends it came with, where it was translated
// What the worker is doing, so that it can go on where a module's fault has led out of a batch.
export const WORKER_HAND = 3120;              // u32 address of the descriptor that is judged
export const WORKER_HAND_SOURCE = 3124;       // u16 next hop id of its source
export const WORKER_HAND_DESTINATION = 3126;  // u16
export const WORKER_AT = 3128;                // u32, slot
export const WORKER_AT_TRAIN = 3132;          // u32 address of the datagrams in it, 0: there is one
export const WORKER_AT_LENGTH = 3136;         // u32 bytes of them
export const WORKER_AT_DATAGRAM = 3140;       // u32, where the one in hand begins
export const WORKER_MODULE = 3144;            // u32, place of the module that runs + 1, or 0
export const WORKER_MODULE_SAID = 3148;       // u32 address of what modules have said so far
export const WORKER_MODULE_SHIFT = 3152;      // u16, bit of it where this one's verdict goes
export const WORKER_MODULE_FAILURE = 3154;    // u16, verdict where it does not come back
export const WORKER_PENDING = 3156;           // u32, modules that want payload, as in a watch
export const WORKER_SAID = 3160;              // u64 [entry or key][egress, ingress]: SAID_*
export const WORKER_MODULE_FLOW = 3200;       // 16 u32: a flow as modules are shown it
export const WORKER_STRIDE = 3264;
// Both ends of a packet, as they lie in its headers.
export const ENDS_PORTS = 0;                  // 4 bytes
export const ENDS_ADDRESSES = 8;              // 8 or 32 bytes

export const CONTROL_SCRATCH_START = 15104;   // WORKERS_START + WORKER_LIMIT * WORKER_STRIDE
export const CONTROL_SCRATCH_SIZE = 2048;
export const TABLES_START = 17152;

// Kept pages, up to the end of memory: a file may lie in their place, which the next process takes
// over. A process that finds another header than its own would be does not.
export const KEPT_GRANULE = 65536;            // the pages begin and end at a multiple of this
export const KEPT_MAGIC_FIELD = 0;            // u32, KEPT_MAGIC once the rest is written
export const KEPT_VERSION = 4;                // u32, ABI_VERSION
export const KEPT_WORKERS = 8;                // u32
export const KEPT_FLOWS = 12;                 // u32, DIRECTORY_FLOW_COUNT
export const KEPT_FLOW_SEED = 16;             // u32, DIRECTORY_FLOW_SEED
export const KEPT_SLOTS = 20;                 // u32, DIRECTORY_SLOT_COUNT
export const KEPT_HEADER_SIZE = 64;
export const KEPT_MAGIC = 0x4b524c43;         // "CLRK"
// Turn record, per worker: packets read and not written yet, as their devices gave them.
export const TURN_READ = 0;                   // u32, slots filled in this turn; 0 between turns
export const TURN_DONE = 4;                   // u32, those of them that are written
export const TURN_BEGUN = 8;                  // u32, 1: the core may have changed the packets
export const TURN_OFFER = 12;                 // u32, rooms that the kernel may have filled: device
export const TURN_OFFER_DEVICE_SHIFT = 16;    // index above, the slot behind the last one below
export const TURN_OFFER_END_MASK = 0xffff;
export const TURN_SLOTS = 16;                 // per slot, as in its descriptor:
export const TURN_SLOT_LENGTH = 0;            // u32
export const TURN_SLOT_SEGMENT_SIZE = 4;      // u32
export const TURN_SLOT_HEAD = 16;             // a copy of the packet's first bytes and those before
export const TURN_SLOT_HEAD_SIZE = 144;       // vnet header, and headers that the core writes to
export const TURN_SLOT_HEAD_BEFORE = 16;      // of them, before the packet
export const TURN_SLOT_STRIDE = 160;
// Behind those, per slot: what the kernel writes of a datagram, as ffi/message-vector.ts has it.
export const TURN_ARRIVAL_SIZE = 144;

// Packet slots. A packet lies anywhere in its slot; devices read to PACKET_HEADROOM.
export const PACKET_HEADROOM = 128;           // room for every header we prepend
export const PACKET_CAPACITY = 65600;         // 65,535 of IP, an Ethernet header, rounded up
export const SLOT_STRIDE = 65792;             // PACKET_HEADROOM + PACKET_CAPACITY + 64 of tailroom

// Descriptor of one slot. The host fills the first part, the core the second.
export const DESCRIPTOR_START = 0;            // u32 address of the packet's first byte; in and out
export const DESCRIPTOR_LENGTH = 4;           // u32 bytes; in and out
export const DESCRIPTOR_INPUT = 8;            // u16 device index
export const DESCRIPTOR_OUTPUT = 10;          // u16 device index, out
export const DESCRIPTOR_VERDICT = 12;         // u8, out
export const DESCRIPTOR_REASON = 13;          // u8, out
export const DESCRIPTOR_TRANSLATED = 14;      // u8, TRANSLATED_* of the packet in hand
export const DESCRIPTOR_ROOM = 15;            // u8, bytes before the packet that nothing else has
// Address of a joined packet's first piece, or 0. The place before it is free, for headers.
export const DESCRIPTOR_PIECES = 16;          // u32
export const DESCRIPTOR_HEAD = 20;            // u32 bytes that lie together from the start on
// In, of an underlay device: bytes of each datagram but the last of those the kernel joined
// (UDP_GRO), or 0. Then, of a super-packet: bytes of payload in each packet but the last, or 0.
export const DESCRIPTOR_SEGMENT_SIZE = 24;    // u16
export const DESCRIPTOR_GSO_TYPE = 26;        // u8, VNET_GSO_*
export const DESCRIPTOR_OFFLOAD_FLAGS = 27;   // u8, VNET_NEEDS_CHECKSUM
export const DESCRIPTOR_CHECKSUM_START = 28;  // u16, from the IP header on
export const DESCRIPTOR_CHECKSUM_OFFSET = 30; // u16, from there on
export const DESCRIPTOR_SOURCE = 32;          // the outer source, a remote; in, of underlay devices
export const DESCRIPTOR_SEGMENTS = 60;        // u16, packets that this one stands for
export const DESCRIPTOR_OUTER_TOS = 62;       // u8, in, of underlay devices
export const DESCRIPTOR_STRIDE = 64;
export const TRANSLATED_SERVED = 1;           // it came for a Service, and is for a backend now
export const TRANSLATED_REPLY = 2;            // it came from a backend, and is the Service's now

// Outbox: what the core wants written, in order, made anew by each processBatch(). One send is one
// packet to a local device, or up to DIRECTORY_SEGMENT_LIMIT datagrams to one peer.
export const SEND_PIECES = 0;                 // u32 address of its first piece
export const SEND_PIECE_COUNT = 4;            // u32
export const SEND_LENGTH = 8;                 // u32 bytes of all pieces
export const SEND_DEVICE = 12;                // u16
export const SEND_SEGMENT_SIZE = 14;          // u16, bytes of each datagram but the last; 0: one
export const SEND_PACKETS = 16;               // u16, packets in it
export const SEND_TOS = 18;                   // u8, of the outer header
export const SEND_FLAGS = 19;                 // u8
export const SEND_FLOW_HASH = 20;             // u32: equal for all packets of a flow
export const SEND_PEER = 24;                  // u32 address of the peer's record, 0 for a local one
export const SEND_REMOTE = 32;                // a copy: the peer's record may change before we send
export const SEND_STRIDE = 64;
export const SEND_FLAG_FRAME = 1;             // a whole frame behind a vnet header, for a TAP
export const SEND_FLAG_CLOSED = 2;            // takes no more datagrams
export const SEND_LIMIT = 2048;
// Piece: some bytes of a send, byte for byte what Linux calls struct iovec: address and length,
// each as wide as a pointer.
export const PIECE_SIZE = 16;                 // room for one; 8 in use where pointers have 4 bytes
export const PIECE_LIMIT = 4096;
// Header block: headers of one packet that was cut from a super-packet.
export const HEADER_STRIDE = 192;
export const HEADER_LIMIT = 2048;
export const SEGMENTS_MAX = 1024;             // packets that one slot may become
export const RUN_SEGMENTS_MAX = 127;          // packets that are joined to one
export const DATAGRAMS_BYTES_MAX = 65000;     // of one send: below 64 KiB with every outer header

// Remote: the address of an underlay socket's other end. Byte for byte what Linux calls
// sockaddr_in and sockaddr_in6, so that the kernel reads and writes it in place.
export const REMOTE_FAMILY = 0;               // u16
export const REMOTE_PORT = 2;                 // u16, network order
export const REMOTE_IPV4 = 4;                 // 4 bytes
export const REMOTE_IPV6 = 8;                 // 16 bytes, after the flow label
export const REMOTE_IPV4_SIZE = 16;
export const REMOTE_IPV6_SIZE = 28;
export const FAMILY_IPV4 = 2;                 // AF_INET
export const FAMILY_IPV6 = 10;                // AF_INET6

// Next hop: one u32, kind << 16 | index, so that one atomic store publishes it. Routes hold next
// hop ids. An id stays with its peer or endpoint; the record behind it may be replaced.
export const NEXT_HOP_STRIDE = 4;
export const NEXT_HOP_KIND_SHIFT = 16;
export const NEXT_HOP_INDEX_MASK = 0xffff;
export const NEXT_HOP_KIND_NONE = 0;          // unused id: no route
export const NEXT_HOP_KIND_PEER = 1;          // index: peer
export const NEXT_HOP_KIND_ENDPOINT = 2;      // index: device
export const NEXT_HOP_KIND_NODE = 3;          // an address of this node
export const NEXT_HOP_KIND_OUTSIDE = 4;       // beyond the cluster, by way of the node's own stack
export const NEXT_HOP_KIND_UNREACHABLE = 5;
export const NEXT_HOP_KIND_PROHIBIT = 6;
export const NEXT_HOP_KIND_BLACKHOLE = 7;
export const NEXT_HOP_KIND_SERVICE = 8;       // an address of a Service, which nobody has
// Ids that never change. Peers and endpoints get the ones from NEXT_HOP_FIRST_FREE on.
export const NEXT_HOP_NONE = 0;
export const NEXT_HOP_NODE = 3;
export const NEXT_HOP_OUTSIDE = 4;
export const NEXT_HOP_UNREACHABLE = 5;
export const NEXT_HOP_PROHIBIT = 6;
export const NEXT_HOP_BLACKHOLE = 7;
export const NEXT_HOP_SERVICE = 8;
export const NEXT_HOP_FIRST_FREE = 16;

// Statistics of one next hop on one worker. rx: packets that came from it, tx: packets sent to it.
export const STATISTICS_RX_PACKETS = 0;       // u64
export const STATISTICS_RX_BYTES = 8;
export const STATISTICS_TX_PACKETS = 16;
export const STATISTICS_TX_BYTES = 24;
export const STATISTICS_ICMP_TOKENS = 32;     // i32, milli-tokens of the ICMP error bucket
export const STATISTICS_ICMP_STAMP = 36;      // i32, nowMs of the last refill
export const STATISTICS_STRIDE = 64;

// Device. Index 0 is the node's own, the underlay's sockets are next, endpoints follow. What a
// datagram is, is what its device is for: a kind of tunnel, from one family of outer addresses.
export const DEVICE_NODE = 0;
export const DEVICE_UNDERLAY_IPV4 = 1;        // VXLAN
export const DEVICE_UNDERLAY_IPV6 = 2;
export const DEVICE_GENEVE_IPV4 = 3;
export const DEVICE_GENEVE_IPV6 = 4;
export const DEVICE_UDP_IPV4 = 5;
export const DEVICE_UDP_IPV6 = 6;
export const DEVICE_IPIP_IPV4 = 7;            // IPv4 in IPv4, RFC 2003
export const DEVICE_IPIP_IPV6 = 8;            // IPv4 in IPv6, RFC 2473
export const DEVICE_IP6IP_IPV4 = 9;           // IPv6 in IPv4, RFC 4213
export const DEVICE_IP6IP_IPV6 = 10;          // IPv6 in IPv6, RFC 2473
export const DEVICE_VXLAN_IPV4 = 11;          // VXLAN at a second port
export const DEVICE_VXLAN_IPV6 = 12;
export const DEVICE_FIRST_ENDPOINT = 16;
export const DEVICE_KIND = 0;                 // u8
export const DEVICE_VNET_SIZE = 1;            // u8, bytes of vnet header before each packet, or 0
export const DEVICE_NEXT_HOP = 2;             // u16, the id that routes to this device
export const DEVICE_MAC = 4;                  // 6 bytes, TAP: the other side, a pod's or the node's
export const DEVICE_GATEWAY_MAC = 10;         // 6 bytes, TAP: ours
export const DEVICE_INGRESS = 16;             // u32 address of a rule set, 0: allow; atomic
export const DEVICE_EGRESS = 20;              // u32, likewise
export const DEVICE_CLOSED = 24;              // u32, 1: no traffic until policy is known; atomic
export const DEVICE_TUNNEL = 28;              // u8, TUNNEL_*, of an underlay device
export const DEVICE_STRIDE = 32;
export const DEVICE_KIND_NONE = 0;
export const DEVICE_KIND_NODE = 1;            // TUN in the node's own namespace
export const DEVICE_KIND_TUN = 2;             // endpoint
export const DEVICE_KIND_TAP = 3;             // endpoint that wants Ethernet
export const DEVICE_KIND_UNDERLAY = 4;        // sockets, datagrams of one kind of tunnel

// Peer: one tunnel to one remote node. Read-only once published, but for PEER_PREVIOUS; a change is
// a new record.
export const PEER_TUNNEL = 0;                 // u8, TUNNEL_*
export const PEER_HEADER_LENGTH = 1;          // u8, bytes of PEER_HEADER in use: 22, 8 or none
export const PEER_DEVICE = 2;                 // u16, the device to send IPv4 packets by
export const PEER_MTU = 4;                    // u32, largest inner packet
export const PEER_NEXT_HOP = 8;               // u16, its own id
export const PEER_DEVICE_IPV6 = 10;           // u16, likewise for IPv6 packets
export const PEER_VNI = 12;                   // u32
export const PEER_REMOTE = 16;                // remote, REMOTE_IPV6_SIZE bytes of room
export const PEER_HEADER = 48;                // ready-made headers of the tunnel
export const PEER_HEADER_SIZE = 22;           // the longest: VXLAN or Geneve, and Ethernet
// u32 address of the record that it had as another kind of tunnel, as long as packets of that one
// are taken, too; 0 for none. Atomic.
export const PEER_PREVIOUS = 72;
export const PEER_STRIDE = 80;
export const TUNNEL_NONE = 0;
export const TUNNEL_VXLAN = 1;
export const TUNNEL_GENEVE = 2;
export const TUNNEL_IPIP = 3;                 // IP in IP, of any two families
export const TUNNEL_UDP = 4;                  // IP in UDP, as flannel's backend of that name
export const TUNNEL_DIRECT = 5;               // none: the peer is on our link
