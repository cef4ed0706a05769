/* api_call.c: what a sandbox is told by its Runtime API: calls, as its runtime asks for them, and refusals. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api_inside.h"
#include "pack_json.h"

enum {
    HEAD_FIXED = 512,
    REFER_BYTES_MIN = 16 * 1024 /* larger payloads are not copied into the output queue */
};

/* ---- calls ------------------------------------------------------------------------------------------------------------ */

uint64_t api_wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* A header's value out of somebody's text: what cannot stand in a header is a blank, and what is not ASCII is as JSON escapes it.
 * Worst: 6 bytes for each. */
char *api_put_value(char *at, const uint8_t *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        const uint8_t c = text[i];
        uint32_t code = c;
        size_t more = c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc0 ? 1 : 0;
        if (c < 0x80) {
            *at++ = c < ' ' || c == 0x7f ? ' ' : (char)c;
            continue;
        }
        code &= 0x7fU >> (more + 1);
        if (c < 0xc0 || more > bytes - i - 1) {
            *at++ = '?';
            continue;
        }
        for (; more > 0; more--) {
            code = code << 6 | (text[++i] & 0x3fU);
        }
        if (code > 0xffff) {
            at += sprintf(at, "\\u%04x\\u%04x", 0xd800U + ((code - 0x10000U) >> 10 & 0x3ffU), 0xdc00U + (code & 0x3ffU));
        } else {
            at += sprintf(at, "\\u%04x", code);
        }
    }
    return at;
}

static char *put(char *at, const char *text) {
    const size_t size = strlen(text);
    memcpy(at, text, size);
    return at + size;
}

static char *put_number(char *at, uint64_t value) {
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = (char)('0' + value % 10);
        value /= 10;
    } while (value > 0);
    while (count > 0) {
        *at++ = digits[--count];
    }
    return at;
}

/* MessagePack becomes JSON. NULL: no memory. */
static struct block *as_json(struct sched *sched, const struct ticket *ticket, uint32_t *bytes) {
    const uint8_t *const payload = ticket_payload(ticket);
    const size_t size = pack_json(payload, ticket->payload_bytes, NULL, 0);
    struct block *block = size > UINT32_MAX ? NULL : block_new((uint32_t)size, &sched->payload_bytes);
    if (block != NULL) {
        (void)pack_json(payload, ticket->payload_bytes, block->data, size);
        *bytes = (uint32_t)size;
    }
    return block;
}

