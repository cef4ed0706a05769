/* wire.h: whole messages with descriptors over SOCK_SEQPACKET, and closing things. No state, no policy. */
#ifndef LAUNCHER_WIRE_H
#define LAUNCHER_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* 0 or -errno. flags: MSG_DONTWAIT or 0. Descriptors stay the caller's. */
int wire_send(int fd, const void *data, size_t bytes, const int *fds, unsigned fds_count, int flags);

/* Bytes received, 0 at the peer's end, or -errno. At most fds_max descriptors land in fds, close-on-exec, the caller's from
 * then on. A message or descriptor list that does not fit is -EMSGSIZE; then no descriptor is kept. */
ssize_t wire_receive(int fd, void *data, size_t bytes, int *fds, unsigned fds_max, unsigned *fds_count, int flags);

/* Descriptors can no longer be sent to this end: who tries gets EPERM. Dropping one may take the receiver's time for as long as
 * the sender likes (a socket that lingers, a huge file's last reference). -ENOPROTOOPT before Linux 6.16. */
int wire_refuse_descriptors(int fd);

/* Closes *fd unless it is negative, and makes it -1. */
void wire_close(int *fd);
void wire_close_all(int *fds, unsigned count);

/* Copies text into a field of `bytes`, cut if need be, always terminated and zero-filled. */
void wire_text(char *field, size_t bytes, const char *text);

/* Splits `bytes` of NUL-terminated strings into at most `max` pointers. Their count, or -EINVAL when the last is unterminated
 * or there are more. */
int wire_strings(const char *text, size_t bytes, const char **strings, unsigned max);

#endif
