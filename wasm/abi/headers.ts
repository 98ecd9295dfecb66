// Bytes on the wire. Byte offsets from each header's first byte; fields are big-endian.

// Ethernet II, IEEE 802.3 clause 3.
export const ETHERNET_DESTINATION = 0;        // 6 bytes
export const ETHERNET_SOURCE = 6;             // 6 bytes
export const ETHERNET_TYPE = 12;              // u16
export const ETHERNET_HEADER_SIZE = 14;
export const ETHER_TYPE_IPV4 = 0x0800;
export const ETHER_TYPE_ARP = 0x0806;
export const ETHER_TYPE_IPV6 = 0x86dd;

// ARP for IPv4 over Ethernet, RFC 826.
export const ARP_HARDWARE_TYPE = 0;           // u16
export const ARP_PROTOCOL_TYPE = 2;           // u16
export const ARP_HARDWARE_SIZE = 4;           // u8
export const ARP_PROTOCOL_SIZE = 5;           // u8
export const ARP_OPERATION = 6;               // u16
export const ARP_SENDER_MAC = 8;
export const ARP_SENDER_IPV4 = 14;
export const ARP_TARGET_MAC = 18;
export const ARP_TARGET_IPV4 = 24;
export const ARP_SIZE = 28;
export const ARP_HARDWARE_ETHERNET = 1;
export const ARP_OPERATION_REQUEST = 1;
export const ARP_OPERATION_REPLY = 2;

// IPv4, RFC 791 section 3.1.
export const IPV4_VERSION_IHL = 0;            // u4 version, u4 header length in 32-bit words
export const IPV4_TOS = 1;                    // u8, DSCP and ECN (RFC 2474, RFC 3168)
export const IPV4_TOTAL_LENGTH = 2;           // u16
export const IPV4_IDENTIFICATION = 4;         // u16
export const IPV4_FLAGS_OFFSET = 6;           // u3 flags, u13 fragment offset in units of 8 bytes
export const IPV4_TTL = 8;                    // u8
export const IPV4_PROTOCOL = 9;               // u8
export const IPV4_CHECKSUM = 10;              // u16
export const IPV4_SOURCE = 12;
export const IPV4_DESTINATION = 16;
export const IPV4_HEADER_SIZE = 20;           // without options
export const IPV4_ADDRESS_SIZE = 4;
export const IPV4_FLAG_DF = 0x4000;
export const IPV4_FLAG_MF = 0x2000;
export const IPV4_OFFSET_MASK = 0x1fff;
export const ECN_MASK = 3;                    // of TOS and traffic class, RFC 3168 section 5
export const ECN_NOT_ECT = 0;                 // the transport does not take part
export const ECN_ECT_1 = 1;                   // it does: ECT(1), ECT(0)
export const ECN_ECT_0 = 2;
export const ECN_CE = 3;                      // congestion experienced
export const IPV4_OPTION_END = 0;
export const IPV4_OPTION_NOP = 1;
export const IPV4_OPTION_LSRR = 131;          // loose source and record route
export const IPV4_OPTION_SSRR = 137;          // strict source and record route

// IPv6, RFC 8200 section 3, and its extension headers, section 4.
export const IPV6_VERSION_CLASS = 0;          // u4 version, u8 traffic class, u20 flow label
export const IPV6_PAYLOAD_LENGTH = 4;         // u16, without this header
export const IPV6_NEXT_HEADER = 6;            // u8
export const IPV6_HOP_LIMIT = 7;              // u8
export const IPV6_SOURCE = 8;
export const IPV6_DESTINATION = 24;
export const IPV6_HEADER_SIZE = 40;
export const IPV6_ADDRESS_SIZE = 16;
export const IPV6_MINIMUM_MTU = 1280;         // RFC 8200 section 5
export const IPV6_EXTENSION_LIMIT = 8;        // extension headers we walk past
export const IPV6_FRAGMENT_SIZE = 8;          // section 4.5
export const IPV6_FRAGMENT_OFFSET = 2;        // u13 offset, u2 reserved, u1 more fragments
export const IPV6_FRAGMENT_ID = 4;            // u32
export const IPV6_ROUTING_TYPE = 2;           // u8, section 4.4