/* The call goes to the runtime whose `next` waits. */
static void give_call(struct sched *sched, struct api *api, const struct ticket *ticket) {
    static const char *const names[TICKET_EXTS] = {NULL, "Lambda-Runtime-Trace-Id: ", "Lambda-Runtime-Client-Context: ", NULL,
                                                   "Lambda-Runtime-Aws-Tenant-Id: "};
    struct api_connection *connection = api->waiting;
    struct output *output = &connection->output;
    const struct function_info *info = info_of(sched, api->channel->function);
    struct ticket_ext ext[TICKET_EXTS];
    ticket_exts(ticket, ext);
    uint32_t bytes = ticket->payload_bytes;
    struct block *json = ticket->payload_msgpack ? as_json(sched, ticket, &bytes) : NULL;
    const uint8_t *payload = ticket_payload(ticket);
    if (ticket->payload_msgpack) {
        payload = json != NULL ? json->data : (const uint8_t *)"null";
        bytes = json != NULL ? bytes : 4;
    } else if (bytes == 0) {
        payload = (const uint8_t *)"{}";
        bytes = 2;
    }
    const size_t arn = ext[TICKET_EXT_ARN].at == NULL ? strlen(api->arn) : ext[TICKET_EXT_ARN].size;
    const size_t most = HEAD_FIXED + 6 * (arn + ext[TICKET_EXT_TRACE].size + ext[TICKET_EXT_CONTEXT].size +
                                          ext[TICKET_EXT_GUEST].size);
    const bool refer = bytes >= REFER_BYTES_MIN && (json != NULL || ticket->block != NULL);
    const bool together = most + bytes <= CHUNK_BYTES && !refer;
    char *const own = most > CHUNK_BYTES ? malloc(most) : NULL;
    SCHED_ASSERT(most <= CHUNK_BYTES || own != NULL);
    char *const begin = own != NULL ? own : (char *)output_room(&sched->chunks, output, most + (together ? bytes : 0));
    char id[37];
    journal_uuid(ticket->request_id, id);
    char *at = put(begin, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nLambda-Runtime-Aws-Request-Id: ");
    at = put(put(at, id), "\r\nLambda-Runtime-Deadline-Ms: ");
    const uint64_t deadline_ms = api_wall_ms() + (info == NULL ? 0 : info->timeout_ms);
    at = put_number(at, deadline_ms);
    at = put(at, "\r\nLambda-Runtime-Invoked-Function-Arn: ");
    at = ext[TICKET_EXT_ARN].at == NULL ? api_put_value(at, (const uint8_t *)api->arn, arn) : api_put_value(at, ext[TICKET_EXT_ARN].at, arn);
    for (int i = TICKET_EXT_TRACE; i < TICKET_EXTS; i++) {
        if (ext[i].at != NULL && names[i] != NULL) {
            at = api_put_value(put(put(at, "\r\n"), names[i]), ext[i].at, ext[i].size);
        }
    }
    at = put(at, connection->close_after ? "\r\nConnection: close\r\nContent-Length: " : "\r\nContent-Length: ");
    at = put(put_number(at, bytes), "\r\n\r\n");
    if (together) {
        memcpy(at, payload, bytes);
        at += bytes;
    }
    if (own != NULL) {
        output_add(&sched->chunks, output, own, (size_t)(at - own));
        free(own);
    } else {
        output_commit(output, (size_t)(at - begin));
    }
    if (refer) {
        output_refer(&sched->chunks, output, json != NULL ? json : ticket->block, payload, bytes);
    } else if (!together) {
        output_add(&sched->chunks, output, payload, bytes);
    }
    block_release(json);
    connection->closing = connection->closing || connection->close_after;
    connection->waits = false;
    api->waiting = NULL;
    api->state = api_step(api->state, API_GIVEN).next;
    api->given_ns = sched->now_ns;
    api->id_known = true;
    memcpy(api->id, ticket->request_id, sizeof api->id);
    api_dirty(sched, connection);
    if (api->extensions_count > 0) {
        api_tell_invoke(sched, api, ticket, deadline_ms);
    }
}

/* The oldest call that is held goes to the runtime, if it waits for one. Those whose time has passed go back to the core, which may
 * have had them run elsewhere. */
void api_give(struct sched *sched, struct api *api) {
    struct channel *channel = api->channel;
    while (api->state == API_WAITING && channel->able && !api->deaf && !api->lingers && api->given_seq != channel->sent_seq && api_extensions_done(api)) {
        const uint32_t seq = ++api->given_seq;
        const struct ticket *ticket = channel_ticket(sched, channel, seq);
        const uint64_t valid_until_ns = api->valid_until_ns[seq % CORE_AHEAD_MAX];
        if (ticket != NULL && (sched->stepping || valid_until_ns == 0 || sched->now_ns <= valid_until_ns)) {
            give_call(sched, api, ticket);
        } else {
            channel_hand_back(sched, channel, seq);
        }
    }
}

void api_send_call(struct sched *sched, struct channel *channel, const struct core_action *send) {
    struct api *api = channel->api;
    api->valid_until_ns[send->seq % CORE_AHEAD_MAX] = send->valid_until_ns;
    if (!api->stopped) {
        api_give(sched, api); /* a runtime that waits has been given all before: this is the one, and its time is now */
    }
}

/* ---- what is said ----------------------------------------------------------------------------------------------------- */

void api_say(struct sched *sched, struct api_connection *connection, unsigned status, const char *reason, const char *type,
                const char *body) {
    char text[1024];
    const int size = snprintf(text, sizeof text, "HTTP/1.1 %u %s\r\nContent-Type: %s\r\n%sContent-Length: %zu\r\n\r\n%s", status, reason, type,
                              connection->close_after ? "Connection: close\r\n" : "", strlen(body), body);
    SCHED_ASSERT(size > 0 && (size_t)size < sizeof text);
    output_add(&sched->chunks, &connection->output, text, (size_t)size);
    connection->closing = connection->closing || connection->close_after;
    api_dirty(sched, connection);
}

static const char *reason_of(unsigned status) {
    switch (status) {
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Request Entity Too Large";
    case 431: return "Request Header Fields Too Large";
    default: return "Internal Server Error";
    }
}

/* What messages are made of needs no escape in JSON. */
void api_say_refusal(struct sched *sched, struct api_connection *connection) {
    char body[512];
    snprintf(body, sizeof body, "{\"errorMessage\":\"%s\",\"errorType\":\"%s\"}", connection->refused_message, connection->refused_type);
    api_say(sched, connection, connection->refused, reason_of(connection->refused), "application/json", body);
    connection->refused = 0;
    api_spend(sched, connection->api, 1);
}

void api_refuse(struct api_connection *connection, unsigned status, const char *type, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(connection->refused_message, sizeof connection->refused_message, format, arguments);
    va_end(arguments);
    snprintf(connection->refused_type, sizeof connection->refused_type, "%s", type);
    connection->refused = status;
    connection->discard = true;
}

void api_refuse_step(struct api_connection *connection, const struct api_step *step, enum api_want want) {
    if (step->verdict == API_REFUSE_ID) {
        api_refuse(connection, 400, "InvalidRequestID", "Invalid request ID");
    } else {
        api_refuse(connection, 403, "InvalidStateTransition", "State transition from %s to %s failed for runtime. Error: State transition is not allowed",
               api_state_name(step->next), api_want_name(want));
    }
}

void api_say_accepted(struct sched *sched, struct api_connection *connection) {
    static const char text[] = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 16\r\n\r\n{\"status\":\"OK\"}\n";
    if (connection->close_after) {
        api_say(sched, connection, 202, "Accepted", "application/json", "{\"status\":\"OK\"}\n");
        return;
    }
    output_add(&sched->chunks, &connection->output, text, sizeof text - 1);
    api_dirty(sched, connection);
}

