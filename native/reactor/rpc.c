/* rpc.c: the MessagePack-RPC reader. Bytes in, a verdict out: no input, no output, no allocation, no recursion, no clock.
 *
 * Three passes, each over less than the one before:
 *   1. the envelope (array head, type, msgid; at most 23 bytes), read anew at every call until it is whole;
 *   2. the scan of method and params: every head is looked at once, bodies of strings are stepped over unread, and all that
 *      is kept between calls is an offset and how many values each open array or map still wants;
 *   3. once the frame is whole, its meaning: fields are found by their heads alone.
 * In front of them stands read_common(), which knows the one shape nearly all frames have. It only ever says yes; whatever it
 * does not know goes the long way, so the two cannot disagree about what is wrong.
 *
 * Errors are found from left to right and depend on the bytes alone, never on where the stream was cut.
 *
 * What is BROKEN (the connection closes) and what is only BAD (the caller is answered): BROKEN is a stream whose next frame
 * cannot be trusted: not MessagePack, not [0 | 2, ...] of the right length, no msgid to answer to, a response, too deep, too
 * large. A well-formed frame that asks for something wrong, be it a method that is no str, is too long or no UTF-8, or params
 * that are no array, is BAD. */
#include "rpc.h"

#include "../core/invariant.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    METHOD_BYTES_MAX = 64,
    FUNCTION_BYTES_MAX = 256,
    CONTEXT_BYTES_MAX = 3583,
    TRACE_BYTES_MAX = 1024,
    TENANT_ID_BYTES_MAX = 256,
    KEY_BYTES_MAX = 128,
    REQUEST_ID_BYTES = 16,
    DEADLINE_MS_MAX = 86400000,
    SHOWN_BYTES_MAX = 32, /* of hostile text in an error */
    SHOWN_ROOM = SHOWN_BYTES_MAX * 4 + 8
};

enum { FRAME_REQUEST = 0, FRAME_RESPONSE = 1, FRAME_NOTIFICATION = 2 };

enum kind { NIL, BOOL, INT, FLOAT, STR, BIN, ARRAY, MAP, EXT, NEVER };

static const char *const kind_names[] = {"nil", "bool", "int", "float", "str", "bin", "array", "map", "ext", "never"};

/* What the first byte tells. The length, where there is one, is the head's other bytes. */
struct shape {
    uint8_t kind;
    uint8_t head; /* bytes, the first and the length's */
    uint8_t body; /* bytes that follow whatever the length is */
};

static const struct shape shapes_c0_df[32] = {
    {NIL, 1, 0}, {NEVER, 1, 0}, {BOOL, 1, 0}, {BOOL, 1, 0},  {BIN, 2, 0},  {BIN, 3, 0},   {BIN, 5, 0},   {EXT, 2, 1},
    {EXT, 3, 1}, {EXT, 5, 1},   {FLOAT, 1, 4}, {FLOAT, 1, 8}, {INT, 1, 1},  {INT, 1, 2},   {INT, 1, 4},   {INT, 1, 8},
    {INT, 1, 1}, {INT, 1, 2},   {INT, 1, 4},  {INT, 1, 8},   {EXT, 1, 2},  {EXT, 1, 3},   {EXT, 1, 5},   {EXT, 1, 9},
    {EXT, 1, 17}, {STR, 2, 0},  {STR, 3, 0},  {STR, 5, 0},   {ARRAY, 3, 0}, {ARRAY, 5, 0}, {MAP, 3, 0},  {MAP, 5, 0}};

/* One value whose head is whole (and its body too, if it is no array or map). */
struct value {
    uint8_t kind;
    uint64_t at;    /* offsets in the frame */
    uint64_t body;
    uint64_t end;   /* of an array or map: of its head */
    uint64_t count; /* values inside: a map of n has 2 n */
};

enum step { STEP_DONE, STEP_MORE, STEP_BROKEN };

/* The bytes and what is left of the bounds; passed by address, so that it stays in registers where it is inlined. */
struct reader {
    const uint8_t *in;
    uint64_t size;
    uint64_t max;
    struct rpc_request *out;
    uint64_t need;
};

