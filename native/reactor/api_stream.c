/* api_stream.c: answers that reach their caller as they come.
 *
 * Only where the runtime streams and the caller asked for it (option `stream`). Pieces go to the caller's connection as notifications;
 * the response that ends the call says no more than that it is whole. A caller that does not read stops the sandbox's connection
 * from being read, so nothing piles up here; one that is gone stops nothing: the function runs on, as in Lambda. */
#include "api_inside.h"

#include "pack.h"

enum {
    STREAM_AHEAD_BYTES = 256 << 10, /* unread by the caller, before the sandbox is no longer read */
    FRAME_ROOM = 64
};

/* NULL: gone, or its call is over. */
static struct client *caller(struct sched *sched, const struct api *api, uint32_t *msgid) {
    const struct ticket *ticket = channel_ticket(sched, api->channel, api->given_seq);
    if (ticket == NULL || ticket->client == NO_INDEX) {
        return NULL;
    }
    *msgid = ticket->msgid;
    return &sched->clients[ticket->client];
}

bool api_stream_begin(struct sched *sched, struct api_connection *connection) {
    const struct ticket *ticket = channel_ticket(sched, connection->api->channel, connection->api->given_seq);
    const struct http_slice type = connection->head.content_type;
    uint32_t msgid;
    connection->api->produced_bytes = 0;
    struct client *client = caller(sched, connection->api, &msgid);
    if (ticket == NULL || !ticket->stream || client == NULL) {
        return false;
    }
    uint32_t size = type.size < 256 ? type.size : 256;
    while (size > 0 && (type.at[size - 1] == ' ' || type.at[size - 1] == '\t')) {
        size--; /* where it was cut: no header's value ends so */
    }
    uint8_t *const begin = output_room(&sched->chunks, &client->output, FRAME_ROOM + 256);
    uint8_t *at = pack_uint(pack_array(pack_str(pack_u8(pack_array(begin, 3), 2), "stream"), 2), msgid);
    at = pack_str_head(at, size);
    for (uint32_t i = 0; i < size; i++) {
        *at++ = type.at[i] < 0x80 ? type.at[i] : '?';
    }
    output_commit(&client->output, (size_t)(at - begin));
    client_dirty(sched, client);
    return true;
}

void api_stream_add(struct sched *sched, struct api_connection *connection, const uint8_t *data, uint32_t bytes) {
    uint32_t msgid;
    struct client *client = caller(sched, connection->api, &msgid);
    connection->api->produced_bytes += bytes;
    if (client == NULL || bytes == 0) {
        return;
    }
    uint8_t *const begin = output_room(&sched->chunks, &client->output, FRAME_ROOM);
    uint8_t *at = pack_uint(pack_array(pack_str(pack_u8(pack_array(begin, 3), 2), "chunk"), 2), msgid);
    at = pack_bin_head(at, bytes);
    output_commit(&client->output, (size_t)(at - begin));
    output_add(&sched->chunks, &client->output, data, bytes);
    client_dirty(sched, client);
    if (client->output.bytes > STREAM_AHEAD_BYTES && !connection->held) {
        connection->held = true;
        connection->held_next = sched->held_api;
        sched->held_api = connection;
        api_dirty(sched, connection);
    }
}

void api_stream_release(struct sched *sched) {
    struct api_connection **link = &sched->held_api;
    while (*link != NULL) {
        struct api_connection *connection = *link;
        uint32_t msgid;
        const struct client *client = connection->fd < 0 ? NULL : caller(sched, connection->api, &msgid);
        if (client != NULL && client->output.bytes > STREAM_AHEAD_BYTES / 2) {
            link = &connection->held_next;
            continue;
        }
        *link = connection->held_next;
        connection->held = false;
        if (connection->fd >= 0 && !connection->api->stopped) {
            api_rewatch(sched, connection);
        }
    }
}
