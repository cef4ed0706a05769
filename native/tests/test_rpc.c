/* test_rpc.c: the RPC reader by a table of (bytes, verdict and what is in it). Every row is read whole, byte by byte, in two
 * pieces cut at every place, and with other bytes behind it; each time the bytes given end at an unreadable page. The verdict
 * and all that comes with it must be the same. */
#include "harness.h"
#include "rpc.h"

#include <inttypes.h>
#include <stdarg.h>

enum { TEXT_BYTES = 1024, FRAME_MAX = 6 * 1024 * 1024 + 64 * 1024 };

struct row {
    const char *bytes;
    size_t size;
    const char *expected; /* as describe() writes it */
};

#define ROW(bytes, expected) {(bytes), sizeof(bytes) - 1, (expected)}
#define CALL "\x94\x00\x05\xa6invoke"
#define ID "\x94\x00\x05"

static const struct row rows[] = {
    /* ---- the shape nearly all frames have ---- */
    ROW(CALL "\x92\xa5hello\xc4\x02{}", "INVOKE 5 hello bin={}"),
    ROW(CALL "\x92\xa5hello\xa2{}", "INVOKE 5 hello bin={}"),
    ROW(CALL "\x92\xa5hello\xa0", "INVOKE 5 hello bin="),
    ROW(CALL "\x92\xa5hello\xc4\x00", "INVOKE 5 hello bin="),
    ROW(CALL "\x92\xa5hello\xd9\x01x", "INVOKE 5 hello bin=x"),
    ROW(CALL "\x92\xa5hello\xc5\x00\x01x", "INVOKE 5 hello bin=x"),
    ROW(CALL "\x92\xa5hello\xda\x00\x01x", "INVOKE 5 hello bin=x"),
    ROW(CALL "\x92\xa5hello\xc6\x00\x00\x00\x01x", "INVOKE 5 hello bin=x"),
    ROW(CALL "\x92\xa5hello\xdb\x00\x00\x00\x01x", "INVOKE 5 hello bin=x"),
    ROW(CALL "\x92\xa1x\xa3\xff\xfe\xc1", "INVOKE 5 x bin=\xff\xfe\xc1"),
    ROW(CALL "\x92\xd9\x20" "01234567890123456789012345678901\xa1x",
        "INVOKE 5 01234567890123456789012345678901 bin=x"),
    ROW("\x94\x00\xcc\xff\xa6invoke\x92\xa5hello\xa1x", "INVOKE 255 hello bin=x"),
    ROW("\x94\x00\xcd\xff\xfe\xa6invoke\x92\xa5hello\xa1x", "INVOKE 65534 hello bin=x"),
    ROW("\x94\x00\xce\xff\xff\xff\xff\xa6invoke\x92\xa5hello\xa1x", "INVOKE 4294967295 hello bin=x"),
    /* ---- the same in other encodings ---- */
    ROW("\xdc\x00\x04\x00\x05\xa6invoke\x92\xa5hello\xa1x", "INVOKE 5 hello bin=x"),
    ROW("\xdd\x00\x00\x00\x04\x00\x05\xa6invoke\x92\xa5hello\xa1x", "INVOKE 5 hello bin=x"),
    ROW("\x94\xcc\x00\xd0\x05\xd9\x06invoke\xdc\x00\x02\xda\x00\x05hello\xa1x", "INVOKE 5 hello bin=x"),
    ROW("\x94\xd3\0\0\0\0\0\0\0\0\xcf\0\0\0\0\0\0\0\x05\xda\x00\x06invoke\xdd\0\0\0\x02\xdb\0\0\0\x05hello\xa1x",
        "INVOKE 5 hello bin=x"),
    ROW("\x94\x00\xd1\x00\xff\xa6invoke\x92\xa5hello\xa1x", "INVOKE 255 hello bin=x"),
    ROW("\x94\x00\xd2\x7f\xff\xff\xff\xa6invoke\x92\xa5hello\xa1x", "INVOKE 2147483647 hello bin=x"),
    ROW("\x94\x00\xd3\0\0\0\0\xff\xff\xff\xff\xa6invoke\x92\xa5hello\xa1x", "INVOKE 4294967295 hello bin=x"),
    ROW(CALL "\x92\xa3\xc3\xa4x\xa1x", "INVOKE 5 \xc3\xa4x bin=x"),
    /* ---- payloads that are values ---- */
    ROW(CALL "\x92\xa5hello\xc0", "INVOKE 5 hello value=\xc0"),
    ROW(CALL "\x92\xa5hello\x90", "INVOKE 5 hello value=\x90"),
    ROW(CALL "\x92\xa5hello\x82\xa1""a\x01\xa1""b\x92\x02\x03", "INVOKE 5 hello value=\x82\xa1""a\x01\xa1""b\x92\x02\x03"),
    ROW(CALL "\x93\xa5hello\x82\xa1""a\x93\x01\x02\x90\xa1""b\x80\x80", "INVOKE 5 hello value=\x82\xa1""a\x93\x01\x02\x90\xa1""b\x80"),
    ROW(CALL "\x93\xa5hello\x92\x80\x91\x05\x81\xa6report\xc3", "INVOKE 5 hello value=\x92\x80\x91\x05 report"),
    ROW(CALL "\x93\xa5hello\xc7\x03\x7f" "abc\x81\xa6report\xc3", "INVOKE 5 hello value=\xc7\x03\x7f" "abc report"),
    /* ---- options ---- */
    ROW(CALL "\x93\xa1x\xa1y\x80", "INVOKE 5 x bin=y"),
    ROW(CALL "\x93\xa1x\xa1y\xde\x00\x00", "INVOKE 5 x bin=y"),
    ROW(CALL "\x93\xa1x\xa1y\xdf\x00\x00\x00\x01\xa4type\xa4sync", "INVOKE 5 x bin=y"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa4type\xa6""dryrun", "INVOKE 5 x bin=y type=2"),
    ROW(CALL "\x93\xa1x\xa1y\x82\xa4type\xa5""event\xaf" "idempotency_key\xa3one", "INVOKE 5 x bin=y type=1 key=one"),
    ROW(CALL "\x93\xa1x\xa1y\x82\xaf" "idempotency_key\xa3one\xa4type\xa5""event", "INVOKE 5 x bin=y type=1 key=one"),
    ROW(CALL "\x93\xa1x\xa1y\x82\xa6report\xc2\xa8log_tail\xc3", "INVOKE 5 x bin=y report log_tail"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa6report\xc2", "INVOKE 5 x bin=y"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa6stream\xc3", "INVOKE 5 x bin=y stream"),
    ROW(CALL "\x93\xa1x\xa1y\x82\xa6stream\xc3\xa4type\xa6" "dryrun", "BAD 5: options.stream: only with type \"sync\""),
    ROW(CALL "\x93\xa1x\xa1y\x81\xab" "deadline_ms\x01", "INVOKE 5 x bin=y deadline=1"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xab" "deadline_ms\xce\x05\x26\x5c\x00", "INVOKE 5 x bin=y deadline=86400000"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xae" "client_context\xc4\x02{}", "INVOKE 5 x bin=y context={}"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa5trace\xa9Root=1-2~", "INVOKE 5 x bin=y trace=Root=1-2~"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xaa" "request_id\xc4\x10" "0123456789abcdef", "INVOKE 5 x bin=y id=0123456789abcdef"),
    ROW(CALL "\x93\xa1x\xa1y\x87\xa4type\xa5""event\xab" "deadline_ms\xcd\x03\xe8\xa6report\xc3\xa8log_tail\xc2\xae"
             "client_context\xc4\x01" "c\xa5trace\xa1t\xaf" "idempotency_key\xa1k",
        "INVOKE 5 x bin=y type=1 deadline=1000 report context=c trace=t key=k"),
    /* ---- other methods, cancel ---- */
    ROW(ID "\xa4ping\x90", "METHOD 5 ping params=\x90"),
    ROW(ID "\xa5hello\x91\x81\xa5token\xa1t", "METHOD 5 hello params=\x91\x81\xa5token\xa1t"),
    ROW(ID "\xa7invoker\x90", "METHOD 5 invoker params=\x90"),
    ROW(ID "\xa5invok\x90", "METHOD 5 invok params=\x90"),
    ROW("\x93\x02\xa4ping\x90", "METHOD 0 notification ping params=\x90"),
    ROW("\x93\x02\xa6""cancel\x91\x07", "CANCEL 0 notification cancel=7"),
    ROW("\x93\x02\xa6""cancel\x91\xcf\0\0\0\0\xff\xff\xff\xff", "CANCEL 0 notification cancel=4294967295"),
    /* ---- bad: well-formed, but not what may be asked for ---- */
    ROW(ID "\x07\x90", "BAD 5: method: must be a str, got 7"),
    ROW(ID "\xc4\x04ping\x90", "BAD 5: method: must be a str, got bin"),
    ROW(ID "\x92\xa1x\x93\x01\x02\x03\x90", "BAD 5: method: must be a str, got array"),
    ROW(ID "\xa0\x90", "BAD 5: method: 0 bytes, must be 1 .. 64"),
    ROW(ID "\xd9\x41" "01234567890123456789012345678901234567890123456789012345678901234\x90",
        "BAD 5: method: 65 bytes, must be 1 .. 64"),
    ROW(ID "\xa3p\xffg\x90", "BAD 5: method: \"p\\xffg\" is not UTF-8"),
    ROW(ID "\xa4ping\x80", "BAD 5: params: must be an array, got map"),
    ROW(ID "\xa6invoke\xc0", "BAD 5: params: must be an array, got nil"),
    ROW("\x93\x02\xa6invoke\x92\xa1x\xa1y", "BAD 0 notification: method: invoke must be a request [0, msgid, method, params]"),
    ROW("\x94\x00\x05\xa6""cancel\x91\x07", "BAD 5: method: cancel must be a notification [2, method, params]"),
    ROW("\x93\x02\xa6""cancel\x90", "BAD 0 notification: params: cancel takes 1 value (msgid), got 0"),
    ROW("\x93\x02\xa6""cancel\x92\x07\x08", "BAD 0 notification: params: cancel takes 1 value (msgid), got 2"),
    ROW("\x93\x02\xa6""cancel\x91\xff", "BAD 0 notification: params[0] (msgid): must be an int of 0 .. 4294967295, got a negative int"),
    ROW("\x93\x02\xa6""cancel\x91\xa1x", "BAD 0 notification: params[0] (msgid): must be an int of 0 .. 4294967295, got str"),
    ROW("\x93\x02\xa6""cancel\x91\xcf\0\0\0\1\0\0\0\0",
        "BAD 0 notification: params[0] (msgid): must be an int of 0 .. 4294967295, got 4294967296"),
    ROW(CALL "\x90", "BAD 5: params: invoke takes 2 or 3 values (function, payload, options), got 0"),
    ROW(CALL "\x91\xa1x", "BAD 5: params: invoke takes 2 or 3 values (function, payload, options), got 1"),
    ROW(CALL "\x94\xa1x\xa1y\x80\x80", "BAD 5: params: invoke takes 2 or 3 values (function, payload, options), got 4"),
    ROW(CALL "\x92\xc4\x01x\xa1y", "BAD 5: params[0] (function): must be a str, got bin"),
    ROW(CALL "\x92\xcb\0\0\0\0\0\0\0\0\xa1y", "BAD 5: params[0] (function): must be a str, got float"),
    ROW(CALL "\x92\xa0\xa1y", "BAD 5: params[0] (function): 0 bytes, must be 1 .. 256"),
    ROW(CALL "\x92\xd9\x00\xa1y", "BAD 5: params[0] (function): 0 bytes, must be 1 .. 256"),
    ROW(CALL "\x92\xa2x\x80\xa1y", "BAD 5: params[0] (function): \"x\\x80\" is not UTF-8"),
    ROW(CALL "\x93\xa1x\xa1y\xc0", "BAD 5: params[2] (options): must be a map, got nil"),
    ROW(CALL "\x93\xa1x\xa1y\x90", "BAD 5: params[2] (options): must be a map, got array"),
    ROW(CALL "\x93\xa1x\xa1y\x81\x01\x02", "BAD 5: options: a key must be a str, got 1"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa5" "color\x02", "BAD 5: options: unknown key \"color\""),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa0\x02", "BAD 5: options: unknown key \"\""),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa5ty\x00\"\\\x02", "BAD 5: options: unknown key \"ty\\x00\\x22\\x5c\""),
    ROW(CALL "\x93\xa1x\xa1y\x81\xd9\x21" "012345678901234567890123456789\x7f\xe2\xff\x02",
        "BAD 5: options: unknown key \"012345678901234567890123456789\\x7f\\xe2...\""),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa4TYPE\xa4sync", "BAD 5: options: unknown key \"TYPE\""),
    ROW(CALL "\x93\xa1x\xa1y\x82\xa6report\xc3\xa6report\xc3", "BAD 5: options.report: given twice"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa6report\x01", "BAD 5: options.report: must be a bool, got 1"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa8log_tail\xc0", "BAD 5: options.log_tail: must be a bool, got nil"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa4type\xa5later", "BAD 5: options.type: \"later\" must be \"sync\", \"event\" or \"dryrun\""),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa4type\xc4\x04sync", "BAD 5: options.type: must be a str, got bin"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xab" "deadline_ms\x00", "BAD 5: options.deadline_ms: must be an int of 1 .. 86400000, got 0"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xab" "deadline_ms\xce\x05\x26\x5c\x01",
        "BAD 5: options.deadline_ms: must be an int of 1 .. 86400000, got 86400001"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xab" "deadline_ms\xd0\x80",
        "BAD 5: options.deadline_ms: must be an int of 1 .. 86400000, got a negative int"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xab" "deadline_ms\xca\x42\0\0\0",
        "BAD 5: options.deadline_ms: must be an int of 1 .. 86400000, got float"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xae" "client_context\xa2{}", "BAD 5: options.client_context: must be a bin, got str"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xaa" "request_id\xc4\x0f" "0123456789abcde",
        "BAD 5: options.request_id: 15 bytes, must be 16 .. 16"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xaa" "request_id\xa1i", "BAD 5: options.request_id: must be a bin, got str"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa5trace\xc4\x01t", "BAD 5: options.trace: must be a str, got bin"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa5trace\xa3ro\n", "BAD 5: options.trace: byte 0x0a at offset 2, must be printable ASCII"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa5trace\xa2\xc3\xa4",
        "BAD 5: options.trace: byte 0xc3 at offset 0, must be printable ASCII"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xaf" "idempotency_key\xa1k", "BAD 5: options.idempotency_key: only with type \"event\""),
    ROW(CALL "\x93\xa1x\xa1y\x82\xa4type\xa5""event\xaf" "idempotency_key\xa0",
        "BAD 5: options.idempotency_key: 0 bytes, must be 1 .. 128"),
    ROW(CALL "\x93\xa1x\xa1y\x81\xa6report\x92\x01\x02", "BAD 5: options.report: must be a bool, got array"),
    /* ---- broken: the next frame could not be found, or nobody knows whom to answer ---- */
    ROW("GET / HTTP/1.1\r\n", "BROKEN 0: frame: must be an array of 3 or 4 values, got int"),
    ROW("\x80", "BROKEN 0: frame: must be an array of 3 or 4 values, got map"),
    ROW("\xdb\xff\xff\xff\xff", "BROKEN 0: frame: must be an array of 3 or 4 values, got str"),
    ROW("\xc1", "BROKEN 0: frame: byte 0xc1 at offset 0 is not MessagePack"),
    ROW("\x90", "BROKEN 0: frame: must be an array of 3 or 4 values, got 0"),
    ROW("\x92\x00\x05", "BROKEN 0: frame: must be an array of 3 or 4 values, got 2"),
    ROW("\x95\x00\x05", "BROKEN 0: frame: must be an array of 3 or 4 values, got 5"),
    ROW("\xdc\x00\x05", "BROKEN 0: frame: must be an array of 3 or 4 values, got 5"),
    ROW("\x94\xa1x", "BROKEN 0: type: must be 0 (request) or 2 (notification), got str"),
    ROW("\x94\xc1", "BROKEN 0: frame: byte 0xc1 at offset 1 is not MessagePack"),
    ROW("\x94\x03", "BROKEN 0: type: must be 0 (request) or 2 (notification), got 3"),
    ROW("\x94\xff", "BROKEN 0: type: must be 0 (request) or 2 (notification), got a negative int"),
    ROW("\x94\x01\x05\xc0\xc0", "BROKEN 0: type: must be 0 (request) or 2 (notification), got 1 (a client sends no responses)"),
    ROW("\x93\x00", "BROKEN 0: frame: a request must have 4 values, got 3"),
    ROW("\x94\x02", "BROKEN 0 notification: frame: a notification must have 3 values, got 4"),
    ROW("\x94\x00\xff", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got a negative int"),
    ROW("\x94\x00\xd0\x80", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got a negative int"),
    ROW("\x94\x00\xd3\xff\xff\xff\xff\xff\xff\xff\xff", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got a negative int"),
    ROW("\x94\x00\xcf\0\0\0\1\0\0\0\0", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got 4294967296"),
    ROW("\x94\x00\xc0", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got nil"),
    ROW("\x94\x00\xcb", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got float"),
    ROW("\x94\x00\xa4text", "BROKEN 0: msgid: must be an int of 0 .. 4294967295, got str"),
    ROW(ID "\xc1", "BROKEN 5: frame: byte 0xc1 at offset 3 is not MessagePack"),
    ROW(CALL "\x92\xa1x\x93\x01\xc1\x02", "BROKEN 5: frame: byte 0xc1 at offset 15 is not MessagePack"),
    ROW(CALL "\x92\xa1x\xc6\xff\xff\xff\xff", "BROKEN 5 too large: frame: at least 4294967313 bytes, at most 6356992 (frame_bytes_max)"),
    ROW(CALL "\x92\xa1x\xc9\xff\xff\xff\xff", "BROKEN 5 too large: frame: at least 4294967314 bytes, at most 6356992 (frame_bytes_max)"),
    ROW(CALL "\x92\xa1x\xdd\xff\xff\xff\xff", "BROKEN 5 too large: frame: at least 4294967313 bytes, at most 6356992 (frame_bytes_max)"),
    ROW(CALL "\x92\xa1x\xdf\xff\xff\xff\xff", "BROKEN 5 too large: frame: at least 8589934608 bytes, at most 6356992 (frame_bytes_max)"),
    ROW(CALL "\xdd\xff\xff\xff\xff", "BROKEN 5 too large: frame: at least 4294967310 bytes, at most 6356992 (frame_bytes_max)"),
    ROW(ID "\xdb\x7f\xff\xff\xff", "BROKEN 5 too large: frame: at least 2147483656 bytes, at most 6356992 (frame_bytes_max)"),
    ROW("\xdd\xff\xff\xff\xff", "BROKEN 0 too large: frame: at least 4294967300 bytes, at most 6356992 (frame_bytes_max)"),
};

enum { ROWS = sizeof rows / sizeof rows[0] };

static const struct rpc_limits limits = {.frame_bytes_max = FRAME_MAX};

struct text {
    size_t size;
    char bytes[TEXT_BYTES];
};

static void put_bytes(struct text *text, const void *bytes, size_t size) {
    SCHED_ASSERT(text->size + size <= sizeof text->bytes);
    memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
}

__attribute__((format(printf, 2, 3))) static void put(struct text *text, const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    const int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    SCHED_ASSERT(size >= 0 && (size_t)size < sizeof line);
    put_bytes(text, line, (size_t)size);
}

static void put_slice(struct text *text, const char *name, struct rpc_slice slice) {
    if (slice.at != NULL) {
        put(text, " %s", name);
        put_bytes(text, slice.at, slice.size);
    }
}

/* Verdict and all fields that it says mean something, as one line. */
static void describe(enum rpc_verdict verdict, const struct rpc_request *request, struct text *text) {
    static const char *const names[] = {"MORE", "INVOKE", "METHOD", "CANCEL", "BAD", "BROKEN"};
    text->size = 0;
    put(text, "%s %" PRIu32 "%s", names[verdict], request->msgid, request->notification ? " notification" : "");
    if (verdict == RPC_BAD || verdict == RPC_BROKEN) {
        put(text, "%s: %s", request->too_large ? " too large" : "", request->error);
    } else if (verdict == RPC_METHOD) {
        put_slice(text, "", request->method);
        put_slice(text, "params=", request->params);
    } else if (verdict == RPC_CANCEL) {
        put(text, " cancel=%" PRIu32, request->cancel_msgid);
    } else {
        SCHED_ASSERT(request->method.size == 6 && memcmp(request->method.at, "invoke", 6) == 0);
        put_slice(text, "", request->function);
        put_slice(text, request->payload_msgpack ? "value=" : "bin=", request->payload);
        if (request->type != RPC_SYNC) {
            put(text, " type=%d", request->type);
        }
        if (request->deadline_ms != 0) {
            put(text, " deadline=%" PRIu64, request->deadline_ms);
        }
        put(text, "%s%s", request->report ? " report" : "", request->log_tail ? " log_tail" : "");
        put(text, "%s", request->stream ? " stream" : "");
        put_slice(text, "context=", request->client_context);
        put_slice(text, "trace=", request->trace);
        put_slice(text, "key=", request->idempotency_key);
        put_slice(text, "id=", request->request_id);
    }
}

static void expect(const struct row *row, enum rpc_verdict verdict, const struct rpc_request *request, const char *how,
                   size_t where) {
    struct text text;
    describe(verdict, request, &text);
    if (text.size != strlen(row->expected) || memcmp(text.bytes, row->expected, text.size) != 0) {
        fprintf(stderr, "row %zu, %s, %zu\n  expected %s\n  got      %.*s\n", (size_t)(row - rows), how, where, row->expected,
                (int)text.size, text.bytes);
        SCHED_ASSERT(!"a row reads as expected");
    }
    SCHED_ASSERT(request->size == (verdict == RPC_BROKEN ? 0 : row->size));
}

static enum rpc_verdict read_one(struct rpc_scan *scan, const char *bytes, size_t size, struct rpc_request *request) {
    const enum rpc_verdict verdict = rpc_read(scan, guarded(bytes, size), size, &limits, request);
    if (verdict == RPC_MORE) {
        SCHED_ASSERT(scan->need > size && scan->need <= FRAME_MAX);
    } else {
        SCHED_ASSERT(scan->need == 0 && !scan->begun);
    }
    return verdict;
}

static void test_whole(void) {
    for (const struct row *row = rows; row < rows + ROWS; row++) {
        struct rpc_scan scan = {0};
        struct rpc_request request;
        expect(row, read_one(&scan, row->bytes, row->size, &request), &request, "whole", row->size);
    }
}

static void test_byte_by_byte(void) {
    for (const struct row *row = rows; row < rows + ROWS; row++) {
        struct rpc_scan scan = {0};
        struct rpc_request request;
        enum rpc_verdict verdict = RPC_MORE;
        size_t given = 0;
        uint64_t need = 0;
        while (verdict == RPC_MORE) {
            verdict = read_one(&scan, row->bytes, given, &request);
            if (verdict == RPC_MORE) {
                need = scan.need;
                SCHED_ASSERT(given < row->size);
                given++;
            }
        }
        expect(row, verdict, &request, "byte by byte, after", given);
        SCHED_ASSERT(verdict == RPC_BROKEN || given == row->size);
        SCHED_ASSERT(need <= given); /* no verdict before the bytes that were said to be needed */
    }
}

static void test_every_split(void) {
    for (const struct row *row = rows; row < rows + ROWS; row++) {
        for (size_t cut = 0; cut < row->size; cut++) {
            struct rpc_scan scan = {0};
            struct rpc_request request;
            enum rpc_verdict verdict = read_one(&scan, row->bytes, cut, &request);
            if (verdict == RPC_MORE) {
                verdict = read_one(&scan, row->bytes, row->size, &request);
            }
            expect(row, verdict, &request, "cut at", cut);
        }
    }
}

/* The caller waits for as much as was said to be needed, as it may. */
static void test_what_is_needed(void) {
    for (const struct row *row = rows; row < rows + ROWS; row++) {
        struct rpc_scan scan = {0};
        struct rpc_request request;
        enum rpc_verdict verdict;
        size_t given = 0;
        while ((verdict = read_one(&scan, row->bytes, given, &request)) == RPC_MORE) {
            SCHED_ASSERT(scan.need <= row->size);
            given = scan.need;
        }
        expect(row, verdict, &request, "as needed", given);
    }
}

static void test_trailing_bytes(void) {
    static const char behind[] = "\xc1\x94\x00\x07\xff\xdd\xff\xff\xff\xff";
    for (const struct row *row = rows; row < rows + ROWS; row++) {
        for (size_t from = 0; from < sizeof behind - 1; from++) {
            char bytes[TEXT_BYTES];
            memcpy(bytes, row->bytes, row->size);
            memcpy(bytes + row->size, behind + from, sizeof behind - 1 - from);
            struct rpc_scan scan = {0};
            struct rpc_request request;
            expect(row, read_one(&scan, bytes, row->size + sizeof behind - 1 - from, &request), &request, "trailing", from);
        }
    }
}

/* Frames behind each other in one buffer, given byte by byte: each begins where the one before ended. */
static void test_one_after_another(void) {
    char stream[ROWS * 64];
    size_t filled = 0;
    size_t begins = 0;
    const struct row *good[ROWS];
    size_t count = 0;
    for (const struct row *row = rows; row < rows + ROWS; row++) {
        if (strncmp(row->expected, "BROKEN", 6) != 0 && filled + row->size <= sizeof stream) {
            memcpy(stream + filled, row->bytes, row->size);
            filled += row->size;
            good[count++] = row;
        }
    }
    struct rpc_scan scan = {0};
    size_t next = 0;
    for (size_t given = 0; given <= filled; given++) {
        struct rpc_request request;
        const enum rpc_verdict verdict = read_one(&scan, stream + begins, given - begins, &request);
        if (verdict != RPC_MORE) {
            expect(good[next++], verdict, &request, "in a stream, at", given);
            begins += request.size;
        }
    }
    SCHED_ASSERT(next == count && begins == filled && count > 60);
}

/* ---- what no table holds ---- */

static struct rpc_request request_of(const char *bytes, size_t size, enum rpc_verdict expected) {
    struct rpc_scan scan = {0};
    struct rpc_request request;
    const enum rpc_verdict verdict = read_one(&scan, bytes, size, &request);
    if (verdict != expected) {
        fprintf(stderr, "verdict %d, expected %d: %s\n", (int)verdict, (int)expected, request.error);
        SCHED_ASSERT(verdict == expected);
    }
    return request;
}

static void add(struct text *text, const char *bytes, size_t size) {
    put_bytes(text, bytes, size);
}

#define ADD(text, literal) add((text), (literal), sizeof(literal) - 1)

/* Each first byte but 0xc1 as the payload, its length bytes 3, behind it a valid option: one byte stepped over too many or
 * too few and the option is not found. */
static void test_every_type_is_stepped_over(void) {
    for (int first = 0; first < 256; first++) {
        static const uint8_t bodies[] = {/* c0 .. df */ 0, 0, 0, 0, 1, 2, 4, 2, 3, 5, 4, 8, 1, 2, 4, 8,
                                         1, 2, 4, 8, 2, 3, 5, 9, 17, 1, 2, 4, 2, 4, 2, 4};
        if (first == 0xc1) {
            continue;
        }
        struct text frame = {0};
        ADD(&frame, CALL "\x93\xa1x");
        const size_t begins = frame.size;
        frame.bytes[frame.size++] = (char)first;
        size_t inside = 0;
        const bool sized = (first >= 0xc4 && first <= 0xc9) || (first >= 0xd9 && first <= 0xdf);
        if (first >= 0xc0 && first <= 0xdf) {
            const size_t bytes = bodies[first - 0xc0];
            for (size_t i = 0; i < bytes; i++) {
                frame.bytes[frame.size++] = (char)0x00;
            }
            if (sized) {
                /* A length of 3; in an ext the type stands behind it. */
                frame.bytes[frame.size - (first >= 0xc7 && first <= 0xc9 ? 2 : 1)] = 3;
                inside = first >= 0xde ? 6 : 3;
            }
        } else if (first >= 0x80 && first < 0xc0) {
            inside = first >= 0xa0 ? first & 0x1f : first >= 0x90 ? first & 0x0f : 2 * (first & 0x0f);
        }
        for (size_t i = 0; i < inside; i++) {
            frame.bytes[frame.size++] = '\x01';
        }
        const size_t ends = frame.size;
        ADD(&frame, "\x81\xab" "deadline_ms\x2a");
        for (size_t cut = 0; cut <= frame.size; cut++) {
            struct rpc_scan scan = {0};
            struct rpc_request request;
            if (read_one(&scan, frame.bytes, cut, &request) == RPC_MORE) {
                SCHED_ASSERT(read_one(&scan, frame.bytes, frame.size, &request) == RPC_INVOKE);
            }
            const bool text = (first >= 0xa0 && first < 0xc0) || (first >= 0xc4 && first <= 0xc6) || (first >= 0xd9 && first <= 0xdb);
            SCHED_ASSERT(request.deadline_ms == 42 && request.payload_msgpack == !text);
            SCHED_ASSERT(request.payload.size == (text ? inside : ends - begins));
        }
    }
}

static void test_depth(void) {
    /* The frame is the first level, params the second. */
    for (int kind = 0; kind < 2; kind++) {
        for (int levels = 1; levels <= RPC_DEPTH_MAX; levels++) {
            struct text frame = {0};
            ADD(&frame, CALL "\x92\xa1x");
            for (int i = 0; i < levels; i++) {
                if (kind == 0) {
                    ADD(&frame, "\x91");
                } else {
                    ADD(&frame, "\x81\xa1k");
                }
            }
            ADD(&frame, "\x01");
            const bool fits = levels + 2 <= RPC_DEPTH_MAX;
            const struct rpc_request request = request_of(frame.bytes, frame.size, fits ? RPC_INVOKE : RPC_BROKEN);
            SCHED_ASSERT(fits || strncmp(request.error, "frame: nested deeper than 32 at offset", 38) == 0);
        }
    }
    /* Deep again and again is not deeper. */
    struct text frame = {0};
    ADD(&frame, CALL "\x92\xa1x\x93");
    for (int again = 0; again < 3; again++) {
        for (int i = 0; i < RPC_DEPTH_MAX - 3; i++) {
            ADD(&frame, "\x91");
        }
        ADD(&frame, "\xc0");
    }
    request_of(frame.bytes, frame.size, RPC_INVOKE);
}

/* A frame of exactly the limit is read, one byte more is refused when its length is announced, not when it has come. */
static void test_frame_limit(void) {
    static const char *const payloads[] = {"\xc5\x01\x00", "\xda\x01\x00", "\xc8\x01\x00\x07", "\xdc\x01\x00", "\xde\x00\x80"};
    static const size_t heads[] = {3, 3, 4, 3, 3};
    for (size_t i = 0; i < 5; i++) {
        struct text frame = {0};
        ADD(&frame, CALL "\x92\xa1x");
        add(&frame, payloads[i], heads[i]);
        const size_t announced = frame.size;
        for (int n = 0; n < 256; n++) {
            ADD(&frame, "\x01");
        }
        for (uint32_t less = 0; less < 3; less++) {
            const struct rpc_limits small = {.frame_bytes_max = (uint32_t)frame.size - less};
            for (size_t given = 0; given <= frame.size; given++) {
                struct rpc_scan scan = {0};
                struct rpc_request request;
                const enum rpc_verdict verdict = rpc_read(&scan, guarded(frame.bytes, given), given, &small, &request);
                if (less == 0) {
                    SCHED_ASSERT(verdict == (given == frame.size ? RPC_INVOKE : RPC_MORE));
                } else {
                    SCHED_ASSERT(verdict == (given >= announced - (i == 2 ? 1 : 0) ? RPC_BROKEN : RPC_MORE));
                    SCHED_ASSERT(verdict == RPC_MORE || (request.too_large && request.msgid == 5));
                }
            }
        }
    }
    /* Limits smaller than any frame. */
    for (uint32_t max = 0; max < 16; max++) {
        const struct rpc_limits small = {.frame_bytes_max = max};
        struct rpc_scan scan = {0};
        struct rpc_request request;
        const size_t size = sizeof(CALL "\x92\xa1x\xa1y") - 1;
        const enum rpc_verdict verdict = rpc_read(&scan, guarded(CALL "\x92\xa1x\xa1y", size), size, &small, &request);
        SCHED_ASSERT(verdict == (max >= size ? RPC_INVOKE : RPC_BROKEN) && request.too_large == (max < size));
    }
}

/* What announces many values takes their least size from the limit at every level, so that counts cannot pile up. */
static void test_counts_add_up(void) {
    const struct rpc_limits small = {.frame_bytes_max = 100};
    const char bytes[] = CALL "\x92\xa1x\xdc\x00\x20\xdc\x00\x20\xdc\x00\x20\xdc\x00\x20";
    struct rpc_scan scan = {0};
    struct rpc_request request;
    size_t given = 0;
    enum rpc_verdict verdict = RPC_MORE;
    while (verdict == RPC_MORE) {
        SCHED_ASSERT(given < sizeof bytes - 1);
        given++;
        verdict = rpc_read(&scan, guarded(bytes, given), given, &small, &request);
    }
    /* 13 bytes, then 3 + 32, + 3 + 31 = 82, and the third does not fit. */
    SCHED_ASSERT(verdict == RPC_BROKEN && request.too_large && given == 13 + 9);
}

static void test_sizes_of_texts(void) {
    static const struct {
        const char *before;
        size_t before_bytes;
        uint8_t head; /* of three bytes */
        uint32_t most;
    } fields[] = {
        {CALL "\x92", sizeof CALL, 0xda, 256},
        {CALL "\x93\xa1x\xa1y\x81\xae" "client_context", sizeof(CALL "\x93\xa1x\xa1y\x81\xae" "client_context") - 1, 0xc5, 3583},
        {CALL "\x93\xa1x\xa1y\x81\xa5trace", sizeof(CALL "\x93\xa1x\xa1y\x81\xa5trace") - 1, 0xda, 1024},
        {CALL "\x93\xa1x\xa1y\x82\xa4type\xa5" "event\xaf" "idempotency_key",
         sizeof(CALL "\x93\xa1x\xa1y\x82\xa4type\xa5" "event\xaf" "idempotency_key") - 1, 0xda, 128},
        {ID, sizeof ID - 1, 0xda, 64},
    };
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        for (uint32_t over = 0; over < 2; over++) {
            char bytes[4096];
            const uint32_t size = fields[i].most + over;
            memcpy(bytes, fields[i].before, fields[i].before_bytes);
            size_t at = fields[i].before_bytes;
            bytes[at++] = (char)fields[i].head;
            bytes[at++] = (char)(size >> 8);
            bytes[at++] = (char)size;
            memset(bytes + at, 'a', size);
            at += size;
            if (i == 0) {
                bytes[at++] = '\xa0';
            } else if (i == 4) {
                bytes[at++] = '\x90';
            }
            const struct rpc_request request = request_of(bytes, at, over ? RPC_BAD : i == 4 ? RPC_METHOD : RPC_INVOKE);
            char limit[16];
            (void)snprintf(limit, sizeof limit, ".. %u", fields[i].most);
            SCHED_ASSERT(!over || strstr(request.error, limit) != NULL);
        }
    }
}

static void test_utf8(void) {
    static const struct {
        const char *bytes;
        bool valid;
    } texts[] = {
        {"\x7f", true}, {"\xc2\x80", true}, {"\xdf\xbf", true}, {"\xe0\xa0\x80", true}, {"\xef\xbf\xbf", true},
        {"\xed\x9f\xbf", true}, {"\xee\x80\x80", true}, {"\xf0\x90\x80\x80", true}, {"\xf4\x8f\xbf\xbf", true},
        {"a\xe2\x82\xac" "b", true},
        {"\x80", false}, {"\xbf", false}, {"\xc0\x80", false}, {"\xc1\xbf", false}, {"\xc2", false}, {"\xc2\x7f", false},
        {"\xc2\xc0", false}, {"\xe0\x9f\xbf", false}, {"\xed\xa0\x80", false}, {"\xe2\x82", false}, {"\xe2\x82\x2c", false},
        {"\xf0\x8f\xbf\xbf", false}, {"\xf4\x90\x80\x80", false}, {"\xf5\x80\x80\x80", false}, {"\xf0\x90\x80", false},
        {"\xff", false}, {"a\xe2\x28\xac", false},
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        struct text frame = {0};
        ADD(&frame, CALL "\x92");
        frame.bytes[frame.size++] = (char)(0xa0 + strlen(texts[i].bytes));
        add(&frame, texts[i].bytes, strlen(texts[i].bytes));
        ADD(&frame, "\xa1y");
        request_of(frame.bytes, frame.size, texts[i].valid ? RPC_INVOKE : RPC_BAD);
    }
}

/* Many small values that come in pieces: after each piece the scan stands at its end, so no byte is looked at again. */
static void test_pieces_are_not_read_again(void) {
    enum { SIZE = 6 * 1024 * 1024, PIECE = 64 * 1024 };
    uint8_t *bytes = malloc(SIZE);
    SCHED_ASSERT(bytes != NULL);
    const char head[] = CALL "\x92\xa1x\xdd";
    size_t filled = sizeof head - 1;
    memcpy(bytes, head, filled);
    const uint32_t pairs = (SIZE - (uint32_t)filled - 4) / 3;
    for (int shift = 24; shift >= 0; shift -= 8) {
        bytes[filled++] = (uint8_t)(pairs >> shift);
    }
    for (uint32_t i = 0; i < pairs; i++) {
        memcpy(bytes + filled, "\x92\x01\xff", 3);
        filled += 3;
    }
    struct rpc_scan scan = {0};
    struct rpc_request request;
    for (size_t given = PIECE; given < filled; given += PIECE) {
        SCHED_ASSERT(rpc_read(&scan, bytes, given, &limits, &request) == RPC_MORE);
        SCHED_ASSERT(scan.at == given && scan.need == given + 1);
    }
    SCHED_ASSERT(rpc_read(&scan, bytes, filled, &limits, &request) == RPC_INVOKE && request.size == filled);
    free(bytes);
}

int main(void) {
    RUN(test_whole);
    RUN(test_byte_by_byte);
    RUN(test_every_split);
    RUN(test_what_is_needed);
    RUN(test_trailing_bytes);
    RUN(test_one_after_another);
    RUN(test_every_type_is_stepped_over);
    RUN(test_depth);
    RUN(test_frame_limit);
    RUN(test_counts_add_up);
    RUN(test_sizes_of_texts);
    RUN(test_utf8);
    RUN(test_pieces_are_not_read_again);
    return 0;
}
