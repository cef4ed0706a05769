"""The process that sandboxes of one runtime are forked from: loads what functions commonly import, then serves the launcher.

Law of this file: no stranger's code ever runs here, nothing is read but files of the interpreter and of this directory, and
there is one thread. Started by the launcher as `python -I -S -B zygote.py` with its socket as descriptor 3, inside the
read-only root that its sandboxes will see. serve() comes back in a sandbox only: specialised, without privileges, descriptors
as the channel's page has them.

Memory: everything alive is frozen out of the collector's sight, so that a child's first collection does not write to (and so
copy) every page that it shares with this process.
"""

import gc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import sys
import tempfile

DIRECTORY = os.path.dirname(os.path.abspath(__file__))
LAUNCHER_FD = 3
SCRATCH = ("/tmp", "/dev/shm")


def load(name, file):
    """A module of this directory, by its file: nothing here is on sys.path, where a function's own modules will be."""
    path = os.path.join(DIRECTORY, file)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module at {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    bootstrap = load("_function_bootstrap", "bootstrap.py")
    sandbox = load("_sandbox", "_sandbox.abi3.so")
    bootstrap.preload()
    sys.argv = [""]
    gc.collect()
    gc.freeze()
    init = os.open(os.path.join(DIRECTORY, "_init"), os.O_PATH | os.O_CLOEXEC)
    private = sandbox.serve(LAUNCHER_FD, init)
    # A sandbox from here on, and no fork hook has run. What was drawn at random before all of them have; START reseeds random.
    multiprocessing.current_process().authkey = os.urandom(32)
    if private:  # without namespaces /tmp is everybody's
        tempfile.tempdir = private
    bootstrap.main(native=sandbox, scratch=(private,) if private else SCRATCH, private=bool(private))


main()
