/* image.h: the memory of an initialised process as a file, and back.
 *
 * All sandboxes of a runtime are forks of one zygote, so at birth they have the same memory at the same addresses, and the kernel
 * knows the same addresses of each. A *maker* runs a function's init and writes into its image what differs from the zygote's
 * memory (image_take). A newborn that has done all its steps, and so has no privilege, makes its memory that of the maker
 * and goes on where the maker was (image_thaw). Nothing privileged ever looks into an image, which a stranger's process has
 * written: a forged one can do what the function could do anyway.
 *
 * What makes "differs from the zygote's memory" true for every sandbox to come:
 *   - image_baseline() remembers layout and contents before the first fork. After it the zygote writes to its stack and its thread's
 *     block only: serve() is C, and makes no Python call and no allocation.
 *   - What a newborn writes until it is thawed is its stack, its thread's block, and the data of the C library, of the loader and
 *     of this module. Those are in every image, changed or not. image_maps.h knows which they are.
 * tests/sandboxes/test_snapshots.py compares the memory of zygote and shells, so that a change which breaks this is told.
 *
 * Image: header, tables (operations, files, descriptors, signals, strings), then pages. Everything is checked before it is used; what
 * the kernel refuses half way ends the process, which a sandbox may do at any time.
 */
#ifndef LAUNCHER_IMAGE_H
#define LAUNCHER_IMAGE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
    IMAGE_VERSION = 1,
    IMAGE_PAGE = 4096,
    IMAGE_ID_BYTES = 16,
    IMAGE_NAME_BYTES = 16,
    IMAGE_RLIMITS = 16,
    IMAGE_OPS_MAX = 32768,
    IMAGE_FILES_MAX = 256,
    IMAGE_DESCRIPTORS_MAX = 64,
    IMAGE_DESCRIPTOR_MAX = 499, /* number of one that is opened again: those the thaw itself needs lie above */
    IMAGE_SIGNALS = 64,
    IMAGE_STRINGS_BYTES_MAX = 256 << 10,
    IMAGE_REASON_BYTES = 200,
    IMAGE_STACK_BYTES = 64 << 10 /* the thaw's own */
};

enum image_op_kind {
    IMAGE_UNMAP = 1,
    IMAGE_ANON = 2,    /* empty memory */
    IMAGE_FILE = 3,    /* a file's pages, private; at: offset in file `index` */
    IMAGE_SHARED = 4,  /* the same, shared and read-only */
    IMAGE_PAGES = 5,   /* the image's pages, private; at: offset in the image */
    IMAGE_COPY = 6,    /* the image's bytes are read into what is there */
    IMAGE_PROTECT = 7,
    IMAGE_ZERO = 8,    /* what was written there is forgotten */
    IMAGE_WIPE = 9     /* a fork's child finds zeros there */
};

struct image_op {
    uint32_t kind;
    uint32_t protection; /* PROT_ of what is mapped, or to be set */
    uint64_t address;
    uint64_t bytes;
    uint64_t at;
    uint32_t index;
    uint32_t pad;
};

struct image_file {
    uint64_t device, inode; /* st_dev and st_ino: another file at the same path is another image's */
    uint32_t path;          /* offset in the strings, as all below */
    uint32_t pad;
};

struct image_descriptor {
    int32_t number;
    uint32_t flags; /* of open() */
    uint64_t at;    /* where it stands in the file */
    uint32_t path;
    uint32_t pad;
};

struct image_signal {
    uint64_t number, handler, flags, restorer, mask; /* what rt_sigaction takes */
};

struct image_context { /* what a function call keeps; image_thaw.c's assembly knows the offsets */
    uint64_t rbx, rbp, r12, r13, r14, r15, rsp, rip;
    uint32_t mxcsr, x87;
};

struct image_header {
    char magic[8];
    uint32_t version;
    uint32_t machine;
    uint8_t zygote[IMAGE_ID_BYTES];
    uint64_t bytes;            /* of the image */
    uint64_t checksum;         /* of header and tables, this field 0 */
    uint64_t stage_at;         /* a place that neither the zygote nor the maker uses */
    uint64_t heap_end;         /* what brk() answers */
    struct image_context context;
    uint64_t signal_mask;
    uint64_t alternate[3];     /* sigaltstack: address, flags, bytes */
    uint64_t rlimits[IMAGE_RLIMITS][2];
    char name[IMAGE_NAME_BYTES];
    uint32_t maker;            /* its pid: another one has to be found there after the thaw */
    uint32_t file_mode_mask;
    int32_t channel;           /* number of the channel's descriptor */
    uint32_t directory;        /* working directory */
    uint32_t ops, files, descriptors, signals, strings_bytes;
    uint32_t pad;
};

/* ---- the zygote ---- */

/* Remembers the memory as it is now. 0, or -errno: then there are no images in this zygote's life. Once, before the first fork. */
int image_baseline(void);

/* In a shell that waits: the code around this address, which it will run through, is looked up now. Contents stay as they are. */
void image_warm(const void *code);

/* ---- the maker ---- */

struct image_request {
    int image, channel;                              /* descriptors */
    const char *directory;
    uint32_t file_mode_mask;
    const struct image_descriptor *descriptors;      /* to be opened again; path: index into paths */
    const char *const *paths;
    uint32_t count;
};

struct image_result {
    uint64_t bytes;                 /* of the image */
    uint32_t ops, pages;
    int progress;                   /* restored: descriptor of the progress page */
    uint64_t born_ns, thawed_ns;    /* restored: CLOCK_MONOTONIC when the thaw began and when it was done */
    char reason[IMAGE_REASON_BYTES]; /* unsuitable: why */
};

enum image_outcome { IMAGE_UNSUITABLE = -1, IMAGE_TAKEN = 0, IMAGE_RESTORED = 1 };

/* How many bytes an image of this moment has, and a little more: IMAGE_TAKEN, or IMAGE_UNSUITABLE. */
enum image_outcome image_measure(const struct image_request *request, struct image_result *result);

/* Writes the image. Returns twice: TAKEN in the maker, RESTORED in each process that was thawed from the image, there with all
 * signals and descriptors as the maker had them, the channel at the maker's number. One thread; no allocation. */
enum image_outcome image_take(const struct image_request *request, struct image_result *result);

/* ---- the newborn ---- */

/* Becomes the image's process. Returns only if that cannot be, with nothing changed but what init will set anyway, and why in
 * reason. channel, progress: numbers of descriptors, which stay where they are in that case. */
void image_thaw(int image, int channel, int progress, char *reason);

/* ---- shared by the two halves, and by tests ---- */

uint64_t image_checksum(const struct image_header *header, const void *tables, size_t bytes);
size_t image_tables_bytes(const struct image_header *header);

/* NULL, or what is wrong with a header: read from a file of file_bytes. */
const char *image_check_header(const struct image_header *header, const uint8_t *zygote, uint64_t file_bytes);
/* NULL, or what is wrong with the tables, image_tables_bytes() of them. stage_bytes: what the thaw needs at stage_at. */
const char *image_check_tables(const struct image_header *header, const void *tables, uint64_t stage_bytes);

/* For baseline's id; zeros before image_baseline(). */
const uint8_t *image_zygote_id(void);

#endif
