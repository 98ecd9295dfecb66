// The flow table, as wasm/table/flow.ts has it: groups of 16 entries, each group with 16 tags that
// one comparison looks through, and two groups for each key. The hash is that of
// wasm/table/flow-hash.ts.

#pragma once

#include "core.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

struct flow {
    uint8_t address_a[16];
    uint8_t address_b[16];
    uint32_t ports;
    uint8_t protocol;
    uint8_t flags;
    uint8_t state;
    uint8_t signal;
    uint32_t epoch;
    int32_t expires;
    uint32_t answer_egress;
    uint32_t answer_ingress;
    uint32_t pair;
    int32_t lifetime;
};
FIELD_AT(struct flow, address_b, FLOW_ADDRESS_B);
FIELD_AT(struct flow, ports, FLOW_PORT_A);
FIELD_AT(struct flow, protocol, FLOW_PROTOCOL);
FIELD_AT(struct flow, flags, FLOW_FLAGS);
FIELD_AT(struct flow, state, FLOW_STATE);
FIELD_AT(struct flow, signal, FLOW_SIGNAL);
FIELD_AT(struct flow, epoch, FLOW_EPOCH);
FIELD_AT(struct flow, expires, FLOW_EXPIRES);
FIELD_AT(struct flow, pair, FLOW_PAIR);
FIELD_AT(struct flow, lifetime, FLOW_LIFETIME);
SIZE_IS(struct flow, FLOW_SIZE);

/** The keys of the hash. */
struct flow_keys {
    uint32_t address_a[4];
    uint32_t address_b[4];
    uint64_t rest;
    uint64_t spread;
};
FIELD_AT(struct flow_keys, address_b, FLOW_KEYS_ADDRESS_B);
FIELD_AT(struct flow_keys, rest, FLOW_KEYS_REST);
FIELD_AT(struct flow_keys, spread, FLOW_KEYS_SPREAD);
SIZE_IS(struct flow_keys, FLOW_KEYS_SIZE);

/** One worker's table. */
struct flow_table {
    struct flow *flows;
    uint8_t *tags;
    uint32_t count;
    struct flow_keys keys;
};

INLINE struct flow_table flow_table(uint8_t *memory, uint32_t table, uint32_t count)
{
    return (struct flow_table){
        .flows = (struct flow *)(memory + table),
        .tags = memory + table + count * FLOW_SIZE,
        .count = count,
        .keys = *(const struct flow_keys *)(memory + FLOW_KEYS),
    };
}

/** Ports, protocol and flags as they lie in memory, in one word. */
INLINE uint64_t flow_rest(const struct flow *key)
{
    return load64((const uint8_t *)&key->ports);
}

/** Words of one address plus keys, times the same of the other, summed up. */
INLINE uint64_t flow_address_sum(const struct flow *key, const struct flow_keys *keys)
{
#ifdef __SSE2__
    __m128i a = _mm_add_epi32(_mm_loadu_si128((const __m128i *)key->address_a),
                              _mm_loadu_si128((const __m128i *)keys->address_a));
    __m128i b = _mm_add_epi32(_mm_loadu_si128((const __m128i *)key->address_b),
                              _mm_loadu_si128((const __m128i *)keys->address_b));
    __m128i even = _mm_mul_epu32(a, b);
    __m128i odd = _mm_mul_epu32(_mm_srli_epi64(a, 32), _mm_srli_epi64(b, 32));
    __m128i sum = _mm_add_epi64(even, odd);
    return (uint64_t)_mm_cvtsi128_si64(_mm_add_epi64(sum, _mm_unpackhi_epi64(sum, sum)));
#else
    uint64_t sum = 0;
    for (int word = 0; word < 4; word++) {
        uint32_t a = load32(key->address_a + 4 * word) + keys->address_a[word];
        uint32_t b = load32(key->address_b + 4 * word) + keys->address_b[word];
        sum += (uint64_t)a * b;
    }
    return sum;
#endif
}

INLINE uint64_t flow_hash(const struct flow *key, const struct flow_keys *keys)
{
    uint64_t rest = flow_rest(key) & 0xffffffffff; // ports and protocol
    uint64_t sum = flow_address_sum(key, keys) + rest * keys->rest;
    return (sum ^ sum >> 32) * keys->spread;
}

/** Index of the first entry of a key's home group. */
INLINE uint32_t flow_home(uint64_t hash, uint32_t count)
{
    return (uint32_t)(hash >> 40) & (count - FLOW_GROUP_SIZE);
}

INLINE uint32_t flow_second(uint64_t hash, uint32_t count)
{
    return (uint32_t)((hash ^ hash >> 32) >> 4) & (count - FLOW_GROUP_SIZE);
}

/** A bit for each of a group's tags that is the hash's. */
INLINE unsigned flow_same_tags(const uint8_t *tags, uint64_t hash)
{
    uint8_t tag = (uint8_t)(hash >> 36 | FLOW_TAG_USED);
#ifdef __SSE2__
    __m128i same = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)tags), _mm_set1_epi8((char)tag));
    return (unsigned)_mm_movemask_epi8(same);
#else
    unsigned same = 0;
    for (int index = 0; index < FLOW_GROUP_SIZE; index++)
        same |= (unsigned)(tags[index] == tag) << index;
    return same;
#endif
}

/** True where a flow in use has this key: the same addresses, and the same 41 bits of ports,
 * protocol and FLOW_FLAG_USED. */
INLINE bool flow_matches(const struct flow *flow, const struct flow *key)
{
    bool same_rest = (flow_rest(flow) ^ flow_rest(key)) << 23 == 0;
#ifdef __SSE2__
    __m128i a = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)flow->address_a),
                               _mm_loadu_si128((const __m128i *)key->address_a));
    __m128i b = _mm_cmpeq_epi8(_mm_loadu_si128((const __m128i *)flow->address_b),
                               _mm_loadu_si128((const __m128i *)key->address_b));
    return _mm_movemask_epi8(_mm_and_si128(a, b)) == 0xffff && same_rest;
#else
    return memcmp(flow, key, FLOW_PORT_A) == 0 && same_rest;
#endif
}

INLINE struct flow *flow_search_group(const struct flow_table *table, uint32_t first,
                                             uint64_t hash, const struct flow *key)
{
    unsigned match = flow_same_tags(table->tags + first, hash);
    for (; match != 0; match &= match - 1) {
        struct flow *flow = table->flows + first + __builtin_ctz(match);
        if (flow_matches(flow, key))
            return flow;
    }
    return NULL;
}

/** The entry of a key in either of its groups, NULL if there is none. */
INLINE struct flow *flow_find(const struct flow_table *table, const struct flow *key)
{
    uint64_t hash = flow_hash(key, &table->keys);
    struct flow *found = flow_search_group(table, flow_home(hash, table->count), hash, key);
    if (found != NULL)
        return found;
    return flow_search_group(table, flow_second(hash, table->count), hash, key);
}
