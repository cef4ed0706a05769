/* scheduler.runtime._sandbox: the fork server's loop. Python calls serve() once; it returns in sandboxes only.
 *
 * The loop is C alone and makes no call into Python: the zygote's memory stays what it was, which images rely on (image.h). Python
 * is told of no fork: see spawn().
 *
 * The zygote never runs a stranger's code and has one thread, so a raw clone is as safe as fork(2) here, given that the C library's
 * cached thread id is set right (fork(2) does it for the worker, CLONE_CHILD_SETTID at the address the kernel knows for a bare
 * process).
 * Children are the launcher's (CLONE_PARENT): it reaps them, and their death signal is tied to its life.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "image.h"
#include "protocol.h"
#include "steps.h"
#include "wire.h"

enum { FIXED_FDS = 4 };

static char why_not[IMAGE_REASON_BYTES] = "no image came with it"; /* why this process was not thawed */

/* linux/sched.h and sched.h cannot be had together everywhere; this is the kernel's layout. */
struct clone_arguments {
    uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/* One sandbox on its way, known to the zygote and to the newborn. */
struct birth {
    struct newborn newborn;
    void *back[5]; /* of __builtin_setjmp: the worker's way back into the interpreter */
};

enum { STACK_BYTES = 64 << 10 }; /* of the newborn while it is in the zygote's memory */

/* The kernel forgets the area of a process that shares another's memory, and of its children: the C library believes in it still. */
static void renew_rseq(void) {
#if defined(SYS_rseq) && (defined(__x86_64__) || defined(__aarch64__))
    enum { LEAST_BYTES = 32 };
#if defined(__x86_64__)
    static const uint32_t signature = 0x53053053;
#else
    static const uint32_t signature = 0xd428bc00;
#endif
    extern const ptrdiff_t __rseq_offset __attribute__((weak));
    extern const unsigned __rseq_size __attribute__((weak));
    if (&__rseq_size != NULL && &__rseq_offset != NULL && __rseq_size != 0) {
        char *thread;
#if defined(__x86_64__)
        __asm__("mov %%fs:0, %0" : "=r"(thread));
#else
        thread = __builtin_thread_pointer();
#endif
        const unsigned bytes = __rseq_size > LEAST_BYTES ? __rseq_size : LEAST_BYTES;
        syscall(SYS_rseq, thread + __rseq_offset, bytes, 0, signature);
    }
#endif
}

/* In the newborn. */
_Noreturn static void be_born(struct birth *birth) {
    steps_birth(&birth->newborn); /* returns in the worker only, which has a memory of its own */
    if (birth->newborn.order.isolation != ISOLATION_PROCESS) {
        renew_rseq();
    }
    __builtin_longjmp(birth->back, 1);
}

/* clone3 whose child calls be_born(birth), on the stack that the arguments name. The child's pid, or -errno. */
static long clone_into(struct clone_arguments *arguments, struct birth *birth) {
    void (*const enter)(struct birth *) = be_born;
#if defined(__x86_64__)
    long pid;
    register void *function __asm__("r12") = (void *)(uintptr_t)enter;
    register void *argument __asm__("r13") = birth;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "and $-16, %%rsp\n\t"
                     "mov %[argument], %%rdi\n\t"
                     "call *%[function]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(pid)
                     : "0"((long)SYS_clone3), "D"(arguments), "S"(sizeof *arguments), [function] "r"(function),
                       [argument] "r"(argument)
                     : "rcx", "r11", "cc", "memory");
    return pid;
#elif defined(__aarch64__)
    register long number __asm__("x8") = SYS_clone3;
    register long first __asm__("x0") = (long)arguments;
    register long second __asm__("x1") = sizeof *arguments;
    register void *function __asm__("x19") = (void *)(uintptr_t)enter;
    register void *argument __asm__("x20") = birth;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, %[argument]\n\t"
                     "blr %[function]\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(first)
                     : "r"(number), "r"(second), [function] "r"(function), [argument] "r"(argument)
                     : "cc", "memory");
    return first;
#else
#error "clone3 with a stack is written for x86_64 and aarch64 only"
#endif
}

/* The child's pid, or -errno. With namespaces the child is process 1: it shares our memory, while we sleep, until it has cloned the
 * worker from it and has become a program of its own. Only the worker is a copy of the interpreter. */
