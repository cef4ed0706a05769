#include "network_message.h"

#include <errno.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ALIGNMENT = 4, PATIENCE_S = 10 };

static uint32_t aligned(size_t bytes) {
    return (uint32_t)((bytes + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
}

int netlink_open(int protocol) {
    const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    if (fd < 0) {
        return -errno;
    }
    const struct timeval patience = {.tv_sec = PATIENCE_S}; /* the kernel answers at once, or something is broken */
    const int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    (void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on); /* an answer without the whole question */
    return fd;
}

void netlink_begin(struct netlink_batch *batch) {
    batch->used = batch->message = batch->messages = 0;
    batch->first = 1;
    batch->full = false;
}

void netlink_raw(struct netlink_batch *batch, const void *data, size_t bytes) {
    const uint32_t room = aligned(bytes);
    if (batch->full || room > sizeof batch->bytes - batch->used) {
        batch->full = true;
        return;
    }
    memset(batch->bytes + batch->used, 0, room);
    if (bytes > 0) {
        memcpy(batch->bytes + batch->used, data, bytes);
    }
    batch->used += room;
    struct nlmsghdr header;
    memcpy(&header, batch->bytes + batch->message, sizeof header);
    header.nlmsg_len = batch->used - batch->message;
    memcpy(batch->bytes + batch->message, &header, sizeof header);
}

void netlink_message(struct netlink_batch *batch, uint16_t type, uint16_t flags, const void *fixed, size_t bytes, bool silent) {
    const struct nlmsghdr header = {.nlmsg_type = type,
                                    .nlmsg_flags = (uint16_t)(flags | NLM_F_REQUEST | (silent ? 0 : NLM_F_ACK)),
                                    .nlmsg_seq = silent ? 0 : batch->first + batch->messages};
    batch->message = batch->used;
    netlink_raw(batch, &header, sizeof header);
    netlink_raw(batch, fixed, bytes);
    batch->messages += silent ? 0 : 1;
}

void netlink_put(struct netlink_batch *batch, uint16_t type, const void *data, size_t bytes) {
    const struct nlattr header = {.nla_len = (uint16_t)(sizeof header + bytes), .nla_type = type};
    netlink_raw(batch, &header, sizeof header);
    netlink_raw(batch, data, bytes);
}

void netlink_put_u32(struct netlink_batch *batch, uint16_t type, uint32_t value) {
    netlink_put(batch, type, &value, sizeof value);
}

void netlink_put_text(struct netlink_batch *batch, uint16_t type, const char *text) {
    netlink_put(batch, type, text, strlen(text) + 1);
}

uint32_t netlink_nest(struct netlink_batch *batch, uint16_t type) {
    const uint32_t place = batch->used;
    netlink_put(batch, type | NLA_F_NESTED, NULL, 0);
    return place;
}

void netlink_close(struct netlink_batch *batch, uint32_t place) {
    if (batch->full) {
        return;
    }
    struct nlattr header;
    memcpy(&header, batch->bytes + place, sizeof header);
    header.nla_len = (uint16_t)(batch->used - place);
    memcpy(batch->bytes + place, &header, sizeof header);
}

static int send_all(int fd, const struct netlink_batch *batch) {
    const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (batch->full) {
        return -EMSGSIZE;
    }
    const ssize_t sent = sendto(fd, batch->bytes, batch->used, 0, (const struct sockaddr *)&kernel, sizeof kernel);
    return sent < 0 ? -errno : sent == (ssize_t)batch->used ? 0 : -EMSGSIZE;
}

/* One datagram from the kernel; another process may send to a netlink socket too. Bytes or -errno. */
static ssize_t receive(int fd, unsigned char *bytes, size_t room) {
    for (;;) {
        struct sockaddr_nl from;
        socklen_t length = sizeof from;
        const ssize_t got = recvfrom(fd, bytes, room, 0, (struct sockaddr *)&from, &length);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return -errno;
        }
        if (length == sizeof from && from.nl_pid == 0) {
            return got;
        }
    }
}

/* The message at *at, moved on; false at the end. */
static bool next(const unsigned char *bytes, size_t got, size_t *at, struct nlmsghdr *header, const unsigned char **body) {
    if (got - *at < sizeof *header) {
        return false;
    }
    memcpy(header, bytes + *at, sizeof *header);
    if (header->nlmsg_len < sizeof *header || header->nlmsg_len > got - *at) {
        return false;
    }
    *body = bytes + *at + sizeof *header;
    const size_t step = aligned(header->nlmsg_len);
    *at = step > got - *at ? got : *at + step;
    return true;
}

static int verdict(const struct nlmsghdr *header, const unsigned char *body) {
    int error;
    if (header->nlmsg_len < sizeof *header + sizeof error) {
        return -EBADMSG;
    }
    memcpy(&error, body, sizeof error);
    return error;
}

int netlink_send(int fd, struct netlink_batch *batch, unsigned *failed) {
    _Alignas(8) unsigned char bytes[NETLINK_ANSWER_BYTES];
    int first_error = send_all(fd, batch);
    *failed = 0;
    if (first_error < 0) {
        return first_error;
    }
    for (unsigned heard = 0; heard < batch->messages;) {
        const ssize_t got = receive(fd, bytes, sizeof bytes);
        if (got < 0) {
            return (int)got;
        }
        struct nlmsghdr header;
        const unsigned char *body;
        for (size_t at = 0; next(bytes, (size_t)got, &at, &header, &body);) {
            const uint32_t number = header.nlmsg_seq - batch->first;
            if (header.nlmsg_type != NLMSG_ERROR || number >= batch->messages) {
                if (header.nlmsg_type == NLMSG_ERROR && verdict(&header, body) < 0) {
                    return verdict(&header, body); /* the batch as a whole */
                }
                continue;
            }
            heard++;
            const int error = verdict(&header, body);
            if (error < 0 && (first_error == 0 || number < *failed)) {
                first_error = error;
                *failed = number;
            }
        }
    }
    return first_error;
}

int netlink_list(int fd, struct netlink_batch *batch,
                 void (*each)(void *context, uint16_t type, const unsigned char *body, size_t bytes), void *context) {
    _Alignas(8) unsigned char bytes[NETLINK_ANSWER_BYTES];
    const int error = send_all(fd, batch);
    if (error < 0) {
        return error;
    }
    for (;;) {
        const ssize_t got = receive(fd, bytes, sizeof bytes);
        if (got < 0) {
            return (int)got;
        }
        struct nlmsghdr header;
        const unsigned char *body;
        for (size_t at = 0; next(bytes, (size_t)got, &at, &header, &body);) {
            if (header.nlmsg_type == NLMSG_DONE) {
                return 0;
            }
            if (header.nlmsg_type == NLMSG_ERROR) {
                return verdict(&header, body);
            }
            each(context, header.nlmsg_type, body, header.nlmsg_len - sizeof header);
        }
    }
}

const unsigned char *netlink_find(const unsigned char *attributes, size_t bytes, uint16_t type, size_t *length) {
    size_t at = 0;
    struct nlattr header;
    while (bytes - at >= sizeof header) {
        memcpy(&header, attributes + at, sizeof header);
        if (header.nla_len < sizeof header || header.nla_len > bytes - at) {
            return NULL;
        }
        if ((header.nla_type & NLA_TYPE_MASK) == type) {
            *length = header.nla_len - sizeof header;
            return attributes + at + sizeof header;
        }
        const size_t step = aligned(header.nla_len);
        at = step > bytes - at ? bytes : at + step;
    }
    return NULL;
}
