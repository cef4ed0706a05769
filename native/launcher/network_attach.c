/* A sandbox's own link: the only part of network.h that runs in a newborn. */
#include <errno.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "network_link.h"
#include "wire.h"

static const unsigned char HARDWARE_ADDRESS[6] = {0x02, 0x73, 0x63, 0x68, 0x65, 0x64}; /* of both ends: one says to itself */

/* No ARP: with one address at both ends there is nothing to ask. */
static void put_end(struct netlink_batch *batch, const struct link_end *end) {
    if (end->namespace >= 0) {
        netlink_put_u32(batch, IFLA_NET_NS_FD, (uint32_t)end->namespace);
    }
    if (end->pid != 0) {
        netlink_put_u32(batch, IFLA_NET_NS_PID, (uint32_t)end->pid);
    }
    netlink_put_text(batch, IFLA_IFNAME, end->name);
    netlink_put_u32(batch, IFLA_NUM_TX_QUEUES, 1); /* else one for each processor, and each is an object of its own */
    netlink_put_u32(batch, IFLA_NUM_RX_QUEUES, 1);
    netlink_put(batch, IFLA_ADDRESS, HARDWARE_ADDRESS, sizeof HARDWARE_ADDRESS);
}

static struct ifinfomsg end_message(const struct link_end *end) {
    const unsigned flags = IFF_NOARP | (end->up ? IFF_UP : 0);
    return (struct ifinfomsg){.ifi_index = end->index, .ifi_flags = flags, .ifi_change = flags};
}

void link_pair(struct netlink_batch *batch, const struct link_end *near, const struct link_end *far) {
    const struct ifinfomsg near_message = end_message(near), far_message = end_message(far);
    netlink_message(batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &near_message, sizeof near_message, false);
    put_end(batch, near);
    const uint32_t info = netlink_nest(batch, IFLA_LINKINFO);
    netlink_put_text(batch, IFLA_INFO_KIND, "veth");
    const uint32_t data = netlink_nest(batch, IFLA_INFO_DATA);
    const uint32_t peer = netlink_nest(batch, VETH_INFO_PEER);
    netlink_raw(batch, &far_message, sizeof far_message);
    put_end(batch, far);
    netlink_close(batch, peer);
    netlink_close(batch, data);
    netlink_close(batch, info);
}

void link_up_without_ipv6(struct netlink_batch *batch, int index) {
    if (access("/proc/sys/net/ipv6", F_OK) == 0) { /* else the kernel has none, and refuses to hear of it */
        const struct ifinfomsg as_it_is = {.ifi_index = index};
        netlink_message(batch, RTM_SETLINK, 0, &as_it_is, sizeof as_it_is, false);
        const uint32_t families = netlink_nest(batch, IFLA_AF_SPEC);
        const uint32_t family = netlink_nest(batch, AF_INET6);
        const uint8_t none = IN6_ADDR_GEN_MODE_NONE;
        netlink_put(batch, IFLA_INET6_ADDR_GEN_MODE, &none, sizeof none);
        netlink_close(batch, family);
        netlink_close(batch, families);
    }
    const struct ifinfomsg up = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    netlink_message(batch, RTM_SETLINK, 0, &up, sizeof up, false);
}

void link_address(struct netlink_batch *batch, int index, uint32_t address) {
    const uint32_t there = htonl(address);
    const struct ifaddrmsg message = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = (uint32_t)index};
    netlink_message(batch, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &message, sizeof message, false);
    netlink_put(batch, IFA_LOCAL, &there, sizeof there);
    netlink_put(batch, IFA_ADDRESS, &there, sizeof there);
}

void link_route(struct netlink_batch *batch, int index, uint32_t address, unsigned bits) {
    const uint32_t there = htonl(address);
    const struct rtmsg message = {.rtm_family = AF_INET, .rtm_dst_len = (unsigned char)bits, .rtm_table = RT_TABLE_MAIN,
                                  .rtm_protocol = RTPROT_STATIC, .rtm_scope = RT_SCOPE_LINK, .rtm_type = RTN_UNICAST};
    netlink_message(batch, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &message, sizeof message, false);
    if (bits > 0) {
        netlink_put(batch, RTA_DST, &there, sizeof there);
    }
    netlink_put_u32(batch, RTA_OIF, (uint32_t)index);
}

int link_index(int fd, const char *name) {
    struct ifreq request;
    memset(&request, 0, sizeof request);
    wire_text(request.ifr_name, sizeof request.ifr_name, name);
    return ioctl(fd, SIOCGIFINDEX, &request) < 0 ? -errno : request.ifr_ifindex;
}

static int far_end(int door, const struct network_lease *lease, struct netlink_batch *batch) {
    char name[NETWORK_DEVICE_BYTES];
    unsigned failed;
    snprintf(name, sizeof name, "s%u", lease->link);
    const int index = LINK_INDEX_FIRST + (int)lease->link;
    const struct link_end near = {.name = name, .namespace = -1, .index = index, .up = true};
    const struct link_end far = {.name = "eth0", .namespace = -1, .pid = getpid()};
    netlink_begin(batch);
    link_pair(batch, &near, &far);
    link_route(batch, index, lease->address, 32);
    return netlink_send(door, batch, &failed);
}

static int near_end(const struct network_lease *lease, struct netlink_batch *batch) {
    unsigned failed;
    int fd = netlink_open(NETLINK_ROUTE);
    const int index = fd < 0 ? fd : link_index(fd, "eth0");
    int error = index;
    if (index > 0) {
        netlink_begin(batch);
        link_up_without_ipv6(batch, index);
        link_address(batch, index, lease->address);
        link_route(batch, index, 0, 0);
        error = netlink_send(fd, batch, &failed);
    }
    wire_close(&fd);
    return error;
}

int network_attach(int door, const struct network_lease *lease) {
    struct netlink_batch batch;
    int error = far_end(door, lease, &batch);
    wire_close(&door);
    return error < 0 ? error : near_end(lease, &batch);
}
