/* urls.h: the function URLs that the engine answers by itself. A table by id; who may use which is decided by who puts them in.
 *
 * What is not here is the slow side's: URLs that stream, and those that let in nobody but other tenants. */
#ifndef SCHED_URLS_H
#define SCHED_URLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { URL_ID_BYTES = 32, URL_TARGET_BYTES_MAX = 256, URL_ACCOUNT_BYTES_MAX = 32 };

struct url {
    uint8_t id[URL_ID_BYTES];
    uint32_t flags;        /* enum sched_url_flag */
    uint32_t target_bytes; /* the function as names.c knows it */
    char *target;          /* NULL: free; or a mark: was used */
    const char *account;   /* in the same piece of memory */
};

struct urls {
    struct url *urls; /* open addressing, at most half full of URLs and marks */
    uint32_t mask;
    uint32_t used;
};

/* text: id, NUL, target, NUL, account. false: not of this form, or no memory; a URL of this id is no longer there then. */
bool urls_put(struct urls *urls, const char *text, size_t bytes, uint32_t flags);
void urls_remove(struct urls *urls, const char *id, size_t bytes);
/* NULL: none; good until they change. */
const struct url *urls_find(const struct urls *urls, const uint8_t id[URL_ID_BYTES]);
void urls_free(struct urls *urls);

#endif
