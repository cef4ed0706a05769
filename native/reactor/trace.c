/* trace.c: see trace.h. */
#include "trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "../core/invariant.h"

struct slice {
    const char *at; /* NULL: absent */
    size_t size;
};

struct fields {
    struct slice root, parent, sampled, lineage;
};

static bool is_hex(const char *at, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (!((at[i] >= '0' && at[i] <= '9') || (at[i] >= 'a' && at[i] <= 'f') || (at[i] >= 'A' && at[i] <= 'F'))) {
            return false;
        }
    }
    return true;
}

static uint64_t hex_value(const char *at, size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; i++) {
        const char c = at[i];
        value = value << 4 | (uint64_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    return value;
}

static bool root_ok(struct slice root) {
    return root.at != NULL && root.size == 35 && root.at[0] == '1' && root.at[1] == '-' && is_hex(root.at + 2, 8) && root.at[10] == '-' &&
           is_hex(root.at + 11, 24);
}

static bool starts(const char *at, size_t size, const char *word) {
    const size_t length = strlen(word);
    return size >= length && memcmp(at, word, length) == 0;
}

static void put_field(struct slice *out, const char *at, size_t size, size_t name) {
    if (out->at == NULL) {
        *out = (struct slice){at + name, size - name};
    }
}

static struct fields read_fields(const char *in, size_t bytes) {
    struct fields found = {{0}, {0}, {0}, {0}};
    size_t at = 0;
    while (at < bytes) {
        while (at < bytes && (in[at] == ' ' || in[at] == ';')) {
            at++;
        }
        const char *const semicolon = memchr(in + at, ';', bytes - at);
        const size_t size = semicolon == NULL ? bytes - at : (size_t)(semicolon - in) - at;
        if (starts(in + at, size, "Root=")) {
            put_field(&found.root, in + at, size, 5);
        } else if (starts(in + at, size, "Parent=")) {
            put_field(&found.parent, in + at, size, 7);
        } else if (starts(in + at, size, "Sampled=")) {
            put_field(&found.sampled, in + at, size, 8);
        } else if (starts(in + at, size, "Lineage=")) {
            put_field(&found.lineage, in + at, size, 8);
        }
        at += size;
    }
    return found;
}

/* One entry: "1:" 8 digits of hex ":" a number below 100. */
static bool read_entry(struct slice entry, uint32_t *hash, uint32_t *count) {
    const char *const at = entry.at;
    if (entry.size < 12 || entry.size > 13 || at[1] != ':' || at[10] != ':' || at[0] < '0' || at[0] > '9' || !is_hex(at + 2, 8)) {
        return false;
    }
    *count = 0;
    for (size_t i = 11; i < entry.size; i++) {
        if (at[i] < '0' || at[i] > '9') {
            return false;
        }
        *count = *count * 10 + (uint32_t)(at[i] - '0');
    }
    *hash = (uint32_t)hex_value(at + 2, 8);
    return true;
}

struct entries {
    uint32_t count;
    uint32_t hash[TRACE_ENTRIES_MAX];
    uint32_t visits[TRACE_ENTRIES_MAX];
};

static void add_entry(struct entries *entries, uint32_t hash, uint32_t visits) {
    if (entries->count == TRACE_ENTRIES_MAX) {
        memmove(entries->hash, entries->hash + 1, sizeof entries->hash - sizeof entries->hash[0]);
        memmove(entries->visits, entries->visits + 1, sizeof entries->visits - sizeof entries->visits[0]);
        entries->count--;
    }
    entries->hash[entries->count] = hash;
    entries->visits[entries->count++] = visits;
}

/* What cannot be read is left out. The function's own entry goes to the end: those that are forgotten are not come back to. */
static struct entries read_lineage(struct slice lineage, uint32_t function, uint32_t *visits) {
    struct entries entries = {.count = 0};
    *visits = 0;
    size_t at = 0;
    while (at < lineage.size) {
        const char *const bar = memchr(lineage.at + at, '|', lineage.size - at);
        const size_t size = bar == NULL ? lineage.size - at : (size_t)(bar - lineage.at) - at;
        uint32_t hash, count;
        if (read_entry((struct slice){lineage.at + at, size}, &hash, &count)) {
            if (hash == function) {
                *visits = count + 1 > *visits ? count + 1 : *visits;
            } else {
                add_entry(&entries, hash, count);
            }
        }
        at += size + 1;
    }
    add_entry(&entries, function, *visits);
    return entries;
}

static char *put_hex(char *at, const uint8_t *bytes, size_t count) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        *at++ = digits[bytes[i] >> 4];
        *at++ = digits[bytes[i] & 15];
    }
    return at;
}

