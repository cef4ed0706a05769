/* Invariant: whatever a sandbox sends to its Runtime API, over however many connections and in whatever pieces, no assertion fails, the
 * core's books are in order, no payload memory is left over, and what it is told are whole answers. And the reader of requests
 * gives the same verdict however the bytes come, with slices inside them.
 *
 * The input is a script: an operation's byte, a length's byte, so many bytes. */
#include "../tests/rig.h"

#include "api.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PEERS = 3 };

static void inside(struct http_slice slice, const uint8_t *in, uint32_t bytes) {
    SCHED_ASSERT(slice.at == NULL ? slice.size == 0 : slice.at >= in && slice.at + slice.size <= in + bytes);
}

static void read_alone(const uint8_t *data, size_t size) {
    struct api_head head, part;
    const uint8_t *const in = guarded(data, size);
    const enum api_read verdict = api_head_read(in, size, &head);
    if (verdict == API_READ_WHOLE) {
        SCHED_ASSERT(head.bytes > 0 && head.bytes <= size && head.route < ROUTES && (!head.chunked || head.length == 0));
        inside(head.error_type, in, head.bytes);
        inside(head.mode, in, head.bytes);
        inside(head.content_type, in, head.bytes);
        inside(head.extension_name, in, head.bytes);
        inside(head.extension_id, in, head.bytes);
        inside(head.features, in, head.bytes);
        for (size_t cut = 0; cut < head.bytes; cut += 1 + head.bytes / 16) {
            SCHED_ASSERT(api_head_read(guarded(data, cut), cut, &part) == API_READ_MORE);
        }
    }
    struct api_trailers trailers;
    if (api_trailers_read(guarded(data, size), size, &trailers)) {
        SCHED_ASSERT(size >= 2);
    }
}

/* The data and the end of a chunked body, whole and byte by byte. */
static void read_chunks(const uint8_t *data, size_t size) {
    static uint8_t whole[1 << 16], pieces[1 << 16];
    size_t bytes[2] = {0};
    enum api_piece last[2];
    for (int way = 0; way < 2; way++) {
        struct api_chunks chunks = {0};
        size_t at = 0;
        last[way] = API_PIECE_MORE;
        while (last[way] == API_PIECE_MORE && at < size) {
            const size_t room = way == 0 ? size - at : 1;
            size_t taken, used = 0;
            struct http_slice piece = {0};
            do {
                last[way] = api_chunks_read(&chunks, guarded(data + at + used, room - used), room - used, &taken, &piece);
                SCHED_ASSERT(taken <= room - used && (last[way] == API_PIECE_BROKEN || piece.size <= taken || last[way] == API_PIECE_MORE || last[way] == API_PIECE_END));
                if (last[way] == API_PIECE_DATA) {
                    memcpy((way == 0 ? whole : pieces) + bytes[way], piece.at, piece.size);
                    bytes[way] += piece.size;
                }
                used += taken;
            } while (last[way] == API_PIECE_DATA || last[way] == API_PIECE_TRAILER);
            at += used;
            SCHED_ASSERT(last[way] != API_PIECE_MORE || used == room);
        }
    }
    SCHED_ASSERT(last[0] == last[1] && bytes[0] == bytes[1] && memcmp(whole, pieces, bytes[0]) == 0);
}

struct stage {
    struct rig rig;
    int peers[PEERS];
    uint32_t msgid;
    char heard[PEERS][8192];
    size_t heard_bytes[PEERS];
    char id[37];        /* of the last call that was given */
    char extension[37]; /* of the last extension that registered */
};

static void hear(struct stage *stage) {
    for (int i = 0; i < PEERS; i++) {
        char bytes[4096];
        const ssize_t got = stage->peers[i] < 0 ? -1 : recv(stage->peers[i], bytes, sizeof bytes, MSG_DONTWAIT);
        if (got <= 0) {
            continue;
        }
        SCHED_ASSERT(stage->heard_bytes[i] > 0 || memcmp(bytes, "HTTP", got < 4 ? (size_t)got : 4) == 0);
        stage->heard_bytes[i] += (size_t)got;
        static const char name[] = "Aws-Request-Id: ";
        const char *const at = memmem(bytes, (size_t)got, name, sizeof name - 1);
        if (at != NULL && bytes + got - at > 60) {
            memcpy(stage->id, at + sizeof name - 1, 36);
        }
        static const char other[] = "Extension-Identifier: ";
        const char *const it = memmem(bytes, (size_t)got, other, sizeof other - 1);
        if (it != NULL && bytes + got - it > 70) {
            memcpy(stage->extension, it + sizeof other - 1, 36);
        }
    }
}

