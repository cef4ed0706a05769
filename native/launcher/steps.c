#include "steps.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filesystem.h"
#include "filter.h"
#include "network.h"
#include "wire.h"

/* Which isolations a step belongs to. */
enum {
    AS_ROOT = 1 << ISOLATION_ROOT,
    AS_USER = 1 << ISOLATION_USER,
    AS_PROCESS = 1 << ISOLATION_PROCESS,
    NAMESPACED = AS_ROOT | AS_USER,
    ALWAYS = AS_ROOT | AS_USER | AS_PROCESS
};

struct step {
    const char *name;
    int (*run)(struct newborn *newborn); /* 0 or -errno */
    unsigned isolations;
};

enum {
    INSIDE_UID = 1000,
    OPEN_FILES_MAX = 1024,
    LOCKED_BYTES_MAX = 64 << 10,
    SIGNALS_MAX = 4096,
    DATA_SLACK_MB = 64,
    LISTENERS_BACKLOG = 64,
    LAST_CAPABILITY_GUESS = 63
};

static int outcome(long value) {
    return value < 0 ? -errno : 0;
}

static int write_text(const char *path, const char *text) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    const int error = outcome(write(fd, text, strlen(text)));
    close(fd);
    return error;
}

/* ---- stage 1 ---- */

static int die_with_launcher(struct newborn *newborn) {
    (void)newborn;
    return outcome(prctl(PR_SET_PDEATHSIG, SIGKILL));
}

/* Moves the received descriptors to their places and closes all others. */
static int descriptors(struct newborn *newborn) {
    enum { ABOVE = 32 };
    int *const moved[] = {&newborn->channel, &newborn->output, &newborn->progress, &newborn->control, &newborn->init};
    for (unsigned i = 0; i < sizeof moved / sizeof *moved; i++) {
        if (*moved[i] < 0) {
            continue; /* init, where there is none */
        }
        const int high = fcntl(*moved[i], F_DUPFD_CLOEXEC, ABOVE);
        if (high < 0) {
            return -errno;
        }
        *moved[i] = high;
    }
    for (unsigned i = 0; i < newborn->groups_count; i++) {
        const int high = fcntl(newborn->groups[i], F_DUPFD_CLOEXEC, ABOVE);
        if (high < 0) {
            return -errno;
        }
        newborn->groups[i] = high;
    }
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (null < 0) {
        return -errno;
    }
    if (dup2(newborn->output, 1) < 0 || dup2(newborn->output, 2) < 0 || dup2(newborn->channel, SANDBOX_FD_CHANNEL) < 0 ||
        dup2(newborn->progress, SANDBOX_FD_PROGRESS) < 0 ||
        dup3(newborn->control, SANDBOX_FD_CONTROL, O_CLOEXEC) < 0) {
        return -errno;
    }
    if (null != 0 && dup2(null, 0) < 0) {
        return -errno;
    }
    newborn->control = SANDBOX_FD_CONTROL;
    int kept = SANDBOX_FD_CONTROL + 1;
    for (unsigned i = 0; i < newborn->groups_count; i++) {
        if (dup3(newborn->groups[i], kept, O_CLOEXEC) < 0) {
            return -errno;
        }
        newborn->groups[i] = kept++;
    }
    if (newborn->init >= 0) {
        if (dup3(newborn->init, kept, O_CLOEXEC) < 0) {
            return -errno;
        }
        newborn->init = kept++;
    }
    return outcome(syscall(SYS_close_range, kept, ~0U, 0));
}

static int enter_groups(struct newborn *newborn) {
    for (unsigned i = 0; i < newborn->groups_count; i++) {
        if (write(newborn->groups[i], "0", 1) < 0) {
            return -errno;
        }
        wire_close(&newborn->groups[i]);
    }
    newborn->groups_count = 0;
    return 0;
}

/* Only now: its root is the group the process is in at this moment. */
static int group_namespace(struct newborn *newborn) {
    (void)newborn;
    return outcome(unshare(CLONE_NEWCGROUP));
}

/* The keys of who started the service, and of sandboxes before, are in the sessions of theirs. The filter refuses all use of keys as
 * well; this holds for what the kernel looks up by itself. A user's quota of keys may be used up: then it is the launcher's session,
 * which holds none. */
