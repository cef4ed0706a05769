/* scheduler.runtime._sandbox: the fork server's loop. Python calls serve() once; it returns in sandboxes only.
 *
 * The zygote never runs a stranger's code and has one thread, so a raw clone is as safe as fork(2) here, given that the C library's
 * cached thread id is set right (CLONE_CHILD_SETTID at the address the kernel knows) and Python's own fork hooks run.
 * Children are the launcher's (CLONE_PARENT): it reaps them, and their death signal is tied to its life.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "protocol.h"
#include "steps.h"
#include "wire.h"

enum { FIXED_FDS = 4 };

/* linux/sched.h and sched.h cannot be had together everywhere; this is the kernel's layout. */
struct clone_arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* The child's pid, 0 in the child, or -errno. */
static pid_t clone_child(const struct spawn_order *order, int *cgroup, int *pidfd) {
    int *tid_address = NULL;
    if (prctl(PR_GET_TID_ADDRESS, &tid_address) < 0) {
        return -errno;
    }
    int descriptor = -1;
    struct clone_arguments arguments;
    memset(&arguments, 0, sizeof arguments);
    arguments.flags = steps_clone_flags(order->isolation) | CLONE_PARENT | CLONE_PIDFD | CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
    arguments.pidfd = (uint64_t)(uintptr_t)&descriptor;
    arguments.child_tid = (uint64_t)(uintptr_t)tid_address;
    if (cgroup != NULL) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)*cgroup;
    }
    const long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid < 0) {
        return -errno;
    }
    *pidfd = descriptor;
    return (pid_t)pid;
}

static void tell(int fd, const struct spawn_order *order, pid_t pid, int pidfd) {
    struct spawn_answer answer = {.shell = order->shell, .pid = pid < 0 ? 0 : pid, .error = pid < 0 ? -pid : 0};
    wire_text(answer.step, sizeof answer.step, pid < 0 ? "clone" : "");
    if (wire_send(fd, &answer, sizeof answer, &pidfd, pid < 0 ? 0 : 1, 0) < 0) {
        _exit(0); /* no launcher, no purpose */
    }
}

/* One order: true in the child. */
static bool spawn(int fd, const struct spawn_order *order, int *fds, unsigned count) {
    int pidfd = -1;
    const bool into = (order->flags & SPAWN_INTO_CGROUP) != 0;
    PyOS_BeforeFork();
    const pid_t pid = clone_child(order, into ? &fds[count - 1] : NULL, &pidfd);
    if (pid != 0) {
        PyOS_AfterFork_Parent();
        tell(fd, order, pid, pidfd);
        wire_close(&pidfd);
        return false;
    }
    struct newborn newborn;
    memset(&newborn, 0, sizeof newborn);
    newborn.order = *order;
    newborn.channel = fds[0];
    newborn.output = fds[1];
    newborn.progress = fds[2];
    newborn.control = fds[3];
    for (unsigned i = FIXED_FDS; i < count - (into ? 1 : 0); i++) {
        newborn.groups[newborn.groups_count++] = fds[i];
    }
    steps_birth(&newborn);
    PyOS_AfterFork_Child();
    steps_specialise(&newborn);
    return true;
}

static PyObject *serve(PyObject *self, PyObject *arguments) {
    (void)self;
    int fd;
    if (!PyArg_ParseTuple(arguments, "i:serve", &fd)) {
        return NULL;
    }
    const struct spawn_answer ready = {.pid = getpid()};
    if (wire_send(fd, &ready, sizeof ready, NULL, 0, 0) < 0) {
        _exit(0);
    }
    for (;;) {
        struct spawn_order order;
        int fds[PROTOCOL_FDS_MAX];
        unsigned count;
        const ssize_t got = wire_receive(fd, &order, sizeof order, fds, PROTOCOL_FDS_MAX, &count, 0);
        if (got == 0 || got == -ECONNRESET) {
            _exit(0);
        }
        if (got != (ssize_t)sizeof order || order.isolation < ISOLATION_ROOT || order.isolation > ISOLATION_PROCESS) {
            _exit(125); /* the launcher is ours: a bad order is a bug */
        }
        const unsigned least = FIXED_FDS + ((order.flags & SPAWN_INTO_CGROUP) != 0 ? 1 : 0);
        if (count < least || count > least + SANDBOX_GROUPS_MAX) {
            _exit(125);
        }
        if (spawn(fd, &order, fds, count)) {
            return PyUnicode_FromString(order.temp_dir);
        }
        wire_close_all(fds, count);
    }
}

static PyMethodDef methods[] = {
    {"serve", serve, METH_VARARGS,
     "serve(fd) -> str\n\nFork sandboxes on the launcher's orders. Returns in a specialised sandbox only: the private directory\n"
     "for temporary files, or '' where /tmp is private."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sandbox", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sandbox(void);
PyMODINIT_FUNC PyInit__sandbox(void) {
    return PyModule_Create(&module);
}
