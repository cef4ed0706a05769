"""Handlers that break things around them, by accident: the channel stays whole and the next call runs."""

from __future__ import annotations

import pytest

from tests.runtime.driver import LOG, call_frame


@pytest.mark.parametrize(
    "code",
    [
        "os.closerange(3, 200)",
        "os.close(0); os.close(1); os.close(2)",
        "os.chdir('/')",
        "sys.stdout = sys.stderr = None",
        "sys.stdout = io.StringIO()",
        "sys.stdout.close(); sys.stderr.close()",
        "sys.stdout.detach()",
        "json.loads = json.dumps = json.JSONDecoder = json.JSONEncoder = None",
        "json.JSONEncoder.default = lambda self, o: 'mine'",
        "time.monotonic_ns = time.time = time.time_ns = lambda: 1 / 0",
        "os.write = os.readv = os._exit = None",
        "os.environ.clear()",
        "sys.modules.clear()",
        "sys.path.clear()",
        "sys.setrecursionlimit(60)",
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)",
        "socket.setdefaulttimeout(0.0001)",
        "logging.getLogger().handlers.clear()",
        "logging.shutdown()",
        "gc.disable(); gc.unfreeze(); gc.collect()",
        "threading.Thread(target=lambda: 1 / 0).start()",
        "warnings.simplefilter('error')",
        "sys.settrace(lambda *_: None)",
        "context.__dict__.clear(); context.aws_request_id = 7",
        "locale.setlocale(locale.LC_ALL, 'C')",
        "sys.excepthook = None; threading.excepthook = None",
    ],
)
def test_the_next_call_runs(sandbox, code):
    box = sandbox(
        f"""
        import gc, io, json, locale, logging, os, signal, socket, sys, threading, time, warnings
        def handler(event, context):
            if event == "break":
                {code}
            elif event == "fail":
                raise ValueError("x")
            return [event]
        """
    ).start()
    for seq, event in enumerate(["before", "break", "after", "fail", "end"], 1):
        answer = box.call(event, seq=seq)
        if event == "fail":
            assert answer.error["errorMessage"] == "x"
        else:
            assert answer.value == [event]


FORKS = """
import logging, multiprocessing, os, sys
def child(event):
    print("child prints")
    logging.error("child logs")
    if event == "exit":
        sys.exit(3)
    if event == "raise":
        raise ValueError("in the child")
    if event == "base":
        raise KeyboardInterrupt
    if event == "_exit":
        os._exit(0)
    return "child's answer"
def handler(event, context):
    sys.stdout.write("partial ")
    if event == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child, args=(event,))
        process.start()
        process.join()
        return ["parent", process.exitcode]
    pid = os.fork()
    if not pid:
        return child(event)
    _, status = os.waitpid(pid, 0)
    print("parent prints")
    return ["parent", os.waitstatus_to_exitcode(status)]
"""


@pytest.mark.parametrize(
    ("event", "status"),
    [("return", 0), ("exit", 3), ("raise", 0), ("base", -2), ("_exit", 0), ("multiprocessing", 0)],
)
def test_a_forked_child_never_answers(sandbox, event, status):
    box = sandbox(FORKS).start()
    assert box.call(event).value == ["parent", status]
    assert box.call(event, seq=2).value == ["parent", status]
    assert "child" not in box.text()
    assert box.text().count("partial ") == 2
    assert box.progress() == 2
    box.channel.close()
    code, output = box.wait()
    assert code == 0
    assert output.count("child prints\n") == 2
    assert output.count("child logs\n") == 2


def test_a_forked_child_leaves_queued_calls_alone(sandbox):
    """The child comes back into the loop with the parent's buffer, in which further calls stand."""
    box = sandbox(
        """
        import os
        def handler(event, context):
            if event == 1:
                pid = os.fork()
                if pid:
                    os.waitpid(pid, 0)
            return [event, os.getpid()]
        """
    ).start()
    box.send(b"".join(call_frame(seq, b"%d" % seq) for seq in (1, 2, 3)))
    answers = [box.next().value for _ in range(3)]
    assert [event for event, _ in answers] == [1, 2, 3]
    assert {pid for _, pid in answers} == {box.process.pid}


@pytest.mark.slow
@pytest.mark.parametrize("reaction", ["pass", "print('tick')", "raise TimeoutError('tick')"])
def test_signal_handlers_in_the_middle_of_prints(sandbox, reaction):
    """A timer interrupts prints wherever they are. Each line arrives whole, at most once and in order."""
    box = sandbox(
        f"""
        import signal
        armed = False
        def tick(*_):
            global armed
            if armed:
                armed = False  # so that nothing is raised outside of the try below
                {reaction}
        signal.signal(signal.SIGALRM, tick)
        def handler(event, context):
            global armed
            raised = n = 0
            signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.00005)
            while n < event:
                try:
                    while n < event:
                        armed = True
                        n += 1
                        print(f"line {{n:06}} " + "x" * 100)
                    armed = False
                except TimeoutError:
                    raised += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            return [n, raised]
        """
    ).start()
    total, raised = box.call(4000).value
    assert total == 4000
    numbers = []
    for line in box.text().replace("tick", "").split("\n"):
        # A print that was cut between its text and its newline is joined by the next one.
        for part in line.split("line ")[1:]:
            number, _, rest = part.partition(" ")
            assert rest == "x" * 100
            numbers.append(int(number))
    assert numbers == sorted(set(numbers))
    assert len(numbers) >= total - raised
    assert {log.seq for log in box.logs} == {1}
    if reaction.startswith("raise"):
        assert raised > 0


def test_threads_left_over_print_into_whatever_runs(sandbox):
    box = sandbox(
        """
        import threading
        go, done = threading.Event(), threading.Event()
        def late():
            go.wait()
            print("late")
            done.set()
        def handler(event, context):
            if event == 1:
                threading.Thread(target=late, daemon=True).start()
            else:
                go.set()
                done.wait()
            return event
        """
    ).start()
    assert box.call(1).value == 1
    assert box.call(2, seq=2).value == 2
    assert [(log.seq, log.body) for log in box.logs] == [(2, b"late\n")]


def test_prints_between_calls_belong_to_none(sandbox):
    box = sandbox(
        """
        import os, threading, time
        def late():
            while not os.path.exists("go"):
                time.sleep(0.001)
            print("late")
        def handler(event, context):
            threading.Thread(target=late, daemon=True).start()
            return event
        """
    ).start()
    assert box.call(1).value == 1
    (box.directory / "go").touch()
    log = box.any()
    assert (log.kind, log.seq, log.body) == (LOG, 0, b"late\n")


@pytest.mark.slow
def test_no_log_carries_the_number_of_a_call_already_answered(sandbox):
    """Threads print all the time while calls pass: LOG frames carry the number of the first call without an answer, or 0."""
    box = sandbox(
        """
        import sys, threading
        sys.setswitchinterval(0.00001)
        def chatter(n):
            while True:
                print("chatter", n)
        for n in range(2):
            threading.Thread(target=chatter, args=(n,), daemon=True).start()
        def handler(event, context):
            return event
        """
    ).start()
    answered = 0
    calls = 400
    box.send(b"".join(call_frame(seq, b"1") for seq in range(1, calls + 1)))
    while answered < calls:
        frame = box.any()
        if frame.kind == LOG:
            assert frame.seq in (0, answered + 1)
            assert frame.body.endswith(b"\n") or len(frame.body) < 65_536
        else:
            answered += 1
            assert frame.seq == answered
