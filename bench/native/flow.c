// Lookups in the flow table alone, in batches: the twin of flowFindMany(), in the same two passes.

#include "flow.h"

#define FIND_MANY 32

INLINE void find_many(const struct flow_table *table, const uint8_t *memory,
                             const struct flow *key, int count, uint32_t *found, bool prefetch)
{
    for (int done = 0; done < count; done += FIND_MANY, key += FIND_MANY, found += FIND_MANY) {
        for (int index = 0; index < FIND_MANY; index++) {
            uint64_t hash = flow_hash(key + index, &table->keys);
            uint32_t home = flow_home(hash, table->count);
            unsigned match = flow_same_tags(table->tags + home, hash) | 1 << FLOW_GROUP_SIZE;
            uint32_t place = home + (__builtin_ctz(match) & (FLOW_GROUP_SIZE - 1));
            const struct flow *likely = table->flows + place;
            if (prefetch)
                __builtin_prefetch(likely);
            found[index] = (uint32_t)((const uint8_t *)likely - memory);
        }
        for (int index = 0; index < FIND_MANY; index++) {
            const struct flow *flow = (const struct flow *)(memory + found[index]);
            if (flow_matches(flow, key + index))
                continue;
            flow = flow_find(table, key + index);
            found[index] = flow == NULL ? 0 : (uint32_t)((const uint8_t *)flow - memory);
        }
    }
}

/** Looks up `count` keys, an entry apart, and writes the address of each one's entry, or 0. */
EXPORT int flow_many(uint8_t *memory, uint32_t table, uint32_t entries, uint32_t keys, int count,
                     uint32_t found)
{
    const struct flow_table flows = flow_table(memory, table, entries);
    find_many(&flows, memory, (const struct flow *)(memory + keys), count,
              (uint32_t *)(memory + found), false);
    return 0;
}

/** The same with prefetch instructions, which WebAssembly does not have. */
EXPORT int flow_many_prefetch(uint8_t *memory, uint32_t table, uint32_t entries, uint32_t keys,
                              int count, uint32_t found)
{
    const struct flow_table flows = flow_table(memory, table, entries);
    find_many(&flows, memory, (const struct flow *)(memory + keys), count,
              (uint32_t *)(memory + found), true);
    return 0;
}
