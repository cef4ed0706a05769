/* Invariant: any bytes give a verdict, the same one however they come; what is taken lies inside the request; a request that is
 * taken is taken again when it stands alone, and never together with what follows it. And json_valid() reads within its bytes.
 *
 * The input is a client's stream. */
#include "../tests/harness.h"
#include "http.h"
#include "json.h"
#include "jsonpush.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST = 32 * 1024 };

static void inside(struct http_slice slice, const uint8_t *in, uint32_t bytes) {
    SCHED_ASSERT(slice.at == NULL ? slice.size == 0 : slice.at >= in && slice.at + slice.size <= in + bytes);
}

static void check(enum http_verdict verdict, const struct http_request *request, const uint8_t *in, size_t bytes) {
    SCHED_ASSERT(request->size > 0 && request->size <= bytes && request->size <= MOST);
    SCHED_ASSERT(verdict == HTTP_URL || (request->function_bytes >= 1 && request->function_bytes <= HTTP_FUNCTION_BYTES_MAX));
    SCHED_ASSERT(verdict == HTTP_INVOKE || request->host.size > HTTP_URL_ID_BYTES);
    inside(request->host, in, request->size);
    inside(request->method, in, request->size);
    SCHED_ASSERT(request->headers_count >= 1 && request->headers_count <= HTTP_HEADERS_MAX);
    SCHED_ASSERT(request->body.at + request->body.size == in + request->size);
    inside(request->path, in, request->size);
    inside(request->query, in, request->size);
    inside(request->trace, in, request->size);
    for (uint32_t i = 0; i < request->headers_count; i++) {
        inside(request->headers[i].name, in, request->size);
        inside(request->headers[i].value, in, request->size);
    }
    SCHED_ASSERT(http_header(request, "transfer-encoding").at == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 1 << 17) {
        return 0;
    }
    static struct http_request whole, part, alone;
    const uint8_t *const in = guarded(data, size);
    const enum http_verdict verdict = http_read(in, size, MOST, &whole);
    if (verdict == HTTP_INVOKE || verdict == HTTP_URL) {
        check(verdict, &whole, in, size);
    } else if (verdict == HTTP_MORE) {
        SCHED_ASSERT(size < MOST && (whole.size == 0 || whole.size > size));
    }
    const uint32_t taken = verdict == HTTP_INVOKE || verdict == HTTP_URL ? whole.size : (uint32_t)size;
    uint64_t seed = size;
    for (int i = 0; i < 4 && taken > 0; i++) {
        const size_t cut = random_below(&seed, taken);
        const enum http_verdict before = http_read(guarded(data, cut), cut, MOST, &part);
        /* Nothing is taken that is not whole; what is the slow side's once stays so. */
        SCHED_ASSERT(before == HTTP_MORE || (before == HTTP_HAND && verdict == HTTP_HAND));
    }
    if (verdict == HTTP_INVOKE || verdict == HTTP_URL) {
        SCHED_ASSERT(http_read(guarded(data, taken), taken, MOST, &alone) == verdict && alone.size == taken);
        SCHED_ASSERT((verdict == HTTP_URL || alone.function_bytes == whole.function_bytes) && alone.close == whole.close && alone.log_tail == whole.log_tail);
    }
    size_t at;
    const bool good = json_valid(guarded(data, size), size, &at);
    SCHED_ASSERT(at <= size && (!good || at == size));
    /* In pieces it is the same text. */
    struct json_push push;
    json_push_begin(&push);
    bool still = true;
    for (size_t from = 0; from < size && still;) {
        const size_t piece = 1 + random_below(&seed, size - from);
        still = json_push(&push, guarded(data + from, piece), piece);
        from += piece;
    }
    SCHED_ASSERT((still && json_push_whole(&push)) == good);
    return 0;
}
