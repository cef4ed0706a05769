/* test_agent.c: what the agent reads and writes, apart from processes: START's bytes, the frames of the channel, JSON strings. The rest is
 * tested with real sandboxes (tests/sandboxes/test_programs.py, test_extensions.py). */
#include "../launcher/agent_channel.c"
#include "../launcher/execstart.c"

#include <fcntl.h>
#include <unistd.h>

#include "harness.h"

struct message {
    struct execstart_header header;
    char text[256];
};

static const char TEXT[] = "/dir\0/wrap\0/one\0/two\0arg\0\0A=1\0B=\0/x/ext\0C=d";
static const struct execstart_header HEADER = {.magic = EXECSTART_MAGIC, .version = EXECSTART_VERSION, .flags = EXECSTART_AFRESH,
                                               .wrappers = 1, .programs = 2, .arguments = 2, .variables = 2, .extensions = 1,
                                               .extension_variables = 1};
enum { WHOLE = sizeof HEADER + sizeof TEXT };

static const char *decode(const void *bytes, size_t count, struct execstart *start) {
    return execstart_decode((void *)(uintptr_t)guarded(bytes, count), count, start);
}

static void fill(struct message *message) {
    memset(message, 0, sizeof *message);
    message->header = HEADER;
    memcpy(message->text, TEXT, sizeof TEXT);
}

static void a_start_is_read(void) {
    struct message message;
    static struct execstart start;
    fill(&message);
    SCHED_ASSERT(decode(&message, WHOLE, &start) == NULL);
    SCHED_ASSERT(start.flags == EXECSTART_AFRESH && strcmp(start.directory, "/dir") == 0 && strcmp(start.wrapper, "/wrap") == 0);
    SCHED_ASSERT(start.programs_count == 2 && strcmp(start.programs[1], "/two") == 0 && start.programs[2] == NULL);
    SCHED_ASSERT(strcmp(start.arguments[0], "arg") == 0 && start.arguments[1][0] == '\0' && start.arguments[2] == NULL);
    SCHED_ASSERT(strcmp(start.variables[0], "A=1") == 0 && strcmp(start.variables[1], "B=") == 0 && start.variables[2] == NULL);
    SCHED_ASSERT(start.extensions_count == 1 && strcmp(start.extensions[0], "/x/ext") == 0 && start.extensions[1] == NULL);
    SCHED_ASSERT(strcmp(start.extension_variables[0], "C=d") == 0 && start.extension_variables[1] == NULL);
}

static void a_start_that_is_cut_or_longer_is_refused(void) {
    struct message message;
    static struct execstart start;
    fill(&message);
    for (size_t count = 0; count <= sizeof message; count++) {
        SCHED_ASSERT((decode(&message, count, &start) == NULL) == (count == WHOLE));
    }
    static uint8_t large[EXECSTART_BYTES_MAX + 1];
    memcpy(large, &message, WHOLE);
    SCHED_ASSERT(strcmp(execstart_decode(large, sizeof large, &start), "its length") == 0);
}

static void each_count_has_its_bound(void) {
    static struct execstart start;
    struct message message;
    uint16_t *const counts[] = {&message.header.wrappers, &message.header.programs, &message.header.arguments,
                                &message.header.variables, &message.header.extensions, &message.header.extension_variables};
    static const unsigned most[] = {1, EXECSTART_PROGRAMS_MAX, EXECSTART_ARGUMENTS_MAX, EXECSTART_VARIABLES_MAX, EXECSTART_EXTENSIONS_MAX,
                                    EXECSTART_VARIABLES_MAX};
    static char text[EXECSTART_BYTES_MAX];
    for (unsigned i = 0; i < sizeof counts / sizeof *counts; i++) {
        for (unsigned over = 0; over < 2; over++) {
            fill(&message);
            message.header = (struct execstart_header){.magic = EXECSTART_MAGIC, .version = EXECSTART_VERSION, .programs = 1};
            *counts[i] = (uint16_t)(most[i] + over);
            const unsigned strings = 1U + message.header.wrappers + message.header.programs + message.header.arguments +
                                     message.header.variables + message.header.extensions + message.header.extension_variables;
            memcpy(text, &message.header, sizeof message.header);
            for (unsigned k = 0; k < strings; k++) { /* a path, and a variable */
                memcpy(text + sizeof message.header + k * 4, "/a=", 4);
            }
            SCHED_ASSERT((decode(text, sizeof message.header + strings * 4, &start) == NULL) == (over == 0));
        }
    }
}