// Protocol numbers and next headers, IANA.
export const PROTOCOL_HOP_BY_HOP = 0;
export const PROTOCOL_ICMP = 1;
export const PROTOCOL_IPV4 = 4;               // IPv4 encapsulation, RFC 2003
export const PROTOCOL_TCP = 6;
export const PROTOCOL_UDP = 17;
export const PROTOCOL_IPV6 = 41;              // IPv6 encapsulation, RFC 2473
export const PROTOCOL_ROUTING = 43;
export const PROTOCOL_FRAGMENT = 44;
export const PROTOCOL_AUTHENTICATION = 51;
export const PROTOCOL_ICMPV6 = 58;
export const PROTOCOL_NONE = 59;
export const PROTOCOL_DESTINATION_OPTIONS = 60;
export const PROTOCOL_SCTP = 132;

// TCP, RFC 9293 section 3.1; UDP, RFC 768; SCTP, RFC 9260 section 3.1: ports lie alike in all.
export const TRANSPORT_SOURCE_PORT = 0;       // u16
export const TRANSPORT_DESTINATION_PORT = 2;  // u16
export const TRANSPORT_PORTS_SIZE = 4;
export const TCP_SEQUENCE = 4;                // u32
export const TCP_ACKNOWLEDGMENT = 8;          // u32
export const TCP_DATA_OFFSET = 12;            // u4 header length in 32-bit words, then u4 reserved
export const TCP_FLAGS = 13;                  // u8
export const TCP_FLAG_FIN = 0x01;
export const TCP_FLAG_SYN = 0x02;
export const TCP_FLAG_RST = 0x04;
export const TCP_FLAG_PSH = 0x08;
export const TCP_FLAG_ACK = 0x10;
export const TCP_FLAG_URG = 0x20;
export const TCP_FLAG_ECE = 0x40;
export const TCP_FLAG_CWR = 0x80;             // RFC 3168 section 6.1
export const TCP_WINDOW = 14;                 // u16
export const TCP_CHECKSUM = 16;               // u16
export const TCP_URGENT = 18;                 // u16
export const TCP_HEADER_SIZE = 20;            // without options
export const TCP_FRAGMENT_MINIMUM = 16;       // RFC 1858 section 3.1
export const TCP_OPTION_END = 0;              // RFC 9293 section 3.2
export const TCP_OPTION_NOP = 1;
export const TCP_OPTION_MSS = 2;
export const TCP_OPTION_MSS_SIZE = 4;
export const SCTP_CHECKSUM = 8;               // u32, little-endian: RFC 9260 appendix A
export const SCTP_HEADER_SIZE = 12;
export const SCTP_CHUNK_TYPE = 12;            // u8, of the first chunk, RFC 9260 section 3.2
export const SCTP_CHUNK_INIT = 1;
export const UDP_LENGTH = 4;                  // u16
export const UDP_CHECKSUM = 6;                // u16
export const UDP_HEADER_SIZE = 8;

// ICMP, RFC 792, RFC 1191; ICMPv6, RFC 4443.
export const ICMP_TYPE = 0;                   // u8
export const ICMP_CODE = 1;                   // u8
export const ICMP_CHECKSUM = 2;               // u16
export const ICMP_UNUSED = 4;                 // u32: zero, or as the type says
export const ICMP_IDENTIFIER = 4;             // u16, of queries and their replies
export const ICMP_NEXT_HOP_MTU = 6;           // u16, RFC 1191 section 4
export const ICMP_HEADER_SIZE = 8;
export const ICMP_ECHO_REPLY = 0;
export const ICMP_UNREACHABLE = 3;
export const ICMP_REDIRECT = 5;
export const ICMP_ECHO_REQUEST = 8;
export const ICMP_TIME_EXCEEDED = 11;
export const ICMP_PARAMETER_PROBLEM = 12;
export const ICMP_TIMESTAMP = 13;
export const ICMP_INFORMATION = 15;
export const ICMP_ADDRESS_MASK = 17;
export const ICMP_ADDRESS_MASK_REPLY = 18;
export const ICMP_CODE_NET = 0;
export const ICMP_CODE_HOST = 1;
export const ICMP_CODE_PORT = 3;
export const ICMP_CODE_FRAGMENTATION_NEEDED = 4;
export const ICMP_CODE_PROHIBITED = 13;       // RFC 1812 section 5.2.7.1
export const ICMP_QUOTE_LIMIT = 548;          // RFC 1812 section 4.3.2.3: 576 bytes in all
export const ICMPV6_UNREACHABLE = 1;
export const ICMPV6_PACKET_TOO_BIG = 2;
export const ICMPV6_TIME_EXCEEDED = 3;
export const ICMPV6_INFORMATIONAL = 128;      // types from here on are no errors
export const ICMPV6_ECHO_REQUEST = 128;
export const ICMPV6_ECHO_REPLY = 129;
export const ICMPV6_MTU = 4;                  // u32
export const ICMPV6_CODE_NO_ROUTE = 0;
export const ICMPV6_CODE_PROHIBITED = 1;
export const ICMPV6_CODE_ADDRESS = 3;
export const ICMPV6_CODE_PORT = 4;
export const ICMPV6_QUOTE_LIMIT = 1232;       // RFC 4443 section 2.4(c): 1,280 bytes in all

