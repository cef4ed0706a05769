#include "telemetry.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wire.h"

enum { SLACK_BYTES = 512 }; /* behind max_bytes: what encloses the records, and the word of those that were dropped */

/* ---- subscribing ---- */

/* A string of the message: its bytes with the NUL, 0: it has no end, is longer than its place, or holds what no header may. */
static size_t take_text(char *to, size_t room, const char *text, size_t count) {
    const size_t bytes = strnlen(text, count) + 1;
    if (bytes > count || bytes > room) {
        return 0;
    }
    for (size_t i = 0; i + 1 < bytes; i++) {
        if (text[i] <= ' ' || text[i] > '~') {
            return 0;
        }
    }
    memcpy(to, text, bytes);
    return bytes;
}

static const char *check(const struct telemetry_subscription *what) {
    if (what->subscriber >= TELEMETRY_SUBSCRIBERS_MAX) {
        return "the subscriber";
    }
    if (what->types == 0 || what->types > (TELEMETRY_PLATFORM | TELEMETRY_FUNCTION | TELEMETRY_EXTENSION)) {
        return "the types";
    }
    if (what->protocol != TELEMETRY_HTTP && what->protocol != TELEMETRY_TCP) {
        return "the protocol";
    }
    if (what->max_items < 1 || what->max_items > TELEMETRY_ITEMS_MAX || what->max_bytes < 1 || what->max_bytes > TELEMETRY_BYTES_MAX ||
        what->timeout_ms > TELEMETRY_TIMEOUT_MS_MAX) {
        return "the buffering";
    }
    return what->port == 0 ? "the port" : NULL;
}

static void forget(struct telemetry_subscriber *subscriber) {
    if (subscriber->there) {
        wire_close(&subscriber->fd);
        free(subscriber->gathered.text);
        free(subscriber->sent.text);
    }
    memset(subscriber, 0, sizeof *subscriber);
    subscriber->fd = -1;
}

const char *telemetry_subscribe(struct telemetry *telemetry, const void *bytes, size_t count) {
    struct telemetry_subscription what;
    char host[TELEMETRY_HOST_BYTES], path[TELEMETRY_PATH_BYTES];
    if (count < sizeof what) {
        return "its length";
    }
    memcpy(&what, bytes, sizeof what);
    const char *const wrong = check(&what);
    if (wrong != NULL) {
        return wrong;
    }
    const char *const text = (const char *)bytes + sizeof what;
    const size_t host_bytes = take_text(host, sizeof host, text, count - sizeof what);
    const size_t path_bytes = host_bytes == 0 ? 0 : take_text(path, sizeof path, text + host_bytes, count - sizeof what - host_bytes);
    if (path_bytes == 0 || host_bytes + path_bytes != count - sizeof what) {
        return "host and path";
    }
    char *const gathered = malloc(what.max_bytes + (size_t)SLACK_BYTES), *const sent = malloc(what.max_bytes + (size_t)SLACK_BYTES);
    if (gathered == NULL || sent == NULL) {
        free(gathered);
        free(sent);
        return "memory for it";
    }
    struct telemetry_subscriber *const subscriber = &telemetry->subscribers[what.subscriber];
    forget(subscriber);
    subscriber->there = true;
    subscriber->what = what;
    memcpy(subscriber->host, host, host_bytes);
    memcpy(subscriber->path, path, path_bytes);
    subscriber->gathered.text = gathered;
    subscriber->sent.text = sent;
    return NULL;
}

/* ---- gathering ---- */

/* HTTP: [a,b]. TCP: each with its line's end. */
static void add(struct telemetry_subscriber *subscriber, const char *text, size_t bytes) {
    struct telemetry_buffer *const buffer = &subscriber->gathered;
    const bool http = subscriber->what.protocol == TELEMETRY_HTTP;
    if (http) {
        buffer->text[buffer->bytes++] = buffer->items == 0 ? '[' : ',';
    }
    memcpy(buffer->text + buffer->bytes, text, bytes);
    buffer->bytes += bytes;
    if (!http) {
        buffer->text[buffer->bytes++] = '\n';
    }
    buffer->items++;
}

