// Records of linear memory that a packet meets: slots, devices, peers, statistics, the outbox. What
// their fields mean is said in wasm/abi/layout.ts.

#pragma once

#include "core.h"

struct descriptor {
    uint32_t start;
    uint32_t length;
    uint16_t input;
    uint16_t output;
    uint8_t verdict;
    uint8_t reason;
    uint16_t unused;
    uint32_t pieces;
    uint32_t head;
    uint16_t segment_size;
    uint8_t gso_type;
    uint8_t offload_flags;
    uint16_t checksum_start;
    uint16_t checksum_offset;
    uint8_t source[28];
    uint16_t segments;
    uint8_t outer_tos;
    uint8_t unused_too;
};
FIELD_AT(struct descriptor, output, DESCRIPTOR_OUTPUT);
FIELD_AT(struct descriptor, reason, DESCRIPTOR_REASON);
FIELD_AT(struct descriptor, pieces, DESCRIPTOR_PIECES);
FIELD_AT(struct descriptor, head, DESCRIPTOR_HEAD);
FIELD_AT(struct descriptor, gso_type, DESCRIPTOR_GSO_TYPE);
FIELD_AT(struct descriptor, segments, DESCRIPTOR_SEGMENTS);
SIZE_IS(struct descriptor, DESCRIPTOR_STRIDE);

struct device {
    uint8_t kind;
    uint8_t vnet_size;
    uint16_t next_hop;
    uint8_t macs[12];
    uint32_t ingress;
    uint32_t egress;
    uint32_t closed;
    uint32_t unused;
};
FIELD_AT(struct device, vnet_size, DEVICE_VNET_SIZE);
FIELD_AT(struct device, next_hop, DEVICE_NEXT_HOP);
FIELD_AT(struct device, closed, DEVICE_CLOSED);
SIZE_IS(struct device, DEVICE_STRIDE);

struct peer {
    uint8_t tunnel;
    uint8_t unused;
    uint16_t device;
    uint32_t mtu;
    uint16_t next_hop;
    uint16_t unused_too;
    uint32_t vni;
    uint8_t remote[32];
    uint8_t header[PEER_HEADER_SIZE];
    uint8_t rest[10];
};
FIELD_AT(struct peer, device, PEER_DEVICE);
FIELD_AT(struct peer, mtu, PEER_MTU);
FIELD_AT(struct peer, remote, PEER_REMOTE);
FIELD_AT(struct peer, header, PEER_HEADER);
SIZE_IS(struct peer, PEER_STRIDE);

struct statistics {
    uint64_t rx_packets;
    uint64_t rx_bytes;
    uint64_t tx_packets;
    uint64_t tx_bytes;
    uint8_t rest[32];
};
FIELD_AT(struct statistics, tx_bytes, STATISTICS_TX_BYTES);
SIZE_IS(struct statistics, STATISTICS_STRIDE);

struct send {
    uint32_t pieces;
    uint32_t piece_count;
    uint32_t length;
    uint16_t device;
    uint16_t segment_size;
    uint16_t packets;
    uint8_t tos;
    uint8_t flags;
    uint32_t flow_hash;
    uint32_t peer;
    uint32_t unused;
    uint8_t remote[32];
};
FIELD_AT(struct send, device, SEND_DEVICE);
FIELD_AT(struct send, packets, SEND_PACKETS);
FIELD_AT(struct send, flags, SEND_FLAGS);
FIELD_AT(struct send, peer, SEND_PEER);
FIELD_AT(struct send, remote, SEND_REMOTE);
SIZE_IS(struct send, SEND_STRIDE);
