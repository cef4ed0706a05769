"""From a handler's name to READY or INIT_ERROR: every way Lambda knows for it to go wrong, with Lambda's words."""

from __future__ import annotations

import pytest

from tests.runtime.driver import INIT_ERROR, READY, start_frame

OK = "def handler(event, context):\n    return __name__\n"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("app.py", "app.handler"),
        ("pkg/mod.py", "pkg/mod.handler"),
        ("pkg/mod.py", "pkg.mod.handler"),
        ("deep/er/mod.py", "deep/er/mod.handler"),
        # names of our own modules and packages are free for functions to use
        ("scheduler/__init__.py", "scheduler.handler"),
        ("scheduler/runtime/loop.py", "scheduler.runtime.loop.handler"),
        ("bootstrap.py", "bootstrap.handler"),
        ("context.py", "context.handler"),
    ],
)
def test_names_that_work(sandbox, path, name):
    box = sandbox()
    file = box.directory / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(OK)
    assert box.start(name).call().value == name.rpartition(".")[0].replace("/", ".")


@pytest.mark.parametrize(
    ("name", "code", "error_type", "message", "trace"),
    [
        ("handler", OK, "Runtime.MalformedHandlerName",
         "Bad handler 'handler': not enough values to unpack (expected 2, got 1)", []),
        ("app.other", OK, "Runtime.HandlerNotFound", "Handler 'other' missing on module 'app'", []),
        ("nowhere.handler", OK, "Runtime.ImportModuleError",
         "Unable to import module 'nowhere': No module named 'nowhere'", []),
        ("pkg/nowhere.handler", OK, "Runtime.ImportModuleError",
         "Unable to import module 'pkg/nowhere': No module named 'pkg'", []),
        ("app.handler", "import numpyy\n", "Runtime.ImportModuleError",
         "Unable to import module 'app': No module named 'numpyy'", []),
        ("sys.exit", OK, "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module", []),
        ("app.handler", "x = 1\ndef handler(:\n", "Runtime.UserCodeSyntaxError",
         "Syntax error in module 'app': invalid syntax (app.py, line 2)",
         ['  File "{root}/app.py" Line 2\n    def handler(:\n']),
    ],
)  # fmt: skip
def test_faults(sandbox, name, code, error_type, message, trace):
    box = sandbox(code)
    box.send(start_frame(box.directory, name))
    frame = box.next()
    assert (frame.kind, frame.seq, frame.flags) == (INIT_ERROR, 0, 0)
    assert frame.error == {
        "errorMessage": message,
        "errorType": error_type,
        "requestId": "",
        "stackTrace": [line.format(root=box.directory) for line in trace],
    }
    assert list(frame.error) == ["errorMessage", "errorType", "requestId", "stackTrace"]
    assert box.wait() == (1, "")
    assert box.text().startswith(f"[ERROR] {error_type}: {message}\nTraceback (most recent call last):\n")


def test_an_exception_of_the_module_s_own(sandbox):
    box = sandbox("def connect():\n    raise ConnectionError('db')\nprint('before')\nconnect()\n" + OK)
    box.send(start_frame(box.directory))
    error = box.next().error
    assert (error["errorType"], error["errorMessage"], error["requestId"]) == ("ConnectionError", "db", "")
    trace = "".join(error["stackTrace"])
    assert "_function_runtime" not in trace
    assert "scheduler/runtime" not in trace
    assert error["stackTrace"][-2:] == [
        f'  File "{box.directory}/app.py", line 4, in <module>\n    connect()\n',
        f"  File \"{box.directory}/app.py\", line 2, in connect\n    raise ConnectionError('db')\n",
    ]
    assert box.wait() == (1, "")
    assert box.text().startswith("before\n[ERROR] ConnectionError: db\n")


@pytest.mark.parametrize(
    ("code", "status"), [("import sys\nsys.exit(7)\n", 7), ("import os\nos._exit(9)\n", 9), ("exit()\n", 0)]
)
def test_init_that_exits(sandbox, code, status):
    box = sandbox(code)
    box.send(start_frame(box.directory))
    with pytest.raises(EOFError):
        box.next()
    assert box.process.returncode == status


def test_init_prints_belong_to_no_call(sandbox):
    box = sandbox("import sys\nprint('out')\nprint('err', file=sys.stderr)\nsys.stdout.write('partial')\n" + OK)
    box.send(start_frame(box.directory))
    assert box.next().kind == READY
    assert box.text() == "out\nerr\npartial"
    assert {log.seq for log in box.logs} == {0}


def test_a_child_forked_in_init_says_nothing(sandbox):
    box = sandbox("import os\nchild = os.fork()\nif child:\n    os.waitpid(child, 0)\n" + OK)
    box.start()
    assert box.call().value == "app"


def test_the_last_python_module_path_wins_where_it_should(sandbox):
    """The function's own directory stands before everything, so its modules may replace the standard library's."""
    box = sandbox("import colorsys\ndef handler(event, context):\n    return colorsys.mine\n")
    (box.directory / "colorsys.py").write_text("mine = True\n")
    assert box.start().call().value is True
