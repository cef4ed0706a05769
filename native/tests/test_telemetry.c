/* test_telemetry.c: deliveries to real sockets of this machine, on a clock of the test's own. The server is the test itself, a step at a
 * time, so that it can be slow, rude or absent. */
#include "../launcher/telemetry.c"
#include "../launcher/wire.c"

#include <fcntl.h>

#include "harness.h"

enum { ROOM = 1 << 21, TURNS_MAX = 10000 };

static struct telemetry telemetry;
static uint64_t now = 1000000;

/* ---- the subscriber's end ---- */

static int listener = -1, connection = -1;
static uint16_t port;
static char received[ROOM];
static size_t received_bytes;

static void listen_anywhere(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    socklen_t bytes = sizeof address;
    const int yes = 1;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    SCHED_ASSERT(listener >= 0 && setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0);
    SCHED_ASSERT(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 8) == 0);
    SCHED_ASSERT(getsockname(listener, (struct sockaddr *)&address, &bytes) == 0);
    port = ntohs(address.sin_port);
}

static void hang_up(void) {
    wire_close(&connection);
    received_bytes = 0;
    received[0] = '\0';
}

static void begin(void) {
    memset(&telemetry, 0, sizeof telemetry);
    port = 0;
    hang_up();
    listen_anywhere();
}

static void end(void) {
    for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
        forget(&telemetry.subscribers[i]);
    }
    hang_up();
    wire_close(&listener);
}

static void read_more(void) {
    if (connection < 0) {
        connection = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    }
    const ssize_t got = connection < 0 ? -1 : recv(connection, received + received_bytes, sizeof received - received_bytes - 1, 0);
    received_bytes += got > 0 ? (size_t)got : 0;
    received[received_bytes] = '\0';
}

/* The body of a request that has come whole, or NULL. */
static const char *body(void) {
    const char *const end_of_head = strstr(received, "\r\n\r\n"), *const length = strstr(received, "Content-Length: ");
    if (end_of_head == NULL || length == NULL) {
        return NULL;
    }
    const size_t wanted = strtoul(length + 16, NULL, 10), head = (size_t)(end_of_head + 4 - received);
    SCHED_ASSERT(received_bytes <= head + wanted);
    return received_bytes == head + wanted ? end_of_head + 4 : NULL;
}

static void turn_until_body(void) {
    for (unsigned i = 0; body() == NULL; i++) {
        SCHED_ASSERT(i < TURNS_MAX);
        telemetry_turn(&telemetry, now);
        read_more();
    }
}

