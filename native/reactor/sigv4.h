/* sigv4.h: AWS's Signature Version 4 of a plain invocation, and the access keys that may sign.
 *
 * Only the usual form is known here: an Authorization header over the whole body. Whatever is not that, and whatever does not
 * verify, is the slow side's, which knows every form and says what is wrong.
 *
 * Source: "Signature Version 4 signing process", AWS General Reference. */
#ifndef SCHED_SIGV4_H
#define SCHED_SIGV4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "http.h"
#include "sha256.h"

enum {
    SIGV4_ID_BYTES_MAX = 128,
    SIGV4_SECRET_BYTES_MAX = 128,
    SIGV4_REGION_BYTES_MAX = 32,
    SIGV4_KEYS_MAX = 4096,
    SIGV4_SKEW_S = 300
};

struct sigv4_key {
    char id[SIGV4_ID_BYTES_MAX + 1]; /* empty: free */
    uint8_t secret[SIGV4_SECRET_BYTES_MAX];
    uint32_t secret_bytes;
    uint32_t rights;
    uint32_t tenant;
    char day[8];                     /* the signing key below is of this day and region; zero: none was made yet */
    char region[SIGV4_REGION_BYTES_MAX + 1];
    struct hmac signing;
};

struct sigv4_keys {
    struct sigv4_key *keys; /* a table by id, open addressing, at most half full */
    uint32_t mask;
    uint32_t count;
};

/* false: no room, or an id or secret of a wrong length. A known id gets the new secret and rights. */
bool sigv4_put(struct sigv4_keys *keys, const char *id, size_t id_bytes, const uint8_t *secret, size_t secret_bytes, uint32_t rights,
               uint32_t tenant);
void sigv4_remove(struct sigv4_keys *keys, const char *id, size_t id_bytes);
/* Secrets are wiped. */
void sigv4_free(struct sigv4_keys *keys);

/* Its signature may be good, by what its head says: it names a key, and the body's digest or none. */
bool sigv4_may_be(const struct sigv4_keys *keys, const struct http_request *request);

/* The key that has signed the request within SIGV4_SKEW_S of now_s (Unix time), or NULL. */
const struct sigv4_key *sigv4_check(struct sigv4_keys *keys, const struct http_request *request, int64_t now_s);

#endif
