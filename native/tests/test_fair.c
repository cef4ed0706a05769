/* test_fair.c: the pairing heap against a plain array: the root is always the least by (virtual time, index). */
#include "fair.h"
#include "harness.h"

enum { NODES = 300 };

static struct fair_node nodes[NODES];
static struct fair_heap heap;

static uint32_t least(const bool *present) {
    uint32_t best = FAIR_NONE;
    for (uint32_t i = 0; i < NODES; i++) {
        if (present[i] && (best == FAIR_NONE || nodes[i].vtime < nodes[best].vtime)) {
            best = i;
        }
    }
    return best;
}

static void test_sorts(void) {
    memset(nodes, 0, sizeof nodes);
    fair_heap_init(&heap);
    uint64_t seed = 5;
    for (uint32_t i = 0; i < NODES; i++) {
        nodes[i].vtime = random_below(&seed, 50); /* many ties */
        fair_insert(&heap, nodes, i);
    }
    SCHED_ASSERT(heap.count == NODES && fair_check(&heap, nodes, NODES) == NULL);
    uint64_t last = 0;
    uint32_t last_id = 0;
    for (uint32_t n = NODES; n > 0; n--) {
        const uint32_t root = heap.root;
        SCHED_ASSERT(nodes[root].vtime > last || n == NODES || (nodes[root].vtime == last && root > last_id));
        last = nodes[root].vtime;
        last_id = root;
        fair_remove(&heap, nodes, root);
        SCHED_ASSERT(heap.count == n - 1 && !nodes[root].in_heap);
    }
    SCHED_ASSERT(heap.root == FAIR_NONE);
}

static void test_against_array(void) {
    bool present[NODES] = {false};
    memset(nodes, 0, sizeof nodes);
    fair_heap_init(&heap);
    uint64_t seed = 6;
    uint32_t count = 0;
    for (int step = 0; step < 20000; step++) {
        const uint32_t id = step % 3 == 0 && heap.count > 0 ? heap.root : (uint32_t)random_below(&seed, NODES);
        if (present[id]) {
            fair_remove(&heap, nodes, id);
            count--;
        } else {
            nodes[id].vtime = random_below(&seed, 1000);
            fair_insert(&heap, nodes, id);
            count++;
        }
        present[id] = !present[id];
        SCHED_ASSERT(heap.root == least(present) && heap.count == count);
        SCHED_ASSERT(step % 64 != 0 || fair_check(&heap, nodes, NODES) == NULL);
    }
}

static void test_check_sees_damage(void) {
    memset(nodes, 0, sizeof nodes);
    fair_heap_init(&heap);
    for (uint32_t i = 0; i < 3; i++) {
        nodes[i].vtime = i;
        fair_insert(&heap, nodes, i);
    }
    SCHED_ASSERT(fair_check(&heap, nodes, NODES) == NULL);
    nodes[0].vtime = 9;
    SCHED_ASSERT(strcmp(fair_check(&heap, nodes, NODES), "fair: order broken") == 0);
    heap.count = 0;
    SCHED_ASSERT(strcmp(fair_check(&heap, nodes, NODES), "fair: root and count disagree") == 0);
}

int main(void) {
    RUN(test_sorts);
    RUN(test_against_array);
    RUN(test_check_sees_damage);
    return 0;
}