static void answer(const char *text) {
    SCHED_ASSERT(send(connection, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
    hang_up();
}

static void turn_until_idle(unsigned subscriber) {
    for (unsigned i = 0; telemetry.subscribers[subscriber].state != TELEMETRY_IDLE; i++) {
        SCHED_ASSERT(i < TURNS_MAX);
        telemetry_turn(&telemetry, now);
    }
}

/* ---- the service's end ---- */

static struct telemetry_subscription plain(void) {
    return (struct telemetry_subscription){.types = 7, .protocol = TELEMETRY_HTTP, .max_items = 1000, .max_bytes = 262144, .timeout_ms = 1000,
                                           .port = port};
}

static const char *subscribe(const struct telemetry_subscription *what, const char *host, const char *path) {
    char message[2048];
    memcpy(message, what, sizeof *what);
    memcpy(message + sizeof *what, host, strlen(host) + 1);
    memcpy(message + sizeof *what + strlen(host) + 1, path, strlen(path) + 1);
    const size_t bytes = sizeof *what + strlen(host) + strlen(path) + 2;
    return telemetry_subscribe(&telemetry, guarded(message, bytes), bytes);
}

static void tell(uint8_t type, const char *text) {
    static char message[ROOM];
    const struct telemetry_record record = {.type = type, .bytes = (uint32_t)strlen(text)};
    memcpy(message, &record, sizeof record);
    memcpy(message + sizeof record, text, record.bytes);
    SCHED_ASSERT(telemetry_take(&telemetry, message, sizeof record + record.bytes, now) == NULL);
}

/* ---- tests ---- */

static void a_subscription_that_is_none_is_refused_and_changes_nothing(void) {
    begin();
    struct telemetry_subscription what = plain();
    SCHED_ASSERT(subscribe(&what, "sandbox.localdomain", "/logs?a=b") == NULL);
    const struct telemetry_subscription good = what;
    char message[256];
    const size_t bytes = sizeof what + 7;
    memcpy(message, &what, sizeof what);
    memcpy(message + sizeof what, "host\0/", 7);
    for (size_t cut = 0; cut < bytes; cut++) {
        SCHED_ASSERT(telemetry_subscribe(&telemetry, guarded(message, cut), cut) != NULL);
    }
    SCHED_ASSERT(telemetry_subscribe(&telemetry, guarded(message, bytes), bytes) == NULL);
    message[bytes] = '\0';
    SCHED_ASSERT(telemetry_subscribe(&telemetry, guarded(message, bytes + 1), bytes + 1) != NULL);
    const struct {
        const char *wrong;
        struct telemetry_subscription what;
    } cases[] = {
        {"the types", {.types = 0, .protocol = 1, .max_items = 1, .max_bytes = 1, .port = 1}},
        {"the types", {.types = 8, .protocol = 1, .max_items = 1, .max_bytes = 1, .port = 1}},
        {"the subscriber", {.subscriber = 10, .types = 7, .protocol = 1, .max_items = 1, .max_bytes = 1, .port = 1}},
        {"the protocol", {.types = 7, .protocol = 3, .max_items = 1, .max_bytes = 1, .port = 1}},
        {"the buffering", {.types = 7, .protocol = 1, .max_items = 0, .max_bytes = 1, .port = 1}},
        {"the buffering", {.types = 7, .protocol = 1, .max_items = 10001, .max_bytes = 1, .port = 1}},
        {"the buffering", {.types = 7, .protocol = 1, .max_items = 1, .max_bytes = 0, .port = 1}},
        {"the buffering", {.types = 7, .protocol = 1, .max_items = 1, .max_bytes = (1 << 20) + 1, .port = 1}},
        {"the buffering", {.types = 7, .protocol = 1, .max_items = 1, .max_bytes = 1, .timeout_ms = 30001, .port = 1}},
        {"the port", {.types = 7, .protocol = 1, .max_items = 1, .max_bytes = 1}},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        SCHED_ASSERT(strcmp(subscribe(&cases[i].what, "h", "/"), cases[i].wrong) == 0);
    }
    SCHED_ASSERT(strcmp(subscribe(&good, "h", "/a\r\nX: y"), "host and path") == 0); /* a header of one's own */
    SCHED_ASSERT(strcmp(subscribe(&good, "h h", "/"), "host and path") == 0);
    SCHED_ASSERT(strcmp(subscribe(&good, "h\xc3\xa4", "/"), "host and path") == 0);
    SCHED_ASSERT(telemetry.subscribers[0].there && memcmp(&telemetry.subscribers[0].what, &good, sizeof good) == 0);
    SCHED_ASSERT(strcmp(telemetry.subscribers[0].host, "host") == 0);
    end();
}

static void records_that_are_none_are_refused(void) {
    begin();
    const struct telemetry_subscription what = plain();
    SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
    char message[64];
    struct telemetry_record record = {.type = TELEMETRY_FUNCTION, .bytes = 2};
    memcpy(message, &record, sizeof record);
    memcpy(message + 8, "{}", 2);
    memcpy(message + 10, message, 10);
    for (size_t cut = 0; cut <= 20; cut++) {
        const uint32_t before = telemetry.subscribers[0].gathered.items;
        const bool good = telemetry_take(&telemetry, guarded(message, cut), cut, now) == NULL;
        SCHED_ASSERT(good == (cut % 10 == 0) && telemetry.subscribers[0].gathered.items == before + cut / 10);
    }
    for (unsigned type = 0; type < 256; type++) {
        message[0] = (char)type;
        const bool good = telemetry_take(&telemetry, guarded(message, 10), 10, now) == NULL;
        SCHED_ASSERT(good == (type == 1 || type == 2 || type == 4));
    }
    record.bytes = UINT32_MAX;
    memcpy(message, &record, sizeof record);
    SCHED_ASSERT(telemetry_take(&telemetry, guarded(message, 20), 20, now) != NULL);
    end();
}

static void records_go_when_they_are_enough_or_have_waited_long_enough(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.max_items = 3;
    SCHED_ASSERT(subscribe(&what, "sandbox.localdomain", "/logs?a=b") == NULL);
    SCHED_ASSERT(telemetry_due_ms(&telemetry) == UINT64_MAX && !telemetry_pending(&telemetry));
    tell(TELEMETRY_PLATFORM, "{\"n\":1}");
    tell(TELEMETRY_FUNCTION, "{\"n\":2}");
    telemetry_turn(&telemetry, now);
    SCHED_ASSERT(telemetry.subscribers[0].state == TELEMETRY_IDLE && telemetry_due_ms(&telemetry) == now + 1000);
    tell(TELEMETRY_EXTENSION, "{\"n\":3}");
    SCHED_ASSERT(telemetry_due_ms(&telemetry) == 0);
    turn_until_body();
    SCHED_ASSERT(strncmp(received, "POST /logs?a=b HTTP/1.1\r\n", 25) == 0 && strstr(received, "\r\nContent-Type: application/json\r\n") != NULL);
    char host[80];
    snprintf(host, sizeof host, "\r\nHost: sandbox.localdomain:%u\r\n", (unsigned)port);
    SCHED_ASSERT(strstr(received, host) != NULL);
    SCHED_ASSERT(strcmp(body(), "[{\"n\":1},{\"n\":2},{\"n\":3}]") == 0);
    answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    turn_until_idle(0);
    SCHED_ASSERT(!telemetry_pending(&telemetry));

    tell(TELEMETRY_PLATFORM, "{\"n\":4}");
    now += 999;
    telemetry_turn(&telemetry, now);
    SCHED_ASSERT(telemetry.subscribers[0].state == TELEMETRY_IDLE);
    now += 1;
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[{\"n\":4}]") == 0);
    answer("HTTP/1.0 202 Accepted\r\n\r\nsome words");
    turn_until_idle(0);

    tell(TELEMETRY_PLATFORM, "{\"n\":5}"); /* at the end nobody waits */
    telemetry_drain(&telemetry);
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[{\"n\":5}]") == 0);
    end();
}

static void records_go_before_they_are_too_many_bytes(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.max_bytes = 20;
    SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
    tell(TELEMETRY_FUNCTION, "\"123456789\""); /* 11, and what encloses it */
    tell(TELEMETRY_FUNCTION, "\"abc\"");
    tell(TELEMETRY_FUNCTION, "\"next\"");
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[\"123456789\",\"abc\"]") == 0);
    answer("HTTP/1.1 200 OK\r\n\r\n");
    turn_until_idle(0);
    now += 1000;
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[\"next\"]") == 0);
    end();
}

