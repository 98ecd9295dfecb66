// Lookups alone, in batches: the twins of prefixFindMany4() and prefixFindMany6().

#include "prefix.h"

/** Looks up `count` IPv4 addresses, u32 in host order. */
EXPORT int lpm4_many(const uint8_t *memory, uint32_t table, uint32_t addresses, int count,
                     uint32_t values)
{
    const uint32_t *address = (const uint32_t *)(memory + addresses);
    uint16_t *value = (uint16_t *)(memory + values);
    for (int index = 0; index < count; index++)
        value[index] = (uint16_t)prefix_find4(memory, table, address[index]);
    return 0;
}

/** Looks up `count` keys of PREFIX_KEY_SIZE bytes, in network order. */
EXPORT int lpm6_many(const uint8_t *memory, uint32_t table, uint32_t keys, int count,
                     uint32_t values)
{
    const uint8_t *key = memory + keys;
    uint16_t *value = (uint16_t *)(memory + values);
    for (int index = 0; index < count; index++, key += PREFIX_KEY_SIZE)
        value[index] = (uint16_t)prefix_find6(memory, table, __builtin_bswap64(load64(key)),
                                              __builtin_bswap64(load64(key + 8)));
    return 0;
}
