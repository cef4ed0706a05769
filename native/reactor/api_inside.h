/* api_inside.h: what the files of the Runtime API share among themselves.
 *
 *   api.c          connections: made, read, flushed, ended
 *   api_request.c  requests: what they want, their bodies, whether they may
 *   api_call.c     what is said: calls that are given, refusals
 *   api_stream.c   answers in pieces
 *   api_telemetry.c who wants to know what goes on, and is told
 *   api_extension.c extensions: registered, told of calls and of the end, waited for
 */
#ifndef SCHED_API_INSIDE_H
#define SCHED_API_INSIDE_H

#include "api.h"

/* api.c */
void api_dirty(struct sched *sched, struct api_connection *connection);
/* Closed at once, freed when it is flushed next. */
void api_hang_up(struct sched *sched, struct api_connection *connection);
void api_flush(struct sched *sched, struct api_connection *connection);
void api_drop_body(struct api_connection *connection);
/* The answer that came by this connection will not be whole. */
void api_stop_responding(struct sched *sched, struct api_connection *connection);
/* Asks epoll for what is wanted of it now. */
void api_rewatch(struct sched *sched, struct api_connection *connection);
/* A request that brings no call on, or a connection, is work that a sandbox can ask for without end. */
void api_spend(struct sched *sched, struct api *api, uint32_t cost);

/* api_request.c */
/* The head is read: connection->head. */
void api_begin(struct sched *sched, struct api_connection *connection);
/* The request is whole. `at`: its body, in `owner` if that is not NULL. */
void api_finish(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, struct block *owner);
/* Of a body: bytes done with. in_place: the bytes stay where they are until the next step of the core. */
uint32_t api_take_chunks(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes);
uint32_t api_take_known(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes, bool in_place);
/* The rest of the body will not come. */
void api_cut(struct sched *sched, struct api_connection *connection);
/* Is the other end of a connection that waits still there? A client that gave up and asks anew may be heard before we hear that. */
bool api_is_there(const struct api_connection *connection);
void api_not_http(struct sched *sched, struct api_connection *connection, bool too_long);

void api_answer(struct sched *sched, struct api *api, uint32_t status, const uint8_t *at, uint32_t bytes, struct block *owner,
                bool lingers);
/* An error object that we make. text: free of what JSON escapes. */
void api_answer_error(struct sched *sched, struct api *api, enum core_reply_status status, const char *type, const char *text);

/* api_stream.c */
/* The caller of the running call wants its answer in pieces; it is told that they come. */
bool api_stream_begin(struct sched *sched, struct api_connection *connection);
void api_stream_add(struct sched *sched, struct api_connection *connection, const uint8_t *data, uint32_t bytes);

/* api_extension.c */
/* As struct route in api_request.c has them. */
void api_begin_register(struct sched *sched, struct api_connection *connection);
void api_register(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes);
void api_begin_event(struct sched *sched, struct api_connection *connection);
void api_event_next(struct sched *sched, struct api_connection *connection);
void api_extension_error(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes);
/* The connection of an `event/next` that waits is gone. */
void api_extension_hung_up(struct api *api, const struct api_connection *connection);
/* The runtime waits, or an extension does: if all do, the sandbox is ready. */
void api_settle(struct sched *sched, struct api *api);
/* The end of a call that lingered is written. timeout: its time was up. */
void api_write_report(struct sched *sched, struct api *api, bool timeout);
/* None is still at work on the call. */
bool api_extensions_done(const struct api *api);
/* Those that want to know of calls are told of this one; all of them wait. */
void api_tell_invoke(struct sched *sched, struct api *api, const struct ticket *ticket, uint64_t deadline_ms);

/* api_telemetry.c */
void api_subscribe(struct sched *sched, struct api_connection *connection, const uint8_t *at, uint32_t bytes);
/* Records, for those that have subscribed. */
void api_tell_init(struct sched *sched, struct api *api);
/* tracing: as it stands in a JSON text; empty: none. */
void api_tell_start(struct sched *sched, struct api *api, const char *tracing);
void api_tell_done(struct sched *sched, struct api *api, const char *status, const char *error_type, uint64_t produced_bytes);
void api_tell_report(struct sched *sched, struct api *api);

/* api_call.c */
uint64_t api_wall_ms(void);
char *api_put_value(char *at, const uint8_t *text, size_t bytes);
/* The oldest call that is held goes to the runtime, if it waits for one. */
void api_give(struct sched *sched, struct api *api);
void api_say(struct sched *sched, struct api_connection *connection, unsigned status, const char *reason, const char *type,
             const char *body);
void api_say_accepted(struct sched *sched, struct api_connection *connection);
/* Said once its body is read. */
void api_refuse(struct api_connection *connection, unsigned status, const char *type, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
void api_refuse_step(struct api_connection *connection, const struct api_step *step, enum api_want want);
void api_say_refusal(struct sched *sched, struct api_connection *connection);

#endif
