#include "children.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* As many as fit: those left over are met the next time, and there is one after each death. */
void children_kill(bool (*spared)(const void *context, pid_t pid), const void *context) {
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    const ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got < 0 ? 0 : got] = '\0';
    for (char *at = text, *end; *at != '\0'; at = end) {
        const long pid = strtol(at, &end, 10);
        while (*end == ' ') {
            end++;
        }
        if (end == at || (*end == '\0' && end[-1] != ' ')) { /* the last may have been cut: it would be another's number */
            break;
        }
        if (spared == NULL || !spared(context, (pid_t)pid)) {
            kill((pid_t)pid, SIGKILL);
        }
    }
}

void children_end(void) {
    do {
        children_kill(NULL, NULL);
    } while (waitpid(-1, NULL, 0) > 0 || errno == EINTR);
}
