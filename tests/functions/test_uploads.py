"""Uploads: in any pieces, resumed, bounded, and never wrong bytes."""

from __future__ import annotations

import hashlib

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler import limits
from scheduler.errors import BadRequest, NotFound, Throttled, TooLarge
from scheduler.functions.uploads import Upload, open_uploads

DATA = bytes(range(256)) * 40
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
async def uploads(tmp_path):
    return await open_uploads(tmp_path / "up", count_max=2, bytes_max=100_000)


async def start(uploads, number: int, size: int = 100) -> Upload:
    return await uploads.put(f"{number:064x}", size, 0, b"x")


async def test_in_pieces(uploads):
    size = len(DATA)
    assert await uploads.put(SHA256, size, 0, DATA[:100]) == Upload(100, False)
    assert await uploads.put(SHA256, size, 100, DATA[100:300]) == Upload(300, False)
    with pytest.raises(NotFound, match="no complete upload"):
        uploads.whole(SHA256)
    assert await uploads.put(SHA256, size, 300, DATA[300:]) == Upload(size, True)
    assert uploads.whole(SHA256).read_bytes() == DATA
    assert await uploads.put(SHA256, size, 0, b"") == Upload(size, True)
    await uploads.forget(SHA256)
    await uploads.forget(SHA256)
    with pytest.raises(NotFound):
        uploads.whole(SHA256)
    assert len(uploads) == 0


async def test_resumed_where_it_stopped(uploads):
    size = len(DATA)
    await uploads.put(SHA256, size, 0, DATA[:500])
    assert await uploads.put(SHA256, size, 0, b"") == Upload(500, False)
    with pytest.raises(BadRequest, match="offset: 600 leaves a gap; go on from 500"):
        await uploads.put(SHA256, size, 600, DATA[600:])
    assert await uploads.put(SHA256, size, 200, DATA[200:400]) == Upload(500, False)
    assert await uploads.put(SHA256, size, 400, DATA[400:]) == Upload(size, True)
    assert uploads.whole(SHA256).read_bytes() == DATA


async def test_wrong_bytes_are_thrown_away(uploads):
    with pytest.raises(BadRequest, match="send them again"):
        await uploads.put(SHA256, len(DATA), 0, DATA[:-1] + b"!")
    assert len(uploads) == 0
    assert (await uploads.put(SHA256, len(DATA), 0, DATA)).complete


async def test_two_clients_with_the_same_bytes_at_once(uploads):
    async def send(step: int) -> None:
        for offset in range(0, len(DATA), step):
            await uploads.put(SHA256, len(DATA), offset, DATA[offset : offset + step])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, 1000)
        nursery.start_soon(send, 333)
    assert uploads.whole(SHA256).read_bytes() == DATA


async def test_bounds(uploads, autojump_clock):
    await start(uploads, 1)
    await start(uploads, 2)
    with pytest.raises(Throttled, match="2 uploads of 200 bytes are under way, the limits are 2 and 100000") as caught:
        await start(uploads, 3)
    assert caught.value.resource == "uploads"
    await uploads.forget(f"{1:064x}")
    with pytest.raises(Throttled):
        await start(uploads, 3, 99_901)
    await start(uploads, 3, 99_900)
    assert uploads.bytes_announced() == 100_000


async def test_the_longest_idle_one_makes_room(uploads, autojump_clock, tmp_path):
    await start(uploads, 1)
    await trio.sleep(300)
    await start(uploads, 2)
    await trio.sleep(301)
    await start(uploads, 3)
    assert sorted(path.name[62:64] for path in (tmp_path / "up").iterdir()) == ["02", "03"]
    assert (await uploads.put(f"{2:064x}", 100, 0, b"")).received == 1


async def test_a_restart_forgets(uploads, tmp_path):
    await start(uploads, 1)
    (tmp_path / "up" / "junk").mkdir()
    again = await open_uploads(tmp_path / "up", count_max=2, bytes_max=100)
    assert len(again) == 0
    assert list((tmp_path / "up").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (("ab", 10, 0, b""), BadRequest, "sha256: 'ab' is not 64"),
        (("A" * 64, 10, 0, b""), BadRequest, "sha256"),
        ((7, 10, 0, b""), BadRequest, "sha256"),
        (("../" + "a" * 61, 10, 0, b""), BadRequest, "sha256"),
        ((SHA256, -1, 0, b""), BadRequest, "size: '-1' is not a whole number"),
        ((SHA256, True, 0, b""), BadRequest, "size"),
        ((SHA256, 10, -1, b""), BadRequest, "offset: '-1'"),
        ((SHA256, 10, 1.5, b""), BadRequest, "offset"),
        ((SHA256, 10, 0, "text"), BadRequest, "data: is str, not bytes"),
        ((SHA256, 10, 8, b"abc"), BadRequest, "data: ends at 11, beyond the announced size of 10"),
        ((SHA256, 0, 0, b""), TooLarge, "size: 0 is not 1 to 52428800 bytes"),
        ((SHA256, limits.CODE_ZIPPED_BYTES_MAX + 1, 0, b""), TooLarge, "size: 52428801"),
        ((SHA256, 50 << 20, 0, bytes(limits.CODE_CHUNK_BYTES_MAX + 1)), TooLarge, "the limit of one piece is 4194304"),
    ],
)
async def test_arguments(uploads, arguments, kind, sentence):
    with pytest.raises(kind, match=sentence):
        await uploads.put(*arguments)
    assert len(uploads) == 0


async def test_a_size_that_changes_its_mind(uploads):
    await start(uploads, 1, 100)
    with pytest.raises(BadRequest, match="size: 101 is not the 100 that was announced"):
        await uploads.put(f"{1:064x}", 101, 1, b"")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(DATA)), st.integers(0, 6000)), max_size=12))
def test_whatever_pieces_come_it_is_a_prefix_of_the_truth(tmp_path_factory, pieces):
    async def run() -> None:
        uploads = await open_uploads(tmp_path_factory.mktemp("up"), count_max=2, bytes_max=100_000)
        received = 0
        for offset, length in pieces:
            piece = DATA[offset : offset + length]
            if offset > received:
                with pytest.raises(BadRequest, match=f"go on from {received}"):
                    await uploads.put(SHA256, len(DATA), offset, piece)
                continue
            received = max(received, offset + len(piece))
            assert await uploads.put(SHA256, len(DATA), offset, piece) == Upload(received, received == len(DATA))
        assert (await uploads.put(SHA256, len(DATA), received, DATA[received:])).complete
        assert uploads.whole(SHA256).read_bytes() == DATA

    trio.run(run)
