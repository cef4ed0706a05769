#include "agent_channel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

bool agent_channel_receive(struct agent_channel *channel, struct frame_header *head, uint8_t **body) {
    if (channel->in_taken > 0) {
        channel->in_bytes -= channel->in_taken;
        memmove(channel->in, channel->in + channel->in_taken, channel->in_bytes);
        channel->in_taken = 0;
    }
    for (bool asked = false;; asked = true) {
        if (channel->in_bytes >= sizeof *head) {
            memcpy(head, channel->in, sizeof *head);
            if (head->length > FRAME_IN_BYTES_MAX) {
                channel->ended = true;
                return false;
            }
            if (channel->in_bytes >= sizeof *head + head->length) {
                channel->in_taken = sizeof *head + head->length;
                *body = channel->in + sizeof *head;
                return true;
            }
        }
        if (asked || channel->ended) {
            return false;
        }
        const ssize_t got = recv(channel->fd, channel->in + channel->in_bytes, sizeof channel->in - channel->in_bytes, MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
            channel->ended = true;
            return false;
        }
        channel->in_bytes += got > 0 ? (size_t)got : 0;
    }
}

uint8_t *agent_channel_log_room(const struct agent_channel *channel) {
    return channel->out_bytes > 0 ? NULL : (uint8_t *)(uintptr_t)channel->out + sizeof(struct frame_header);
}

void agent_channel_log(struct agent_channel *channel, size_t bytes) {
    const struct frame_header head = {.length = (uint32_t)bytes, .kind = FRAME_LOG, .flags = FRAME_LOG_EXTENSION};
    memcpy(channel->out, &head, sizeof head);
    channel->out_at = 0;
    channel->out_bytes = sizeof head + bytes;
    agent_channel_flush(channel);
}

void agent_channel_words(struct agent_channel *channel, enum frame_kind kind, const char *text) {
    const size_t bytes = strlen(text);
    const struct frame_header head = {.length = (uint32_t)bytes, .kind = (uint8_t)kind};
    if (bytes > FRAME_WORDS_BYTES_MAX) {
        return;
    }
    if (sizeof channel->out - channel->out_at - channel->out_bytes < sizeof head + bytes) {
        memmove(channel->out, channel->out + channel->out_at, channel->out_bytes);
        channel->out_at = 0;
    }
    uint8_t *const end = channel->out + channel->out_at + channel->out_bytes;
    if (sizeof channel->out - channel->out_bytes < sizeof head + bytes) {
        return;
    }
    memcpy(end, &head, sizeof head);
    memcpy(end + sizeof head, text, bytes);
    channel->out_bytes += sizeof head + bytes;
    agent_channel_flush(channel);
}

void agent_channel_flush(struct agent_channel *channel) {
    while (channel->out_bytes > 0) {
        const ssize_t sent = send(channel->fd, channel->out + channel->out_at, channel->out_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR) {
            continue;
        }
        if (sent < 0 && errno != EAGAIN) {
            channel->ended = true;
            channel->out_bytes = 0;
        }
        if (sent <= 0) {
            break;
        }
        channel->out_at += (size_t)sent;
        channel->out_bytes -= (size_t)sent;
    }
    channel->out_at = channel->out_bytes == 0 ? 0 : channel->out_at;
}

/* Bytes of the character at text, 0: it is none. */
static unsigned utf8_bytes(const char *text) {
    const unsigned char *const at = (const unsigned char *)text;
    static const struct {
        unsigned char first, last, second, second_last; /* of the lead byte, of the byte behind it */
        unsigned bytes;
    } kinds[] = {{0x20, 0x7f, 0, 0xff, 1},    {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3}, {0xe1, 0xec, 0x80, 0xbf, 3},
                 {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3}, {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4},
                 {0xf4, 0xf4, 0x80, 0x8f, 4}};
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (at[0] < kinds[i].first || at[0] > kinds[i].last || (kinds[i].bytes > 1 && (at[1] < kinds[i].second || at[1] > kinds[i].second_last))) {
            continue;
        }
        for (unsigned k = 2; k < kinds[i].bytes; k++) {
            if (at[k] < 0x80 || at[k] > 0xbf) {
                return 0;
            }
        }
        return kinds[i].bytes;
    }
    return 0;
}

void agent_json_string(char *to, size_t room, const char *text) {
    enum { LONGEST = 7, CLOSING = 2 }; /* \u00xx and a NUL; quote and NUL */
    size_t held = strlen(to);
    if (room < held + LONGEST + CLOSING) {
        return;
    }
    to[held++] = '"';
    while (*text != '\0' && room - held > LONGEST + CLOSING) {
        const unsigned bytes = utf8_bytes(text);
        if (bytes == 0 && (unsigned char)*text < 0x20) {
            held += (size_t)snprintf(to + held, room - held, "\\u%04x", (unsigned)(unsigned char)*text++);
        } else if (bytes == 0) {
            to[held++] = '?';
            text++;
        } else {
            if (*text == '"' || *text == '\\') {
                to[held++] = '\\';
            }
            memcpy(to + held, text, bytes);
            held += bytes;
            text += bytes;
        }
    }
    to[held++] = '"';
    to[held] = '\0';
}
