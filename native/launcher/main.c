/* scheduler-launcher: two processes.
 *
 *   supervisor   what the service started. Decides how to isolate, opens the control groups, starts the launcher, waits for it, and
 *                removes groups and directories if the launcher could not do it itself. It holds no socket.
 *   launcher     the first process of a new pid namespace (launcher.c). Should it be killed, the kernel kills everything in that
 *                namespace, whatever a sandbox has done to its own death signal.
 *
 * The service's end of descriptor 3 closes when the service dies, however it dies: then the launcher ends all sandboxes, removes
 * its groups and exits. It ignores the terminal's signals, since the service decides when to stop.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "children.h"
#include "filesystem.h"
#include "launcher.h"
#include "starter.h"
#include "tempdir.h"
#include "wire.h"

static const char NETWORK_RANGE[] = "198.18.0.0/16"; /* set aside for measurements: nobody's, and routed by nobody */

enum { UID_MAX_ALLOWED = 2000000000 };

struct settings {
    struct options options;
    bool process_isolation;
    const char *cgroup_root;
    uint32_t service_pid; /* where a starter starts the launcher, not the service; else 0 */
};

/* ---- the command line ---- */

struct number_option {
    const char *name;
    size_t offset;
    uint32_t min, max;
};

static const struct number_option number_options[] = {
    {"--slots", offsetof(struct settings, options.slots), 1, PROTOCOL_SLOTS_MAX},
    {"--uid-base", offsetof(struct settings, options.uid_base), 1, UID_MAX_ALLOWED},
    {"--pids-max", offsetof(struct settings, options.pids_max), 8, 1U << 20},
    {"--shell-scratch-mb", offsetof(struct settings, options.shell_scratch_mb), 1, 1U << 20},
    {"--scratch-mb-max", offsetof(struct settings, options.scratch.mb_max), 0, INT32_MAX},
    {"--scratch-ahead", offsetof(struct settings, options.scratch.ahead), 0, 256},
    {"--service-pid", offsetof(struct settings, service_pid), 1, 1U << 22},
    {"--patience-ms", offsetof(struct settings, options.patience_ms), 100, 600000},
};

static void usage(const char *about, const char *value) {
    fprintf(stderr,
            "scheduler-launcher: %s: %s\n"
            "usage: scheduler-launcher [--slots N] [--uid-base N] [--pids-max N] [--shell-scratch-mb N] [--patience-ms N]\n"
            "       [--network-range A.B.C.D/N] [--network-servers A.B.C.D,...] [--network-allowed A.B.C.D/N,...]\n"
            "       [--isolation auto|process] [--cpu-per-memory proportional|weight_only] [--cgroup-root DIR] [--temp-root DIR]\n"
            "       [--scratch auto|encrypted|tmpfs] [--scratch-root DIR] [--scratch-mb-max N] [--scratch-ahead N]\n"
            "       [--code-root DIR] [--service-pid N]\n"
            "       with a SOCK_SEQPACKET socket as descriptor 3\n"
            "       scheduler-launcher --starter   with such a socket\n"
            "       scheduler-launcher --layout\n",
            about, value);
    exit(2);
}

static bool number_option(struct settings *settings, const char *name, const char *value) {
    for (unsigned i = 0; i < sizeof number_options / sizeof *number_options; i++) {
        const struct number_option *option = &number_options[i];
        if (strcmp(name, option->name) == 0) {
            char *end;
            errno = 0;
            const unsigned long long number = strtoull(value, &end, 10);
            if (errno != 0 || *end != '\0' || end == value || number < option->min || number > option->max) {
                char about[80];
                snprintf(about, sizeof about, "%s must be %u to %u, not", name, option->min, option->max);
                usage(about, value);
            }
            const uint32_t checked = (uint32_t)number;
            memcpy((char *)settings + option->offset, &checked, sizeof checked);
            return true;
        }
    }
    return false;
}

static bool scratch_mode(const char *value, uint32_t *mode) {
    static const char *const names[] = {[SCRATCH_TMPFS] = "tmpfs", [SCRATCH_AUTO] = "auto", [SCRATCH_ENCRYPTED] = "encrypted"};
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(value, names[i]) == 0) {
            *mode = i;
            return true;
        }
    }
    return false;
}

static const struct {
    const char *name;
    int (*parse)(struct network_options *options, const char *text);
    const char *must_be;
} network_options[] = {
    {"--network-range", network_parse_range, "must be ADDRESS/BITS with 16 to 18 bits, not"},
    {"--network-servers", network_parse_servers, "must be at most 3 IPv4 addresses separated by commas, not"},
    {"--network-allowed", network_parse_allowed, "must be at most 32 IPv4 ADDRESS/BITS separated by commas, not"},
};

