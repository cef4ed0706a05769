"""The door where the process is started before its function is known: `python -I -S -B api_prestart.py`.

Everything is loaded that most functions import, then the process waits, blocked, for its environment and its directory: one
frame at the descriptor that _SCHEDULER_PRESTART_FD names. No stranger's code has run until then.
"""

import importlib.util
import os
import struct
import sys
import time

DIRECTORY = os.path.dirname(os.path.abspath(__file__))
FRAME_BYTES_MAX = 1024 * 1024


def read(fd, count):
    data = b""
    while len(data) < count:
        piece = os.read(fd, count - len(data))
        if not piece:
            os._exit(0)  # nobody is left who could want this process
        data += piece
    return data


def become(frame):
    """The frame's texts end with NUL: KEY=VALUE, or the directory, which begins with a slash."""
    os.environ.clear()
    for text in frame.split(b"\0"):
        name, equals, value = text.partition(b"=")
        if text.startswith(b"/"):
            os.chdir(text)
        elif name and equals:
            os.environb[name] = value
    time.tzset()


def main():
    spec = importlib.util.spec_from_file_location("_function_bootstrap", os.path.join(DIRECTORY, "bootstrap.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"no bootstrap.py in {DIRECTORY}")
    bootstrap = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bootstrap)
    bootstrap.preload()
    api = bootstrap.adopt("api")
    fd = int(os.environ["_SCHEDULER_PRESTART_FD"])
    (count,) = struct.unpack("<I", read(fd, 4))
    if count > FRAME_BYTES_MAX:
        sys.exit(f"a frame of {count} bytes, the limit is {FRAME_BYTES_MAX}")
    become(read(fd, count))
    os.close(fd)
    api.run()


if __name__ == "__main__":
    main()
