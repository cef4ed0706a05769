/* writer.h: text into a room of a known size. What does not fit is dropped, and told at the end. */
#ifndef SCHED_WRITER_H
#define SCHED_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct writer {
    uint8_t *at;
    uint8_t *end;
    bool full; /* something was dropped */
};

static inline void write_bytes(struct writer *writer, const void *from, size_t bytes) {
    if ((size_t)(writer->end - writer->at) < bytes) {
        writer->full = true;
        return;
    }
    memcpy(writer->at, from, bytes);
    writer->at += bytes;
}

static inline void write_byte(struct writer *writer, uint8_t byte) {
    write_bytes(writer, &byte, 1);
}

static inline void write_text(struct writer *writer, const char *text) {
    write_bytes(writer, text, strlen(text));
}

static inline void write_number(struct writer *writer, uint64_t value) {
    char digits[24];
    unsigned at = sizeof digits;
    do {
        digits[--at] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    write_bytes(writer, digits + at, sizeof digits - at);
}

#endif
