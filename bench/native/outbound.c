// The walk of a packet from a pod on a TUN to a peer: the twin of processBatch() for what almost
// all packets of a running node are. On the core's own tables, slots, descriptors and outbox it
// checks headers, looks up who owns the source and where the destination is, finds the flow and
// lets it live on, counts, takes a hop off the TTL, puts the peer's headers in front and adds the
// datagram to the outbox. Functions stand in the order in which a packet meets them.
//
// A packet of any other kind (first of its flow, fragment, ICMP, too big, to be dropped, for a
// local device, from a device with offloads) is left to the core: the twin ends its batch there.

#include "flow.h"
#include "ip.h"
#include "prefix.h"
#include "records.h"

/** What a turn knows of the directory. */
struct turn {
    uint8_t *memory;
    uint8_t *worker;          // its block
    struct flow_table flows;
    int32_t now;
    uint32_t routes_ipv4;
    uint32_t routes_ipv6;
    const uint32_t *next_hops;
    const struct device *devices;
    uint32_t device_limit;
    const struct peer *peers;
    struct statistics *statistics;
    struct send *sends;
    uint8_t *pieces;
    uint32_t piece_size;
    uint32_t segment_limit;
    uint64_t base;
};

static inline uint32_t *worker_word(const struct turn *turn, uint32_t field)
{
    return (uint32_t *)(turn->worker + field);
}

static inline struct turn begin_turn(uint8_t *memory, uint32_t worker, int32_t now)
{
    uint32_t limit = directory(memory, DIRECTORY_NEXT_HOP_LIMIT);
    struct statistics *statistics =
        (struct statistics *)(memory + directory(memory, DIRECTORY_STATISTICS));
    struct send *sends = (struct send *)(memory + directory(memory, DIRECTORY_SENDS));
    uint32_t pieces = directory(memory, DIRECTORY_PIECES) + worker * PIECE_LIMIT * PIECE_SIZE;
    return (struct turn){
        .memory = memory,
        .worker = memory + WORKERS_START + worker * WORKER_STRIDE,
        .flows = flow_table(memory, directory(memory, DIRECTORY_FLOWS),
                            directory(memory, DIRECTORY_FLOW_COUNT)),
        .now = now,
        .routes_ipv4 = directory(memory, DIRECTORY_ROUTES_IPV4),
        .routes_ipv6 = directory(memory, DIRECTORY_ROUTES_IPV6),
        .next_hops = (const uint32_t *)(memory + directory(memory, DIRECTORY_NEXT_HOPS)),
        .devices = (const struct device *)(memory + directory(memory, DIRECTORY_DEVICES)),
        .device_limit = directory(memory, DIRECTORY_DEVICE_LIMIT),
        .peers = (const struct peer *)(memory + directory(memory, DIRECTORY_PEERS)),
        .statistics = statistics + worker * limit,
        .sends = sends + worker * SEND_LIMIT,
        .pieces = memory + pieces,
        .piece_size = directory(memory, DIRECTORY_POINTER_SIZE) == 4 ? 8 : PIECE_SIZE,
        .segment_limit = directory(memory, DIRECTORY_SEGMENT_LIMIT),
        .base = load64(memory + DIRECTORY_START + DIRECTORY_BASE),
    };
}

static inline uint32_t policy_epoch(const struct turn *turn)
{
    const uint8_t *field = turn->memory + DIRECTORY_START + DIRECTORY_POLICY_EPOCH;
    return __atomic_load_n((const uint32_t *)field, __ATOMIC_ACQUIRE);
}

/** True while one more slot fits into the outbox, whatever becomes of it. */
static inline bool outbox_has_room(const struct turn *turn)
{
    const uint32_t packets = SEGMENTS_MAX + RUN_SEGMENTS_MAX;
    return *worker_word(turn, WORKER_SENDS) <= SEND_LIMIT - packets
        && *worker_word(turn, WORKER_PIECES) <= PIECE_LIMIT - 2 * packets
        && *worker_word(turn, WORKER_HEADERS) <= HEADER_LIMIT - packets;
}

/** The run of packets from a peer that are being joined: one of this walk ends it. */
static inline struct descriptor *open_run(const struct turn *turn)
{
    return (struct descriptor *)(turn->worker + WORKER_RUN);
}

