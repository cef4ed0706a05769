/* image_maps.h: what memory this process has, page by page, and what the zygote had. Reads /proc/self; no policy, no libc allocation:
 * the caller brings the room. */
#ifndef LAUNCHER_IMAGE_MAPS_H
#define LAUNCHER_IMAGE_MAPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum maps_kind {
    MAPS_ANON,   /* private, empty at first; the heap too */
    MAPS_FILE,   /* private pages of a file */
    MAPS_STACK,
    MAPS_KERNEL, /* the kernel's own: vdso and the like */
    MAPS_OTHER   /* shared, deleted, of a device, locked away: `why` says which */
};

struct area {
    uint64_t start, end, offset;
    uint64_t device, inode;
    uint32_t protection;
    enum maps_kind kind;
    bool shared;        /* read-only pages of a file, seen as the file changes */
    bool wiped;         /* a fork's child finds zeros */
    bool droppable;     /* the kernel may take the contents away */
    bool unreserved;
    bool written;       /* has pages of its own */
    uint64_t entered;   /* below this address a newborn writes before it is thawed, or may; 0: nowhere */
    const char *path;   /* in the caller's text, NUL-terminated; "" for none */
    const char *why;    /* it cannot be part of an image; NULL: it can. Of a FILE: unless the zygote has it */
};

/* Splits the text of /proc/self/smaps, which is written to. Their count in ascending order, or -EINVAL, -E2BIG. */
int maps_parse(char *text, size_t bytes, struct area *areas, unsigned max);

/* The same of this process, text read into room. -ENOBUFS: it does not fit. */
int maps_read(char *room, size_t bytes, struct area *areas, unsigned max);

/* Marks what newborns write to: data of the C library, the loader and the module whose address `own` is, and what follows them. */
void maps_mark_entered(struct area *areas, unsigned count, uint64_t own);

/* 1 for each page of [start, start + count pages) that this process does not share with a file. 0 or -errno.
 * fd: of /proc/self/pagemap. count <= MAPS_CHUNK. */
enum { MAPS_CHUNK = 8192 };
int maps_own_pages(int fd, uint64_t start, unsigned count, uint8_t *own);

/* A number for a page's contents. 0: all zero. */
uint64_t maps_page_key(const void *page);

#endif
