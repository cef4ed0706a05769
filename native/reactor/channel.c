/* channel.c: sandboxes as the reactor sees them. docs/internals/channel.md has the bytes.
 *
 * The other end is a stranger. A frame's length is checked before anything is kept for it, its kind before anything is done; what
 * it claims of calls is left to the core, which ends whoever answers out of turn. Whatever breaks the rules ends the sandbox: the
 * core is told the progress word first, so that no call that may have run is run again. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api.h"
#include "reactor.h"
#include "shelf.h"
#include "sweep.h"

enum frame_kind {
    FRAME_START = 1, FRAME_CALL = 2, FRAME_STOP = 3,
    FRAME_RESULT = 16, FRAME_LOG = 17, FRAME_READY = 18, FRAME_INIT_ERROR = 19, FRAME_HANDBACK = 20,
    FRAME_EXTENSION = 22, FRAME_RUNTIME = 23, FRAME_TELEMETRY = 5
};

enum { FLAG_MSGPACK = 1, FLAG_FUNCTION_ERROR = 2, FLAG_TOO_LARGE = 4 };
enum { FLAG_LOG_EXTENSION = 1, FLAG_TELEMETRY_SUBSCRIPTION = 1 };

enum {
    HEADER_BYTES = 24,
    LOOK_NS = 1000 * 1000,          /* two files of the kernel's are 3 us: a call that ran for so long is looked at before its answer */
    REQUEST_ID_BYTES = 16,
    READY_BYTES = 8,                /* then, from runtimes that know it, how it was born, and why not better */
    READY_REASON_BYTES_MAX = 200,
    INIT_ERROR_BYTES_MAX = 256 * 1024,
    REFER_BYTES_MIN = 16 * 1024,    /* larger payloads are not copied into the output queue */
    EVENTS_A_SHELF = 2 * CORE_AHEAD_MAX + 8, /* a reply and a look at the usage for each call, and what goes with them */
    BROKEN_STATUS = 99,             /* a status no sandbox can mean: the core ends it for its protocol */
    LAST_READS_MAX = 64,            /* of what a dead one left in its socket */
    AGENT_GRACE_MS = 200            /* it ends what is in it itself; then it is killed */
};

struct header {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t extra;
    uint32_t seq;
    uint32_t reserved;
    uint64_t time_ns;
};

_Static_assert(sizeof(struct header) == HEADER_BYTES, "the frame's header as channel.md has it");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "channel.md: little-endian, written as structs");

struct channel *channel_find(struct sched *sched, uint64_t sandbox) {
    const uint32_t index = (uint32_t)sandbox;
    if (sandbox == 0 || index >= sched->config.core.sandboxes_max || sched->channels[index] == NULL ||
        sched->channels[index]->sandbox != sandbox) {
        return NULL;
    }
    return sched->channels[index];
}

struct ticket *channel_ticket(struct sched *sched, const struct channel *channel, uint32_t seq) {
    const uint32_t index = channel->cookies[seq % CORE_AHEAD_MAX];
    if (index == NO_INDEX) {
        return NULL;
    }
    struct ticket *ticket = &sched->tickets[index];
    return ticket->live && ticket->sandbox == channel->sandbox && ticket->seq == seq ? ticket : NULL;
}

static void dirty(struct sched *sched, struct channel *channel) {
    if (!channel->dirty && !channel->killed && !channel->gone) {
        channel->dirty = true;
        channel->dirty_next = sched->dirty_channels;
        sched->dirty_channels = channel_index(channel);
    }
}

void channel_rewatch(struct sched *sched, struct channel *channel, bool reading, bool writing) {
    if (channel->reading == reading && channel->writing == writing) {
        return;
    }
    channel->reading = reading;
    channel->writing = writing;
    (void)watch(sched, EPOLL_CTL_MOD, channel->fd, (reading ? EPOLLIN : 0U) | (writing ? EPOLLOUT : 0U), SOURCE_CHANNEL,
                channel_index(channel));
}

/* ---- beginning -------------------------------------------------------------------------------------------------------- */

static void close_all(const int32_t fds[SCHED_FDS]) {
    for (int i = 0; i < SCHED_FDS; i++) {
        if (fds[i] >= 0) {
            close(fds[i]);
        }
    }
}