static inline uint32_t next_hop_at(const struct turn *turn, uint32_t id)
{
    return __atomic_load_n(turn->next_hops + id, __ATOMIC_ACQUIRE);
}

static inline const struct device *device_at(const struct turn *turn, uint32_t index)
{
    return index < turn->device_limit ? turn->devices + index : NULL;
}

/** The device of a local endpoint's next hop, NULL of any other. */
static inline const struct device *endpoint_device(const struct turn *turn, uint32_t record)
{
    if (record >> NEXT_HOP_KIND_SHIFT != NEXT_HOP_KIND_ENDPOINT)
        return NULL;
    return device_at(turn, record & NEXT_HOP_INDEX_MASK);
}

static inline bool is_closed(const struct device *device)
{
    return device != NULL && __atomic_load_n(&device->closed, __ATOMIC_ACQUIRE) != 0;
}

static inline uint32_t route(const struct turn *turn, const uint8_t *address, bool ipv4)
{
    if (ipv4)
        return prefix_find4(turn->memory, turn->routes_ipv4, __builtin_bswap32(load32(address)));
    return prefix_find6(turn->memory, turn->routes_ipv6, __builtin_bswap64(load64(address)),
                        __builtin_bswap64(load64(address + 8)));
}

/** Above 0 where the source is the higher address in byte order, 0 where both are the same. */
static inline int compare_ends(const uint8_t *packet, bool ipv4)
{
    uint64_t source, destination;
    if (ipv4) {
        source = ipv4_source(packet);
        destination = ipv4_destination(packet);
    } else {
        source = __builtin_bswap64(load64(packet + IPV6_SOURCE));
        destination = __builtin_bswap64(load64(packet + IPV6_DESTINATION));
        if (source == destination) {
            source = __builtin_bswap64(load64(packet + IPV6_SOURCE + 8));
            destination = __builtin_bswap64(load64(packet + IPV6_DESTINATION + 8));
        }
    }
    return (source > destination) - (source < destination);
}

/** Writes an IPv4 address as IPv4-mapped, RFC 4291 section 2.5.5.2. */
static inline void write_mapped(uint8_t *target, const uint8_t *address)
{
    uint64_t words[2] = { 0, 0xffff0000 | (uint64_t)load32(address) << 32 };
    memcpy(target, words, sizeof words);
}

/** The key of a packet of TCP or UDP: the ends in byte order, so that both directions have one. */
static inline void write_flow_key(struct flow *key, const uint8_t *packet, bool ipv4,
                                  transport found, uint32_t total)
{
    uint32_t ports = transport_ports(packet, found, total);
    int order = compare_ends(packet, ipv4);
    if (order == 0)
        order = (int)__builtin_bswap16((uint16_t)ports)
            - (int)__builtin_bswap16((uint16_t)(ports >> 16));
    bool from_b = order > 0;
    uint8_t *source = from_b ? key->address_b : key->address_a;
    uint8_t *destination = from_b ? key->address_a : key->address_b;
    if (ipv4) {
        write_mapped(source, packet + IPV4_SOURCE);
        write_mapped(destination, packet + IPV4_DESTINATION);
    } else {
        memcpy(source, packet + IPV6_SOURCE, IPV6_ADDRESS_SIZE);
        memcpy(destination, packet + IPV6_DESTINATION, IPV6_ADDRESS_SIZE);
    }
    uint64_t flags = from_b ? FLOW_FLAG_USED | FLOW_FLAG_FROM_B : FLOW_FLAG_USED;
    uint8_t protocol = transport_protocol(found);
    uint32_t tcp_flags = transport_offset(found) + TCP_FLAGS;
    uint64_t signal = protocol == PROTOCOL_TCP && tcp_flags < total ? packet[tcp_flags] : 0;
    // In one word, because it is read as one.
    uint64_t rest = (from_b ? ports << 16 | ports >> 16 : ports)
        | (uint64_t)protocol << 32 | flags << 40 | signal << 56;
    memcpy(&key->ports, &rest, sizeof rest);
}

