// What the core decided about a packet, and why. Reasons are counter indexes: append, do not
// reorder.

// Verdict of a descriptor, u8.
export const VERDICT_DROP = 0;
export const VERDICT_SEND = 1;        // give the slot's packet to DESCRIPTOR_OUTPUT

// Reason of a drop, u8. With VERDICT_SEND, the packet of the slot is an answer that the core made
// (an ICMP error) and the reason says why the packet that was there is gone.
export const REASON_NONE = 0;
export const REASON_TOO_SHORT = 1;            // shorter than its headers say
export const REASON_IP_VERSION = 2;           // neither 4 nor 6, or not what the EtherType says
export const REASON_HEADER_LENGTH = 3;        // RFC 791 section 3.1: IHL below 5 or too large
export const REASON_HEADER_CHECKSUM = 4;      // RFC 1812 section 5.2.2
export const REASON_SOURCE_ROUTE = 5;         // RFC 7126 sections 4.3 and 4.4, RFC 5095
export const REASON_MARTIAN_SOURCE = 6;       // RFC 1812 section 5.3.7, RFC 4291 section 2.5
export const REASON_MARTIAN_DESTINATION = 7;
export const REASON_MULTICAST = 8;            // multicast and broadcast are not forwarded
export const REASON_LINK_LOCAL = 9;           // IPv6, RFC 4291 section 2.5.6
export const REASON_SPOOFED_SOURCE = 10;      // a local device sent from an address not its own
export const REASON_NO_ROUTE = 11;
export const REASON_PROHIBITED = 12;          // a prohibit route
export const REASON_BLACKHOLE = 13;           // a blackhole route
export const REASON_HOP_LIMIT = 14;           // TTL or hop limit used up
export const REASON_TOO_BIG = 15;             // larger than the path's MTU and not to be fragmented
export const REASON_UNKNOWN_PEER = 16;        // outer source address is no peer's
export const REASON_TUNNEL_HEADER = 17;       // flags or reserved bits are not what we speak
export const REASON_WRONG_VNI = 18;
export const REASON_WRONG_MAC = 19;           // Ethernet destination is not ours
export const REASON_OWN_MAC = 20;             // Ethernet source is our own
export const REASON_ETHER_TYPE = 21;          // neither IPv4 nor IPv6 (nor ARP from a TAP)
export const REASON_FOREIGN_SOURCE = 22;      // inner source does not belong to the peer
export const REASON_NOT_LOCAL = 23;           // from a peer, for an address not on this node
export const REASON_NEIGHBOUR = 24;           // ARP or neighbour discovery that gets no answer
export const REASON_DEVICE_UNKNOWN = 25;      // came from, or is bound for, a device not attached
// Below: drops that the host counts, at the devices.
export const REASON_DEVICE_FULL = 26;         // the device's queue took no more: EAGAIN, ENOBUFS
export const REASON_DEVICE_ERROR = 27;        // any other error of a write or send
export const REASON_FAULT = 28;               // the fault device's doing
export const REASON_POLICY_EGRESS = 29;       // denied by the source pod's egress rule set
export const REASON_POLICY_INGRESS = 30;      // denied by the destination pod's ingress rule set
export const REASON_POLICY_PENDING = 31;      // a pod whose policy is not known yet
export const REASON_FLOW_TABLE_FULL = 32;     // no room for a new flow; known ones live on
export const REASON_FRAGMENT_UNKNOWN = 33;    // a fragment whose first was not seen
export const REASON_FRAGMENT_TABLE_FULL = 34;
export const REASON_OFFLOAD = 35;             // vnet header is not what the packet's headers say
export const REASON_CONGESTION = 36;          // RFC 6040 section 4.2: CE for a packet without ECN
export const REASON_SERVICE_PORT = 37;        // nothing is served at this port of a Service
export const REASON_SERVICE_PROTOCOL = 38;    // what Services do not serve: ICMP, SCTP in fragments
export const REASON_SERVICE_EMPTY = 39;       // the Service has no backend
export const REASON_SERVICE_SILENT = 40;      // likewise, and is not to say so
export const REASON_SERVICE_GONE = 41;        // the flow's backend has left: TCP is reset
export const REASON_SERVICE_CONFLICT = 42;    // another flow has the same two ends and ports
export const REASON_SERVICE_PEER = 43;        // from a peer, for a Service's address
export const REASON_SERVICE_SESSION = 44;     // a reply whose session was given up
export const REASON_MODULE_EGRESS = 45;       // denied by a module, for the source pod
export const REASON_MODULE_INGRESS = 46;      // denied by a module, for the destination pod
export const REASON_MODULE_REJECTED = 47;     // likewise for either, and the sender is told
export const REASON_WRONG_TUNNEL = 48;        // of another kind of tunnel than the peer's
export const REASON_TUNNEL_OPTION = 49;       // Geneve: an option that must be understood
export const REASON_COUNT = 50;

// Directions, for counters: outbound is from a local device, inbound from a peer.
export const DIRECTION_OUTBOUND = 0;
export const DIRECTION_INBOUND = 1;
export const DIRECTION_COUNT = 2;

// Events, for counters: what the core did beside forwarding and dropping.
export const EVENT_ICMP_SENT = 0;             // ICMP and ICMPv6 errors made
export const EVENT_ICMP_SUPPRESSED = 1;       // not made: rate limit, or RFC 1812 section 4.3.2.7
export const EVENT_NEIGHBOUR_ANSWERED = 2;    // ARP replies and neighbour advertisements made
export const EVENT_OUTER_FRAGMENTED = 3;      // above the path's MTU, DF clear
export const EVENT_SEGMENTED = 4;             // super-packets cut into packets
export const EVENT_COALESCED = 5;             // super-packets joined from packets
export const EVENT_UNFINISHED = 6;            // packets of peers with an unfinished checksum, taken
export const EVENT_SERVED = 7;                // flows given to a backend of a Service
export const EVENT_RESET_SENT = 8;            // TCP resets made for backends that have left
// Judgements, as records of the verdict ring: by direction, outcome, and whether a module decided.
// Denied is one more than allowed, ingress two more than egress, modules four more than policy.
export const EVENT_EGRESS_ALLOWED = 9;
export const EVENT_EGRESS_DENIED = 10;
export const EVENT_INGRESS_ALLOWED = 11;
export const EVENT_INGRESS_DENIED = 12;
export const EVENT_MODULE_EGRESS_ALLOWED = 13;
export const EVENT_MODULE_EGRESS_DENIED = 14;
export const EVENT_MODULE_INGRESS_ALLOWED = 15;
export const EVENT_MODULE_INGRESS_DENIED = 16;
export const EVENT_MSS_CLAMPED = 17;          // SYN segments that named more than a tunnel takes
export const EVENT_COUNT = 18;
