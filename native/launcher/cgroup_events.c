/* cgroup_events: who hears at once that a group ran out of memory. The kernel may kill one child of a sandbox and let its worker live on;
 * such a sandbox has lost a part of itself and has to end as a whole.
 *
 *   version 1   an eventfd for each slot, registered when its group is made, which is once
 *   version 2   one inotify for all; the file memory.events changes. With memory.oom.group the kernel ends all of it anyway
 *
 * Nothing here decides. What cannot be had is left out: then a sandbox's end tells (slots.c, cause_of).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "cgroup.h"
#include "protocol.h"
#include "wire.h"

int cgroup_events_open(struct cgroups *groups, uint32_t slots) {
    groups->inotify = -1;
    groups->marks = NULL;
    groups->marks_count = 0;
    if (cgroup_with(groups, FLAG_MEMORY) == NULL) {
        return 0;
    }
    groups->marks = malloc(slots * sizeof *groups->marks);
    if (groups->marks == NULL) {
        return -ENOMEM;
    }
    groups->marks_count = slots;
    for (uint32_t i = 0; i < slots; i++) {
        groups->marks[i] = -1;
    }
    if (groups->version == 2) {
        groups->inotify = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        return groups->inotify < 0 ? -errno : 0;
    }
    return 0;
}

static int register_eventfd(struct cgroups *groups, uint32_t slot, int event) {
    char path[CGROUP_PATH_BYTES + 64], text[32];
    const struct cgroup_hierarchy *memory = cgroup_with(groups, FLAG_MEMORY);
    int error = cgroup_path(path, memory, slot, "memory.oom_control");
    if (error < 0) {
        return error;
    }
    int control = open(path, O_RDONLY | O_CLOEXEC);
    if (control < 0) {
        return -errno;
    }
    snprintf(text, sizeof text, "%d %d", event, control);
    error = cgroup_write(groups, memory, slot, "cgroup.event_control", text);
    wire_close(&control);
    return error;
}

static void forget(const struct cgroups *groups, uint32_t slot) {
    uint64_t count;
    while (read(groups->marks[slot], &count, sizeof count) > 0) {
    }
}

int cgroup_events_watch(struct cgroups *groups, uint32_t slot) {
    char path[CGROUP_PATH_BYTES + 64];
    if (slot >= groups->marks_count) {
        return -1;
    }
    if (groups->version == 2) {
        if (groups->inotify >= 0 && cgroup_path(path, &groups->hierarchies[0], slot, "memory.events") == 0) {
            groups->marks[slot] = inotify_add_watch(groups->inotify, path, IN_MODIFY);
        }
        return -1;
    }
    if (groups->marks[slot] >= 0) {
        forget(groups, slot); /* what the last occupant did */
        return -1;
    }
    int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (event >= 0 && register_eventfd(groups, slot, event) < 0) {
        wire_close(&event);
    }
    groups->marks[slot] = event;
    return event;
}

bool cgroup_events_take(struct cgroups *groups, uint32_t slot) {
    uint64_t count;
    return slot < groups->marks_count && read(groups->marks[slot], &count, sizeof count) == (ssize_t)sizeof count;
}

unsigned cgroup_events_read(struct cgroups *groups, uint32_t *slots, unsigned max) {
    _Alignas(struct inotify_event) char text[4096];
    unsigned count = 0;
    const ssize_t got = max > 0 ? read(groups->inotify, text, sizeof text) : 0;
    for (ssize_t at = 0; at + (ssize_t)sizeof(struct inotify_event) <= got;) {
        const struct inotify_event *event = (const struct inotify_event *)(const void *)(text + at);
        for (uint32_t slot = 0; slot < groups->marks_count && count < max; slot++) {
            if (groups->marks[slot] == event->wd) {
                if ((event->mask & IN_IGNORED) != 0) {
                    groups->marks[slot] = -1; /* its group was removed */
                } else if (count == 0 || slots[count - 1] != slot) {
                    slots[count++] = slot;
                }
            }
        }
        at += (ssize_t)sizeof *event + event->len;
    }
    return count;
}
