#include "execstart.h"

#include <stdbool.h>
#include <string.h>

/* What is left of the text. */
struct reader {
    char *at;
    size_t left;
};

/* The next string; NULL: there is none, or it has no end. */
static char *next(struct reader *reader) {
    const char *const end = reader->left == 0 ? NULL : memchr(reader->at, '\0', reader->left);
    if (end == NULL) {
        return NULL;
    }
    char *const text = reader->at;
    const size_t bytes = (size_t)(end - text) + 1;
    reader->at += bytes;
    reader->left -= bytes;
    return text;
}

static bool is_path(const char *text) {
    return text[0] == '/';
}

static bool is_anything(const char *text) {
    (void)text;
    return true;
}

static bool is_variable(const char *text) {
    return text[0] != '=' && strchr(text, '=') != NULL;
}

static bool is_name(const char *text) {
    return text[0] != '\0';
}

/* `count` strings into the list, NULL behind them. */
static bool take(struct reader *reader, unsigned count, unsigned max, bool (*good)(const char *text), char **list) {
    if (count > max) {
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        list[i] = next(reader);
        if (list[i] == NULL || !good(list[i])) {
            return false;
        }
    }
    list[count] = NULL;
    return true;
}

const char *execstart_decode(void *bytes, size_t count, struct execstart *start) {
    struct execstart_header header;
    char *directory[2], *wrapper[2];
    if (count < sizeof header || count > EXECSTART_BYTES_MAX) {
        return "its length";
    }
    memcpy(&header, bytes, sizeof header);
    struct reader reader = {.at = (char *)bytes + sizeof header, .left = count - sizeof header};
    if (header.magic != EXECSTART_MAGIC || header.version != EXECSTART_VERSION) {
        return "its kind";
    }
    if ((header.flags & ~(unsigned)EXECSTART_AFRESH) != 0) {
        return "its flags";
    }
    if (!take(&reader, 1, 1, is_path, directory)) {
        return "the working directory";
    }
    if (!take(&reader, header.wrappers, 1, is_name, wrapper)) {
        return "the wrapper";
    }
    if (header.programs == 0 || !take(&reader, header.programs, EXECSTART_PROGRAMS_MAX, is_path, start->programs)) {
        return "the programs";
    }
    if (!take(&reader, header.arguments, EXECSTART_ARGUMENTS_MAX, is_anything, start->arguments)) {
        return "the arguments";
    }
    if (!take(&reader, header.variables, EXECSTART_VARIABLES_MAX, is_variable, start->variables)) {
        return "the environment";
    }
    if (!take(&reader, header.extensions, EXECSTART_EXTENSIONS_MAX, is_path, start->extensions)) {
        return "the extensions";
    }
    if (!take(&reader, header.extension_variables, EXECSTART_VARIABLES_MAX, is_variable, start->extension_variables)) {
        return "the environment of extensions";
    }
    if (reader.left != 0) {
        return "what follows its end";
    }
    start->flags = header.flags;
    start->programs_count = header.programs;
    start->extensions_count = header.extensions;
    start->directory = directory[0];
    start->wrapper = wrapper[0];
    return NULL;
}
