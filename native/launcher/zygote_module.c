/* scheduler.runtime._sandbox: the fork server for Python. Python calls serve() once; it returns in sandboxes only.
 *
 * The loop (serve.h) makes no call into Python, and Python is told of no fork: see serve().
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <fcntl.h>
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image.h"
#include "protocol.h"
#include "serve.h"
#include "steps.h"
#include "wire.h"

static char why_not[IMAGE_REASON_BYTES] = "no image came with it"; /* why this process was not thawed */

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
    serve_ready(fd);
    struct newborn newborn;
    serve_orders(fd, init, &newborn);
    image_warm((const void *)(uintptr_t)PyOS_AfterFork_Child); /* the interpreter */
    steps_specialise(&newborn);
    if (newborn.image >= 0 && (fcntl(newborn.image, F_GETFL) & O_ACCMODE) == O_RDONLY) { /* one to be written stays as it is */
        image_thaw(newborn.image, SANDBOX_FD_CHANNEL, SANDBOX_FD_PROGRESS, why_not);
    }
    /* To Python nothing has happened: there is one thread, it held no lock of anybody's, and it goes on where it was, with another
     * pid. What is to be done after a fork (locks made anew, thread tables) would be done in vain, and touches 240 shared pages,
     * each of which is then copied. What is drawn at random is drawn anew by startup.enter(). */
    return PyUnicode_FromString(newborn.order.temp_dir);
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
