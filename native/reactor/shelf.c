/* shelf.c: see shelf.h. */
#include "shelf.h"

#include <string.h>

enum { PROGRESS_WORD = 0, GENERATION_WORD = 1, BYTES_WORD = 2 };

/* Pairs with the sandbox's stores, which it makes in the order that channel.md gives: a frame before the count that includes it, the
 * claim of a call before it runs. */
_Static_assert(SHELF_AT % 8 == 0 && SHELF_BYTES_MAX % 8 == 0, "the shelf is made of words");

static uint64_t word(const volatile uint64_t *page, int index) {
    return __atomic_load_n(&page[index], __ATOMIC_ACQUIRE);
}

uint32_t shelf_progress(const volatile uint64_t *page) {
    return (uint32_t)word(page, PROGRESS_WORD);
}

uint32_t shelf_read(const volatile uint64_t *page, uint8_t *out, uint32_t *progress) {
    const uint64_t generation = word(page, GENERATION_WORD);
    const uint64_t begun = word(page, PROGRESS_WORD);
    const uint64_t bytes = word(page, BYTES_WORD);
    *progress = (uint32_t)begun;
    if (bytes == 0 || bytes > SHELF_BYTES_MAX) {
        return 0;
    }
    /* Word by word, each acquired, so that the copy is made before the second look. */
    for (uint32_t at = 0; at < bytes; at += sizeof generation) {
        const uint64_t part = word(page, (SHELF_AT + (int)at) / (int)sizeof generation);
        memcpy(out + at, &part, sizeof part);
    }
    *progress = shelf_progress(page);
    return word(page, GENERATION_WORD) == generation && word(page, PROGRESS_WORD) == begun ? (uint32_t)bytes : 0;
}