static int session_keyring(struct newborn *newborn) {
    (void)newborn;
    enum { JOIN_SESSION_KEYRING = 1 };
    return syscall(SYS_keyctl, JOIN_SESSION_KEYRING, NULL) < 0 && errno != EDQUOT && errno != ENOSYS ? -errno : 0;
}

static int open_signals(struct newborn *newborn) {
    (void)newborn;
    sigset_t none;
    sigemptyset(&none);
    return outcome(sigprocmask(SIG_SETMASK, &none, NULL));
}

static int file_mode_mask(struct newborn *newborn) {
    (void)newborn;
    umask(0022);
    return 0;
}

static int host_name(struct newborn *newborn) {
    (void)newborn;
    return outcome(sethostname("sandbox", 7));
}

static int loopback(struct newborn *newborn) {
    (void)newborn;
    struct ifreq request;
    memset(&request, 0, sizeof request);
    memcpy(request.ifr_name, "lo", 3);
    request.ifr_flags = IFF_UP | IFF_RUNNING;
    const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    const int error = outcome(ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
    return error;
}

static int fresh_proc(struct newborn *newborn) {
    (void)newborn;
    return fs_fresh_proc();
}

/* The worker's pid is drawn: it must not be that of the process whose image it may be restored from, since libraries tell by
 * the pid that they are a copy, and draw new keys. A kernel without the knob gives it 2. */
static int pid_at_random(struct newborn *newborn) {
    (void)newborn;
    enum { LEAST = 2, CHOICE = 30000 };
    uint32_t drawn;
    char text[16];
    if (getrandom(&drawn, sizeof drawn, 0) != (ssize_t)sizeof drawn) {
        return -EIO;
    }
    snprintf(text, sizeof text, "%u", LEAST + drawn % CHOICE);
    const int error = write_text("/proc/sys/kernel/ns_last_pid", text);
    return error == -ENOENT ? 0 : error;
}

/* If the machine itself runs short, a sandbox goes before anything else does. */
static int first_to_go(struct newborn *newborn) {
    (void)newborn;
    return write_text("/proc/self/oom_score_adj", "500");
}

static int masked_proc(struct newborn *newborn) {
    return fs_mask_proc(newborn->order.isolation == ISOLATION_ROOT);
}

static int shared_memory(struct newborn *newborn) {
    (void)newborn;
    return fs_mount_shm();
}

static int scratch(struct newborn *newborn) {
    const uint32_t size_mb = newborn->order.ephemeral_storage_mb;
    return size_mb == 0 ? 0 : fs_mount_scratch(size_mb); /* 0: it gets one when it is specialised */
}

/* Lowers a limit, never raises it: raising needs a privilege that we may lack. */
static int lower(__rlimit_resource_t resource, rlim_t value) {
    struct rlimit now;
    if (getrlimit(resource, &now) < 0) {
        return -errno;
    }
    const rlim_t hard = now.rlim_max < value ? now.rlim_max : value;
    const struct rlimit limit = {.rlim_cur = hard, .rlim_max = hard};
    return outcome(setrlimit(resource, &limit));
}

static int resource_limits(struct newborn *newborn) {
    (void)newborn;
    const struct {
        __rlimit_resource_t resource;
        rlim_t value;
    } limits[] = {
        {RLIMIT_CORE, 1}, /* filter.c says why not 0 */
        {RLIMIT_SIGPENDING, SIGNALS_MAX}, /* of a normal user all sandboxes have one */
        {RLIMIT_NOFILE, OPEN_FILES_MAX},
        {RLIMIT_MEMLOCK, LOCKED_BYTES_MAX},
        {RLIMIT_MSGQUEUE, LOCKED_BYTES_MAX},
        {RLIMIT_RTPRIO, 0},
        {RLIMIT_NICE, 0},
    };
    for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++) {
        const int error = lower(limits[i].resource, limits[i].value);
        if (error < 0) {
            return error;
        }
    }
    return 0;
}

/* Counts per uid and user namespace, so it comes after those are the sandbox's own: a second net under the pids group. With the
 * user's own uid and no namespace it would count everything the user runs. */