/* Told in the slack, which is there for it: only a batch's first. */
static void tell_dropped(struct telemetry_subscriber *subscriber) {
    char text[SLACK_BYTES - 16], when[40] = "";
    struct timespec now;
    struct tm parts;
    clock_gettime(CLOCK_REALTIME, &now);
    if (gmtime_r(&now.tv_sec, &parts) != NULL) {
        strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%S", &parts);
    }
    const int bytes = snprintf(text, sizeof text,
                               "{\"time\":\"%s.%03ldZ\",\"type\":\"platform.logsDropped\",\"record\":{\"reason\":\"Consumer seems to have fallen "
                               "behind as it has not acknowledged receipt of logs.\",\"droppedRecords\":%llu,\"droppedBytes\":%llu}}",
                               when, now.tv_nsec / 1000000, (unsigned long long)subscriber->dropped_records,
                               (unsigned long long)subscriber->dropped_bytes);
    if (bytes > 0 && (size_t)bytes < sizeof text) {
        add(subscriber, text, (size_t)bytes);
        subscriber->dropped_records = subscriber->dropped_bytes = 0;
    }
}

static bool has_room(const struct telemetry_subscriber *subscriber, size_t bytes) {
    return subscriber->gathered.items < subscriber->what.max_items &&
           subscriber->gathered.bytes + bytes + 1 <= subscriber->what.max_bytes; /* with what parts it from the one before */
}

static bool is_due(const struct telemetry *telemetry, const struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    const struct telemetry_buffer *const gathered = &subscriber->gathered;
    return gathered->items > 0 && (telemetry->draining || gathered->items >= subscriber->what.max_items ||
                                   gathered->bytes >= subscriber->what.max_bytes ||
                                   now_ms - subscriber->oldest_ms >= subscriber->what.timeout_ms);
}

/* ---- delivering ---- */

static bool must_tell(const struct telemetry_subscriber *subscriber) {
    return subscriber->dropped_records > 0 && subscriber->gathered.items == 0 && !subscriber->unreachable;
}

static void rest(struct telemetry_subscriber *subscriber) {
    subscriber->state = TELEMETRY_IDLE;
    subscriber->sent.bytes = 0;
    subscriber->sent.items = 0;
}

static void failed(const struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    const unsigned most = telemetry->draining ? 2 : TELEMETRY_ATTEMPTS;
    wire_close(&subscriber->fd);
    if (++subscriber->attempts >= most) {
        subscriber->dropped_records += subscriber->sent.items;
        subscriber->dropped_bytes += subscriber->sent.bytes;
        subscriber->unreachable = true;
        rest(subscriber);
        return;
    }
    subscriber->state = TELEMETRY_PAUSING;
    subscriber->deadline_ms = now_ms + ((uint64_t)TELEMETRY_PAUSE_MS << (subscriber->attempts - 1));
}

static void attempt(const struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    subscriber->at = subscriber->answer_bytes = 0;
    subscriber->deadline_ms = now_ms + TELEMETRY_PATIENCE_MS;
    subscriber->state = TELEMETRY_CONNECTING;
    if (subscriber->fd < 0) { /* a connection of TCP stays */
        subscriber->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    }
    if (subscriber->fd < 0) {
        failed(telemetry, subscriber, now_ms);
    }
}

/* The gathered records go; those before them have gone. */
static void deliver(const struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    char *const free_text = subscriber->sent.text;
    subscriber->head_bytes = 0;
    if (subscriber->what.protocol == TELEMETRY_HTTP) {
        subscriber->gathered.text[subscriber->gathered.bytes++] = ']';
        subscriber->head_bytes = (size_t)snprintf(
            subscriber->head, sizeof subscriber->head,
            "POST %s HTTP/1.1\r\nHost: %s:%u\r\nContent-Type: application/json\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
            subscriber->path, subscriber->host, (unsigned)subscriber->what.port, subscriber->gathered.bytes);
    }
    subscriber->sent = subscriber->gathered;
    subscriber->gathered = (struct telemetry_buffer){.text = free_text};
    subscriber->attempts = 0;
    attempt(telemetry, subscriber, now_ms);
}

