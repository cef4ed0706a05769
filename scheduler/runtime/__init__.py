"""The code that runs inside a sandbox.

Law of this room: it imports nothing of ours and only the standard library, since it lives beside a stranger's code in an
interpreter started with `-I -S -B`. It is never imported there under this package's name: `bootstrap.adopt()` loads it under a
private one, so that a function may bring modules called `scheduler`, `context` or `bootstrap` of its own.

    bootstrap    the door: main(), and preload() for the process that sandboxes are forked from
    process      one sandbox from START to its end
    loop         one call after the other, as docs/internals/channel.md has it
    frames       the channel's bytes
    channel      descriptors and what may be written when
    startup      START to a process that looks like Lambda's: environment, paths, clock, streams
    snapshots    images of an initialised process, made and restored
    obstacles    what keeps a process from being one of which an image is made
    packages     what functions may import: snapshot_restore_py
    api_main     the door where calls come over Lambda's Runtime API
    api_prestart the same before a function is known
    api          one process there: init, then one call after the other
    api_client   the Runtime API's bytes
    handlers     "module.function" to something to call
    faults       Lambda's error object
    context      Lambda's context object
    payloads     JSON and MessagePack in and out
    messagepack  reader and writer
    output       sys.stdout and sys.stderr of the handler
    node         the same in JavaScript, for Node
    logs         the root logger's handler and its two formats
"""