static pid_t clone_child(const struct spawn_order *order, int *cgroup, int *pidfd, struct birth *birth) {
    _Alignas(16) char stack[STACK_BYTES]; /* of ours, which images know to change */
    int *tid_address = NULL;
    int descriptor = -1;
    struct clone_arguments arguments;
    memset(&arguments, 0, sizeof arguments);
    arguments.flags = steps_clone_flags(order->isolation) | CLONE_PARENT | CLONE_PIDFD;
    arguments.pidfd = (uint64_t)(uintptr_t)&descriptor;
    if (order->isolation == ISOLATION_PROCESS) {
        if (prctl(PR_GET_TID_ADDRESS, &tid_address) < 0) {
            return -errno;
        }
        arguments.flags |= CLONE_CHILD_SETTID | CLONE_CHILD_CLEARTID;
        arguments.child_tid = (uint64_t)(uintptr_t)tid_address;
    } else {
        arguments.flags |= CLONE_VM | CLONE_VFORK;
        arguments.stack = (uint64_t)(uintptr_t)stack;
        arguments.stack_size = sizeof stack;
    }
    if (cgroup != NULL) {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = (uint64_t)*cgroup;
    }
    const long pid = clone_into(&arguments, birth);
    /* The newborn's change of identity has made our memory untraceable; children inherit that, and one of a normal user's could
     * then not write its own files in /proc. */
    (void)prctl(PR_SET_DUMPABLE, 1);
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

static void describe(struct newborn *newborn, const struct spawn_order *order, const int *fds, unsigned count, int init) {
    const bool into = (order->flags & SPAWN_INTO_CGROUP) != 0;
    memset(newborn, 0, sizeof *newborn);
    newborn->order = *order;
    newborn->channel = fds[0];
    newborn->output = fds[1];
    newborn->progress = fds[2];
    newborn->control = fds[3];
    newborn->init = order->isolation == ISOLATION_PROCESS ? -1 : init;
    for (unsigned i = FIXED_FDS; i < count - (into ? 1 : 0); i++) {
        newborn->groups[newborn->groups_count++] = fds[i];
    }
}

/* One order: true in the worker. */
static bool spawn(int fd, const struct spawn_order *order, int *fds, unsigned count, int init) {
    struct birth birth;
    int pidfd = -1;
    describe(&birth.newborn, order, fds, count, init);
    if (__builtin_setjmp(birth.back) == 0) {
        int *const cgroup = (order->flags & SPAWN_INTO_CGROUP) != 0 ? &fds[count - 1] : NULL;
        const pid_t pid = clone_child(order, cgroup, &pidfd, &birth);
        tell(fd, order, pid, pidfd);
        wire_close(&pidfd);
        return false;
    }
    struct newborn *const newborn = &birth.newborn;
    image_warm((const void *)(uintptr_t)PyOS_AfterFork_Child); /* the interpreter */
    steps_specialise(newborn);
    if (newborn->image >= 0 && (fcntl(newborn->image, F_GETFL) & O_ACCMODE) == O_RDONLY) { /* one to be written stays as it is */
        image_thaw(newborn->image, SANDBOX_FD_CHANNEL, SANDBOX_FD_PROGRESS, why_not);
    }
    /* To Python nothing has happened: there is one thread, it held no lock of anybody's, and it goes on where it was, with another
     * pid. What is to be done after a fork (locks made anew, thread tables) would be done in vain, and touches 240 shared pages,
     * each of which is then copied. What is drawn at random is drawn anew by startup.enter(). */
    return true;
}

/* ---- holes in the heaps ----
 *
 * What lives in this process has holes between it, in which its copies would put what they make: each in another page, which is
 * then copied. So they are filled here, once, and what a copy makes lies side by side in pages of its own. */

enum {
    POOL_BYTES = 16 << 10,       /* CPython's, from which objects of one size come */
    OBJECT_BYTES_MAX = 512,      /* larger ones come from the C library */
    OBJECT_STEP = 16,
    FILL_BYTES_MAX = 8 << 20,    /* of each heap: a bound, should an allocator not behave as is thought here */
    CHUNK_BYTES_MAX = 64 << 10,
    CHUNK_STEP = 16
};

/* Until the blocks of a whole pool have come in a row; those of it are given back. */
static void fill_objects(size_t bytes) {
    const unsigned least = (unsigned)(POOL_BYTES / bytes) - 4;
    char *run[POOL_BYTES / OBJECT_STEP], *last = NULL;
    unsigned length = 0;
    for (size_t taken = 0; taken < FILL_BYTES_MAX / 8 && length < least; taken += bytes) {
        char *const block = PyObject_Malloc(bytes);
        if (block == NULL) {
            break;
        }
        length = last != NULL && block == last + bytes ? length : 0;
        run[length++] = block;
        last = block;
    }
    while (length > 0) {
        PyObject_Free(run[--length]);
    }
}

/* What the C library has free below its last chunk, the large ones first. */
static void fill_chunks(void) {
#if defined(__GLIBC__)
    const char *const top = (char *)sbrk(0) - mallinfo2().keepcost;
    size_t taken = 0;
    for (size_t bytes = CHUNK_BYTES_MAX; bytes >= CHUNK_STEP + 8; bytes -= CHUNK_STEP) {
        const char *chunk = NULL;
        do {
            char *const got = malloc(bytes - 8);
            chunk = got;
            taken += got == NULL ? FILL_BYTES_MAX : bytes;
            if (got >= top) {
                free(got);
            }
        } while (chunk < top && taken < FILL_BYTES_MAX);
    }
#endif
}

static void fill_holes(void) {
    for (size_t bytes = OBJECT_STEP; bytes <= OBJECT_BYTES_MAX; bytes += OBJECT_STEP) {
        fill_objects(bytes);
    }
    fill_chunks();
}

static PyObject *serve(PyObject *self, PyObject *arguments) {
    (void)self;
    int fd, init;
    if (!PyArg_ParseTuple(arguments, "ii:serve", &fd, &init)) {
        return NULL;
    }
    steps_prepare();
    fill_holes();
    (void)image_baseline(); /* without it there are no images, and who wants one is told */
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
        if (spawn(fd, &order, fds, count, init)) {
            return PyUnicode_FromString(order.temp_dir);
        }
        wire_close_all(fds, count);
    }
}

