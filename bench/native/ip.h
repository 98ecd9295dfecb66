// IPv4 and IPv6 packets as the core's walk reads them: wasm/wire/ in C. Multi-byte fields lie in
// network order. What the checks promise and which paragraph asks for it is said there.

#pragma once

#include "core.h"

/** Where the transport header is, and what kind of packet has it, in one word as in
 * wasm/wire/transport.ts: protocol, offset << 8, and these. */
typedef uint32_t transport;

#define FRAGMENT (1u << 24)
#define LATER_FRAGMENT (1u << 25)
#define SOURCE_ROUTE (1u << 26)
#define BROKEN (1u << 27)

static inline uint8_t transport_protocol(transport found)
{
    return (uint8_t)found;
}

static inline uint32_t transport_offset(transport found)
{
    return found >> 8 & 0xffff;
}

static inline bool is_ipv4(const uint8_t *packet)
{
    return packet[0] >> 4 == 4;
}

static inline uint32_t ipv4_source(const uint8_t *header)
{
    return __builtin_bswap32(load32(header + IPV4_SOURCE));
}

static inline uint32_t ipv4_destination(const uint8_t *header)
{
    return __builtin_bswap32(load32(header + IPV4_DESTINATION));
}

static inline uint32_t ipv4_total_length(const uint8_t *header)
{
    return __builtin_bswap16(load16(header + IPV4_TOTAL_LENGTH));
}

static inline uint32_t ipv4_header_length(const uint8_t *header)
{
    return (header[IPV4_VERSION_IHL] & 0x0fu) << 2;
}

static inline uint16_t ipv4_flags_offset(const uint8_t *header)
{
    return __builtin_bswap16(load16(header + IPV4_FLAGS_OFFSET));
}

static inline uint16_t ipv4_header_checksum(const uint8_t *header, uint32_t length)
{
    uint64_t sum = 0;
    for (uint32_t at = 0; at < length; at += 4)
        sum += load32(header + at);
    uint32_t half = (uint32_t)((sum + rotate_left(sum, 32)) >> 32);
    return (uint16_t)~((half + (half << 16 | half >> 16)) >> 16);
}

static inline bool ipv4_has_source_route(const uint8_t *header, uint32_t length)
{
    for (uint32_t at = IPV4_HEADER_SIZE; at < length;) {
        uint8_t option = header[at];
        if (option == IPV4_OPTION_LSRR || option == IPV4_OPTION_SSRR)
            return true;
        if (option == IPV4_OPTION_END)
            return false;
        if (option == IPV4_OPTION_NOP) {
            at++;
            continue;
        }
        if (at + 1 >= length || header[at + 1] < 2)
            return false;
        at += header[at + 1];
    }
    return false;
}

static inline bool ipv4_is_group(uint32_t address)
{
    return address >> 28 == 14 || address == 0xffffffff;
}

static inline bool ipv4_is_this_host(uint32_t address)
{
    return address >> 24 == 0 || address >> 24 == 127;
}

static inline int check_ipv4(const uint8_t *header, uint32_t length)
{
    if (length < IPV4_HEADER_SIZE)
        return REASON_TOO_SHORT;
    uint32_t header_length = ipv4_header_length(header);
    uint32_t total = ipv4_total_length(header);
    if (header_length < IPV4_HEADER_SIZE || header_length > total)
        return REASON_HEADER_LENGTH;
    if (total > length)
        return REASON_TOO_SHORT;
    if (ipv4_header_checksum(header, header_length) != 0)
        return REASON_HEADER_CHECKSUM;
    if (header_length > IPV4_HEADER_SIZE && ipv4_has_source_route(header, header_length))
        return REASON_SOURCE_ROUTE;
    uint32_t source = ipv4_source(header);
    uint32_t destination = ipv4_destination(header);
    if (ipv4_is_group(destination))
        return REASON_MULTICAST;
    if (ipv4_is_group(source) || ipv4_is_this_host(source))
        return REASON_MARTIAN_SOURCE;
    return ipv4_is_this_host(destination) ? REASON_MARTIAN_DESTINATION : REASON_NONE;
}

static inline transport ipv4_transport(const uint8_t *header)
{
    uint16_t field = ipv4_flags_offset(header);
    transport found = header[IPV4_PROTOCOL] | ipv4_header_length(header) << 8;
    if ((field & (IPV4_FLAG_MF | IPV4_OFFSET_MASK)) != 0)
        found |= FRAGMENT;
    if ((field & IPV4_OFFSET_MASK) != 0)
        found |= LATER_FRAGMENT;
    return found;
}

/** Takes one off the TTL and updates the checksum, RFC 1624. The TTL is the lower byte of its word,
 * and above 0. */
static inline void ipv4_decrement_ttl(uint8_t *header)
{
    uint16_t before = load16(header + IPV4_TTL);
    uint16_t after = before - 1;
    uint16_t checksum = load16(header + IPV4_CHECKSUM);
    uint32_t sum = (uint32_t)(uint16_t)~checksum + (uint16_t)~before + after;
    store16(header + IPV4_TTL, after);
    store16(header + IPV4_CHECKSUM, (uint16_t)~((sum + (sum << 16 | sum >> 16)) >> 16));
}

static inline uint32_t ipv6_total_length(const uint8_t *header)
{
    return IPV6_HEADER_SIZE + __builtin_bswap16(load16(header + IPV6_PAYLOAD_LENGTH));
}

static inline bool ipv6_is_extension(uint8_t protocol)
{
    return protocol == PROTOCOL_HOP_BY_HOP || protocol == PROTOCOL_ROUTING
        || protocol == PROTOCOL_FRAGMENT || protocol == PROTOCOL_DESTINATION_OPTIONS
        || protocol == PROTOCOL_AUTHENTICATION;
}