static const volatile uint64_t *map_page(int fd) {
    struct stat info;
    const int seals = fcntl(fd, F_GET_SEALS);
    if (fstat(fd, &info) != 0 || info.st_size < SHELF_PAGE_BYTES || seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
        return NULL; /* a page that could be taken away would kill us at the next look */
    }
    void *page = mmap(NULL, SHELF_PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    return page == MAP_FAILED ? NULL : page;
}

static void refuse_start(struct sched *sched, uint64_t sandbox, const char *why) {
    fault(sched, "sandbox %016" PRIx64 ": %s", sandbox, why);
    const struct sched_event event = {.kind = SCHED_EV_KILLED, .sandbox = sandbox, .why = CORE_WHY_PROTOCOL};
    emit(sched, &event, NULL, 0);
}

void channel_start(struct sched *sched, const struct sched_command *command, const uint8_t *blob, size_t blob_bytes) {
    const uint32_t index = (uint32_t)command->sandbox;
    uint32_t state = CORE_SB_FREE;
    uint64_t function = 0;
    if (!core_sandbox_state(sched->core, command->sandbox, &state, &function) || state != CORE_SB_STARTING) {
        /* Killed while it was made. KILLED was said then, before the service knew which shell it would be. */
        close_all(command->fds);
        const struct sched_event event = {.kind = SCHED_EV_KILLED, .sandbox = command->sandbox, .why = CORE_WHY_NONE};
        emit(sched, &event, NULL, 0);
        return;
    }
    if (sched->channels[index] != NULL) {
        channel_end_turn(sched); /* its place was freed in this very turn */
    }
    if (sched->channels[index] != NULL) {
        close_all(command->fds);
        fault(sched, "sandbox %016" PRIx64 " was started twice: the second one's descriptors are closed", command->sandbox);
        return;
    }
    struct channel *channel = calloc(1, sizeof *channel);
    const volatile uint64_t *page = channel == NULL ? NULL : map_page(command->fds[2]);
    if (page == NULL) {
        free(channel);
        close_all(command->fds);
        refuse_start(sched, command->sandbox, "no memory, or its shared memory is too small or not sealed");
        return;
    }
    close(command->fds[2]);
    *channel = (struct channel){.sandbox = command->sandbox, .function = function, .fd = command->fds[0],
                                .output_fd = command->fds[1], .pidfd = command->fds[3], .cpu_fd = command->fds[4],
                                .memory_fd = command->fds[5], .page = page, .tier = command->u32s[0],
                                .tells_rest = (command->flags & SCHED_START_TELLS_REST) != 0, .begun_ns = sched->now_ns,
                                .reading = true, .log_credit_bytes = LOG_CREDIT_MAX, .log_credit_ns = sched->now_ns,
                                .tail_seq = UINT32_MAX};
    memset(channel->cookies, 0xff, sizeof channel->cookies);
    sched->channels[index] = channel;
    (void)fcntl(channel->fd, F_SETFL, O_NONBLOCK);
    if (!watch(sched, EPOLL_CTL_ADD, channel->fd, EPOLLIN, SOURCE_CHANNEL, index)) {
        refuse_start(sched, channel->sandbox, "its channel cannot be watched");
    }
    if (channel->output_fd >= 0) {
        (void)fcntl(channel->output_fd, F_SETFL, O_NONBLOCK);
        (void)watch(sched, EPOLL_CTL_ADD, channel->output_fd, EPOLLIN, SOURCE_OUTPUT, index);
    }
    const size_t api_bytes = command->u32s[1] < blob_bytes ? command->u32s[1] : blob_bytes;
    if (command->fds[6] >= 0 && !api_start(sched, channel, command->fds[6], blob, api_bytes)) {
        refuse_start(sched, channel->sandbox, "its Runtime API cannot be watched");
    }
    blob += api_bytes;
    blob_bytes -= api_bytes;
    const struct header head = {.length = (uint32_t)blob_bytes, .kind = FRAME_START};
    output_add(&sched->chunks, &channel->output, &head, sizeof head);
    output_add(&sched->chunks, &channel->output, blob, blob_bytes);
    dirty(sched, channel);
}

/* ---- to the sandbox --------------------------------------------------------------------------------------------------- */

void channel_send_call(struct sched *sched, const struct core_action *send, uint32_t index) {
    struct channel *channel = channel_find(sched, send->sandbox);
    struct ticket *ticket = &sched->tickets[index];
    SCHED_ASSERT(channel != NULL && ticket->live);
    ticket->call = send->call;
    ticket->sandbox = send->sandbox;
    ticket->seq = send->seq;
    ticket->sent_ns = sched->now_ns;
    channel->cookies[send->seq % CORE_AHEAD_MAX] = index;
    sweep_note_used(sched, channel);
    channel->sent_seq = send->seq;
    sweep_note_work(sched, channel);
    if (channel->api != NULL) {
        api_send_call(sched, channel, send);
        return;
    }
    const struct header head = {.length = REQUEST_ID_BYTES + ticket->ext_bytes + ticket->payload_bytes, .kind = FRAME_CALL,
                                .flags = ticket->payload_msgpack ? FLAG_MSGPACK : 0, .extra = (uint16_t)ticket->ext_bytes,
                                .seq = send->seq, .time_ns = send->valid_until_ns};
    const size_t front = HEADER_BYTES + REQUEST_ID_BYTES + ticket->ext_bytes;
    const bool refer = ticket->block != NULL && ticket->payload_bytes >= REFER_BYTES_MIN;
    const size_t bytes = front + (refer ? 0 : ticket->payload_bytes);
    if (bytes <= CHUNK_BYTES) {
        uint8_t *at = output_room(&sched->chunks, &channel->output, bytes);
        memcpy(at, &head, HEADER_BYTES);
        memcpy(at + HEADER_BYTES, ticket->request_id, REQUEST_ID_BYTES);
        memcpy(at + HEADER_BYTES + REQUEST_ID_BYTES, ticket_ext(ticket), ticket->ext_bytes);
        if (!refer) {
            memcpy(at + front, ticket_payload(ticket), ticket->payload_bytes);
        }
        output_commit(&channel->output, bytes);
    } else {
        output_add(&sched->chunks, &channel->output, &head, HEADER_BYTES);
        output_add(&sched->chunks, &channel->output, ticket->request_id, REQUEST_ID_BYTES);
        output_add(&sched->chunks, &channel->output, ticket_ext(ticket), ticket->ext_bytes);
        if (!refer) {
            output_add(&sched->chunks, &channel->output, ticket_payload(ticket), ticket->payload_bytes);
        }
    }
    if (refer) {
        output_refer(&sched->chunks, &channel->output, ticket->block, ticket_payload(ticket), ticket->payload_bytes);
    }
    dirty(sched, channel);
}

void channel_flush_all(struct sched *sched) {
    while (sched->dirty_channels != NO_INDEX) {
        struct channel *channel = sched->channels[sched->dirty_channels];
        sched->dirty_channels = channel->dirty_next;
        channel->dirty = false;
        if (channel->killed || channel->gone) {
            continue;
        }
        const int64_t sent = output_send(&sched->chunks, &channel->output, channel->fd, sched->share_large_bytes);
        if (sent < 0 && sent != -EAGAIN) {
            output_drop(&sched->chunks, &channel->output); /* it died: reading will tell */
        }
        channel_rewatch(sched, channel, channel->reading, channel->output.bytes > 0);
    }
    api_flush_all(sched);
}

/* ---- from the sandbox ------------------------------------------------------------------------------------------------- */

static void tell_progress(struct sched *sched, const struct channel *channel, uint32_t seq, enum core_progress_status status) {
    struct core_event *event = batch_add(sched, CORE_EV_PROGRESS);
    event->u.reply.sandbox = channel->sandbox;
    event->u.reply.seq = seq;
    event->u.reply.status = status;
}

/* Where the calls wait with us until they are asked for, nobody else's word is needed. */
uint32_t channel_progress(const struct channel *channel) {
    return channel->api != NULL ? channel->api->given_seq : shelf_progress(channel->page);
}

void channel_probe(struct sched *sched, uint64_t sandbox) {
    struct channel *channel = channel_find(sched, sandbox);
    if (channel != NULL && !channel->probed) {
        channel->probed = true;
        channel->probed_next = sched->probed_channels;
        sched->probed_channels = channel_index(channel);
    }
}

static void stop_reading(struct sched *sched, struct channel *channel) {
    (void)epoll_ctl(sched->epfd, EPOLL_CTL_DEL, channel->fd, NULL);
    output_drop(&sched->chunks, &channel->output);
    if (channel->api != NULL) {
        api_stop(sched, channel);
    }
    block_release(channel->big); /* half an answer, which would hold its memory until the process is reaped */
    channel->big = NULL;
}

static bool take_shelf(struct sched *sched, struct channel *channel, uint32_t *progress);

static void gone(struct sched *sched, struct channel *channel) {
    if (channel->api != NULL && !channel->gone && !channel->killed) {
        api_hear_out(sched, channel);
    }
    if (channel->gone || channel->killed) {
        return;
    }
    if (BATCH - sched->batched < EVENTS_A_SHELF) {
        batch_step(sched);
    }
    (void)logs_read_output(sched, channel); /* its last words, before the call's END */
    if (!channel->settled) {
        logs_init_report(sched, channel, "Runtime.ExitError");
    }
    uint32_t progress;
    (void)take_shelf(sched, channel, &progress);
    channel->gone = channel->closed = true;
    stop_reading(sched, channel);
    tell_progress(sched, channel, progress, CORE_PROGRESS_LAST);
    batch_add(sched, CORE_EV_SANDBOX_GONE)->u.sandbox.handle = channel->sandbox;
    const struct sched_event event = {.kind = SCHED_EV_GONE, .sandbox = channel->sandbox, .function = channel->function};
    emit(sched, &event, NULL, 0);
}

static void broken(struct sched *sched, struct channel *channel, const char *what) {
    if (channel->gone) {
        return;
    }
    sched->stats.sandbox_protocol_errors++;
    fault(sched, "sandbox %016" PRIx64 " broke the channel's protocol: %s", channel->sandbox, what);
    channel->gone = true;
    stop_reading(sched, channel);
    tell_progress(sched, channel, channel_progress(channel), CORE_PROGRESS_NOW);
    struct core_event *event = batch_add(sched, CORE_EV_REPLY);
    event->u.reply.sandbox = channel->sandbox;
    event->u.reply.status = BROKEN_STATUS;
}

void channel_telemetry(struct sched *sched, struct channel *channel, bool subscription, const void *head, size_t head_bytes,
                       const void *text, size_t bytes) {
    const struct header frame = {.length = (uint32_t)(head_bytes + bytes), .kind = FRAME_TELEMETRY,
                                 .flags = subscription ? FLAG_TELEMETRY_SUBSCRIPTION : 0};
    output_add(&sched->chunks, &channel->output, &frame, sizeof frame);
    output_add(&sched->chunks, &channel->output, head, head_bytes);
    output_add(&sched->chunks, &channel->output, text, bytes);
    dirty(sched, channel);
}

void channel_give_up(struct sched *sched, struct channel *channel, uint32_t cause, int32_t status) {
    if (!channel->gone && !channel->killed) {
        tell_progress(sched, channel, channel_progress(channel), CORE_PROGRESS_LAST);
        struct core_event *event = batch_add(sched, CORE_EV_SANDBOX_GONE);
        event->u.sandbox.handle = channel->sandbox;
        event->u.sandbox.cause = cause;
        event->u.sandbox.status = status;
    }
}

static uint64_t u64_at(const uint8_t *at) {
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* NULL: in order; else what is wrong with this header. */
static const char *header_wrong(const struct sched *sched, const struct header *head) {
    switch (head->kind) {
    case FRAME_RESULT:
        return head->length < 8 || head->length - 8 > sched->config.answer_bytes_max ? "a result's length" : NULL;
    case FRAME_LOG:
        return head->length > JOURNAL_LOG_BYTES_MAX ? "a log frame's length" : NULL;
    case FRAME_READY:
        return head->length < READY_BYTES || head->length > READY_BYTES + 1 + READY_REASON_BYTES_MAX ? "the length of READY" : NULL;
    case FRAME_INIT_ERROR:
        return head->length > INIT_ERROR_BYTES_MAX ? "an init error's length" : NULL;
    case FRAME_HANDBACK:
        return head->length != 0 ? "the length of HANDBACK" : NULL;
    case FRAME_EXTENSION: case FRAME_RUNTIME:
        return head->length > API_EXTENSION_FRAME_BYTES_MAX ? "the length of EXTENSION or RUNTIME" : NULL;
    default:
        return "a frame's kind";
    }
}

/* An answer, wherever it came from. In line, since it is most of what the loop does. */
static inline void take_answer(struct sched *sched, struct channel *channel, const struct core_reply_event *answer, const uint8_t *at,
                               uint32_t bytes, struct block *owner, bool msgpack) {
    const struct ticket *ticket = channel_ticket(sched, channel, answer->seq);
    const uint64_t ran_ns = answer->end_ns > answer->start_ns ? answer->end_ns - answer->start_ns : 0;
    if ((ticket != NULL && ticket->report) || !channel->measured || ran_ns >= LOOK_NS) {
        /* Just before its reply, so that the call gets what it used: where that is asked for, and where it may be much and costs
         * little beside it. And for the first call of each sandbox, since the core wants to know early whether its function
         * computes or waits. */
        sweep_usage(sched, channel);
        channel->measured = true;
    } else {
        sweep_note_used(sched, channel);
    }
    struct core_event *event = batch_add(sched, CORE_EV_REPLY);
    event->u.reply = *answer;
    if (answer->lingers == 0) {
        channel->answered_seq = answer->seq;
        sweep_note_rest(sched, channel);
    }
    struct reply *reply = &sched->replies[event->tag];
    *reply = (struct reply){.at = at, .bytes = bytes, .block = owner, .msgpack = msgpack};
    if (owner != NULL) {
        block_hold(owner);
    }
}

void channel_hand_back(struct sched *sched, struct channel *channel, uint32_t seq) {
    channel->answered_seq = seq;
    sweep_note_rest(sched, channel);
    struct core_event *event = batch_add(sched, CORE_EV_REPLY);
    event->u.reply = (struct core_reply_event){.sandbox = channel->sandbox, .seq = seq, .status = CORE_REPLY_HANDBACK};
}

static void on_result(struct sched *sched, struct channel *channel, const struct header *head, const uint8_t *body,
                      struct block *owner) {
    if (channel->shelved && channel->shelf_seq - head->seq < CORE_AHEAD_MAX) {
        return; /* it was taken from the shelf */
    }
    const uint32_t bytes = head->length - 8;
    const bool msgpack = (head->flags & FLAG_MSGPACK) != 0;
    const bool error = (head->flags & (FLAG_FUNCTION_ERROR | FLAG_TOO_LARGE)) != 0;
    /* A large one was looked at as it came. */
    const bool whole = !msgpack || (owner != NULL ? channel->pack.at == bytes : pack_check(body + 8, bytes));
    if (!whole || (msgpack && error)) {
        broken(sched, channel, "a result that is not one MessagePack value");
        return;
    }
    struct core_reply_event answer = {.sandbox = channel->sandbox, .start_ns = head->time_ns, .end_ns = u64_at(body), .seq = head->seq,
                                      .status = CORE_REPLY_OK};
    if ((head->flags & FLAG_TOO_LARGE) != 0) {
        answer.status = CORE_REPLY_TOO_LARGE;
    } else if ((head->flags & FLAG_FUNCTION_ERROR) != 0) {
        answer.status = CORE_REPLY_FUNCTION_ERROR;
    }
    take_answer(sched, channel, &answer, body + 8, bytes, owner, msgpack);
}

void channel_answer(struct sched *sched, struct channel *channel, const struct core_reply_event *answer, const uint8_t *at,
                    uint32_t bytes, struct block *owner, bool msgpack) {
    take_answer(sched, channel, answer, at, bytes, owner, msgpack);
}

/* Answers that lie on the shelf: those of calls that a long or deadly one stands before. Taken are those that are next in the
 * channel's order; what was sent meanwhile is read there, and what comes twice is dropped by its seq. True: events were
 * given whose answers lie in sched->shelf. */
static bool take_shelf(struct sched *sched, struct channel *channel, uint32_t *progress) {
    SCHED_ASSERT(BATCH - sched->batched >= EVENTS_A_SHELF);
    if (channel->api != NULL) {
        *progress = channel_progress(channel);
        return false;
    }
    uint32_t bytes = shelf_read(channel->page, sched->shelf, progress);
    const uint8_t *at = sched->shelf;
    bool any = false;
    for (int i = 0; i < CORE_AHEAD_MAX && bytes >= HEADER_BYTES; i++) {
        struct header head;
        memcpy(&head, at, HEADER_BYTES);
        if (head.kind != FRAME_RESULT || header_wrong(sched, &head) != NULL || bytes - HEADER_BYTES < head.length) {
            break; /* its own loss: on the channel it will be ended for it */
        }
        const uint32_t ahead = head.seq - channel->answered_seq;
        if (ahead == 1) {
            on_result(sched, channel, &head, at + HEADER_BYTES, NULL);
            if (channel->gone) {
                break;
            }
            channel->shelved = any = true;
            channel->shelf_seq = head.seq;
        } else if (ahead - 1 < CORE_AHEAD_MAX) {
            break; /* those before it lie unread in the channel */
        }
        at += HEADER_BYTES + head.length;
        bytes -= HEADER_BYTES + head.length;
    }
    return any;
}

/* One at a time where a shelf has something: what its answers hold lies in sched->shelf until the next step. */
void channel_tell_probed(struct sched *sched) {
    bool shelf = false;
    while (!shelf && sched->probed_channels != NO_INDEX && BATCH - sched->batched >= EVENTS_A_SHELF) {
        struct channel *channel = sched->channels[sched->probed_channels];
        sched->probed_channels = channel->probed_next;
        channel->probed = false;
        uint32_t progress;
        shelf = take_shelf(sched, channel, &progress);
        tell_progress(sched, channel, progress, CORE_PROGRESS_NOW);
    }
}

/* Of Lambda's error object; a stranger wrote it, so only what a type can look like is taken. */
static void error_type(const uint8_t *body, uint32_t bytes, char out[64]) {
    static const char key[] = "\"errorType\"";
    const uint8_t *at = memmem(body, bytes, key, sizeof key - 1);
    const uint8_t *const end = body + bytes;
    size_t size = 0;
    at = at == NULL ? end : at + sizeof key - 1;
    while (at < end && (*at == ' ' || *at == ':')) {
        at++;
    }
    for (at += at < end && *at == '"'; at < end && size < 63; at++) {
        if (!((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || *at == '.' || *at == '_')) {
            break;
        }
        out[size++] = (char)*at;
    }
    out[size] = '\0';
    if (size == 0) {
        memcpy(out, "Runtime.Unknown", sizeof "Runtime.Unknown");
    }
}

void channel_init_error(struct sched *sched, struct channel *channel, const uint8_t *body, uint32_t bytes) {
    struct function_info *info = info_of(sched, channel->function);
    channel->settled = true;
    if (info != NULL) {
        uint8_t *copy = malloc(bytes == 0 ? 1 : bytes);
        if (copy != NULL) {
            memcpy(copy, body, bytes);
            free(info->init_error);
            info->init_error = copy;
            info->init_error_bytes = bytes;
        }
        struct journal_record record = {.kind = JOURNAL_TEXT, .sandbox = channel->sandbox};
        journal_add(&sched->journal, info->journal, &record, body, bytes < JOURNAL_LOG_BYTES_MAX ? bytes : JOURNAL_LOG_BYTES_MAX,
                    NULL, 0);
        char type[64];
        error_type(body, bytes, type);
        logs_init_report(sched, channel, type);
    }
    const struct sched_event event = {.kind = SCHED_EV_INIT_FAILED, .sandbox = channel->sandbox, .function = channel->function};
    emit(sched, &event, body, bytes);
    batch_add(sched, CORE_EV_SANDBOX_INIT_FAILED)->u.sandbox.handle = channel->sandbox;
}

/* A sandbox that was to be restored from an image may say that it was initialised instead. Nothing else is its to decide. */
void channel_is_ready(struct sched *sched, struct channel *channel, const uint8_t *body, uint32_t bytes) {
    const uint64_t init_ns = u64_at(body);
    struct function_info *info = info_of(sched, channel->function);
    channel->settled = channel->able = true;
    sweep_note_rest(sched, channel);
    const bool fell_back = bytes > READY_BYTES && channel->tier == CORE_TIER_SNAPSHOT && body[READY_BYTES] == CORE_TIER_SHELL;
    if (fell_back) {
        channel->tier = CORE_TIER_SHELL;
    }
    if (info != NULL && info->init_error != NULL) {
        free(info->init_error);
        info->init_error = NULL;
        info->init_error_bytes = 0;
    }
    if (channel->tier == CORE_TIER_SNAPSHOT && info != NULL && (info->traits & SCHED_TRAIT_SNAPSTART) != 0) {
        logs_restored(sched, channel, init_ns);
    }
    struct core_event *event = batch_add(sched, CORE_EV_SANDBOX_READY);
    event->u.sandbox.handle = channel->sandbox;
    event->u.sandbox.init_ns = init_ns;
    event->u.sandbox.tier = channel->tier;
    sweep_usage(sched, channel); /* what starting cost, so that no call is charged for it */
    const struct sched_event ready = {.kind = SCHED_EV_READY, .sandbox = channel->sandbox, .function = channel->function,
                                      .value = init_ns, .flags = channel->tier};
    emit_unhurried(sched, &ready, fell_back ? body + READY_BYTES + 1 : NULL, fell_back ? bytes - READY_BYTES - 1 : 0);
}

static void on_frame(struct sched *sched, struct channel *channel, const struct header *head, const uint8_t *body,
                     struct block *owner) {
    switch ((enum frame_kind)head->kind) {
    case FRAME_RESULT:
        logs_before_answer(sched, channel);
        on_result(sched, channel, head, body, owner);
        break;
    case FRAME_LOG:
        logs_take(sched, channel, head->seq, body, head->length);
        api_tell_log(sched, channel, (head->flags & FLAG_LOG_EXTENSION) != 0, body, head->length);
        break;
    case FRAME_READY:
    case FRAME_INIT_ERROR:
        /* The core would end it too, but only at the next step, and each of these is an event for the slow side. */
        if (channel->settled) {
            broken(sched, channel, "READY or INIT_ERROR after either");
        } else if (head->kind == FRAME_READY) {
            channel_is_ready(sched, channel, body, head->length);
        } else {
            channel_init_error(sched, channel, body, head->length);
        }
        break;
    case FRAME_HANDBACK:
        channel_hand_back(sched, channel, head->seq);
        break;
    case FRAME_EXTENSION:
        if (channel->api == NULL || !api_extension_ended(sched, channel, body, head->length)) {
            broken(sched, channel, "what EXTENSION says");
        }
        break;
    case FRAME_RUNTIME:
        if (channel->api == NULL || !api_runtime_ended(channel, body, head->length)) {
            broken(sched, channel, "what RUNTIME says");
        }
        break;
    case FRAME_START: case FRAME_CALL: case FRAME_STOP: case FRAME_TELEMETRY:
        break; /* header_wrong() has refused them */
    }
}

/* Keeps the beginning of a frame whose whole length is known or not even its header is there. */
static bool keep(struct sched *sched, struct channel *channel, const uint8_t *at, uint32_t bytes) {
    free(channel->stash);
    channel->stash = NULL;
    channel->stash_bytes = 0;
    if (bytes == 0) {
        return true;
    }
    struct header head = {0};
    if (bytes >= HEADER_BYTES) {
        memcpy(&head, at, HEADER_BYTES);
    }
    if (bytes < HEADER_BYTES || head.length + HEADER_BYTES <= STASH_BYTES_MAX) {
        channel->stash = malloc(bytes);
        if (channel->stash == NULL) {
            return false;
        }
        memcpy(channel->stash, at, bytes);
        channel->stash_bytes = bytes;
        return true;
    }
    channel->big = block_new(head.length + HEADER_BYTES, &sched->payload_bytes);
    if (channel->big == NULL) {
        return false;
    }
    memcpy(channel->big->data, at, bytes);
    channel->big_have = bytes;
    channel->pack = (struct pack_scan){0};
    return true;
}

static void parse(struct sched *sched, struct channel *channel, const uint8_t *at, uint32_t bytes) {
    while (bytes >= HEADER_BYTES && !channel->gone) {
        struct header head;
        memcpy(&head, at, HEADER_BYTES);
        const char *wrong = header_wrong(sched, &head);
        if (wrong == NULL && channel->api != NULL && head.kind != FRAME_LOG && head.kind != FRAME_INIT_ERROR && head.kind != FRAME_EXTENSION &&
            head.kind != FRAME_RUNTIME) {
            wrong = "a frame that the Runtime API stands for";
        }
        if (wrong != NULL) {
            broken(sched, channel, wrong);
            return;
        }
        if (bytes - HEADER_BYTES < head.length) {
            break;
        }
        on_frame(sched, channel, &head, at + HEADER_BYTES, NULL);
        at += HEADER_BYTES + head.length;
        bytes -= HEADER_BYTES + head.length;
    }
    if (!channel->gone && !keep(sched, channel, at, bytes)) {
        broken(sched, channel, "no memory for its frame");
    }
}

static ssize_t receive(struct sched *sched, struct channel *channel, uint8_t *at, uint32_t room) {
    const ssize_t got = recv(channel->fd, at, room, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        gone(sched, channel);
        return 0;
    }
    return got < 0 ? 0 : got;
}

/* false: it was ended. */
static bool look_at_big(struct sched *sched, struct channel *channel, const struct header *head) {
    if (head->kind != FRAME_RESULT || (head->flags & FLAG_MSGPACK) == 0 || channel->big_have < HEADER_BYTES + 8) {
        return true;
    }
    const uint8_t *body = channel->big->data + HEADER_BYTES + 8;
    const enum pack_verdict verdict = pack_scan(&channel->pack, body, channel->big_have - HEADER_BYTES - 8, head->length - 8);
    if (verdict == PACK_BROKEN) {
        broken(sched, channel, "a result that is not one MessagePack value");
    }
    return verdict != PACK_BROKEN;
}

static uint32_t read_big(struct sched *sched, struct channel *channel) {
    struct block *big = channel->big;
    const uint32_t left = big->capacity - channel->big_have;
    const uint32_t max = sched->share_large_bytes;
    const uint32_t got = (uint32_t)receive(sched, channel, big->data + channel->big_have, left < max ? left : max);
    channel->big_have += got;
    if (got == 0 || channel->gone) {
        return got;
    }
    struct header head;
    memcpy(&head, big->data, HEADER_BYTES);
    if (!look_at_big(sched, channel, &head) || channel->big_have < big->capacity) {
        return got;
    }
    channel->big = NULL;
    channel->big_have = 0;
    on_frame(sched, channel, &head, big->data + HEADER_BYTES, big);
    block_release(big);
    return got;
}

/* One read and what it brought; false: nothing. The core is told before anybody else reads: the replies lie in the scratch. */
static bool read_channel(struct sched *sched, struct channel *channel) {
    uint32_t got;
    channel->output_looked = false;
    if (channel->big != NULL) {
        got = read_big(sched, channel);
    } else {
        const uint32_t kept = channel->stash_bytes;
        got = (uint32_t)receive(sched, channel, sched->scratch + kept, sched->share_small_bytes);
        if (got > 0 && kept > 0) {
            memcpy(sched->scratch, channel->stash, kept);
        }
        if (got > 0) {
            parse(sched, channel, sched->scratch, kept + got);
        }
    }
    batch_step(sched);
    if (channel->api != NULL && channel->api->runtime_cause != CORE_CAUSE_NONE && !channel->api->runtime_told && !channel->gone &&
        !channel->killed) {
        api_runtime_over(sched, channel);
        batch_step(sched);
    }
    return got > 0;
}

void channel_ready(struct sched *sched, uint32_t index, uint32_t events) {
    struct channel *channel = sched->channels[index];
    if (channel == NULL || channel->gone || channel->killed || channel->freed) {
        return;
    }
    if ((events & EPOLLOUT) != 0) {
        dirty(sched, channel);
    }
    if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) {
        read_channel(sched, channel);
    }
}

/* The service may learn of a death before we have read what came before it. Calls that were answered must count as answered, and
 * those the progress word passed as begun, or the core would have them run again elsewhere. */
void channel_hear_out(struct sched *sched, uint64_t sandbox) {
    struct channel *channel = channel_find(sched, sandbox);
    if (channel == NULL) {
        return;
    }
    for (int i = 0; i < LAST_READS_MAX && !channel->gone && !channel->killed && read_channel(sched, channel); i++) {
        /* A process that is gone has left no more than a socket holds. */
    }
    if (!channel->gone && !channel->killed) {
        gone(sched, channel);
    }
    batch_step(sched); /* another's shelf may be next */
}

/* ---- the end ---------------------------------------------------------------------------------------------------------- */

/* Of an idle sandbox that nobody waits for: as Lambda, it may say goodbye. Where memory is short somebody waits for its end. */
static bool ends_in_order(enum core_why why) {
    switch (why) {
    case CORE_WHY_IDLE: case CORE_WHY_REVISION: case CORE_WHY_REMOVED: case CORE_WHY_RETIRED: case CORE_WHY_RECYCLED:
        return true;
    case CORE_WHY_NONE: case CORE_WHY_TIMEOUT: case CORE_WHY_INIT_TIMEOUT: case CORE_WHY_EVICTED: case CORE_WHY_PROTOCOL:
    case CORE_WHY_INIT_FAILED:
        return false;
    }
    return false;
}

void channel_send_stop(struct sched *sched, struct channel *channel, uint32_t budget_ms) {
    const bool agent = channel->api != NULL;
    const struct header head = {.kind = FRAME_STOP, .length = agent ? sizeof budget_ms : 0};
    output_add(&sched->chunks, &channel->output, &head, sizeof head);
    if (agent) {
        output_add(&sched->chunks, &channel->output, &budget_ms, sizeof budget_ms);
    }
    dirty(sched, channel);
}

/* It is heard to its end, and killed by the service if that does not come in time. */
static void tell_to_stop(struct sched *sched, struct channel *channel, const struct core_action *kill, uint32_t budget_ms, uint32_t kill_ms) {
    sweep_note_work(sched, channel);
    channel_send_stop(sched, channel, budget_ms);
    const struct sched_event event = {.kind = SCHED_EV_KILLED, .sandbox = kill->sandbox, .function = kill->function,
                                      .why = kill->why, .value = kill_ms};
    emit(sched, &event, NULL, 0);
}

void channel_kill(struct sched *sched, const struct core_action *kill) {
    struct channel *channel = channel_find(sched, kill->sandbox);
    if (channel != NULL && channel->able && !channel->gone && !channel->killed && sched->config.stop_grace_ms > 0 &&
        channel->api == NULL && ends_in_order((enum core_why)kill->why)) {
        tell_to_stop(sched, channel, kill, sched->config.stop_grace_ms, sched->config.stop_grace_ms);
        return;
    }
    if (channel != NULL && channel->api != NULL && channel->able && !channel->gone && !channel->killed && sched->config.stop_grace_ms > 0) {
        const uint32_t budget_ms = api_shutdown(sched, channel, (enum core_why)kill->why);
        if (budget_ms > 0) {
            tell_to_stop(sched, channel, kill, budget_ms, budget_ms + AGENT_GRACE_MS);
            return;
        }
    }
    if (channel != NULL && channel->closed && !channel->killed) {
        /* Most likely it ends by itself, and SIGKILL now would hide how. GONE was told: the service ends what lingers. */
        channel->killed = true;
        return;
    }
    if (channel != NULL && !channel->killed) {
        (void)logs_read_output(sched, channel); /* its last words, before the call's END */
        if (kill->why == CORE_WHY_INIT_TIMEOUT) {
            logs_init_report(sched, channel, NULL);
        }
        (void)syscall(SYS_pidfd_send_signal, channel->pidfd, SIGKILL, NULL, 0);
        channel->killed = true;
        if (!channel->gone) {
            channel->gone = true;
            stop_reading(sched, channel);
        }
    }
    const struct sched_event event = {.kind = SCHED_EV_KILLED, .sandbox = kill->sandbox, .function = kill->function, .why = kill->why};
    emit(sched, &event, NULL, 0);
}

void channel_freed(struct sched *sched, uint64_t sandbox) {
    struct channel *channel = channel_find(sched, sandbox);
    if (channel != NULL && !channel->freed) {
        channel->freed = true;
        channel->dead_next = sched->dead_channels;
        sched->dead_channels = channel_index(channel);
    }
    const struct sched_event event = {.kind = SCHED_EV_FREED, .sandbox = sandbox};
    emit(sched, &event, NULL, 0);
}

static void unlink_from(struct sched *sched, uint32_t *link, const struct channel *channel, size_t next_at) {
    while (*link != NO_INDEX) {
        if (*link == channel_index(channel)) {
            memcpy(link, (const uint8_t *)channel + next_at, sizeof *link);
            return;
        }
        link = (uint32_t *)(void *)((uint8_t *)sched->channels[*link] + next_at);
    }
}

static void destroy(struct sched *sched, struct channel *channel) {
    if (channel->used) { /* on one of the two */
        unlink_from(sched, &sched->used_channels, channel, offsetof(struct channel, used_next));
        unlink_from(sched, &sched->swept_channels, channel, offsetof(struct channel, used_next));
    }
    if (channel->probed) {
        unlink_from(sched, &sched->probed_channels, channel, offsetof(struct channel, probed_next));
    }
    if (channel->hushed) {
        unlink_from(sched, &sched->hushed_channels, channel, offsetof(struct channel, hushed_next));
    }
    if (channel->resting) {
        unlink_from(sched, &sched->resting_channels, channel, offsetof(struct channel, resting_next));
    }
    if (channel->dirty) {
        unlink_from(sched, &sched->dirty_channels, channel, offsetof(struct channel, dirty_next));
    }
    for (int i = 0; i < 16 && logs_read_output(sched, channel); i++) {
        /* what it wrote last; 1 MB is enough of a dead one's words */
    }
    if (channel->api != NULL) {
        api_free(sched, channel);
    }
    output_drop(&sched->chunks, &channel->output);
    block_release(channel->big);
    free(channel->stash);
    free(channel->tail);
    (void)munmap((void *)(uintptr_t)channel->page, SHELF_PAGE_BYTES);
    if (channel->output_fd >= 0) {
        unwatch(sched, channel->output_fd);
    }
    unwatch(sched, channel->fd);
    const int32_t fds[SCHED_FDS] = {channel->pidfd, channel->cpu_fd, channel->memory_fd, -1, -1, -1, -1};
    close_all(fds);
    sched->channels[channel_index(channel)] = NULL;
    free(channel);
}

void channel_end_turn(struct sched *sched) {
    if (sched->hushed_channels != NO_INDEX) {
        logs_unhush(sched);
    }
    if (sched->paused_apis != NULL) {
        api_unpause(sched);
    }
    while (sched->dead_channels != NO_INDEX) {
        struct channel *channel = sched->channels[sched->dead_channels];
        sched->dead_channels = channel->dead_next;
        destroy(sched, channel);
    }
}

void channel_free_all(struct sched *sched) {
    for (uint32_t i = 0; sched->channels != NULL && i < sched->config.core.sandboxes_max; i++) {
        if (sched->channels[i] != NULL) {
            (void)syscall(SYS_pidfd_send_signal, sched->channels[i]->pidfd, SIGKILL, NULL, 0);
            destroy(sched, sched->channels[i]);
        }
    }
    free(sched->channels);
    sched->channels = NULL;
}