// Neighbour discovery, RFC 4861 sections 4.3 and 4.4.
export const ND_SOLICITATION = 135;
export const ND_ADVERTISEMENT = 136;
export const ND_REDIRECT = 137;
export const ND_FLAGS = 4;                    // u8: router, solicited, override
export const ND_TARGET = 8;
export const ND_SIZE = 24;
export const ND_FLAGS_ANSWER = 0xe0;
export const ND_OPTION_TARGET_MAC = 2;        // option type; length 1 unit of 8 bytes
export const ND_OPTION_SIZE = 8;
export const ND_HOP_LIMIT = 255;

// VXLAN, RFC 7348 section 5.
export const VXLAN_FLAGS = 0;                 // u8, then 24 reserved bits
export const VXLAN_VNI = 4;                   // u24, then 8 reserved bits
export const VXLAN_HEADER_SIZE = 8;
export const VXLAN_FLAG_VNI = 0x08;
export const VXLAN_OVERHEAD_IPV4 = 50;        // outer IPv4, UDP, VXLAN, Ethernet
export const VXLAN_OVERHEAD_IPV6 = 70;

// Geneve, RFC 8926 section 3.4, and its options, section 3.5.
export const GENEVE_VERSION_LENGTH = 0;       // u2 version, u6 length of the options in 4 bytes
export const GENEVE_FLAGS = 1;                // u8, the lower six bits reserved
export const GENEVE_PROTOCOL = 2;             // u16, an EtherType
export const GENEVE_VNI = 4;                  // u24, then 8 reserved bits
export const GENEVE_HEADER_SIZE = 8;          // without options
export const GENEVE_LENGTH_MASK = 0x3f;
export const GENEVE_FLAG_CONTROL = 0x80;      // not for a pod: a message between tunnel ends
export const GENEVE_FLAG_CRITICAL = 0x40;     // has options that must be understood
export const GENEVE_PORT = 6081;
export const ETHER_TYPE_ETHERNET = 0x6558;    // transparent Ethernet bridging
export const GENEVE_OVERHEAD_IPV4 = 36;       // outer IPv4, UDP, Geneve; with Ethernet 14 more
export const GENEVE_OVERHEAD_IPV6 = 56;

// What the other tunnels put in front: IP, and UDP where it is that.
export const UDP_OVERHEAD_IPV4 = 28;
export const UDP_OVERHEAD_IPV6 = 48;
export const IPIP_OVERHEAD_IPV4 = 20;
export const IPIP_OVERHEAD_IPV6 = 40;

// struct virtio_net_hdr, virtio 1.2 section 5.1.6 and linux/virtio_net.h, in front of what is read
// from and written to a TUN or TAP with IFF_VNET_HDR. Fields are in the machine's byte order.
export const VNET_FLAGS = 0;                  // u8
export const VNET_GSO_TYPE = 1;               // u8
export const VNET_HEADER_LENGTH = 2;          // u16, of all headers; the kernel's may be wrong
export const VNET_GSO_SIZE = 4;               // u16, payload of each packet
export const VNET_CHECKSUM_START = 6;         // u16
export const VNET_CHECKSUM_OFFSET = 8;        // u16, from there on
export const VNET_HEADER_SIZE = 10;
export const VNET_OUTER_TRANSPORT = 20;       // u16, offset of the outer UDP header
export const VNET_INNER_NETWORK = 22;         // u16, offset of the inner IP header
export const VNET_TUNNEL_HEADER_SIZE = 24;
export const VNET_NEEDS_CHECKSUM = 1;
export const VNET_TUNNEL_CHECKSUM = 8;        // outer UDP has a checksum
export const VNET_GSO_NONE = 0;
export const VNET_GSO_TCPV4 = 1;
export const VNET_GSO_TCPV6 = 4;
export const VNET_GSO_UDP_L4 = 5;
export const VNET_GSO_UDP_TUNNEL_IPV4 = 0x20;
export const VNET_GSO_UDP_TUNNEL_IPV6 = 0x40;
export const VNET_GSO_ECN = 0x80;