static void what_is_no_path_and_no_variable_is_refused(void) {
    static const struct {
        const char *text;
        size_t bytes;
        struct execstart_header header;
    } cases[] = {
#define CASE(text, ...) {text, sizeof text, {.magic = EXECSTART_MAGIC, .version = EXECSTART_VERSION, __VA_ARGS__}}
        CASE("dir\0/p", .programs = 1),
        CASE("/dir\0p", .programs = 1),
        CASE("/dir", .programs = 0),
        CASE("/dir\0\0/p", .programs = 1, .wrappers = 1),
        CASE("/dir\0/p\0A", .programs = 1, .variables = 1),
        CASE("/dir\0/p\0=A", .programs = 1, .variables = 1),
        CASE("/dir\0/p\0x", .programs = 1, .extensions = 1),
        CASE("/dir\0/p\0x", .programs = 1, .extension_variables = 1),
        CASE("/dir\0/p", .programs = 1, .flags = 2),
        {"/dir\0/p", 8, {.magic = EXECSTART_MAGIC, .version = 2, .programs = 1}},
        {"/dir\0/p", 8, {.magic = 1, .version = EXECSTART_VERSION, .programs = 1}},
#undef CASE
    };
    static struct execstart start;
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct message message = {.header = cases[i].header};
        memcpy(message.text, cases[i].text, cases[i].bytes);
        SCHED_ASSERT(decode(&message, sizeof message.header + cases[i].bytes, &start) != NULL);
    }
}

/* ---- frames ---- */

static struct agent_channel channel;
static int service;

static void open_channel(void) {
    int pair[2];
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    channel = (struct agent_channel){.fd = pair[0]};
    service = pair[1];
}

static void close_channel(void) {
    close(channel.fd);
    close(service);
}

static void send_bytes(const void *bytes, size_t count) {
    SCHED_ASSERT(write(service, bytes, count) == (ssize_t)count);
}

static void frames_come_whole_however_they_were_sent(void) {
    enum { FRAMES = 200, MOST = 3000 };
    static uint8_t stream[FRAMES * (sizeof(struct frame_header) + MOST)];
    uint64_t seed = 7;
    uint32_t lengths[FRAMES];
    size_t bytes = 0, sent = 0;
    unsigned seen = 0;
    open_channel();
    for (unsigned i = 0; i < FRAMES; i++) {
        lengths[i] = i % 3 == 0 ? 0 : (uint32_t)random_below(&seed, MOST);
        const struct frame_header head = {.length = lengths[i], .kind = (uint8_t)i};
        memcpy(stream + bytes, &head, sizeof head);
        memset(stream + bytes + sizeof head, (int)i, lengths[i]);
        bytes += sizeof head + lengths[i];
    }
    while (seen < FRAMES) {
        struct frame_header head;
        uint8_t *body;
        if (sent < bytes) {
            const size_t more = 1 + random_below(&seed, 5000);
            send_bytes(stream + sent, more < bytes - sent ? more : bytes - sent);
            sent += more < bytes - sent ? more : bytes - sent;
        }
        while (agent_channel_receive(&channel, &head, &body)) {
            SCHED_ASSERT(head.kind == (uint8_t)seen && head.length == lengths[seen]);
            for (uint32_t k = 0; k < head.length; k++) {
                SCHED_ASSERT(body[k] == (uint8_t)seen);
            }
            seen++;
        }
        SCHED_ASSERT(!channel.ended);
    }
    close_channel();
}

static void the_longest_frame_is_read_and_a_longer_one_ends_the_channel(void) {
    static uint8_t body[FRAME_IN_BYTES_MAX];
    struct frame_header head = {.length = FRAME_IN_BYTES_MAX, .kind = FRAME_TELEMETRY};
    uint8_t *got;
    open_channel();
    send_bytes(&head, sizeof head);
    for (size_t sent = 0; sent < sizeof body; sent += 4096) {
        send_bytes(body + sent, 4096);
        const bool whole = agent_channel_receive(&channel, &head, &got);
        SCHED_ASSERT(whole == (sent + 4096 == sizeof body));
    }
    SCHED_ASSERT(head.length == FRAME_IN_BYTES_MAX);
    head.length = FRAME_IN_BYTES_MAX + 1;
    send_bytes(&head, sizeof head);
    SCHED_ASSERT(!agent_channel_receive(&channel, &head, &got) && channel.ended);
    close_channel();
}

static void an_end_within_a_frame_is_an_end(void) {
    const struct frame_header whole = {.length = 4, .kind = FRAME_STOP};
    struct frame_header head;
    uint8_t *body;
    open_channel();
    send_bytes(&whole, sizeof whole);
    send_bytes("ab", 2);
    shutdown(service, SHUT_WR);
    SCHED_ASSERT(!agent_channel_receive(&channel, &head, &body));
    SCHED_ASSERT(!agent_channel_receive(&channel, &head, &body) && channel.ended);
    close_channel();
}

/* What the service has received, gathered. */
static size_t drain(uint8_t *to, size_t room) {
    size_t held = 0;
    ssize_t got;
    while (held < room && (got = recv(service, to + held, room - held, MSG_DONTWAIT)) > 0) {
        held += (size_t)got;
    }
    return held;
}