static int process_limit(struct newborn *newborn) {
    const bool shared = newborn->order.isolation == ISOLATION_PROCESS && newborn->order.uid == 0;
    return shared ? 0 : lower(RLIMIT_NPROC, newborn->order.pids_max);
}

/* So that the sandbox may open /dev/stdout and /dev/stderr, which lead to it. */
static int output_owner(struct newborn *newborn) {
    const uint32_t uid = newborn->order.uid;
    return uid == 0 ? 0 : outcome(fchown(1, uid, uid));
}

static int working_directory(struct newborn *newborn) {
    return outcome(chdir(newborn->order.isolation == ISOLATION_PROCESS ? newborn->order.temp_dir : "/"));
}

static int no_groups(struct newborn *newborn) {
    return newborn->order.uid == 0 ? 0 : outcome(setgroups(0, NULL));
}

static int bounding_set(struct newborn *newborn) {
    if (newborn->order.isolation == ISOLATION_PROCESS && geteuid() != 0) {
        return 0; /* never had any */
    }
    for (int capability = 0; capability <= LAST_CAPABILITY_GUESS; capability++) {
        const int there = prctl(PR_CAPBSET_READ, capability);
        if (there < 0) {
            break; /* the kernel knows no more */
        }
        if (there > 0 && prctl(PR_CAPBSET_DROP, capability) < 0) {
            return -errno;
        }
    }
    return outcome(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP_LOCKED |
                                                SECBIT_KEEP_CAPS_LOCKED | SECBIT_NO_CAP_AMBIENT_RAISE |
                                                SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED));
}

