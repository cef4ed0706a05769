"""Images of initialised processes, end to end: made, restored from, dropped, made again, and what a hostile maker can do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from scheduler.cli.app import cli
from tests.e2e.load import Callers
from tests.e2e.serving import ISOLATION, RUNTIME, Served, descendants, wait_until
from tests.e2e.test_metrics import scrape, total

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(ISOLATION == "process", reason="bare processes are told apart by more than their memory"),
]

PLAIN = """
import os
MADE_BY = os.getpid(), os.environ["AWS_LAMBDA_LOG_STREAM_NAME"]
def handler(event, context):
    return {"word": "%s", "stream": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"], "made": MADE_BY[1]}
"""


@pytest.fixture(scope="module")
def imaged(place):
    """A service of its own: what these tests count and kill is nobody else's."""
    service = Served(place / "imaged", shells_ahead=3, init_timeout_ms=3000)
    service.start()
    try:
        yield service
    finally:
        assert service.stop() == 0


def stats(service, name, version="$LATEST"):
    with service.client() as client:
        return next(s for s in client.stats().functions if (s.name, s.version) == (name, version))


def image(service, name):
    with service.client() as client:
        return client.get(name).image


def has_image(service, name, timeout_s=15):
    wait_until(lambda: image(service, name).state == "ready", timeout_s, f"{name} has an image")
    return image(service, name)


def end_all(service, name):
    """So that the next call is a cold one."""
    version = name if ":" in name else f"{name}"
    for sandbox in service.sandboxes(version):
        if sandbox["pid"]:
            os.kill(sandbox["pid"], signal.SIGKILL)
    wait_until(lambda: service.sandboxes(version) == [], 10, "its sandboxes are gone")


def cold_call(service, name, payload=None):
    """(the tier, the answer)"""
    end_all(service, name)
    with service.client() as client:
        done = client.invoke(name, payload or {}, report=True)
    return done.report.cold, done.payload


def test_the_first_call_of_a_published_function_is_a_restore(imaged):
    done = imaged.deploy("published", PLAIN % "x", publish=True)
    assert (done.state, done.version, done.image.state, done.image.tier) == ("Active", "1", "ready", "snapshot")
    for name in ("published:1", "published"):
        with imaged.client() as client:
            answer = client.invoke(name, {}, report=True)
        assert answer.report.cold == "snapshot"
        assert answer.payload["stream"] != answer.payload["made"], "it is a sandbox of its own, not the maker"
        assert image(imaged, name).restores == 1
    starts = stats(imaged, "published", "1").cold_starts
    assert (starts["snapshot"], starts["shell"]) == (1, 0)


def test_the_first_init_of_any_other_brings_an_image_for_the_next(imaged):
    imaged.deploy("auto", PLAIN % "x")
    assert image(imaged, "auto").state == "none"
    assert cold_call(imaged, "auto")[0] == "shell"
    made = has_image(imaged, "auto")
    assert 100_000 < made.bytes < 64 << 20
    assert cold_call(imaged, "auto")[0] == "snapshot"
    assert cold_call(imaged, "auto")[0] == "snapshot"


def test_off_is_off(imaged):
    done = imaged.deploy("off", PLAIN % "x", snapshot="off", publish=True)
    assert (done.snapshot, done.image.state, done.image.tier) == ("off", "off", "shell")
    assert [cold_call(imaged, "off")[0] for _ in range(2)] == ["shell", "shell"]
    with imaged.client() as client:
        client.update("off", snapshot="auto")
    assert cold_call(imaged, "off")[0] == "shell"
    has_image(imaged, "off")
    with imaged.client() as client:
        assert client.update("off", snapshot="off").image.state == "off"
    assert cold_call(imaged, "off")[0] == "shell"


def test_what_cannot_be_kept_in_an_image_is_said_and_runs_as_ever(imaged):
    source = """
import threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
def handler(event, context):
    return threading.active_count()
"""
    done = imaged.deploy("threaded", source, publish=True)
    assert (done.state, done.image.state, done.image.tier) == ("Active", "unsuitable", "shell")
    assert "thread" in done.image.reason
    assert cold_call(imaged, "threaded") == ("shell", 2)


def test_a_new_deployment_is_never_served_from_an_old_image(imaged):
    for n in range(3):
        imaged.deploy("changing", PLAIN % n, publish=True)
        tier, answer = cold_call(imaged, "changing")
        assert (tier, answer["word"]) == ("snapshot", str(n))
    assert cold_call(imaged, "changing:1")[1]["word"] == "0"
    before = total(scrape(imaged), "scheduler_image_bytes")
    with imaged.client() as client:
        client.remove("changing")
    wait_until(lambda: total(scrape(imaged), "scheduler_image_bytes") < before, 5, "its images are let go")
    assert imaged.sandboxes("changing") == []


def test_an_init_that_fails_at_its_deployment_fails_the_version_and_says_why(imaged):
    done = imaged.deploy("broken", "import os\nos.environ['DB']\ndef handler(event, context):\n    pass\n", publish=True)
    assert (done.state, done.image.state) == ("Failed", "failed")
    assert done.state_reason == "KeyError: 'DB'"
    with imaged.client() as client:
        assert client.get("broken:1").state == "Failed"
    fixed = imaged.deploy("broken", PLAIN % "x", publish=True)
    assert (fixed.state, fixed.version, fixed.image.state) == ("Active", "2", "ready")


def test_the_command_says_so_too(imaged):
    folder = imaged.state_dir / "sources"
    folder.mkdir(exist_ok=True)
    path = folder / "boom.py"
    path.write_text("raise ValueError('no such place')\ndef handler(event, context):\n    pass\n")
    words = ["--socket", imaged.socket, "deploy", str(path), "--handler", "boom.handler", "--runtime", RUNTIME, "--publish"]
    ran = CliRunner().invoke(cli, words)
    assert ran.exit_code != 0
    assert "ValueError: no such place" in ran.stderr
    imaged.deploy("shown", PLAIN % "x", publish=True)
    ran = CliRunner().invoke(cli, ["--socket", imaged.socket, "describe", "shown"])
    assert "an image of the initialised process" in ran.stdout
    ran = CliRunner().invoke(cli, ["--socket", imaged.socket, "list"])
    assert "ready" in next(line for line in ran.stdout.splitlines() if line.startswith("shown"))


def zygotes(service):
    """The processes that sandboxes are forked from: in the launcher's pid namespace and no deeper."""
    found = []
    for pid in descendants(service.process.pid):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            depth = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid"))
        except (OSError, StopIteration):
            continue
        if b"zygote.py" in command:
            found.append((len(depth.split()), pid))
    least = min(depth for depth, _ in found)
    return [pid for depth, pid in found if depth == least]


@pytest.mark.slow
def test_images_are_made_again_after_the_launcher_was_killed(imaged):
    imaged.deploy("survivor", PLAIN % "x", publish=True)
    assert cold_call(imaged, "survivor")[0] == "snapshot"
    launcher = int(Path(f"/proc/{zygotes(imaged)[0]}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(launcher, signal.SIGKILL)
    while "the launcher died" not in imaged.wait_line("sandboxes", 10)["text"]:
        pass
    has_image(imaged, "survivor", 20)
    assert cold_call(imaged, "survivor")[0] == "snapshot"


@pytest.mark.slow
def test_an_image_of_a_dead_runtime_process_costs_one_init_and_is_made_again(imaged):
    imaged.deploy("orphan", PLAIN % "x", publish=True)
    for pid in zygotes(imaged):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    tiers = []
    while tiers[-2:] != ["snapshot", "snapshot"] or "shell" not in tiers:
        tier, answer = cold_call(imaged, "orphan")  # none fails, whichever tier it comes from
        assert answer["word"] == "x"
        tiers.append(tier)
        assert time.monotonic() < deadline, (tiers, image(imaged, "orphan"))


@pytest.mark.slow
def test_memory_of_images_is_bounded(place):
    with Served(place / "bounded", shells_ahead=2, images_mb_max=32) as service:
        for number in range(4):
            service.deploy(f"f{number}", PLAIN % number, publish=True)
        found = scrape(service)
        assert 0 < total(found, "scheduler_image_bytes") <= 32 << 20
        assert total(found, "scheduler_image_evictions_total") >= 1
        states = {name: image(service, name).state for n in range(4) for name in (f"f{n}", f"f{n}:1")}
        assert {"ready", "evicted"} <= set(states.values()), states
        for name, state in states.items():
            tier, answer = cold_call(service, name)
            assert answer["word"] == name[1]
            assert tier == ("snapshot" if state == "ready" else "shell")


# ---- makers ----------------------------------------------------------------------------------------------------------------

FRAMES = """
import json, os, struct, time
def frame(kind, body, flags=0):
    return struct.pack("<IBBHIIQ", len(body), kind, flags, 0, 0, 0, 0) + body
def word(size, flags=0):
    return frame(21, json.dumps({"bytes": size, "reason": None, "init_ns": 1}).encode(), flags)
def descriptors():
    found = {"channel": -1, "image": -1}
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            to = os.readlink("/proc/self/fd/%d" % fd)
        except OSError:
            continue
        if to.startswith("socket:"):
            found["channel"] = fd
        if "image" in to:
            found["image"] = fd
    return found
FDS = descriptors()
def maker():
    try:
        os.pwrite(FDS["image"], b"", 0)
        return FDS["image"] >= 0 and os.stat("/proc/self/fd/%d" % FDS["image"]).st_size == 0
    except OSError:
        return False
def handler(event, context):
    return "alive"
"""

MAKERS = {
    "hangs": ("if maker(): time.sleep(100)", "longer than 3 s"),
    "floods its channel": (
        "if maker():\n    while True: os.write(FDS['channel'], frame(17, b'x' * 60000))",
        "longer than 3 s",
    ),
    "floods its output": ("if maker():\n    while True: os.write(1, b'x' * 60000)", "longer than 3 s"),
    "sends rubbish": ("if maker(): os.write(FDS['channel'], os.urandom(100_000)); time.sleep(100)", "protocol"),
    "says it is ready": ("if maker(): os.write(FDS['channel'], frame(18, bytes(8))); time.sleep(100)", "protocol"),
    "wants a terabyte": ("if maker(): os.write(FDS['channel'], word(1 << 40, 1)); time.sleep(100)", "MB"),
    "writes before it may": (
        "if maker(): os.write(FDS['image'], b'x' * 5_000_000); os.write(FDS['channel'], word(1 << 20, 1)); time.sleep(100)",
        "before it was told",
    ),
    "dies": ("if maker(): os.kill(os.getpid(), 9)", "signal 9"),
    "eats memory": ("if maker():\n    x = []\n    while True: x.append(bytes(1 << 20))", "memory"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", MAKERS)
def test_a_hostile_maker_harms_nobody(imaged, what):
    body, reason = MAKERS[what]
    name = "maker_" + what.replace(" ", "_")
    imaged.deploy("neighbour", "def handler(event, context):\n    return event\n")
    took_s = []
    with Callers(imaged.socket, "neighbour", b'"still here"', count=1) as callers:
        wait_until(lambda: len(callers.answers) > 5, 10, "the neighbour runs")
        begun = time.monotonic()
        done = imaged.deploy(name, FRAMES + body + "\n", publish=True)
        took_s.append(time.monotonic() - begun)
        assert done.image.state in ("failed", "unsuitable"), done.image
        assert reason in done.image.reason, done.image
    callers.check(least=5)
    assert took_s[0] < 25
    assert cold_call(imaged, name) == ("shell", "alive")


FORGED = (
    FRAMES
    + """
if maker():
    os.write(FDS["channel"], word(1 << 20, 1))
    os.set_blocking(FDS["channel"], True)
    os.read(FDS["channel"], 24)
    HERE
    os.write(FDS["channel"], word(1 << 20))
    os._exit(0)
"""
)
CONTENTS = {
    "zeros": "pass",
    "rubbish": "os.pwrite(FDS['image'], os.urandom(1 << 20), 0)",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", CONTENTS)
def test_a_forged_image_costs_its_author_an_init_and_ends_in_the_shell_tier(imaged, what):
    """What is restored runs as the function could have run anyway; here it cannot even be restored."""
    name = f"forged_{what}"
    done = imaged.deploy(name, FORGED.replace("HERE", CONTENTS[what]), publish=True)
    assert done.image.state == "ready", "nobody looks into it but the sandbox"
    deadline = time.monotonic() + 40
    while image(imaged, name).state != "unsuitable":
        assert cold_call(imaged, name)[1] == "alive"
        assert time.monotonic() < deadline, image(imaged, name)
    assert "restores in a row failed" in image(imaged, name).reason
    assert cold_call(imaged, name) == ("shell", "alive")


@pytest.mark.slow
def test_a_burst_to_a_cold_published_function(imaged):
    source = "import time\ndef handler(event, context):\n    time.sleep(0.1)\n    return event\n"
    imaged.deploy("burst", source, publish=True, queue_timeout_ms=20_000)
    with imaged.raw() as client:
        begun = time.monotonic()
        calls = [client.send("invoke", "burst", b"%d" % n) for n in range(200)]
        for n, call in enumerate(calls):
            assert client.wait(call) == (None, [b"%d" % n, None])
        took_s = time.monotonic() - begun
    starts = stats(imaged, "burst").cold_starts
    assert sum(starts.values()) <= 200
    assert starts["snapshot"] > 0
    assert took_s < 15, "1.5 s on a machine that has nothing else to do"
