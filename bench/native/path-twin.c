// The native twin of Culvert's data path at its tiers T1 to T3, the rival that `culvert bench
// path` calls nativeTwin: the same system calls in the same order and the same work on every
// packet, in C. It serves one peer and judges nothing.
//
//   path-twin TIER TUN ADDRESS PEER
//
//   TUN -> read, 16 super-packets a turn -> VXLAN and Ethernet headers, cut by headers alone
//       -> one sendmmsg() of datagrams that the kernel cuts (UDP_SEGMENT)
//   UDP socket (UDP_GRO) -> recvmmsg() of 16 -> split, verified, neighbours joined
//       -> one writev() for each run
//
// At tier 3 a TCP super-packet is not cut: it leaves whole, with its outer headers, by the TAP
// `TUNt`, and the kernel forwards and cuts it (tunnel GSO: linux/virtio_net.h). The TAP has to be
// up, accept the node's own address as a source, and forward.

#define _GNU_SOURCE

#include "path-device.h"
#include "path-packet.h"

#include <net/ethernet.h>
#include <stddef.h>
#include <sys/uio.h>

#define SLOTS 16
#define HEADROOM 128
#define SLOT_SIZE (HEADROOM + 65536)
#define MESSAGES 64
#define PARTS 4096
#define BLOCKS 2048
#define BLOCK_SIZE 192
/** What one message may hold: UDP_MAX_SEGMENTS less one, and a UDP length with room to spare. */
#define MESSAGE_SEGMENTS 63
#define MESSAGE_BYTES 65000
#define RUN_PARTS 64

#define VXLAN_PORT 8472
#define VXLAN_VNI 1
#define SOCKET_BUFFER (8 << 20)

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#define UDP_GRO 104
#endif
#define TUN_F_UDP_TUNNEL_GSO 0x80
#define TUN_F_UDP_TUNNEL_GSO_CSUM 0x100

typedef struct {
  uint32_t flags;
  uint32_t vni;
  struct ether_header ethernet;
} __attribute__((packed)) TunnelHeader;

/** struct virtio_net_hdr_v1_hash_tunnel, and the outer headers that follow it. */
typedef struct {
  struct virtio_net_hdr vnet;
  uint8_t hash[10];
  uint16_t outerTransport;
  uint16_t innerNetwork;
  struct ether_header ethernet;
  struct iphdr ip;
  struct udphdr udp;
  TunnelHeader tunnel;
} __attribute__((packed)) WholeHeader;

typedef struct {
  int tier;
  int tun;
  int tap;
  int sender;
  int receiver;
  struct sockaddr_in local;
  struct sockaddr_in peer;
  TunnelHeader tunnel;
  TunnelHeader expected;
  WholeHeader whole;
} Twin;

typedef struct {
  uint8_t bytes[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8)));
} Control;

/** Datagrams to send. The open message is the last; it takes segments of its size. */
static struct {
  struct mmsghdr messages[MESSAGES];
  Control controls[MESSAGES];
  struct iovec parts[PARTS];
  uint8_t blocks[BLOCKS][BLOCK_SIZE];
  int messageCount;
  int partCount;
  int blockCount;
  int segmentSize;
  int segmentCount;
  int bytes;
} out;

/** Neighbours of one flow that are written as one packet. */
static struct {
  struct iovec parts[RUN_PARTS];
  int count;
  Packet first;
  int size;
  int length;
  bool isClosed;
} run;

static uint8_t outboundSlots[SLOTS][SLOT_SIZE] __attribute__((aligned(64)));
static uint8_t inboundSlots[SLOTS][SLOT_SIZE] __attribute__((aligned(64)));

// Outbound

static void closeMessage(void) {
  if (out.messageCount == 0 || out.segmentCount < 2) return;
  struct msghdr *header = &out.messages[out.messageCount - 1].msg_hdr;
  Control *control = &out.controls[out.messageCount - 1];
  header->msg_control = control;
  header->msg_controllen = CMSG_SPACE(sizeof(uint16_t));
  struct cmsghdr *item = CMSG_FIRSTHDR(header);
  item->cmsg_level = SOL_UDP;
  item->cmsg_type = UDP_SEGMENT;
  item->cmsg_len = CMSG_LEN(sizeof(uint16_t));
  *(uint16_t *)CMSG_DATA(item) = (uint16_t)out.segmentSize;
}

