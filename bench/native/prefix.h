// Longest prefix match, as wasm/table/prefix.ts has it: a Poptrie (Asai and Ohara, SIGCOMM 2015)
// whose first 18 bits index a direct table. Leaves are narrow, those of routes.

#pragma once

#include "core.h"

struct prefix_node {
    uint64_t vector;   // a bit per slot that has a child
    uint64_t runs;     // a bit per slot that starts a run of leaves
    uint32_t leaves;   // less a leaf's size: ranks count from 1
    uint32_t children; // less NODE_SIZE
};
FIELD_AT(struct prefix_node, vector, NODE_VECTOR);
FIELD_AT(struct prefix_node, runs, NODE_RUNS);
FIELD_AT(struct prefix_node, leaves, NODE_LEAVES);
FIELD_AT(struct prefix_node, children, NODE_CHILDREN);
SIZE_IS(struct prefix_node, NODE_SIZE);

/** The direct table's entry for the first bits of a key: a value, or the address of a node. */
static inline uint32_t prefix_entry(const uint8_t *memory, uint32_t table, uint32_t slot)
{
    const uint32_t *direct = (const uint32_t *)(memory + table + PREFIX_DIRECT);
    return __atomic_load_n(direct + slot, __ATOMIC_ACQUIRE);
}

static inline const struct prefix_node *prefix_node(const uint8_t *memory, uint32_t address)
{
    return (const struct prefix_node *)(memory + address);
}

/** Value of the leaf of a slot. `inverted` is 63 less the slot; only its low six bits count. */
static inline uint32_t prefix_leaf(const uint8_t *memory, const struct prefix_node *node,
                                   uint64_t inverted)
{
    uint64_t rank = __builtin_popcountll(node->runs << (inverted & 63));
    return *(const uint16_t *)(memory + node->leaves + rank * PREFIX_LEAF_NARROW);
}

/** The child behind the slot that a vector was shifted for. */
static inline const struct prefix_node *prefix_child(const uint8_t *memory,
                                                     const struct prefix_node *node,
                                                     uint64_t shifted)
{
    uint64_t rank = __builtin_popcountll(shifted);
    return prefix_node(memory, node->children) + rank;
}

/** Value of an IPv4 address in host order; 0 if no prefix matches. */
static inline uint32_t prefix_find4(const uint8_t *memory, uint32_t table, uint32_t address)
{
    uint32_t entry = prefix_entry(memory, table, address >> (32 - PREFIX_DIRECT_BITS));
    if (entry <= PREFIX_VALUE_MAX)
        return entry;
    const struct prefix_node *node = prefix_node(memory, entry);
    uint64_t key = ~(uint64_t)address;
    uint64_t shifted = node->vector << ((key >> 8) & 63);
    if ((int64_t)shifted >= 0)
        return prefix_leaf(memory, node, key >> 8);
    node = prefix_child(memory, node, shifted);
    shifted = node->vector << ((key >> 2) & 63);
    if ((int64_t)shifted >= 0)
        return prefix_leaf(memory, node, key >> 2);
    return prefix_leaf(memory, prefix_child(memory, node, shifted), key << 4);
}

/** Value of a 128-bit key in two halves, host order; 0 if no prefix matches. */
static inline uint32_t prefix_find6(const uint8_t *memory, uint32_t table, uint64_t high,
                                    uint64_t low)
{
    uint32_t entry = prefix_entry(memory, table, high >> PREFIX_DIRECT_SHIFT);
    if (entry <= PREFIX_VALUE_MAX)
        return entry;
    const struct prefix_node *node = prefix_node(memory, entry);
    uint64_t key = ~high;
    for (int shift = PREFIX_DIRECT_SHIFT - NODE_BITS; shift > 0; shift -= NODE_BITS) {
        uint64_t shifted = node->vector << ((key >> shift) & 63);
        if ((int64_t)shifted >= 0)
            return prefix_leaf(memory, node, key >> shift);
        node = prefix_child(memory, node, shifted);
    }
    // Below, a stride has 4 bits of the high half and 2 of the low one, and then 6 of the low one.
    unsigned __int128 rest = ~(((unsigned __int128)high << 64) | low) << 60;
    for (;;) {
        key = (uint64_t)(rest >> 64) >> 58;
        uint64_t shifted = node->vector << key;
        if ((int64_t)shifted >= 0)
            return prefix_leaf(memory, node, key);
        node = prefix_child(memory, node, shifted);
        rest <<= NODE_BITS;
    }
}
