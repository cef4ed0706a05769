/* load_report.c: what was measured, as one JSON object on stdout. Times in microseconds, rates per second. */
#include "load.h"

#include <inttypes.h>
#include <stdio.h>

static double us(uint64_t ns)
{
    return (double)ns / 1000.0;
}

static void print_text(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar((unsigned char)*text < 0x20 ? '?' : *text);
    }
    putchar('"');
}

static void print_count(const char *name, uint64_t count)
{
    printf("\"%s\": %" PRIu64 ", ", name, count);
}

static void print_histogram(const char *name, const struct histogram *h)
{
    printf("\"%s\": {\"count\": %" PRIu64 ", \"mean\": %.3f, \"min\": %.3f, \"p50\": %.3f, \"p90\": %.3f, ", name, h->count,
           h->count ? h->sum / (double)h->count / 1000.0 : 0, us(h->min), us(histogram_at(h, 0.5)), us(histogram_at(h, 0.9)));
    printf("\"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}", us(histogram_at(h, 0.99)), us(histogram_at(h, 0.999)), us(h->max));
}

static void print_stream(const struct load *load, const struct stream *s)
{
    static const char *const modes[] = {"closed", "open", "idle"};
    uint64_t first = s->begin_ns > load->record_ns ? s->begin_ns : load->record_ns;
    uint64_t last = s->end_ns;
    double seconds = last > first ? (double)(last - first) / 1e9 : 0;
    printf("{\"name\": ");
    print_text(s->name);
    printf(", \"mode\": \"%s\", \"connections\": %u, \"inflight\": %u, \"offered_per_s\": %.3f, \"seconds\": %.6f, ",
           modes[s->mode], s->connections, s->mode == MODE_CLOSED ? s->inflight : 0, s->mode == MODE_OPEN ? s->rate : 0.0,
           seconds);
    print_count("sent", s->sent);
    print_count("ok", s->ok);
    print_count("failed", s->failed);
    print_count("mismatched", s->mismatched);
    print_count("unsent", s->unsent);
    print_count("unanswered", s->unanswered);
    print_count("late", s->late);
    printf("\"ok_per_s\": %.3f, \"failed_per_s\": %.3f, ", seconds > 0 ? (double)s->ok_inside / seconds : 0,
           seconds > 0 ? (double)s->failed_inside / seconds : 0);
    print_histogram("latency_us", &s->latency);
    printf(", ");
    print_histogram("lateness_us", &s->lateness);
    printf(", \"errors\": {");
    for (uint32_t i = 0; i < s->errors_count; i++) {
        printf("%s", i ? ", " : "");
        print_text(s->errors[i].type);
        printf(": {\"count\": %llu, ", (unsigned long long)s->errors[i].count);
        print_histogram("latency_us", s->errors[i].latency);
        printf("}");
    }
    printf("}, \"kinds\": [");
    for (uint32_t i = 0; s->kinds_count > 1 && i < s->kinds_count; i++) {
        printf("%s{\"payload_bytes\": %zu, ", i ? ", " : "", s->kinds[i].payload_bytes);
        print_histogram("latency_us", s->kinds[i].latency);
        printf("}");
    }
    printf("], \"series\": [");
    for (uint32_t i = 0; i < s->series_count; i++) {
        const struct interval *at = &s->series[i];
        printf("%s{\"ok\": %llu, \"failed\": %llu, \"p50_us\": %.3f, \"p99_us\": %.3f, \"max_us\": %.3f}", i ? ", " : "",
               (unsigned long long)at->ok, (unsigned long long)at->failed, us(at->p50_ns), us(at->p99_ns), us(at->max_ns));
    }
    printf("]}");
}

void load_report(const struct load *load)
{
    double calls = load->handled ? (double)load->handled : 1;
    printf("{\"warmup_ms\": %.3f, \"series_ms\": %.3f, \"pin\": %d, \"spin\": %s, \"seed\": %llu, \"connections_cut\": %u, ",
           (double)load->warmup_ns / 1e6, (double)load->series_ns / 1e6, load->pin, load->spin ? "true" : "false",
           (unsigned long long)load->seed, load->cut);
    printf("\"own_cpu\": {\"user_s\": %.6f, \"system_s\": %.6f, \"us_per_call\": %.4f, \"calls\": %" PRIu64 "}, \"streams\": [",
           (double)load->user_ns / 1e9, (double)load->system_ns / 1e9,
           (double)(load->user_ns + load->system_ns) / 1000.0 / calls, load->handled);
    for (uint32_t i = 0; i < load->streams_count; i++) {
        printf("%s", i ? ", " : "");
        print_stream(load, load->streams[i]);
    }
    printf("]}\n");
}
