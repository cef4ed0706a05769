/* network_message.h: netlink messages, put together and sent as one batch, and what the kernel says to each. Bytes only: which
 * device, route or rule is wanted is decided in network*.c.
 *
 * A message that does not fit marks the batch as full; sending it is then -EMSGSIZE. Nothing is half sent.
 */
#ifndef LAUNCHER_NETWORK_MESSAGE_H
#define LAUNCHER_NETWORK_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NETLINK_BATCH_BYTES = 24576, NETLINK_ANSWER_BYTES = 32768 };

struct netlink_batch {
    uint32_t used;
    uint32_t message;        /* offset of the message under way */
    uint32_t messages;       /* those that are answered */
    uint32_t first;          /* sequence number of the first */
    bool full;
    _Alignas(8) unsigned char bytes[NETLINK_BATCH_BYTES];
};

/* A socket of a netlink protocol in this process' network namespace: descriptor or -errno. */
int netlink_open(int protocol);

void netlink_begin(struct netlink_batch *batch);
/* A message with its fixed part; REQUEST and ACK are added to flags, but ACK not to one that is `silent`. */
void netlink_message(struct netlink_batch *batch, uint16_t type, uint16_t flags, const void *fixed, size_t bytes, bool silent);
void netlink_put(struct netlink_batch *batch, uint16_t type, const void *data, size_t bytes);
void netlink_put_u32(struct netlink_batch *batch, uint16_t type, uint32_t value);
void netlink_put_text(struct netlink_batch *batch, uint16_t type, const char *text);
/* Opens a nested attribute; its place, for netlink_close(). */
uint32_t netlink_nest(struct netlink_batch *batch, uint16_t type);
void netlink_close(struct netlink_batch *batch, uint32_t place);
/* Bytes without a header of their own: the fixed part of what is nested. */
void netlink_raw(struct netlink_batch *batch, const void *data, size_t bytes);

/* Sends all and waits for each answer. 0, or -errno of the first message that failed; *failed is then its number, from 0. */
int netlink_send(int fd, struct netlink_batch *batch, unsigned *failed);

/* Asks for a list with the one message of the batch (flag DUMP) and hands each entry on: type, fixed part and attributes. 0 or
 * -errno. */
int netlink_list(int fd, struct netlink_batch *batch,
                 void (*each)(void *context, uint16_t type, const unsigned char *body, size_t bytes), void *context);

/* The attribute of that type among `bytes` of attributes, its length in *length; NULL: there is none. */
const unsigned char *netlink_find(const unsigned char *attributes, size_t bytes, uint16_t type, size_t *length);

#endif