/** True for a packet that changes nothing of its flow but the time: wasm/flow-track.ts. */
static inline bool is_quiet(const struct flow *flow, const struct flow *seen)
{
    if (seen->protocol == PROTOCOL_TCP
        && (seen->signal & (TCP_FLAG_SYN | TCP_FLAG_FIN | TCP_FLAG_RST)) != 0)
        return false;
    bool answered = (flow->flags & FLOW_FLAG_REPLIED) != 0;
    if (((flow->flags ^ seen->flags) & FLOW_FLAG_FROM_B) != 0)
        return answered;
    return !answered || flow->state == FLOW_STATE_ESTABLISHED;
}

/** Finds the flow of a packet between two next hops and lets it live on. False: the core's. */
static inline bool enforce(const struct turn *turn, const uint8_t *packet, bool ipv4,
                           transport found, uint32_t total, uint32_t source_hop,
                           uint32_t destination_record)
{
    uint32_t source_record = next_hop_at(turn, source_hop);
    const struct device *from = endpoint_device(turn, source_record);
    const struct device *to = endpoint_device(turn, destination_record);
    if (from == NULL && to == NULL)
        return true;
    if (is_closed(from) || is_closed(to))
        return false;
    if (from == to || source_record >> NEXT_HOP_KIND_SHIFT == NEXT_HOP_KIND_NODE
        || destination_record >> NEXT_HOP_KIND_SHIFT == NEXT_HOP_KIND_NODE)
        return true;
    if ((found & (FRAGMENT | LATER_FRAGMENT | BROKEN)) != 0)
        return false;
    if (transport_protocol(found) != PROTOCOL_TCP && transport_protocol(found) != PROTOCOL_UDP)
        return false;
    struct flow key;
    write_flow_key(&key, packet, ipv4, found, total);
    struct flow *flow = flow_find(&turn->flows, &key);
    if (flow == NULL || !is_quiet(flow, &key) || flow->expires - turn->now <= 0
        || flow->epoch != policy_epoch(turn))
        return false;
    flow->expires = turn->now + flow->lifetime;
    return true;
}

/** Points the next piece of the outbox at the packet. */
static inline uint8_t *add_piece(const struct turn *turn, uint32_t address, uint32_t length)
{
    uint32_t *taken = worker_word(turn, WORKER_PIECES);
    uint8_t *piece = turn->pieces + *taken * turn->piece_size;
    ++*taken;
    if (turn->piece_size == PIECE_SIZE) {
        uint64_t words[2] = { turn->base + address, length };
        memcpy(piece, words, sizeof words);
    } else {
        uint32_t words[2] = { (uint32_t)turn->base + address, length };
        memcpy(piece, words, sizeof words);
    }
    return piece;
}

/** Adds a datagram to the send before it, where that is of the same peer, flow and TOS, the kernel
 * cuts sends, and its length goes with those in it. */
static inline bool join_send(const struct turn *turn, struct send *send, uint32_t piece,
                             uint32_t peer, uint32_t length, uint32_t hash, uint8_t tos)
{
    if (send->peer != peer || send->flow_hash != hash || send->tos != tos
        || send->pieces + send->piece_count * turn->piece_size != piece)
        return false;
    uint32_t size = send->packets == 1 ? send->length : send->segment_size;
    if (send->flags != 0 || length > size || send->length + length > DATAGRAMS_BYTES_MAX
        || send->packets >= turn->segment_limit)
        return false;
    send->segment_size = (uint16_t)size;
    send->packets++;
    send->length += length;
    send->piece_count++;
    if (length < size)
        send->flags = SEND_FLAG_CLOSED;
    return true;
}

/** Puts the packet into the outbox, for a peer. */
static inline void add_datagram(const struct turn *turn, const struct descriptor *descriptor,
                                const struct peer *peer, uint32_t hash, uint8_t tos, bool joins)
{
    uint8_t *at = add_piece(turn, descriptor->start, descriptor->length);
    uint32_t piece = (uint32_t)(at - turn->memory);
    uint32_t address = (uint32_t)((const uint8_t *)peer - turn->memory);
    uint32_t *taken = worker_word(turn, WORKER_SENDS);
    if (joins && *taken != 0
        && join_send(turn, turn->sends + *taken - 1, piece, address, descriptor->length, hash, tos))
        return;
    struct send *send = turn->sends + *taken;
    ++*taken;
    send->pieces = piece;
    send->piece_count = 1;
    send->length = descriptor->length;
    send->device = peer->device;
    send->segment_size = 0;
    send->packets = 1;
    send->tos = tos;
    send->flags = joins ? 0 : SEND_FLAG_CLOSED;
    send->flow_hash = hash;
    send->peer = address;
    memcpy(send->remote, peer->remote, sizeof send->remote);
}