/** Sends what waits. What the socket has no room for is lost. */
static void sendAll(Twin *twin) {
  closeMessage();
  for (int done = 0; done < out.messageCount;) {
    unsigned left = (unsigned)(out.messageCount - done);
    int sent = sendmmsg(twin->sender, out.messages + done, left, MSG_DONTWAIT);
    done += sent > 0 ? sent : 1;
  }
  out.messageCount = out.partCount = out.blockCount = out.segmentCount = 0;
}

static void openMessage(Twin *twin, int size) {
  closeMessage();
  out.messages[out.messageCount] = (struct mmsghdr){.msg_hdr = {
    .msg_name = &twin->peer, .msg_namelen = sizeof twin->peer, .msg_iov = &out.parts[out.partCount],
  }};
  out.messageCount += 1;
  out.segmentSize = size;
  out.segmentCount = out.bytes = 0;
}

static void addPart(void *bytes, int length) {
  out.parts[out.partCount++] = (struct iovec){bytes, (size_t)length};
  out.messages[out.messageCount - 1].msg_hdr.msg_iovlen += 1;
}

/** Adds a datagram: a header, and a payload that may be elsewhere. The kernel cuts a message at
 * equal distances, so one that is shorter than the others is its last. */
static void addDatagram(Twin *twin, void *header, int headerLength, void *data, int size) {
  int length = headerLength + size;
  bool isShort = out.segmentCount > 0 && out.bytes % out.segmentSize != 0;
  bool fits = out.segmentCount > 0 && !isShort && length <= out.segmentSize
    && out.segmentCount < MESSAGE_SEGMENTS && out.bytes + length <= MESSAGE_BYTES;
  if (!fits) openMessage(twin, length);
  addPart(header, headerLength);
  if (size > 0) addPart(data, size);
  out.segmentCount += 1;
  out.bytes += length;
}

/** Makes sure that there is room for one more datagram. */
static void reserve(Twin *twin) {
  bool fits = out.messageCount < MESSAGES && out.partCount + 2 <= PARTS && out.blockCount < BLOCKS;
  if (!fits) sendAll(twin);
}

static void setTunnel(TunnelHeader *header, const Twin *twin, const Packet *packet) {
  *header = twin->tunnel;
  header->ethernet.ether_type = htons(packet->isIpv4 ? ETHERTYPE_IP : ETHERTYPE_IPV6);
}

