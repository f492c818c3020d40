/* A log-linear histogram of nanoseconds: 64 buckets per octave, so 1.6 % wide. */
#ifndef BENCH_HISTOGRAM_H
#define BENCH_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BUCKETS = 64 * 40 };

struct histogram {
    uint64_t total;
    uint64_t largest;
    uint64_t count[HISTOGRAM_BUCKETS];
};

static inline void histogram_add(struct histogram *histogram, uint64_t value)
{
    unsigned shift = value < 64 ? 0 : 57 - (unsigned)__builtin_clzll(value);
    unsigned at = shift * 64 + (unsigned)(value >> shift);
    if (at >= HISTOGRAM_BUCKETS)
        at = HISTOGRAM_BUCKETS - 1;
    histogram->count[at]++;
    histogram->total++;
    if (value > histogram->largest)
        histogram->largest = value;
}

/* The middle of a bucket. Buckets 0..127 hold one value each. */
static inline uint64_t histogram_value(unsigned at)
{
    if (at < 128)
        return at;
    unsigned shift = at / 64 - 1;
    return ((uint64_t)(at - shift * 64) << shift) + ((1ull << shift) / 2);
}

static inline uint64_t histogram_quantile(const struct histogram *histogram, double quantile)
{
    uint64_t rank = (uint64_t)(quantile * (double)histogram->total), seen = 0;
    for (unsigned at = 0; at < HISTOGRAM_BUCKETS; at++) {
        seen += histogram->count[at];
        if (seen > rank)
            return histogram_value(at);
    }
    return histogram->largest;
}

#endif
