/* network_link.h: messages about devices, addresses and routes, for network.c (uplink) and network_attach.c (a sandbox's link). */
#ifndef LAUNCHER_NETWORK_LINK_H
#define LAUNCHER_NETWORK_LINK_H

#include <arpa/inet.h>
#include <sys/types.h>

#include "network.h"
#include "network_message.h"

enum { LINK_INDEX_FIRST = 64 }; /* of the router's devices: chosen by us, so that a route can name one in the same batch */

struct link_end {
    const char *name;
    int namespace;  /* descriptor; -1: the socket's */
    pid_t pid;      /* or that of this process; 0: not so */
    int index;      /* 0: the kernel chooses */
    bool up;
};

/* A pair of devices, each without ARP. */
void link_pair(struct netlink_batch *batch, const struct link_end *near, const struct link_end *far);
void link_up_without_ipv6(struct netlink_batch *batch, int index);
void link_address(struct netlink_batch *batch, int index, uint32_t address);
/* To address/bits (host order); 0 bits: to everywhere. */
void link_route(struct netlink_batch *batch, int index, uint32_t address, unsigned bits);
/* Of a device in the namespace of the socket, or -errno. */
int link_index(int fd, const char *name);

#endif