/** Puts the peer's headers in front of the packet and addresses it to the peer. */
static inline void encapsulate(const struct turn *turn, struct descriptor *descriptor,
                               const struct peer *peer, bool ipv4, transport found,
                               uint32_t total)
{
    const uint8_t *inner = turn->memory + descriptor->start;
    uint32_t hash = packet_hash(inner, ipv4, found, total);
    uint8_t tos = ipv4 ? inner[IPV4_TOS] : (uint8_t)(__builtin_bswap16(load16(inner)) >> 4);
    bool joins = descriptor->length <= peer->mtu;
    descriptor->start -= PEER_HEADER_SIZE;
    descriptor->length += PEER_HEADER_SIZE;
    descriptor->head += PEER_HEADER_SIZE;
    uint8_t *header = turn->memory + descriptor->start;
    memcpy(header, peer->header, PEER_HEADER_SIZE);
    store16(header + VXLAN_HEADER_SIZE + ETHERNET_TYPE,
            __builtin_bswap16(ipv4 ? ETHER_TYPE_IPV4 : ETHER_TYPE_IPV6));
    descriptor->verdict = VERDICT_SEND;
    descriptor->output = peer->device;
    add_datagram(turn, descriptor, peer, hash, tos & ECN_MASK, joins);
}

/** Takes one packet all the way. False: the core decides about it. */
static inline bool process_packet(const struct turn *turn, struct descriptor *descriptor)
{
    descriptor->verdict = VERDICT_DROP;
    descriptor->reason = 0;
    descriptor->segments = 1;
    descriptor->gso_type = 0;
    descriptor->offload_flags = 0;
    descriptor->pieces = 0;
    const struct device *device = device_at(turn, descriptor->input);
    if (device == NULL || device->kind != DEVICE_KIND_TUN || device->vnet_size != 0)
        return false;
    if (open_run(turn)->segments != 0)
        return false;
    uint8_t *packet = turn->memory + descriptor->start;
    if (check_ip(packet, descriptor->length) != REASON_NONE)
        return false;
    bool ipv4 = is_ipv4(packet);
    uint32_t total = ip_total_length(packet, ipv4);
    descriptor->length = total;
    uint32_t source = route(turn, packet + (ipv4 ? IPV4_SOURCE : IPV6_SOURCE), ipv4);
    if (source != device->next_hop)
        return false;
    uint32_t next_hop = route(turn, packet + (ipv4 ? IPV4_DESTINATION : IPV6_DESTINATION), ipv4);
    struct statistics *received = turn->statistics + source;
    received->rx_packets += descriptor->segments;
    received->rx_bytes += total;
    uint32_t record = next_hop_at(turn, next_hop);
    transport found = ipv4 ? ipv4_transport(packet) : ipv6_transport(packet);
    if (!enforce(turn, packet, ipv4, found, total, source, record))
        return false;
    if (record >> NEXT_HOP_KIND_SHIFT != NEXT_HOP_KIND_PEER)
        return false;
    const struct peer *peer = turn->peers + (record & NEXT_HOP_INDEX_MASK);
    if (packet[ipv4 ? IPV4_TTL : IPV6_HOP_LIMIT] <= 1 || total > peer->mtu)
        return false;
    if (ipv4)
        ipv4_decrement_ttl(packet);
    else
        packet[IPV6_HOP_LIMIT]--;
    struct statistics *sent = turn->statistics + next_hop;
    sent->tx_packets += descriptor->segments;
    sent->tx_bytes += total;
    encapsulate(turn, descriptor, peer, ipv4, found, total);
    return true;
}

