#include "wire.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol.h"

int wire_send(int fd, const void *data, size_t bytes, const int *fds, unsigned fds_count, int flags) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * PROTOCOL_FDS_MAX)];
    } control;
    struct iovec piece = {.iov_base = (void *)(uintptr_t)data, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1};
    if (fds_count > PROTOCOL_FDS_MAX) {
        return -EINVAL;
    }
    if (fds_count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.space;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * fds_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * fds_count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * fds_count);
    }
    for (;;) {
        const ssize_t sent = sendmsg(fd, &message, flags | MSG_NOSIGNAL);
        if (sent >= 0) {
            return (size_t)sent == bytes ? 0 : -EIO;
        }
        if (errno != EINTR) {
            return -errno;
        }
    }
}

static unsigned take_descriptors(struct msghdr *message, int *fds, unsigned fds_max, bool *overflow) {
    unsigned count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) {
            continue;
        }
        const size_t held = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < held; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof fd);
            if (count < fds_max) {
                fds[count++] = fd;
            } else {
                close(fd);
                *overflow = true;
            }
        }
    }
    return count;
}

ssize_t wire_receive(int fd, void *data, size_t bytes, int *fds, unsigned fds_max, unsigned *fds_count, int flags) {
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int) * PROTOCOL_FDS_MAX)];
    } control;
    struct iovec piece = {.iov_base = data, .iov_len = bytes};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.space,
                             .msg_controllen = sizeof control.space};
    ssize_t got;
    if (fds_count != NULL) {
        *fds_count = 0;
    }
    bool reset = false;
    for (;;) {
        got = recvmsg(fd, &message, flags | MSG_CMSG_CLOEXEC);
        if (got >= 0 || (errno != EINTR && (errno != ECONNRESET || reset))) {
            break;
        }
        /* A peer that ended with something unread: the kernel says so first, and what it had sent is still to be had. */
        reset = reset || errno == ECONNRESET;
    }
    if (got < 0) {
        return -errno;
    }
    bool overflow = (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
    const unsigned count = take_descriptors(&message, fds, fds_count == NULL ? 0 : fds_max, &overflow);
    if (overflow) {
        wire_close_all(fds, count);
        return -EMSGSIZE;
    }
    if (fds_count != NULL) {
        *fds_count = count;
    }
    return got;
}

int wire_refuse_descriptors(int fd) {
    enum { PASS_RIGHTS = 83 }; /* SO_PASSRIGHTS, newer than the headers of most C libraries */
    const int no = 0;
    return setsockopt(fd, SOL_SOCKET, PASS_RIGHTS, &no, sizeof no) < 0 ? -errno : 0;
}

void wire_close(int *fd) {
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

void wire_close_all(int *fds, unsigned count) {
    for (unsigned i = 0; i < count; i++) {
        wire_close(&fds[i]);
    }
}

void wire_text(char *field, size_t bytes, const char *text) {
    memset(field, 0, bytes);
    const size_t length = strlen(text);
    memcpy(field, text, length < bytes ? length : bytes - 1);
}

int wire_strings(const char *text, size_t bytes, const char **strings, unsigned max) {
    unsigned count = 0;
    size_t at = 0;
    if (bytes > 0 && text[bytes - 1] != '\0') {
        return -EINVAL;
    }
    while (at < bytes) {
        if (count == max) {
            return -EINVAL;
        }
        strings[count++] = text + at;
        at += strlen(text + at) + 1;
    }
    return (int)count;
}
