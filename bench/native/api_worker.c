/* api_worker.c: a runtime in C: asks the Runtime API for calls, echoes each, one after the other, on one connection.
 *
 * It does what every runtime does and no more: `next`, the event, `response`, the 202. With it in the place of Python or Node the
 * service's own cost of such a round shows.
 *
 *   api_worker --port N [--together 1]     together: a response and the `next` behind it in one piece, as HTTP allows
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 8 << 20, ID_BYTES = 36 };

static const char NEXT[] = "GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: 127.0.0.1:9001\r\n\r\n";

struct answer {
    char *body;
    size_t bytes;
    size_t whole; /* with its head */
    char id[ID_BYTES + 1];
};

static char buffer[ROOM + 1];
static size_t used;

/* The answer at the front of what was read; waited for. */
static struct answer read_answer(int fd)
{
    struct answer answer = {0};
    for (;;) {
        char *end = used == 0 ? NULL : memmem(buffer, used, "\r\n\r\n", 4);
        if (end != NULL) {
            end[2] = '\0';
            const char *length = strcasestr(buffer, "\r\nContent-Length: ");
            const char *id = strcasestr(buffer, "\r\nLambda-Runtime-Aws-Request-Id: ");
            if (length == NULL)
                die("an answer without a length: %s", buffer);
            if (id != NULL)
                memcpy(answer.id, id + 33, ID_BYTES);
            answer.body = end + 4;
            answer.bytes = strtoul(length + 18, NULL, 10);
            answer.whole = (size_t)(answer.body - buffer) + answer.bytes;
            end[2] = '\r';
            if (used >= answer.whole)
                return answer;
        }
        ssize_t got = recv(fd, buffer + used, ROOM - used, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            exit(0);
        used += (size_t)got;
        buffer[used] = '\0';
    }
}

static void drop(const struct answer *answer)
{
    memmove(buffer, buffer + answer->whole, used - answer->whole);
    used -= answer->whole;
    buffer[used] = '\0';
}

int main(int argc, char **argv)
{
    int port = 0;
    bool together = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--port") == 0)
            port = (int)parse_number(argv[i], argv[i + 1], 1, 65535);
        else if (strcmp(argv[i], "--together") == 0)
            together = parse_number(argv[i], argv[i + 1], 0, 1) == 1;
        else
            die("%s: unknown", argv[i]);
    }
    const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0)
        die("port %d: %s", port, strerror(errno));
    static char out[ROOM];
    if (!write_all(fd, NEXT, sizeof NEXT - 1))
        return 0;
    for (;;) {
        struct answer call = read_answer(fd);
        size_t size = (size_t)snprintf(out, ROOM, "POST /2018-06-01/runtime/invocation/%s/response HTTP/1.1\r\nHost: 127.0.0.1:9001\r\n"
                                       "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n", call.id, call.bytes);
        memcpy(out + size, call.body, call.bytes);
        size += call.bytes;
        if (together) {
            memcpy(out + size, NEXT, sizeof NEXT - 1);
            size += sizeof NEXT - 1;
        }
        drop(&call);
        if (!write_all(fd, out, size))
            return 0;
        struct answer accepted = read_answer(fd);
        if (memcmp(buffer, "HTTP/1.1 202", 12) != 0)
            die("not accepted: %.*s", (int)accepted.whole, buffer);
        drop(&accepted);
        if (!together && !write_all(fd, NEXT, sizeof NEXT - 1))
            return 0;
    }
}
