#include "agent.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent_channel.h"
#include "execstart.h"
#include "steps.h"
#include "telemetry.h"
#include "wire.h"

enum {
    NAME_BYTES = 256,
    LAST_WORDS_MS = 500,       /* for what is still to be told at the end */
    ENDED_PATIENCE_MS = 1000,  /* for the service's STOP, once the runtime has ended */
    RUNTIME_SHARE_PERCENT = 30 /* of the time that STOP gives; the rest is the extensions' */
};

struct extension {
    char name[NAME_BYTES]; /* of its file */
    pid_t pid;             /* 0: it has ended */
    int output;            /* read end of its pipe; -1: ended */
};

/* Stopping: the runtime has its share of the time, then the extensions have the rest. Ended: the runtime has, by itself; the service
 * tells the extensions, and us how long they have. */
enum agent_state { AGENT_WAITING, AGENT_RUNNING, AGENT_ENDED, AGENT_STOPPING_RUNTIME, AGENT_STOPPING_EXTENSIONS };

struct agent {
    struct agent_channel channel;
    struct telemetry telemetry;
    enum agent_state state;
    const char *temp_dir;
    int signals;   /* of children's ends */
    pid_t runtime; /* 0: not there */
    struct prestart prestart;
    struct extension extensions[EXECSTART_EXTENSIONS_MAX];
    unsigned extensions_count, next_output;
    uint64_t deadline_ms, end_ms; /* of the state, of stopping as a whole */
    int status;                   /* of the runtime that has ended by itself, as waitpid() gave it; else 0 */
};

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000U + (uint64_t)now.tv_nsec / 1000000U;
}

/* ---- ending ---- */

/* One LOG frame at a time, of the extensions in turn. False: there was nothing. */
static bool pass_output_on(struct agent *agent) {
    uint8_t *const room = agent_channel_log_room(&agent->channel);
    for (unsigned i = 0; room != NULL && i < agent->extensions_count; i++) {
        struct extension *const extension = &agent->extensions[agent->next_output];
        agent->next_output = (agent->next_output + 1) % agent->extensions_count;
        if (extension->output < 0) {
            continue;
        }
        const ssize_t got = read(extension->output, room, FRAME_LOG_BYTES_MAX);
        if (got > 0) {
            agent_channel_log(&agent->channel, (size_t)got);
            return true;
        }
        if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
            wire_close(&extension->output);
        }
    }
    return false;
}

/* What has been written before the end is told, and what is known is delivered, to those who listen. */
static void last_words(struct agent *agent) {
    const uint64_t until_ms = now_ms() + LAST_WORDS_MS;
    telemetry_drain(&agent->telemetry);
    for (uint64_t now = now_ms(); now < until_ms && !agent->channel.ended; now = now_ms()) {
        struct pollfd watched[1 + TELEMETRY_SUBSCRIBERS_MAX];
        agent_channel_flush(&agent->channel);
        telemetry_turn(&agent->telemetry, now);
        if (pass_output_on(agent)) {
            continue;
        }
        if (agent->channel.out_bytes == 0 && !telemetry_pending(&agent->telemetry)) {
            return;
        }
        watched[0] = (struct pollfd){.fd = agent->channel.out_bytes > 0 ? agent->channel.fd : -1, .events = POLLOUT};
        const unsigned count = 1 + telemetry_watch(&agent->telemetry, watched + 1);
        const uint64_t due_ms = telemetry_due_ms(&agent->telemetry);
        (void)poll(watched, count, (int)((due_ms < until_ms ? (due_ms > now ? due_ms : now) : until_ms) - now));
    }
}

/* With the sandbox's first process, which passes the status on, everything in it ends. */
_Noreturn static void leave(struct agent *agent, int status) {
    last_words(agent);
    _exit(status);
}

/* As the runtime did. */
_Noreturn static void end_as(struct agent *agent, int status) {
    last_words(agent);
    if (WIFEXITED(status)) {
        _exit(WEXITSTATUS(status));
    }
    const int number = WTERMSIG(status);
    const struct sigaction by_default = {.sa_handler = SIG_DFL};
    sigset_t one;
    sigaction(number, &by_default, NULL);
    sigemptyset(&one);
    sigaddset(&one, number);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
    kill(getpid(), number);
    _exit(128 + number); /* it was a signal that ends a process */
}

