/* test_launcher.c: the launcher's parts that stand alone: messages with descriptors against a peer that sends what it should not,
 * and the filter as it is on a kernel that cannot refuse descriptors. The rest is tested with real sandboxes (tests/sandboxes). */
#include "../launcher/calls.c"
#include "../launcher/filter.c"
#include "../launcher/wire.c"

#include <dirent.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "harness.h"

static unsigned open_count(void) {
    unsigned count = 0;
    DIR *entries = opendir("/proc/self/fd");
    SCHED_ASSERT(entries != NULL);
    while (readdir(entries) != NULL) {
        count++;
    }
    closedir(entries);
    return count;
}

static void make_pair(int *pair) {
    SCHED_ASSERT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
}

static void descriptors_arrive_or_are_closed(void) {
    int pair[2], sent[PROTOCOL_FDS_MAX], got[PROTOCOL_FDS_MAX];
    char message[8] = "message";
    unsigned count = 77;
    make_pair(pair);
    for (unsigned i = 0; i < PROTOCOL_FDS_MAX; i++) {
        sent[i] = pair[0];
    }
    const unsigned before = open_count();
    for (unsigned many = 0; many <= PROTOCOL_FDS_MAX; many++) {
        for (unsigned room = 0; room <= PROTOCOL_FDS_MAX; room++) {
            SCHED_ASSERT(wire_send(pair[0], message, sizeof message, sent, many, 0) == 0);
            const ssize_t length = wire_receive(pair[1], message, sizeof message, got, room, &count, 0);
            SCHED_ASSERT(length == (many > room ? -EMSGSIZE : (ssize_t)sizeof message));
            SCHED_ASSERT(count == (many > room ? 0 : many));
            for (unsigned i = 0; i < count; i++) {
                SCHED_ASSERT((fcntl(got[i], F_GETFD) & FD_CLOEXEC) != 0);
            }
            wire_close_all(got, count);
            SCHED_ASSERT(open_count() == before);
        }
    }
    SCHED_ASSERT(wire_send(pair[0], message, sizeof message, sent, PROTOCOL_FDS_MAX + 1, 0) == -EINVAL);
    SCHED_ASSERT(wire_send(pair[0], message, sizeof message, sent, 1, 0) == 0);
    SCHED_ASSERT(wire_receive(pair[1], message, sizeof message, NULL, 0, NULL, 0) == -EMSGSIZE);
    SCHED_ASSERT(open_count() == before);
    wire_close_all(pair, 2);
}

static void a_message_that_is_too_long_is_told(void) {
    int pair[2], got[1];
    char text[64] = "", room[32];
    unsigned count;
    make_pair(pair);
    const unsigned before = open_count();
    SCHED_ASSERT(wire_send(pair[0], text, sizeof text, pair, 1, 0) == 0);
    SCHED_ASSERT(wire_receive(pair[1], room, sizeof room, got, 1, &count, 0) == -EMSGSIZE && count == 0);
    SCHED_ASSERT(open_count() == before);
    SCHED_ASSERT(wire_receive(pair[1], room, sizeof room, got, 1, &count, MSG_DONTWAIT) == -EAGAIN);
    wire_close(&pair[0]);
    SCHED_ASSERT(wire_receive(pair[1], room, sizeof room, got, 1, &count, 0) == 0);
    wire_close(&pair[1]);
}

static void an_end_refuses_descriptors_or_says_that_it_cannot(void) {
    int pair[2];
    make_pair(pair);
    const int refuses = wire_refuse_descriptors(pair[1]);
    SCHED_ASSERT(refuses == 0 || refuses == -ENOPROTOOPT);
    SCHED_ASSERT(wire_send(pair[0], "x", 1, pair, 1, 0) == (refuses == 0 ? -EPERM : 0));
    SCHED_ASSERT(wire_send(pair[0], "x", 1, NULL, 0, 0) == 0);
    SCHED_ASSERT(wire_send(pair[1], "x", 1, pair, 1, 0) == 0);
    wire_close_all(pair, 2);
}

