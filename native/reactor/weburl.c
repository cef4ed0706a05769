/* weburl.c: requests to function URLs: from the connection to a call, from its answer to the connection. The event is made by
 * urlevent.c, the answer read by urlreply.c.
 *
 * Here is only who may certainly be here: a URL that is open to all, or one whose caller has signed with a key of the function's
 * tenant. An answer in an unusual form, or a large one, is handed over to the slow side together with its connection. */
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "answer.h"
#include "urlevent.h"
#include "urlreply.h"

static int64_t wall_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Asked once, and kept. */
static const char *peer_of(struct client *client) {
    if (client->peer[0] == '\0') {
        struct sockaddr_storage address = {0};
        socklen_t size = sizeof address;
        if (getpeername(client->fd, (struct sockaddr *)&address, &size) != 0 ||
            getnameinfo((const struct sockaddr *)&address, size, client->peer, sizeof client->peer, NULL, 0, NI_NUMERICHOST) != 0) {
            client->peer[0] = '\0'; /* it has gone already */
        }
    }
    return client->peer;
}

/* The key that has signed for the function's tenant, or NULL. */
static const struct sigv4_key *signer(struct sched *sched, const struct http_request *request, const struct function_info *info,
                                      int64_t now_s) {
    const struct sigv4_key *const key = sched->config.http_signed == 0 ? NULL : sigv4_check(&sched->keys, request, now_s);
    const bool may = key != NULL && (key->rights & SCHED_RIGHT_INVOKE) != 0 &&
                     (key->tenant == 0 || key->tenant == info->tenant_number);
    return may ? key : NULL;
}

bool url_take(struct sched *sched, struct client *client, const struct http_request *request) {
    const struct url *const url = urls_find(&sched->urls, request->host.at);
    struct rpc_slice arn;
    const uint64_t function =
        url == NULL ? 0 : names_find(sched, (const uint8_t *)url->target, url->target_bytes, &arn);
    const struct function_info *const info = info_of(sched, function);
    /* A guest's id is not told to a URL, and what is locked says why by itself. */
    if (url == NULL || info == NULL || (info->traits & (SCHED_TRAIT_GUESTS | SCHED_TRAIT_LOCKED)) != 0 ||
        ((url->flags & SCHED_URL_CORS) != 0 && http_header(request, "origin").at != NULL)) {
        return false;
    }
    uint8_t id[16];
    char text[37];
    struct url_context context = {.peer = peer_of(client), .request_id = text, .now_ms = wall_ms()};
    if ((url->flags & SCHED_URL_SIGNED) != 0) {
        const struct sigv4_key *const key = signer(sched, request, info, context.now_ms / 1000);
        if (key == NULL) {
            return false;
        }
        context.account = url->account;
        context.key_id = key->id;
    }
    request_id_new(sched, id);
    journal_uuid(id, text);
    const int64_t bytes = url_event(request, &context, sched->url_room, URL_REPLY_ROOM);
    if (bytes < 0) {
        return false;
    }
    const struct rpc_request call = {.payload = {sched->url_room, (uint32_t)bytes},
                                     .trace = {request->trace.at, request->trace.size}, .request_id = {id, sizeof id}};
    if (!client_invoke(sched, client, &call, NULL, function, arn)) {
        return false;
    }
    client->close_after = request->close;
    client->url_call = true;
    sched->stats.requests++;
    return true;
}

void url_answer(struct sched *sched, struct client *client, const struct core_action *answer, const struct ticket *ticket,
                const struct reply *reply) {
    char id[37];
    journal_uuid(ticket->request_id, id);
    int64_t bytes;
    if (answer->outcome == CORE_OK && reply != NULL) {
        bytes = url_reply(reply->at, reply->bytes, id, client->close_after, sched->url_room);
    } else if (answer->outcome == CORE_THROTTLED) {
        bytes = url_refusal(429, "TooManyRequestsException", id, client->close_after, sched->url_room);
    } else {
        bytes = url_refusal(502, NULL, id, client->close_after, sched->url_room);
    }
    if (bytes < 0) {
        client_hand_answer(sched, client, reply, id);
        return;
    }
    client->closing = client->closing || client->close_after;
    output_add(&sched->chunks, &client->output, sched->url_room, (size_t)bytes);
}
