/* A function in C, with a client of Lambda's Runtime API of its own: one connection, one call after the other.
 *
 * handle() is the function. An answer and the question for the next call are sent together. */
#define _POSIX_C_SOURCE 200809L
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENT_BYTES_MAX = 6 * 1024 * 1024, HEAD_BYTES_MAX = 64 * 1024, ID_BYTES_MAX = 64 };

static char buffer[HEAD_BYTES_MAX + EVENT_BYTES_MAX + 1]; /* a NUL behind what was read */
static size_t have; /* bytes in it that were read and not used */

static void fail(const char *what) {
    perror(what);
    exit(1);
}

/* Answers the event, which is JSON text: here with the event itself in an object. Returns the length of the answer. */
static size_t handle(const char *event, size_t length, char *answer, size_t room) {
    const int made = snprintf(answer, room, "{\"message\": \"hello from C\", \"event\": %.*s}", (int)length, event);
    fputs("greeting somebody\n", stderr);
    return (size_t)made < room ? (size_t)made : room - 1;
}

static int connect_to(char *address) {
    char *colon = strrchr(address, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    if (colon == NULL) {
        fail("AWS_LAMBDA_RUNTIME_API");
    }
    *colon = '\0';
    if (getaddrinfo(address, colon + 1, &hints, &found) != 0) {
        fail("getaddrinfo");
    }
    const int fd = socket(found->ai_family, found->ai_socktype, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
        fail("connect");
    }
    freeaddrinfo(found);
    return fd;
}

static void send_all(int fd, const char *data, size_t length) {
    while (length > 0) {
        const ssize_t sent = send(fd, data, length, MSG_NOSIGNAL);
        if (sent < 0) {
            fail("send");
        }
        data += sent;
        length -= (size_t)sent;
    }
}

static void read_more(int fd) {
    const size_t room = sizeof buffer - 1 - have;
    const ssize_t got = room > 0 ? recv(fd, buffer + have, room, 0) : 0;
    if (got <= 0) {
        exit(0); /* the sandbox ends */
    }
    have += (size_t)got;
}

/* The value of a header, which ends at the line's end; NULL where there is none. */
static const char *header(const char *head, const char *end, const char *name) {
    const size_t length = strlen(name);
    for (const char *line = head; line < end; line = strstr(line, "\r\n") + 2) {
        if (strncasecmp(line, name, length) == 0 && line[length] == ':') {
            return line + length + 1 + strspn(line + length + 1, " ");
        }
    }
    return NULL;
}

/* Reads one response; gives where its body is, its length, and the id of a call if it brings one. */
static char *read_response(int fd, size_t *length, char id[ID_BYTES_MAX]) {
    char *end;
    while (buffer[have] = '\0', (end = strstr(buffer, "\r\n\r\n")) == NULL) {
        if (have > HEAD_BYTES_MAX) {
            fail("head of a response");
        }
        read_more(fd);
    }
    const char *text = header(buffer, end, "Content-Length");
    const char *request = header(buffer, end, "Lambda-Runtime-Aws-Request-Id");
    *length = text != NULL ? strtoul(text, NULL, 10) : 0;
    if (*length > EVENT_BYTES_MAX) {
        fail("length of a response");
    }
    id[0] = '\0';
    if (request != NULL) {
        snprintf(id, ID_BYTES_MAX, "%.*s", (int)strcspn(request, "\r"), request);
    }
    char *body = end + 4;
    while ((size_t)(buffer + have - body) < *length) {
        read_more(fd);
    }
    return body;
}

/* Forgets what ends before `until`. */
static void drop(const char *until) {
    have -= (size_t)(until - buffer);
    memmove(buffer, until, have);
}

int main(void) {
    enum { HEAD_ROOM = 512 };
    static char out[HEAD_ROOM + EVENT_BYTES_MAX]; /* head, answer and next question: in one piece they are one wake-up */
    static const char next[] = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: runtime\r\n\r\n";
    char *address = getenv("AWS_LAMBDA_RUNTIME_API");
    if (address == NULL) {
        fail("AWS_LAMBDA_RUNTIME_API");
    }
    const int fd = connect_to(address);
    send_all(fd, next, sizeof next - 1);
    for (;;) {
        char id[ID_BYTES_MAX], head[HEAD_ROOM];
        size_t length;
        char *body = read_response(fd, &length, id);
        if (id[0] == '\0') { /* the word that our answer has arrived */
            drop(body + length);
            continue;
        }
        char *answer = out + HEAD_ROOM;
        const size_t made = handle(body, length, answer, EVENT_BYTES_MAX - sizeof next);
        drop(body + length);
        const int size = snprintf(head, sizeof head,
                                  "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: runtime\r\n"
                                  "Content-Length: %zu\r\n\r\n",
                                  id, made);
        memcpy(answer - size, head, (size_t)size);
        memcpy(answer + made, next, sizeof next - 1);
        send_all(fd, answer - size, (size_t)size + made + sizeof next - 1);
    }
}
