"""What a handler prints: whole, in order, with its call's number, and never gathered without bound."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.runtime.driver import LOG, RESULT, call_frame


def test_stdout_and_stderr_keep_their_order(sandbox):
    box = sandbox(
        """
        import sys
        def handler(event, context):
            sys.stdout.write("a")
            sys.stderr.write("b")
            sys.stdout.buffer.write(b"c\\xff")
            print("d", file=sys.stderr)
            sys.stdout.writelines(["e", "f"])
            sys.__stdout__.write("g")
            context.log("h")
            sys.stderr.write("\\ud800")
            print("i", end="", flush=True)
            sys.stdout.write("partial")
            return event
        """
    ).start()
    assert box.call(1, seq=9).value == 1
    assert b"".join(log.body for log in box.logs) == b"abc\xffd\nefgh\\ud800ipartial"
    assert {log.seq for log in box.logs} == {9}


def test_each_line_is_out_before_the_next_statement(sandbox):
    """What a handler printed before it hangs or dies is what explains why."""
    box = sandbox(
        """
        import os
        def handler(event, context):
            print("one")
            print("two")
            os._exit(1)
        """
    ).start()
    box.send(call_frame(1, b"1"))
    with pytest.raises(EOFError):
        box.next()
    assert box.text() == "one\ntwo\n"


def test_answers_waiting_go_out_before_a_line(sandbox):
    box = sandbox("def handler(event, context):\n    if event == 3:\n        print('three')\n    return event\n").start()
    box.send(b"".join(call_frame(seq, b"%d" % seq) for seq in range(1, 5)))
    seen = [(frame.kind, frame.seq) for frame in (box.any() for _ in range(5))]
    assert seen == [(RESULT, 1), (RESULT, 2), (LOG, 3), (RESULT, 3), (RESULT, 4)]


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
def test_long_lines_are_cut_into_frames(sandbox, size):
    box = sandbox("def handler(event, context):\n    print('ü' * (event // 2), end='x' * (event % 2))\n").start()
    box.call(size)
    assert max(len(log.body) for log in box.logs) <= 65_536
    assert box.text() == "ü" * (size // 2) + "x" * (size % 2)


@pytest.mark.slow
def test_a_flood_waits_for_its_reader(sandbox):
    """100 MB of prints that nobody reads at first: the handler stands still, and its memory does not grow."""
    box = sandbox(
        """
        def handler(event, context):
            for _ in range(event):
                print("x" * 99_999)
            return "done"
        """
    ).start()
    status = Path(f"/proc/{box.process.pid}/status")

    def peak_kb() -> int:
        return int(status.read_text().split("VmHWM:")[1].split()[0])

    before = peak_kb()
    box.send(call_frame(1, b"1000"))
    got = 0
    while (frame := box.any()).kind == LOG:
        got += len(frame.body)
    assert (frame.value, got) == ("done", 100_000_000)
    assert peak_kb() - before < 4_000


def test_the_streams_look_like_files(sandbox):
    box = sandbox(
        """
        import contextlib, io, sys
        def handler(event, context):
            held = io.StringIO()
            with contextlib.redirect_stdout(held):
                print("kept away")
            return [
                [s.fileno(), s.isatty(), s.writable(), s.readable(), s.encoding, s.name, s.mode, s.closed, s.buffer.fileno()]
                for s in (sys.stdout, sys.stderr)
            ] + [held.getvalue(), sys.stdout.buffer.write(memoryview(b"abc"))]
        """
    ).start()
    streams = [[fd, False, True, False, "utf-8", name, "w", False, fd] for fd, name in ((1, "<stdout>"), (2, "<stderr>"))]
    assert box.call().value == [*streams, "kept away\n", 3]
    assert box.text() == "abc"


def test_what_c_code_and_programs_write_goes_to_the_pipe(sandbox):
    box = sandbox(
        """
        import os, subprocess, sys
        def handler(event, context):
            os.write(1, b"one ")
            subprocess.run(["echo", "two"], check=True)
            subprocess.run(["echo", "three"], check=True, stdout=sys.stderr)
        """
    ).start()
    assert box.call().value is None
    box.channel.close()
    assert box.wait() == (0, "one two\nthree\n")


TEXT_LOG = """
import logging
log = logging.getLogger("app")
logging.warning("in init")
def handler(event, context):
    log.info("unseen unless asked for")
    log.warning("a %s", "b", extra={"order": 7})
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("broken")
    log.error("%d", "no number")
"""
ID = "8476a536-e9f4-11e8-9739-2dfe598c3fcd"
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


def test_text_logging(sandbox):
    box = sandbox(TEXT_LOG).start()
    box.call()
    text = box.text()
    lines = re.findall(rf"^\[\w+\]\t{TIME}\.\d{{3}}Z\t.*$", text, re.M)
    assert [re.sub(TIME + r"\.\d{3}", "T", line) for line in lines] == [
        "[WARNING]\tTZ\t\tin init",
        f"[WARNING]\tTZ\t{ID}\ta b",
        f"[ERROR]\tTZ\t{ID}\tbroken",
    ]
    assert f'{ID}\tbroken\nTraceback (most recent call last):\n  File "{box.directory}/app.py", line 9, in handler\n' in text
    assert "--- Logging error ---" in text  # logging's own way to tell of a message that does not fit its arguments


@pytest.mark.parametrize(
    ("level", "seen"), [("INFO", True), ("debug", True), ("TRACE", True), ("ERROR", False), ("nonsense", False)]
)
def test_the_log_level_is_the_configuration_s(sandbox, level, seen):
    box = sandbox(TEXT_LOG).start(environment={"AWS_LAMBDA_LOG_LEVEL": level})
    box.call()
    assert ("unseen unless asked for" in box.text()) is seen


def test_json_logging(sandbox):
    code = TEXT_LOG.replace('    log.error("%d", "no number")\n', '    log.error(object, extra={"odd": {1}})\n')
    box = sandbox(code).start(environment={"AWS_LAMBDA_LOG_FORMAT": "JSON"})
    box.call()
    first, second, third, fourth = (json.loads(line) for line in box.text().splitlines())
    for line in (first, second, third, fourth):
        assert re.fullmatch(TIME + "Z", line.pop("timestamp"))
    assert first == {"level": "WARNING", "message": "in init", "logger": "root", "requestId": ""}
    assert second == {"level": "WARNING", "message": "a b", "logger": "app", "requestId": ID, "order": 7}
    (entry,) = trace = third["stackTrace"]
    assert entry.startswith(f'  File "{box.directory}/app.py", line 9, in handler\n    1 / 0\n')
    assert third == {
        "level": "ERROR",
        "message": "broken",
        "logger": "app",
        "requestId": ID,
        "errorType": "ZeroDivisionError",
        "errorMessage": "division by zero",
        "stackTrace": trace,
        "location": f"{box.directory}/app.py:handler:11",
    }
    assert (fourth["message"], fourth["odd"]) == ("<class 'object'>", "{1}")
