/* histogram.c: see histogram.h. */
#include "histogram.h"

#include <math.h>
#include <string.h>

enum { SUB = 1 << HISTOGRAM_BITS };

void histogram_clear(struct histogram *h)
{
    memset(h, 0, sizeof *h);
}

uint32_t histogram_bucket(uint64_t value)
{
    if (value < 2 * SUB)
        return (uint32_t)value;
    uint32_t shift = (uint32_t)(63 - __builtin_clzll(value)) - HISTOGRAM_BITS;
    return (shift << HISTOGRAM_BITS) + (uint32_t)(value >> shift);
}

void histogram_span(uint32_t bucket, uint64_t *low, uint64_t *high)
{
    if (bucket < 2 * SUB) {
        *low = *high = bucket;
        return;
    }
    uint32_t shift = (bucket >> HISTOGRAM_BITS) - 1;
    *low = (uint64_t)(bucket - (shift << HISTOGRAM_BITS)) << shift;
    *high = *low + ((UINT64_C(1) << shift) - 1);
}

void histogram_add(struct histogram *h, uint64_t value, uint64_t times)
{
    if (times == 0)
        return;
    if (h->count == 0 || value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
    h->count += times;
    h->sum += (double)value * (double)times;
    h->buckets[histogram_bucket(value)] += times;
}

uint64_t histogram_at(const struct histogram *h, double q)
{
    if (h->count == 0)
        return 0;
    uint64_t rank = (uint64_t)ceil(q * (double)h->count);
    if (rank < 1)
        rank = 1;
    if (rank >= h->count)
        return h->max;
    uint64_t seen = 0;
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen < rank)
            continue;
        uint64_t low, high;
        histogram_span(i, &low, &high);
        uint64_t middle = low + (high - low) / 2;
        return middle < h->min ? h->min : middle > h->max ? h->max : middle;
    }
    return h->max;
}
