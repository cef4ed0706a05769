/* network.h: how a sandbox whose function asks for it reaches other machines, and nothing else.
 *
 *      sandbox (own namespace)          router (a namespace of the launcher)             host
 *      eth0  A/32  ──────────────────►  s1  route A/32       up  U/32  ────────────────►  schedXXXX  route U/32
 *      eth0  B/32  ──────────────────►  s2  route B/32       NAT to U, rules              NAT to its own address, rules
 *
 * The router lies in between so that nothing of it is the host's: its devices, rules, connection table and forwarding end with the
 * launcher, however that ends, since only its descriptors keep the namespace. On the host there are one device, whose other
 * end is in the router, one route, and one table of rules that belongs to the launcher's socket: they go the same way. What could
 * outlive it is the switch that lets devices of the host forward; a file says which were switched, and whoever comes next
 * (the supervisor, or the next launcher) switches them back.
 *
 * Both ends of each pair have one address and no ARP: what is sent at one end arrives at the other. Sandboxes have no capability
 * over their device; should they gain one, the router takes a packet only from the device that its source is routed to.
 */
#ifndef LAUNCHER_NETWORK_H
#define LAUNCHER_NETWORK_H

#include <stdbool.h>
#include <stdint.h>

enum {
    NETWORK_SERVERS_MAX = 3,    /* of names; more are not read from resolv.conf */
    NETWORK_ALLOWED_MAX = 32,
    NETWORK_PREFIX_MIN = 16,
    NETWORK_PREFIX_MAX = 18,    /* four times as many addresses as there are slots, so that none comes again at once */
    NETWORK_CONNECTIONS_MAX = 1024, /* of one sandbox: those that the router remembers */
    NETWORK_DEVICE_BYTES = 16
};

struct network_range {
    uint32_t address, mask;     /* host order */
};

struct network_options {
    struct network_range range;
    uint32_t servers[NETWORK_SERVERS_MAX];
    unsigned servers_count;
    struct network_range allowed[NETWORK_ALLOWED_MAX]; /* private ranges that sandboxes may reach */
    unsigned allowed_count;
};

struct network {
    const struct network_options *options;
    bool open;
    int home, router;           /* network namespaces */
    int host_rules;             /* the table of rules lives as long as this */
    int lock;                   /* on the file that says which devices forward for us */
    uint32_t uplink;            /* U, host order */
    uint32_t next;              /* address to try next, counted from the range's begin */
    uint32_t links;             /* made so far */
    uint64_t *taken;            /* a bit an address */
    char note[200];             /* what was changed on this machine, for a person */
};

/* What a sandbox is told, to make its own link. */
struct network_lease {
    uint32_t address;           /* host order; 0: none */
    uint32_t link;
};

/* The options' texts. 0 or -EINVAL. range: "198.18.0.0/16"; lists are separated by commas, "" is empty. */
int network_parse_range(struct network_options *options, const char *text);
int network_parse_servers(struct network_options *options, const char *text);
int network_parse_allowed(struct network_options *options, const char *text);

void network_init(struct network *network, const struct network_options *options);
/* Makes the router, unless it is there. 0, or -errno with *step; then nothing is left of the attempt. */
int network_open(struct network *network, const char **step);
/* Ends it. What sandboxes still have of it ends too. */
void network_close(struct network *network);
/* A socket in the router, for network_attach() in a sandbox: descriptor or -errno. */
int network_door(const struct network *network);
/* An address that no sandbox has. false: there is none left. */
bool network_take(struct network *network, struct network_lease *lease);
void network_give_back(struct network *network, uint32_t address);

/* In the sandbox, with privilege over its namespace still: makes the link and its route. Takes the descriptor. 0 or -errno. */
int network_attach(int door, const struct network_lease *lease);

/* Switches back what a launcher of this network namespace, which lives no more, has left switched. */
void network_restore(void);

/* ---- network_rules.c ---- */

/* The router's rules. 0 or -errno; *step. */
int network_router_rules(const struct network_options *options, const char *uplink, const char **step);
/* The host's: a descriptor that they live as long as, or -errno; *step. devices: those that forward since we said so. */
int network_host_rules(const char *uplink, uint32_t address, const char (*devices)[NETWORK_DEVICE_BYTES], unsigned count,
                       const char **step);

/* ---- network_forwarding.c ---- */

enum { NETWORK_DEVICES_MAX = 16 };

/* Lets the host's devices with routes forward, where the host does not forward anyway. Descriptor of the lock or -errno. */
int network_forward(const char (*devices)[NETWORK_DEVICE_BYTES], unsigned count, char (*switched)[NETWORK_DEVICE_BYTES],
                    unsigned *switched_count);
/* Releases the lock; the last to do so switches back. */
void network_unforward(int *lock);
/* Writes /proc/sys/net/<path>, of the network namespace that the process is in. 0 or -errno. */
int network_sysctl(const char *path, const char *value);

#endif
