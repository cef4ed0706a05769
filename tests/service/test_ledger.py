"""Which versions get an image: the states, held against every sequence of news, and who goes when room is short."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.sandboxes.ledger import FAILS_MAX, REMAKE_PAUSE_S, Ledger, State, Version

MB = 1 << 20


def ledger(bytes_max=100 * MB):
    return Ledger(bytes_max)


def want(book, function=1, now_s=0.0, *, tenant="t", runtime="py", deployed=False):
    version = Version(function, 1)
    return book.wanted(version, now_s, name=f"f{function}", runtime=runtime, tenant=tenant, deployed=deployed)


def ready(book, function=1, now_s=0.0, *, size=10 * MB, init_ns=1_000_000, **more):
    entry = want(book, function, now_s, **more)
    book.begun(entry, now_s)
    for other in book.reserve(size, entry.tenant):
        book.evicted(other, now_s)
    assert book.made(entry, now_s, size=size, init_ns=init_ns)
    return entry


def test_from_the_wish_to_the_image():
    book = ledger()
    entry = want(book)
    assert (entry.state, book.next(0.0)) == (State.WANTED, entry)
    book.begun(entry, 1.0)
    assert (entry.state, book.next(1.0)) == (State.MAKING, None)
    assert book.reserve(7 * MB, "t") == []
    assert book.bytes() == 7 * MB, "held for the one that is made"
    image = book.made(entry, 2.0, size=5 * MB, init_ns=1)
    assert (entry.state, entry.image, entry.since_s, book.bytes()) == (State.READY, image, 2.0, 5 * MB)
    book.restored(entry.version, image, 3.0)
    assert (entry.restores, entry.since_s) == (1, 2.0)


def test_a_wish_for_what_is_there_or_cannot_be_changes_nothing():
    book = ledger()
    entry = ready(book)
    want(book, now_s=5.0, deployed=True)
    assert entry.state is State.READY
    other = want(book, 2)
    book.begun(other, 0.0)
    book.cannot(other, 1.0, "it has threads")
    want(book, 2, now_s=1e6, deployed=True)
    assert (other.state, other.reason) == (State.UNSUITABLE, "it has threads")


def test_what_failed_is_heeded_again_after_a_pause_that_doubles():
    book = ledger()
    entry, now_s, pauses = want(book), 0.0, []
    for _ in range(9):
        book.begun(entry, now_s)
        book.broke(entry, now_s, "died")
        pauses.append(entry.due_s - now_s)
        want(book, now_s=entry.due_s - 0.001)
        assert entry.state is State.FAILED, "too early"
        now_s = entry.due_s
        want(book, now_s=now_s)
        assert entry.state is State.WANTED
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_a_deployment_waits_for_no_pause_and_comes_first():
    book = ledger()
    entry = want(book)
    book.begun(entry, 0.0)
    book.broke(entry, 0.0, "boom", function_failed=True)
    assert entry.function_failed
    want(book, 2, 0.0)
    want(book, 1, 0.5, deployed=True)
    assert (entry.state, entry.function_failed) == (State.WANTED, False)
    assert book.next(1.0) is entry


def test_tenants_take_turns():
    book = ledger()
    for function in range(1, 4):
        want(book, function, float(function), tenant="loud")
    want(book, 9, 10.0, tenant="quiet")
    order = []
    now_s = 20.0
    while (entry := book.next(now_s)) is not None:
        book.begun(entry, now_s)
        order.append(entry.tenant)
        book.broke(entry, now_s, "x")
        now_s += 1
    assert order == ["loud", "quiet", "loud", "loud"]


def test_an_image_that_does_not_fit_counts_once_and_three_times_in_a_row_is_enough():
    book = ledger()
    entry = ready(book)
    for n in range(1, FAILS_MAX + 1):
        image = entry.image
        assert book.fell_back(entry.version, image, 5.0, "another zygote")
        assert not book.fell_back(entry.version, image, 5.0, "another zygote"), "the same image again"
        assert (entry.fails, entry.image, book.bytes()) == (n, 0, 0)
        if n < FAILS_MAX:
            assert entry.state is State.WANTED
            assert book.next(5.0) is None, "not at once"
            assert book.next(5.0 + REMAKE_PAUSE_S) is entry
            book.begun(entry, 8.0)
            book.reserve(MB, "t")
            assert book.made(entry, 9.0, size=MB, init_ns=1)
    assert entry.state is State.UNSUITABLE
    assert "another zygote" in entry.reason


def test_a_restore_that_went_well_forgets_those_that_failed():
    book = ledger()
    entry = ready(book)
    for _ in range(2 * FAILS_MAX):
        book.fell_back(entry.version, entry.image, 5.0, "killed")
        book.begun(entry, 8.0)
        assert book.made(entry, 9.0, size=MB, init_ns=1)
        book.restored(entry.version, entry.image, 9.0)
    assert entry.state is State.READY


def test_images_die_with_what_they_fit():
    book = ledger()
    first, second = ready(book, 1, runtime="py"), ready(book, 2, runtime="other")
    third = want(book, 3, runtime="py")
    book.begun(third, 1.0)
    assert set(map(id, book.lost(2.0, "py"))) == {id(first), id(third)}
    assert [e.state for e in (first, second, third)] == [State.WANTED, State.READY, State.WANTED]
    assert book.made(third, 3.0, size=MB, init_ns=1) == 0, "made of what is gone"
    assert book.next(3.0) is not None
    book.lost(4.0)
    assert second.state is State.WANTED


def test_what_serves_no_more_is_forgotten():
    book = ledger()
    kept, gone = ready(book, 1), want(book, 2)
    book.begun(gone, 1.0)
    assert book.drop([kept.version]) == [gone]
    assert book.made(gone, 2.0, size=MB, init_ns=1) == 0
    assert list(book.entries()) == [kept]


def test_what_saves_least_for_its_bytes_goes_first_and_is_wanted_again_later():
    book = ledger(100 * MB)
    cheap = ready(book, 1, size=50 * MB, init_ns=1_000_000)
    dear = ready(book, 2, size=50 * MB, init_ns=900_000_000)
    third = want(book, 3)
    book.begun(third, 1.0)
    assert book.reserve(40 * MB, "t") == [cheap]
    book.evicted(cheap, 1.0)
    assert book.made(third, 1.0, size=40 * MB, init_ns=1)
    assert (cheap.state, dear.state, book.bytes()) == (State.EVICTED, State.READY, 90 * MB)
    want(book, 1, now_s=30.0)
    assert cheap.state is State.EVICTED, "two that want the same room do not trade it for each start"
    want(book, 1, now_s=70.0)
    assert cheap.state is State.WANTED
    assert book.reserve(200 * MB, "t") is None


def test_nobodys_images_go_for_those_of_a_tenant_that_has_more():
    """One that asks for all there is, whatever its image is said to be worth, gets what the others leave, and its own."""
    book = ledger(100 * MB)
    small = ready(book, 1, size=20 * MB, tenant="small")
    large = [ready(book, function, size=30 * MB, tenant="large", init_ns=1 << 60) for function in (2, 3)]
    assert book.reserve(90 * MB, "large") is None
    assert book.bytes() == 80 * MB, "nothing is held for what is not made"
    going = book.reserve(70 * MB, "large")
    assert sorted(e.version.function for e in going) == [2, 3], "its own, though they are worth more than anything"
    book.release()
    assert book.reserve(40 * MB, "third") in ([large[0]], [large[1]]), "who holds the most gives"
    assert small.state is State.READY
    assert book.reserve(90 * MB, "third") is None


def test_the_unused_grow_old():
    """However dear it was once: what is used goes on living, what is not makes room at last."""
    book = ledger(100 * MB)
    old = ready(book, 1, size=50 * MB, init_ns=10_000_000)
    for function in range(2, 40):
        entry = ready(book, function, size=50 * MB, init_ns=1_000_000)
        if entry.state is State.READY:
            for _ in range(5):
                book.restored(entry.version, entry.image, 0.0)
        if old.state is State.EVICTED:
            return
    raise AssertionError("it sat there for ever")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["want", "begin", "made", "cannot", "broke", "restored", "fell", "lost", "drop"]),
            st.integers(1, 4),
            st.integers(0, 30),
        ),
        max_size=60,
    )
)
def test_whatever_comes_in_whatever_order(news):
    """Never more bytes than allowed; only what is READY has an image, and each image is one version's."""
    book, now_s = ledger(40 * MB), 0.0
    for what, function, size_mb in news:
        now_s += 1.0
        version = Version(function, 1)
        entry = book.get(version)
        if what == "want":
            want(book, function, now_s)
        elif what == "drop":
            book.drop(e.version for e in list(book.entries()) if e.version != version)
        elif what == "lost":
            book.lost(now_s, None if size_mb % 2 else "py")
        elif entry is None:
            continue
        elif what == "begin":
            if book.next(now_s) is entry and not any(e.state is State.MAKING for e in book.entries()):
                book.begun(entry, now_s)
        elif what == "made":
            if entry.state is State.MAKING and (going := book.reserve(size_mb * MB, entry.tenant)) is not None:
                for other in going:
                    book.evicted(other, now_s)
                book.made(entry, now_s, size=size_mb * MB, init_ns=size_mb)
        elif what == "cannot":
            book.cannot(entry, now_s, "x")
        elif what == "broke":
            book.broke(entry, now_s, "x")
        elif what == "restored":
            book.restored(version, entry.image, now_s)
        else:
            book.fell_back(version, entry.image, now_s, "x")
        assert book.bytes() <= book.bytes_max
        held = [e.image for e in book.entries() if e.image]
        assert len(held) == len(set(held))
        for e in book.entries():
            assert (e.image != 0) == (e.state is State.READY), e
            assert e.bytes == 0 or e.image
