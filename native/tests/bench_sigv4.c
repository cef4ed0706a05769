/* bench_sigv4.c: what a signed invocation costs before it is one, in ns: the reading of its HTTP, and the check of its signature.
 * The request is botocore's. Best of several rounds: the machine is shared, and interruptions only ever add.
 *
 * bench_sigv4 [--json] */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "http.h"
#include "invariant.h"
#include "sigv4.h"

enum { ROUNDS = 50, CALLS = 2000, BODY_BYTES_MAX = 1 << 20 };

static const int64_t SIGNED_S = 1795561469; /* 2026-11-24 23:04:29 UTC */
static const char ID[] = "AKIDEXAMPLE", SECRET[] = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
static const char REQUEST[] =
    "POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\n"
    "Host: 127.0.0.1:9000\r\n"
    "Content-Type: application/json\r\n"
    "X-Amz-Date: 20261124T230429Z\r\n"
    "Authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20261124/local/lambda/aws4_request, "
    "SignedHeaders=content-type;host;x-amz-date, "
    "Signature=0e66a5a7471a357c8c59d37ec398ff11721db737a9fa7f664496f3535bf5a70c\r\n"
    "Content-Length: 107\r\n"
    "\r\n"
    "{\"id\": 12345, \"name\": \"Ada\", \"tags\": [\"a\", \"b\"], \"price\": 12.5, \"pos\": {\"x\": 1, \"y\": 2}, "
    "\"note\": \"abcdefg\"}";

static struct http_request request;
static struct sigv4_keys keys;

static double now_ns(void) {
    struct timespec now;
    SCHED_ASSERT(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

static void read_it(void) {
    SCHED_ASSERT(http_read((const uint8_t *)REQUEST, sizeof REQUEST - 1, BODY_BYTES_MAX, &request) == HTTP_INVOKE);
}

static void check_it(void) {
    SCHED_ASSERT(sigv4_check(&keys, &request, SIGNED_S) != NULL);
}

static void digest_mb(void) {
    static uint8_t body[BODY_BYTES_MAX];
    uint8_t digest[SHA256_BYTES];
    struct sha256 sha;
    sha256_begin(&sha);
    sha256_add(&sha, body, sizeof body);
    sha256_end(&sha, digest);
    body[0] = digest[0];
}

/* ns a call. */
static double best_of(void (*run)(void), int calls) {
    double least = 1e18;
    for (int round = 0; round < ROUNDS; round++) {
        const double begin = now_ns();
        for (int i = 0; i < calls; i++) {
            run();
        }
        const double took = (now_ns() - begin) / calls;
        least = took < least ? took : least;
    }
    return least;
}

int main(int argc, char **argv) {
    SCHED_ASSERT(sigv4_put(&keys, ID, sizeof ID - 1, (const uint8_t *)SECRET, sizeof SECRET - 1, 1, 0));
    const double reading = best_of(read_it, CALLS);
    const double checking = best_of(check_it, CALLS);
    const double digest = best_of(digest_mb, 1) / BODY_BYTES_MAX;
    sigv4_free(&keys);
    if (argc > 1 && strcmp(argv[1], "--json") == 0) {
        printf("{\"read_ns\": %.1f, \"check_ns\": %.1f, \"sha256_ns_per_byte\": %.2f}\n", reading, checking, digest);
        return 0;
    }
    printf("reading a signed invocation         %7.1f ns\n", reading);
    printf("checking its signature              %7.1f ns\n", checking);
    printf("SHA-256                             %7.2f ns a byte\n", digest);
    return 0;
}
