/* urlevent.h: a request to a function URL as the event that the function gets (payload format 2.0), without input or output.
 *
 * The control plane makes the same events (scheduler/lambda_api/url_event.py), byte for byte; a test holds the one against the
 * other. What could be read in more ways than one there is not read here at all. */
#ifndef SCHED_URLEVENT_H
#define SCHED_URLEVENT_H

#include "http.h"

struct url_context {
    const char *account;    /* whose access key has signed: the service's account and the key's id; NULL: anybody's request */
    const char *key_id;
    const char *peer;       /* the address that it came from */
    const char *request_id;
    int64_t now_ms;         /* Unix time */
};

/* Bytes of JSON written, or -1: the slow side's business, or more than `room`. */
int64_t url_event(const struct http_request *request, const struct url_context *context, uint8_t *out, size_t room);

#endif
