/* sigv4.c: see sigv4.h. Everything read here is a stranger's until the signature fits. */
#include "sigv4.h"

#include <stdlib.h>
#include <string.h>


enum { TABLE_MIN = 16, NAMES_MAX = 2048 };

static const char ALGORITHM[] = "AWS4-HMAC-SHA256";
static const char SERVICE[] = "lambda", TERMINATOR[] = "aws4_request";

/* ---- keys ------------------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const char *id, size_t bytes) {
    uint32_t hash = 2166136261U; /* FNV-1a; ids are ours, not a stranger's to choose */
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ (uint8_t)id[i]) * 16777619U;
    }
    return hash;
}

static struct sigv4_key *find(const struct sigv4_keys *keys, const char *id, size_t bytes) {
    if (keys->keys == NULL || bytes == 0 || bytes > SIGV4_ID_BYTES_MAX) {
        return NULL;
    }
    for (uint32_t i = hash_of(id, bytes) & keys->mask; keys->keys[i].id[0] != '\0'; i = (i + 1) & keys->mask) {
        if (strlen(keys->keys[i].id) == bytes && memcmp(keys->keys[i].id, id, bytes) == 0) {
            return &keys->keys[i];
        }
    }
    return NULL;
}

static struct sigv4_key *place_of(struct sigv4_keys *keys, const char *id) {
    uint32_t i = hash_of(id, strlen(id)) & keys->mask;
    while (keys->keys[i].id[0] != '\0') {
        i = (i + 1) & keys->mask;
    }
    return &keys->keys[i];
}

/* All keys but `without` into a table of their own. */
static bool rebuild(struct sigv4_keys *keys, uint32_t capacity, const struct sigv4_key *without) {
    struct sigv4_keys made = {.keys = calloc(capacity, sizeof *made.keys), .mask = capacity - 1};
    if (made.keys == NULL) {
        return false;
    }
    for (uint32_t i = 0; keys->keys != NULL && i <= keys->mask; i++) {
        if (keys->keys[i].id[0] != '\0' && &keys->keys[i] != without) {
            *place_of(&made, keys->keys[i].id) = keys->keys[i];
            made.count++;
        }
    }
    sigv4_free(keys);
    *keys = made;
    return true;
}

bool sigv4_put(struct sigv4_keys *keys, const char *id, size_t id_bytes, const uint8_t *secret, size_t secret_bytes, uint32_t rights,
               uint32_t tenant) {
    if (id_bytes == 0 || id_bytes > SIGV4_ID_BYTES_MAX || memchr(id, '\0', id_bytes) != NULL || secret_bytes == 0 ||
        secret_bytes > SIGV4_SECRET_BYTES_MAX) {
        return false;
    }
    struct sigv4_key *key = find(keys, id, id_bytes);
    if (key == NULL) {
        if (keys->count == SIGV4_KEYS_MAX) {
            return false;
        }
        if (keys->keys == NULL || 2 * (keys->count + 1) > keys->mask) {
            const uint32_t capacity = keys->keys == NULL ? TABLE_MIN : 2 * (keys->mask + 1);
            if (!rebuild(keys, capacity, NULL)) {
                return false;
            }
        }
        char text[SIGV4_ID_BYTES_MAX + 1] = {0};
        memcpy(text, id, id_bytes);
        key = place_of(keys, text);
        memcpy(key->id, text, sizeof text);
        keys->count++;
    }
    memset(key->secret, 0, sizeof key->secret);
    memcpy(key->secret, secret, secret_bytes);
    key->secret_bytes = (uint32_t)secret_bytes;
    key->rights = rights;
    key->tenant = tenant;
    memset(key->day, 0, sizeof key->day);
    return true;
}

void sigv4_remove(struct sigv4_keys *keys, const char *id, size_t id_bytes) {
    struct sigv4_key *const key = find(keys, id, id_bytes);
    if (key != NULL && !rebuild(keys, keys->mask + 1, key)) {
        key->secret_bytes = 0; /* no memory: it stays in the table, and signs nothing */
        explicit_bzero(key->secret, sizeof key->secret);
        explicit_bzero(&key->signing, sizeof key->signing);
        memset(key->day, 0, sizeof key->day);
    }
}

