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
        [API_WANT_INIT_ERROR] = YES(API_FAILED), [API_GIVEN] = NEVER(API_STARTED), [API_HUNG_UP] = NEVER(API_STARTED),
        [API_BODY_WHOLE] = NEVER(API_STARTED), [API_BODY_CUT] = NEVER(API_STARTED), [API_HUNG_UP_EARLY] = NEVER(API_STARTED),
        [API_FAIL] = YES(API_FAILED)},
    [API_WAITING] = {
        [API_WANT_NEXT] = NO(API_WAITING), [API_WANT_RESPOND] = NEVER(API_WAITING), [API_WANT_RESPOND_OTHER] = OTHER(API_WAITING),
        [API_WANT_INIT_ERROR] = NO(API_WAITING), [API_GIVEN] = YES(API_RUNNING), [API_HUNG_UP] = YES(API_ANSWERED),
        [API_BODY_WHOLE] = NEVER(API_WAITING), [API_BODY_CUT] = NEVER(API_WAITING), [API_HUNG_UP_EARLY] = YES(API_STARTED),
        [API_FAIL] = YES(API_FAILED)},
    [API_RUNNING] = {
        [API_WANT_NEXT] = NO(API_RUNNING), [API_WANT_RESPOND] = YES(API_RESPONDING), [API_WANT_RESPOND_OTHER] = OTHER(API_RUNNING),
        [API_WANT_INIT_ERROR] = NO(API_RUNNING), [API_GIVEN] = NEVER(API_RUNNING), [API_HUNG_UP] = NEVER(API_RUNNING),
        [API_BODY_WHOLE] = NEVER(API_RUNNING), [API_BODY_CUT] = NEVER(API_RUNNING), [API_HUNG_UP_EARLY] = NEVER(API_RUNNING),
        [API_FAIL] = YES(API_FAILED)},
    [API_RESPONDING] = {
        [API_WANT_NEXT] = NO(API_RESPONDING), [API_WANT_RESPOND] = NO(API_RESPONDING),
        [API_WANT_RESPOND_OTHER] = OTHER(API_RESPONDING), [API_WANT_INIT_ERROR] = NO(API_RESPONDING),
        [API_GIVEN] = NEVER(API_RESPONDING), [API_HUNG_UP] = NEVER(API_RESPONDING), [API_BODY_WHOLE] = YES(API_ANSWERED),
        [API_BODY_CUT] = YES(API_RUNNING), [API_HUNG_UP_EARLY] = NEVER(API_RESPONDING),
        [API_FAIL] = YES(API_FAILED)},
    [API_ANSWERED] = {
        [API_WANT_NEXT] = YES(API_WAITING), [API_WANT_RESPOND] = NO(API_ANSWERED), [API_WANT_RESPOND_OTHER] = OTHER(API_ANSWERED),
        [API_WANT_INIT_ERROR] = NO(API_ANSWERED), [API_GIVEN] = NEVER(API_ANSWERED), [API_HUNG_UP] = NEVER(API_ANSWERED),
        [API_BODY_WHOLE] = NEVER(API_ANSWERED), [API_BODY_CUT] = NEVER(API_ANSWERED), [API_HUNG_UP_EARLY] = NEVER(API_ANSWERED),
        [API_FAIL] = YES(API_FAILED)},
    [API_FAILED] = {
        [API_WANT_NEXT] = NO(API_FAILED), [API_WANT_RESPOND] = NEVER(API_FAILED),
        [API_WANT_RESPOND_OTHER] = OTHER(API_FAILED), [API_WANT_INIT_ERROR] = NO(API_FAILED),
        [API_GIVEN] = NEVER(API_FAILED), [API_HUNG_UP] = NEVER(API_FAILED), [API_BODY_WHOLE] = NEVER(API_FAILED),
        [API_BODY_CUT] = NEVER(API_FAILED), [API_HUNG_UP_EARLY] = NEVER(API_FAILED),
        [API_FAIL] = YES(API_FAILED)},
};

struct api_step api_step(enum api_state state, enum api_want want) {
    const struct api_step step = table[state][want];
    SCHED_ASSERT(step.verdict != API_NEVER);
    return step;
}

static const struct api_extension_step extension_table[EXTENSION_STATES][EXTENSION_WANTS] = {
    [EXTENSION_REGISTERED] = {
        [EXTENSION_WANT_NEXT] = YES(EXTENSION_WAITING), [EXTENSION_WANT_INIT_ERROR] = YES(EXTENSION_FAILED),
        [EXTENSION_WANT_EXIT_ERROR] = YES(EXTENSION_FAILED), [EXTENSION_GIVEN] = NEVER(EXTENSION_REGISTERED),
        [EXTENSION_HUNG_UP] = NEVER(EXTENSION_REGISTERED)},
    [EXTENSION_WAITING] = {
        [EXTENSION_WANT_NEXT] = NO(EXTENSION_WAITING), [EXTENSION_WANT_INIT_ERROR] = NO(EXTENSION_WAITING),
        [EXTENSION_WANT_EXIT_ERROR] = YES(EXTENSION_FAILED), [EXTENSION_GIVEN] = YES(EXTENSION_RUNNING),
        [EXTENSION_HUNG_UP] = YES(EXTENSION_RUNNING)},
    [EXTENSION_RUNNING] = {
        [EXTENSION_WANT_NEXT] = YES(EXTENSION_WAITING), [EXTENSION_WANT_INIT_ERROR] = NO(EXTENSION_RUNNING),
        [EXTENSION_WANT_EXIT_ERROR] = YES(EXTENSION_FAILED), [EXTENSION_GIVEN] = NEVER(EXTENSION_RUNNING),
        [EXTENSION_HUNG_UP] = NEVER(EXTENSION_RUNNING)},
    [EXTENSION_FAILED] = {
        [EXTENSION_WANT_NEXT] = NO(EXTENSION_FAILED), [EXTENSION_WANT_INIT_ERROR] = NO(EXTENSION_FAILED),
        [EXTENSION_WANT_EXIT_ERROR] = NO(EXTENSION_FAILED), [EXTENSION_GIVEN] = NEVER(EXTENSION_FAILED),
        [EXTENSION_HUNG_UP] = NEVER(EXTENSION_FAILED)},
};

struct api_extension_step api_extension_step(enum api_extension_state state, enum api_extension_want want) {
    const struct api_extension_step step = extension_table[state][want];
    SCHED_ASSERT(step.verdict != API_NEVER);
    return step;
}

const char *api_extension_state_name(enum api_extension_state state) {
    static const char *const names[EXTENSION_STATES] = {"Registered", "Ready", "Running", "Failed"};
    return names[state];
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