_Noreturn static void fail_init(struct agent *agent, const char *type, const char *message) {
    char text[FRAME_WORDS_BYTES_MAX] = "{\"errorType\":";
    agent_json_string(text, sizeof text, type);
    strncat(text, ",\"errorMessage\":", sizeof text - strlen(text) - 1);
    agent_json_string(text, sizeof text - 1, message);
    strncat(text, "}", sizeof text - strlen(text) - 1);
    agent_channel_words(&agent->channel, FRAME_INIT_ERROR, text);
    leave(agent, 1);
}

/* A frame that the service never sends. */
_Noreturn static void refuse(struct agent *agent, const char *what) {
    dprintf(2, "sandbox: %s\n", what);
    leave(agent, 1);
}

/* ---- starting ---- */

/* "permission denied", as Lambda's messages have it. */
static const char *reason(int error, char *text, size_t bytes) {
    snprintf(text, bytes, "%s", strerror(error));
    text[0] = text[0] >= 'A' && text[0] <= 'Z' ? (char)(text[0] + ('a' - 'A')) : text[0];
    return text;
}

/* 0 or errno. output: becomes its output; -1: it has ours. */
static int execute(const char *program, const char *directory, char *const *arguments, char *const *variables, int output, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    sigemptyset(&none);
    int error = posix_spawn_file_actions_init(&actions);
    error = error == 0 ? posix_spawnattr_init(&attributes) : error;
    error = error == 0 ? posix_spawn_file_actions_addchdir_np(&actions, directory) : error;
    for (int i = 1; i <= 2 && output >= 0 && error == 0; i++) {
        error = posix_spawn_file_actions_adddup2(&actions, output, i);
    }
    error = error == 0 ? posix_spawnattr_setsigmask(&attributes, &none) : error;
    error = error == 0 ? posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID) : error;
    return error == 0 ? posix_spawn(pid, program, &actions, &attributes, arguments, variables) : error; /* a few bytes stay, for good */
}

static void tell_extension(struct agent *agent, const char *name, const char *event, int status, int signal_number, int error) {
    char text[FRAME_WORDS_BYTES_MAX] = "{\"name\":", more[256];
    char why[128] = "";
    agent_json_string(text, sizeof text - sizeof more, name);
    snprintf(more, sizeof more, ",\"event\":\"%s\",\"status\":%d,\"signal\":%d,\"reason\":\"%s\"}", event, status, signal_number,
             error == 0 ? "" : reason(error, why, sizeof why));
    strncat(text, more, sizeof text - strlen(text) - 1);
    agent_channel_words(&agent->channel, FRAME_EXTENSION, text);
}

static void start_extension(struct agent *agent, char *program, char *const *variables) {
    struct extension *const extension = &agent->extensions[agent->extensions_count++];
    char *const arguments[] = {program, NULL};
    int output[2] = {-1, -1};
    const char *const name = strrchr(program, '/') + 1;
    snprintf(extension->name, sizeof extension->name, "%s", name);
    int error = pipe2(output, O_CLOEXEC) < 0 || fcntl(output[0], F_SETFL, O_NONBLOCK) < 0 ? errno : 0;
    error = error == 0 ? execute(program, "/", arguments, variables, output[1], &extension->pid) : error;
    wire_close(&output[1]);
    extension->output = output[0];
    if (error != 0) {
        extension->pid = 0;
        tell_extension(agent, extension->name, "launch", 0, 0, error);
        leave(agent, 1);
    }
}

/* As Lambda's own bootstrap does. */
static void check_wrapper(struct agent *agent, const char *wrapper) {
    struct stat status;
    if (stat(wrapper, &status) < 0 || !S_ISREG(status.st_mode)) {
        dprintf(2, "%s: does not exist\n", wrapper);
        leave(agent, 127);
    }
    if (access(wrapper, X_OK) < 0) {
        dprintf(2, "%s: is not an executable\n", wrapper);
        leave(agent, 126);
    }
}

