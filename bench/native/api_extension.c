/* api_extension.c: an extension in C: registers, then asks for one event after the other and does nothing about them.
 *
 * What a call costs more when an extension is there is what the service and the kernel add, not what it does.
 *
 *   api_extension --port N --name NAME
 */
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROOM = 64 << 10, ID_BYTES = 36 };

static char buffer[ROOM + 1];

/* One whole answer, of which `name` names a header; its value's first ID_BYTES go to id. */
static void read_answer(int fd, const char *name, char *id)
{
    size_t used = 0;
    for (;;) {
        ssize_t got = recv(fd, buffer + used, ROOM - used, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            exit(0);
        used += (size_t)got;
        buffer[used] = '\0';
        const char *end = strstr(buffer, "\r\n\r\n");
        const char *length = strcasestr(buffer, "\r\nContent-Length: ");
        if (end == NULL || length == NULL || used < (size_t)(end + 4 - buffer) + strtoul(length + 18, NULL, 10))
            continue;
        if (memcmp(buffer, "HTTP/1.1 200", 12) != 0)
            die("refused: %s", buffer);
        const char *found = name == NULL ? NULL : strcasestr(buffer, name);
        if (found != NULL)
            memcpy(id, found + strlen(name), ID_BYTES);
        return;
    }
}

int main(int argc, char **argv)
{
    int port = 0;
    const char *name = "";
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--port") == 0)
            port = (int)parse_number(argv[i], argv[i + 1], 1, 65535);
        else if (strcmp(argv[i], "--name") == 0)
            name = argv[i + 1];
        else
            die("%s: unknown", argv[i]);
    }
    const struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int fd = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof address) != 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0)
        die("port %d: %s", port, strerror(errno));
    char text[512], id[ID_BYTES + 1] = "";
    int size = snprintf(text, sizeof text, "POST /2020-01-01/extension/register HTTP/1.1\r\nHost: x\r\nLambda-Extension-Name: %s\r\n"
                        "Content-Length: 21\r\n\r\n{\"events\":[\"INVOKE\"]}", name);
    if (!write_all(fd, text, (size_t)size))
        return 0;
    read_answer(fd, "Lambda-Extension-Identifier: ", id);
    size = snprintf(text, sizeof text, "GET /2020-01-01/extension/event/next HTTP/1.1\r\nHost: x\r\nLambda-Extension-Identifier: %s\r\n\r\n", id);
    while (write_all(fd, text, (size_t)size))
        read_answer(fd, NULL, id);
    return 0;
}
