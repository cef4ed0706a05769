/* The router: made once, when the first function asks for a network; and the addresses in it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "invariant.h"
#include "network.h"
#include "network_link.h"
#include "network_message.h"
#include "wire.h"

enum { ADDRESS_FIRST = 16, UPLINKS = 256, BITS = 64 };

static const char INNER_NAME[] = "up";

/* ---- texts ---- */

static int parse_one(struct network_range *range, const char *text, size_t length) {
    char copy[32], *slash;
    struct in_addr address;
    unsigned long bits = 32;
    if (length == 0 || length >= sizeof copy) {
        return -EINVAL;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    if ((slash = strchr(copy, '/')) != NULL) {
        char *end;
        *slash++ = '\0';
        bits = strtoul(slash, &end, 10);
        if (slash[0] < '0' || slash[0] > '9' || *end != '\0' || bits > 32) {
            return -EINVAL;
        }
    }
    range->mask = bits == 0 ? 0 : UINT32_MAX << (32 - bits);
    if (inet_pton(AF_INET, copy, &address) != 1) {
        return -EINVAL;
    }
    range->address = ntohl(address.s_addr);
    return (range->address & ~range->mask) == 0 ? 0 : -EINVAL;
}

static int parse_list(struct network_range *ranges, unsigned max, unsigned *count, const char *text) {
    *count = 0;
    while (*text != '\0') {
        const size_t length = strcspn(text, ",");
        if (*count == max || parse_one(&ranges[*count], text, length) < 0) {
            return -EINVAL;
        }
        ++*count;
        text += length;
        text += *text == ',';
    }
    return 0;
}

int network_parse_range(struct network_options *options, const char *text) {
    unsigned count, bits = 0;
    if (parse_list(&options->range, 1, &count, text) < 0 || count != 1) {
        return -EINVAL;
    }
    while (bits < 32 && (options->range.mask << bits & 1U << 31) != 0) {
        bits++;
    }
    return bits >= NETWORK_PREFIX_MIN && bits <= NETWORK_PREFIX_MAX ? 0 : -EINVAL;
}

int network_parse_servers(struct network_options *options, const char *text) {
    struct network_range ranges[NETWORK_SERVERS_MAX];
    if (parse_list(ranges, NETWORK_SERVERS_MAX, &options->servers_count, text) < 0) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < options->servers_count; i++) {
        if (ranges[i].mask != UINT32_MAX) {
            return -EINVAL;
        }
        options->servers[i] = ranges[i].address;
    }
    return 0;
}

int network_parse_allowed(struct network_options *options, const char *text) {
    return parse_list(options->allowed, NETWORK_ALLOWED_MAX, &options->allowed_count, text);
}

/* ---- what the host has ---- */

struct survey {
    uint32_t base;                         /* of the addresses that could be ours on the host */
    bool used[UPLINKS];
    char devices[NETWORK_DEVICES_MAX][NETWORK_DEVICE_BYTES];
    int indices[NETWORK_DEVICES_MAX];
    unsigned count;
};

static void mark(struct survey *survey, uint32_t address, unsigned bits) {
    const uint32_t mask = bits == 0 ? 0 : UINT32_MAX << (32 - bits);
    for (uint32_t i = 0; i < UPLINKS && bits > 0; i++) { /* a default route covers everything and takes nothing */
        survey->used[i] = survey->used[i] || ((survey->base + i) & mask) == (address & mask);
    }
}

static uint32_t number_of(const unsigned char *attributes, size_t bytes, uint16_t type, uint32_t otherwise) {
    size_t length;
    uint32_t value = otherwise;
    const unsigned char *found = netlink_find(attributes, bytes, type, &length);
    if (found != NULL && length == sizeof value) {
        memcpy(&value, found, sizeof value);
    }
    return value;
}

