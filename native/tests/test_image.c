/* test_image.c: what reads an image and a process' list of areas, against what is wrong, cut or made up. Whole images are made and
 * restored by real sandboxes in tests/sandboxes/test_snapshots.py. */
#include "../launcher/image_maps.c"
#include "../launcher/image_thaw.c"
#include "../launcher/wire.c"

#include <stdlib.h>

#include "harness.h"

static const uint8_t zygote[IMAGE_ID_BYTES] = "0123456789abcde";

const uint8_t *image_zygote_id(void) {
    return zygote;
}

/* ---- areas ---- */

static const char LISTED[] =
    "55d43c1e7000-55d43c3e3000 rw-p 00000000 00:00 0                          [heap]\n"
    "Size:               2032 kB\n"
    "Anonymous:          2032 kB\n"
    "Swap:                  0 kB\n"
    "VmFlags: rd wr mr mw me ac \n"
    "7f30a051c000-7f30a061c000 rw-p 00000000 00:00 0 \n"
    "Anonymous:             0 kB\n"
    "Swap:                  4 kB\n"
    "VmFlags: rd wr mr mw me ac wf nr \n"
    "7f30a079a000-7f30a079b000 r-xp 00002000 fe:01 1234                       /usr/lib/lib a (deleted) b.so\n"
    "Anonymous:             0 kB\n"
    "VmFlags: rd ex mr mw me \n"
    "7f30a079b000-7f30a079c000 r--s 00000000 fe:01 99                         /usr/lib/cache\n"
    "7f30a079c000-7f30a079d000 rw-s 00000000 00:01 7                          /dev/zero (deleted)\n"
    "7f30a079d000-7f30a079e000 rw-p 00000000 fe:01 7                          /var/task/gone.so (deleted)\n"
    "7f30a079e000-7f30a079f000 rw-p 00000000 fe:01 7                          /tmp/own.so\n"
    "7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]\n"
    "VmFlags: rd wr mr mw me gd ac \n"
    "7ffd00030000-7ffd00032000 r--p 00000000 00:00 0                          [vvar]\n"
    "VmFlags: rd mr pf io de dd \n";

static void areas_are_read_as_the_kernel_lists_them(void) {
    char text[sizeof LISTED];
    struct area areas[16];
    memcpy(text, LISTED, sizeof LISTED);
    SCHED_ASSERT(maps_parse(text, sizeof LISTED - 1, areas, 16) == 9);
    static const struct {
        enum maps_kind kind;
        bool written, shared, wiped, refused;
    } rows[] = {
        {MAPS_ANON, true, false, false, false},   {MAPS_ANON, true, false, true, false},  {MAPS_FILE, false, false, false, false},
        {MAPS_FILE, false, true, false, false},   {MAPS_OTHER, false, true, false, true}, {MAPS_OTHER, false, false, false, true},
        {MAPS_FILE, false, false, false, true},   {MAPS_STACK, false, false, false, false},
        {MAPS_KERNEL, false, false, false, false},
    };
    for (unsigned i = 0; i < 9; i++) {
        SCHED_ASSERT(areas[i].kind == rows[i].kind && areas[i].written == rows[i].written && areas[i].shared == rows[i].shared);
        SCHED_ASSERT(areas[i].wiped == rows[i].wiped && (areas[i].why != NULL) == rows[i].refused);
    }
    SCHED_ASSERT(areas[1].unreserved && areas[2].offset == 0x2000 && areas[2].inode == 1234);
    SCHED_ASSERT(areas[2].device == (0xfeULL << 32 | 1) && areas[2].protection == (PROT_READ | PROT_EXEC));
    SCHED_ASSERT(strcmp(areas[2].path, "/usr/lib/lib a (deleted) b.so") == 0 && areas[1].path[0] == '\0');
}

