/* execstart.h: what START says to a sandbox that executes programs, as bytes without lengths of strings, so that the service can keep
 * them prepared around the name of the log stream. scheduler/sandboxes/execstart.py writes them; docs/internals/channel.md has the
 * table. The service is trusted; what it sends is read as if it were not.
 */
#ifndef LAUNCHER_EXECSTART_H
#define LAUNCHER_EXECSTART_H

#include <stddef.h>
#include <stdint.h>

enum {
    EXECSTART_MAGIC = 0x45584543,      /* "CEXE" */
    EXECSTART_VERSION = 1,
    EXECSTART_BYTES_MAX = 128 << 10,
    EXECSTART_PROGRAMS_MAX = 4,        /* of which the first that is there is executed */
    EXECSTART_ARGUMENTS_MAX = 64,
    EXECSTART_VARIABLES_MAX = 1024,
    EXECSTART_EXTENSIONS_MAX = 10
};

enum execstart_flag {
    EXECSTART_AFRESH = 1 /* the program that was started at birth will not do: it is killed, and another executed */
};

struct execstart_header { /* then the strings, each with its NUL, in the order of the counts; the directory before all others */
    uint32_t magic;
    uint16_t version;
    uint16_t flags;
    uint16_t wrappers;    /* 0 or 1 */
    uint16_t programs;    /* at least 1 */
    uint16_t arguments;   /* behind the program */
    uint16_t variables;   /* NAME=value */
    uint16_t extensions;
    uint16_t extension_variables;
};

_Static_assert(sizeof(struct execstart_header) == 20, "no padding");

/* Lists end with NULL. Strings point into the bytes that were read. */
struct execstart {
    uint32_t flags;
    unsigned programs_count, extensions_count;
    char *directory;
    char *wrapper; /* NULL: none */
    char *programs[EXECSTART_PROGRAMS_MAX + 1];
    char *arguments[EXECSTART_ARGUMENTS_MAX + 1];
    char *variables[EXECSTART_VARIABLES_MAX + 2]; /* room for one more */
    char *extensions[EXECSTART_EXTENSIONS_MAX + 1];
    char *extension_variables[EXECSTART_VARIABLES_MAX + 2];
};

/* NULL, or what is wrong with it; then *start is of no use. */
const char *execstart_decode(void *bytes, size_t count, struct execstart *start);

#endif
