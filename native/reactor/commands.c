/* commands.c: what the service wants done, one command after the other, between two waits. */
#include <time.h>

#include "reactor.h"

enum { COMMANDS_A_TURN = 256, STATS_CHUNK_MAX = 32 };

static const uint64_t STOP_FLUSH_NS = 2000ULL * 1000 * 1000; /* how long unsent answers may keep a stop */

static void send_stats(struct sched *sched, const struct sched_command *command) {
    const uint32_t first = command->u32s[0];
    const uint32_t count = command->u32s[1] < STATS_CHUNK_MAX ? command->u32s[1] : STATS_CHUNK_MAX;
    const uint32_t accounts_max = first == 0 ? sched->config.core.accounts_max : 0; /* all of them with the first chunk */
    struct sched_stats head = {.now_ns = sched->now_ns};
    core_totals(sched->core, &head.totals);
    sched->stats.commands = sched->commands_done;
    sched->stats.payload_bytes = sched->payload_bytes;
    sched->stats.connections = sched->clients_open;
    sched->stats.log_bytes = sched->journal.bytes;
    sched->stats.log_bytes_dropped = journal_lost(&sched->journal);
    sched->stats.log_disk_bytes = atomic_load_explicit(&sched->journal.disk.bytes, memory_order_relaxed);
    struct timespec cpu;
    if (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu) == 0) {
        sched->stats.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000ULL + (uint64_t)cpu.tv_nsec;
    }
    head.loop = sched->stats;
    if (first == 0) {
        sched->stats.turn_ns_max = 0;
    }
    struct core_account_stats account;
    for (uint32_t i = 0; i < accounts_max; i++) {
        head.accounts += core_account_stats(sched->core, (uint16_t)i, &account);
    }
    uint32_t next = first;
    for (; next < sched->config.core.functions_max && head.functions < count; next++) {
        head.functions += sched->functions[next].handle != 0;
    }
    uint32_t more = next;
    while (more < sched->config.core.functions_max && sched->functions[more].handle == 0) {
        more++;
    }
    head.functions_next = more < sched->config.core.functions_max ? more : 0;
    const size_t bytes = sizeof head + head.accounts * sizeof account + head.functions * sizeof(struct core_function_stats);
    /* Filled where it will lie: a function's counters are 41 kB, and copies of them would be most of what a scrape costs. */
    uint8_t *blob = blob_new(sched, bytes);
    uint8_t *at = blob + sizeof head;
    uint32_t given = 0;
    for (uint32_t i = 0; i < accounts_max && given < head.accounts; i++) {
        if (core_account_stats(sched->core, (uint16_t)i, &account)) {
            memcpy(at, &account, sizeof account);
            at += sizeof account;
            given++;
        }
    }
    head.functions = 0;
    for (uint32_t i = first; i < next; i++) {
        if (sched->functions[i].handle != 0 &&
            core_function_stats(sched->core, i, sched->now_ns, (struct core_function_stats *)(void *)at)) {
            at += sizeof(struct core_function_stats);
            head.functions++;
        }
    }
    memcpy(blob, &head, sizeof head);
    const struct sched_event event = {.kind = SCHED_EV_STATS, .tag = command->tag};
    emit_blob(sched, &event, blob, (size_t)(at - blob));
}

static void adopt(struct sched *sched, const struct sched_command *command) {
    const enum speech speech = (command->flags & SCHED_ADOPT_HTTP) != 0 ? SPEECH_HTTP : SPEECH_TCP;
    const uint64_t id = client_add(sched, command->fds[0], speech, UINT32_MAX, command->u32s[0]);
    struct client *client = client_find(sched, id);
    if (client != NULL) {
        client->tenant = command->u32s[1];
    }
    if (speech == SPEECH_HTTP) {
        return;
    }
    const struct sched_event event = {.kind = SCHED_EV_OPENED, .connection = id, .tag = command->tag, .flags = 3,
                                      .value = UINT32_MAX};
    emit(sched, &event, NULL, 0);
}

/* Everything else is the reactor's own to give: a call it has no ticket for, a sandbox that is ready without a channel. */
static bool may_be_posted(uint32_t kind) {
    switch ((enum core_event_kind)kind) {
    case CORE_EV_TICK: case CORE_EV_ACCOUNT_PUT: case CORE_EV_ACCOUNT_REMOVE: case CORE_EV_FUNCTION_PUT:
    case CORE_EV_FUNCTION_SWITCH: case CORE_EV_FUNCTION_REMOVE: case CORE_EV_SANDBOX_WANT: case CORE_EV_SANDBOX_REAPED:
    case CORE_EV_SANDBOX_USAGE: case CORE_EV_DRAIN: case CORE_EV_SANDBOX_RETIRE:
        return true;
    case CORE_EV_INVOKE: case CORE_EV_CANCEL: case CORE_EV_REPLY: case CORE_EV_SANDBOX_READY: case CORE_EV_SANDBOX_INIT_FAILED:
    case CORE_EV_SANDBOX_GONE: case CORE_EV_PROGRESS:
        return false;
    }
    return false;
}