static bool network_option(struct settings *settings, const char *name, const char *value) {
    for (unsigned i = 0; i < sizeof network_options / sizeof *network_options; i++) {
        if (strcmp(name, network_options[i].name) == 0) {
            if (network_options[i].parse(&settings->options.network, value) < 0) {
                char about[120];
                snprintf(about, sizeof about, "%s %s", name, network_options[i].must_be);
                usage(about, value);
            }
            return true;
        }
    }
    return false;
}

static void parse(struct settings *settings, int count, char **arguments) {
    for (int i = 1; i + 1 < count; i += 2) {
        const char *name = arguments[i], *value = arguments[i + 1];
        if (number_option(settings, name, value) || network_option(settings, name, value)) {
            continue;
        }
        if (strcmp(name, "--isolation") == 0 && (strcmp(value, "auto") == 0 || strcmp(value, "process") == 0)) {
            settings->process_isolation = strcmp(value, "process") == 0;
        } else if (strcmp(name, "--cpu-per-memory") == 0 &&
                   (strcmp(value, "proportional") == 0 || strcmp(value, "weight_only") == 0)) {
            settings->options.cpu_quota = strcmp(value, "proportional") == 0;
        } else if (strcmp(name, "--cgroup-root") == 0 && value[0] == '/') {
            settings->cgroup_root = value;
        } else if (strcmp(name, "--scratch") == 0 && scratch_mode(value, &settings->options.scratch.mode)) {
            continue;
        } else if (strcmp(name, "--scratch-root") == 0 && value[0] == '/') {
            settings->options.scratch.root = value;
        } else if (strcmp(name, "--code-root") == 0 && value[0] == '/') {
            settings->options.code_root = value;
        } else if (strcmp(name, "--temp-root") == 0 && value[0] == '/') {
            settings->options.temp_root = value;
        } else {
            usage(name, value);
        }
    }
    if (count % 2 == 0) {
        usage(arguments[count - 1], "a value or another option is missing");
    }
}

/* ---- the layout of messages, for the test that compares it with Python's ---- */

#define FIELD(type, field) {#type, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field)}

static const struct {
    const char *type, *field;
    size_t offset, bytes;
} layout[] = {
    FIELD(request, kind), FIELD(request, runtime), FIELD(request, token), FIELD(request, shell), FIELD(request, memory_mb),
    FIELD(request, ephemeral_storage_mb), FIELD(request, strings), FIELD(request, text_bytes), FIELD(request, flags),
    FIELD(request, words), FIELD(request, ports),
    FIELD(notice, kind), FIELD(notice, flags), FIELD(notice, token), FIELD(notice, shell), FIELD(notice, cpu_ns),
    FIELD(notice, memory_peak_bytes), FIELD(notice, cause), FIELD(notice, status), FIELD(notice, error), FIELD(notice, runtime),
    FIELD(notice, step), FIELD(notice, note),
};

#define NAMED(name) {#name, name}

static const struct {
    const char *name;
    int value;
} constants[] = {
    NAMED(PROTOCOL_VERSION), NAMED(PROTOCOL_TEXT_BYTES_MAX), NAMED(PROTOCOL_STRINGS_MAX), NAMED(PROTOCOL_RUNTIMES_MAX),
    NAMED(PROTOCOL_PORTS_MAX), NAMED(PROTOCOL_SLOTS_MAX), NAMED(REQUEST_RUNTIME), NAMED(REQUEST_SHELL), NAMED(REQUEST_SPECIALISE), NAMED(REQUEST_KILL),
    NAMED(REQUEST_REST), NAMED(REQUEST_PING), NAMED(REQUEST_LOADED), NAMED(REQUEST_SEAL), NAMED(REQUEST_FREEZE),
    NAMED(REQUEST_THAW), NAMED(FLAG_FREEZE), NAMED(NOTICE_READY), NAMED(NOTICE_REFUSED), NAMED(NOTICE_SHELL),
    NAMED(NOTICE_SHELL_FAILED), NAMED(NOTICE_SPECIALISED), NAMED(NOTICE_SPECIALISE_FAILED), NAMED(NOTICE_EXITED),
    NAMED(NOTICE_WARNING), NAMED(NOTICE_PONG), NAMED(NOTICE_NETWORK), NAMED(REQUEST_NETWORK), NAMED(REQUEST_OUTBOUND),
    NAMED(REQUEST_QUIET), NAMED(REQUEST_EXEC), NAMED(REQUEST_EXPECT),
    NAMED(CAUSE_EXIT), NAMED(CAUSE_SIGNAL),
    NAMED(CAUSE_OOM), NAMED(CAUSE_KILLED), NAMED(CAUSE_LAUNCH_FAILED), NAMED(ISOLATION_ROOT), NAMED(ISOLATION_USER),
    NAMED(ISOLATION_PROCESS), NAMED(FLAG_MEMORY), NAMED(FLAG_PIDS), NAMED(FLAG_CPU), NAMED(FLAG_CPU_TIME),
    NAMED(FLAG_SCRATCH),
};

