/* Invariant: any request to a function URL gives an event that is one JSON value, or none; any answer of a function gives one HTTP
 * answer whose head has no line of the function's making and whose length is the one that it says, or none. Both read and write
 * within their bounds.
 *
 * The input's first byte says which it is: even, a client's request; odd, a sandbox's answer. */
#include <stdlib.h>
#include <strings.h>

#include "../tests/harness.h"
#include "../tests/url_pure.h"
#include "json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint8_t out[URL_REPLY_ROOM];

static void check_event(const uint8_t *data, size_t size) {
    size_t at;
    const int64_t made = pure_event(guarded(data, size), size, size % 3 == 0 ? "1" : NULL, "K", "192.0.2.7", "ID", 1795557300125, out);
    SCHED_ASSERT(made >= -1 && made <= PURE_ROOM);
    if (made > 0) {
        SCHED_ASSERT(json_valid(out, (size_t)made, &at));
        static struct http_request request;
        SCHED_ASSERT(http_read(guarded(data, size), size, 32 * 1024, &request) == HTTP_URL);
        /* In a smaller room it is refused, not written over the edge. */
        const struct url_context context = {.peer = "", .request_id = "", .now_ms = 0};
        uint8_t small[64];
        SCHED_ASSERT(url_event(&request, &context, small, sizeof small) == -1);
    }
}

static void check_reply(const uint8_t *data, size_t size) {
    const int64_t made = pure_reply(guarded(data, size), size, "ID", size % 2 == 0, out);
    SCHED_ASSERT(made >= -1 && made <= PURE_ROOM);
    if (made < 0) {
        return;
    }
    const uint8_t *const end = memmem(out, (size_t)made, "\r\n\r\n", 4);
    SCHED_ASSERT(end != NULL && memcmp(out, "HTTP/1.1 ", 9) == 0);
    uint64_t lengths = 0, length = 0;
    for (const uint8_t *at = out; at < end + 2;) {
        const uint8_t *const line = memchr(at, '\r', (size_t)(end + 2 - at));
        SCHED_ASSERT(line != NULL && line[1] == '\n');
        for (const uint8_t *c = at; c < line; c++) {
            SCHED_ASSERT((*c >= ' ' || *c == '\t') && *c < 0x7f);
        }
        if (strncasecmp((const char *)at, "content-length:", 15) == 0) {
            lengths++;
            length = strtoull((const char *)at + 15, NULL, 10);
        }
        SCHED_ASSERT(strncasecmp((const char *)at, "transfer-encoding:", 18) != 0);
        at = line + 2;
    }
    SCHED_ASSERT(lengths <= 1 && (uint64_t)made == (uint64_t)(end + 4 - out) + length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0 || size > 1 << 17) {
        return 0;
    }
    if (data[0] % 2 == 0) {
        check_event(data + 1, size - 1);
    } else {
        check_reply(data + 1, size - 1);
    }
    return 0;
}
