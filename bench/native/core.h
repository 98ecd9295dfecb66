// What the C twins of the core share. A twin works on the tables and packet slots of the core
// itself, in the same linear memory: `memory` is its first byte, and an address is an offset from
// there, as in the core. abi.h has the shared numbers; bench/native.ts makes it from wasm/abi.
//
// Records are structures whose layout is checked against those numbers when they are compiled.
// They lie in memory that has no type of its own, and every access to a place goes through the same
// structure; bytes of packets are read with memcpy(), as they may lie anywhere.

#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "abi.h"

#define EXPORT __attribute__((visibility("default")))
/** Inlined at once: where gcc inlines late, it keeps structures of the caller in memory. */
#define INLINE static inline __attribute__((always_inline))

/** Fails to compile unless a field is where the core has it. */
#define FIELD_AT(type, field, offset) \
    _Static_assert(offsetof(type, field) == (offset), #type "." #field " is somewhere else")
#define SIZE_IS(type, size) _Static_assert(sizeof(type) == (size), #type " has another size")

INLINE uint16_t load16(const uint8_t *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

INLINE uint32_t load32(const uint8_t *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

INLINE uint64_t load64(const uint8_t *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

INLINE uint64_t rotate_left(uint64_t value, int by)
{
    return value << by | value >> (64 - by);
}

INLINE void store16(uint8_t *at, uint16_t value)
{
    memcpy(at, &value, sizeof value);
}

INLINE void store32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, sizeof value);
}

/** A field of the directory: where tables are and how large. */
INLINE uint32_t directory(const uint8_t *memory, uint32_t field)
{
    return load32(memory + DIRECTORY_START + field);
}
