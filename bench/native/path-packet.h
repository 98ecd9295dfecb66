// What the native twin of the data path knows of packets: the parts of an IP packet, Internet
// checksums (RFC 1071), how a super-packet is cut, and which packets may become one again.

#pragma once

#include <arpa/inet.h>
#include <linux/virtio_net.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

// linux/virtio_net.h of older systems lacks them; virtio 1.4 section 5.1.6.
#define GSO_UDP_L4 5
#define GSO_UDP_TUNNEL_IPV4 0x20
#define UDP_TUNNEL_CSUM 8

#define FLAG_FIN 0x01
#define FLAG_PSH 0x08
#define FLAG_ACK 0x10
#define FLAG_CWR 0x80
#define TCP_FLAGS_AT 13
#define PACKET_LIMIT 65535

/** An IP packet with whole headers. `transport` and `payload` are offsets from its start. */
typedef struct {
  uint8_t *start;
  int length;
  int transport;
  int payload;
  uint8_t protocol;
  bool isIpv4;
} Packet;

static inline struct iphdr *ipv4(const Packet *packet) { return (struct iphdr *)packet->start; }
static inline struct ip6_hdr *ipv6(const Packet *packet) {
  return (struct ip6_hdr *)packet->start;
}
static inline struct tcphdr *tcp(const Packet *packet) {
  return (struct tcphdr *)(packet->start + packet->transport);
}
static inline struct udphdr *udp(const Packet *packet) {
  return (struct udphdr *)(packet->start + packet->transport);
}
static inline uint8_t *tcpFlags(const Packet *packet) {
  return packet->start + packet->transport + TCP_FLAGS_AT;
}

/** Adds bytes to a sum of 16-bit words, in the machine's byte order. */
static inline uint64_t addBytes(uint64_t sum, const void *bytes, int length) {
  const uint8_t *at = bytes;
  int words = length / 4;
  for (int index = 0; index < words; index += 1) {
    uint32_t word;
    memcpy(&word, at + (4 * index), 4);
    sum += word;
  }
  uint32_t rest = 0;
  memcpy(&rest, at + (4 * words), (size_t)(length & 3));
  return sum + rest;
}

static inline uint16_t foldSum(uint64_t sum) {
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffffffff) + (sum >> 32);
  sum = (sum & 0xffff) + (sum >> 16);
  sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)sum;
}

/** Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) but for the length. */
static inline uint64_t addressSum(const Packet *packet) {
  uint64_t sum = htons(packet->protocol);
  return packet->isIpv4 ? addBytes(sum, &ipv4(packet)->saddr, 8)
                        : addBytes(sum, &ipv6(packet)->ip6_src, 32);
}

static inline uint64_t pseudoSum(const Packet *packet, int transportLength) {
  return addressSum(packet) + htons((uint16_t)transportLength);
}

static inline bool readIpv4(Packet *packet, int length) {
  struct iphdr *header = ipv4(packet);
  int headerLength = header->ihl * 4;
  packet->length = ntohs(header->tot_len);
  packet->transport = headerLength;
  packet->protocol = header->protocol;
  if (headerLength < 20 || packet->length > length || packet->length < headerLength) return false;
  return foldSum(addBytes(0, packet->start, headerLength)) == 0xffff;
}

static inline bool readIpv6(Packet *packet, int length) {
  packet->length = ntohs(ipv6(packet)->ip6_plen) + 40;
  packet->transport = 40;
  packet->protocol = ipv6(packet)->ip6_nxt;
  return length >= 40 && packet->length <= length;
}

/** Finds the parts of a packet. False where headers are cut short or an IPv4 header is damaged. */
static inline bool readPacket(Packet *packet, uint8_t *start, int length) {
  *packet = (Packet){.start = start, .isIpv4 = length >= 20 && start[0] >> 4 == 4};
  if (!(packet->isIpv4 ? readIpv4(packet, length) : readIpv6(packet, length))) return false;
  bool isFragment = packet->isIpv4 && (ipv4(packet)->frag_off & htons(IP_MF | IP_OFFMASK)) != 0;
  packet->payload = packet->transport;
  if (isFragment) packet->protocol = 0;
  else if (packet->protocol == IPPROTO_UDP) packet->payload += 8;
  else if (packet->protocol == IPPROTO_TCP) {
    if (packet->length < packet->transport + 20) return false;
    packet->payload += tcp(packet)->doff * 4;
  }
  return packet->payload <= packet->length;
}

/** Are the TCP or UDP header and the payload as they were sent? UDP over IPv4 need not say. */
static inline bool isIntact(const Packet *packet) {
  int length = packet->length - packet->transport;
  if (packet->protocol == IPPROTO_UDP && packet->isIpv4 && udp(packet)->check == 0) return true;
  const uint8_t *transport = packet->start + packet->transport;
  return foldSum(addBytes(pseudoSum(packet, length), transport, length)) == 0xffff;
}

