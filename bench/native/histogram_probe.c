/* histogram_probe.c: the histogram as a program, for its test: numbers on stdin, one a line; quantiles as arguments.
 * Prints each quantile's value, then count, min, max, mean, then the largest error of a bucket's middle, in parts of the value,
 * over the buckets that were hit. */
#include "histogram.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    static struct histogram h;
    uint64_t value;
    double worst = 0;
    while (scanf("%" SCNu64, &value) == 1) {
        uint64_t low, high;
        histogram_add(&h, value, 1);
        histogram_span(histogram_bucket(value), &low, &high);
        if (value < low || value > high) {
            fprintf(stderr, "%" PRIu64 " is not in its bucket, %" PRIu64 " .. %" PRIu64 "\n", value, low, high);
            return 1;
        }
        double middle = (double)(low + (high - low) / 2), exact = (double)value;
        double error = middle > exact ? middle - exact : exact - middle;
        if (value > 0 && error / exact > worst)
            worst = error / exact;
    }
    for (int i = 1; i < argc; i++)
        printf("%" PRIu64 "\n", histogram_at(&h, strtod(argv[i], NULL)));
    printf("%" PRIu64 "\n%" PRIu64 "\n%" PRIu64 "\n", h.count, h.min, h.max);
    printf("%.6f\n%.9f\n", h.count ? h.sum / (double)h.count : 0, worst);
    return 0;
}
