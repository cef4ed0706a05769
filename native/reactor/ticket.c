/* ticket.c: the half of a call that the core does not need: who asked, what is to be sent, what the report will say.
 *
 * The cookie that goes through the core is the ticket's index. A ticket lives from the request until the core's one ANSWER, so an
 * index cannot come back for another call; there is one ticket for each call the core can hold and one for each event of a batch. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "reactor.h"

bool ticket_new_all(struct sched *sched) {
    sched->tickets_max = sched->config.core.calls_max + BATCH;
    uint32_t buckets = 1;
    while (buckets < sched->tickets_max) {
        buckets <<= 1;
    }
    sched->tickets = calloc(sched->tickets_max, sizeof *sched->tickets);
    sched->ticket_buckets = malloc(buckets * sizeof *sched->ticket_buckets);
    if (sched->tickets == NULL || sched->ticket_buckets == NULL) {
        return false;
    }
    sched->ticket_shift = (uint32_t)__builtin_clzll(buckets) + 1; /* the product's highest bits are the best mixed */
    memset(sched->ticket_buckets, 0xff, buckets * sizeof *sched->ticket_buckets);
    sched->ticket_free = NO_INDEX;
    uint8_t random[16];
    request_id_new(sched, random);
    memcpy(&sched->ticket_multiplier, random + 8, sizeof sched->ticket_multiplier);
    memcpy(&sched->ticket_multiplier, random, 6); /* the id's fixed bits are elsewhere */
    sched->ticket_multiplier |= 1;
    return true;
}

void ticket_free_all(struct sched *sched) {
    for (uint32_t i = 0; sched->tickets != NULL && i < sched->tickets_max; i++) {
        block_release(sched->tickets[i].block);
    }
    free(sched->tickets);
    free(sched->ticket_buckets);
    sched->tickets = NULL;
}

void request_id_new(struct sched *sched, uint8_t out[16]) {
    if (sched->random_left < 16) {
        size_t have = 0;
        while (have < sizeof sched->random) {
            const ssize_t got = getrandom(sched->random + have, sizeof sched->random - have, 0);
            SCHED_ASSERT(got > 0 || errno == EINTR);
            have += got > 0 ? (size_t)got : 0;
        }
        sched->random_left = sizeof sched->random;
    }
    sched->random_left -= 16;
    memcpy(out, sched->random + sched->random_left, 16);
    out[6] = (uint8_t)((out[6] & 0x0f) | 0x40); /* version 4, RFC 9562 */
    out[8] = (uint8_t)((out[8] & 0x3f) | 0x80);
}

/* Multiply-shift (Dietzfelbinger and others 1997): universal, as long as the multiplier is a secret. */
static uint32_t *bucket(const struct sched *sched, uint32_t client, uint32_t msgid) {
    const uint64_t mixed = (((uint64_t)client << 32) | msgid) * sched->ticket_multiplier;
    return &sched->ticket_buckets[mixed >> sched->ticket_shift];
}

static uint32_t ext_size(struct rpc_slice slice) {
    return slice.at == NULL ? 0 : 4 + slice.size;
}

static uint8_t *ext_put(uint8_t *at, uint8_t tag, struct rpc_slice slice) {
    if (slice.at == NULL) {
        return at;
    }
    at[0] = tag;
    at[1] = 0;
    at[2] = (uint8_t)slice.size;
    at[3] = (uint8_t)(slice.size >> 8);
    memcpy(at + 4, slice.at, slice.size);
    return at + 4 + slice.size;
}

