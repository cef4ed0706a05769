"""The token file as the command edits it: whole at every moment, readable by its owner alone, other people's comments kept."""

from __future__ import annotations

import os
import stat
import threading
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler import tokens
from scheduler.tokens import TokenFileBroken, TokenRow, append, digest, new_token, read_rows, remove


def row(name, rights=("invoke",), tenant=None):
    return TokenRow(name, digest(name), tuple(rights), tenant)


def test_a_row_that_is_added_is_read_back(tmp_path):
    path = tmp_path / "tokens"
    rows = (row("a"), row("b", ("invoke", "deploy"), "acme"), row("c", ("admin",)))
    for one in rows:
        append(path, one)
    assert read_rows(path) == rows
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["tokens"], "nothing is left beside it"


@given(st.text(st.characters(exclude_categories=("C", "Z")) | st.just(" "), min_size=1, max_size=64))
def test_any_printable_name_survives_the_file(name):
    one = row(name)
    assert one.problem() is None
    assert tomllib.loads(one.text())["tokens"][0]["name"] == name


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (TokenRow("", "0" * 64, ("invoke",)), "name: ''"),
        (TokenRow("n" * 65, "0" * 64, ("invoke",)), "is not 1 to 64"),
        (TokenRow("a\nb", "0" * 64, ("invoke",)), "printable"),
        (TokenRow("a", "F" * 64, ("invoke",)), "sha256"),
        (TokenRow("a", "0" * 64, ()), "rights: there are none"),
        (TokenRow("a", "0" * 64, ("invoke", "fly")), "rights: 'fly' is not one of invoke, deploy, admin"),
        (TokenRow("a", "0" * 64, ("invoke",), "a b"), "tenant: 'a b'"),
        (TokenRow("a", "0" * 64, ("admin",), "acme"), "over all tenants"),
    ],
)
def test_a_wrong_row_is_refused_and_nothing_is_written(tmp_path, wrong, says):
    with pytest.raises(TokenFileBroken, match=says):
        append(tmp_path / "tokens", wrong)
    assert not (tmp_path / "tokens").exists()


def test_a_name_is_given_once(tmp_path):
    path = tmp_path / "tokens"
    append(path, row("a"))
    before = path.read_bytes()
    with pytest.raises(TokenFileBroken, match="is taken"):
        append(path, TokenRow("a", digest("other"), ("invoke",)))
    assert path.read_bytes() == before


HAND_WRITTEN = f"""# tokens of the east wing

[[tokens]]
name = "a"   # of Anna
sha256 = "{digest("a")}"
rights = ["invoke"]

# the next one is for the night build
[[tokens]]
sha256 = "{digest("b")}"
rights = ["deploy", "invoke"]

[[tokens]]
name = "c"
sha256 = "{digest("c")}"
rights = ["admin"]
"""


@pytest.mark.parametrize(("name", "left"), [("a", ["b", "c"]), ("token 2", ["a", "c"]), ("c", ["a", "b"])])
def test_one_row_goes_and_the_rest_of_the_file_stays_as_it_was_written(tmp_path, name, left):
    path = tmp_path / "tokens"
    path.write_text(HAND_WRITTEN)
    path.chmod(0o640)
    gone = remove(path, name)
    assert gone.name == name
    assert [one.sha256 for one in read_rows(path)] == [digest(text) for text in left]
    lines = HAND_WRITTEN.splitlines()
    assert all(line in lines for line in path.read_text().splitlines())
    assert "# tokens of the east wing" in path.read_text()
    assert "# the next one is for the night build" in path.read_text()


def test_a_row_in_another_style_of_toml_goes_too(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("".join((
        "tokens = [\n",
        f'  {{ name = "a", sha256 = "{digest("a")}", rights = ["invoke"] }},\n',
        f'  {{ name = "b", sha256 = "{digest("b")}", rights = ["deploy"], tenant = "t" }},\n',
        "]\n",
    )))  # fmt: skip
    remove(path, "a")
    assert read_rows(path) == (row("b", ("deploy",), "t"),)


def test_what_is_not_there_cannot_be_removed(tmp_path):
    path = tmp_path / "tokens"
    with pytest.raises(TokenFileBroken, match="No such file"):
        remove(path, "a")
    append(path, row("a"))
    with pytest.raises(TokenFileBroken, match="no token called 'b'"):
        remove(path, "b")
    with pytest.raises(TokenFileBroken, match="No such file"):
        append(tmp_path / "no" / "tokens", row("a"))


def test_a_file_that_is_broken_is_not_written_over(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("[[tokens]]\nname = ")
    with pytest.raises(TokenFileBroken, match="not TOML"):
        append(path, row("a"))
    assert path.read_text() == "[[tokens]]\nname = "


def test_a_link_is_followed_and_stays_one(tmp_path):
    real = tmp_path / "real"
    link = tmp_path / "link"
    append(real, row("a"))
    link.symlink_to(real)
    append(link, row("b"))
    assert link.is_symlink()
    assert [one.name for one in read_rows(real)] == ["a", "b"]


def test_editors_take_turns_and_no_reader_sees_half_a_file(tmp_path):
    path = tmp_path / "tokens"
    append(path, row("first"))
    done = threading.Event()
    seen = []

    def read():
        while not done.is_set():
            seen.append(len(read_rows(path)))

    def write(letter):
        for number in range(8):
            append(path, row(f"{letter}{number}"))

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(letter,)) for letter in "abc"]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert len(read_rows(path)) == 25
    assert seen == sorted(seen)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_root_leaves_the_file_to_its_owner(tmp_path):
    path = tmp_path / "tokens"
    append(path, row("a"))
    os.chown(path, 12345, 23456)
    append(path, row("b"))
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 23456)


def test_tokens_are_long_and_never_the_same():
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(len(token) == 43 for token in made)
    assert tokens.TOKEN_BYTES * 8 == 256