static void strings_are_split_within_their_bytes(void) {
    static const struct {
        const char *text;
        size_t bytes;
        int count;
    } cases[] = {{"", 0, 0},        {"\0", 1, 1},         {"a\0", 2, 1},      {"a\0b\0", 4, 2},
                 {"a\0\0", 3, 2},   {"a", 1, -EINVAL},    {"a\0b", 3, -EINVAL}, {"a\0b\0c\0d\0", 8, -EINVAL}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *strings[3];
        const char *text = (const char *)guarded(cases[i].text, cases[i].bytes);
        SCHED_ASSERT(wire_strings(text, cases[i].bytes, strings, 3) == cases[i].count);
    }
}

static int in_a_child(const struct filter *filter, int (*attempt)(void)) {
    int status;
    const pid_t pid = fork();
    SCHED_ASSERT(pid >= 0);
    if (pid == 0) {
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || filter_install(filter) < 0) {
            _exit(255);
        }
        _exit(attempt());
    }
    SCHED_ASSERT(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) != 255);
    return WEXITSTATUS(status);
}

static int set_linger(void) {
    const struct linger linger = {.l_onoff = 1, .l_linger = 1};
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    return setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger) < 0 ? errno : 0;
}

static int set_others(void) {
    const int yes = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    const bool done = setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
                      setsockopt(fd, IPPROTO_TCP, SO_LINGER, "reno", 4) == 0; /* there that number is TCP_CONGESTION */
    return done ? 0 : errno;
}

static int ask_core_limit(void) {
    const struct rlimit wanted = {0, 0};
    struct rlimit before, after;
    if (getrlimit(RLIMIT_CORE, &before) < 0 || setrlimit(RLIMIT_CORE, &wanted) < 0 || getrlimit(RLIMIT_CORE, &after) < 0) {
        return errno;
    }
    return before.rlim_cur == after.rlim_cur && before.rlim_max == after.rlim_max ? 0 : 1;
}

static int set_other_limit(void) {
    const struct rlimit wanted = {64, 64};
    struct rlimit after;
    return setrlimit(RLIMIT_NOFILE, &wanted) == 0 && getrlimit(RLIMIT_NOFILE, &after) == 0 && after.rlim_max == 64 ? 0 : 1;
}

static int make_namespace(void) {
    return syscall(SYS_unshare, CLONE_NEWUSER) < 0 ? errno : 0;
}

/* No such descriptor, no such memory: the kernel would say so, had it been asked. */
static int flush_nothing(void) {
    return fsync(99) < 0 ? errno : 0;
}

static int map_flush_nothing(void) {
    return msync((void *)4096, 4096, MS_SYNC) < 0 ? errno : 0;
}

static int look_at_nothing(void) {
    return msync((void *)4096, 4096, MS_ASYNC) < 0 ? errno : 0;
}

static void the_filter(void) {
    for (unsigned bits = 0; bits < 4; bits++) {
        const struct filter filter = {.linger = (bits & 1) != 0, .ephemeral = (bits & 2) != 0};
        SCHED_ASSERT(in_a_child(&filter, set_linger) == (filter.linger ? 0 : EPERM));
        SCHED_ASSERT(in_a_child(&filter, set_others) == 0);
        SCHED_ASSERT(in_a_child(&filter, flush_nothing) == (filter.ephemeral ? 0 : EBADF));
        SCHED_ASSERT(in_a_child(&filter, map_flush_nothing) == (filter.ephemeral ? 0 : ENOMEM));
        SCHED_ASSERT(in_a_child(&filter, look_at_nothing) == ENOMEM);
        SCHED_ASSERT(in_a_child(&filter, ask_core_limit) == 0);
        SCHED_ASSERT(in_a_child(&filter, set_other_limit) == 0);
        SCHED_ASSERT(in_a_child(&filter, make_namespace) == EPERM);
    }
}

int main(void) {
    RUN(descriptors_arrive_or_are_closed);
    RUN(a_message_that_is_too_long_is_told);
    RUN(an_end_refuses_descriptors_or_says_that_it_cannot);
    RUN(strings_are_split_within_their_bytes);
    RUN(the_filter);
    return 0;
}