static char *put_text(char *at, const char *text, size_t size) {
    memcpy(at, text, size);
    return at + size;
}

void trace_make(const uint8_t *in, size_t bytes, const struct trace_ask *ask, struct trace *out) {
    const char *const text = (const char *)in;
    char w3c_root[35];
    struct fields given = {{0}, {0}, {0}, {0}};
    if (bytes > 0) {
        given = read_fields(text, bytes);
    }
    if (given.root.at == NULL && bytes >= 55 && is_hex(text, 2) && text[2] == '-' && is_hex(text + 3, 32) && text[35] == '-' &&
        is_hex(text + 36, 16) && text[52] == '-' && is_hex(text + 53, 2)) {
        memcpy(put_text(put_text(put_text(w3c_root, "1-", 2), text + 3, 8), "-", 1), text + 11, 24);
        given.root = (struct slice){w3c_root, sizeof w3c_root};
        given.parent = (struct slice){text + 36, 16};
        given.sampled = (struct slice){(hex_value(text + 53, 2) & 1) != 0 ? "1" : "0", 1};
    }
    const bool known = root_ok(given.root);
    const bool has_parent = known && given.parent.at != NULL && given.parent.size == 16 && is_hex(given.parent.at, 16);
    const bool decided = known && given.sampled.at != NULL && given.sampled.size == 1 &&
                         (given.sampled.at[0] == '0' || given.sampled.at[0] == '1');
    out->parent = has_parent ? hex_value(given.parent.at, 16) : 0;
    out->sampled = decided ? given.sampled.at[0] == '1' : ask->active && ask->sample;
    char *at = put_text(out->text, "Root=", 5);
    if (known) {
        at = put_text(at, given.root.at, given.root.size);
    } else {
        const uint8_t when[4] = {(uint8_t)(ask->now_s >> 24), (uint8_t)(ask->now_s >> 16), (uint8_t)(ask->now_s >> 8),
                                 (uint8_t)ask->now_s};
        at = put_hex(put_text(put_hex(put_text(at, "1-", 2), when, sizeof when), "-", 1), ask->random, 12);
    }
    at = put_text(at, ";Parent=", 8);
    at = has_parent && !ask->active ? put_text(at, given.parent.at, 16) : put_hex(at, ask->random + 12, 8);
    at = put_text(put_text(at, ";Sampled=", 9), out->sampled ? "1" : "0", 1);
    at = put_text(at, ";Lineage=", 9);
    const struct entries entries = read_lineage(given.lineage, ask->function, &out->visits);
    for (uint32_t i = 0; i < entries.count; i++) {
        at += snprintf(at, 16, "%s1:%08" PRIx32 ":%" PRIu32, i == 0 ? "" : "|", entries.hash[i], entries.visits[i] < 99 ? entries.visits[i] : 99);
    }
    out->visits++;
    out->size = (uint32_t)(at - out->text);
    SCHED_ASSERT(out->size < TRACE_TEXT_MAX);
}

bool trace_has_lineage(const uint8_t *in, size_t bytes) {
    return read_fields((const char *)in, bytes).lineage.at != NULL;
}

bool trace_ids(const char *text, size_t bytes, char root[33], char parent[17]) {
    const struct fields found = read_fields(text, bytes);
    if (!root_ok(found.root) || found.parent.at == NULL || found.parent.size != 16) {
        return false;
    }
    memcpy(root, found.root.at + 2, 8);
    memcpy(root + 8, found.root.at + 11, 24);
    memcpy(parent, found.parent.at, 16);
    root[32] = parent[16] = '\0';
    return true;
}

uint32_t trace_hash(const char *name) {
    uint32_t hash = 0x811c9dc5U; /* FNV-1a */
    for (; *name != '\0'; name++) {
        hash = (hash ^ (uint8_t)*name) * 0x01000193U;
    }
    return hash;
}
