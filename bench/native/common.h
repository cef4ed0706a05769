/* common.h: what every bench program needs: the clock, pinning, sockets, a way to give up.
 *
 * Law: a program of the bench never goes on with a half-made set-up. A wrong option, a failed pin or a lost peer ends it with
 * a sentence on stderr and status 2, since a figure from it would be a lie.
 */
#ifndef BENCH_COMMON_H
#define BENCH_COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t now_ns(void); /* CLOCK_MONOTONIC */
/* CPU time of the calling process so far, user and system. */
void cpu_used_ns(uint64_t *user_ns, uint64_t *system_ns);

/* Pins the calling thread; -1: leave it alone. */
void pin_cpu(int cpu);
/* Without this the kernel may deliver a timed wake-up 50 us late. */
void tight_timers(void);

/* A whole number in low .. high, or the end of the program naming the option. */
uint64_t parse_number(const char *option, const char *text, uint64_t low, uint64_t high);

void *grab(size_t bytes); /* zeroed; dies when there is none */

int connect_unix(const char *path);
int connect_tcp(const char *host_port);
int listen_unix(const char *path, int backlog);
void set_nonblocking(int fd);
void set_blocking(int fd);
/* Blocking, all of it; false: the peer has gone. */
bool read_all(int fd, void *out, size_t bytes);
bool write_all(int fd, const void *in, size_t bytes);

/* xorshift64*; state must not be 0. */
uint64_t random_next(uint64_t *state);
double random_unit(uint64_t *state); /* in (0, 1] */

#endif