static void send_to(struct stage *stage, int peer, const void *bytes, size_t size) {
    if (stage->peers[peer] >= 0) {
        (void)!send(stage->peers[peer], bytes, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
}

static void operate(struct stage *stage, uint8_t operation, const uint8_t *bytes, size_t size) {
    static const char *const ready[] = {
        "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\n\r\n",
        "GET /2018-06-01/ping HTTP/1.1\r\n\r\n",
        "POST /2018-06-01/runtime/init/error HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
        "POST /2020-01-01/extension/register HTTP/1.1\r\nLambda-Extension-Name: one\r\nContent-Length: 32\r\n\r\n{\"events\":[\"INVOKE\",\"SHUTDOWN\"]}",
        "PUT /2022-07-01/telemetry HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}",
    };
    char text[1024];
    const int peer = operation / 16 % PEERS;
    struct rig_sandbox *sandbox = &stage->rig.sandboxes[0];
    switch (operation % 16) {
    case 0:
        send_to(stage, peer, bytes, size);
        break;
    case 1: case 2: {
        const char *const request = ready[(size > 0 ? bytes[0] : 0) % (sizeof ready / sizeof *ready)];
        send_to(stage, peer, request, strlen(request));
        break;
    }
    case 3: case 4: case 5: {
        const bool chunked = size > 0 && (bytes[0] & 1) != 0;
        const int head = snprintf(text, sizeof text, "POST /2018-06-01/runtime/invocation/%s/%s HTTP/1.1\r\n%s%s: %s\r\n\r\n%s", stage->id,
                                  size > 1 && (bytes[1] & 1) != 0 ? "error" : "response",
                                  size > 1 && (bytes[1] & 2) != 0 ? "Lambda-Runtime-Function-Response-Mode: streaming\r\n" : "", chunked ? "Transfer-Encoding" : "Content-Length",
                                  chunked ? "chunked" : "4", chunked ? "4\r\nfull\r\n0\r\n\r\n" : "full");
        const size_t take = size > 2 ? bytes[2] % (size_t)head + 1 : (size_t)head;
        send_to(stage, peer, text, operation % 16 == 3 ? take : (size_t)head);
        break;
    }
    case 11: {
        static const char *const calls[] = {"GET /2020-01-01/extension/event/next", "POST /2020-01-01/extension/exit/error",
                                            "GET /2020-01-01/extension/event/next", "POST /2020-01-01/extension/init/error"};
        const int head = snprintf(text, sizeof text, "%s HTTP/1.1\r\nLambda-Extension-Identifier: %s\r\n\r\n",
                                  calls[size > 0 ? bytes[0] & 3 : 0], stage->extension);
        send_to(stage, peer, text, (size_t)head);
        break;
    }
    case 12: {
        if (size > 1 && (bytes[1] & 1) != 0) {
            const int ended = snprintf(text, sizeof text, "{\"status\":%d,\"signal\":%d}", bytes[0] & 7, bytes[0] >> 3 & 1 ? 11 : 0);
            rig_frame(sandbox, 23, 0, 0, 0, text, (size_t)ended);
            break;
        }
        static const char *const ends[] = {"exit", "crash", "launch", "other"};
        const int made = snprintf(text, sizeof text, "{\"name\":\"one\",\"event\":\"%s\",\"status\":1,\"signal\":2,\"reason\":\"x\"}",
                                  ends[size > 0 ? bytes[0] & 3 : 0]);
        rig_frame(sandbox, 22, 0, 0, 0, text, (size_t)made);
        break;
    }
    case 13: {
        struct core_event event = {.kind = CORE_EV_FUNCTION_SWITCH};
        event.u.function = (struct core_function_event){.handle = RIG_FUNCTION, .revision = size > 0 ? bytes[0] % 3 : 1};
        rig_core(&stage->rig, &event, NULL);
        break;
    }
    case 14: {
        static const char *const bodies[] = {
            "{\"schemaVersion\":\"2022-07-01\",\"types\":[\"platform\",\"function\",\"extension\"],\"destination\":{\"protocol\":\"TCP\",\"port\":80}}",
            "{\"types\":[\"function\"],\"destination\":{\"protocol\":\"HTTP\",\"URI\":\"http://sandbox:1/x\"}}", "{\"schemaVersion\":", "null"};
        const char *const body = bodies[size > 0 ? bytes[0] & 3 : 0];
        const int head = snprintf(text, sizeof text, "PUT %s HTTP/1.1\r\nLambda-Extension-Identifier: %s\r\nContent-Length: %zu\r\n\r\n%s",
                                  size > 1 && (bytes[1] & 1) != 0 ? "/2020-08-15/logs" : "/2022-07-01/telemetry", stage->extension, strlen(body), body);
        send_to(stage, peer, text, (size_t)head);
        if (sandbox->output >= 0) {
            (void)!write(sandbox->output, bytes, size);
        }
        break;
    }
    case 6:
        if (size > 0 && (bytes[0] & 1) != 0) {
            const uint8_t frame[] = {0x94, 0, (uint8_t)(stage->msgid++ & 127), 0xa6, 'i', 'n', 'v', 'o', 'k', 'e', 0x93, 0xa5, 'h', 'e', 'l', 'l', 'o',
                                     0xc4, 1, '5', 0x81, 0xa6, 's', 't', 'r', 'e', 'a', 'm', 0xc3};
            rig_write(stage->rig.client, frame, sizeof frame);
        } else {
            rig_invoke(&stage->rig, stage->msgid++, "{}", 2);
        }
        break;
    case 7:
        if (stage->peers[peer] >= 0 && size > 0 && (bytes[0] & 3) == 0) {
            (void)shutdown(stage->peers[peer], SHUT_WR);
        } else if (stage->peers[peer] >= 0) {
            close(stage->peers[peer]);
            stage->peers[peer] = -1;
        }
        break;
    case 8:
        if (stage->peers[peer] < 0 && sandbox->port != 0 && sandbox->fd >= 0 && stage->rig.sched->channels[(uint32_t)sandbox->handle] != NULL &&
            stage->rig.sched->channels[(uint32_t)sandbox->handle]->api->listen_fd >= 0) {
            stage->peers[peer] = rig_dial(sandbox);
            stage->heard_bytes[peer] = 0;
        }
        break;
    case 9:
        if (size > 1 && bytes[0] == bytes[1] && sandbox->fd >= 0) {
            rig_frame(sandbox, bytes[0], 0, 0, 0, bytes, size);
        }
        break;
    case 10:
        if (size > 2 && bytes[0] == bytes[1] && sandbox->handle != 0) {
            rig_reaped(&stage->rig, sandbox->handle, CORE_CAUSE_SIGNAL, 9);
        }
        break;
    default:
        rig_turn(&stage->rig);
        SCHED_ASSERT(core_check(stage->rig.sched->core) == NULL);
        hear(stage);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_alone(data, size);
    read_chunks(data, size);
    static struct stage stage;
    memset(&stage, 0, sizeof stage);
    struct rig_options options = rig_options();
    options.config.stop_grace_ms = 1;
    rig_init_from(&stage.rig, &options);
    stage.rig.api = size > 0 && (data[0] & 1) != 0 ? "one," : "";
    stage.msgid = 2;
    memcpy(stage.id, "00000000-0000-4000-8000-000000000000", 37);
    memcpy(stage.extension, stage.id, 37);
    rig_invoke(&stage.rig, 1, "{}", 2);
    struct rig_sandbox *sandbox = rig_started_sandbox(&stage.rig);
    rig_turn(&stage.rig);
    SCHED_ASSERT(sandbox == &stage.rig.sandboxes[0]);
    for (int i = 0; i < PEERS; i++) {
        stage.peers[i] = i == 0 ? rig_dial(sandbox) : -1;
    }
    unsigned operations = 0;
    while (size >= 2 && operations++ < 200) {
        const uint8_t operation = data[0];
        const size_t bytes = data[1] < size - 2 ? data[1] : size - 2;
        operate(&stage, operation, data + 2, bytes);
        data += 2 + bytes;
        size -= 2 + bytes;
    }
    for (int i = 0; i < 3; i++) {
        rig_turn(&stage.rig);
        for (int k = 0; k < RIG_SANDBOXES; k++) {
            if (stage.rig.sandboxes[k].handle != 0) {
                rig_reaped(&stage.rig, stage.rig.sandboxes[k].handle, CORE_CAUSE_SIGNAL, 9);
            }
        }
        rig_turn(&stage.rig);
    }
    SCHED_ASSERT(core_check(stage.rig.sched->core) == NULL);
    for (int i = 0; i < PEERS; i++) {
        if (stage.peers[i] >= 0) {
            close(stage.peers[i]);
        }
    }
    rig_free(&stage.rig);
    return 0;
}
