/* urls.c: see urls.h. Ids are drawn by us, so nobody chooses which fall together. */
#include "urls.h"

#include <stdlib.h>
#include <string.h>

enum { TABLE_MIN = 64 };

static char removed_mark;
#define REMOVED (&removed_mark)

static uint32_t hash_of(const uint8_t id[URL_ID_BYTES]) {
    uint64_t hash = 0xcbf29ce484222325ULL; /* FNV-1a */
    for (size_t i = 0; i < URL_ID_BYTES; i++) {
        hash = (hash ^ id[i]) * 0x100000001b3ULL;
    }
    return (uint32_t)(hash ^ (hash >> 32));
}

static struct url *find(const struct urls *urls, const uint8_t id[URL_ID_BYTES]) {
    if (urls->urls == NULL) {
        return NULL;
    }
    for (uint32_t i = hash_of(id) & urls->mask; urls->urls[i].target != NULL; i = (i + 1) & urls->mask) {
        if (urls->urls[i].target != REMOVED && memcmp(urls->urls[i].id, id, URL_ID_BYTES) == 0) {
            return &urls->urls[i];
        }
    }
    return NULL;
}

static void place(struct url *table, uint32_t mask, const struct url *url) {
    uint32_t i = hash_of(url->id) & mask;
    while (table[i].target != NULL) {
        i = (i + 1) & mask;
    }
    table[i] = *url;
}

/* Room for one more, without the marks. */
static bool rebuild(struct urls *urls) {
    uint32_t live = 0;
    for (uint32_t i = 0; urls->urls != NULL && i <= urls->mask; i++) {
        live += urls->urls[i].target != NULL && urls->urls[i].target != REMOVED;
    }
    uint32_t capacity = TABLE_MIN;
    while (capacity < 4 * (live + 1)) {
        capacity <<= 1;
    }
    struct url *const table = calloc(capacity, sizeof *table);
    if (table == NULL) {
        return false;
    }
    for (uint32_t i = 0; urls->urls != NULL && i <= urls->mask; i++) {
        if (urls->urls[i].target != NULL && urls->urls[i].target != REMOVED) {
            place(table, capacity - 1, &urls->urls[i]);
        }
    }
    free(urls->urls);
    *urls = (struct urls){.urls = table, .mask = capacity - 1, .used = live};
    return true;
}

bool urls_put(struct urls *urls, const char *text, size_t bytes, uint32_t flags) {
    if (bytes <= URL_ID_BYTES + 1 || text[URL_ID_BYTES] != '\0') {
        return false;
    }
    urls_remove(urls, text, URL_ID_BYTES); /* first of all: what it said before holds no longer, whatever happens now */
    const char *const target = text + URL_ID_BYTES + 1;
    const size_t left = bytes - URL_ID_BYTES - 1;
    const char *const end = memchr(target, '\0', left);
    const size_t target_bytes = end == NULL ? 0 : (size_t)(end - target);
    const size_t account_bytes = left - target_bytes - 1;
    if (target_bytes == 0 || target_bytes > URL_TARGET_BYTES_MAX || account_bytes > URL_ACCOUNT_BYTES_MAX ||
        memchr(end + 1, '\0', account_bytes) != NULL) {
        return false;
    }
    if ((urls->urls == NULL || 2 * (urls->used + 1) > urls->mask) && !rebuild(urls)) {
        return false;
    }
    char *const copy = malloc(left + 1);
    if (copy == NULL) {
        return false;
    }
    memcpy(copy, target, left);
    copy[left] = '\0';
    struct url url = {.flags = flags, .target_bytes = (uint32_t)target_bytes, .target = copy, .account = copy + target_bytes + 1};
    memcpy(url.id, text, URL_ID_BYTES);
    place(urls->urls, urls->mask, &url);
    urls->used++;
    return true;
}

void urls_remove(struct urls *urls, const char *id, size_t bytes) {
    struct url *const url = bytes == URL_ID_BYTES ? find(urls, (const uint8_t *)id) : NULL;
    if (url != NULL) {
        free(url->target);
        *url = (struct url){.target = REMOVED};
    }
}

const struct url *urls_find(const struct urls *urls, const uint8_t id[URL_ID_BYTES]) {
    return find(urls, id);
}

void urls_free(struct urls *urls) {
    for (uint32_t i = 0; urls->urls != NULL && i <= urls->mask; i++) {
        if (urls->urls[i].target != REMOVED) {
            free(urls->urls[i].target);
        }
    }
    free(urls->urls);
    *urls = (struct urls){0};
}
