/* urlreply.h: from what a function answers to a request of its URL to HTTP, without input or output.
 *
 * The bytes are a sandbox's: they are judged first, then read strictly and within bounds. The usual forms are known here. Whatever
 * else is an answer, or is none, is left to the control plane (scheduler/lambda_api/url_reply.py), which knows all of them; where
 * both make one, it is the same byte for byte, and a test holds the one against the other. */
#ifndef SCHED_URLREPLY_H
#define SCHED_URLREPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    URL_ANSWER_BYTES_MAX = 64 * 1024, /* a larger one would be read for so long that others wait */
    URL_REPLY_HEAD_MAX = 64 * 1024,   /* room that is enough whatever the head holds: it is made of the answer */
    URL_REPLY_ROOM = URL_REPLY_HEAD_MAX + URL_ANSWER_BYTES_MAX
};

/* Bytes of the whole answer, at out; or -1: the slow side's. close: the connection ends with it. */
int64_t url_reply(const uint8_t *answer, size_t bytes, const char *request_id, bool close, uint8_t out[URL_REPLY_ROOM]);

/* A refusal, or a function's failure (502), which is not told more. error: Lambda's name of it, or NULL. */
int64_t url_refusal(unsigned status, const char *error, const char *request_id, bool close, uint8_t out[URL_REPLY_ROOM]);

#endif
