/* Function URLs in the reactor: the table of them, the event of a request, the answer of a result. That both are what the control
 * plane makes of them is asked in tests/lambda_api. */
#include <stdlib.h>

#include "harness.h"
#include "json.h"
#include "url_pure.h"
#include "urls.h"

#define ID "abcdefghijklmnopqrstuvwxyz234567"
#define HOST "Host: " ID ".lambda-url.local.localhost:9000\r\n"

static uint8_t out[URL_REPLY_ROOM];

static void the_table(void) {
    enum { MANY = 1000 };
    struct urls urls = {0};
    char text[64];
    const uint8_t *const id = (const uint8_t *)text;
    SCHED_ASSERT(urls_find(&urls, (const uint8_t *)ID) == NULL);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < MANY; i++) {
            const int size = snprintf(text, sizeof text, "%032d%cf%d%c12", i, 0, i, 0);
            SCHED_ASSERT(urls_put(&urls, text, (size_t)size, (uint32_t)i));
        }
        for (int i = 0; i < MANY; i++) {
            snprintf(text, sizeof text, "%032d", i);
            const struct url *const url = urls_find(&urls, id);
            SCHED_ASSERT(url != NULL && url->flags == (uint32_t)i && strcmp(url->account, "12") == 0);
            SCHED_ASSERT(url->target_bytes == strlen(url->target) && atoi(url->target + 1) == i);
            if (i % 3 != 0) {
                urls_remove(&urls, text, 32);
                SCHED_ASSERT(urls_find(&urls, id) == NULL);
            }
        }
    }
    SCHED_ASSERT(urls.mask < 16 * MANY);
    /* What cannot be put takes away what was there: it no longer holds. */
    SCHED_ASSERT(urls_put(&urls, ID "\0f\0" "1", 36, 0) && urls_find(&urls, (const uint8_t *)ID) != NULL);
    SCHED_ASSERT(!urls_put(&urls, ID "\0f", 34, 0) && urls_find(&urls, (const uint8_t *)ID) == NULL);
    SCHED_ASSERT(!urls_put(&urls, ID "\0\0" "1", 35, 0) && !urls_put(&urls, ID, 32, 0) && !urls_put(&urls, "a\0b\0c", 5, 0));
    urls_remove(&urls, "a", 1);
    urls_free(&urls);
}

static int64_t event_of(const char *text) {
    return pure_event(guarded(text, strlen(text)), strlen(text), NULL, NULL, "192.0.2.7", "ID", 1795557300125, out);
}

static bool holds(int64_t size, const char *part) {
    return size > 0 && memmem(out, (size_t)size, part, strlen(part)) != NULL;
}

static void events(void) {
    size_t at;
    int64_t size = event_of("GET /a%20b?x=1&x=%22 HTTP/1.1\r\n" HOST "Cookie: a=1\r\nX: y\r\n\r\n");
    SCHED_ASSERT(json_valid(out, (size_t)size, &at));
    SCHED_ASSERT(holds(size, "\"rawPath\":\"/a%20b\"") && holds(size, "\"queryStringParameters\":{\"x\":\"1,\\\"\"}"));
    SCHED_ASSERT(holds(size, "\"cookies\":[\"a=1\"]") && holds(size, "\"time\":\"24/Nov/2026:21:55:00 +0000\",\"timeEpoch\":1795557300125"));
    size = event_of("POST / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n\xff\x01");
    SCHED_ASSERT(holds(size, "\"body\":\"/wE=\",\"isBase64Encoded\":true}"));
    SCHED_ASSERT(event_of("OPTIONS / HTTP/1.1\r\n" HOST "\r\n") == -1);
    SCHED_ASSERT(event_of("GET / HTTP/1.1\r\n" HOST HOST "\r\n") == -1);
    SCHED_ASSERT(event_of("GET * HTTP/1.1\r\n" HOST "\r\n") == -1);
    SCHED_ASSERT(event_of("GET / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n") == -1);
}

static void answers(const char *answer, const char *expected) {
    const int64_t size = pure_reply(guarded(answer, strlen(answer)), strlen(answer), "ID", false, out);
    if (expected == NULL) {
        SCHED_ASSERT(size == -1);
    } else {
        SCHED_ASSERT(size == (int64_t)strlen(expected) && memcmp(out, expected, (size_t)size) == 0);
    }
}

static void replies(void) {
    answers("{\"statusCode\":201,\"headers\":{\"A\":\" b \"},\"cookies\":[\"c=1\"],\"body\":\"AP8\\u003d\",\"isBase64Encoded\":false}",
            "HTTP/1.1 201 Created\r\nA: b\r\nSet-Cookie: c=1\r\nContent-Type: application/json\r\nx-amzn-RequestId: ID\r\n"
            "Content-Length: 4\r\n\r\nAP8=");
    answers(" [1]", "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-amzn-RequestId: ID\r\nContent-Length: 4\r\n\r\n [1]");
    answers("{\"statusCode\":200,\"headers\":{\"a\":\"b\\r\\nc: d\"}}", NULL);
    answers("{\"statusCode\":200", NULL);
    answers("\"\\ud800\"", NULL);
    answers("", NULL);
    static char many[URL_ANSWER_BYTES_MAX + 3];
    memset(many, '1', sizeof many - 1);
    answers(many, NULL);
}

int main(void) {
    RUN(the_table);
    RUN(events);
    RUN(replies);
    return 0;
}