static int no_new_privileges(struct newborn *newborn) {
    (void)newborn;
    return outcome(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

/* Last of the steps that hold privileges for namespaces and keys. Both ends of a channel are made alike, so whether this one could
 * refuse descriptors tells whether the service's does. */
static int system_call_filter(struct newborn *newborn) {
    const struct filter filter = {.linger = wire_refuse_descriptors(SANDBOX_FD_CHANNEL) == 0,
                                  .ephemeral = newborn->order.isolation != ISOLATION_PROCESS};
    return filter_install(&filter);
}

static const struct step birth[] = {
    {"die with the launcher", die_with_launcher, ALWAYS},
    {"descriptors", descriptors, ALWAYS},
    {"enter control groups", enter_groups, ALWAYS},
    {"control group namespace", group_namespace, NAMESPACED},
    {"session keyring", session_keyring, ALWAYS},
    {"signal mask", open_signals, ALWAYS},
    {"file mode mask", file_mode_mask, ALWAYS},
    {"host name", host_name, NAMESPACED},
    {"loopback", loopback, NAMESPACED},
    {"fresh /proc", fresh_proc, NAMESPACED},
    {"pid at random", pid_at_random, NAMESPACED},
    {"out-of-memory order", first_to_go, ALWAYS},
    {"masked /proc", masked_proc, NAMESPACED},
    {"/dev/shm", shared_memory, NAMESPACED},
    {"/tmp", scratch, NAMESPACED},
    {"resource limits", resource_limits, ALWAYS},
    {"owner of the output pipe", output_owner, ALWAYS},
    {"working directory", working_directory, ALWAYS},
    {"supplementary groups", no_groups, AS_ROOT | AS_PROCESS},
    {"capability bounding set", bounding_set, AS_ROOT | AS_PROCESS},
    {"no new privileges", no_new_privileges, AS_ROOT | AS_PROCESS},
    {"system call filter", system_call_filter, AS_ROOT | AS_PROCESS}, /* here it costs no call's time */
};

/* ---- stage 2 ---- */

static int code(struct newborn *newborn) {
    const int error = fs_attach(newborn->mounts[0], "/var/task");
    wire_close(&newborn->mounts[0]);
    return error;
}

static int layers(struct newborn *newborn) {
    const int error = newborn->mounts[1] < 0 ? 0 : fs_attach(newborn->mounts[1], "/opt");
    wire_close(&newborn->mounts[1]);
    return error;
}

/* One that the launcher has made, where the shell has none yet; or the shell's own, in the right size. */
static int scratch_storage(struct newborn *newborn) {
    if (newborn->scratch >= 0) {
        const int error = fs_attach(newborn->scratch, "/tmp");
        wire_close(&newborn->scratch);
        return error;
    }
    return newborn->special.ephemeral_storage_mb == newborn->order.ephemeral_storage_mb
               ? 0
               : fs_resize_scratch(newborn->special.ephemeral_storage_mb);
}

/* Where no memory group can be had: bounds each process alone, a poor second. */
static int data_limit(struct newborn *newborn) {
    const rlim_t megabytes = (rlim_t)newborn->special.memory_mb + DATA_SLACK_MB;
    return newborn->special.limit_data == 0 ? 0 : lower(RLIMIT_DATA, megabytes << 20);
}

static int work_in_task(struct newborn *newborn) {
    (void)newborn;
    return outcome(chdir("/var/task"));
}

/* What counts for the user as a whole is bounded for each sandbox, or one could take it all from the others. */
static const struct {
    const char *path, *value;
} namespace_limits[] = {
    {"/proc/sys/user/max_user_namespaces", "0"}, /* this one is the last: no privileges inside a further one */
    {"/proc/sys/user/max_inotify_instances", "16"},
    {"/proc/sys/user/max_inotify_watches", "4096"},
};

/* Leaves the namespace whose root the launcher is: what follows drops what this gave. */
static int user_namespace(struct newborn *newborn) {
    (void)newborn;
    char map[32];
    const int pairs = snprintf(map, sizeof map, "%u 0 1", INSIDE_UID);
    if (pairs < 0 || unshare(CLONE_NEWUSER) < 0) {
        return -errno;
    }
    int error = write_text("/proc/self/setgroups", "deny");
    if (error == 0) {
        error = write_text("/proc/self/gid_map", map);
    }
    if (error == 0) {
        error = write_text("/proc/self/uid_map", map);
    }
    for (unsigned i = 0; i < sizeof namespace_limits / sizeof *namespace_limits && error == 0; i++) {
        error = write_text(namespace_limits[i].path, namespace_limits[i].value);
        error = error == -ENOENT ? 0 : error; /* a kernel without that knob */
    }
    return error;
}

/* By number: the C library's wrappers signal other threads, of which there are none. */
static int identity(struct newborn *newborn) {
    const uint32_t id = newborn->order.uid;
    if (id == 0) {
        return 0;
    }
    if (syscall(SYS_setresgid, id, id, id) < 0 || syscall(SYS_setresuid, id, id, id) < 0) {
        return -errno;
    }
    uid_t real, effective, saved;
    if (getresuid(&real, &effective, &saved) < 0 || real != id || effective != id || saved != id) {
        return -EPERM;
    }
    return 0;
}

static int no_capabilities(struct newborn *newborn) {
    (void)newborn;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2];
    memset(none, 0, sizeof none);
    if (syscall(SYS_capset, &header, none) < 0) {
        return -errno;
    }
    if (syscall(SYS_capget, &header, none) < 0) {
        return -errno;
    }
    const uint32_t left = none[0].effective | none[0].permitted | none[0].inheritable | none[1].effective | none[1].permitted |
                          none[1].inheritable;
    return left == 0 ? 0 : -EPERM;
}

static int not_traceable(struct newborn *newborn) {
    (void)newborn;
    return outcome(prctl(PR_SET_DUMPABLE, 0));
}

/* The kernel forgets the death signal when a process changes identity. If the launcher died before it was set again, the
 * control socket has ended. An order that waits there shows that it lives: the worker may have been told of its function
 * before the first process, which runs beside it, comes here. */
static int launcher_lives(struct newborn *newborn) {
    char byte;
    const ssize_t got = recv(newborn->control, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got > 0 || (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) ? 0 : -EPIPE;
}

/* To its place, now that the mounts are gone: one of them may have stood there. */
static int image_place(struct newborn *newborn) {
    if (newborn->image < 0 || newborn->image == SANDBOX_FD_IMAGE) {
        return 0;
    }
    const int error = outcome(dup3(newborn->image, SANDBOX_FD_IMAGE, O_CLOEXEC));
    wire_close(&newborn->image);
    newborn->image = SANDBOX_FD_IMAGE;
    return error;
}

static int network(struct newborn *newborn) {
    const struct network_lease lease = {.address = newborn->special.address, .link = newborn->special.link};
    if (newborn->door < 0) {
        return 0;
    }
    const int error = network_attach(newborn->door, &lease);
    newborn->door = -1;
    return error;
}

/* At the sandbox's own loopback, before anything else can be there: who connects is in the sandbox. A bare process has the host's,
 * where any port may be taken, so it gets one that is free. */
static int listen_at(uint16_t port) {
    const int yes = 1;
    const struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -errno;
    }
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        bind(fd, (const struct sockaddr *)&address, sizeof address) < 0 || listen(fd, LISTENERS_BACKLOG) < 0) {
        const int error = -errno;
        wire_close(&fd);
        return error;
    }
    return fd;
}

