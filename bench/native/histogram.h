/* histogram.h: a log-linear histogram of nanoseconds.
 *
 * 128 buckets an octave, exact below 256 ns: a bucket's middle is off by at most 1/256 (0.4 %) of the value. Smallest, largest
 * and sum are exact. Nothing is dropped and nothing saturates: all of 64 bits have a bucket.
 */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BITS = 7, HISTOGRAM_BUCKETS = (64 - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS };

struct histogram {
    uint64_t count;
    uint64_t min;
    uint64_t max;
    double sum;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

void histogram_clear(struct histogram *h);
void histogram_add(struct histogram *h, uint64_t value, uint64_t times);
/* The value at or below which q (0 .. 1) of all lie; 0 when empty. */
uint64_t histogram_at(const struct histogram *h, double q);
/* For tests: which bucket, and what it spans: [low, high]. */
uint32_t histogram_bucket(uint64_t value);
void histogram_span(uint32_t bucket, uint64_t *low, uint64_t *high);

#endif