static void a_list_that_is_cut_or_strange_is_refused_or_read_in_bounds(void) {
    for (size_t cut = 0; cut < sizeof LISTED - 1; cut++) {
        char *const text = malloc(cut + 1); /* its end is the sanitizer's */
        struct area areas[16];
        SCHED_ASSERT(text != NULL);
        memcpy(text, LISTED, cut);
        const int whole = maps_parse(text, cut, areas, 16);
        SCHED_ASSERT(whole >= 0 || whole == -EINVAL);
        SCHED_ASSERT(cut == 0 || LISTED[cut - 1] == '\n' || whole == -EINVAL);
        free(text);
    }
    char text[sizeof LISTED];
    struct area areas[16];
    memcpy(text, LISTED, sizeof LISTED);
    SCHED_ASSERT(maps_parse(text, sizeof LISTED - 1, areas, 8) == -E2BIG);
    static const char *const strange[] = {"x\n", "1000-1000 rw-p 0 0:0 0\n", "2000-1000 rw-p 0 0:0 0\n", "1000-2000\n", "Size: 1\n",
                                          "1000-3000 rw-p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\n"};
    for (unsigned i = 0; i < sizeof strange / sizeof *strange; i++) {
        char copy[128];
        snprintf(copy, sizeof copy, "%s", strange[i]);
        SCHED_ASSERT(maps_parse(copy, strlen(copy), areas, 16) == -EINVAL);
    }
}

static void newborns_write_to_the_library_and_what_follows_it(void) {
    struct area areas[] = {
        {.start = 0x1000, .end = 0x2000, .kind = MAPS_FILE, .path = "/usr/lib/libc.so.6"},
        {.start = 0x2000, .end = 0x90000, .kind = MAPS_ANON, .path = ""},
        {.start = 0x90000, .end = 0x91000, .kind = MAPS_FILE, .path = "/usr/lib/libcrypto.so", .device = 5, .inode = 1},
        {.start = 0x91000, .end = 0x92000, .kind = MAPS_ANON, .path = ""},
        {.start = 0xa0000, .end = 0xa1000, .kind = MAPS_FILE, .path = "/r/_sandbox.so", .device = 5, .inode = 9},
    };
    maps_mark_entered(areas, 5, 0xa0010);
    SCHED_ASSERT(areas[0].entered == 0x2000 && areas[1].entered == 0x2000 + ENTERED_BYTES);
    SCHED_ASSERT(areas[2].entered == 0 && areas[3].entered == 0 && areas[4].entered == 0xa1000);
}

static void pages_are_told_by_their_contents(void) {
    uint8_t *const page = aligned_alloc(IMAGE_PAGE, IMAGE_PAGE);
    SCHED_ASSERT(page != NULL);
    memset(page, 0, IMAGE_PAGE);
    SCHED_ASSERT(maps_page_key(page) == 0);
    uint64_t last = 0;
    for (unsigned i = 0; i < IMAGE_PAGE; i++) { /* one byte, wherever it stands */
        page[i] = 1;
        const uint64_t key = maps_page_key(page);
        SCHED_ASSERT(key != 0 && key != last);
        last = key;
        page[i] = 0;
    }
    free(page);
}

/* ---- images ---- */

#define STAGE 0x700000000000ULL
enum { STAGE_BYTES = 1 << 20, DATA_AT = 2 * IMAGE_PAGE };

struct made {
    struct image_header header;
    struct image_op op;
    struct image_file file;
    struct image_descriptor descriptor;
    struct image_signal signal;
    char strings[16];
    char spare[128]; /* what a header may call its tables, with the bytes that the file has */
};

static struct made sound(void) {
    struct made made = {
        .header = {.version = IMAGE_VERSION, .machine = IMAGE_MACHINE, .bytes = DATA_AT + IMAGE_PAGE, .stage_at = STAGE, .channel = 1000,
                   .ops = 1, .files = 1, .descriptors = 1, .signals = 1, .strings_bytes = 16},
        .op = {.kind = IMAGE_PAGES, .protection = PROT_READ, .address = 0x10000, .bytes = IMAGE_PAGE, .at = DATA_AT},
        .descriptor = {.number = 3},
        .signal = {.number = 1},
        .strings = "/var/task/a.so",
    };
    memcpy(made.header.magic, IMAGE_MAGIC, sizeof made.header.magic);
    memcpy(made.header.zygote, zygote, sizeof zygote);
    return made;
}

static const char *check(struct made *made, uint64_t file_bytes) {
    const char *const why = image_check_header(&made->header, zygote, file_bytes);
    if (why != NULL) {
        return why;
    }
    made->header.checksum = image_checksum(&made->header, &made->op, image_tables_bytes(&made->header));
    return image_check_tables(&made->header, &made->op, STAGE_BYTES);
}

#define WRONG(change) \
    do { \
        struct made made = sound(); \
        change; \
        SCHED_ASSERT(check(&made, DATA_AT + IMAGE_PAGE) != NULL); \
    } while (0)