static int listeners(struct newborn *newborn) {
    const bool own = newborn->order.isolation != ISOLATION_PROCESS;
    for (unsigned i = 0; i < PROTOCOL_PORTS_MAX && newborn->special.ports[i] != 0; i++) {
        const int fd = listen_at(own ? newborn->special.ports[i] : 0);
        if (fd < 0) {
            return fd;
        }
        newborn->listeners[newborn->listeners_count++] = fd;
    }
    return 0;
}

static const struct step specialise[] = {
    {"network", network, AS_ROOT},
    {"listeners", listeners, ALWAYS},
    {"code at /var/task", code, NAMESPACED},
    {"layers at /opt", layers, NAMESPACED},
    {"/tmp", scratch_storage, NAMESPACED},
    {"image of an initialised process", image_place, ALWAYS}, /* after all mounts */
    {"working directory", work_in_task, NAMESPACED},
    {"data limit", data_limit, ALWAYS},
    {"user namespace", user_namespace, AS_USER},
    {"capability bounding set", bounding_set, AS_USER}, /* a new user namespace fills it again */
    {"process limit", process_limit, ALWAYS},
    {"unprivileged uid", identity, AS_ROOT | AS_PROCESS},
    {"no capabilities", no_capabilities, ALWAYS},
    {"no new privileges", no_new_privileges, AS_USER},
    {"system call filter", system_call_filter, AS_USER}, /* after its user namespace was made */
    {"not traceable", not_traceable, ALWAYS},
    {"die with the launcher", die_with_launcher, ALWAYS},
    {"launcher alive", launcher_lives, ALWAYS},
};

/* ---- running them ---- */

static int run_steps(const struct step *steps, unsigned count, struct newborn *newborn, const char **failed) {
    for (unsigned i = 0; i < count; i++) {
        if ((steps[i].isolations & (1U << newborn->order.isolation)) == 0) {
            continue;
        }
        *failed = steps[i].name;
        const int error = steps[i].run(newborn);
        if (error < 0) {
            return error;
        }
    }
    *failed = "";
    return 0;
}

/* What was made for others goes along, and is no longer here. */
static void answer(struct newborn *newborn, uint32_t stage, int error, const char *step) {
    struct stage_answer message = {.stage = stage, .error = -error};
    wire_text(message.step, sizeof message.step, step);
    const unsigned count = error < 0 ? 0 : newborn->listeners_count;
    if (wire_send(newborn->control, &message, sizeof message, newborn->listeners, count, 0) < 0 || error < 0) {
        _exit(126); /* told or not, this process must not go on */
    }
    wire_close_all(newborn->listeners, newborn->listeners_count);
    newborn->listeners_count = 0;
}

static void await_order(struct newborn *newborn) {
    enum { MOUNTS_MAX = 2, ORDER_FDS_MAX = MOUNTS_MAX + 3 };
    struct specialise_order *const order = &newborn->special;
    int fds[ORDER_FDS_MAX];
    unsigned count;
    const ssize_t got = wire_receive(newborn->control, order, sizeof *order, fds, ORDER_FDS_MAX, &count, 0);
    const unsigned doors = order->address != 0 ? 1 : 0;
    if (got != (ssize_t)sizeof *order || order->mounts > MOUNTS_MAX || order->image > 1 || order->scratch > 1 ||
        count != order->mounts + order->image + doors + order->scratch) {
        _exit(0); /* the launcher has let go: it needs this shell no more */
    }
    newborn->mounts[0] = order->mounts > 0 ? fds[0] : -1;
    newborn->mounts[1] = order->mounts > 1 ? fds[1] : -1;
    newborn->image = order->image == 1 ? fds[order->mounts] : -1;
    newborn->door = doors == 1 ? fds[order->mounts + order->image] : -1;
    newborn->scratch = order->scratch == 1 ? fds[count - 1] : -1;
}

