/* test_histogram.c: latency histograms. Buckets lie without gaps, a value is counted in the bucket whose bounds hold it, and
 * the middle of a bucket is within 2 % of every value in it, from 3.2 us (where 64 ns are 2 %) to beyond Lambda's longest
 * timeout. */
#include "harness.h"
#include "histogram.h"

enum { FINE_FROM_NS = 3200 }; /* below: off by half a unit of 64 ns at most */

static const uint64_t REACH_NS = 900ULL * 1000 * 1000 * 1000;

static struct core_histogram histogram;

static uint32_t bucket_of(uint64_t value_ns) {
    histogram_add(&histogram, value_ns);
    for (uint32_t bucket = 0; bucket < CORE_HISTOGRAM_BUCKETS; bucket++) {
        if (histogram.buckets[bucket] != 0) {
            histogram.buckets[bucket] = 0;
            return bucket;
        }
    }
    SCHED_ASSERT(!"counted");
    return 0;
}

static void check_value(uint64_t value_ns) {
    uint64_t low_ns, high_ns;
    const uint32_t bucket = bucket_of(value_ns);
    core_histogram_bounds(bucket, &low_ns, &high_ns);
    SCHED_ASSERT(low_ns <= value_ns && (value_ns < high_ns || high_ns == UINT64_MAX));
    if (value_ns <= REACH_NS) {
        SCHED_ASSERT(high_ns != UINT64_MAX);
        const double middle = ((double)low_ns + (double)high_ns) / 2;
        const double off = middle > (double)value_ns ? middle - (double)value_ns : (double)value_ns - middle;
        SCHED_ASSERT(off <= 32 || off <= 0.016 * (double)value_ns);
        SCHED_ASSERT(value_ns < FINE_FROM_NS || off <= 0.02 * (double)value_ns);
    }
}

static void test_buckets_without_gaps(void) {
    uint64_t expected_ns = 0;
    for (uint32_t bucket = 0; bucket < CORE_HISTOGRAM_BUCKETS; bucket++) {
        uint64_t low_ns, high_ns;
        core_histogram_bounds(bucket, &low_ns, &high_ns);
        SCHED_ASSERT(low_ns == expected_ns && high_ns > low_ns);
        SCHED_ASSERT(bucket_of(low_ns) == bucket && bucket_of(high_ns - 1) == bucket);
        expected_ns = high_ns;
    }
    SCHED_ASSERT(expected_ns == UINT64_MAX);
}

static void test_values_over_the_whole_range(void) {
    for (uint64_t value_ns = 0; value_ns < 10000; value_ns++) {
        check_value(value_ns);
    }
    for (unsigned bit = 0; bit < 64; bit++) {
        for (int64_t off = -2; off <= 2; off++) {
            check_value((1ULL << bit) + (uint64_t)off);
        }
    }
    uint64_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        check_value(random_next(&seed) >> random_below(&seed, 64));
    }
    check_value(REACH_NS);
    check_value(UINT64_MAX);
}

static void test_count_and_sum(void) {
    struct core_histogram sums = {0};
    histogram_add(&sums, 5);
    histogram_add(&sums, 1000000);
    histogram_add(&sums, 1000000);
    SCHED_ASSERT(sums.count == 3 && sums.sum_ns == 2000005);
    uint64_t counted = 0;
    for (uint32_t bucket = 0; bucket < CORE_HISTOGRAM_BUCKETS; bucket++) {
        counted += sums.buckets[bucket];
    }
    SCHED_ASSERT(counted == 3 && sums.buckets[0] == 1);
}

int main(void) {
    RUN(test_buckets_without_gaps);
    RUN(test_values_over_the_whole_range);
    RUN(test_count_and_sum);
    return 0;
}