/* ---- errors ---- */

__attribute__((format(printf, 2, 3))) static void say(struct rpc_request *out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(out->error, sizeof out->error, format, arguments); /* cut where the room ends: it is all ASCII */
    va_end(arguments);
}

/* A stranger's bytes as printable ASCII. */
static const char *shown(char room[SHOWN_ROOM], const uint8_t *bytes, uint64_t size) {
    char *to = room;
    for (uint64_t i = 0; i < size && i < SHOWN_BYTES_MAX; i++) {
        if (bytes[i] >= 0x20 && bytes[i] < 0x7f && bytes[i] != '"' && bytes[i] != '\\') {
            *to++ = (char)bytes[i];
        } else {
            to += snprintf(to, 5, "\\x%02x", bytes[i]);
        }
    }
    (void)snprintf(to, 4, "%s", size > SHOWN_BYTES_MAX ? "..." : "");
    return room;
}

/* ---- values ---- */

static inline struct shape shape_of(uint8_t first) {
    if (first < 0x80 || first >= 0xe0) {
        return (struct shape){INT, 1, 0};
    }
    if (first >= 0xc0) {
        return shapes_c0_df[first - 0xc0];
    }
    return (struct shape){first >= 0xa0 ? STR : first >= 0x90 ? ARRAY : MAP, 1, 0};
}

