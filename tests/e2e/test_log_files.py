"""Logs on a real service: bounds, a disk that is full, following over rotations, a kill while they are written."""

from __future__ import annotations

import os
import re
import sys
import time

import pytest

from tests.e2e.serving import Served, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PRINTS = """
def handler(event, context):
    for n in range(event["from"], event["to"]):
        print("line", n, "x" * event.get("width", 0))
    return 1
"""
NUMBER = re.compile(r"^line (\d+) ", re.MULTILINE)


def numbers(text):
    return [int(n) for n in NUMBER.findall(text)]


def files(service, name):
    return sorted(path.name for path in (service.state_dir / "logs").glob(f"{name}.journal*"))


def test_following_over_rotations_sees_each_line_once(tmp_path):
    with Served(tmp_path / "state", shells_ahead=1, log_bytes_max=65_536, log_files_max=200) as service:
        service.deploy("prints", PRINTS, timeout_s=20)
        with service.client() as client:
            seen, cursor = [], "0:0"
            for start in range(0, 4000, 500):
                client.invoke("prints", {"from": start, "to": start + 500, "width": 300})
                chunk = client.logs("prints", cursor=cursor)
                seen, cursor = seen + numbers(chunk.text), chunk.cursor
            while len(seen) < 4000:
                chunk = client.logs("prints", cursor=cursor, wait_ms=5000)
                assert chunk.text, "the rest comes"
                seen, cursor = seen + numbers(chunk.text), chunk.cursor
            assert seen == list(range(4000))
            assert len(files(service, "prints")) > 10
            since_ms = int(time.time() * 1000) + 1
            wait_until(lambda: time.time() * 1000 > since_ms + 20, 2, "a moment passes, of the kernel's coarse clock too")
            client.invoke("prints", {"from": 9000, "to": 9002})
            wait_until(lambda: numbers(client.logs("prints", since_ms=since_ms).text) == [9000, 9001], 5, "and since then")


def test_a_flood_is_bounded_and_costs_others_nothing(tmp_path):
    total = 16 << 20
    with Served(tmp_path / "state", shells_ahead=2, log_total_bytes_max=total, log_files_max=1000) as service:
        service.deploy("quiet", PRINTS)
        service.deploy("loud", PRINTS, timeout_s=60)
        with service.client() as client:
            client.invoke("quiet", {"from": 0, "to": 3})
            client.invoke("loud", {"from": 0, "to": 6000, "width": 5000})
            folder = service.state_dir / "logs"
            wait_until(lambda: "REPORT" in client.logs("loud", limit_bytes=4096).text, 10, "it is written")
            assert sum(path.stat().st_size for path in folder.iterdir()) <= total
            assert numbers(client.logs("quiet").text) == [0, 1, 2]
            assert numbers(client.logs("loud", limit_bytes=65_536).text)[-1] == 5999
        shown = dict(
            line.rsplit(" ", 1) for line in service.get("/metrics")[1].splitlines() if line.startswith("scheduler_log_")
        )
        assert 0 < float(shown["scheduler_log_disk_bytes"]) <= total


@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system is mounted")
def test_a_full_disk_is_told_and_delays_nobody(tmp_path):
    logs = tmp_path / "state" / "logs"
    logs.mkdir(parents=True)
    script = f'mount -t tmpfs -o size=256k none {logs} && exec {sys.executable} -m scheduler "$@"'
    # In a mount namespace of its own: nothing is left of it.
    with Served(tmp_path / "state", shells_ahead=1, command=("unshare", "-m", "sh", "-c", script, "sh")) as service:
        service.deploy("prints", PRINTS, timeout_s=20)
        with service.client() as client:
            client.invoke("prints", {"from": 0, "to": 300, "width": 2000})
            fault = service.wait_line("fault", 10)
            assert re.search(r"\d+ bytes of functions' logs are lost.*No space left on device", fault["text"])
            took = []
            for _ in range(50):
                begun = time.monotonic()
                assert client.invoke("prints", {"from": 0, "to": 1}).payload == 1
                took.append(time.monotonic() - begun)
            assert sorted(took)[25] < 0.1, "calls do not wait for the disk"
            kept = numbers(client.logs("prints", cursor="0:0").text)
            assert kept[:50] == list(range(50)), "what there was room for is there"
        lost = next(
            line for line in service.get("/metrics")[1].splitlines() if line.startswith("scheduler_log_dropped_bytes_total")
        )
        assert float(lost.split()[-1]) > 0


def test_killed_while_it_writes_and_rotates_the_log_goes_on(tmp_path):
    """Lines rise in number over every kill: what was read before is there, what comes after is not hidden."""
    place = tmp_path / "state"
    settings = {"shells_ahead": 1, "log_bytes_max": 65_536, "log_files_max": 1000}
    start = 0
    for _ in range(3):
        service = Served(place, **settings).start()
        try:
            if start == 0:
                service.deploy("prints", PRINTS, timeout_s=60)
            with service.raw() as raw:
                raw.send("invoke", "prints", b'{"from": %d, "to": %d, "width": 500}' % (start, start + 100_000))
                wait_until(lambda first=start, service=service: seen(service, first), 10, "it prints")
        finally:
            service.kill()
        start += 100_000
    with Served(place, **settings) as service, service.client() as client:
        client.invoke("prints", {"from": start, "to": start + 1})
        wait_until(lambda: numbers(client.logs("prints").text)[-1:] == [start], 5, "it is logged")
        found, cursor = [], "0:0"
        while (chunk := client.logs("prints", cursor=cursor, limit_bytes=4 << 20)).text:
            found, cursor = found + numbers(chunk.text), chunk.cursor
        assert found == sorted(set(found))
        assert {n // 100_000 for n in found} == set(range(4)), "of every life something is there"


def seen(service, start):
    with service.client() as client:
        return any(n >= start + 500 for n in numbers(client.logs("prints").text))
