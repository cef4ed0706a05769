/* agent_channel.h: the frames of docs/internals/channel.md, as the agent reads and writes them. Non-blocking; buffers of a fixed size, so
 * that whoever writes much waits: the agent reads no more of an extension's output than the channel takes.
 */
#ifndef LAUNCHER_AGENT_CHANNEL_H
#define LAUNCHER_AGENT_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum frame_kind {
    FRAME_START = 1,
    FRAME_STOP = 3,
    FRAME_TELEMETRY = 5,
    FRAME_LOG = 17,
    FRAME_INIT_ERROR = 19,
    FRAME_EXTENSION = 22,
    FRAME_RUNTIME = 23
};

enum {
    FRAME_LOG_EXTENSION = 1,      /* a flag of LOG: an extension wrote it */
    FRAME_TELEMETRY_SUBSCRIBE = 1, /* a flag of TELEMETRY: a subscription; else records */
    FRAME_LOG_BYTES_MAX = 65536,
    FRAME_IN_BYTES_MAX = 262144,  /* of a body that comes */
    FRAME_WORDS_BYTES_MAX = 2048, /* of INIT_ERROR, EXTENSION, RUNTIME */
    FRAME_WORDS_MAX = 16          /* of those under way */
};

struct frame_header {
    uint32_t length;
    uint8_t kind;
    uint8_t flags;
    uint16_t extra;
    uint32_t seq;
    uint32_t reserved;
    uint64_t time_ns;
};

_Static_assert(sizeof(struct frame_header) == 24, "as channel.md has it");

struct agent_channel {
    int fd;
    bool ended; /* the service has closed it, or what came is no frame */
    size_t in_bytes, in_taken, out_at, out_bytes;
    uint8_t in[sizeof(struct frame_header) + FRAME_IN_BYTES_MAX];
    uint8_t out[sizeof(struct frame_header) + FRAME_LOG_BYTES_MAX +
                FRAME_WORDS_MAX * (sizeof(struct frame_header) + FRAME_WORDS_BYTES_MAX)];
};

/* The next whole frame, its body valid until the next call. False: there is none yet, or `ended` is set. */
bool agent_channel_receive(struct agent_channel *channel, struct frame_header *head, uint8_t **body);

/* Where the body of a LOG frame of at most FRAME_LOG_BYTES_MAX may be written; NULL: frames wait to be sent. */
uint8_t *agent_channel_log_room(const struct agent_channel *channel);
void agent_channel_log(struct agent_channel *channel, size_t bytes);

/* A frame with a text. One that finds no room is dropped: so many do not come. */
void agent_channel_words(struct agent_channel *channel, enum frame_kind kind, const char *text);

/* Sends what can be sent at once. */
void agent_channel_flush(struct agent_channel *channel);

/* Appends text as a JSON string, quotes included, to a text of `room` bytes. What is no UTF-8 becomes '?'. It is cut where the room
 * ends, and is whole JSON even then. */
void agent_json_string(char *to, size_t room, const char *text);

#endif