static void see_route(void *context, uint16_t type, const unsigned char *body, size_t bytes) {
    struct survey *survey = context;
    struct rtmsg route;
    if (type != RTM_NEWROUTE || bytes < sizeof route) {
        return;
    }
    memcpy(&route, body, sizeof route);
    const unsigned char *attributes = body + NLMSG_ALIGN(sizeof route);
    const size_t rest = bytes - NLMSG_ALIGN(sizeof route);
    mark(survey, ntohl(number_of(attributes, rest, RTA_DST, 0)), route.rtm_dst_len);
    const int index = (int)number_of(attributes, rest, RTA_OIF, 0);
    if (route.rtm_type != RTN_UNICAST || index == 0) {
        return;
    }
    for (unsigned i = 0; i < survey->count; i++) {
        if (survey->indices[i] == index) {
            return;
        }
    }
    if (survey->count < NETWORK_DEVICES_MAX) {
        survey->indices[survey->count++] = index;
    }
}

static void see_device(void *context, uint16_t type, const unsigned char *body, size_t bytes) {
    struct survey *survey = context;
    struct ifinfomsg device;
    if (type != RTM_NEWLINK || bytes < sizeof device) {
        return;
    }
    memcpy(&device, body, sizeof device);
    size_t length;
    const unsigned char *name =
        netlink_find(body + NLMSG_ALIGN(sizeof device), bytes - NLMSG_ALIGN(sizeof device), IFLA_IFNAME, &length);
    for (unsigned i = 0; i < survey->count && name != NULL; i++) {
        if (survey->indices[i] == device.ifi_index && length <= NETWORK_DEVICE_BYTES) {
            memcpy(survey->devices[i], name, length);
        }
    }
}

static int look(int fd, struct survey *survey, struct netlink_batch *batch) {
    const struct rtmsg routes = {.rtm_family = AF_INET};
    const struct ifinfomsg devices = {.ifi_family = AF_UNSPEC};
    netlink_begin(batch);
    netlink_message(batch, RTM_GETROUTE, NLM_F_DUMP, &routes, sizeof routes, false);
    int error = netlink_list(fd, batch, see_route, survey);
    if (error == 0) {
        netlink_begin(batch);
        netlink_message(batch, RTM_GETLINK, NLM_F_DUMP, &devices, sizeof devices, false);
        error = netlink_list(fd, batch, see_device, survey);
    }
    unsigned kept = 0; /* without loopback, other launchers' devices, and what went away meanwhile */
    for (unsigned i = 0; i < survey->count; i++) {
        const char *name = survey->devices[i];
        if (name[0] != '\0' && strcmp(name, "lo") != 0 && strncmp(name, "sched", 5) != 0) {
            memmove(survey->devices[kept++], name, NETWORK_DEVICE_BYTES);
        }
    }
    survey->count = kept;
    return error;
}

/* ---- making it ---- */

static int enter(int namespace) {
    return setns(namespace, CLONE_NEWNET) < 0 ? -errno : 0;
}

/* A namespace that cannot be left must not be gone on with: everything born later would be in it. */
static void go_home(const struct network *network) {
    SCHED_ASSERT(enter(network->home) == 0);
}

static int in_new_namespace(struct network *network) {
    network->home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (network->home < 0 || unshare(CLONE_NEWNET) < 0) {
        return -errno;
    }
    network->router = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    const int error = network->router < 0 ? -errno : 0;
    go_home(network);
    return error;
}

static const struct {
    const char *path, *value;
    bool needed;
} router_switches[] = {
    {"ipv4/ip_forward", "1", true},
    {"ipv4/conf/all/rp_filter", "1", true},       /* a source is believed only on the device that it is routed to */
    {"ipv4/conf/all/accept_redirects", "0", true},
    {"ipv4/conf/all/send_redirects", "0", true},
    {"ipv4/conf/default/send_redirects", "0", true},
    {"ipv6/conf/all/disable_ipv6", "1", false},   /* a kernel without it is fine */
    {"ipv6/conf/default/disable_ipv6", "1", false},
};

