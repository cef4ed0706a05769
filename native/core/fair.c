#include "fair.h"

#include "invariant.h"

void fair_heap_init(struct fair_heap *heap) {
    heap->root = FAIR_NONE;
    heap->count = 0;
}

static bool before(const struct fair_node *nodes, uint32_t a, uint32_t b) {
    return nodes[a].vtime < nodes[b].vtime || (nodes[a].vtime == nodes[b].vtime && a < b);
}

/* Both are roots. The greater becomes the first child of the less. */
static uint32_t meld(struct fair_node *nodes, uint32_t a, uint32_t b) {
    if (a == FAIR_NONE) {
        return b;
    }
    if (b == FAIR_NONE) {
        return a;
    }
    const uint32_t least = before(nodes, a, b) ? a : b;
    const uint32_t other = least == a ? b : a;
    nodes[other].sibling = nodes[least].child;
    if (nodes[least].child != FAIR_NONE) {
        nodes[nodes[least].child].prev = other;
    }
    nodes[least].child = other;
    nodes[other].prev = least;
    nodes[least].sibling = FAIR_NONE;
    nodes[least].prev = FAIR_NONE;
    return least;
}

/* Two passes over a list of siblings: meld pairs left to right, then all of them right to left. */
static uint32_t merge_siblings(struct fair_node *nodes, uint32_t first) {
    uint32_t paired = FAIR_NONE; /* list of melded pairs, last pair first, linked by sibling */
    while (first != FAIR_NONE) {
        const uint32_t a = first;
        const uint32_t b = nodes[a].sibling;
        first = b == FAIR_NONE ? FAIR_NONE : nodes[b].sibling;
        nodes[a].sibling = nodes[a].prev = FAIR_NONE;
        if (b != FAIR_NONE) {
            nodes[b].sibling = nodes[b].prev = FAIR_NONE;
        }
        const uint32_t pair = meld(nodes, a, b);
        nodes[pair].sibling = paired;
        paired = pair;
    }
    uint32_t root = FAIR_NONE;
    while (paired != FAIR_NONE) {
        const uint32_t next = nodes[paired].sibling;
        nodes[paired].sibling = FAIR_NONE;
        root = meld(nodes, root, paired);
        paired = next;
    }
    return root;
}

void fair_insert(struct fair_heap *heap, struct fair_node *nodes, uint32_t id) {
    struct fair_node *node = &nodes[id];
    SCHED_ASSERT(!node->in_heap);
    node->child = node->sibling = node->prev = FAIR_NONE;
    node->in_heap = true;
    heap->root = meld(nodes, heap->root, id);
    heap->count++;
}

void fair_remove(struct fair_heap *heap, struct fair_node *nodes, uint32_t id) {
    struct fair_node *node = &nodes[id];
    SCHED_ASSERT(node->in_heap);
    SCHED_ASSERT(heap->count > 0);
    const uint32_t below = merge_siblings(nodes, node->child);
    if (heap->root == id) {
        heap->root = below;
    } else {
        const uint32_t prev = node->prev;
        SCHED_ASSERT(prev != FAIR_NONE);
        if (nodes[prev].child == id) {
            nodes[prev].child = node->sibling;
        } else {
            nodes[prev].sibling = node->sibling;
        }
        if (node->sibling != FAIR_NONE) {
            nodes[node->sibling].prev = prev;
        }
        heap->root = meld(nodes, heap->root, below);
    }
    node->child = node->sibling = node->prev = FAIR_NONE;
    node->in_heap = false;
    heap->count--;
}

const char *fair_check(const struct fair_heap *heap, const struct fair_node *nodes, uint32_t nodes_count) {
    if ((heap->root == FAIR_NONE) != (heap->count == 0)) {
        return "fair: root and count disagree";
    }
    for (uint32_t i = 0; i < nodes_count; i++) {
        for (uint32_t c = nodes[i].in_heap ? nodes[i].child : FAIR_NONE; c != FAIR_NONE; c = nodes[c].sibling) {
            if (!nodes[c].in_heap || before(nodes, c, i)) {
                return "fair: order broken";
            }
        }
    }
    return NULL;
}