/* The first program that is there. */
static char *choose_program(struct agent *agent, const struct execstart *start) {
    char message[FRAME_WORDS_BYTES_MAX / 2] = "Couldn't find valid bootstrap(s): [";
    for (unsigned i = 0; i < start->programs_count; i++) {
        struct stat status;
        if (stat(start->programs[i], &status) == 0 && !S_ISDIR(status.st_mode)) {
            return start->programs[i];
        }
        const size_t held = strlen(message);
        snprintf(message + held, sizeof message - held, "%s%s", i > 0 ? " " : "", start->programs[i]);
    }
    strncat(message, "]", sizeof message - strlen(message) - 1);
    fail_init(agent, "Runtime.InvalidEntrypoint", message);
}

/* What was started at birth becomes the runtime, if it can be that. */
static bool use_prestarted(struct agent *agent, const struct execstart *start) {
    if (agent->prestart.pid > 0 && start->wrapper == NULL && (start->flags & EXECSTART_AFRESH) == 0 &&
        prestart_tell(&agent->prestart, start->variables, start->directory)) {
        agent->runtime = agent->prestart.pid;
        return true;
    }
    prestart_drop(&agent->prestart);
    return false;
}

static void start_runtime(struct agent *agent, struct execstart *start) {
    char *arguments[EXECSTART_ARGUMENTS_MAX + 3];
    char message[FRAME_WORDS_BYTES_MAX / 2], why[128];
    unsigned count = 0;
    if (use_prestarted(agent, start)) {
        return;
    }
    char *const program = choose_program(agent, start);
    if (start->wrapper != NULL) {
        check_wrapper(agent, start->wrapper);
        arguments[count++] = start->wrapper;
    }
    arguments[count++] = program;
    memcpy(arguments + count, start->arguments, sizeof start->arguments);
    const int error = execute(arguments[0], start->directory, arguments, start->variables, -1, &agent->runtime);
    if (error != 0) {
        agent->runtime = 0;
        snprintf(message, sizeof message, "fork/exec %s: %s", arguments[0], reason(error, why, sizeof why));
        fail_init(agent, "Runtime.InvalidEntrypoint", message);
    }
}

static bool has_variable(char *const *variables, const char *name) {
    const size_t bytes = strlen(name);
    for (; *variables != NULL; variables++) {
        if (strncmp(*variables, name, bytes) == 0 && (*variables)[bytes] == '=') {
            return true;
        }
    }
    return false;
}

/* Without namespaces /tmp is everybody's. */
static void add_temp_dir(const struct agent *agent, char **variables, char *text, size_t bytes) {
    if (agent->temp_dir[0] != '\0' && !has_variable(variables, "TMPDIR")) {
        snprintf(text, bytes, "TMPDIR=%s", agent->temp_dir);
        while (*variables != NULL) {
            variables++;
        }
        variables[0] = text;
        variables[1] = NULL;
    }
}

static void start(struct agent *agent, uint8_t *body, size_t bytes) {
    static struct execstart what;
    char message[FRAME_WORDS_BYTES_MAX / 2], why[128], temp_dir[160];
    const char *const wrong = execstart_decode(body, bytes, &what);
    if (wrong != NULL) {
        snprintf(message, sizeof message, "START: %s", wrong);
        refuse(agent, message);
    }
    if (chdir(what.directory) < 0) {
        snprintf(message, sizeof message, "chdir %s: %s", what.directory, reason(errno, why, sizeof why));
        fail_init(agent, "Runtime.InvalidWorkingDir", message);
    }
    add_temp_dir(agent, what.variables, temp_dir, sizeof temp_dir);
    add_temp_dir(agent, what.extension_variables, temp_dir, sizeof temp_dir);
    for (unsigned i = 0; i < what.extensions_count; i++) {
        start_extension(agent, what.extensions[i], what.extension_variables);
    }
    start_runtime(agent, &what);
    agent->state = AGENT_RUNNING;
}

/* ---- stopping ---- */

static bool extensions_live(const struct agent *agent) {
    for (unsigned i = 0; i < agent->extensions_count; i++) {
        if (agent->extensions[i].pid > 0) {
            return true;
        }
    }
    return false;
}

/* Its session, with what it has started there. */
static void signal_runtime(const struct agent *agent, int number) {
    if (agent->runtime > 0) {
        kill(-agent->runtime, number);
    }
}