static int router_inside(const struct network *network, const char **step) {
    *step = "switches of the network";
    for (unsigned i = 0; i < sizeof router_switches / sizeof *router_switches; i++) {
        const int error = network_sysctl(router_switches[i].path, router_switches[i].value);
        if (error < 0 && router_switches[i].needed) {
            return error;
        }
    }
    struct netlink_batch batch;
    unsigned failed;
    *step = "uplink of the network";
    int fd = netlink_open(NETLINK_ROUTE);
    const int index = fd < 0 ? fd : link_index(fd, INNER_NAME);
    int error = index;
    if (index > 0) {
        netlink_begin(&batch);
        link_address(&batch, index, network->uplink);
        link_up_without_ipv6(&batch, index);
        link_route(&batch, index, 0, 0);
        error = netlink_send(fd, &batch, &failed);
    }
    wire_close(&fd);
    error = error < 0 ? error : network_router_rules(network->options, INNER_NAME, step);
    if (error == 0) { /* it is there only now: what the dead left open is forgotten in an hour, not in five days */
        (void)network_sysctl("netfilter/nf_conntrack_tcp_timeout_established", "3600");
    }
    return error;
}

static void uplink_name(const struct network *network, char *name) {
    snprintf(name, NETWORK_DEVICE_BYTES, "sched%08x", network->uplink);
}

/* The pair, with the first address that the host has no use for. Another launcher may be looking too: a name is taken once. */
static int uplink_pair(struct network *network, const struct survey *survey, int fd, struct netlink_batch *batch,
                       const char **step) {
    char name[NETWORK_DEVICE_BYTES];
    unsigned failed;
    for (uint32_t i = 0; i < UPLINKS; i++) {
        if (survey->used[i]) {
            continue;
        }
        network->uplink = survey->base + i;
        uplink_name(network, name);
        const struct link_end near = {.name = name, .namespace = -1};
        const struct link_end far = {.name = INNER_NAME, .namespace = network->router};
        netlink_begin(batch);
        link_pair(batch, &near, &far);
        const int error = netlink_send(fd, batch, &failed);
        if (error == 0) {
            return 0;
        }
        network->uplink = 0; /* not ours to take away */
        if (error != -EEXIST) {
            return error;
        }
    }
    *step = "network range: this machine has routes to it";
    return -EADDRINUSE;
}

static int uplink(struct network *network, const char *name, int fd, struct netlink_batch *batch) {
    char path[64];
    unsigned failed;
    const int index = link_index(fd, name);
    if (index < 0) {
        return index;
    }
    snprintf(path, sizeof path, "ipv4/conf/%s/forwarding", name);
    int error = network_sysctl(path, "1");
    if (error == 0) {
        netlink_begin(batch);
        link_up_without_ipv6(batch, index);
        link_route(batch, index, network->uplink, 32);
        error = netlink_send(fd, batch, &failed);
    }
    return error;
}

/* An operator has to know. */
static void describe(struct network *network, const char *name, const char (*switched)[NETWORK_DEVICE_BYTES], unsigned count) {
    char devices[64] = "";
    size_t held = 0;
    for (unsigned i = 0; i < count && held < sizeof devices; i++) {
        held += (size_t)snprintf(devices + held, sizeof devices - held, "%s%s", i == 0 ? "" : ", ", switched[i]);
    }
    snprintf(network->note, sizeof network->note, "functions have a network now: device and rules %s%s%s%s%s", name,
             count == 0 ? "" : ", and forwarding switched on for ", devices, "; undone at the end",
             network->options->servers_count == 0 ? "; NO NAME SERVER: set sandbox_name_servers" : "");
}

