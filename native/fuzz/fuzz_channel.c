/* Invariant: whatever a sandbox and a client send, in whatever order, no assertion of the reactor or core fails, the core's books are
 * in order after each turn, and what the client hears is whole MessagePack values, one answer for each call.
 *
 * The input is a script: an operation's byte, a length's byte, so many bytes. */
#include "../tests/rig.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void reap_all(struct rig *rig) {
    for (int i = 0; i < RIG_SANDBOXES; i++) {
        if (rig->sandboxes[i].handle != 0) {
            rig_reaped(rig, rig->sandboxes[i].handle, CORE_CAUSE_SIGNAL, 9);
        }
    }
}

/* Other clients, and a service that says anything at any time. */
static void meddle(struct rig *rig, int *other, const uint8_t *bytes, size_t size) {
    const uint8_t what = size > 0 ? bytes[0] : 0;
    const uint8_t argument = size > 1 ? bytes[1] : 0;
    struct sched_command command = rig_command(SCHED_CMD_STATS);
    command.connection = argument & 1 ? rig->method_connection : (1ULL << 32) | (argument & 3);
    command.msgid = argument & 63;
    command.u32s[0] = argument & 7;
    command.flags = argument & 1;
    switch (what % 10) {
    case 0:
        rig_cancel(rig, argument & 127);
        break;
    case 1:
        rig_method(rig, (argument & 1) != 0, argument, "ping");
        break;
    case 2:
        command.kind = SCHED_CMD_RESPOND;
        SCHED_ASSERT(sched_post(rig->sched, &command, (const uint8_t *)"\xc0", 1));
        break;
    case 3:
        command.kind = SCHED_CMD_CONNECTION_GRANT;
        command.u32s[1] = argument & 1;
        SCHED_ASSERT(sched_post(rig->sched, &command, NULL, 0));
        break;
    case 4:
        command.kind = SCHED_CMD_CONNECTION_CLOSE;
        if (command.connection != 1ULL << 32) { /* the first one is the judge's */
            SCHED_ASSERT(sched_post(rig->sched, &command, NULL, 0));
        }
        break;
    case 5:
        if (*other < 0) {
            *other = rig_connect(rig, SCHED_RIGHT_INVOKE);
        }
        break;
    case 6:
        if (*other >= 0 && (argument & 1) != 0) {
            close(*other);
            *other = -1;
        } else if (*other >= 0) {
            (void)shutdown(*other, SHUT_WR);
        }
        break;
    case 7:
        rig_write(*other, bytes, size);
        break;
    case 8:
        rig_invoke_from(*other, argument, bytes, (uint32_t)size);
        break;
    default:
        command.u32s[1] = 4;
        SCHED_ASSERT(sched_post(rig->sched, &command, NULL, 0));
        break;
    }
}

static void operate(struct rig *rig, int *other, uint8_t operation, const uint8_t *bytes, size_t size, uint32_t *msgid) {
    struct rig_sandbox *sandbox = &rig->sandboxes[operation / 16 % RIG_SANDBOXES];
    switch (operation % 16) {
    case 0:
        rig_write(sandbox->fd, bytes, size);
        break;
    case 1:
        rig_result(sandbox, size > 0 ? bytes[0] & 7 : 0, size > 1 ? bytes[1] & 63 : 1, bytes, size);
        break;
    case 2:
        rig_write(rig->client, bytes, size);
        break;
    case 3:
    case 4:
        rig_invoke(rig, (*msgid)++, bytes, (uint32_t)size);
        break;
    case 5:
        if (sandbox->fd >= 0 && size >= 8) {
            uint64_t word;
            memcpy(&word, bytes, 8);
            *sandbox->progress = word;
        }
        break;
    case 6:
        if (sandbox->handle != 0 && !sandbox->started) {
            rig_start(rig, sandbox);
            rig_ready(sandbox);
        }
        break;
    case 7:
        rig_ready(sandbox);
        break;
    case 8:
        if (sandbox->fd >= 0 && size > 2 && bytes[0] == bytes[1]) {
            close(sandbox->fd);
            close(sandbox->output);
            sandbox->fd = sandbox->output = -1;
        }
        break;
    case 9:
        if (sandbox->handle != 0) {
            rig_reaped(rig, sandbox->handle, size > 0 ? bytes[0] % 8 : 1, size > 1 ? bytes[1] : 0);
        }
        break;
    case 10:
        rig_frame(sandbox, size > 0 ? bytes[0] : 17, size > 1 ? bytes[1] : 0, size > 2 ? bytes[2] & 63 : 1, 0, bytes, size);
        break;
    case 11:
        if (sandbox->output >= 0) {
            (void)!write(sandbox->output, bytes, size);
        }
        break;
    case 12: {
        struct core_event event = {.kind = CORE_EV_FUNCTION_SWITCH};
        event.u.function = (struct core_function_event){.handle = RIG_FUNCTION, .revision = size > 0 ? bytes[0] % 3 : 1};
        rig_core(rig, &event, NULL);
        break;
    }
    case 13:
        if (sandbox->fd >= 0 && size > 1) { /* on the shelf: whole answers, or anything */
            char text[256] = {0};
            memcpy(text, bytes + 1, size - 1);
            if ((bytes[0] & 128) == 0 && sandbox->progress[2] < SHELF_PAGE_BYTES / 2) {
                rig_shelve(sandbox, bytes[0] & 63, text);
            } else if (size > 8) {
                memcpy((uint8_t *)(uintptr_t)sandbox->progress + 8 + (bytes[0] & 127), bytes + 1, size - 1);
            } else {
                sandbox->progress[2] = 0;
                sandbox->progress[1]++;
            }
        }
        break;
    case 14:
        meddle(rig, other, bytes, size);
        break;
    default:
        rig_turn(rig);
        SCHED_ASSERT(core_check(rig->sched->core) == NULL);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct rig rig;
    rig_init(&rig);
    rig_turn(&rig);
    uint32_t msgid = 1;
    int other = -1;
    unsigned operations = 0;
    while (size >= 2 && operations++ < 200) {
        const uint8_t operation = data[0];
        const size_t bytes = data[1] < size - 2 ? data[1] : size - 2;
        operate(&rig, &other, operation, data + 2, bytes, &msgid);
        data += 2 + bytes;
        size -= 2 + bytes;
    }
    /* Everybody dies, and everything is owed an answer. */
    for (int i = 0; i < 4; i++) {
        rig_turn(&rig);
        reap_all(&rig);
        rig_turn(&rig);
    }
    SCHED_ASSERT(core_check(rig.sched->core) == NULL);
    size_t at = 0;
    while (at < rig.heard_bytes) {
        const size_t value = rig_value(rig.heard + at, rig.heard_bytes - at);
        SCHED_ASSERT(value > 0); /* never a torn answer */
        SCHED_ASSERT(rig.heard[at] == 0x94 && rig.heard[at + 1] == 1);
        at += value;
    }
    if (other >= 0) {
        close(other);
    }
    rig_free(&rig);
    return 0;
}