static void each_gets_the_types_it_asked_for(void) {
    begin();
    for (uint8_t i = 0; i < 3; i++) {
        struct telemetry_subscription what = plain();
        what.subscriber = i;
        what.types = (uint8_t)(1U << i);
        what.max_items = 1;
        SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
        tell(TELEMETRY_PLATFORM, "1");
        tell(TELEMETRY_FUNCTION, "2");
        tell(TELEMETRY_EXTENSION, "4");
        turn_until_body();
        char expected[8];
        snprintf(expected, sizeof expected, "[%u]", 1U << i);
        SCHED_ASSERT(strcmp(body(), expected) == 0);
        answer("HTTP/1.1 200 OK\r\n\r\n");
        turn_until_idle(i);
        forget(&telemetry.subscribers[i]);
    }
    end();
}

static void lines_go_over_one_connection(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.protocol = TELEMETRY_TCP;
    what.max_items = 2;
    SCHED_ASSERT(subscribe(&what, "h", "") == NULL);
    for (unsigned i = 0; i < 6; i++) {
        char text[8];
        snprintf(text, sizeof text, "{%u}", i);
        tell(TELEMETRY_FUNCTION, text);
        for (unsigned k = 0; k < 4; k++) {
            telemetry_turn(&telemetry, now);
            read_more();
        }
    }
    SCHED_ASSERT(strcmp(received, "{0}\n{1}\n{2}\n{3}\n{4}\n{5}\n") == 0);
    SCHED_ASSERT(accept4(listener, NULL, NULL, SOCK_CLOEXEC) < 0 && errno == EAGAIN);

    hang_up(); /* another connection is made, and nothing is lost that was not on the way */
    for (unsigned i = 0; i < 4; i++) {
        tell(TELEMETRY_FUNCTION, "{new}");
    }
    for (unsigned i = 0; i < 100 && strstr(received, "{new}\n{new}\n") == NULL; i++) {
        telemetry_turn(&telemetry, now);
        read_more();
        now += 50;
    }
    SCHED_ASSERT(strstr(received, "{new}\n{new}\n") != NULL);
    end();
}

