// One packet at a time: what the proxy of flannel's udp backend does, in our own words, as the
// rival that `culvert bench path` calls flannelUdp. Learned from flannel-io/flannel
// pkg/backend/udp/proxy_amd64.c; on the wire a datagram's payload is the IPv4 packet, nothing else.
//
//   flannel-udp TUN TUN-ADDRESS MTU ADDRESS PORT PREFIX/LENGTH=NEXTHOP...
//
// A TUN without offloads and a UDP socket; poll() only when neither had a packet. Each way takes
// one off the TTL (RFC 791 section 3.1) and patches the checksum (RFC 1624); what has none left is
// lost without a word. To what has no route it answers with "net unreachable" (RFC 792), in
// flannel's own bytes. Routes are a list; the one found moves to its front. No packet is longer
// than the MTU of the TUN: the rest of a longer datagram is cut off. Socket buffers are the
// system's own, as there.

#include "path-device.h"

#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#define ROUTE_LIMIT 64
#define PACKET_LIMIT 65536
#define IPV4_HEADER_LIMIT 60
#define QUOTED_PAYLOAD 8
#define ICMP_TTL 8

typedef struct {
  in_addr_t prefix;
  in_addr_t mask;
  struct sockaddr_in nextHop;
} Route;

/** The devices, the address that errors come from, and the longest packet. */
typedef struct {
  int tun;
  int udp;
  in_addr_t tunAddress;
  size_t mtu;
} Node;

static Route routes[ROUTE_LIMIT];
static int routeCount;

/** Reads `10.244.2.0/24=192.0.2.2`. Longer prefixes stand in front of shorter ones. */
static void addRoute(char *text, int port) {
  char *slash = strchr(text, '/');
  char *equals = strchr(text, '=');
  if (slash == NULL || equals == NULL || routeCount == ROUTE_LIMIT) {
    errno = EINVAL;
    fail("parse route", text);
  }
  *slash = *equals = '\0';
  int length = atoi(slash + 1);
  in_addr_t mask = length == 0 ? 0 : htonl(~0u << (32 - length));
  Route route = {socketAddress(text, 0).sin_addr.s_addr, mask, socketAddress(equals + 1, port)};
  int place = routeCount++;
  for (; place > 0 && ntohl(routes[place - 1].mask) < ntohl(mask); place -= 1) {
    routes[place] = routes[place - 1];
  }
  routes[place] = route;
}

/** The route of a destination, or NULL. It moves to the front, unless that would put it before a
 * longer prefix. */
static Route *findRoute(in_addr_t destination) {
  for (int index = 0; index < routeCount; index += 1) {
    if ((destination & routes[index].mask) != routes[index].prefix) continue;
    if (index == 0 || routes[0].mask != routes[index].mask) return &routes[index];
    Route found = routes[index];
    routes[index] = routes[0];
    routes[0] = found;
    return &routes[0];
  }
  return NULL;
}

/** The ones' complement of the ones' complement sum, RFC 1071. `length` is even. */
static uint16_t checksumOf(const void *start, size_t length) {
  uint32_t sum = 0;
  for (size_t at = 0; at < length; at += 2) {
    uint16_t word;
    memcpy(&word, (const uint8_t *)start + at, sizeof word);
    sum += word;
  }
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >> 16);
  return (uint16_t)~sum;
}

/** Answers a packet that has no route, by the TUN it came from: with the header and eight bytes, as
 * RFC 792 has it. ICMP is not answered, nor a later fragment. */