static void leave_runtime(struct agent *agent) {
    signal_runtime(agent, SIGKILL);
    if (!extensions_live(agent)) {
        end_as(agent, agent->status);
    }
    agent->state = AGENT_STOPPING_EXTENSIONS;
    agent->deadline_ms = agent->end_ms;
}

/* Whoever calls a function does not wait for its extensions, so the service is told at once; they are given time. Killed by force: what
 * was out of memory, for one, and the launcher knows more of that. */
static void runtime_ended(struct agent *agent, pid_t pid, int status) {
    char text[64];
    if (!extensions_live(agent) || (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)) {
        end_as(agent, status);
    }
    snprintf(text, sizeof text, "{\"status\":%d,\"signal\":%d}", WIFEXITED(status) ? WEXITSTATUS(status) : 0,
             WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    agent_channel_words(&agent->channel, FRAME_RUNTIME, text);
    kill(-pid, SIGKILL); /* what it had started in its session ends with it */
    telemetry_drain(&agent->telemetry);
    agent->status = status;
    agent->state = AGENT_ENDED;
    agent->deadline_ms = now_ms() + ENDED_PATIENCE_MS;
}

static void stop(struct agent *agent, const uint8_t *body, size_t bytes) {
    uint32_t budget_ms = 0;
    memcpy(&budget_ms, body, bytes >= sizeof budget_ms ? sizeof budget_ms : 0);
    telemetry_drain(&agent->telemetry); /* who hears of it shall hear it in time */
    if (budget_ms == 0 || agent->state == AGENT_WAITING) {
        end_as(agent, agent->status);
    }
    if (agent->state == AGENT_ENDED) {
        agent->end_ms = now_ms() + budget_ms;
        leave_runtime(agent);
    } else if (agent->state == AGENT_RUNNING) {
        const uint64_t now = now_ms();
        agent->end_ms = now + budget_ms;
        agent->deadline_ms = extensions_live(agent) ? now + (uint64_t)budget_ms * RUNTIME_SHARE_PERCENT / 100 : agent->end_ms;
        agent->state = AGENT_STOPPING_RUNTIME;
        signal_runtime(agent, SIGTERM);
    }
}

static void child_ended(struct agent *agent, pid_t pid, int status) {
    if (pid == agent->prestart.pid) { /* also while it waits: then another is executed */
        agent->prestart.pid = 0;
    }
    if (pid == agent->runtime) {
        agent->runtime = 0;
        if (agent->state == AGENT_RUNNING) {
            runtime_ended(agent, pid, status);
        } else if (agent->state == AGENT_STOPPING_RUNTIME) {
            leave_runtime(agent);
        }
        return;
    }
    for (unsigned i = 0; i < agent->extensions_count; i++) {
        struct extension *const extension = &agent->extensions[i];
        if (extension->pid != pid) {
            continue;
        }
        extension->pid = 0;
        if (agent->state == AGENT_RUNNING) {
            const bool exited = WIFEXITED(status);
            tell_extension(agent, extension->name, exited ? "exit" : "crash", exited ? WEXITSTATUS(status) : 0,
                           exited ? 0 : WTERMSIG(status), 0);
            leave(agent, 1);
        }
    }
    if ((agent->state == AGENT_STOPPING_EXTENSIONS || agent->state == AGENT_ENDED) && !extensions_live(agent)) {
        end_as(agent, agent->status);
    }
}

/* ---- the loop ---- */

static void reap(struct agent *agent) {
    struct signalfd_siginfo info;
    int status;
    pid_t pid;
    while (read(agent->signals, &info, sizeof info) > 0) {
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        child_ended(agent, pid, status);
    }
}

static void take_telemetry(struct agent *agent, const struct frame_header *head, const uint8_t *body) {
    char message[64];
    const bool subscription = (head->flags & FRAME_TELEMETRY_SUBSCRIBE) != 0;
    const char *const wrong = subscription ? telemetry_subscribe(&agent->telemetry, body, head->length)
                                           : telemetry_take(&agent->telemetry, body, head->length, now_ms());
    if (wrong != NULL) {
        snprintf(message, sizeof message, "TELEMETRY: %s", wrong);
        refuse(agent, message);
    }
}

static void heed(struct agent *agent) {
    struct frame_header head;
    uint8_t *body;
    while (agent_channel_receive(&agent->channel, &head, &body)) {
        if (head.kind == FRAME_START && agent->state == AGENT_WAITING) {
            start(agent, body, head.length);
        } else if (head.kind == FRAME_STOP) {
            stop(agent, body, head.length);
        } else if (head.kind == FRAME_TELEMETRY && agent->state != AGENT_WAITING) {
            take_telemetry(agent, &head, body);
        } else {
            refuse(agent, "a frame out of order");
        }
    }
    if (agent->channel.ended) {
        _exit(0); /* nobody is there to be told anything */
    }
}

static bool is_stopping(const struct agent *agent) {
    return agent->state == AGENT_STOPPING_RUNTIME || agent->state == AGENT_STOPPING_EXTENSIONS || agent->state == AGENT_ENDED;
}

/* For poll(); -1: nothing is to be done by the clock. */
static int wait_ms(const struct agent *agent) {
    enum { LONG_MS = 1 << 30 };
    const uint64_t now = now_ms(), telemetry_ms = telemetry_due_ms(&agent->telemetry);
    const uint64_t due_ms = is_stopping(agent) && agent->deadline_ms < telemetry_ms ? agent->deadline_ms : telemetry_ms;
    if (due_ms == UINT64_MAX) {
        return -1;
    }
    return due_ms <= now ? 0 : due_ms - now < LONG_MS ? (int)(due_ms - now) : LONG_MS;
}

static void turn(struct agent *agent) {
    enum { CHANNEL, SIGNALS, OUTPUTS };
    struct pollfd watched[OUTPUTS + EXECSTART_EXTENSIONS_MAX + TELEMETRY_SUBSCRIBERS_MAX];
    const bool full = agent->channel.out_bytes > 0;
    watched[CHANNEL] = (struct pollfd){.fd = agent->channel.fd, .events = (short)(full ? POLLIN | POLLOUT : POLLIN)};
    watched[SIGNALS] = (struct pollfd){.fd = agent->signals, .events = POLLIN};
    for (unsigned i = 0; i < agent->extensions_count; i++) { /* one that is -1 is not looked at */
        watched[OUTPUTS + i] = (struct pollfd){.fd = full ? -1 : agent->extensions[i].output, .events = POLLIN};
    }
    const unsigned others = OUTPUTS + agent->extensions_count;
    (void)poll(watched, others + telemetry_watch(&agent->telemetry, watched + others), wait_ms(agent));
    agent_channel_flush(&agent->channel);
    if (watched[SIGNALS].revents != 0) {
        reap(agent);
    }
    (void)pass_output_on(agent);
    if (watched[CHANNEL].revents != 0) {
        heed(agent);
    }
    telemetry_turn(&agent->telemetry, now_ms());
    if (is_stopping(agent) && now_ms() >= agent->deadline_ms) {
        if (agent->state != AGENT_STOPPING_RUNTIME) {
            end_as(agent, agent->status);
        }
        leave_runtime(agent);
    }
}

_Noreturn void agent_run(const char *temp_dir, const struct prestart *prestart) {
    static struct agent agent = {.channel = {.fd = SANDBOX_FD_CHANNEL}};
    sigset_t ends, blocked;
    int progress = SANDBOX_FD_PROGRESS; /* no calls pass through here */
    wire_close(&progress);
    sigemptyset(&ends);
    sigaddset(&ends, SIGCHLD);
    blocked = ends;
    sigaddset(&blocked, SIGPIPE); /* children have none blocked */
    agent.temp_dir = temp_dir;
    agent.prestart = *prestart;
    agent.signals = sigprocmask(SIG_BLOCK, &blocked, NULL) < 0 ? -1 : signalfd(-1, &ends, SFD_CLOEXEC | SFD_NONBLOCK);
    if (agent.signals < 0 || fcntl(SANDBOX_FD_CHANNEL, F_SETFD, FD_CLOEXEC) < 0) {
        _exit(126);
    }
    for (;;) {
        turn(&agent);
    }
}
