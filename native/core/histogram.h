/* histogram.h: log-linear latency histograms, error of a bucket's middle at most 1.6 %. */
#ifndef SCHED_HISTOGRAM_H
#define SCHED_HISTOGRAM_H

#include "core.h"

/* O(1). */
void histogram_add(struct core_histogram *histogram, uint64_t value_ns);

#endif
