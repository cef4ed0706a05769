/* listen.c: listeners, and who may come in. What becomes of a connection then is client.c's.
 *
 * A listener is asked only while accepting can work: with no descriptor left, or while the slow side is behind with its events,
 * both pause, and those who connect wait in the kernel's queue. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "reactor.h"

enum { BACKLOG = 4096, ACCEPTS_A_TURN = 64 };

static const uint64_t ACCEPT_PAUSE_NS = 100ULL * 1000 * 1000;
static const uint64_t ACCEPT_FAULT_NS = 10ULL * 1000 * 1000 * 1000; /* complaints about the same, at most so often */

/* Clients have no descriptors to send. One that is dropped unread is closed by whoever reads, and a socket that lingers takes as
 * long for that as the sender likes: the loop would stand still. Connections inherit it; before Linux 6.16 it cannot be had. */
static void refuse_descriptors(int fd) {
    enum { PASS_RIGHTS = 83 }; /* SO_PASSRIGHTS */
    const int no = 0;
    (void)setsockopt(fd, SOL_SOCKET, PASS_RIGHTS, &no, sizeof no);
}

static bool somebody_listens(const struct sockaddr_un *address) {
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return true;
    }
    const bool alive = connect(fd, (const struct sockaddr *)address, sizeof *address) == 0 || errno == EAGAIN;
    close(fd);
    return alive;
}

int listen_unix(struct sched *sched, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        return -ENAMETOOLONG;
    }
    if (sched->unix_fd >= 0) {
        return -EBUSY;
    }
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    refuse_descriptors(fd);
    struct stat info;
    if (lstat(path, &info) == 0) {
        if (!S_ISSOCK(info.st_mode)) {
            close(fd);
            return -EEXIST;
        }
        if (somebody_listens(&address)) {
            close(fd);
            return -EADDRINUSE;
        }
        (void)unlink(path);
    }
    /* The mode is right from the first moment: whoever could connect between bind and chmod would be in. */
    const mode_t before = umask(0117);
    const int bound = bind(fd, (const struct sockaddr *)&address, sizeof address);
    const int why = errno;
    umask(before);
    if (bound != 0 || listen(fd, BACKLOG) != 0) {
        const int reason = bound != 0 ? why : errno;
        close(fd);
        return -reason;
    }
    if (!watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN, SOURCE_UNIX, 0)) {
        const int reason = errno;
        (void)unlink(path);
        close(fd);
        return -reason;
    }
    sched->unix_fd = fd;
    snprintf(sched->unix_path, sizeof sched->unix_path, "%s", path);
    return 0;
}

static int listen_at(struct sched *sched, const char *host, uint16_t *port, int *listener, enum source source) {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } address = {0};
    socklen_t size = sizeof address.v4;
    if (inet_pton(AF_INET, host, &address.v4.sin_addr) == 1) {
        address.v4.sin_family = AF_INET;
        address.v4.sin_port = htons(*port);
    } else if (inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1) {
        address.v6.sin6_family = AF_INET6;
        address.v6.sin6_port = htons(*port);
        size = sizeof address.v6;
    } else {
        return -EINVAL;
    }
    if (*listener >= 0) {
        return -EBUSY;
    }
    const int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    const int yes = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 || bind(fd, &address.any, size) != 0 ||
        listen(fd, BACKLOG) != 0 || getsockname(fd, &address.any, &size) != 0 ||
        !watch(sched, EPOLL_CTL_ADD, fd, EPOLLIN, source, 0)) {
        const int why = errno;
        close(fd);
        return -why;
    }
    *port = ntohs(address.any.sa_family == AF_INET ? address.v4.sin_port : address.v6.sin6_port);
    *listener = fd;
    return 0;
}

int listen_tcp(struct sched *sched, const char *host, uint16_t *port) {
    return listen_at(sched, host, port, &sched->tcp_fd, SOURCE_TCP);
}

int listen_http(struct sched *sched, const char *host, uint16_t *port) {
    return listen_at(sched, host, port, &sched->http_fd, SOURCE_HTTP);
}