/* A subscriber that accepts and does not answer: what it has not taken is counted to the byte, and told. */
static void what_is_too_much_is_dropped_and_told(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.max_items = 10;
    SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
    for (unsigned i = 0; i < 137; i++) {
        tell(TELEMETRY_FUNCTION, "{\"x\":1}");
        telemetry_turn(&telemetry, now);
        read_more();
    }
    SCHED_ASSERT(body() != NULL && telemetry.subscribers[0].gathered.items == 10);
    SCHED_ASSERT(telemetry.subscribers[0].dropped_records == 117 && telemetry.subscribers[0].dropped_bytes == 117 * 7);
    answer("HTTP/1.1 200 OK\r\n\r\n");
    turn_until_idle(0);
    turn_until_body(); /* the second ten */
    SCHED_ASSERT(strncmp(body(), "[{\"x\":1},", 9) == 0 && strstr(body(), "Dropped") == NULL);
    tell(TELEMETRY_FUNCTION, "{\"y\":1}");
    answer("HTTP/1.1 200 OK\r\n\r\n");
    turn_until_idle(0);
    now += 1000;
    turn_until_body();
    const char *const told = strstr(body(), "\"type\":\"platform.logsDropped\"");
    SCHED_ASSERT(told != NULL && strstr(told, "\"droppedRecords\":117,\"droppedBytes\":819}},{\"y\":1}]") != NULL);
    SCHED_ASSERT(strncmp(body(), "[{\"time\":\"20", 12) == 0 && strstr(body(), "Z\",\"type\"") != NULL);
    end();
}

/* One record that fits nowhere: told by itself, though no other comes. */
static void what_is_too_large_is_dropped_and_told(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.max_bytes = 8;
    what.timeout_ms = 0;
    SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
    tell(TELEMETRY_FUNCTION, "\"1234567\"");
    turn_until_body();
    SCHED_ASSERT(strstr(body(), "\"droppedRecords\":1,\"droppedBytes\":9}}]") != NULL);
    answer("HTTP/1.1 200 OK\r\n\r\n");
    turn_until_idle(0);
    tell(TELEMETRY_FUNCTION, "\"12345\""); /* the largest there is room for */
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[\"12345\"]") == 0);
    end();
}

static void who_refuses_is_asked_again_and_given_up(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.max_items = 1;
    SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
    tell(TELEMETRY_FUNCTION, "{\"again\":1}");
    turn_until_body();
    answer("HTTP/1.1 500 Oh\r\n\r\n");
    telemetry_turn(&telemetry, now);
    SCHED_ASSERT(telemetry.subscribers[0].state == TELEMETRY_PAUSING && telemetry_due_ms(&telemetry) == now + TELEMETRY_PAUSE_MS);
    now += TELEMETRY_PAUSE_MS;
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[{\"again\":1}]") == 0);
    hang_up(); /* without a word */
    telemetry_turn(&telemetry, now);
    SCHED_ASSERT(telemetry.subscribers[0].state == TELEMETRY_PAUSING && telemetry_due_ms(&telemetry) == now + 2 * TELEMETRY_PAUSE_MS);
    now += 2 * TELEMETRY_PAUSE_MS;
    turn_until_body();
    now += TELEMETRY_PATIENCE_MS; /* reads and says nothing */
    telemetry_turn(&telemetry, now);
    SCHED_ASSERT(telemetry.subscribers[0].state == TELEMETRY_PAUSING);
    hang_up();
    wire_close(&listener); /* nobody is there */
    for (unsigned i = 0; telemetry.subscribers[0].state != TELEMETRY_IDLE; i++) {
        SCHED_ASSERT(i < 10);
        now += 10 * TELEMETRY_PAUSE_MS;
        telemetry_turn(&telemetry, now);
    }
    SCHED_ASSERT(telemetry.subscribers[0].dropped_records == 1 && telemetry.subscribers[0].fd < 0);
    SCHED_ASSERT(!telemetry_pending(&telemetry) && telemetry_due_ms(&telemetry) == UINT64_MAX); /* nothing goes on for ever */
    listen_anywhere();
    tell(TELEMETRY_FUNCTION, "{\"new\":1}"); /* with one item a batch it comes behind the word of those that were dropped */
    turn_until_body();
    SCHED_ASSERT(strstr(body(), "\"droppedRecords\":1,") != NULL);
    answer("HTTP/1.1 200 OK\r\n\r\n");
    turn_until_idle(0);
    turn_until_body();
    SCHED_ASSERT(strcmp(body(), "[{\"new\":1}]") == 0);
    end();
}