void sigv4_free(struct sigv4_keys *keys) {
    if (keys->keys != NULL) {
        explicit_bzero(keys->keys, ((size_t)keys->mask + 1) * sizeof *keys->keys);
        free(keys->keys);
    }
    *keys = (struct sigv4_keys){0};
}

/* ---- what the header says ----------------------------------------------------------------------------------------------- */

struct claim {
    struct http_slice id, day, region, names, signature;
};

static bool is_text(struct http_slice slice, const char *text) {
    return slice.size == strlen(text) && memcmp(slice.at, text, slice.size) == 0;
}

/* Up to `end` (or to the end of `rest`), which is taken out too. */
static struct http_slice cut(struct http_slice *rest, uint8_t end) {
    const uint8_t *const found = rest->size == 0 ? NULL : memchr(rest->at, end, rest->size);
    const uint32_t size = found == NULL ? rest->size : (uint32_t)(found - rest->at);
    const struct http_slice taken = {rest->at, size};
    const uint32_t gone = found == NULL ? size : size + 1;
    rest->at += gone;
    rest->size -= gone;
    return taken;
}

static bool begins(struct http_slice *slice, const char *text) {
    const size_t size = strlen(text);
    if (slice->size < size || memcmp(slice->at, text, size) != 0) {
        return false;
    }
    slice->at += size;
    slice->size -= (uint32_t)size;
    return true;
}

/* "AWS4-HMAC-SHA256 Credential=ID/DAY/REGION/lambda/aws4_request, SignedHeaders=a;b, Signature=HEX" */
static bool read_claim(struct http_slice header, struct claim *out) {
    if (header.at == NULL || !begins(&header, ALGORITHM) || !begins(&header, " ")) {
        return false;
    }
    bool seen[3] = {false};
    while (header.size > 0) {
        struct http_slice part = cut(&header, ',');
        while (part.size > 0 && *part.at == ' ') {
            part.at++;
            part.size--;
        }
        if (begins(&part, "Credential=") && !seen[0]) {
            seen[0] = true;
            out->id = cut(&part, '/');
            out->day = cut(&part, '/');
            out->region = cut(&part, '/');
            if (!is_text(cut(&part, '/'), SERVICE) || !is_text(part, TERMINATOR)) {
                return false;
            }
        } else if (begins(&part, "SignedHeaders=") && !seen[1]) {
            seen[1] = true;
            out->names = part;
        } else if (begins(&part, "Signature=") && !seen[2]) {
            seen[2] = true;
            out->signature = part;
        } else {
            return false;
        }
    }
    return seen[0] && seen[1] && seen[2] && out->day.size == 8 && out->region.size > 0 && out->region.size <= SIGV4_REGION_BYTES_MAX &&
           out->names.size > 0 && out->names.size <= NAMES_MAX && out->signature.size == 2 * SHA256_BYTES;
}

static int number(const uint8_t *at, unsigned digits) {
    int value = 0;
    for (unsigned i = 0; i < digits; i++) {
        if (at[i] < '0' || at[i] > '9') {
            return -1;
        }
        value = value * 10 + (at[i] - '0');
    }
    return value;
}

/* 20261124T215500Z as Unix time, or -1. */
static int64_t read_time(struct http_slice text) {
    if (text.size != 16 || text.at[8] != 'T' || text.at[15] != 'Z') {
        return -1;
    }
    const int year = number(text.at, 4), month = number(text.at + 4, 2), day = number(text.at + 6, 2);
    const int hour = number(text.at + 9, 2), minute = number(text.at + 11, 2), second = number(text.at + 13, 2);
    if (year < 1970 || month < 1 || month > 12 || day < 1 || day > 31 || hour < 0 || hour > 23 || minute < 0 || minute > 59 ||
        second < 0 || second > 59) {
        return -1;
    }
    /* Days from the civil calendar: Howard Hinnant's, with March as the year's first month. */
    const int y = month <= 2 ? year - 1 : year;
    const int era = y / 400, of_era = y % 400;
    const int of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    const int64_t days = (int64_t)era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
    return days * 86400 + hour * 3600 + minute * 60 + second;
}