/* A service that does not read: words are kept up to their number, output is not read from its pipe. */
static void what_is_not_read_waits(void) {
    static uint8_t all[4 << 20];
    char words[FRAME_WORDS_BYTES_MAX + 2];
    unsigned logs = 0, told = 0, heard_logs = 0, heard_words = 0;
    uint8_t *room;
    open_channel();
    while ((room = agent_channel_log_room(&channel)) != NULL) {
        memset(room, (int)logs, FRAME_LOG_BYTES_MAX);
        agent_channel_log(&channel, FRAME_LOG_BYTES_MAX);
        SCHED_ASSERT(++logs < 1000);
    }
    memset(words, 'w', sizeof words);
    words[FRAME_WORDS_BYTES_MAX] = '\0';
    for (unsigned i = 0; i < 2 * FRAME_WORDS_MAX; i++) {
        const size_t before = channel.out_bytes;
        agent_channel_words(&channel, FRAME_EXTENSION, words);
        told += channel.out_bytes > before ? 1 : 0;
    }
    SCHED_ASSERT(told >= FRAME_WORDS_MAX);
    words[FRAME_WORDS_BYTES_MAX] = 'w';
    words[FRAME_WORDS_BYTES_MAX + 1] = '\0';
    size_t held = drain(all, sizeof all);
    agent_channel_words(&channel, FRAME_EXTENSION, words); /* too long: no frame */
    while (channel.out_bytes > 0) {
        agent_channel_flush(&channel);
        held += drain(all + held, sizeof all - held);
    }
    SCHED_ASSERT(agent_channel_log_room(&channel) != NULL);
    for (size_t at = 0; at < held;) {
        struct frame_header head;
        memcpy(&head, all + at, sizeof head);
        SCHED_ASSERT(at + sizeof head + head.length <= held);
        if (head.kind == FRAME_LOG) {
            SCHED_ASSERT(head.flags == FRAME_LOG_EXTENSION && head.length == FRAME_LOG_BYTES_MAX && all[at + sizeof head] == (uint8_t)heard_logs);
            heard_logs++;
        } else {
            SCHED_ASSERT(head.kind == FRAME_EXTENSION && head.flags == 0 && head.length == FRAME_WORDS_BYTES_MAX);
            heard_words++;
        }
        at += sizeof head + head.length;
    }
    SCHED_ASSERT(heard_logs == logs && heard_words == told);
    close_channel();
}

static void a_service_that_has_gone_is_no_error(void) {
    struct frame_header head;
    uint8_t *body;
    open_channel();
    close(service);
    agent_channel_words(&channel, FRAME_EXTENSION, "{}");
    SCHED_ASSERT(channel.ended && channel.out_bytes == 0);
    SCHED_ASSERT(!agent_channel_receive(&channel, &head, &body));
    close(channel.fd);
}

/* ---- JSON ---- */

static void texts_become_json(void) {
    static const char *const cases[][2] = {
        {"", "\"\""},
        {"plain", "\"plain\""},
        {"a\"b\\c", "\"a\\\"b\\\\c\""},
        {"\x01\n\x1f\x7f", "\"\\u0001\\u000a\\u001f\x7f\""},
        {"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""},
        {"\xff\xc3", "\"\?\?\""},
        {"\xc0\x80", "\"\?\?\""},                     /* a NUL that is none */
        {"\xed\xa0\x80", "\"\?\?\?\""},               /* half a pair */
        {"\xf4\x90\x80\x80", "\"\?\?\?\?\""},         /* beyond the last character */
        {"\xe2\x82", "\"\?\?\""},
        {"\xf0\x9f\x98", "\"\?\?\?\""},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char to[200] = "[";
        agent_json_string(to, sizeof to, cases[i][0]);
        SCHED_ASSERT(to[0] == '[' && strcmp(to + 1, cases[i][1]) == 0);
    }
}

static void a_text_is_cut_within_its_room(void) {
    char to[64], text[100];
    for (size_t room = 1; room < sizeof to; room++) {
        for (unsigned kind = 0; kind < 3; kind++) {
            memset(to, 'x', sizeof to);
            to[0] = '\0';
            for (unsigned i = 0; i + 2 < sizeof text; i += 2) {
                memcpy(text + i, kind == 0 ? "\x01\x02" : kind == 1 ? "\"\\" : "\xc3\xa4", 3);
            }
            agent_json_string(to, room, text);
            const size_t held = strlen(to);
            SCHED_ASSERT(held < room && to[room] == 'x' && (held == 0 || (held >= 2 && to[0] == '"' && to[held - 1] == '"')));
            SCHED_ASSERT(kind != 2 || held % 2 == 0); /* no half character */
        }
    }
}

int main(void) {
    RUN(a_start_is_read);
    RUN(a_start_that_is_cut_or_longer_is_refused);
    RUN(each_count_has_its_bound);
    RUN(what_is_no_path_and_no_variable_is_refused);
    RUN(frames_come_whole_however_they_were_sent);
    RUN(the_longest_frame_is_read_and_a_longer_one_ends_the_channel);
    RUN(an_end_within_a_frame_is_an_end);
    RUN(what_is_not_read_waits);
    RUN(a_service_that_has_gone_is_no_error);
    RUN(texts_become_json);
    RUN(a_text_is_cut_within_its_room);
    return 0;
}