static void give_core(struct sched *sched, const struct core_event *given, const uint8_t *blob, size_t blob_bytes) {
    if (!may_be_posted(given->kind)) {
        fault(sched, "core event %u is the reactor's own to give: ignored", given->kind);
        return;
    }
    if (given->kind == CORE_EV_ACCOUNT_PUT) {
        account_name_put(sched, given->u.account.index, blob, blob_bytes);
    } else if (given->kind == CORE_EV_SANDBOX_REAPED) {
        channel_hear_out(sched, given->u.sandbox.handle);
    }
    batch_add(sched, (enum core_event_kind)given->kind)->u = given->u;
}

static void put_key(struct sched *sched, const struct sched_command *command, const uint8_t *blob, size_t bytes) {
    const uint8_t *const nul = bytes == 0 ? NULL : memchr(blob, '\0', bytes);
    const size_t id_bytes = nul == NULL ? 0 : (size_t)(nul - blob);
    if (nul == NULL || !sigv4_put(&sched->keys, (const char *)blob, id_bytes, nul + 1, bytes - id_bytes - 1,
                                  command->u32s[0] & SCHED_RIGHT_ALL, command->u32s[1])) {
        fault(sched, "an access key could not be taken in: there are %u", sched->keys.count);
    }
}

static void carry_out(struct sched *sched, const struct sched_command *command, const uint8_t *blob, size_t blob_bytes) {
    struct client *client;
    switch ((enum sched_command_kind)command->kind) {
    case SCHED_CMD_CORE:
        give_core(sched, &command->core, blob, blob_bytes);
        break;
    case SCHED_CMD_NAME_PUT:
        if (!names_put(sched, (const char *)blob, blob_bytes, command->function, command->sandbox, command->u32s[0])) {
            fault(sched, "no memory for a function's name");
        }
        break;
    case SCHED_CMD_NAME_REMOVE:
        names_remove(sched, (const char *)blob, blob_bytes);
        break;
    case SCHED_CMD_FUNCTION_INFO:
        info_put(sched, command->function, blob, blob_bytes, command->u32s);
        break;
    case SCHED_CMD_SANDBOX_START:
        batch_step(sched); /* the core's word on this sandbox must be up to date */
        channel_start(sched, command, blob, blob_bytes);
        break;
    case SCHED_CMD_RESPOND:
        client = client_find(sched, command->connection);
        if (client != NULL && !client->dead) {
            answer_respond(sched, client, command->msgid, (command->flags & 1) != 0, blob, blob_bytes);
        }
        break;
    case SCHED_CMD_CONNECTION_GRANT:
        client = client_find(sched, command->connection);
        if (client != NULL) {
            client->rights = command->u32s[0];
            client->tenant = command->u32s[1];
        }
        break;
    case SCHED_CMD_CONNECTION_CLOSE:
        client = client_find(sched, command->connection);
        if (client != NULL) {
            client->closing = true;
            client_dirty(sched, client);
        }
        break;
    case SCHED_CMD_CONNECTION_ADOPT:
        adopt(sched, command);
        break;
    case SCHED_CMD_STATS:
        batch_step(sched);
        send_stats(sched, command);
        break;
    case SCHED_CMD_STOP_LISTENING:
        listen_stop(sched);
        break;
    case SCHED_CMD_KEY_PUT:
        put_key(sched, command, blob, blob_bytes);
        break;
    case SCHED_CMD_KEY_REMOVE:
        sigv4_remove(&sched->keys, (const char *)blob, blob_bytes);
        break;
    case SCHED_CMD_URL_PUT:
        if (!urls_put(&sched->urls, (const char *)blob, blob_bytes, command->flags)) {
            fault(sched, "no memory for a function's URL: its requests are answered the slow way");
        }
        break;
    case SCHED_CMD_URL_REMOVE:
        urls_remove(&sched->urls, (const char *)blob, blob_bytes);
        break;
    case SCHED_CMD_STOP:
        sched->stopping = true;
        sched->stop_by_ns = sched->now_ns + STOP_FLUSH_NS;
        break;
    }
}

uint32_t run_commands(struct sched *sched) {
    uint32_t done = 0;
    struct posted posted;
    while (done < COMMANDS_A_TURN && mailbox_pop(&sched->commands, &posted)) {
        carry_out(sched, &posted.command, posted.blob, posted.blob_bytes);
        if (posted.command.kind == SCHED_CMD_KEY_PUT && posted.blob != NULL) {
            explicit_bzero(posted.blob, posted.blob_bytes);
        }
        free(posted.blob);
        done++;
    }
    sched->commands_done += done;
    return done;
}