/** Takes expired entries out of the next group of flows in turn. */
static inline void sweep_flows(const struct turn *turn)
{
    uint32_t *next = worker_word(turn, WORKER_FLOW_SWEEP);
    uint32_t group = *next & (turn->flows.count / FLOW_GROUP_SIZE - 1);
    *next = group + 1;
    uint32_t first = group * FLOW_GROUP_SIZE;
    for (uint32_t place = first; place < first + FLOW_GROUP_SIZE; place++) {
        struct flow *flow = turn->flows.flows + place;
        if (turn->flows.tags[place] == 0 || flow->expires - turn->now > 0)
            continue;
        flow->flags = 0;
        turn->flows.tags[place] = 0;
        --*worker_word(turn, WORKER_FLOWS);
    }
}

/** Decides the packets of `count` slots from `first` on. Returns how many it decided: fewer than
 * `count` where one is left to the core. One worker alone, for there is no lock. */
EXPORT int process_batch(uint8_t *memory, int first, int count, int now)
{
    uint32_t worker = (uint32_t)first / directory(memory, DIRECTORY_SLOT_COUNT);
    struct turn turn = begin_turn(memory, worker, now);
    if (directory(memory, DIRECTORY_WORKER_COUNT) > 1)
        return 0;
    __atomic_add_fetch(worker_word(&turn, WORKER_TURN), 1, __ATOMIC_SEQ_CST);
    *worker_word(&turn, WORKER_SENDS) = 0;
    *worker_word(&turn, WORKER_PIECES) = 0;
    *worker_word(&turn, WORKER_HEADERS) = 0;
    open_run(&turn)->segments = 0;
    struct descriptor *descriptors =
        (struct descriptor *)(memory + directory(memory, DIRECTORY_DESCRIPTORS));
    struct descriptor *next = descriptors + first;
    int done = 0;
    while (done < count && outbox_has_room(&turn) && process_packet(&turn, next + done))
        done++;
    sweep_flows(&turn);
    __atomic_add_fetch(worker_word(&turn, WORKER_TURN), 1, __ATOMIC_SEQ_CST);
    return done;
}

/** Checks headers and makes keys of flows: the twin of parseMany() of wasm/many.ts. */
EXPORT int parse_many(uint8_t *memory, int first, int count)
{
    const struct descriptor *descriptors =
        (const struct descriptor *)(memory + directory(memory, DIRECTORY_DESCRIPTORS)) + first;
    uint32_t sum = 0;
    for (int at = 0; at < count; at++) {
        const uint8_t *packet = memory + descriptors[at].start;
        if (check_ip(packet, descriptors[at].length) != REASON_NONE)
            continue;
        bool ipv4 = is_ipv4(packet);
        transport found = ipv4 ? ipv4_transport(packet) : ipv6_transport(packet);
        struct flow key;
        write_flow_key(&key, packet, ipv4, found, ip_total_length(packet, ipv4));
        uint32_t ends = load32(key.address_a + 12) ^ load32(key.address_b + 12);
        uint32_t ports;
        memcpy(&ports, &key.ports, sizeof ports);
        sum = (sum ^ ends ^ ports) * 16777619;
    }
    return (int)sum;
}

/** Puts a peer's headers in front of packets: the twin of encapsulateMany() of wasm/many.ts. */
EXPORT int encapsulate_many(uint8_t *memory, int first, int count, int peer)
{
    struct turn turn = begin_turn(memory, (uint32_t)first / directory(memory, DIRECTORY_SLOT_COUNT),
                                  0);
    struct descriptor *descriptors =
        (struct descriptor *)(memory + directory(memory, DIRECTORY_DESCRIPTORS)) + first;
    *worker_word(&turn, WORKER_SENDS) = 0;
    *worker_word(&turn, WORKER_PIECES) = 0;
    *worker_word(&turn, WORKER_HEADERS) = 0;
    for (int at = 0; at < count; at++) {
        struct descriptor *descriptor = descriptors + at;
        const uint8_t *packet = memory + descriptor->start;
        uint32_t start = descriptor->start, length = descriptor->length;
        bool ipv4 = is_ipv4(packet);
        transport found = ipv4 ? ipv4_transport(packet) : ipv6_transport(packet);
        encapsulate(&turn, descriptor, (const struct peer *)(memory + peer), ipv4, found,
                    ip_total_length(packet, ipv4));
        descriptor->start = start;
        descriptor->length = length;
    }
    return 0;
}
