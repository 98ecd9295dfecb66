// The Internet checksum (RFC 1071) of many runs of bytes: the twin of checksumMany().
//
// Vectors are summed as in wasm/checksum.ts: lanes of 64 bits as they are, and once more their
// upper halves, by which the carries lost are known. There are four pairs of sums and 64 bytes in a
// turn, where the core has two and 128: that is what gcc makes the quicker code of. The plain loop
// over 16-bit words, which gcc turns into vectors by itself, takes twice as long.

#include "core.h"

#ifdef __SSE4_1__
#include <smmintrin.h>
#endif

#define VECTOR_MINIMUM 64

INLINE uint16_t fold(uint64_t sum)
{
    uint32_t half = (uint32_t)((sum + rotate_left(sum, 32)) >> 32);
    return (uint16_t)~((half + (half << 16 | half >> 16)) >> 16);
}

/** Sums what is less than a vector's worth, or a short run. */
INLINE uint64_t sum_words(const uint8_t *at, int length)
{
    uint64_t sum = 0;
    for (; length >= 16; length -= 16, at += 16)
        sum += (uint64_t)load32(at) + load32(at + 4) + load32(at + 8) + load32(at + 12);
    if (length & 8) {
        sum += (uint64_t)load32(at) + load32(at + 4);
        at += 8;
    }
    if (length & 4) {
        sum += load32(at);
        at += 4;
    }
    if (length & 2) {
        sum += load16(at);
        at += 2;
    }
    return length & 1 ? sum + *at : sum;
}

#ifdef __SSE4_1__

/** Sums of lanes as they are, and of their upper halves. */
struct pair {
    __m128i whole;
    __m128i upper;
};

INLINE void add(struct pair *pair, const uint8_t *at)
{
    __m128i words = _mm_loadu_si128((const __m128i *)at);
    pair->whole = _mm_add_epi64(pair->whole, words);
    pair->upper = _mm_add_epi64(pair->upper, _mm_srli_epi64(words, 32));
}

INLINE struct pair join(struct pair one, struct pair other)
{
    one.whole = _mm_add_epi64(one.whole, other.whole);
    one.upper = _mm_add_epi64(one.upper, other.upper);
    return one;
}

/** The sum of all 32-bit words that went into a pair. */
INLINE uint64_t sum_of(struct pair pair)
{
    __m128i lower = _mm_sub_epi64(pair.whole, _mm_slli_epi64(pair.upper, 32));
    __m128i both = _mm_add_epi64(lower, pair.upper);
    return (uint64_t)_mm_cvtsi128_si64(both) + (uint64_t)_mm_extract_epi64(both, 1);
}

INLINE uint64_t sum_bytes(const uint8_t *at, int length)
{
    if (length < VECTOR_MINIMUM)
        return sum_words(at, length);
    struct pair a = { _mm_setzero_si128(), _mm_setzero_si128() };
    struct pair b = a, c = a, d = a;
    for (; length >= 64; length -= 64, at += 64) {
        add(&a, at);
        add(&b, at + 16);
        add(&c, at + 32);
        add(&d, at + 48);
    }
    return sum_of(join(join(a, b), join(c, d))) + sum_words(at, length);
}

#else

INLINE uint64_t sum_bytes(const uint8_t *at, int length)
{
    return sum_words(at, length);
}

#endif

/** Checksums of `count` runs of `length` bytes, `stride` bytes apart, each a u16. */
EXPORT int checksum_many(uint8_t *memory, uint32_t start, int length, int stride, int count,
                         uint32_t sums)
{
    uint16_t *sum = (uint16_t *)(memory + sums);
    for (int index = 0; index < count; index++)
        sum[index] = fold(sum_bytes(memory + start + index * stride, length));
    return 0;
}
