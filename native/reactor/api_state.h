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
    API_FAILED,       /* its init, or what made going on impossible: it is being ended */
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
    API_HUNG_UP_EARLY,    /* and others were not ready yet: it still initialises */
    API_FAIL,             /* others failed */
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

/* ---- extensions ------------------------------------------------------------------------------------------------------- */

enum api_extension_state {
    EXTENSION_REGISTERED,
    EXTENSION_WAITING,    /* its `event/next` waits */
    EXTENSION_RUNNING,    /* it was told of something, and has not asked again */
    EXTENSION_FAILED,
    EXTENSION_STATES
};

enum api_extension_want {
    EXTENSION_WANT_NEXT, EXTENSION_WANT_INIT_ERROR, EXTENSION_WANT_EXIT_ERROR,
    EXTENSION_GIVEN,      /* an event went to its `event/next` */
    EXTENSION_HUNG_UP,
    EXTENSION_WANTS
};

struct api_extension_step {
    enum api_verdict verdict;
    enum api_extension_state next;
};

struct api_extension_step api_extension_step(enum api_extension_state state, enum api_extension_want want);
const char *api_extension_state_name(enum api_extension_state state);

#endif