static inline void signIpv4(struct iphdr *header) {
  header->check = 0;
  header->check = (uint16_t)~foldSum(addBytes(0, header, header->ihl * 4));
}

/** Takes one off the TTL or hop limit; false when it is spent. */
static inline bool spendHop(const Packet *packet) {
  if (!packet->isIpv4) {
    ipv6(packet)->ip6_hlim -= 1;
    return ipv6(packet)->ip6_hlim > 0;
  }
  struct iphdr *header = ipv4(packet);
  header->ttl -= 1;
  // RFC 1624: the word got smaller by 0x100, so the checksum gets larger by as much.
  header->check = foldSum((uint64_t)header->check + htons(0x100));
  return header->ttl > 0;
}

/** Sets the lengths in the headers of a packet, and the IPv4 checksum. */
static inline void setLength(Packet *packet, int length) {
  packet->length = length;
  if (packet->isIpv4) {
    ipv4(packet)->tot_len = htons((uint16_t)length);
    signIpv4(ipv4(packet));
  } else {
    ipv6(packet)->ip6_plen = htons((uint16_t)(length - 40));
  }
  if (packet->protocol == IPPROTO_UDP) {
    udp(packet)->len = htons((uint16_t)(length - packet->transport));
  }
}

static inline void setChecksum(const Packet *packet, uint16_t value) {
  if (packet->protocol == IPPROTO_TCP) tcp(packet)->check = value;
  else udp(packet)->check = value;
}

/** Makes the headers at `packet`, a copy of a super-packet's, those of its segment that carries the
 * `size` bytes of payload at `data`, `offset` bytes in, as the `index`th. */
static inline void writeSegment(
  Packet *packet, int index, int offset, const uint8_t *data, int size, bool isLast) {
  if (packet->isIpv4) ipv4(packet)->id = htons((uint16_t)(ntohs(ipv4(packet)->id) + index));
  setLength(packet, packet->payload + size);
  if (packet->protocol == IPPROTO_TCP) {
    tcp(packet)->seq = htonl(ntohl(tcp(packet)->seq) + (uint32_t)offset);
    if (!isLast) *tcpFlags(packet) &= (uint8_t)~(FLAG_FIN | FLAG_PSH);
    if (index > 0) *tcpFlags(packet) &= (uint8_t)~FLAG_CWR;
  }
  setChecksum(packet, 0);
  int headerLength = packet->payload - packet->transport;
  uint64_t sum = pseudoSum(packet, headerLength + size);
  sum = addBytes(sum, packet->start + packet->transport, headerLength);
  uint16_t checksum = (uint16_t)~foldSum(addBytes(sum, data, size));
  setChecksum(packet, packet->protocol == IPPROTO_UDP && checksum == 0 ? 0xffff : checksum);
}

/** May a packet begin a run of packets that become one? */
static inline bool isMergeable(const Packet *packet, bool mergesUdp) {
  bool hasOptions = packet->isIpv4 && packet->transport != 20;
  if (packet->length == packet->payload || hasOptions) return false;
  if (packet->protocol == IPPROTO_UDP) {
    bool isWhole = ntohs(udp(packet)->len) == packet->length - packet->transport;
    return mergesUdp && isWhole && udp(packet)->check != 0;
  }
  return packet->protocol == IPPROTO_TCP && (*tcpFlags(packet) & ~FLAG_PSH) == FLAG_ACK;
}

/** Do both packets have the same headers, but for what changes from segment to segment? */
static inline bool isSameFlow(const Packet *one, const Packet *other) {
  if (one->isIpv4 != other->isIpv4 || one->protocol != other->protocol
    || one->payload != other->payload) return false;
  const uint8_t *a = one->start;
  const uint8_t *b = other->start;
  // IPv4: DF and offset, TTL and protocol, addresses; TOS. IPv6: all but the length.
  bool isSameIp = one->isIpv4
    ? a[1] == b[1] && memcmp(a + 6, b + 6, 4) == 0 && memcmp(a + 12, b + 12, 8) == 0
    : memcmp(a, b, 4) == 0 && memcmp(a + 6, b + 6, 34) == 0;
  if (!isSameIp) return false;
  a += one->transport;
  b += other->transport;
  if (one->protocol == IPPROTO_UDP) return memcmp(a, b, 4) == 0;
  // Ports; acknowledgment and header length; flags but PSH; window; options.
  int options = one->payload - one->transport - 20;
  return memcmp(a, b, 4) == 0 && memcmp(a + 8, b + 8, 5) == 0
    && ((a[TCP_FLAGS_AT] ^ b[TCP_FLAGS_AT]) & ~FLAG_PSH) == 0
    && memcmp(a + 14, b + 14, 2) == 0 && memcmp(a + 20, b + 20, (size_t)options) == 0;
}
