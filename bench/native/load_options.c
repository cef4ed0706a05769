/* load_options.c: the load generator's command line. Every wrong word ends the program with a sentence naming it. */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: load (--unix PATH | --tcp HOST:PORT [--token T]) [--warmup-ms N] [--duration-ms N | --count N] [--drain-ms N]\n"
    "            [--series-ms N] [--pin CPU] [--spin] [--seed N] --stream KEY=VALUE,... [--stream ...]\n"
    "keys: name  mode=closed|open|idle  function=F[*weight][+F2...]  payload=BYTES or @FILE[*weight][+...]  connections=N\n"
    "      inflight=N (closed, each connection)  rate=N (open, calls/s)  arrival=uniform|poisson  outstanding=N (open, each)\n"
    "      start_ms=N  stop_ms=N (after the warm-up)  check=echo|none  report=0|1  deadline_ms=N";

/* JSON of exactly `bytes` bytes, written as Python's json.dumps writes it, so that an echo comes back byte for byte. */
static uint8_t *make_payload(size_t bytes)
{
    static const char head[] = "{\"user\": \"ada\", \"id\": 12345, \"items\": [1, 2, 3], \"ok\": true, \"note\": \"";
    static const char tail[] = "\"}";
    size_t frame = sizeof head - 1 + sizeof tail - 1;
    uint8_t *payload = grab(bytes);
    if (bytes < frame) { /* too short for fields: a JSON string, or a digit */
        memset(payload, bytes < 2 ? '7' : 'x', bytes);
        if (bytes >= 2)
            payload[0] = payload[bytes - 1] = '"';
        return payload;
    }
    memcpy(payload, head, sizeof head - 1);
    for (size_t i = sizeof head - 1; i < bytes - (sizeof tail - 1); i++)
        payload[i] = (uint8_t)('a' + i % 26);
    memcpy(payload + bytes - (sizeof tail - 1), tail, sizeof tail - 1);
    return payload;
}

static uint8_t *read_payload(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die("payload=@%s: %s", path, strerror(errno));
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    if (size < 0)
        die("payload=@%s: not a plain file", path);
    uint8_t *payload = grab((size_t)size);
    if (fread(payload, 1, (size_t)size, file) != (size_t)size)
        die("payload=@%s: cannot be read", path);
    fclose(file);
    *bytes = (size_t)size;
    return payload;
}

static double parse_double(const char *key, const char *text, double low, double high)
{
    char *end = NULL;
    double value = strtod(text, &end);
    if (end == text || *end != 0 || !(value >= low && value <= high))
        die("%s: '%s' is not a number in %g .. %g", key, text, low, high);
    return value;
}

/* Cuts "word*3" into word and 3. */
static double take_weight(const char *key, char *word)
{
    char *star = strchr(word, '*');
    if (!star)
        return 1;
    *star = 0;
    return parse_double(key, star + 1, 1e-9, 1e9);
}

