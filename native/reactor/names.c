/* names.c: what callers call functions (every accepted form is put here by the registry), and what we call them in answers.
 *
 * Open addressing with linear probing; a removed name leaves a mark so that probes go on. The table is made anew when it is half
 * full of names and marks, which only the slow side can bring about. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "reactor.h"
#include "trace.h"

enum { NAMES_MIN = 1024, ARN_BYTES_MAX = 512 };

static char deleted_mark;
#define DELETED (&deleted_mark)

static uint32_t hash_of(const uint8_t *text, size_t size) {
    uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a, 64 bits; names are short */
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ text[i]) * 0x100000001b3ULL;
    }
    return (uint32_t)(hash ^ (hash >> 32));
}

bool names_new(struct sched *sched) {
    sched->names_mask = NAMES_MIN - 1;
    sched->names = calloc(NAMES_MIN, sizeof *sched->names);
    sched->functions = calloc(sched->config.core.functions_max, sizeof *sched->functions);
    sched->account_names = calloc(sched->config.core.accounts_max, sizeof *sched->account_names);
    return sched->names != NULL && sched->functions != NULL && sched->account_names != NULL;
}

static void info_clear(struct sched *sched, struct function_info *info) {
    free(info->display);
    free(info->init_error);
    journal_close(&sched->journal, info->journal);
    *info = (struct function_info){0};
}

void names_free(struct sched *sched) {
    for (uint32_t i = 0; sched->names != NULL && i <= sched->names_mask; i++) {
        if (sched->names[i].text != DELETED) {
            free(sched->names[i].text);
        }
    }
    for (uint32_t i = 0; sched->functions != NULL && i < sched->config.core.functions_max; i++) {
        info_clear(sched, &sched->functions[i]);
    }
    for (uint32_t i = 0; sched->account_names != NULL && i < sched->config.core.accounts_max; i++) {
        free(sched->account_names[i]);
    }
    free(sched->names);
    free(sched->functions);
    free(sched->account_names);
    sched->names = NULL;
    sched->functions = NULL;
    sched->account_names = NULL;
}

static uint32_t hash_of_both(const uint8_t *text, size_t size, struct rpc_slice guest) {
    const uint32_t hash = hash_of(text, size);
    return guest.size == 0 ? hash : hash * 31 ^ hash_of(guest.at, guest.size);
}

static struct name *find(const struct sched *sched, const uint8_t *text, size_t size, struct rpc_slice guest, uint32_t hash) {
    for (uint32_t i = hash & sched->names_mask; sched->names[i].text != NULL; i = (i + 1) & sched->names_mask) {
        struct name *name = &sched->names[i];
        if (name->text != DELETED && name->hash == hash && name->size == size && name->guest_size == guest.size &&
            memcmp(name->text, text, size) == 0 && (guest.size == 0 || memcmp(name->text + size, guest.at, guest.size) == 0)) {
            return name;
        }
    }
    return NULL;
}

static void place(struct name *names, uint32_t mask, struct name name) {
    uint32_t i = name.hash & mask;
    while (names[i].text != NULL) {
        i = (i + 1) & mask;
    }
    names[i] = name;
}

static bool rebuild(struct sched *sched) {
    uint32_t live = 0;
    for (uint32_t i = 0; i <= sched->names_mask; i++) {
        live += sched->names[i].text != NULL && sched->names[i].text != DELETED;
    }
    uint32_t capacity = NAMES_MIN;
    while (capacity < 4 * (live + 1)) {
        capacity <<= 1;
    }
    struct name *names = calloc(capacity, sizeof *names);
    if (names == NULL) {
        return false;
    }
    for (uint32_t i = 0; i <= sched->names_mask; i++) {
        if (sched->names[i].text != NULL && sched->names[i].text != DELETED) {
            place(names, capacity - 1, sched->names[i]);
        }
    }
    free(sched->names);
    sched->names = names;
    sched->names_mask = capacity - 1;
    sched->names_used = live;
    return true;
}

struct parts {
    size_t size; /* of the name, at the beginning */
    struct rpc_slice arn;
    struct rpc_slice guest;
};

/* name, NUL, ARN, NUL, guest: the latter two may be missing, or empty. */
static bool read_parts(const char *text, size_t bytes, struct parts *out) {
    const char *const first = memchr(text, '\0', bytes);
    *out = (struct parts){.size = first == NULL ? bytes : (size_t)(first - text)};
    if (first != NULL) {
        const char *const arn = first + 1;
        const size_t left = bytes - out->size - 1;
        const char *const second = memchr(arn, '\0', left);
        out->arn = (struct rpc_slice){(const uint8_t *)arn, (uint32_t)(second == NULL ? left : (size_t)(second - arn))};
        if (second != NULL) {
            out->guest = (struct rpc_slice){(const uint8_t *)second + 1, (uint32_t)(left - out->arn.size - 1)};
        }
    }
    return out->size > 0 && out->size <= UINT16_MAX && out->arn.size <= ARN_BYTES_MAX && out->guest.size <= ARN_BYTES_MAX;
}

