/* image_thaw.h: what the two halves of an image share of the way back. Nothing for anybody else. */
#ifndef LAUNCHER_IMAGE_THAW_H
#define LAUNCHER_IMAGE_THAW_H

#include <stdbool.h>
#include <stdint.h>

#include "image.h"

#define IMAGE_MAGIC "schedimg"
enum { IMAGE_MACHINE = 62 }; /* ELF's number: x86-64, the only one so far */

struct kernel_signal { /* what the kernel calls a sigaction */
    uint64_t handler, flags, restorer, mask;
};

/* Stands at stage_at, in no image, while a newborn becomes another process; given back by thaw_finish(). */
struct stage {
    uint64_t bytes;
    struct image_header header;
    int image, progress;
    uint64_t born_ns;
    const struct image_op *ops;
    const struct image_signal *signals;
    int files[IMAGE_FILES_MAX];
    uint8_t stack[IMAGE_STACK_BYTES] __attribute__((aligned(16)));
    uint8_t tables[];
};

bool thaw_supported(void);
void thaw_get_signal(int number, struct kernel_signal *signal);

/* Like setjmp: 0 when it returns the first time; the stage's address in a process that was thawed. */
uint64_t thaw_save(struct image_context *context) __attribute__((returns_twice));

/* In the thawed process: what is not memory becomes the maker's too, and the stage goes. */
void thaw_finish(struct stage *stage, struct image_result *result);

#endif
