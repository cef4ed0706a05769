/* Invariant: any bytes as START give a verdict; what is taken lies inside them, each string with its end, each list with its NULL; and
 * the bytes of a text become a JSON string without a byte that stands for something else in one.
 *
 * The same of a subscription, and of records, whose bytes stay within the bounds.
 *
 * The input is a body of START and of TELEMETRY. */
#include "../launcher/agent_channel.c"
#include "../launcher/execstart.c"
#include "../launcher/telemetry.c"
#include "../launcher/wire.c"
#include "../tests/harness.h"
#include "json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(char *const *list, unsigned most, const char *in, size_t size) {
    unsigned count = 0;
    for (; list[count] != NULL; count++) {
        SCHED_ASSERT(count < most && list[count] >= in && list[count] < in + size);
        SCHED_ASSERT(memchr(list[count], '\0', (size_t)(in + size - list[count])) != NULL);
    }
}

/* Nobody listens: the subscription is one that is not delivered within the run. */
static void telemetry_of(const uint8_t *data, size_t size) {
    static struct telemetry telemetry;
    const struct telemetry_subscription what = {.types = 7, .protocol = TELEMETRY_TCP, .max_items = 4, .max_bytes = 64, .timeout_ms = 9, .port = 1};
    char message[sizeof what + 3];
    const bool good = telemetry_subscribe(&telemetry, guarded(data, size), size) == NULL;
    SCHED_ASSERT(!good || telemetry.subscribers[data[0]].there);
    memcpy(message, &what, sizeof what);
    memcpy(message + sizeof what, "h\0", 3);
    SCHED_ASSERT(telemetry_subscribe(&telemetry, message, sizeof message) == NULL);
    (void)telemetry_take(&telemetry, guarded(data, size), size, 0);
    const struct telemetry_subscriber *const one = &telemetry.subscribers[0];
    SCHED_ASSERT(one->gathered.bytes <= 64 + SLACK_BYTES && one->sent.bytes <= 64 + SLACK_BYTES);
    for (unsigned i = 0; i < TELEMETRY_SUBSCRIBERS_MAX; i++) {
        forget(&telemetry.subscribers[i]);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct execstart start;
    static char text[1 << 12], json[1 << 12];
    if (size > EXECSTART_BYTES_MAX + 8) {
        return 0;
    }
    char *const in = (char *)(uintptr_t)guarded(data, size);
    if (execstart_decode(in, size, &start) == NULL) {
        inside(start.programs, EXECSTART_PROGRAMS_MAX, in, size);
        inside(start.arguments, EXECSTART_ARGUMENTS_MAX, in, size);
        inside(start.variables, EXECSTART_VARIABLES_MAX, in, size);
        inside(start.extensions, EXECSTART_EXTENSIONS_MAX, in, size);
        inside(start.extension_variables, EXECSTART_VARIABLES_MAX, in, size);
        SCHED_ASSERT(start.directory >= in && start.directory < in + size && start.directory[0] == '/' &&
                     start.programs[0] != NULL && start.programs[start.programs_count] == NULL);
    }
    telemetry_of(data, size);
    const size_t bytes = size < sizeof text ? size : sizeof text - 1;
    memcpy(text, data, bytes);
    text[bytes] = '\0';
    json[0] = '\0';
    agent_json_string(json, 1 + size % sizeof json, text);
    size_t at;
    SCHED_ASSERT(json[0] == '\0' || json_valid((const uint8_t *)json, strlen(json), &at));
    return 0;
}