static void each_wrong_field_of_an_image_is_found(void) {
    struct made good = sound();
    SCHED_ASSERT(check(&good, DATA_AT + IMAGE_PAGE) == NULL);
    WRONG(made.header.magic[0] = 'x');
    WRONG(made.header.version++);
    WRONG(made.header.machine++);
    WRONG(made.header.zygote[3]++);
    WRONG(made.header.bytes++);
    WRONG(made.header.bytes = sizeof made.header);
    WRONG(made.header.bytes = UINT64_MAX);
    WRONG(made.header.ops = UINT32_MAX);
    WRONG(made.header.ops = 2);
    WRONG(made.header.files = IMAGE_FILES_MAX + 1);
    WRONG(made.header.descriptors = UINT32_MAX);
    WRONG(made.header.signals = IMAGE_SIGNALS + 1);
    WRONG(made.header.strings_bytes = 0);
    WRONG(made.header.strings_bytes = UINT32_MAX);
    WRONG(made.header.directory = 16);
    WRONG(made.header.channel = 3);
    WRONG(made.header.channel = -1);
    WRONG(made.header.stage_at++);
    WRONG(made.header.stage_at = UINT64_MAX - IMAGE_PAGE + 1);
    WRONG(memset(made.header.name, 'x', sizeof made.header.name));
    WRONG(made.op.kind = 0);
    WRONG(made.op.kind = IMAGE_WIPE + 1);
    WRONG(made.op.protection = 8);
    WRONG(made.op.address++);
    WRONG(made.op.address = STAGE);
    WRONG(made.op.address = STAGE + STAGE_BYTES - IMAGE_PAGE);
    WRONG(made.op.bytes = 0);
    WRONG(made.op.bytes = 2 * IMAGE_PAGE);
    WRONG(made.op.bytes = UINT64_MAX - IMAGE_PAGE + 1);
    WRONG(made.op.at = DATA_AT + IMAGE_PAGE);
    WRONG(made.op.at = UINT64_MAX - IMAGE_PAGE + 1);
    WRONG(made.op.at++);
    WRONG((made.op.kind = IMAGE_FILE, made.op.index = 1));
    WRONG((made.op.kind = IMAGE_UNMAP, made.op.address = STAGE - IMAGE_PAGE, made.op.bytes = 2 * IMAGE_PAGE));
    WRONG(made.file.path = 16);
    WRONG(made.descriptor.path = 16);
    WRONG(made.descriptor.number = 2);
    WRONG(made.descriptor.number = IMAGE_DESCRIPTOR_MAX + 1);
    WRONG(made.descriptor.flags = O_ACCMODE);
    WRONG(made.signal.number = 0);
    WRONG(made.signal.number = IMAGE_SIGNALS + 1);
    WRONG(made.strings[15] = 'x');
    struct made damaged = sound();
    damaged.header.checksum = image_checksum(&damaged.header, &damaged.op, image_tables_bytes(&damaged.header));
    damaged.op.at = 0;
    SCHED_ASSERT(image_check_tables(&damaged.header, &damaged.op, STAGE_BYTES) != NULL);
}

/* Descriptors stay where they are, and nothing else is left. */
static void an_image_that_is_refused_changes_nothing(void) {
    struct made made = sound();
    made.header.checksum = image_checksum(&made.header, &made.op, image_tables_bytes(&made.header));
    for (unsigned bytes = 0; bytes <= sizeof made; bytes += 16) {
        int pair[2];
        char reason[IMAGE_REASON_BYTES] = "";
        SCHED_ASSERT(pipe2(pair, O_CLOEXEC) == 0);
        const int image = memfd_create("image", MFD_CLOEXEC);
        SCHED_ASSERT(image >= 0 && write(image, &made, bytes) == (ssize_t)bytes);
        image_thaw(image, pair[0], pair[1], reason);
        SCHED_ASSERT(reason[0] != '\0' && write(pair[1], "x", 1) == 1 && fcntl(image, F_GETFD) < 0);
        close(pair[0]);
        close(pair[1]);
    }
}

int main(void) {
    RUN(areas_are_read_as_the_kernel_lists_them);
    RUN(a_list_that_is_cut_or_strange_is_refused_or_read_in_bounds);
    RUN(newborns_write_to_the_library_and_what_follows_it);
    RUN(pages_are_told_by_their_contents);
    RUN(each_wrong_field_of_an_image_is_found);
    RUN(an_image_that_is_refused_changes_nothing);
    return 0;
}