/* Asked once more, the kernel says how it stands. */
static void go_on_connecting(const struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(subscriber->what.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(subscriber->fd, (const struct sockaddr *)&address, sizeof address) == 0 || errno == EISCONN) {
        subscriber->state = TELEMETRY_SENDING;
    } else if (errno != EINPROGRESS && errno != EALREADY && errno != EINTR) {
        failed(telemetry, subscriber, now_ms);
    }
}

/* Head and body, as far as the socket takes them. */
static void go_on_sending(const struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    const size_t whole = subscriber->head_bytes + subscriber->sent.bytes;
    while (subscriber->at < whole) {
        const bool head = subscriber->at < subscriber->head_bytes;
        const char *const from = head ? subscriber->head + subscriber->at : subscriber->sent.text + subscriber->at - subscriber->head_bytes;
        const size_t left = head ? subscriber->head_bytes - subscriber->at : whole - subscriber->at;
        const ssize_t sent = send(subscriber->fd, from, left, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN && errno != EINTR) {
            failed(telemetry, subscriber, now_ms);
            return;
        }
        if (sent <= 0) {
            return;
        }
        subscriber->at += (size_t)sent;
    }
    if (subscriber->what.protocol == TELEMETRY_TCP) {
        subscriber->unreachable = false;
        rest(subscriber);
    } else {
        subscriber->state = TELEMETRY_ANSWER;
    }
}

static bool is_accepted(const struct telemetry_subscriber *subscriber) {
    unsigned status = 0;
    return sscanf(subscriber->answer, "HTTP/1.%*1[01] %3u", &status) == 1 && status >= 200 && status < 300;
}

/* Read to its end, so that the subscriber can write it in peace; the first line tells. */
static void go_on_reading(const struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    char rest_of_it[4096];
    for (;;) {
        const size_t room = sizeof subscriber->answer - 1 - subscriber->answer_bytes;
        char *const to = room > 0 ? subscriber->answer + subscriber->answer_bytes : rest_of_it;
        const ssize_t got = recv(subscriber->fd, to, room > 0 ? room : sizeof rest_of_it, MSG_DONTWAIT);
        if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        if (got <= 0) {
            break;
        }
        subscriber->answer_bytes += room > 0 ? (size_t)got : 0;
        subscriber->answer[subscriber->answer_bytes] = '\0';
    }
    if (is_accepted(subscriber)) {
        wire_close(&subscriber->fd);
        subscriber->unreachable = false;
        rest(subscriber);
    } else {
        failed(telemetry, subscriber, now_ms);
    }
}

static void turn_one(struct telemetry *telemetry, struct telemetry_subscriber *subscriber, uint64_t now_ms) {
    if (subscriber->state != TELEMETRY_IDLE && subscriber->state != TELEMETRY_PAUSING && now_ms >= subscriber->deadline_ms) {
        failed(telemetry, subscriber, now_ms);
    }
    if (subscriber->state == TELEMETRY_IDLE) {
        if (must_tell(subscriber)) {
            tell_dropped(subscriber);
            subscriber->oldest_ms = now_ms;
        }
        if (is_due(telemetry, subscriber, now_ms)) {
            deliver(telemetry, subscriber, now_ms);
        }
    }
    if (subscriber->state == TELEMETRY_PAUSING && now_ms >= subscriber->deadline_ms) {
        attempt(telemetry, subscriber, now_ms);
    }
    if (subscriber->state == TELEMETRY_CONNECTING) {
        go_on_connecting(telemetry, subscriber, now_ms);
    }
    if (subscriber->state == TELEMETRY_SENDING) {
        go_on_sending(telemetry, subscriber, now_ms);
    }
    if (subscriber->state == TELEMETRY_ANSWER) {
        go_on_reading(telemetry, subscriber, now_ms);
    }
}

void telemetry_turn(struct telemetry *telemetry, uint64_t now_ms) {
    for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
        if (telemetry->subscribers[i].there) {
            turn_one(telemetry, &telemetry->subscribers[i], now_ms);
        }
    }
}

/* ---- records ---- */