static void make_kinds(struct stream *s, char *functions, char *payloads)
{
    char *function_words[KINDS_MAX], *payload_words[KINDS_MAX], *state = NULL;
    double function_weights[KINDS_MAX], payload_weights[KINDS_MAX], total = 0, up_to = 0;
    uint32_t f_count = 0, p_count = 0;
    for (char *word = strtok_r(functions, "+", &state); word; word = strtok_r(NULL, "+", &state)) {
        if (f_count == KINDS_MAX)
            die("function: more than %d", KINDS_MAX);
        function_weights[f_count] = take_weight("function", word);
        function_words[f_count++] = word;
    }
    for (char *word = strtok_r(payloads, "+", &state); word; word = strtok_r(NULL, "+", &state)) {
        if (p_count == KINDS_MAX)
            die("payload: more than %d", KINDS_MAX);
        payload_weights[p_count] = take_weight("payload", word);
        payload_words[p_count++] = word;
    }
    if (f_count == 0 || p_count == 0 || f_count * p_count > KINDS_MAX)
        die("stream '%s': 1 .. %d pairs of function and payload, not %u", s->name, KINDS_MAX, f_count * p_count);
    for (uint32_t p = 0; p < p_count; p++) {
        size_t bytes;
        uint8_t *payload;
        if (payload_words[p][0] == '@') {
            payload = read_payload(payload_words[p] + 1, &bytes);
        } else {
            bytes = parse_number("payload", payload_words[p], 0, 1u << 30);
            payload = make_payload(bytes);
        }
        for (uint32_t f = 0; f < f_count; f++) {
            struct kind *kind = &s->kinds[s->kinds_count++];
            if (strlen(function_words[f]) > 255)
                die("function '%s' is longer than 255 bytes", function_words[f]);
            kind->request_bytes = wire_make_invoke(NULL, function_words[f], payload, bytes, s->deadline_ms, s->report);
            kind->request = grab(kind->request_bytes);
            wire_make_invoke(kind->request, function_words[f], payload, bytes, s->deadline_ms, s->report);
            kind->payload = payload;
            kind->payload_bytes = bytes;
            kind->weight_up_to = function_weights[f] * payload_weights[p];
            kind->latency = grab(sizeof *kind->latency);
            total += kind->weight_up_to;
        }
    }
    for (uint32_t i = 0; i < s->kinds_count; i++) {
        up_to += s->kinds[i].weight_up_to / total;
        s->kinds[i].weight_up_to = i + 1 == s->kinds_count ? 1 : up_to;
    }
}

static void set_mode(struct stream *s, const char *text)
{
    static const char *const names[] = {"closed", "open", "idle"};
    for (uint32_t i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            s->mode = (enum mode)i;
            return;
        }
    die("mode: '%s' is not closed, open or idle", text);
}

static bool one_of(const char *key, const char *text, const char *yes, const char *no)
{
    if (strcmp(text, yes) != 0 && strcmp(text, no) != 0)
        die("%s: '%s' is not %s or %s", key, text, yes, no);
    return strcmp(text, yes) == 0;
}

static struct stream *make_stream(char *spec)
{
    struct stream *s = grab(sizeof *s);
    char default_payload[] = "100", *functions = NULL, *payloads = default_payload, *state = NULL;
    strcpy(s->name, "load");
    s->connections = 1;
    s->inflight = 1;
    s->outstanding = 65536;
    s->check_echo = true;
    s->stop_ns = UINT64_MAX;
    for (char *word = strtok_r(spec, ",", &state); word; word = strtok_r(NULL, ",", &state)) {
        char *value = strchr(word, '=');
        if (!value)
            die("--stream: '%s' is not KEY=VALUE\n%s", word, USAGE);
        *value++ = 0;
        if (strcmp(word, "name") == 0) {
            if (strlen(value) >= sizeof s->name)
                die("name: '%s' is longer than %zu bytes", value, sizeof s->name - 1);
            strcpy(s->name, value);
        } else if (strcmp(word, "mode") == 0) {
            set_mode(s, value);
        } else if (strcmp(word, "function") == 0) {
            functions = value;
        } else if (strcmp(word, "payload") == 0) {
            payloads = value;
        } else if (strcmp(word, "connections") == 0) {
            s->connections = (uint32_t)parse_number(word, value, 1, CONNECTIONS_MAX);
        } else if (strcmp(word, "inflight") == 0) {
            s->inflight = (uint32_t)parse_number(word, value, 1, OUTSTANDING_MAX);
        } else if (strcmp(word, "outstanding") == 0) {
            s->outstanding = (uint32_t)parse_number(word, value, 1, OUTSTANDING_MAX);
        } else if (strcmp(word, "rate") == 0) {
            s->rate = parse_double(word, value, 1e-3, 1e8);
        } else if (strcmp(word, "arrival") == 0) {
            s->poisson = one_of(word, value, "poisson", "uniform");
        } else if (strcmp(word, "check") == 0) {
            s->check_echo = one_of(word, value, "echo", "none");
        } else if (strcmp(word, "report") == 0) {
            s->report = parse_number(word, value, 0, 1);
        } else if (strcmp(word, "deadline_ms") == 0) {
            s->deadline_ms = (uint32_t)parse_number(word, value, 1, 86400000);
        } else if (strcmp(word, "start_ms") == 0) {
            s->start_ns = parse_number(word, value, 1, 86400000) * NS_PER_MS;
        } else if (strcmp(word, "stop_ms") == 0) {
            s->stop_ns = parse_number(word, value, 1, 86400000) * NS_PER_MS;
        } else {
            die("--stream: no key '%s'\n%s", word, USAGE);
        }
    }
    if (s->mode == MODE_OPEN && s->rate <= 0)
        die("stream '%s': mode=open needs rate", s->name);
    if (s->mode != MODE_IDLE) {
        if (!functions)
            die("stream '%s': function is missing", s->name);
        make_kinds(s, functions, payloads);
    }
    return s;
}