static void a_subscription_replaces_the_one_before(void) {
    begin();
    struct telemetry_subscription what = plain();
    what.max_items = 1;
    SCHED_ASSERT(subscribe(&what, "h", "/one") == NULL);
    tell(TELEMETRY_FUNCTION, "1");
    turn_until_body(); /* under way */
    SCHED_ASSERT(subscribe(&what, "h", "/two") == NULL);
    hang_up();
    SCHED_ASSERT(!telemetry_pending(&telemetry));
    tell(TELEMETRY_FUNCTION, "2");
    turn_until_body();
    SCHED_ASSERT(strncmp(received, "POST /two ", 10) == 0 && strcmp(body(), "[2]") == 0);
    end();
}

/* Any records at any time, a server that does anything: bounds hold, no record is lost uncounted where nothing was given up. */
static void whatever_happens_bounds_hold(void) {
    uint64_t seed = 5;
    static char text[3000];
    memset(text, '1', sizeof text);
    for (unsigned round = 0; round < 60; round++) {
        begin();
        struct telemetry_subscription what = plain();
        what.protocol = (uint8_t)(1 + random_below(&seed, 2));
        what.max_items = 1 + (uint32_t)random_below(&seed, 20);
        what.max_bytes = 1 + (uint32_t)random_below(&seed, 4000);
        SCHED_ASSERT(subscribe(&what, "h", "/") == NULL);
        for (unsigned i = 0; i < 300; i++) {
            const size_t bytes = 1 + random_below(&seed, sizeof text - 1);
            text[bytes] = '\0';
            tell((uint8_t)(1U << random_below(&seed, 3)), text);
            text[bytes] = '1';
            telemetry_turn(&telemetry, now);
            now += random_below(&seed, 300);
            const struct telemetry_subscriber *const one = &telemetry.subscribers[0];
            SCHED_ASSERT(one->gathered.bytes <= what.max_bytes + SLACK_BYTES && one->sent.bytes <= what.max_bytes + SLACK_BYTES);
            SCHED_ASSERT(one->gathered.items <= what.max_items + 1);
            switch (random_below(&seed, 6)) {
            case 0:
                read_more();
                break;
            case 1:
                if (connection >= 0) {
                    (void)send(connection, "HTTP/1.1 200 OK\r\n\r\n", 19, MSG_NOSIGNAL);
                }
                hang_up();
                break;
            case 2:
                if (connection >= 0) {
                    (void)send(connection, "\0\xff garbage", 10, MSG_NOSIGNAL);
                }
                break;
            case 3:
                hang_up();
                break;
            default:
                break;
            }
        }
        end();
    }
}

int main(void) {
    RUN(a_subscription_that_is_none_is_refused_and_changes_nothing);
    RUN(records_that_are_none_are_refused);
    RUN(records_go_when_they_are_enough_or_have_waited_long_enough);
    RUN(records_go_before_they_are_too_many_bytes);
    RUN(each_gets_the_types_it_asked_for);
    RUN(lines_go_over_one_connection);
    RUN(what_is_too_much_is_dropped_and_told);
    RUN(what_is_too_large_is_dropped_and_told);
    RUN(who_refuses_is_asked_again_and_given_up);
    RUN(a_subscription_replaces_the_one_before);
    RUN(whatever_happens_bounds_hold);
    return 0;
}
