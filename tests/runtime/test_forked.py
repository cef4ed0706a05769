"""The other way into the runtime: forked from a process that has loaded everything ahead."""

from __future__ import annotations

import pytest

from tests.runtime.driver import BOOTSTRAP, ENVIRONMENT

FORKING = f"""
import importlib.util, os, random, sys
os.environ["LEFT_OVER"] = "1"
spec = importlib.util.spec_from_file_location("_function_bootstrap", {str(BOOTSTRAP)!r})
bootstrap = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bootstrap)
bootstrap.preload()
random.seed(1)
child = os.fork()
if not child:
    random.seed(1)  # after os.fork() Python seeds anew; a fork in C does not
    bootstrap.main()
os.close(3)
os.close(4)
_, status = os.waitpid(child, 0)
code = os.waitstatus_to_exitcode(status)
print("child", code, flush=True)
"""

CODE = """
import atexit, json, os, random, sys, time
atexit.register(print, "atexit")
def handler(event, context):
    if event == "exit":
        sys.exit(5)
    if event == "raise":
        raise KeyboardInterrupt
    return [
        random.random(), dict(os.environ), sys.path[0], os.getcwd(), {"asyncio", "logging", "decimal"} <= set(sys.modules),
        [name for name in sys.modules if name.startswith(("scheduler", "bootstrap"))],
    ]
"""


def test_a_forked_runtime_is_as_good_as_a_started_one(sandbox):
    box = sandbox(CODE, program=FORKING).start()
    number, environment, path, directory, preloaded, ours = box.call().value
    assert number != pytest.approx(0.13436424411240122)  # what seed(1) gives
    assert environment == ENVIRONMENT
    assert path == directory == str(box.directory)
    assert preloaded
    assert ours == []
    box.channel.close()
    assert box.wait() == (0, "child 0\n")


@pytest.mark.parametrize(("event", "status"), [("exit", 5), ("raise", -2)])
def test_how_a_forked_runtime_ends(sandbox, event, status):
    box = sandbox(CODE, program=FORKING).start()
    with pytest.raises(EOFError, match=f"child {status}"):
        box.call(event)
    assert box.text().endswith("atexit\n")
    if event == "raise":
        assert "KeyboardInterrupt\n" in box.text()