/* ---- images ---- */

struct wish {
    struct image_request request;
    struct image_descriptor descriptors[IMAGE_DESCRIPTORS_MAX];
    const char *paths[IMAGE_DESCRIPTORS_MAX];
};

static bool read_descriptors(PyObject *list, struct wish *wish) {
    const Py_ssize_t count = PyList_Size(list);
    if (count < 0 || count > IMAGE_DESCRIPTORS_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd files are open, at most %d can be opened again", count, IMAGE_DESCRIPTORS_MAX);
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct image_descriptor *const one = &wish->descriptors[i];
        unsigned long long at;
        if (!PyArg_ParseTuple(PyList_GetItem(list, i), "iIKy", &one->number, &one->flags, &at, &wish->paths[i])) {
            return false;
        }
        one->at = at;
        one->path = (uint32_t)i;
    }
    wish->request.count = (uint32_t)count;
    return true;
}

static bool read_wish(PyObject *arguments, struct wish *wish) {
    PyObject *descriptors;
    unsigned mask;
    memset(wish, 0, sizeof *wish);
    struct image_request *const request = &wish->request;
    if (!PyArg_ParseTuple(arguments, "iiyIO!", &request->image, &request->channel, &request->directory, &mask, &PyList_Type,
                          &descriptors)) {
        return false;
    }
    request->file_mode_mask = mask;
    request->descriptors = wish->descriptors;
    request->paths = wish->paths;
    return read_descriptors(descriptors, wish);
}

static PyObject *measure(PyObject *self, PyObject *arguments) {
    (void)self;
    struct wish wish;
    struct image_result result;
    if (!read_wish(arguments, &wish)) {
        return NULL;
    }
    if (image_measure(&wish.request, &result) == IMAGE_UNSUITABLE) {
        PyErr_SetString(PyExc_ValueError, result.reason);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(result.bytes);
}

/* To Python this is a fork whose child is born later. */
static PyObject *take(PyObject *self, PyObject *arguments) {
    (void)self;
    struct wish wish;
    struct image_result result;
    if (!read_wish(arguments, &wish)) {
        return NULL;
    }
    PyOS_BeforeFork();
    const enum image_outcome outcome = image_take(&wish.request, &result);
    if (outcome == IMAGE_RESTORED) {
        PyOS_AfterFork_Child();
        return Py_BuildValue("(iKK)", result.progress, (unsigned long long)result.born_ns, (unsigned long long)result.thawed_ns);
    }
    PyOS_AfterFork_Parent();
    if (outcome == IMAGE_UNSUITABLE) {
        PyErr_SetString(PyExc_ValueError, result.reason);
        return NULL;
    }
    return PyLong_FromUnsignedLongLong(result.bytes);
}

static PyObject *reason(PyObject *self, PyObject *arguments) {
    (void)self;
    (void)arguments;
    return PyUnicode_FromString(why_not);
}

static PyMethodDef methods[] = {
    {"measure", measure, METH_VARARGS,
     "measure(image, channel, directory, umask, descriptors) -> int\n\nBytes that an image of now needs at most. descriptors: list of\n"
     "(number, open flags, offset, path), to be opened again. ValueError: it cannot be had, and why."},
    {"take", take, METH_VARARGS,
     "take(image, channel, directory, umask, descriptors) -> int | tuple\n\nWrites the image; its bytes. Returns once more in each process\n"
     "restored from it: (descriptor of the progress page, when its birth began, when it was done, in ns). ValueError as above."},
    {"why_not", reason, METH_NOARGS, "why_not() -> str\n\nWhy this process was not restored from an image."},
    {"serve", serve, METH_VARARGS,
     "serve(fd, init_fd) -> str\n\nFork sandboxes on the launcher's orders, each with the program init_fd as its process 1. Returns in a specialised sandbox only: the private directory\n"
     "for temporary files, or '' where /tmp is private."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_sandbox", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sandbox(void);
PyMODINIT_FUNC PyInit__sandbox(void) {
    return PyModule_Create(&module);
}