/* What is full goes, if it can. */
static void make_room(struct telemetry *telemetry, struct telemetry_subscriber *subscriber, size_t bytes, uint64_t now_ms) {
    if (!has_room(subscriber, bytes) && subscriber->gathered.items > 0) {
        turn_one(telemetry, subscriber, now_ms); /* what was under way may have arrived */
        if (subscriber->state == TELEMETRY_IDLE && subscriber->gathered.items > 0) {
            deliver(telemetry, subscriber, now_ms);
        }
    }
}

static void take_one(struct telemetry *telemetry, struct telemetry_subscriber *subscriber, const char *text, size_t bytes, uint64_t now_ms) {
    make_room(telemetry, subscriber, bytes, now_ms);
    if (subscriber->dropped_records > 0 && subscriber->gathered.items == 0) {
        tell_dropped(subscriber);
        subscriber->oldest_ms = now_ms;
        make_room(telemetry, subscriber, bytes, now_ms); /* with one record a batch it was the one */
    }
    if (!has_room(subscriber, bytes)) {
        subscriber->dropped_records++;
        subscriber->dropped_bytes += bytes;
        return;
    }
    subscriber->oldest_ms = subscriber->gathered.items == 0 ? now_ms : subscriber->oldest_ms;
    add(subscriber, text, bytes);
}

const char *telemetry_take(struct telemetry *telemetry, const void *bytes, size_t count, uint64_t now_ms) {
    const char *at = bytes;
    while (count > 0) {
        struct telemetry_record record;
        if (count < sizeof record) {
            return "the last record";
        }
        memcpy(&record, at, sizeof record);
        if (record.bytes == 0 || record.bytes > count - sizeof record) {
            return "a record's length";
        }
        if (record.type != TELEMETRY_PLATFORM && record.type != TELEMETRY_FUNCTION && record.type != TELEMETRY_EXTENSION) {
            return "a record's type";
        }
        for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
            struct telemetry_subscriber *const subscriber = &telemetry->subscribers[i];
            if (subscriber->there && (subscriber->what.types & record.type) != 0) {
                take_one(telemetry, subscriber, at + sizeof record, record.bytes, now_ms);
            }
        }
        at += sizeof record + record.bytes;
        count -= sizeof record + record.bytes;
    }
    return NULL;
}

/* ---- waiting ---- */

unsigned telemetry_watch(const struct telemetry *telemetry, struct pollfd *watched) {
    unsigned count = 0;
    for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
        const struct telemetry_subscriber *const subscriber = &telemetry->subscribers[i];
        if (subscriber->there && subscriber->state >= TELEMETRY_CONNECTING) {
            watched[count++] = (struct pollfd){.fd = subscriber->fd, .events = subscriber->state == TELEMETRY_ANSWER ? POLLIN : POLLOUT};
        }
    }
    return count;
}

uint64_t telemetry_due_ms(const struct telemetry *telemetry) {
    uint64_t due_ms = UINT64_MAX;
    for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
        const struct telemetry_subscriber *const subscriber = &telemetry->subscribers[i];
        uint64_t mine_ms = UINT64_MAX;
        if (!subscriber->there) {
            continue;
        }
        if (subscriber->state != TELEMETRY_IDLE) {
            mine_ms = subscriber->deadline_ms;
        } else if (is_due(telemetry, subscriber, subscriber->oldest_ms) || must_tell(subscriber)) {
            mine_ms = 0;
        } else if (subscriber->gathered.items > 0) {
            mine_ms = subscriber->oldest_ms + subscriber->what.timeout_ms;
        }
        due_ms = mine_ms < due_ms ? mine_ms : due_ms;
    }
    return due_ms;
}

void telemetry_drain(struct telemetry *telemetry) {
    telemetry->draining = true;
}

bool telemetry_pending(const struct telemetry *telemetry) {
    for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
        const struct telemetry_subscriber *const subscriber = &telemetry->subscribers[i];
        if (subscriber->there && (subscriber->state != TELEMETRY_IDLE || subscriber->gathered.items > 0 || must_tell(subscriber))) {
            return true;
        }
    }
    return false;
}