/* ---- the canonical request ------------------------------------------------------------------------------------------------ */

static uint8_t lower(uint8_t c) {
    return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

static bool same_name(struct http_slice name, struct http_slice signed_name) {
    if (name.size != signed_name.size) {
        return false;
    }
    for (uint32_t i = 0; i < name.size; i++) {
        if (lower(name.at[i]) != signed_name.at[i]) {
            return false;
        }
    }
    return true;
}

static bool begins_x_amz(struct http_slice name) {
    static const char text[] = "x-amz-";
    if (name.size < sizeof text - 1) {
        return false;
    }
    for (uint32_t i = 0; i < sizeof text - 1; i++) {
        if (lower(name.at[i]) != (uint8_t)text[i]) {
            return false;
        }
    }
    return true;
}

/* Without empty, "." and ".." segments, which are taken out before a path is signed. */
static bool plain_path(struct http_slice path) {
    struct http_slice rest = path;
    (void)cut(&rest, '/'); /* nothing is before the first slash */
    while (rest.size > 0) {
        const struct http_slice segment = cut(&rest, '/');
        if (segment.size == 0 || is_text(segment, ".") || is_text(segment, "..")) {
            return false;
        }
    }
    return true;
}

static bool is_unreserved(uint8_t c) {
    return (c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '-' || c == '_' || c == '.' || c == '~';
}

static bool is_hex(uint8_t c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F');
}

/* Encoded as it is signed: what need not be is not, and all else is in capitals. */
static bool plain_part(struct http_slice text) {
    for (uint32_t i = 0; i < text.size; i++) {
        if (is_unreserved(text.at[i])) {
            continue;
        }
        if (text.at[i] != '%' || text.size - i < 3 || !is_hex(text.at[i + 1]) || !is_hex(text.at[i + 2])) {
            return false;
        }
        uint8_t byte;
        if (http_decode(text.at + i, 3, &byte, 1) != 1 || is_unreserved(byte)) {
            return false;
        }
        i += 2;
    }
    return true;
}

static int order_of(struct http_slice one, struct http_slice other) {
    const uint32_t shorter = one.size < other.size ? one.size : other.size;
    const int order = shorter == 0 ? 0 : memcmp(one.at, other.at, shorter);
    return order != 0 ? order : one.size < other.size ? -1 : one.size > other.size;
}

/* Exactly as it is signed, in order: a query of another form has to be put into this one, which is the slow side's. */
static bool plain_query(struct http_slice query) {
    struct http_slice rest = query, key_before = {0}, value_before = {0};
    while (rest.size > 0) {
        struct http_slice value = cut(&rest, '&');
        if (value.size == 0 || memchr(value.at, '=', value.size) == NULL) {
            return false;
        }
        const struct http_slice key = cut(&value, '=');
        const int order = order_of(key_before, key);
        const bool own = key.size >= 6 && begins_x_amz((struct http_slice){key.at, 6}); /* a signature's: which counts? */
        if (own || !plain_part(key) || !plain_part(value) || order > 0 || (order == 0 && order_of(value_before, value) > 0)) {
            return false;
        }
        key_before = key;
        value_before = value;
    }
    return query.size == 0 || query.at[query.size - 1] != '&';
}

/* The path once more percent-encoded, as everywhere but in S3. */
static void add_path(struct sha256 *sha, struct http_slice path) {
    static const char digits[] = "0123456789ABCDEF";
    uint32_t from = 0;
    for (uint32_t i = 0; i < path.size; i++) {
        const uint8_t c = path.at[i];
        if ((c >= '0' && c <= '9') || (lower(c) >= 'a' && lower(c) <= 'z') || c == '-' || c == '_' || c == '.' || c == '~' || c == '/') {
            continue;
        }
        const char encoded[3] = {'%', digits[c >> 4], digits[c & 15]};
        sha256_add(sha, path.at + from, i - from);
        sha256_add(sha, encoded, sizeof encoded);
        from = i + 1;
    }
    sha256_add(sha, path.at + from, path.size - from);
}

/* A value with its runs of blanks as one each. */
static void add_value(struct sha256 *sha, struct http_slice value) {
    uint32_t from = 0;
    for (uint32_t i = 1; i < value.size; i++) {
        if (value.at[i] == ' ' && value.at[i - 1] == ' ') {
            sha256_add(sha, value.at + from, i - from);
            from = i + 1;
        }
    }
    if (from < value.size) {
        sha256_add(sha, value.at + from, value.size - from);
    }
}

/* Every signed header once and in order, the host and all x-amz- ones among them. */
static bool add_headers(struct sha256 *sha, const struct http_request *request, struct http_slice names) {
    bool host = false;
    uint32_t amz_signed = 0, amz = 0;
    struct http_slice rest = names, before = {0};
    while (rest.size > 0) {
        const struct http_slice name = cut(&rest, ';');
        const uint32_t shorter = name.size < before.size ? name.size : before.size;
        const int order = shorter == 0 ? 0 : memcmp(before.at, name.at, shorter);
        if (name.size == 0 || (before.at != NULL && (order > 0 || (order == 0 && before.size >= name.size)))) {
            return false; /* unsorted, or twice */
        }
        before = name;
        const struct http_header *found = NULL;
        for (uint32_t i = 0; i < request->headers_count; i++) {
            if (same_name(request->headers[i].name, name)) {
                if (found != NULL) {
                    return false; /* sent twice: which was meant? */
                }
                found = &request->headers[i];
            }
        }
        if (found == NULL) {
            return false;
        }
        host = host || is_text(name, "host");
        amz_signed += begins_x_amz(name);
        sha256_add(sha, name.at, name.size);
        sha256_add(sha, ":", 1);
        add_value(sha, found->value);
        sha256_add(sha, "\n", 1);
    }
    for (uint32_t i = 0; i < request->headers_count; i++) {
        amz += begins_x_amz(request->headers[i].name);
    }
    return host && amz == amz_signed;
}

static bool canonical(const struct http_request *request, const struct claim *claim, char hex[2 * SHA256_BYTES]) {
    struct sha256 sha;
    uint8_t digest[SHA256_BYTES];
    char body[2 * SHA256_BYTES];
    if (request->body_hex != NULL) {
        memcpy(body, request->body_hex, sizeof body);
    } else {
        sha256_begin(&sha);
        sha256_add(&sha, request->body.at, request->body.size);
        sha256_end(&sha, digest);
        sha256_hex(digest, body);
    }
    if (!plain_path(request->path) || !plain_query(request->query)) {
        return false;
    }
    const struct http_slice told = http_header(request, "x-amz-content-sha256");
    if (told.at != NULL && (told.size != sizeof body || memcmp(told.at, body, sizeof body) != 0)) {
        return false; /* unsigned, in signed chunks, or wrong */
    }
    sha256_begin(&sha);
    sha256_add(&sha, request->method.at, request->method.size);
    sha256_add(&sha, "\n", 1);
    add_path(&sha, request->path);
    sha256_add(&sha, "\n", 1);
    sha256_add(&sha, request->query.at, request->query.size);
    sha256_add(&sha, "\n", 1);
    if (!add_headers(&sha, request, claim->names)) {
        return false;
    }
    sha256_add(&sha, "\n", 1);
    sha256_add(&sha, claim->names.at, claim->names.size);
    sha256_add(&sha, "\n", 1);
    sha256_add(&sha, body, sizeof body);
    sha256_end(&sha, digest);
    sha256_hex(digest, hex);
    return true;
}

/* ---- the signature -------------------------------------------------------------------------------------------------------- */

static void derive(const uint8_t *key, size_t key_bytes, const void *text, size_t bytes, uint8_t out[SHA256_BYTES]) {
    struct hmac hmac;
    hmac_begin(&hmac, key, key_bytes);
    hmac_add(&hmac, text, bytes);
    hmac_end(&hmac, out);
    explicit_bzero(&hmac, sizeof hmac);
}

/* Made once for a day and region, and kept. */
static void make_signing_key(struct sigv4_key *key, const struct claim *claim) {
    if (memcmp(key->day, claim->day.at, sizeof key->day) == 0 && strlen(key->region) == claim->region.size &&
        memcmp(key->region, claim->region.at, claim->region.size) == 0) {
        return;
    }
    uint8_t first[4 + SIGV4_SECRET_BYTES_MAX] = "AWS4", step[SHA256_BYTES];
    memcpy(first + 4, key->secret, key->secret_bytes);
    derive(first, 4 + key->secret_bytes, claim->day.at, claim->day.size, step);
    derive(step, sizeof step, claim->region.at, claim->region.size, step);
    derive(step, sizeof step, SERVICE, sizeof SERVICE - 1, step);
    derive(step, sizeof step, TERMINATOR, sizeof TERMINATOR - 1, step);
    hmac_begin(&key->signing, step, sizeof step);
    explicit_bzero(first, sizeof first);
    explicit_bzero(step, sizeof step);
    memcpy(key->day, claim->day.at, sizeof key->day);
    memset(key->region, 0, sizeof key->region);
    memcpy(key->region, claim->region.at, claim->region.size);
}

bool sigv4_may_be(const struct sigv4_keys *keys, const struct http_request *request) {
    struct claim claim = {0};
    const struct http_slice told = http_header(request, "x-amz-content-sha256");
    return (told.at == NULL || told.size == 2 * SHA256_BYTES) && read_claim(http_header(request, "authorization"), &claim) &&
           find(keys, (const char *)claim.id.at, claim.id.size) != NULL;
}

const struct sigv4_key *sigv4_check(struct sigv4_keys *keys, const struct http_request *request, int64_t now_s) {
    struct claim claim = {0};
    if (!read_claim(http_header(request, "authorization"), &claim)) {
        return NULL;
    }
    const struct http_slice date = http_header(request, "x-amz-date");
    const int64_t signed_s = date.at == NULL ? -1 : read_time(date);
    if (signed_s < 0 || signed_s - now_s > SIGV4_SKEW_S || now_s - signed_s > SIGV4_SKEW_S ||
        memcmp(date.at, claim.day.at, claim.day.size) != 0) {
        return NULL;
    }
    struct sigv4_key *const key = find(keys, (const char *)claim.id.at, claim.id.size);
    char hex[2 * SHA256_BYTES], made[2 * SHA256_BYTES];
    if (key == NULL || key->secret_bytes == 0 || !canonical(request, &claim, hex)) {
        return NULL;
    }
    make_signing_key(key, &claim);
    struct hmac hmac = key->signing;
    uint8_t digest[SHA256_BYTES];
    hmac_add(&hmac, ALGORITHM, sizeof ALGORITHM - 1);
    hmac_add(&hmac, "\n", 1);
    hmac_add(&hmac, date.at, date.size);
    hmac_add(&hmac, "\n", 1);
    hmac_add(&hmac, claim.day.at, claim.day.size);
    hmac_add(&hmac, "/", 1);
    hmac_add(&hmac, claim.region.at, claim.region.size);
    hmac_add(&hmac, "/lambda/aws4_request\n", 21);
    hmac_add(&hmac, hex, sizeof hex);
    hmac_end(&hmac, digest);
    sha256_hex(digest, made);
    uint8_t differs = 0; /* in one time, wherever they differ */
    for (size_t i = 0; i < sizeof made; i++) {
        differs |= (uint8_t)made[i] ^ claim.signature.at[i];
    }
    return differs == 0 ? key : NULL;
}