/* What a specialised worker has no more, and where it stands; as root only (prestart.h). */
static const struct step stranger_steps[] = {
    {"process limit", process_limit, AS_ROOT},
    {"unprivileged uid", identity, AS_ROOT},
    {"no capabilities", no_capabilities, ALWAYS},
    {"die with the launcher", die_with_launcher, ALWAYS}, /* with the worker, whose child this is */
};

void steps_leave_privileges(struct newborn *newborn) {
    const char *failed = "";
    if (newborn->order.isolation != ISOLATION_ROOT ||
        run_steps(stranger_steps, sizeof stranger_steps / sizeof *stranger_steps, newborn, &failed) < 0) {
        _exit(126);
    }
}

uint64_t steps_clone_flags(uint32_t isolation) {
    return isolation == ISOLATION_PROCESS ? 0 : CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET;
}

/* ---- process 1 ---- */

/* What is left of a privilege after the worker was born. Nothing here needs one, and nothing here is the stranger's, but the
 * stranger is near. */
static const struct step init_steps[] = {
    {"capability bounding set", bounding_set, AS_USER},
    {"no new privileges", no_new_privileges, AS_USER},
    {"unprivileged uid", identity, AS_ROOT},
    {"no capabilities", no_capabilities, ALWAYS},
    {"die with the launcher", die_with_launcher, ALWAYS}, /* and "not traceable" in init.c: the memory is not its own yet */
    {"launcher alive", launcher_lives, ALWAYS},
};

/* Only the control socket stays: the others must end when the worker does. */
static int init_descriptors(struct newborn *newborn) {
    enum { ON_EXEC = 4 /* CLOSE_RANGE_CLOEXEC */ };
    if (syscall(SYS_close_range, 0, SANDBOX_FD_CONTROL - 1, 0) < 0 ||
        syscall(SYS_close_range, newborn->control + 1, ~0U, ON_EXEC) < 0) {
        return -errno;
    }
    return outcome(fcntl(newborn->control, F_SETFD, 0));
}

_Noreturn static void be_init(struct newborn *newborn, pid_t worker) {
    char name[] = "init", pid[16];
    char *const arguments[] = {name, pid, NULL}, *const environment[] = {NULL};
    const char *failed = "descriptors";
    int error = init_descriptors(newborn);
    if (error == 0) {
        error = run_steps(init_steps, sizeof init_steps / sizeof *init_steps, newborn, &failed);
    }
    if (error == 0) {
        snprintf(pid, sizeof pid, "%d", worker);
        failed = "program of process 1";
        error = outcome(syscall(SYS_execveat, newborn->init, "", arguments, environment, AT_EMPTY_PATH));
    }
    answer(newborn, 1, error, failed);
    _exit(126);
}

void steps_prepare(void) {
    if (geteuid() == 0) { /* what is left to drop is dropped, and checked, at each birth */
        for (int capability = 0; capability <= LAST_CAPABILITY_GUESS && prctl(PR_CAPBSET_DROP, capability) == 0; capability++) {
        }
    }
}

void steps_birth(struct newborn *newborn) {
    const char *failed = "";
    int error = run_steps(birth, sizeof birth / sizeof *birth, newborn, &failed);
    if (error == 0 && newborn->order.isolation != ISOLATION_PROCESS) {
        const pid_t worker = fork();
        failed = "fork";
        error = worker < 0 ? -errno : 0;
        if (worker > 0) {
            be_init(newborn, worker);
        }
        wire_close(&newborn->init);
    }
    if (error == 0) {
        failed = "session";
        error = outcome(setsid());
    }
    answer(newborn, 1, error, failed);
}

void steps_specialise(struct newborn *newborn) {
    const char *failed = "";
    await_order(newborn);
    const int error = run_steps(specialise, sizeof specialise / sizeof *specialise, newborn, &failed);
    answer(newborn, 2, error, failed);
    wire_close(&newborn->control);
}