static inline uint64_t big_endian(const uint8_t *at, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static inline uint64_t length_of(const uint8_t *at, struct shape shape) {
    if (shape.head > 1) {
        return big_endian(at + 1, shape.head - 1U);
    }
    if (*at >= 0xa0 && *at < 0xc0) {
        return *at & 0x1f;
    }
    return *at >= 0x80 && *at < 0xa0 ? *at & 0x0f : 0;
}

/* The value at `at`, all of whose bytes are known to be there. */
static inline struct value value_at(const uint8_t *in, uint64_t at) {
    struct shape shape = shape_of(in[at]);
    uint64_t length = length_of(in + at, shape);
    struct value value = {.kind = shape.kind, .at = at, .body = at + shape.head};
    if (shape.kind == ARRAY || shape.kind == MAP) {
        value.count = shape.kind == MAP ? 2 * length : length;
        value.end = value.body;
    } else {
        value.end = value.body + shape.body + length;
    }
    return value;
}

static enum step too_large(struct reader *reader, uint64_t bytes) {
    reader->out->too_large = true;
    say(reader->out, "frame: at least %" PRIu64 " bytes, at most %" PRIu64 " (frame_bytes_max)", bytes, reader->max);
    return STEP_BROKEN;
}

/* The value at `at`, if it is whole. after: values known to come behind it, each of a byte at least; they count against the
 * limit, or a frame could announce four thousand million of them in five bytes. */
static inline enum step look(struct reader *reader, uint64_t at, uint64_t after, uint32_t depth, struct value *value) {
    if (at + 1 + after > reader->max) {
        return too_large(reader, at + 1 + after);
    }
    if (at >= reader->size) {
        reader->need = at + 1;
        return STEP_MORE;
    }
    struct shape shape = shape_of(reader->in[at]);
    if (shape.kind == NEVER) {
        say(reader->out, "frame: byte 0xc1 at offset %" PRIu64 " is not MessagePack", at);
        return STEP_BROKEN;
    }
    bool nests = shape.kind == ARRAY || shape.kind == MAP;
    if (nests && depth == RPC_DEPTH_MAX) {
        say(reader->out, "frame: nested deeper than %d at offset %" PRIu64, RPC_DEPTH_MAX, at);
        return STEP_BROKEN;
    }
    uint64_t least = at + shape.head + shape.body;
    if (least + after > reader->max) {
        return too_large(reader, least + after);
    }
    if (reader->size < at + shape.head) {
        reader->need = at + shape.head; /* and no more: the length may be the end of it */
        return STEP_MORE;
    }
    *value = value_at(reader->in, at);
    uint64_t most = value->end + value->count + after;
    if (most > reader->max) {
        return too_large(reader, most);
    }
    if (reader->size < value->end) {
        reader->need = value->end;
        return STEP_MORE;
    }
    return STEP_DONE;
}

/* An integer that is not negative, in any of its encodings. */
static bool unsigned_of(const uint8_t *in, const struct value *value, uint64_t *number) {
    if (value->kind != INT) {
        return false;
    }
    uint8_t first = in[value->at];
    uint64_t bytes = value->end - value->body;
    if (bytes == 0) {
        *number = first;
        return first < 0x80;
    }
    *number = big_endian(in + value->body, (unsigned)bytes);
    return first < 0xd0 || in[value->body] < 0x80; /* 0xd0 .. 0xd3 are signed */
}

static bool is_utf8(const uint8_t *at, uint64_t size) {
    const uint8_t *end = at + size;
    while (at < end) {
        uint8_t first = *at++;
        if (first < 0x80) {
            continue;
        }
        unsigned more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
        if (first < 0xc2 || first > 0xf4 || (uint64_t)(end - at) < more) {
            return false;
        }
        /* The second byte alone rules out overlong forms, surrogates and what lies past U+10FFFF. */
        uint8_t low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
        uint8_t high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
        if (*at < low || *at > high) {
            return false;
        }
        for (unsigned i = 1; i < more; i++) {
            if ((at[i] & 0xc0) != 0x80) {
                return false;
            }
        }
        at += more;
    }
    return true;
}

static struct rpc_slice slice(const uint8_t *in, uint64_t from, uint64_t to) {
    SCHED_ASSERT(from <= to && to - from <= UINT32_MAX);
    return (struct rpc_slice){in + from, (uint32_t)(to - from)};
}

static bool is_text(const uint8_t *in, const struct value *value, const char *text) {
    size_t size = strlen(text);
    return value->end - value->body == size && memcmp(in + value->body, text, size) == 0;
}

/* What an error calls a value: a number itself, of all else the type. */
static const char *got(char room[SHOWN_ROOM], const uint8_t *in, const struct value *value) {
    uint64_t number;
    if (unsigned_of(in, value, &number)) {
        (void)snprintf(room, SHOWN_ROOM, "%" PRIu64, number);
    } else if (value->kind == INT) {
        (void)snprintf(room, SHOWN_ROOM, "a negative int");
    } else {
        (void)snprintf(room, SHOWN_ROOM, "%s", kind_names[value->kind]);
    }
    return room;
}

/* A str or bin of low .. high bytes. */
static bool sized(struct rpc_request *out, const uint8_t *in, const struct value *value, const char *field, enum kind kind,
                  uint32_t low, uint32_t high, struct rpc_slice *to) {
    char room[SHOWN_ROOM];
    if (value->kind != kind) {
        say(out, "%s: must be a %s, got %s", field, kind_names[kind], got(room, in, value));
        return false;
    }
    uint64_t size = value->end - value->body;
    if (size < low || size > high) {
        say(out, "%s: %" PRIu64 " bytes, must be %u .. %u", field, size, low, high);
        return false;
    }
    if (kind == STR && !is_utf8(in + value->body, size)) {
        say(out, "%s: \"%s\" is not UTF-8", field, shown(room, in + value->body, size));
        return false;
    }
    *to = slice(in, value->body, value->end);
    return true;
}

/* ---- the options of invoke, one reader a key ---- */

static bool flag(struct rpc_request *out, const uint8_t *in, const struct value *value, const char *field, bool *to) {
    char room[SHOWN_ROOM];
    if (value->kind != BOOL) {
        say(out, "%s: must be a bool, got %s", field, got(room, in, value));
        return false;
    }
    *to = in[value->at] == 0xc3;
    return true;
}

static bool option_type(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    static const char *const types[] = {[RPC_SYNC] = "sync", [RPC_EVENT] = "event", [RPC_DRYRUN] = "dryrun"};
    char room[SHOWN_ROOM];
    if (value->kind != STR) {
        say(out, "options.type: must be a str, got %s", got(room, in, value));
        return false;
    }
    for (uint8_t type = RPC_SYNC; type <= RPC_DRYRUN; type++) {
        if (is_text(in, value, types[type])) {
            out->type = type;
            return true;
        }
    }
    say(out, "options.type: \"%s\" must be \"sync\", \"event\" or \"dryrun\"",
        shown(room, in + value->body, value->end - value->body));
    return false;
}

static bool option_deadline(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    char room[SHOWN_ROOM];
    if (unsigned_of(in, value, &out->deadline_ms) && out->deadline_ms >= 1 && out->deadline_ms <= DEADLINE_MS_MAX) {
        return true;
    }
    say(out, "options.deadline_ms: must be an int of 1 .. %d, got %s", DEADLINE_MS_MAX, got(room, in, value));
    return false;
}

static bool option_report(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return flag(out, in, value, "options.report", &out->report);
}

static bool option_log_tail(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return flag(out, in, value, "options.log_tail", &out->log_tail);
}

static bool option_stream(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return flag(out, in, value, "options.stream", &out->stream);
}

static bool option_context(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return sized(out, in, value, "options.client_context", BIN, 0, CONTEXT_BYTES_MAX, &out->client_context);
}

static bool option_trace(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    if (!sized(out, in, value, "options.trace", STR, 0, TRACE_BYTES_MAX, &out->trace)) {
        return false;
    }
    for (uint32_t i = 0; i < out->trace.size; i++) {
        if (out->trace.at[i] < 0x20 || out->trace.at[i] > 0x7e) {
            say(out, "options.trace: byte 0x%02x at offset %u, must be printable ASCII", out->trace.at[i], i);
            return false;
        }
    }
    return true;
}

static bool option_tenant_id(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return sized(out, in, value, "options.tenant_id", STR, 1, TENANT_ID_BYTES_MAX, &out->guest);
}

static bool option_idempotency_key(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return sized(out, in, value, "options.idempotency_key", STR, 1, KEY_BYTES_MAX, &out->idempotency_key);
}

static bool option_request_id(struct rpc_request *out, const uint8_t *in, const struct value *value) {
    return sized(out, in, value, "options.request_id", BIN, REQUEST_ID_BYTES, REQUEST_ID_BYTES, &out->request_id);
}

static const struct {
    const char *name;
    bool (*read)(struct rpc_request *out, const uint8_t *in, const struct value *value);
} options[] = {
    {"type", option_type},           {"deadline_ms", option_deadline},
    {"report", option_report},       {"log_tail", option_log_tail},
    {"client_context", option_context}, {"trace", option_trace},
    {"idempotency_key", option_idempotency_key}, {"request_id", option_request_id},
    {"stream", option_stream},
    {"tenant_id", option_tenant_id},
};

enum { OPTIONS = sizeof options / sizeof options[0] };

static bool read_options(struct rpc_request *out, const uint8_t *in, uint64_t at) {
    char room[SHOWN_ROOM];
    struct value map = value_at(in, at);
    if (map.kind != MAP) {
        say(out, "params[2] (options): must be a map, got %s", got(room, in, &map));
        return false;
    }
    /* The first key that is unknown or comes twice ends it, so this looks at no more than OPTIONS + 1 pairs. */
    uint32_t seen = 0;
    at = map.end;
    for (uint64_t pairs = map.count / 2; pairs > 0; pairs--) {
        struct value key = value_at(in, at);
        if (key.kind != STR) {
            say(out, "options: a key must be a str, got %s", got(room, in, &key));
            return false;
        }
        unsigned option = 0;
        while (option < OPTIONS && !is_text(in, &key, options[option].name)) {
            option++;
        }
        if (option == OPTIONS) {
            say(out, "options: unknown key \"%s\"", shown(room, in + key.body, key.end - key.body));
            return false;
        }
        if ((seen & 1U << option) != 0) {
            say(out, "options.%s: given twice", options[option].name);
            return false;
        }
        seen |= 1U << option;
        struct value value = value_at(in, key.end);
        if (!options[option].read(out, in, &value)) {
            return false;
        }
        at = value.end; /* no option is an array or map, so this is behind the whole value */
    }
    if (out->idempotency_key.at != NULL && out->type != RPC_EVENT) {
        say(out, "options.idempotency_key: only with type \"event\"");
        return false;
    }
    if (out->stream && out->type != RPC_SYNC) {
        say(out, "options.stream: only with type \"sync\"");
        return false;
    }
    out->report = out->report || out->log_tail;
    return true;
}

/* ---- methods ---- */

static enum rpc_verdict read_invoke(struct rpc_request *out, const uint8_t *in, const struct value *params,
                                    uint64_t last_param) {
    if (out->notification) {
        say(out, "method: invoke must be a request [0, msgid, method, params]");
        return RPC_BAD;
    }
    if (params->count != 2 && params->count != 3) {
        say(out, "params: invoke takes 2 or 3 values (function, payload, options), got %" PRIu64, params->count);
        return RPC_BAD;
    }
    struct value function = value_at(in, params->end);
    if (!sized(out, in, &function, "params[0] (function)", STR, 1, FUNCTION_BYTES_MAX, &out->function)) {
        return RPC_BAD;
    }
    struct value payload = value_at(in, function.end);
    if (payload.kind == STR || payload.kind == BIN) {
        out->payload = slice(in, payload.body, payload.end);
    } else {
        out->payload = slice(in, payload.at, params->count == 3 ? last_param : out->size);
        out->payload_msgpack = true;
    }
    if (params->count == 3 && !read_options(out, in, last_param)) {
        return RPC_BAD;
    }
    return RPC_INVOKE;
}

static enum rpc_verdict read_cancel(struct rpc_request *out, const uint8_t *in, const struct value *params) {
    char room[SHOWN_ROOM];
    if (!out->notification) {
        say(out, "method: cancel must be a notification [2, method, params]");
        return RPC_BAD;
    }
    if (params->count != 1) {
        say(out, "params: cancel takes 1 value (msgid), got %" PRIu64, params->count);
        return RPC_BAD;
    }
    struct value msgid = value_at(in, params->end);
    uint64_t number;
    if (!unsigned_of(in, &msgid, &number) || number > UINT32_MAX) {
        say(out, "params[0] (msgid): must be an int of 0 .. %" PRIu32 ", got %s", UINT32_MAX, got(room, in, &msgid));
        return RPC_BAD;
    }
    out->cancel_msgid = (uint32_t)number;
    return RPC_CANCEL;
}

/* A whole frame, well-formed throughout; its method lies at `at`. */
static enum rpc_verdict read_meaning(struct rpc_request *out, const uint8_t *in, uint64_t at, uint64_t last_param) {
    char room[SHOWN_ROOM];
    struct value method = value_at(in, at);
    if (!sized(out, in, &method, "method", STR, 1, METHOD_BYTES_MAX, &out->method)) {
        return RPC_BAD;
    }
    struct value params = value_at(in, method.end);
    if (params.kind != ARRAY) {
        say(out, "params: must be an array, got %s", got(room, in, &params));
        return RPC_BAD;
    }
    out->params = slice(in, params.at, out->size);
    if (is_text(in, &method, "invoke")) {
        return read_invoke(out, in, &params, last_param);
    }
    if (is_text(in, &method, "cancel")) {
        return read_cancel(out, in, &params);
    }
    return RPC_METHOD;
}

/* ---- the frame ---- */

/* look() for a value that must be of one kind, refused at its first byte if it is not: nobody's connection waits for the end of
 * a string that stands where a number should. */
static enum step look_for(struct reader *reader, uint64_t at, uint64_t after, uint32_t depth, enum kind kind,
                          const char *must, struct value *value) {
    if (at + 1 + after <= reader->max && at < reader->size) {
        struct shape shape = shape_of(reader->in[at]);
        if (shape.kind != kind && shape.kind != NEVER) {
            say(reader->out, "%s, got %s", must, kind_names[shape.kind]);
            return STEP_BROKEN;
        }
    }
    return look(reader, at, after, depth, value);
}

/* Array head, type and msgid. *at: where the method lies. */
static enum step read_envelope(struct reader *reader, uint64_t *at) {
    static const char frame_must[] = "frame: must be an array of 3 or 4 values";
    static const char type_must[] = "type: must be 0 (request) or 2 (notification)";
    static const char msgid_must[] = "msgid: must be an int of 0 .. 4294967295";
    char room[SHOWN_ROOM];
    const uint8_t *in = reader->in;
    struct rpc_request *out = reader->out;
    struct value frame, type, msgid;
    uint64_t number = 0;
    enum step step = look_for(reader, 0, 0, 0, ARRAY, frame_must, &frame);
    if (step != STEP_DONE) {
        return step;
    }
    if (frame.count != 3 && frame.count != 4) {
        say(out, "%s, got %" PRIu64, frame_must, frame.count);
        return STEP_BROKEN;
    }
    step = look_for(reader, frame.end, frame.count - 1, 1, INT, type_must, &type);
    if (step != STEP_DONE) {
        return step;
    }
    if (!unsigned_of(in, &type, &number) || number > FRAME_NOTIFICATION || number == FRAME_RESPONSE) {
        say(out, "%s, got %s%s", type_must, got(room, in, &type),
            number == FRAME_RESPONSE ? " (a client sends no responses)" : "");
        return STEP_BROKEN;
    }
    out->notification = number == FRAME_NOTIFICATION;
    if (frame.count != (out->notification ? 3 : 4)) {
        say(out, "frame: a %s must have %d values, got %" PRIu64, out->notification ? "notification" : "request",
            out->notification ? 3 : 4, frame.count);
        return STEP_BROKEN;
    }
    *at = type.end;
    if (out->notification) {
        return STEP_DONE;
    }
    step = look_for(reader, type.end, 2, 1, INT, msgid_must, &msgid);
    if (step != STEP_DONE) {
        return step;
    }
    if (!unsigned_of(in, &msgid, &number) || number > UINT32_MAX) {
        say(out, "%s, got %s", msgid_must, got(room, in, &msgid));
        return STEP_BROKEN;
    }
    out->msgid = (uint32_t)number;
    *at = msgid.end;
    return STEP_DONE;
}

/* Values of one byte that hold nothing, which large arrays of small numbers are made of. */
static inline bool is_single(uint8_t byte) {
    return byte < 0x80 || byte >= 0xe0 || byte == 0xc0 || byte == 0xc2 || byte == 0xc3;
}

/* Steps over method and params, all of them that is there. */
static enum step scan_values(struct reader *reader, struct rpc_scan *scan) {
    while (scan->pending > 0) {
        uint32_t *left = &scan->left[scan->depth];
        if (*left == 0) {
            scan->depth--;
            continue;
        }
        if (scan->depth > 2) {
            /* They need no look at the limit: it was kept for values to come when their array was opened. */
            uint64_t run = reader->size - scan->at < *left ? reader->size - scan->at : *left;
            uint32_t n = 0;
            while (n < run && is_single(reader->in[scan->at + n])) {
                n++;
            }
            scan->at += n;
            scan->pending -= n;
            *left -= n;
            if (*left == 0) {
                continue;
            }
        } else if (scan->depth == 2 && scan->left[1] == 0 && *left == 1) {
            scan->last_param = scan->at;
        }
        struct value value;
        enum step step = look(reader, scan->at, scan->pending - 1, scan->depth, &value);
        if (step != STEP_DONE) {
            return step;
        }
        scan->at = value.end;
        scan->pending--;
        --*left;
        if (value.count > 0) {
            /* look() has held the count against the limit, so it fits. */
            scan->left[++scan->depth] = (uint32_t)value.count;
            scan->pending += (uint32_t)value.count;
        }
    }
    return STEP_DONE;
}

static inline bool is_ascii(const uint8_t *at, size_t size) {
    uint64_t bits = 0, word;
    for (; size >= sizeof word; at += sizeof word, size -= sizeof word) {
        memcpy(&word, at, sizeof word);
        bits |= word;
    }
    uint8_t rest = 0;
    while (size-- > 0) {
        rest |= *at++;
    }
    return ((bits & 0x8080808080808080) | (rest & 0x80U)) == 0;
}

/* [0, msgid, "invoke", [function, payload]], whole, in the encodings every library prefers, with the function in ASCII and the
 * payload a str or bin. false: something else, or not whole; nothing is written then. */
static inline bool read_common(const uint8_t *in, size_t size, uint32_t max, struct rpc_request *out) {
    enum { LOOKED_AT = 3 + 4 + 8 + 2 }; /* before the first check of what is left, with the longest msgid */
    if (size < LOOKED_AT || in[0] != 0x94 || in[1] != FRAME_REQUEST) {
        return false;
    }
    uint32_t msgid = in[2];
    size_t at = 3;
    if (msgid >= 0x80) {
        if (msgid < 0xcc || msgid > 0xce) {
            return false;
        }
        unsigned bytes = 1U << (msgid - 0xcc);
        msgid = (uint32_t)big_endian(in + at, bytes);
        at += bytes;
    }
    size_t method = at;
    if (memcmp(in + at, "\xa6invoke\x92", 8) != 0) {
        return false;
    }
    at += 8;
    size_t name = in[at++];
    if (name == 0xd9) {
        name = in[at++];
    } else if (name > 0xa0 && name < 0xc0) {
        name -= 0xa0;
    } else {
        return false;
    }
    size_t function = at;
    /* One byte more than the name: the payload's first. */
    if (name == 0 || size - at <= name || !is_ascii(in + at, name)) {
        return false;
    }
    at += name;
    struct shape shape = shape_of(in[at]);
    if ((shape.kind != STR && shape.kind != BIN) || size - at < shape.head) {
        return false;
    }
    uint64_t bytes = length_of(in + at, shape);
    at += shape.head;
    if (size - at < bytes || at + bytes > max) {
        return false;
    }
    out->size = at + bytes;
    out->msgid = msgid;
    out->method = (struct rpc_slice){in + method + 1, 6};
    out->params = (struct rpc_slice){in + method + 7, (uint32_t)(out->size - method - 7)};
    out->function = (struct rpc_slice){in + function, (uint32_t)name};
    out->payload = (struct rpc_slice){in + at, (uint32_t)bytes};
    return true;
}

enum rpc_verdict rpc_read(struct rpc_scan *scan, const uint8_t *in, size_t size, const struct rpc_limits *limits,
                          struct rpc_request *out) {
    memset(out, 0, offsetof(struct rpc_request, error));
    out->error[0] = '\0';
    enum rpc_verdict verdict = RPC_BROKEN;
    if (!scan->begun && read_common(in, size, limits->frame_bytes_max, out)) {
        verdict = RPC_INVOKE;
    } else {
        struct reader reader = {.in = in, .size = size, .max = limits->frame_bytes_max, .out = out};
        uint64_t method;
        enum step step = read_envelope(&reader, &method);
        if (step == STEP_DONE) {
            SCHED_ASSERT(scan->at <= size); /* the bytes given before, and more */
            if (!scan->begun) {
                scan->begun = true;
                scan->at = method;
                scan->depth = 1;
                scan->left[1] = scan->pending = 2;
            }
            step = scan_values(&reader, scan);
        }
        if (step == STEP_MORE) {
            SCHED_ASSERT(reader.need > size && reader.need <= limits->frame_bytes_max);
            scan->need = reader.need;
            return RPC_MORE;
        }
        if (step == STEP_DONE) {
            out->size = scan->at;
            verdict = read_meaning(out, in, method, scan->last_param);
        }
        memset(scan, 0, sizeof *scan);
    }
    scan->need = 0;
    return verdict;
}
