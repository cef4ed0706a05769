/* answer.h: what answers have in common, whatever protocol they are written in. answer.c is MessagePack-RPC's, web.c HTTP's. */
#ifndef SCHED_ANSWER_H
#define SCHED_ANSWER_H

#include "reactor.h"

enum { MESSAGE_MAX = 512 };

/* An outcome that is no result, in words. */
struct error {
    const char *type;
    char message[MESSAGE_MAX];
    const char *payload_type; /* errorType of the Lambda error object that is made of the message, or NULL */
    const char *reason;
    bool account;
    bool retry;
};

/* id: of the request, as text. */
void answer_describe(struct sched *sched, struct error *error, const struct core_action *answer, const struct function_info *info,
                     const char *id);
/* The function ran, as far as it came. */
bool answer_ran(const struct core_action *answer);
/* The last TAIL_BYTES of the call's log with START, END and REPORT; bytes. */
size_t answer_log_tail(struct sched *sched, const struct core_action *answer, const struct ticket *ticket,
                       const struct function_info *info, char out[TAIL_BYTES]);
const char *answer_resource_name(uint16_t resource);

/* weburl.c */
void url_answer(struct sched *sched, struct client *client, const struct core_action *answer, const struct ticket *ticket,
                const struct reply *reply);

/* web.c */
void web_answer(struct sched *sched, struct client *client, const struct core_action *answer, const struct ticket *ticket,
                const struct function_info *info, const struct reply *reply);

#endif