static int on_host(struct network *network, const char **step) {
    char switched[NETWORK_DEVICES_MAX][NETWORK_DEVICE_BYTES], name[NETWORK_DEVICE_BYTES];
    unsigned switched_count;
    struct netlink_batch batch;
    const struct network_range range = network->options->range;
    struct survey survey = {.base = (range.address | ~range.mask) - UPLINKS + 1};
    *step = "routes of the host";
    int fd = netlink_open(NETLINK_ROUTE);
    int error = fd < 0 ? fd : look(fd, &survey, &batch);
    if (error == 0) {
        *step = "device of the network";
        error = uplink_pair(network, &survey, fd, &batch, step);
    }
    if (error == 0) {
        uplink_name(network, name);
        error = uplink(network, name, fd, &batch);
    }
    wire_close(&fd);
    if (error == 0) {
        *step = "forwarding of the host";
        network->lock = network_forward((const char(*)[NETWORK_DEVICE_BYTES])survey.devices, survey.count, switched,
                                        &switched_count);
        error = network->lock < 0 ? network->lock : 0;
    }
    if (error == 0) {
        describe(network, name, (const char(*)[NETWORK_DEVICE_BYTES])switched, switched_count);
        network->host_rules = network_host_rules(name, network->uplink, (const char(*)[NETWORK_DEVICE_BYTES])switched,
                                                 switched_count, step);
        error = network->host_rules < 0 ? network->host_rules : 0;
    }
    return error;
}

void network_init(struct network *network, const struct network_options *options) {
    *network = (struct network){.options = options, .home = -1, .router = -1, .host_rules = -1, .lock = -1};
}

/* The kernel does it too, once nothing holds the router, but in its own time. */
static void remove_uplink(const struct network *network) {
    struct netlink_batch batch;
    char name[NETWORK_DEVICE_BYTES];
    unsigned failed;
    int fd = network->uplink == 0 ? -1 : netlink_open(NETLINK_ROUTE);
    if (fd < 0) {
        return;
    }
    const struct ifinfomsg device = {.ifi_family = AF_UNSPEC};
    uplink_name(network, name);
    netlink_begin(&batch);
    netlink_message(&batch, RTM_DELLINK, 0, &device, sizeof device, false);
    netlink_put_text(&batch, IFLA_IFNAME, name);
    (void)netlink_send(fd, &batch, &failed);
    wire_close(&fd);
}

void network_close(struct network *network) {
    free(network->taken);
    remove_uplink(network);
    wire_close(&network->host_rules);
    network_unforward(&network->lock);
    wire_close(&network->router); /* and with it both ends of the uplink */
    wire_close(&network->home);
    network_init(network, network->options);
}

int network_open(struct network *network, const char **step) {
    if (network->open) {
        return 0;
    }
    const uint32_t size = ~network->options->range.mask + 1;
    *step = "network namespace";
    network->taken = calloc(size / BITS, sizeof *network->taken);
    int error = network->taken == NULL ? -ENOMEM : in_new_namespace(network);
    if (error == 0) {
        error = on_host(network, step);
    }
    if (error == 0) {
        error = enter(network->router);
    }
    if (error == 0) {
        error = router_inside(network, step);
        go_home(network);
    }
    if (error < 0) {
        network_close(network);
        return error;
    }
    network->open = true;
    return 0;
}

int network_door(const struct network *network) {
    SCHED_ASSERT(network->open);
    const int error = enter(network->router);
    if (error < 0) {
        return error;
    }
    const int fd = netlink_open(NETLINK_ROUTE);
    go_home(network);
    return fd;
}

/* ---- addresses ---- */

/* In turn, so that what is still under way to the dead reaches nobody. */
bool network_take(struct network *network, struct network_lease *lease) {
    const uint32_t count = ~network->options->range.mask + 1 - ADDRESS_FIRST - UPLINKS;
    for (uint32_t tried = 0; tried < count; tried++) {
        const uint32_t place = ADDRESS_FIRST + (network->next + tried) % count;
        if ((network->taken[place / BITS] >> place % BITS & 1U) == 0) {
            network->taken[place / BITS] |= UINT64_C(1) << place % BITS;
            network->next = (network->next + tried + 1) % count;
            lease->address = network->options->range.address + place;
            lease->link = network->links++ % (1U << 30);
            return true;
        }
    }
    return false;
}

void network_give_back(struct network *network, uint32_t address) {
    const uint32_t place = address - network->options->range.address;
    SCHED_ASSERT(network->open && (network->taken[place / BITS] >> place % BITS & 1U) == 1);
    network->taken[place / BITS] &= ~(UINT64_C(1) << place % BITS);
}
