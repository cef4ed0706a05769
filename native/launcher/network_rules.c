/* What may pass, as rules of nf_tables. The two lists at the end are the policy; above them is what turns a line into a message.
 *
 * A rule is a row of conditions and one verdict. Each condition loads a value into register 1 and compares it.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/icmp.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

#include "network.h"
#include "network_message.h"
#include "wire.h"

enum {
    STATE_KNOWN = NF_CT_STATE_BIT(IP_CT_ESTABLISHED) | NF_CT_STATE_BIT(IP_CT_RELATED), /* as nft counts them */
    STATE_NEW = NF_CT_STATE_BIT(IP_CT_NEW),
    PREROUTING_FIRST = -300, FORWARD_EARLY = -10, POSTROUTING_NAT = 100,
    SOURCE = 12, DESTINATION = 16,       /* in an IPv4 header */
    DESTINATION_PORT = 2, DNS_PORT = 53  /* in a UDP or TCP header */
};

static const char TABLE[] = "sched";

struct rules {
    struct netlink_batch batch;
    char table[32];
    const char *chain;
    uint32_t list;       /* of the rule under way */
};

/* ---- messages ---- */

static void put_number(struct rules *rules, uint16_t type, uint32_t value) {
    netlink_put_u32(&rules->batch, type, htonl(value));
}

static void message(struct rules *rules, uint16_t kind, uint16_t flags) {
    const struct nfgenmsg family = {.nfgen_family = NFPROTO_IPV4, .version = NFNETLINK_V0};
    netlink_message(&rules->batch, (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | kind), flags, &family, sizeof family, false);
}

static void batch_mark(struct rules *rules, uint16_t type) {
    const struct nfgenmsg mark = {.nfgen_family = AF_UNSPEC, .version = NFNETLINK_V0, .res_id = htons(NFNL_SUBSYS_NFTABLES)};
    netlink_message(&rules->batch, type, 0, &mark, sizeof mark, true);
}

static void begin(struct rules *rules, const char *table, uint32_t flags) {
    netlink_begin(&rules->batch);
    wire_text(rules->table, sizeof rules->table, table);
    batch_mark(rules, NFNL_MSG_BATCH_BEGIN);
    message(rules, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL);
    netlink_put_text(&rules->batch, NFTA_TABLE_NAME, table);
    put_number(rules, NFTA_TABLE_FLAGS, flags);
}

static void chain(struct rules *rules, const char *name, const char *type, uint32_t hook, int32_t priority, uint32_t policy) {
    rules->chain = name;
    message(rules, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL);
    netlink_put_text(&rules->batch, NFTA_CHAIN_TABLE, rules->table);
    netlink_put_text(&rules->batch, NFTA_CHAIN_NAME, name);
    netlink_put_text(&rules->batch, NFTA_CHAIN_TYPE, type);
    put_number(rules, NFTA_CHAIN_POLICY, policy);
    const uint32_t place = netlink_nest(&rules->batch, NFTA_CHAIN_HOOK);
    put_number(rules, NFTA_HOOK_HOOKNUM, hook);
    put_number(rules, NFTA_HOOK_PRIORITY, (uint32_t)priority);
    netlink_close(&rules->batch, place);
}

