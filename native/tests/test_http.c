/* The reader of plain invocations: what it takes, and that everything else is handed over. And the judge of JSON. */
#include "harness.h"
#include "http.h"
#include "json.h"

enum { MOST = 1024 };

#define LINE "POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\n"
#define HOST "Host: localhost:9000\r\n"

static struct http_request out;

static enum http_verdict read_text(const char *text) {
    const size_t size = strlen(text);
    return http_read(guarded(text, size), size, MOST, &out);
}

static void takes(const char *text, const char *function, const char *body) {
    SCHED_ASSERT(read_text(text) == HTTP_INVOKE);
    SCHED_ASSERT(out.size == strlen(text));
    SCHED_ASSERT(out.function_bytes == strlen(function) && memcmp(out.function, function, out.function_bytes) == 0);
    SCHED_ASSERT(out.body.size == strlen(body) && memcmp(out.body.at, body, out.body.size) == 0);
    for (size_t cut = 0; cut < strlen(text); cut++) {
        SCHED_ASSERT(http_read(guarded(text, cut), cut, MOST, &out) == HTTP_MORE);
    }
}

static void plain_requests(void) {
    takes(LINE HOST "Content-Length: 2\r\n\r\n{}", "hello", "{}");
    takes(LINE HOST "\r\n", "hello", "");
    takes(LINE "hOST:x\r\nCONTENT-length:\t2 \r\nAccept: */*\r\nUser-Agent: a (b) c/d\r\nConnection: Keep-Alive\r\n\r\n{}", "hello", "{}");
    takes("POST /2015-03-31/functions/hello%3A7/invocations HTTP/1.1\r\n" HOST "\r\n", "hello:7", "");
    takes("POST /2015-03-31/functions/hello/invocations?Qualifier=%24LATEST HTTP/1.1\r\n" HOST "\r\n", "hello:$LATEST", "");
    takes("POST /2015-03-31/functions/arn:aws:lambda:local:000000000000:function:hello/invocations?Qualifier=live HTTP/1.1\r\n" HOST
          "X-Amz-Invocation-Type: RequestResponse\r\nX-Amz-Log-Type: None\r\n\r\n",
          "arn:aws:lambda:local:000000000000:function:hello:live", "");
    SCHED_ASSERT(read_text(LINE HOST "X-Amz-Log-Type: Tail\r\nX-Amzn-Trace-Id: Root=1-a\r\nConnection: close\r\n\r\n") == HTTP_INVOKE);
    SCHED_ASSERT(out.log_tail && out.close && out.trace.size == 8);
    SCHED_ASSERT(http_header(&out, "host").size == 14 && http_header(&out, "absent").at == NULL);
}

static void one_of_two(void) {
    const char *const text = LINE HOST "Content-Length: 2\r\n\r\n{}" LINE;
    SCHED_ASSERT(read_text(text) == HTTP_INVOKE && out.size == strlen(text) - strlen(LINE));
}

