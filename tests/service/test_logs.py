"""Reading journals: cursors over rotation, one invocation alone, records cut short."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import uuid

import pytest

from scheduler.errors import BadRequest
from scheduler.logs import HEAD, read_log

A, B = uuid.UUID(int=1), uuid.UUID(int=2)


def record(text, request=A, time_ns=1):
    data = text.encode()
    return HEAD.pack(HEAD.size + len(data), 2, 0, 0, 0, time_ns, 0, request.bytes) + data


def read(directory, **options):
    return read_log(directory, "f", **{"cursor": None, "limit_bytes": 1 << 20, "request_id": None, **options})


def append(path, *records):
    with path.open("ab") as file:
        file.write(b"".join(records))


def test_nothing_there(tmp_path):
    assert read(tmp_path).text == ""
    assert read(tmp_path / "none").text == ""
    assert read(tmp_path, cursor=read(tmp_path).cursor).text == ""


def test_what_is_added_comes_once(tmp_path):
    path = tmp_path / "f.journal"
    append(path, record("one\n"), record("two\n"))
    first = read(tmp_path)
    assert first.text == "one\ntwo\n"
    assert read(tmp_path, cursor=first.cursor).text == ""
    append(path, record("three\n"))
    second = read(tmp_path, cursor=first.cursor)
    assert second.text == "three\n"
    assert read(tmp_path, cursor=second.cursor).text == ""


def test_a_cursor_survives_rotation(tmp_path):
    path = tmp_path / "f.journal"
    append(path, record("one\n"))
    cursor = read(tmp_path).cursor
    append(path, record("two\n"))
    path.rename(tmp_path / "f.journal.1")
    append(path, record("three\n"))
    found = read(tmp_path, cursor=cursor)
    assert found.text == "two\nthree\n"
    (tmp_path / "f.journal.1").rename(tmp_path / "f.journal.2")
    path.rename(tmp_path / "f.journal.1")
    append(path, record("four\n"))
    assert read(tmp_path, cursor=found.cursor).text == "four\n"
    # Its part is gone: the oldest that is left.
    (tmp_path / "f.journal.2").unlink()
    assert read(tmp_path, cursor=cursor).text == "three\nfour\n"
    assert read(tmp_path).text == "three\nfour\n"


def test_a_number_of_an_inode_that_is_used_again_is_no_cursor_s(tmp_path):
    path = tmp_path / "f.journal"
    append(path, record("old\n", time_ns=5), record("older\n", time_ns=6))
    inode, offset, begun = read(tmp_path).cursor.split(":")
    assert int(begun) == 5
    path.write_bytes(record("another file\n", time_ns=9) + record("its second line\n", time_ns=9))
    assert read(tmp_path, cursor=f"{inode}:{offset}:{begun}").text == "another file\nits second line\n"


def test_since_leaves_out_what_was_written_before(tmp_path):
    path = tmp_path / "f.journal"
    for n in range(1, 7):
        append(path, record(f"{n}\n", time_ns=n * 10))
        if n % 2 == 0 and n < 6:
            for part in (2, 1):
                if (tmp_path / f"f.journal.{part}").exists():
                    (tmp_path / f"f.journal.{part}").rename(tmp_path / f"f.journal.{part + 1}")
            path.rename(tmp_path / "f.journal.1")
    assert read(tmp_path, since_ns=1).text == "1\n2\n3\n4\n5\n6\n"
    assert read(tmp_path, since_ns=30).text == "3\n4\n5\n6\n"
    assert read(tmp_path, since_ns=31).text == "4\n5\n6\n"
    first = read(tmp_path, since_ns=31, limit_bytes=1)
    assert first.text == "4\n"
    assert read(tmp_path, since_ns=31, cursor=first.cursor).text == "5\n6\n"
    assert read(tmp_path, since_ns=61).text == ""
    os.utime(tmp_path / "f.journal.2", ns=(20, 20))
    assert read(tmp_path, since_ns=30).text == "3\n4\n5\n6\n", "a part that ended before is not even read"


@pytest.mark.slow
def test_who_follows_misses_nothing_and_sees_nothing_twice_however_fast_it_rotates(tmp_path):
    path, count, parts = tmp_path / "f.journal", 1200, 80

    def write():
        for n in range(count):
            append(path, record(f"{n}\n", time_ns=n + 1))
            if n % 15 == 14:
                for part in range(parts, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        (path if part == 1 else tmp_path / f"f.journal.{part - 1}").rename(tmp_path / f"f.journal.{part}")

    writer = threading.Thread(target=write)
    writer.start()
    seen, cursor = "", "0:0"
    while writer.is_alive() or (chunk := read(tmp_path, cursor=cursor, limit_bytes=100)).text:
        chunk = read(tmp_path, cursor=cursor, limit_bytes=100)
        seen, cursor = seen + chunk.text, chunk.cursor
    writer.join()
    assert seen == "".join(f"{n}\n" for n in range(count))


def test_limits_cut_at_lines_from_the_end_and_at_records_from_a_cursor(tmp_path):
    path = tmp_path / "f.journal"
    append(path, *(record(f"line {n}\n") for n in range(1000)))
    tail = read(tmp_path, limit_bytes=100).text
    assert len(tail) <= 100
    assert tail.endswith("line 999\n")
    assert tail.startswith("line ")
    text, cursor = "", "0:0"
    for _ in range(100):
        chunk = read(tmp_path, cursor=cursor, limit_bytes=500)
        text, cursor = text + chunk.text, chunk.cursor
        if not chunk.text:
            break
    assert text == "".join(f"line {n}\n" for n in range(1000))


def test_one_invocation_alone(tmp_path):
    path = tmp_path / "f.journal"
    append(path, record("a1\n"), record("b1\n", B), record("a2\n"), record("b2\n", B))
    assert read(tmp_path, request_id=str(B)).text == "b1\nb2\n"
    assert read(tmp_path, request_id=str(uuid.UUID(int=3))).text == ""
    start = read(tmp_path, cursor="0:0", request_id=str(A))
    assert start.text == "a1\na2\n"
    assert read(tmp_path, cursor=start.cursor, request_id=str(A)).text == ""


def test_a_record_that_is_being_written_waits(tmp_path):
    path = tmp_path / "f.journal"
    whole = record("second\n")
    append(path, record("first\n"), whole[:20])
    found = read(tmp_path)
    assert found.text == "first\n"
    append(path, whole[20:])
    assert read(tmp_path, cursor=found.cursor).text == "second\n"


def test_other_functions_and_strange_files_are_not_read(tmp_path):
    append(tmp_path / "f.journal", record("mine\n"))
    append(tmp_path / "f2.journal", record("other\n"))
    append(tmp_path / "f.journal.x", record("strange\n"))
    append(tmp_path / "f.journalx", record("strange\n"))
    assert read(tmp_path).text == "mine\n"


def test_rubbish_ends_the_reading_not_the_service(tmp_path):
    append(tmp_path / "f.journal", record("good\n"), struct.pack("<I", 5), b"\xff" * 100)
    assert read(tmp_path).text == "good\n"
    append(tmp_path / "f.journal", record("lost\n"))
    assert read(tmp_path, cursor="0:0").text == "good\n"


@pytest.mark.parametrize("cursor", ["x", "1", "1:", "-1:0", "1:2:3:4", "1:2:", "1:99999999999999999999999"])
def test_bad_cursors(tmp_path, cursor):
    with pytest.raises(BadRequest, match="cursor"):
        read(tmp_path, cursor=cursor)


def test_bad_request_id(tmp_path):
    with pytest.raises(BadRequest, match="request_id"):
        read(tmp_path, request_id="../../etc")