static void print_layout(void) {
    for (unsigned i = 0; i < sizeof layout / sizeof *layout; i++) {
        printf("field %s %s %zu %zu\n", layout[i].type, layout[i].field, layout[i].offset, layout[i].bytes);
    }
    printf("size request %zu\nsize notice %zu\n", sizeof(struct request), sizeof(struct notice));
    for (unsigned i = 0; i < sizeof constants / sizeof *constants; i++) {
        printf("constant %s %d\n", constants[i].name, constants[i].value);
    }
}

/* ---- starting ---- */

static void refuse(int error, const char *step, const char *hint) {
    struct notice notice = {.kind = NOTICE_REFUSED, .error = error};
    wire_text(notice.step, sizeof notice.step, step);
    wire_text(notice.note, sizeof notice.note, hint);
    (void)wire_send(LAUNCHER_FD_SERVICE, &notice, sizeof notice, NULL, 0, 0);
    exit(1);
}

static void ignore_terminal(void) {
    const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGTTIN, SIGTTOU, SIGPIPE, SIGUSR1, SIGUSR2};
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    for (unsigned i = 0; i < sizeof ignored / sizeof *ignored; i++) {
        sigaction(ignored[i], &ignore, NULL);
    }
    struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &by_default, NULL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    (void)setsid(); /* fails only when it is one already */
}

static int write_text(const char *path, const char *text) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    const int error = write(fd, text, strlen(text)) < 0 ? -errno : 0;
    close(fd);
    return error;
}

static void own_user_namespace(void) {
    char uid_map[32], gid_map[32];
    snprintf(uid_map, sizeof uid_map, "0 %u 1", (unsigned)geteuid());
    snprintf(gid_map, sizeof gid_map, "0 %u 1", (unsigned)getegid());
    if (unshare(CLONE_NEWUSER) < 0) {
        refuse(errno, "user namespace",
               "run as root; or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, "
               "kernel.apparmor_restrict_unprivileged_userns); or accept less with --isolation=process");
    }
    int error = write_text("/proc/self/setgroups", "deny");
    error = error == -ENOENT ? 0 : error;
    if (error == 0) {
        error = write_text("/proc/self/uid_map", uid_map);
    }
    if (error == 0) {
        error = write_text("/proc/self/gid_map", gid_map);
    }
    if (error < 0) {
        refuse(-error, "user namespace map", "this machine restricts user namespaces; run as root or with --isolation=process");
    }
}

/* Who started the service may have keys in its session, which everything below would possess too. */
static void own_keyring(void) {
    enum { JOIN_SESSION_KEYRING = 1 };
    (void)syscall(SYS_keyctl, JOIN_SESSION_KEYRING, NULL); /* fails only where the kernel has no keys */
}

/* Decides once what the whole run does. With namespaces: this process is afterwards in a mount namespace of its own, and its next
 * child is the first of a pid namespace. */
static void isolate(struct settings *settings) {
    settings->options.change_uid = geteuid() == 0;
    if (settings->process_isolation) {
        settings->options.isolation = ISOLATION_PROCESS;
        return;
    }
    settings->options.isolation = ISOLATION_ROOT;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0) {
        settings->options.isolation = ISOLATION_USER;
        settings->options.change_uid = false;
        own_user_namespace();
        if (unshare(CLONE_NEWNS) < 0) {
            refuse(errno, "mount namespace", "run as root or with --isolation=process");
        }
    }
    if (unshare(CLONE_NEWPID) < 0) {
        refuse(errno, "pid namespace", "run as root or with --isolation=process");
    }
    const int error = fs_make_slave();
    if (error < 0) {
        refuse(-error, "mounts of its own", "needs the mount interface of Linux 5.12 (mount_setattr)");
    }
}