static void what_is_not_plain(void) {
    static const char *const texts[] = {
        "\r\n" LINE HOST "\r\n",
        "GET /2015-03-31/functions/hello/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations HTTP/1.0\r\n" HOST "\r\n",
        "POST  /2015-03-31/functions/hello/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations HTTP/1.1 \r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations HTTP/1.1\rX" HOST "\r\n",
        LINE "Host: A.LAMBDA-URL.local.localhost\r\n\r\n",
        "POST http://x/2015-03-31/functions/hello/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions//invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/a/b/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/a%2/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/a%2Fb/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/a%00b/invocations HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello:7/invocations?Qualifier=7 HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations?Qualifier= HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations?qualifier=7 HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations?Qualifier=7&x=y HTTP/1.1\r\n" HOST "\r\n",
        "POST /2015-03-31/functions/hello/invocations? HTTP/1.1\r\n" HOST "\r\n",
        LINE "\r\n",
        LINE HOST HOST "\r\n",
        LINE HOST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        LINE HOST "Content-Length: +2\r\n\r\n{}",
        LINE HOST "Content-Length: 2,2\r\n\r\n{}",
        LINE HOST "Content-Length: 0x2\r\n\r\n{}",
        LINE HOST "Content-Length: \r\n\r\n",
        LINE HOST "Content-Length: 9999999999\r\n\r\n",
        LINE HOST "Content-Length : 2\r\n\r\n{}",
        LINE HOST " Content-Length: 2\r\n\r\n{}",
        LINE HOST "X: y\r\n\tContent-Length: 2\r\n\r\n{}",
        LINE HOST "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        LINE HOST "transfer-encoding: identity\r\n\r\n",
        LINE HOST "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        LINE HOST "Transfer-Encoding\x0b: chunked\r\n\r\n",
        LINE HOST "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        LINE HOST "Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
        LINE HOST "Connection: close, keep-alive\r\n\r\n",
        LINE HOST ": x\r\n\r\n",
        LINE HOST "X\r\n\r\n",
        LINE HOST "X Y: z\r\n\r\n",
        LINE HOST "X: a\x01z\r\n\r\n",
        LINE HOST "X: a\rb: c\r\n\r\n",
        LINE HOST "X-Amz-Invocation-Type: Event\r\n\r\n",
        LINE HOST "X-Amz-Invocation-Type: requestresponse\r\n\r\n",
        LINE HOST "X-Amz-Log-Type: tail\r\n\r\n",
        LINE HOST "X-Amz-Client-Context: e30=\r\n\r\n",
        LINE HOST "X-Amz-Tenant-Id: a\r\nX-Amz-Tenant-Id: b\r\n\r\n", LINE HOST "X-Amz-Tenant-Id: \r\n\r\n",
        LINE HOST "Content-Length: 1000\r\n\r\n",
        "POST /2015-03-31/functions/hello/invocations HTTP/1.1\n" HOST "\r\n",
        LINE "Host: x\n\r\n",
        LINE HOST "\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        const enum http_verdict verdict = read_text(texts[i]);
        if (verdict != HTTP_HAND) {
            printf("taken, or waited for: %s\n", texts[i]);
        }
        SCHED_ASSERT(verdict == HTTP_HAND);
    }
}

static void heads_have_an_end(void) {
    static char text[HTTP_HEAD_BYTES_MAX + 64];
    const size_t begun = (size_t)snprintf(text, sizeof text, LINE HOST "X: ");
    memset(text + begun, 'x', sizeof text - begun);
    SCHED_ASSERT(http_read(guarded(text, HTTP_HEAD_BYTES_MAX - 1), HTTP_HEAD_BYTES_MAX - 1, MOST, &out) == HTTP_MORE);
    SCHED_ASSERT(http_read(guarded(text, HTTP_HEAD_BYTES_MAX), HTTP_HEAD_BYTES_MAX, MOST, &out) == HTTP_HAND);
    size_t at = (size_t)snprintf(text, sizeof text, LINE HOST);
    for (int i = 0; i < HTTP_HEADERS_MAX; i++) {
        at += (size_t)snprintf(text + at, sizeof text - at, "X%d: y\r\n", i);
    }
    at += (size_t)snprintf(text + at, sizeof text - at, "\r\n");
    SCHED_ASSERT(http_read(guarded(text, at), at, 8192, &out) == HTTP_HAND);
}

static void json_texts(void) {
    static const char *const good[] = {"{}", " [ ] ", "0", "-0.5e-7", "\"\\u00e9\\\"\\/\"", "true", "null", "[[],{\"a\":[{}]}]", "\"\xc3\xa9\""};
    static const char *const bad[] = {"", " ", "{", "[1,]", "{\"a\":1,}", "{a:1}", "01", "1.", ".5", "+1", "1e", "NaN", "Infinity", "-",
                                      "tru", "truex", "\"", "\"\\x\"", "\"\\u12g4\"", "\"\t\"", "{} {}", "[1 2]", "{\"a\" 1}", "]", "[}",
                                      "\"\xc3\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\xef\xbb\xbf{}", "'a'"};
    size_t at;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        SCHED_ASSERT(json_valid(guarded(good[i], strlen(good[i])), strlen(good[i]), &at) && at == strlen(good[i]));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        SCHED_ASSERT(!json_valid(guarded(bad[i], strlen(bad[i])), strlen(bad[i]), &at) && at <= strlen(bad[i]));
    }
    uint8_t deep[2 * JSON_DEPTH_MAX + 2];
    memset(deep, '[', sizeof deep / 2);
    memset(deep + sizeof deep / 2, ']', sizeof deep / 2);
    SCHED_ASSERT(!json_valid(deep, sizeof deep, &at) && at == JSON_DEPTH_MAX);
    SCHED_ASSERT(json_valid(deep + 1, sizeof deep - 2, &at));
}

int main(void) {
    RUN(plain_requests);
    RUN(one_of_two);
    RUN(what_is_not_plain);
    RUN(heads_have_an_end);
    RUN(json_texts);
    return 0;
}