static void refuse(const Node *node, const uint8_t *packet, ssize_t length) {
  const struct iphdr *offender = (const struct iphdr *)packet;
  size_t headerLength = (size_t)offender->ihl * 4;
  size_t quoted = headerLength + QUOTED_PAYLOAD;
  if (headerLength >= IPV4_HEADER_LIMIT || (ssize_t)quoted > length) return;
  if (offender->protocol == IPPROTO_ICMP) return;
  if ((offender->frag_off & htons(IP_OFFMASK)) != 0) return;
  struct {
    struct iphdr outer;
    struct icmphdr icmp;
    uint8_t quote[IPV4_HEADER_LIMIT + QUOTED_PAYLOAD];
  } answer = {0};
  size_t answerLength = sizeof answer.outer + sizeof answer.icmp + quoted;
  answer.outer.version = IPVERSION;
  answer.outer.ihl = sizeof answer.outer / 4;
  answer.outer.tot_len = htons((uint16_t)answerLength);
  answer.outer.ttl = ICMP_TTL;
  answer.outer.protocol = IPPROTO_ICMP;
  answer.outer.saddr = node->tunAddress;
  answer.outer.daddr = offender->saddr;
  answer.outer.check = checksumOf(&answer.outer, sizeof answer.outer);
  answer.icmp.type = ICMP_DEST_UNREACH;
  answer.icmp.code = ICMP_NET_UNREACH;
  memcpy(answer.quote, packet, quoted);
  answer.icmp.checksum = checksumOf(&answer.icmp, sizeof answer.icmp + quoted);
  ssize_t written = write(node->tun, &answer, answerLength);
  (void)written;
}

/** Takes one off the TTL. False when there is nothing left. */
static bool spendHop(uint8_t *packet) {
  struct iphdr *header = (struct iphdr *)packet;
  if (header->ttl <= 1) return false;
  header->ttl -= 1;
  uint32_t sum = (uint32_t)header->check + htons(0x100);
  header->check = (uint16_t)(sum + (sum >> 16));
  return true;
}

/** One packet from the pods to the peer that has its destination. False if there was none. */
static bool forwardOutbound(const Node *node, uint8_t *packet) {
  ssize_t length = read(node->tun, packet, node->mtu);
  if (length < (ssize_t)sizeof(struct iphdr)) return false;
  Route *route = findRoute(((struct iphdr *)packet)->daddr);
  if (route == NULL) {
    refuse(node, packet, length);
    return true;
  }
  if (!spendHop(packet)) return true;
  struct sockaddr *nextHop = (struct sockaddr *)&route->nextHop;
  // A datagram that cannot be sent is lost, and its sender's transport will see to it.
  (void)sendto(node->udp, packet, (size_t)length, 0, nextHop, sizeof route->nextHop);
  return true;
}

/** One packet from a peer to the pods. False if there was none. */
static bool forwardInbound(const Node *node, uint8_t *packet) {
  ssize_t length = recv(node->udp, packet, node->mtu, MSG_DONTWAIT);
  if (length < (ssize_t)sizeof(struct iphdr)) return false;
  if (!spendHop(packet)) return true;
  while (write(node->tun, packet, (size_t)length) < 0 && errno == EAGAIN) continue;
  return true;
}

int main(int count, char **words) {
  static uint8_t packet[PACKET_LIMIT];
  if (count < 7) {
    fprintf(stderr, "usage: flannel-udp TUN TUN-ADDRESS MTU ADDRESS PORT PREFIX/LENGTH=NEXTHOP"
      "...\n");
    return 2;
  }
  int port = atoi(words[5]);
  for (int index = 6; index < count; index += 1) addRoute(words[index], port);
  Node node = {
    .tun = openDevice(words[1], IFF_TUN | IFF_NO_PI), .udp = openUdp(words[4], port),
    .tunAddress = socketAddress(words[2], 0).sin_addr.s_addr, .mtu = (size_t)atoi(words[3]),
  };
  if (node.mtu > PACKET_LIMIT) node.mtu = PACKET_LIMIT;
  struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {node.tun, POLLIN, 0}, {node.udp, POLLIN, 0}};
  sayReady();
  while (waitForPackets(fds, 3)) {
    for (bool isBusy = true; isBusy;) {
      bool isOutbound = forwardOutbound(&node, packet);
      bool isInbound = forwardInbound(&node, packet);
      isBusy = isOutbound || isInbound;
    }
  }
  return 0;
}
