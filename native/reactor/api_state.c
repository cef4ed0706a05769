/* api_state.c: see api_state.h. */
#include "api_state.h"

#include "../core/invariant.h"

#define YES(state) {API_ACCEPT, state}
#define NO(state) {API_REFUSE_STATE, state}
#define OTHER(state) {API_REFUSE_ID, state}
#define NEVER(state) {API_NEVER, state}

/* A response to the call that it has answered already is out of order; once it has asked for the next, that call's id is no more. */
static const struct api_step table[API_STATES][API_WANTS] = {
    [API_STARTED] = {
        [API_WANT_NEXT] = YES(API_WAITING), [API_WANT_RESPOND] = NEVER(API_STARTED), [API_WANT_RESPOND_OTHER] = OTHER(API_STARTED),
        [API_WANT_INIT_ERROR] = YES(API_INIT_FAILED), [API_GIVEN] = NEVER(API_STARTED), [API_HUNG_UP] = NEVER(API_STARTED),
        [API_BODY_WHOLE] = NEVER(API_STARTED), [API_BODY_CUT] = NEVER(API_STARTED)},
    [API_WAITING] = {
        [API_WANT_NEXT] = NO(API_WAITING), [API_WANT_RESPOND] = NEVER(API_WAITING), [API_WANT_RESPOND_OTHER] = OTHER(API_WAITING),
        [API_WANT_INIT_ERROR] = NO(API_WAITING), [API_GIVEN] = YES(API_RUNNING), [API_HUNG_UP] = YES(API_ANSWERED),
        [API_BODY_WHOLE] = NEVER(API_WAITING), [API_BODY_CUT] = NEVER(API_WAITING)},
    [API_RUNNING] = {
        [API_WANT_NEXT] = NO(API_RUNNING), [API_WANT_RESPOND] = YES(API_RESPONDING), [API_WANT_RESPOND_OTHER] = OTHER(API_RUNNING),
        [API_WANT_INIT_ERROR] = NO(API_RUNNING), [API_GIVEN] = NEVER(API_RUNNING), [API_HUNG_UP] = NEVER(API_RUNNING),
        [API_BODY_WHOLE] = NEVER(API_RUNNING), [API_BODY_CUT] = NEVER(API_RUNNING)},
    [API_RESPONDING] = {
        [API_WANT_NEXT] = NO(API_RESPONDING), [API_WANT_RESPOND] = NO(API_RESPONDING),
        [API_WANT_RESPOND_OTHER] = OTHER(API_RESPONDING), [API_WANT_INIT_ERROR] = NO(API_RESPONDING),
        [API_GIVEN] = NEVER(API_RESPONDING), [API_HUNG_UP] = NEVER(API_RESPONDING), [API_BODY_WHOLE] = YES(API_ANSWERED),
        [API_BODY_CUT] = YES(API_RUNNING)},
    [API_ANSWERED] = {
        [API_WANT_NEXT] = YES(API_WAITING), [API_WANT_RESPOND] = NO(API_ANSWERED), [API_WANT_RESPOND_OTHER] = OTHER(API_ANSWERED),
        [API_WANT_INIT_ERROR] = NO(API_ANSWERED), [API_GIVEN] = NEVER(API_ANSWERED), [API_HUNG_UP] = NEVER(API_ANSWERED),
        [API_BODY_WHOLE] = NEVER(API_ANSWERED), [API_BODY_CUT] = NEVER(API_ANSWERED)},
    [API_INIT_FAILED] = {
        [API_WANT_NEXT] = NO(API_INIT_FAILED), [API_WANT_RESPOND] = NEVER(API_INIT_FAILED),
        [API_WANT_RESPOND_OTHER] = OTHER(API_INIT_FAILED), [API_WANT_INIT_ERROR] = NO(API_INIT_FAILED),
        [API_GIVEN] = NEVER(API_INIT_FAILED), [API_HUNG_UP] = NEVER(API_INIT_FAILED), [API_BODY_WHOLE] = NEVER(API_INIT_FAILED),
        [API_BODY_CUT] = NEVER(API_INIT_FAILED)},
};

struct api_step api_step(enum api_state state, enum api_want want) {
    const struct api_step step = table[state][want];
    SCHED_ASSERT(step.verdict != API_NEVER);
    return step;
}

const char *api_state_name(enum api_state state) {
    static const char *const names[API_STATES] = {"Started", "Ready", "Running", "InvocationResponse", "ResponseSent", "InitError"};
    return names[state];
}

const char *api_want_name(enum api_want want) {
    static const char *const names[API_WANTS] = {[API_WANT_NEXT] = "Ready", [API_WANT_RESPOND] = "InvocationResponse",
                                                 [API_WANT_RESPOND_OTHER] = "InvocationResponse", [API_WANT_INIT_ERROR] = "InitError"};
    return names[want] == 0 ? "" : names[want];
}
