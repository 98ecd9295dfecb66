// One packet at a time: what the proxy of flannel's udp backend does, in our own words, as the
// rival that `culvert bench path` calls flannelUdp. Learned from flannel-io/flannel
// pkg/backend/udp/proxy_amd64.c; on the wire a datagram's payload is the IPv4 packet, nothing else.
//
//   flannel-udp TUN ADDRESS PORT PREFIX/LENGTH=NEXTHOP...
//
// A TUN without offloads and a UDP socket; poll() only when neither had a packet. Each way takes
// one off the TTL (RFC 791 section 3.1) and patches the checksum (RFC 1624). Routes are a list; the
// one found moves to its front. Socket buffers are the system's own, as there.

#include "path-device.h"

#include <netinet/ip.h>

#define ROUTE_LIMIT 64
#define PACKET_LIMIT 65536

typedef struct {
  in_addr_t prefix;
  in_addr_t mask;
  struct sockaddr_in nextHop;
} Route;

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

/** Takes one off the TTL. False when there is nothing left, or it is no IPv4 packet. */
static bool spendHop(uint8_t *packet, ssize_t length) {
  struct iphdr *header = (struct iphdr *)packet;
  if (length < (ssize_t)sizeof *header || header->version != 4 || header->ttl <= 1) return false;
  header->ttl -= 1;
  uint32_t sum = (uint32_t)header->check + htons(0x100);
  header->check = (uint16_t)(sum + (sum >> 16));
  return true;
}

/** One packet from the pods to the peer that has its destination. False if there was none. */
static bool forwardOutbound(int tun, int udp, uint8_t *packet) {
  ssize_t length = read(tun, packet, PACKET_LIMIT);
  if (length < 0) return false;
  if (!spendHop(packet, length)) return true;
  Route *route = findRoute(((struct iphdr *)packet)->daddr);
  if (route == NULL) return true;
  struct sockaddr *nextHop = (struct sockaddr *)&route->nextHop;
  // A datagram that cannot be sent is lost, and its sender's transport will see to it.
  (void)sendto(udp, packet, (size_t)length, 0, nextHop, sizeof route->nextHop);
  return true;
}

/** One packet from a peer to the pods. False if there was none. */
static bool forwardInbound(int udp, int tun, uint8_t *packet) {
  ssize_t length = recv(udp, packet, PACKET_LIMIT, MSG_DONTWAIT);
  if (length < 0) return false;
  if (!spendHop(packet, length)) return true;
  while (write(tun, packet, (size_t)length) < 0 && errno == EAGAIN) continue;
  return true;
}

int main(int count, char **words) {
  static uint8_t packet[PACKET_LIMIT];
  if (count < 5) {
    fprintf(stderr, "usage: flannel-udp TUN ADDRESS PORT PREFIX/LENGTH=NEXTHOP...\n");
    return 2;
  }
  int port = atoi(words[3]);
  for (int index = 4; index < count; index += 1) addRoute(words[index], port);
  int tun = openDevice(words[1], IFF_TUN | IFF_NO_PI);
  int udp = openUdp(words[2], port);
  struct pollfd fds[] = {{STDIN_FILENO, POLLIN, 0}, {tun, POLLIN, 0}, {udp, POLLIN, 0}};
  sayReady();
  while (waitForPackets(fds, 3)) {
    for (bool isBusy = true; isBusy;) {
      bool isOutbound = forwardOutbound(tun, udp, packet);
      bool isInbound = forwardInbound(udp, tun, packet);
      isBusy = isOutbound || isInbound;
    }
  }
  return 0;
}
