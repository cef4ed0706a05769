/* api_state.h: what the Runtime API allows when, as a table. Pure: no input, no output, no memory.
 *
 * One machine for the runtime of each sandbox. A request names what it wants; the table says whether it may and where that leads.
 */
#ifndef SCHED_API_STATE_H
#define SCHED_API_STATE_H

enum api_state {
    API_STARTED,      /* it initialises: nothing was asked for yet */
    API_WAITING,      /* its `next` waits for a call */
    API_RUNNING,      /* it has a call */
    API_RESPONDING,   /* its answer comes in */
    API_ANSWERED,     /* the answer is here; it is to ask for the next */
    API_INIT_FAILED,
    API_STATES
};

enum api_want {
    API_WANT_NEXT,
    API_WANT_RESPOND,     /* response or error, to the call it has */
    API_WANT_RESPOND_OTHER, /* to any other */
    API_WANT_INIT_ERROR,
    /* what happens without being asked for */
    API_GIVEN,            /* the call went to its `next` */
    API_HUNG_UP,          /* the connection of its `next` is gone */
    API_BODY_WHOLE,
    API_BODY_CUT,         /* the answer's end never came: it may try again */
    API_WANTS
};

enum api_verdict {
    API_ACCEPT,
    API_REFUSE_STATE,     /* 403 InvalidStateTransition */
    API_REFUSE_ID,        /* 400 InvalidRequestID */
    API_NEVER             /* the caller broke its own rules */
};

struct api_step {
    enum api_verdict verdict;
    enum api_state next;  /* where it stays if it is refused */
};

struct api_step api_step(enum api_state state, enum api_want want);
/* As refusals name it. */
const char *api_state_name(enum api_state state);
/* Where it would lead, as refusals name that. */
const char *api_want_name(enum api_want want);

#endif