static inline uint32_t ipv6_extension_size(const uint8_t *extension, uint8_t protocol)
{
    if (protocol == PROTOCOL_FRAGMENT)
        return IPV6_FRAGMENT_SIZE;
    if (protocol == PROTOCOL_AUTHENTICATION)
        return (extension[1] + 2u) << 2;
    return (extension[1] + 1u) << 3;
}

static inline uint32_t ipv6_fragment_flags(const uint8_t *extension)
{
    uint16_t field = __builtin_bswap16(load16(extension + IPV6_FRAGMENT_OFFSET));
    if ((field & 0xfff8) != 0)
        return FRAGMENT | LATER_FRAGMENT;
    return (field & 1) != 0 ? FRAGMENT : 0;
}

static inline transport ipv6_transport(const uint8_t *header)
{
    uint32_t total = ipv6_total_length(header);
    uint32_t offset = IPV6_HEADER_SIZE;
    uint32_t flags = 0;
    uint8_t protocol = header[IPV6_NEXT_HEADER];
    for (int walked = 0; walked <= IPV6_EXTENSION_LIMIT; walked++) {
        if (!ipv6_is_extension(protocol))
            return protocol | offset << 8 | flags;
        if (walked == IPV6_EXTENSION_LIMIT || offset + IPV6_FRAGMENT_SIZE > total)
            break;
        const uint8_t *extension = header + offset;
        if (protocol == PROTOCOL_FRAGMENT)
            flags |= ipv6_fragment_flags(extension);
        if (protocol == PROTOCOL_ROUTING && extension[IPV6_ROUTING_TYPE] == 0)
            flags |= SOURCE_ROUTE;
        offset += ipv6_extension_size(extension, protocol);
        protocol = extension[0];
        if (offset > total)
            break;
        if ((flags & LATER_FRAGMENT) != 0)
            return protocol | offset << 8 | flags;
    }
    return protocol | IPV6_HEADER_SIZE << 8 | flags | BROKEN;
}

static inline bool ipv6_is_this_host(uint64_t high, uint64_t low)
{
    return high == 0 && (low <= 1 || low >> 32 == 0xffff);
}

static inline bool ipv6_is_link_local(uint64_t high)
{
    return high >> 54 == 0x3fa;
}

static inline int check_ipv6(const uint8_t *header, uint32_t length)
{
    if (length < IPV6_HEADER_SIZE || ipv6_total_length(header) > length)
        return REASON_TOO_SHORT;
    if ((ipv6_transport(header) & SOURCE_ROUTE) != 0)
        return REASON_SOURCE_ROUTE;
    uint64_t source = __builtin_bswap64(load64(header + IPV6_SOURCE));
    uint64_t source_low = __builtin_bswap64(load64(header + IPV6_SOURCE + 8));
    uint64_t destination = __builtin_bswap64(load64(header + IPV6_DESTINATION));
    uint64_t destination_low = __builtin_bswap64(load64(header + IPV6_DESTINATION + 8));
    if (destination >> 56 == 0xff)
        return REASON_MULTICAST;
    if (source >> 56 == 0xff || ipv6_is_this_host(source, source_low))
        return REASON_MARTIAN_SOURCE;
    if (ipv6_is_this_host(destination, destination_low))
        return REASON_MARTIAN_DESTINATION;
    bool link_local = ipv6_is_link_local(source) || ipv6_is_link_local(destination);
    return link_local ? REASON_LINK_LOCAL : REASON_NONE;
}

static inline int check_ip(const uint8_t *packet, uint32_t length)
{
    if (length < 1)
        return REASON_TOO_SHORT;
    if (is_ipv4(packet))
        return check_ipv4(packet, length);
    return packet[0] >> 4 == 6 ? check_ipv6(packet, length) : REASON_IP_VERSION;
}

static inline uint32_t ip_total_length(const uint8_t *packet, bool ipv4)
{
    return ipv4 ? ipv4_total_length(packet) : ipv6_total_length(packet);
}

static inline bool has_ports(uint8_t protocol)
{
    return protocol == PROTOCOL_TCP || protocol == PROTOCOL_UDP || protocol == PROTOCOL_SCTP;
}

/** Both ports as they lie in the header, 0 where there are none. */
static inline uint32_t transport_ports(const uint8_t *packet, transport found, uint32_t total)
{
    uint32_t offset = transport_offset(found);
    if ((found & (FRAGMENT | LATER_FRAGMENT | BROKEN)) != 0)
        return 0;
    if (!has_ports(transport_protocol(found)) || offset + TRANSPORT_PORTS_SIZE > total)
        return 0;
    return load32(packet + offset);
}

static inline uint64_t mix(uint64_t hash, uint64_t word)
{
    uint64_t product = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return product ^ product >> 29;
}

/** A hash equal for all packets of a flow: outer source ports and sending sockets follow it. */
static inline uint32_t packet_hash(const uint8_t *packet, bool ipv4, transport found,
                                   uint32_t total)
{
    uint64_t ports = transport_ports(packet, found, total);
    uint64_t mixed = ports << 8 | ((found & FRAGMENT) != 0 ? 0 : transport_protocol(found));
    if (ipv4) {
        uint64_t addresses = (uint64_t)ipv4_source(packet) << 32 | ipv4_destination(packet);
        mixed = mix(mix(0, mixed), addresses);
    } else {
        mixed = mix(mixed, load64(packet + IPV6_SOURCE));
        mixed = mix(mixed, load64(packet + IPV6_SOURCE + 8));
        mixed = mix(mixed, load64(packet + IPV6_DESTINATION));
        mixed = mix(mixed, load64(packet + IPV6_DESTINATION + 8));
    }
    return (uint32_t)(mixed >> 32);
}