/** Sends a packet that is no super-packet: headers right in front of it. */
static void sendPacket(Twin *twin, Packet *packet, const struct virtio_net_hdr *vnet) {
  if ((vnet->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
    uint8_t *from = packet->start + vnet->csum_start;
    int length = packet->length - vnet->csum_start;
    if (length < vnet->csum_offset + 2) return;
    uint16_t checksum = (uint16_t)~foldSum(addBytes(0, from, length));
    bool isZeroUdp = checksum == 0 && packet->protocol == IPPROTO_UDP;
    *(uint16_t *)(from + vnet->csum_offset) = isZeroUdp ? 0xffff : checksum;
  }
  TunnelHeader *header = (TunnelHeader *)packet->start - 1;
  setTunnel(header, twin, packet);
  reserve(twin);
  addDatagram(twin, header, (int)sizeof *header + packet->length, NULL, 0);
}

/** Cuts a super-packet: each segment has headers of its own, payloads stay where they are. */
static void sendSegments(Twin *twin, Packet *packet, int segmentSize) {
  int index = 0;
  int total = packet->length - packet->payload;
  for (int offset = 0; offset < total; offset += segmentSize, index += 1) {
    int size = total - offset < segmentSize ? total - offset : segmentSize;
    reserve(twin);
    uint8_t *block = out.blocks[out.blockCount++];
    Packet segment = *packet;
    segment.start = block + sizeof(TunnelHeader);
    setTunnel((TunnelHeader *)block, twin, packet);
    memcpy(segment.start, packet->start, (size_t)packet->payload);
    uint8_t *data = packet->start + packet->payload + offset;
    writeSegment(&segment, index, offset, data, size, offset + size == total);
    addDatagram(twin, block, (int)sizeof(TunnelHeader) + packet->payload, data, size);
  }
}

/** Gives a super-packet to the kernel with its outer headers. False if it cannot go that way. */
static bool sendWhole(Twin *twin, Packet *packet, struct virtio_net_hdr vnet) {
  int before = (int)(sizeof(WholeHeader) - offsetof(WholeHeader, ethernet));
  int length = packet->length + (int)(sizeof(WholeHeader) - offsetof(WholeHeader, ip));
  if (packet->protocol != IPPROTO_TCP || length > PACKET_LIMIT) return false;
  WholeHeader *header = (WholeHeader *)packet->start - 1;
  *header = twin->whole;
  setTunnel(&header->tunnel, twin, packet);
  header->vnet = vnet;
  header->vnet.gso_type |= GSO_UDP_TUNNEL_IPV4;
  header->vnet.flags |= UDP_TUNNEL_CSUM;
  header->vnet.csum_start = (uint16_t)(before + packet->transport);
  header->vnet.hdr_len = (uint16_t)(before + packet->payload);
  header->innerNetwork = (uint16_t)before;
  header->outerTransport = sizeof header->ethernet + sizeof header->ip;
  struct iphdr ip = twin->whole.ip;
  ip.tot_len = htons((uint16_t)length);
  signIpv4(&ip);
  header->ip = ip;
  // The outer checksum is asked for, and begun with the pseudo-header's sum: a receiver's kernel
  // does not join datagrams without one (UDP_GRO), and the kernel has it for little once the inner
  // one is known.
  int udpLength = length - (int)sizeof ip;
  uint64_t addresses = addBytes(htons(IPPROTO_UDP), &ip.saddr, 8);
  header->udp.len = htons((uint16_t)udpLength);
  header->udp.check = foldSum(addresses + htons((uint16_t)udpLength));
  return write(twin->tap, header, sizeof *header + (size_t)packet->length) > 0;
}

static void forwardOutbound(Twin *twin, uint8_t *bytes, int length) {
  struct virtio_net_hdr vnet;
  memcpy(&vnet, bytes, sizeof vnet);
  Packet packet;
  bool isWhole = readPacket(&packet, bytes + sizeof vnet, length - (int)sizeof vnet);
  if (!isWhole || !spendHop(&packet)) return;
  if (vnet.gso_type == VIRTIO_NET_HDR_GSO_NONE) return sendPacket(twin, &packet, &vnet);
  // On the way through a forwarding kernel hdr_len may be wrong; the headers themselves are not.
  if (vnet.gso_size == 0 || packet.payload > BLOCK_SIZE - (int)sizeof(TunnelHeader)) return;
  if (twin->tier >= 3 && sendWhole(twin, &packet, vnet)) return;
  sendSegments(twin, &packet, vnet.gso_size);
}

/** Reads up to a batch of packets and sends them. Returns how many there were. */
static int turnOutbound(Twin *twin) {
  int count = 0;
  for (; count < SLOTS; count += 1) {
    uint8_t *bytes = outboundSlots[count] + HEADROOM - sizeof(struct virtio_net_hdr);
    ssize_t length = read(twin->tun, bytes, SLOT_SIZE - HEADROOM);
    if (length <= 0) break;
    forwardOutbound(twin, bytes, (int)length);
  }
  if (out.messageCount > 0) sendAll(twin);
  return count;
}

// Inbound

/** Writes the run, if there is one, as one packet. */
static void writeRun(Twin *twin) {
  if (run.count == 0) return;
  Packet *first = &run.first;
  struct virtio_net_hdr *vnet = (struct virtio_net_hdr *)first->start - 1;
  memset(vnet, 0, sizeof *vnet);
  bool isTcp = first->protocol == IPPROTO_TCP;
  if (run.count > 1) {
    setLength(first, run.length);
    setChecksum(first, foldSum(pseudoSum(first, run.length - first->transport)));
    uint8_t tcpType = first->isIpv4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
    *vnet = (struct virtio_net_hdr){
      .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = isTcp ? tcpType : GSO_UDP_L4,
      .hdr_len = (uint16_t)first->payload, .gso_size = (uint16_t)run.size,
      .csum_start = (uint16_t)first->transport,
      .csum_offset = isTcp ? offsetof(struct tcphdr, check) : offsetof(struct udphdr, check),
    };
  }
  run.parts[0].iov_base = vnet;
  run.parts[0].iov_len += sizeof *vnet;
  // A packet that the device has no room for is lost.
  (void)!writev(twin->tun, run.parts, run.count);
  run.count = 0;
}

static void beginRun(const Packet *packet, bool isMergeable) {
  run.first = *packet;
  run.count = 1;
  run.parts[0] = (struct iovec){packet->start, (size_t)packet->length};
  run.length = packet->length;
  run.size = packet->length - packet->payload;
  bool isPushed = packet->protocol == IPPROTO_TCP && (*tcpFlags(packet) & FLAG_PSH) != 0;
  run.isClosed = !isMergeable || isPushed;
}

/** Adds a packet to the run if it goes on where that ends. */
static bool extendRun(const Packet *packet) {
  int size = packet->length - packet->payload;
  if (run.count == 0 || run.isClosed || run.count == RUN_PARTS || size > run.size) return false;
  if (run.length + size > PACKET_LIMIT || !isSameFlow(&run.first, packet)) return false;
  if (packet->protocol == IPPROTO_TCP) {
    uint32_t next = ntohl(tcp(&run.first)->seq) + (uint32_t)(run.length - run.first.payload);
    if (ntohl(tcp(packet)->seq) != next) return false;
    uint8_t push = *tcpFlags(packet) & FLAG_PSH;
    *tcpFlags(&run.first) |= push;
    run.isClosed = push != 0;
  }
  run.parts[run.count++] = (struct iovec){packet->start + packet->payload, (size_t)size};
  run.length += size;
  if (size < run.size) run.isClosed = true;
  return true;
}

/** Takes one datagram: its tunnel header has to be what the peer sends. */
static void forwardInbound(Twin *twin, uint8_t *bytes, int length) {
  TunnelHeader *header = (TunnelHeader *)bytes;
  int before = (int)sizeof *header;
  if (length < before || memcmp(header, &twin->expected, offsetof(TunnelHeader, ethernet)) != 0
    || memcmp(&header->ethernet, &twin->expected.ethernet, ETH_ALEN) != 0) return;
  Packet packet;
  if (!readPacket(&packet, bytes + before, length - before) || !spendHop(&packet)) return;
  bool isMerged = isMergeable(&packet, twin->tier >= 2) && isIntact(&packet);
  if (isMerged && extendRun(&packet)) return;
  writeRun(twin);
  beginRun(&packet, isMerged);
}

/** Size of the datagrams that the kernel has put together (UDP_GRO), or all that there is. */
static int segmentSizeOf(struct msghdr *header, int length) {
  for (struct cmsghdr *item = CMSG_FIRSTHDR(header); item != NULL;
    item = CMSG_NXTHDR(header, item)) {
    if (item->cmsg_level == SOL_UDP && item->cmsg_type == UDP_GRO) return *(int *)CMSG_DATA(item);
  }
  return length;
}

/** Receives a batch of datagrams and writes them. Returns how many there were. */
static int turnInbound(Twin *twin) {
  static struct mmsghdr messages[SLOTS];
  static Control controls[SLOTS];
  static struct iovec parts[SLOTS];
  static struct sockaddr_in sources[SLOTS];
  for (int slot = 0; slot < SLOTS; slot += 1) {
    parts[slot] = (struct iovec){inboundSlots[slot], SLOT_SIZE};
    messages[slot].msg_hdr = (struct msghdr){
      .msg_name = &sources[slot], .msg_namelen = sizeof sources[slot],
      .msg_iov = &parts[slot], .msg_iovlen = 1,
      .msg_control = &controls[slot], .msg_controllen = sizeof controls[slot],
    };
  }
  int count = recvmmsg(twin->receiver, messages, SLOTS, MSG_DONTWAIT, NULL);
  for (int slot = 0; slot < count; slot += 1) {
    if (sources[slot].sin_addr.s_addr != twin->peer.sin_addr.s_addr) continue;
    int length = (int)messages[slot].msg_len;
    int size = segmentSizeOf(&messages[slot].msg_hdr, length);
    for (int offset = 0; offset < length; offset += size) {
      int left = length - offset;
      forwardInbound(twin, inboundSlots[slot] + offset, left < size ? left : size);
    }
  }
  writeRun(twin);
  return count;
}

// Setting up

/** A locally administered MAC that both ends know from the address. */
static void setMac(uint8_t *mac, const struct sockaddr_in *address) {
  mac[0] = 0x02;
  mac[1] = 0xc0;
  memcpy(mac + 2, &address->sin_addr, 4);
}

static void setHeaders(Twin *twin) {
  TunnelHeader *tunnel = &twin->tunnel;
  tunnel->flags = htonl(0x08000000);
  tunnel->vni = htonl(VXLAN_VNI << 8);
  twin->expected = *tunnel;
  setMac(tunnel->ethernet.ether_dhost, &twin->peer);
  setMac(tunnel->ethernet.ether_shost, &twin->local);
  setMac(twin->expected.ethernet.ether_dhost, &twin->local);
  WholeHeader *whole = &twin->whole;
  whole->ethernet.ether_type = htons(ETHERTYPE_IP);
  // One more than leaves the node: the kernel forwards it.
  whole->ip = (struct iphdr){
    .version = 4, .ihl = 5, .ttl = 65, .protocol = IPPROTO_UDP,
    .saddr = twin->local.sin_addr.s_addr, .daddr = twin->peer.sin_addr.s_addr,
  };
  whole->udp.source = htons(VXLAN_PORT);
  whole->udp.dest = htons(VXLAN_PORT);
}

static void openTap(Twin *twin, const char *tunName) {
  char name[IFNAMSIZ];
  int headerSize = (int)offsetof(WholeHeader, ethernet);
  unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_UDP_TUNNEL_GSO
    | TUN_F_UDP_TUNNEL_GSO_CSUM;
  snprintf(name, sizeof name, "%.13st", tunName);
  twin->tap = openDevice(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
  require(ioctl(twin->tap, TUNSETVNETHDRSZ, &headerSize), "ioctl(TUNSETVNETHDRSZ)", name);
  require(ioctl(twin->tap, TUNSETOFFLOAD, offloads), "ioctl(TUNSETOFFLOAD)", name);
  struct ifreq request = {0};
  memcpy(request.ifr_name, name, IFNAMSIZ);
  require(ioctl(twin->sender, SIOCGIFHWADDR, &request), "ioctl(SIOCGIFHWADDR)", name);
  memcpy(twin->whole.ethernet.ether_dhost, request.ifr_hwaddr.sa_data, ETH_ALEN);
}

static void openDevices(Twin *twin, char **words) {
  unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
  if (twin->tier >= 2) offloads |= TUN_F_USO4 | TUN_F_USO6;
  twin->tun = openDevice(words[2], IFF_TUN | IFF_NO_PI | IFF_VNET_HDR);
  require(ioctl(twin->tun, TUNSETOFFLOAD, offloads), "ioctl(TUNSETOFFLOAD)", words[2]);
  twin->local = socketAddress(words[3], VXLAN_PORT);
  twin->peer = socketAddress(words[4], VXLAN_PORT);
  twin->sender = openUdp(words[3], 0);
  twin->receiver = openUdp(words[3], VXLAN_PORT);
  setOption(twin->receiver, SOL_UDP, UDP_GRO, 1, "UDP_GRO");
  setOption(twin->receiver, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER, "SO_RCVBUFFORCE");
  setOption(twin->sender, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER, "SO_SNDBUFFORCE");
  setOption(twin->sender, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, "IP_MTU_DISCOVER");
  setHeaders(twin);
  if (twin->tier >= 3) openTap(twin, words[2]);
}

int main(int count, char **words) {
  static Twin twin;
  if (count != 5) {
    fprintf(stderr, "usage: path-twin TIER TUN ADDRESS PEER\n");
    return 2;
  }
  twin.tier = atoi(words[1]);
  openDevices(&twin, words);
  struct pollfd fds[] = {
    {STDIN_FILENO, POLLIN, 0}, {twin.tun, POLLIN, 0}, {twin.receiver, POLLIN, 0},
  };
  sayReady();
  while (waitForPackets(fds, 3)) {
    for (bool isBusy = true; isBusy;) {
      int outbound = turnOutbound(&twin);
      int inbound = turnInbound(&twin);
      isBusy = outbound > 0 || inbound > 0;
    }
  }
  return 0;
}