void load_options(struct load *load, int argc, char **argv)
{
    *load = (struct load){.warmup_ns = NS_PER_S / 2, .duration_ns = 2 * NS_PER_S, .drain_ns = 5 * NS_PER_S,
                          .pin = -1, .seed = 1};
    uint32_t connections = 0;
    for (int i = 1; i < argc; i++) {
        const char *option = argv[i];
        if (strcmp(option, "--spin") == 0) {
            load->spin = true;
            continue;
        }
        if (i + 1 == argc)
            die("%s: unknown, or its value is missing\n%s", option, USAGE);
        char *value = argv[++i];
        if (strcmp(option, "--unix") == 0) {
            load->unix_path = value;
        } else if (strcmp(option, "--tcp") == 0) {
            load->tcp = value;
        } else if (strcmp(option, "--token") == 0) {
            if (strlen(value) > 255)
                die("--token: longer than 255 bytes");
            load->token = value;
        } else if (strcmp(option, "--warmup-ms") == 0) {
            load->warmup_ns = parse_number(option, value, 0, 3600000) * NS_PER_MS;
        } else if (strcmp(option, "--duration-ms") == 0) {
            load->duration_ns = parse_number(option, value, 1, 86400000) * NS_PER_MS;
        } else if (strcmp(option, "--count") == 0) {
            load->count = parse_number(option, value, 1, UINT64_C(1) << 40);
            load->duration_ns = 86400 * NS_PER_S;
        } else if (strcmp(option, "--drain-ms") == 0) {
            load->drain_ns = parse_number(option, value, 0, 3600000) * NS_PER_MS;
        } else if (strcmp(option, "--series-ms") == 0) {
            load->series_ns = parse_number(option, value, 1, 3600000) * NS_PER_MS;
        } else if (strcmp(option, "--pin") == 0) {
            load->pin = (int)parse_number(option, value, 0, 1023);
        } else if (strcmp(option, "--seed") == 0) {
            load->seed = parse_number(option, value, 1, UINT64_MAX);
        } else if (strcmp(option, "--stream") == 0) {
            if (load->streams_count == STREAMS_MAX)
                die("--stream: more than %d", STREAMS_MAX);
            struct stream *s = make_stream(value);
            load->streams[load->streams_count++] = s;
            connections += s->connections;
        } else {
            die("%s: unknown\n%s", option, USAGE);
        }
    }
    if (!load->unix_path == !load->tcp)
        die("one of --unix and --tcp\n%s", USAGE);
    if (load->streams_count == 0)
        die("--stream is missing\n%s", USAGE);
    if (connections > CONNECTIONS_MAX)
        die("connections: %u in all, at most %d", connections, CONNECTIONS_MAX);
    if (load->series_ns && load->count == 0 && load->duration_ns / load->series_ns >= SERIES_MAX)
        die("--series-ms: more than %d intervals", SERIES_MAX);
    load->connections_count = connections;
}