uint32_t ticket_new(struct sched *sched, struct client *client, const struct rpc_request *request, struct block *owner,
                    struct rpc_slice arn) {
    const uint32_t ext_bytes = ext_size(request->trace) + ext_size(request->client_context) + ext_size(arn) +
                               ext_size(request->guest);
    if (ext_bytes > INLINE_BYTES) {
        owner = NULL; /* then both are copied into a block of the ticket's own */
    }
    const bool copied = owner == NULL && ext_bytes + request->payload.size > INLINE_BYTES;
    if (sched->ticket_free == NO_INDEX && sched->tickets_used == sched->tickets_max) {
        return NO_INDEX;
    }
    struct block *block = NULL;
    if (copied && sched->payload_bytes + ext_bytes + request->payload.size > sched->config.payload_total_bytes_max) {
        return NO_INDEX;
    }
    if (copied) {
        block = block_new(ext_bytes + request->payload.size, &sched->payload_bytes);
        if (block == NULL) {
            return NO_INDEX;
        }
    }
    uint32_t index = sched->ticket_free;
    if (index != NO_INDEX) {
        sched->ticket_free = sched->tickets[index].next;
    } else {
        index = sched->tickets_used++; /* memory is touched only as far as it is needed */
    }
    struct ticket *ticket = &sched->tickets[index];
    const uint32_t client_index = (uint32_t)(client - sched->clients);
    ticket->call = 0;
    ticket->sandbox = 0;
    ticket->sent_ns = 0;
    ticket->read_ns = sched->now_ns;
    ticket->client = client_index;
    ticket->msgid = request->msgid;
    ticket->ext_bytes = ext_bytes;
    ticket->payload_bytes = request->payload.size;
    ticket->live = true;
    ticket->payload_msgpack = request->payload_msgpack;
    ticket->report = request->report;
    ticket->log_tail = request->log_tail;
    ticket->stream = request->stream;
    ticket->logged_start = false;
    ticket->traced = false;
    ticket->ext_in_block = copied;
    uint8_t *ext = block != NULL ? block->data : ticket->inline_data;
    uint8_t *after = ext_put(ext_put(ext, TICKET_EXT_TRACE, request->trace), TICKET_EXT_CONTEXT, request->client_context);
    after = ext_put(ext_put(after, TICKET_EXT_ARN, arn), TICKET_EXT_GUEST, request->guest);
    if (owner != NULL) {
        block_hold(owner);
        ticket->block = owner;
        ticket->payload_at = (uint32_t)(request->payload.at - owner->data);
    } else {
        memcpy(after, request->payload.at, request->payload.size);
        ticket->block = block;
        ticket->payload_at = ext_bytes;
    }
    if (request->request_id.at != NULL) {
        SCHED_ASSERT(request->request_id.size == sizeof ticket->request_id);
        memcpy(ticket->request_id, request->request_id.at, sizeof ticket->request_id);
    } else {
        request_id_new(sched, ticket->request_id);
    }
    ticket->prev = NO_INDEX;
    ticket->next = client->tickets;
    if (client->tickets != NO_INDEX) {
        sched->tickets[client->tickets].prev = index;
    }
    client->tickets = index;
    client->calls++;
    uint32_t *head = bucket(sched, client_index, ticket->msgid);
    ticket->hash_next = *head;
    *head = index;
    return index;
}

/* The connection is gone, or the answer given: nobody can name it any more. */
void ticket_orphan(struct sched *sched, uint32_t index) {
    struct ticket *ticket = &sched->tickets[index];
    if (ticket->client == NO_INDEX) {
        return;
    }
    struct client *client = &sched->clients[ticket->client];
    if (ticket->prev != NO_INDEX) {
        sched->tickets[ticket->prev].next = ticket->next;
    } else {
        client->tickets = ticket->next;
    }
    if (ticket->next != NO_INDEX) {
        sched->tickets[ticket->next].prev = ticket->prev;
    }
    SCHED_ASSERT(client->calls > 0);
    client->calls--;
    uint32_t *link = bucket(sched, ticket->client, ticket->msgid);
    while (*link != index) {
        SCHED_ASSERT(*link != NO_INDEX);
        link = &sched->tickets[*link].hash_next;
    }
    *link = ticket->hash_next;
    ticket->client = NO_INDEX;
}

void ticket_free(struct sched *sched, uint32_t index) {
    struct ticket *ticket = &sched->tickets[index];
    SCHED_ASSERT(ticket->live);
    ticket_orphan(sched, index);
    block_release(ticket->block);
    ticket->block = NULL;
    ticket->live = false;
    ticket->next = sched->ticket_free;
    sched->ticket_free = index;
}

uint32_t ticket_find(const struct sched *sched, uint32_t client, uint32_t msgid) {
    uint32_t index = *bucket(sched, client, msgid);
    while (index != NO_INDEX && (sched->tickets[index].client != client || sched->tickets[index].msgid != msgid)) {
        index = sched->tickets[index].hash_next;
    }
    return index;
}

const uint8_t *ticket_payload(const struct ticket *ticket) {
    return ticket->block != NULL ? ticket->block->data + ticket->payload_at : ticket->inline_data + ticket->payload_at;
}

const uint8_t *ticket_ext(const struct ticket *ticket) {
    return ticket->ext_in_block ? ticket->block->data : ticket->inline_data;
}

void ticket_exts(const struct ticket *ticket, struct ticket_ext out[TICKET_EXTS]) {
    const uint8_t *at = ticket_ext(ticket);
    memset(out, 0, TICKET_EXTS * sizeof *out);
    for (uint32_t left = ticket->ext_bytes; left > 0;) {
        const uint32_t size = (uint32_t)at[2] | (uint32_t)at[3] << 8;
        SCHED_ASSERT(at[0] < TICKET_EXTS && left >= 4 + size);
        out[at[0]] = (struct ticket_ext){at + 4, size};
        at += 4 + size;
        left -= 4 + size;
    }
}