/* As many as all slots need, or as many as may be; then there are fewer slots. */
static void raise_descriptors(struct options *options) {
    enum { A_SLOT = 3, OTHERS = 256 };
    const rlim_t needed = (rlim_t)options->slots * A_SLOT + OTHERS;
    struct rlimit limit, more;
    options->slots_wanted = options->slots;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return;
    }
    limit.rlim_cur = limit.rlim_max;
    more = limit;
    more.rlim_cur = more.rlim_max = needed;
    if (limit.rlim_max >= needed || setrlimit(RLIMIT_NOFILE, &more) < 0) {
        setrlimit(RLIMIT_NOFILE, &limit);
        const rlim_t room = limit.rlim_max > OTHERS ? (limit.rlim_max - OTHERS) / A_SLOT : 0;
        options->slots = room >= options->slots ? options->slots : room < 1 ? 1 : (uint32_t)room;
    }
}

static void clean(struct settings *settings, struct cgroups *groups) {
    cgroups_close(groups);
    if (settings->options.isolation == ISOLATION_PROCESS) {
        tempdirs_close(settings->options.temp_root, groups->name);
    }
}

static int run_launcher(struct settings *settings, struct cgroups *groups, const int *supervisor) {
    close(supervisor[1]);
    settings->options.supervisor = supervisor[0];
    const int error = launcher_run(&settings->options, groups);
    if (error < 0) {
        refuse(-error, "start", "");
    }
    clean(settings, groups);
    return 0;
}

static int supervise(struct settings *settings, struct cgroups *groups, pid_t launcher, const int *supervisor) {
    int status = 0;
    close(supervisor[0]);
    close(LAUNCHER_FD_SERVICE); /* so that its end tells of the launcher's death */
    if (settings->options.isolation == ISOLATION_PROCESS) {
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1); /* no pid namespace ends what a killed launcher leaves */
    }
    /* Its end of the pipe closes before the kernel ends what is in its namespace, and waits for those that are frozen. */
    struct pollfd end = {.fd = supervisor[1]};
    while (poll(&end, 1, -1) < 0 && errno == EINTR) {
    }
    cgroups_thaw(groups);
    while (waitpid(launcher, &status, 0) < 0 && errno == EINTR) {
    }
    children_end();
    clean(settings, groups);
    network_restore();
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

int main(int count, char **arguments) {
    struct settings settings = {
        .options = {.slots = 1000, .uid_base = 300000, .pids_max = 1024, .shell_scratch_mb = 512, .patience_ms = 20000, .cpu_quota = true,
                    .scratch = {.ahead = 4}, .temp_root = "/tmp"}};
    struct cgroups groups;
    int supervisor[2];
    if (count == 2 && strcmp(arguments[1], "--layout") == 0) {
        print_layout();
        return 0;
    }
    (void)network_parse_range(&settings.options.network, NETWORK_RANGE);
    const bool starter = count == 2 && strcmp(arguments[1], "--starter") == 0;
    if (!starter) {
        parse(&settings, count, arguments);
    }
    if (fcntl(LAUNCHER_FD_SERVICE, F_GETFD) < 0) {
        usage("descriptor 3", "is not open");
    }
    fcntl(LAUNCHER_FD_SERVICE, F_SETFD, FD_CLOEXEC);
    (void)syscall(SYS_close_range, LAUNCHER_FD_SERVICE + 1, ~0U, 0);
    ignore_terminal();
    (void)clearenv();
    own_keyring();
    if (starter) {
        return starter_run();
    }
    raise_descriptors(&settings.options);
    network_restore();
    isolate(&settings);
    const int supervised[] = {getppid(), getpid(), (int)settings.service_pid};
    cgroups_open(&groups, settings.cgroup_root, supervised, settings.service_pid == 0 ? 2 : 3);
    if (settings.options.isolation == ISOLATION_PROCESS) {
        const int error = tempdirs_open(settings.options.temp_root, groups.name);
        if (error < 0) {
            cgroups_close(&groups);
            refuse(-error, "directory for temporary files", settings.options.temp_root);
        }
    }
    const pid_t launcher = pipe2(supervisor, O_CLOEXEC) < 0 ? -1 : fork();
    if (launcher < 0) {
        const int error = errno;
        clean(&settings, &groups);
        refuse(error, "launcher process", "");
    }
    return launcher == 0 ? run_launcher(&settings, &groups, supervisor) : supervise(&settings, &groups, launcher, supervisor);
}
