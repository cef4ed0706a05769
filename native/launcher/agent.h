/* agent.h: the worker of a sandbox that executes programs. It holds the channel; the runtime and the extensions are its children and
 * speak with the service over sockets of their own (the Runtime API), so that no call passes through here.
 *
 *   START      extensions are started, then the runtime; it ends as the runtime ends: with its status, or by its signal. Where
 *              extensions live it first tells the service by RUNTIME, which answers with the time that they have
 *   STOP       SIGTERM to the runtime, the rest of the time for the extensions, then all is killed
 *   TELEMETRY  records of what the sandbox does, for those in it that have subscribed (telemetry.h)
 *   extensions their output is told as LOG frames; one that cannot be started or ends is told by EXTENSION, and ends the sandbox
 *
 * It has no privilege when it comes here, and has the uid of what it starts: what that can do to it, it does to itself. It cannot be
 * traced, and its children have none of its descriptors.
 */
#ifndef LAUNCHER_AGENT_H
#define LAUNCHER_AGENT_H

#include "prestart.h"

/* In a specialised sandbox, descriptors as channel.md has them. temp_dir: where temporary files of the runtime belong; "": /tmp.
 * prestart: what START may make the runtime; its pid is 0 where there is nothing. */
_Noreturn void agent_run(const char *temp_dir, const struct prestart *prestart);

#endif