void listen_stop(struct sched *sched) {
    if (sched->unix_fd >= 0) {
        (void)unlink(sched->unix_path);
        close(sched->unix_fd);
        sched->unix_fd = -1;
    }
    if (sched->tcp_fd >= 0) {
        close(sched->tcp_fd);
        sched->tcp_fd = -1;
    }
    if (sched->http_fd >= 0) {
        close(sched->http_fd);
        sched->http_fd = -1;
    }
}

static bool uid_allowed(const struct sched *sched, uint32_t uid) {
    if (uid == 0 || uid == geteuid()) {
        return true;
    }
    for (uint32_t i = 0; i < sched->config.allowed_uids_count && i < 16; i++) {
        if (sched->config.allowed_uids[i] == uid) {
            return true;
        }
    }
    return false;
}

/* Epoll tells of a connection that waits until it is accepted: where that cannot be, it must not be asked. */
static void listen_for(struct sched *sched, uint32_t events) {
    if (sched->unix_fd >= 0) {
        (void)watch(sched, EPOLL_CTL_MOD, sched->unix_fd, events, SOURCE_UNIX, 0);
    }
    if (sched->tcp_fd >= 0) {
        (void)watch(sched, EPOLL_CTL_MOD, sched->tcp_fd, events, SOURCE_TCP, 0);
    }
    if (sched->http_fd >= 0) {
        (void)watch(sched, EPOLL_CTL_MOD, sched->http_fd, events, SOURCE_HTTP, 0);
    }
}

static void accept_later(struct sched *sched, const char *why) {
    if (sched->accepting) {
        sched->accepting = false;
        listen_for(sched, 0);
    }
    sched->accept_again_ns = sched->now_ns + ACCEPT_PAUSE_NS;
    if (why != NULL && (sched->accept_fault_ns == 0 || sched->now_ns - sched->accept_fault_ns >= ACCEPT_FAULT_NS)) {
        sched->accept_fault_ns = sched->now_ns;
        fault(sched, "connections cannot be accepted: %s; trying again each 100 ms", why);
    }
}

void listen_again(struct sched *sched) {
    sched->accepting = true;
    listen_for(sched, EPOLLIN);
}

static void greet(struct sched *sched, int fd, enum speech speech) {
    const bool tcp = speech != SPEECH_UNIX;
    uint32_t uid = UINT32_MAX;
    uint32_t rights = 0;
    if (tcp) {
        /* A peer whose machine is gone says nothing: without probes it would keep its place for ever. */
        const int yes = 1;
        const int idle_s = 60;
        const int interval_s = 15;
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof yes);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
    } else {
        struct ucred peer = {0};
        socklen_t size = sizeof peer;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0) {
            uid = peer.uid;
        }
        rights = uid_allowed(sched, uid) ? SCHED_RIGHT_ALL : 0;
    }
    if (speech == SPEECH_HTTP) {
        rights = SCHED_RIGHT_INVOKE; /* who asks is told by each request, where it is asked at all */
    }
    const uint64_t id = client_add(sched, fd, speech, uid, rights);
    if (id == 0 || speech == SPEECH_HTTP) {
        return;
    }
    const struct sched_event event = {.kind = SCHED_EV_OPENED, .connection = id, .flags = tcp, .value = uid};
    emit(sched, &event, NULL, 0);
    if (!tcp && rights == 0) {
        struct client *client = client_find(sched, id);
        answer_error(sched, client, 0, "Unauthorized", "uid %u may not use this socket; see the setting allowed_uids", uid);
        client->closing = true;
    }
}

void listen_accept(struct sched *sched, int listen_fd, enum speech speech) {
    for (int i = 0; i < ACCEPTS_A_TURN && listen_fd >= 0; i++) {
        if (slow_side_behind(sched)) {
            accept_later(sched, NULL); /* each connection is two events for it: let it catch up first */
            return;
        }
        const int fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            greet(sched, fd, speech);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
            accept_later(sched, strerror(errno));
            return;
        } else if (errno != ECONNABORTED && errno != EINTR) {
            return;
        }
    }
}
