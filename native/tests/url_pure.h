/* url_pure.h: requests to function URLs and their answers alone, for tests that hold them against the control plane's. */
#ifndef SCHED_TEST_URL_PURE_H
#define SCHED_TEST_URL_PURE_H

#include "http.h"
#include "urlevent.h"
#include "urlreply.h"

enum { PURE_ROOM = URL_REPLY_ROOM };

/* The event of an HTTP request, or -1: it is not read here. */
static inline int64_t pure_event(const uint8_t *in, size_t bytes, const char *account, const char *key_id, const char *peer,
                                 const char *request_id, int64_t now_ms, uint8_t *out) {
    static struct http_request request;
    const struct url_context context = {.account = account, .key_id = key_id, .peer = peer, .request_id = request_id,
                                        .now_ms = now_ms};
    if (http_read(in, bytes, 32 * 1024, &request) != HTTP_URL || request.size != bytes) {
        return -1;
    }
    return url_event(&request, &context, out, PURE_ROOM);
}

static inline int64_t pure_reply(const uint8_t *answer, size_t bytes, const char *request_id, bool close, uint8_t *out) {
    return url_reply(answer, bytes, request_id, close, out);
}

#endif