static void rule(struct rules *rules) {
    message(rules, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    netlink_put_text(&rules->batch, NFTA_RULE_TABLE, rules->table);
    netlink_put_text(&rules->batch, NFTA_RULE_CHAIN, rules->chain);
    rules->list = netlink_nest(&rules->batch, NFTA_RULE_EXPRESSIONS);
}

struct places {
    uint32_t element, data;
};

static struct places expression(struct rules *rules, const char *name) {
    struct places places = {.element = netlink_nest(&rules->batch, NFTA_LIST_ELEM)};
    netlink_put_text(&rules->batch, NFTA_EXPR_NAME, name);
    places.data = netlink_nest(&rules->batch, NFTA_EXPR_DATA);
    return places;
}

static void end_expression(struct rules *rules, struct places places) {
    netlink_close(&rules->batch, places.data);
    netlink_close(&rules->batch, places.element);
}

static void value(struct rules *rules, uint16_t type, const void *bytes, size_t count) {
    const uint32_t place = netlink_nest(&rules->batch, type);
    netlink_put(&rules->batch, NFTA_DATA_VALUE, bytes, count);
    netlink_close(&rules->batch, place);
}

static void compare(struct rules *rules, enum nft_cmp_ops how, const void *bytes, size_t count) {
    const struct places places = expression(rules, "cmp");
    put_number(rules, NFTA_CMP_SREG, NFT_REG_1);
    put_number(rules, NFTA_CMP_OP, how);
    value(rules, NFTA_CMP_DATA, bytes, count);
    end_expression(rules, places);
}

static void masked(struct rules *rules, uint32_t mask) {
    const uint32_t none = 0;
    const struct places places = expression(rules, "bitwise");
    put_number(rules, NFTA_BITWISE_SREG, NFT_REG_1);
    put_number(rules, NFTA_BITWISE_DREG, NFT_REG_1);
    put_number(rules, NFTA_BITWISE_LEN, sizeof mask);
    value(rules, NFTA_BITWISE_MASK, &mask, sizeof mask);
    value(rules, NFTA_BITWISE_XOR, &none, sizeof none);
    end_expression(rules, places);
}

/* ---- conditions ---- */

static void load_meta(struct rules *rules, uint32_t key) {
    const struct places places = expression(rules, "meta");
    put_number(rules, NFTA_META_DREG, NFT_REG_1);
    put_number(rules, NFTA_META_KEY, key);
    end_expression(rules, places);
}

static void load_packet(struct rules *rules, uint32_t base, uint32_t offset, uint32_t bytes) {
    const struct places places = expression(rules, "payload");
    put_number(rules, NFTA_PAYLOAD_DREG, NFT_REG_1);
    put_number(rules, NFTA_PAYLOAD_BASE, base);
    put_number(rules, NFTA_PAYLOAD_OFFSET, offset);
    put_number(rules, NFTA_PAYLOAD_LEN, bytes);
    end_expression(rules, places);
}

static void device(struct rules *rules, uint32_t key, enum nft_cmp_ops how, const char *name) {
    char padded[NETWORK_DEVICE_BYTES];
    wire_text(padded, sizeof padded, name);
    load_meta(rules, key);
    compare(rules, how, padded, sizeof padded);
}

static void comes_by(struct rules *rules, enum nft_cmp_ops how, const char *name) {
    device(rules, NFT_META_IIFNAME, how, name);
}

static void goes_by(struct rules *rules, enum nft_cmp_ops how, const char *name) {
    device(rules, NFT_META_OIFNAME, how, name);
}

static void protocol(struct rules *rules, enum nft_cmp_ops how, uint8_t number) {
    load_meta(rules, NFT_META_L4PROTO);
    compare(rules, how, &number, sizeof number);
}

static void in_range(struct rules *rules, uint32_t offset, enum nft_cmp_ops how, struct network_range range) {
    const uint32_t address = htonl(range.address);
    load_packet(rules, NFT_PAYLOAD_NETWORK_HEADER, offset, sizeof address);
    if (range.mask != UINT32_MAX) {
        masked(rules, htonl(range.mask));
    }
    compare(rules, how, &address, sizeof address);
}

static void connection(struct rules *rules, uint32_t key, uint32_t bits, bool any) {
    const uint32_t none = 0;
    const struct places places = expression(rules, "ct");
    put_number(rules, NFTA_CT_DREG, NFT_REG_1);
    put_number(rules, NFTA_CT_KEY, key);
    end_expression(rules, places);
    masked(rules, bits); /* in the machine's own order, as the value is */
    compare(rules, any ? NFT_CMP_NEQ : NFT_CMP_EQ, &none, sizeof none);
}

static void not_to_one_machine_elsewhere(struct rules *rules) {
    const uint32_t elsewhere = RTN_UNICAST;
    const struct places places = expression(rules, "fib");
    put_number(rules, NFTA_FIB_DREG, NFT_REG_1);
    put_number(rules, NFTA_FIB_RESULT, NFT_FIB_RESULT_ADDRTYPE);
    put_number(rules, NFTA_FIB_FLAGS, NFTA_FIB_F_DADDR);
    end_expression(rules, places);
    compare(rules, NFT_CMP_NEQ, &elsewhere, sizeof elsewhere);
}

/* ---- verdicts; each ends its rule ---- */

static void end_rule(struct rules *rules) {
    netlink_close(&rules->batch, rules->list);
}

static void verdict(struct rules *rules, uint32_t code) {
    const struct places places = expression(rules, "immediate");
    put_number(rules, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    const uint32_t data = netlink_nest(&rules->batch, NFTA_IMMEDIATE_DATA);
    const uint32_t inner = netlink_nest(&rules->batch, NFTA_DATA_VERDICT);
    put_number(rules, NFTA_VERDICT_CODE, code);
    netlink_close(&rules->batch, inner);
    netlink_close(&rules->batch, data);
    end_expression(rules, places);
    end_rule(rules);
}

static void drop(struct rules *rules) {
    verdict(rules, NF_DROP);
}

static void pass(struct rules *rules) {
    verdict(rules, NF_ACCEPT);
}

/* So that who tries is told at once, and does not wait. */
static void refuse(struct rules *rules) {
    const uint8_t code = ICMP_PKT_FILTERED;
    const struct places places = expression(rules, "reject");
    put_number(rules, NFTA_REJECT_TYPE, NFT_REJECT_ICMP_UNREACH);
    netlink_put(&rules->batch, NFTA_REJECT_ICMP_CODE, &code, sizeof code);
    end_expression(rules, places);
    end_rule(rules);
}

static void masquerade(struct rules *rules) {
    end_expression(rules, expression(rules, "masq"));
    end_rule(rules);
}

/* ---- connections of one source ---- */

static const char SOURCES[] = "sources";

static void sources_set(struct rules *rules) {
    enum { TYPE_IPV4_ADDRESS = 7 }; /* nft's own number, which the kernel hands on */
    message(rules, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL);
    netlink_put_text(&rules->batch, NFTA_SET_TABLE, rules->table);
    netlink_put_text(&rules->batch, NFTA_SET_NAME, SOURCES);
    put_number(rules, NFTA_SET_FLAGS, NFT_SET_EVAL);
    put_number(rules, NFTA_SET_KEY_TYPE, TYPE_IPV4_ADDRESS);
    put_number(rules, NFTA_SET_KEY_LEN, sizeof(uint32_t));
    put_number(rules, NFTA_SET_ID, 1);
    const uint32_t place = netlink_nest(&rules->batch, NFTA_SET_DESC);
    put_number(rules, NFTA_SET_DESC_SIZE, 65536);
    netlink_close(&rules->batch, place);
}

/* True for a packet that would begin one connection too many of its source. */
static void too_many(struct rules *rules) {
    load_packet(rules, NFT_PAYLOAD_NETWORK_HEADER, SOURCE, sizeof(uint32_t));
    const struct places places = expression(rules, "dynset");
    netlink_put_text(&rules->batch, NFTA_DYNSET_SET_NAME, SOURCES);
    put_number(rules, NFTA_DYNSET_SET_ID, 1);
    put_number(rules, NFTA_DYNSET_OP, NFT_DYNSET_OP_ADD);
    put_number(rules, NFTA_DYNSET_SREG_KEY, NFT_REG_1);
    const uint32_t inner = netlink_nest(&rules->batch, NFTA_DYNSET_EXPR);
    netlink_put_text(&rules->batch, NFTA_EXPR_NAME, "connlimit");
    const uint32_t data = netlink_nest(&rules->batch, NFTA_EXPR_DATA);
    put_number(rules, NFTA_CONNLIMIT_COUNT, NETWORK_CONNECTIONS_MAX);
    put_number(rules, NFTA_CONNLIMIT_FLAGS, NFT_CONNLIMIT_F_INV);
    netlink_close(&rules->batch, data);
    netlink_close(&rules->batch, inner);
    end_expression(rules, places);
}

/* ---- the policy ---- */

#define RANGE(a, b, c, d, bits) {(uint32_t)(a) << 24 | (b) << 16 | (c) << 8 | (d), UINT32_MAX << (32 - (bits))}

/* Never: this machine, the link, where clouds keep their metadata, many at once, nobody. */
static const struct network_range never[] = {RANGE(0, 0, 0, 0, 8), RANGE(127, 0, 0, 0, 8), RANGE(169, 254, 0, 0, 16),
                                             RANGE(224, 0, 0, 0, 4), RANGE(240, 0, 0, 0, 4)};

/* Only what the operator allows: networks of an organisation, not of the world. */
static const struct network_range inner[] = {RANGE(10, 0, 0, 0, 8), RANGE(100, 64, 0, 0, 10), RANGE(172, 16, 0, 0, 12),
                                             RANGE(192, 0, 0, 0, 24), RANGE(192, 168, 0, 0, 16), RANGE(198, 18, 0, 0, 15)};

static void all_refused(struct rules *rules, const struct network_range *ranges, size_t count) {
    for (size_t i = 0; i < count; i++) {
        rule(rules);
        in_range(rules, DESTINATION, NFT_CMP_EQ, ranges[i]);
        refuse(rules);
    }
}

static void name_server(struct rules *rules, uint32_t address, uint8_t number) {
    const uint16_t port = htons(DNS_PORT);
    rule(rules);
    in_range(rules, DESTINATION, NFT_CMP_EQ, (struct network_range){address, UINT32_MAX});
    protocol(rules, NFT_CMP_EQ, number);
    load_packet(rules, NFT_PAYLOAD_TRANSPORT_HEADER, DESTINATION_PORT, sizeof port);
    compare(rules, NFT_CMP_EQ, &port, sizeof port);
    pass(rules);
}

static void router_forward(struct rules *rules, const struct network_options *options, const char *uplink) {
    rule(rules);
    connection(rules, NFT_CT_STATE, STATE_KNOWN, true);
    pass(rules);
    rule(rules);
    connection(rules, NFT_CT_STATE, STATE_NEW, false);
    drop(rules);
    rule(rules);
    comes_by(rules, NFT_CMP_EQ, uplink);
    drop(rules);
    rule(rules);
    goes_by(rules, NFT_CMP_NEQ, uplink); /* to another sandbox */
    refuse(rules);
    rule(rules);
    too_many(rules);
    refuse(rules);
    for (unsigned i = 0; i < options->servers_count; i++) {
        name_server(rules, options->servers[i], IPPROTO_UDP);
        name_server(rules, options->servers[i], IPPROTO_TCP);
    }
    all_refused(rules, never, sizeof never / sizeof *never);
    for (unsigned i = 0; i < options->allowed_count; i++) {
        rule(rules);
        in_range(rules, DESTINATION, NFT_CMP_EQ, options->allowed[i]);
        pass(rules);
    }
    all_refused(rules, inner, sizeof inner / sizeof *inner);
    rule(rules);
    pass(rules);
}

static int apply(int fd, struct rules *rules) {
    unsigned failed;
    batch_mark(rules, NFNL_MSG_BATCH_END);
    return netlink_send(fd, &rules->batch, &failed);
}

int network_router_rules(const struct network_options *options, const char *uplink, const char **step) {
    struct rules rules;
    *step = "rules of the network: nf_tables";
    int fd = netlink_open(NETLINK_NETFILTER);
    if (fd < 0) {
        return fd;
    }
    begin(&rules, TABLE, 0);
    sources_set(&rules);
    chain(&rules, "input", "filter", NF_INET_LOCAL_IN, 0, NF_DROP);
    rule(&rules);
    comes_by(&rules, NFT_CMP_NEQ, uplink);
    refuse(&rules);
    chain(&rules, "forward", "filter", NF_INET_FORWARD, 0, NF_DROP);
    router_forward(&rules, options, uplink);
    chain(&rules, "leave", "nat", NF_INET_POST_ROUTING, POSTROUTING_NAT, NF_ACCEPT);
    rule(&rules);
    goes_by(&rules, NFT_CMP_EQ, uplink);
    masquerade(&rules);
    *step = "rules of the network";
    const int error = apply(fd, &rules);
    wire_close(&fd);
    return error;
}

/* What we let forward was not meant to be a router: of connections begun elsewhere it takes on those only that this host has
 * redirected itself, as containers do that were started later. */
static void no_router_for_others(struct rules *rules, const char *name) {
    rule(rules);
    comes_by(rules, NFT_CMP_EQ, name);
    connection(rules, NFT_CT_STATE, STATE_NEW, true);
    connection(rules, NFT_CT_STATUS, IPS_DST_NAT, false);
    drop(rules);
}

int network_host_rules(const char *uplink, uint32_t address, const char (*devices)[NETWORK_DEVICE_BYTES], unsigned count,
                       const char **step) {
    struct rules rules;
    const struct network_range router = {address, UINT32_MAX};
    char table[32];
    *step = "rules of the host: nf_tables";
    int fd = netlink_open(NETLINK_NETFILTER);
    if (fd < 0) {
        return fd;
    }
    snprintf(table, sizeof table, "%s", uplink);
    begin(&rules, table, NFT_TABLE_F_OWNER); /* so it ends with this socket */
    chain(&rules, "arrive", "filter", NF_INET_PRE_ROUTING, PREROUTING_FIRST, NF_ACCEPT);
    rule(&rules);
    comes_by(&rules, NFT_CMP_EQ, uplink);
    in_range(&rules, SOURCE, NFT_CMP_NEQ, router);
    drop(&rules);
    rule(&rules);
    comes_by(&rules, NFT_CMP_EQ, uplink); /* every address of this host, before anything is redirected */
    not_to_one_machine_elsewhere(&rules);
    refuse(&rules);
    chain(&rules, "input", "filter", NF_INET_LOCAL_IN, FORWARD_EARLY, NF_ACCEPT);
    rule(&rules);
    comes_by(&rules, NFT_CMP_EQ, uplink);
    drop(&rules); /* whatever it was redirected to */
    chain(&rules, "output", "filter", NF_INET_LOCAL_OUT, FORWARD_EARLY, NF_ACCEPT);
    rule(&rules);
    goes_by(&rules, NFT_CMP_EQ, uplink); /* errors about what was sent, nothing else */
    protocol(&rules, NFT_CMP_NEQ, IPPROTO_ICMP);
    drop(&rules);
    chain(&rules, "forward", "filter", NF_INET_FORWARD, FORWARD_EARLY, NF_ACCEPT);
    rule(&rules);
    goes_by(&rules, NFT_CMP_EQ, uplink);
    connection(&rules, NFT_CT_STATE, STATE_KNOWN, false);
    drop(&rules);
    rule(&rules);
    comes_by(&rules, NFT_CMP_EQ, uplink);
    pass(&rules);
    for (unsigned i = 0; i < count; i++) {
        no_router_for_others(&rules, devices[i]);
    }
    chain(&rules, "leave", "nat", NF_INET_POST_ROUTING, POSTROUTING_NAT, NF_ACCEPT);
    rule(&rules);
    in_range(&rules, SOURCE, NFT_CMP_EQ, router);
    goes_by(&rules, NFT_CMP_NEQ, uplink);
    masquerade(&rules);
    *step = "rules of the host";
    const int error = apply(fd, &rules);
    if (error < 0) {
        wire_close(&fd);
        return error;
    }
    return fd;
}