bool names_put(struct sched *sched, const char *text, size_t bytes, uint64_t function, uint64_t other, uint32_t part) {
    struct parts parts;
    if (!read_parts(text, bytes, &parts)) {
        return false;
    }
    char *copy = malloc(parts.size + parts.guest.size + parts.arn.size);
    if (copy == NULL) {
        return false;
    }
    memcpy(copy, text, parts.size);
    if (parts.guest.size > 0) {
        memcpy(copy + parts.size, parts.guest.at, parts.guest.size);
    }
    if (parts.arn.size > 0) {
        memcpy(copy + parts.size + parts.guest.size, parts.arn.at, parts.arn.size);
    }
    const uint32_t hash = hash_of_both((const uint8_t *)text, parts.size, parts.guest);
    const struct name name = {.function = function, .other = other, .part = part, .hash = hash, .size = (uint16_t)parts.size,
                              .guest_size = (uint16_t)parts.guest.size, .arn_size = (uint16_t)parts.arn.size, .text = copy};
    struct name *known = find(sched, (const uint8_t *)text, parts.size, parts.guest, hash);
    if (known != NULL) {
        free(known->text);
        *known = name;
        return true;
    }
    if (2 * (sched->names_used + 1) > sched->names_mask && !rebuild(sched)) {
        free(copy);
        return false;
    }
    place(sched->names, sched->names_mask, name);
    sched->names_used++;
    return true;
}

void names_remove(struct sched *sched, const char *text, size_t size) {
    struct parts parts;
    if (!read_parts(text, size, &parts)) {
        return;
    }
    struct name *name = find(sched, (const uint8_t *)text, parts.size, parts.guest,
                             hash_of_both((const uint8_t *)text, parts.size, parts.guest));
    if (name != NULL) {
        free(name->text);
        name->text = DELETED;
    }
}

uint64_t names_find(struct sched *sched, const uint8_t *text, size_t size, struct rpc_slice *arn) {
    return names_find_guest(sched, text, size, (struct rpc_slice){0}, arn);
}

uint64_t names_find_guest(struct sched *sched, const uint8_t *text, size_t size, struct rpc_slice guest, struct rpc_slice *arn) {
    const struct name *name = find(sched, text, size, guest, hash_of_both(text, size, guest));
    *arn = (struct rpc_slice){0};
    if (name != NULL && name->arn_size > 0) {
        *arn = (struct rpc_slice){(const uint8_t *)name->text + name->size + name->guest_size, name->arn_size};
    }
    if (name == NULL || name->part == 0) {
        return name == NULL ? 0 : name->function;
    }
    uint8_t dice[16];
    uint32_t thrown;
    request_id_new(sched, dice); /* its first four bytes are random whole */
    memcpy(&thrown, dice, sizeof thrown);
    return thrown < name->part ? name->other : name->function;
}

/* ---- functions and accounts ----------------------------------------------------------------------------------------- */

struct function_info *info_of(struct sched *sched, uint64_t function) {
    const uint32_t index = (uint32_t)function;
    if (function == 0 || index >= sched->config.core.functions_max || sched->functions[index].handle != function) {
        return NULL;
    }
    return &sched->functions[index];
}

void info_put(struct sched *sched, uint64_t function, const uint8_t *blob, size_t bytes, const uint32_t u32s[4]) {
    const uint32_t index = (uint32_t)function;
    if (function == 0 || index >= sched->config.core.functions_max) {
        return;
    }
    char *texts = malloc(bytes + 5); /* five NULs at least, however the blob ends */
    if (texts == NULL) {
        return;
    }
    memcpy(texts, blob, bytes);
    memset(texts + bytes, 0, 5);
    struct function_info *info = &sched->functions[index];
    if (info->handle != function) {
        info_clear(sched, info);
    }
    free(info->display);
    info->handle = function;
    info->display = texts;
    info->version = texts + strlen(texts) + 1;
    info->tenant = info->version < texts + bytes ? info->version + strlen(info->version) + 1 : texts + bytes;
    info->runtime = info->tenant < texts + bytes ? info->tenant + strlen(info->tenant) + 1 : texts + bytes;
    info->guest = info->runtime < texts + bytes ? info->runtime + strlen(info->runtime) + 1 : texts + bytes;
    if (info->version > texts + bytes) {
        info->version = texts + bytes;
    }
    if (info->tenant > texts + bytes) {
        info->tenant = texts + bytes;
    }
    if (info->runtime > texts + bytes) {
        info->runtime = texts + bytes;
    }
    if (info->guest > texts + bytes || strlen(info->guest) > GUEST_BYTES_MAX) {
        info->guest = texts + bytes;
    }
    if (strlen(info->version) > VERSION_BYTES_MAX) {
        info->version[VERSION_BYTES_MAX] = '\0'; /* answers are written into rooms of a known size */
    }
    info->memory_mb = u32s[0];
    info->timeout_ms = u32s[1];
    info->tenant_number = u32s[2];
    info->look = (uint8_t)u32s[3];
    info->traits = u32s[3] & ~255U;
    info->hash = trace_hash(info->display);
    if (info->journal == NULL) {
        info->journal = journal_open(&sched->journal, info->display);
    }
}

void info_drop(struct sched *sched, uint64_t function) {
    struct function_info *info = info_of(sched, function);
    if (info != NULL) {
        info_clear(sched, info);
    }
}

void account_name_put(struct sched *sched, uint16_t index, const uint8_t *text, size_t size) {
    if (index >= sched->config.core.accounts_max || size == 0 || size > 256) {
        return;
    }
    char *copy = malloc(size + 1);
    if (copy == NULL) {
        return;
    }
    memcpy(copy, text, size);
    copy[size] = '\0';
    free(sched->account_names[index]);
    sched->account_names[index] = copy;
}

const char *account_name(const struct sched *sched, uint16_t index, char buffer[24]) {
    if (index < sched->config.core.accounts_max && sched->account_names[index] != NULL) {
        return sched->account_names[index];
    }
    if (index == 0) {
        return "node";
    }
    snprintf(buffer, 24, "account:%u", index);
    return buffer;
}
