/* Log-linear histogram: 32 linear buckets an octave, so a bucket's middle is within 1/64 = 1.6 % of any value in it.
 * Bucket 0..31 hold 0..31 ns one by one; from there on the bucket is (octave, five bits after the leading one). 1,024 buckets
 * reach 2^36 ns = 68 s with full resolution; the last bucket takes the rest: see the unit below.
 *
 * Values are counted in units of 64 ns, which moves the reach to 2^42 ns = 73 minutes, above Lambda's longest timeout. */
#include "histogram.h"

enum { UNIT_BITS = 6, LINEAR_BITS = 5 };

static uint32_t bucket_of(uint64_t value_ns) {
    const uint64_t value = value_ns >> UNIT_BITS;
    if (value < (1U << LINEAR_BITS)) {
        return (uint32_t)value;
    }
    const unsigned top = 63U - (unsigned)__builtin_clzll(value);
    const unsigned octave = top - LINEAR_BITS + 1;
    const uint64_t bucket = ((uint64_t)octave << LINEAR_BITS) | ((value >> (top - LINEAR_BITS)) & 31U);
    return bucket < CORE_HISTOGRAM_BUCKETS ? (uint32_t)bucket : CORE_HISTOGRAM_BUCKETS - 1;
}

void histogram_add(struct core_histogram *histogram, uint64_t value_ns) {
    histogram->count++;
    histogram->sum_ns += value_ns;
    histogram->buckets[bucket_of(value_ns)]++;
}

void core_histogram_bounds(uint32_t bucket, uint64_t *low_ns, uint64_t *high_ns) {
    const uint32_t octave = bucket >> LINEAR_BITS;
    const uint64_t digit = bucket & 31U;
    if (octave == 0) {
        *low_ns = digit << UNIT_BITS;
        *high_ns = (digit + 1) << UNIT_BITS;
        return;
    }
    const unsigned shift = octave - 1 + UNIT_BITS;
    *low_ns = (32 + digit) << shift;
    *high_ns = bucket + 1 >= CORE_HISTOGRAM_BUCKETS ? UINT64_MAX : (33 + digit) << shift;
}
