"""Root given up: who may be become, what changes its owner, what is told to be within reach. As root in a directory of its own;
becoming somebody is tried in a child."""

from __future__ import annotations

import os
import pwd
import traceback

import pytest

from scheduler.privileges import BadUser, User, become, find_user, give, give_new_directory, unreachable, within_reach
from scheduler.statelock import lock_state

SANDBOXES = range(300_000, 301_000)
SOMEBODY = User("somebody", 64_323, 64_323, (64_323,))
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files change their owner")


def test_users_by_name_and_by_number():
    nobody = pwd.getpwnam("nobody")
    for name in ("nobody", str(nobody.pw_uid)):
        found = find_user(name, euid=0, sandbox_uids=SANDBOXES)
        assert found is not None
        assert (found.name, found.uid, found.gid) == ("nobody", nobody.pw_uid, nobody.pw_gid)
        assert found.gid in found.groups
    assert find_user("nobody", euid=nobody.pw_uid, sandbox_uids=SANDBOXES) is None, "is that user already"


@pytest.mark.parametrize(
    ("name", "euid", "sandboxes", "text"),
    [
        ("no such user", 0, SANDBOXES, "'no such user' is not in /etc/passwd"),
        ("99999999999999999999", 0, SANDBOXES, "is not in /etc/passwd"),
        ("root", 0, SANDBOXES, "'root' is root; leave `user` out"),
        ("0", 0, SANDBOXES, "is root"),
        ("nobody", 0, range(65_000, 66_000), "which sandboxes run as: 65000 to 65999"),
        ("nobody", 1000, SANDBOXES, "can only be become by root, and this is uid 1000"),
    ],
)
def test_who_cannot_be_become(name, euid, sandboxes, text):
    with pytest.raises(BadUser, match=text):
        find_user(name, euid=euid, sandbox_uids=sandboxes)


@root
def test_what_is_roots_changes_its_owner_and_nothing_else(tmp_path):
    state, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
    (state / "inner").mkdir(parents=True)
    elsewhere.mkdir()
    for name in ("mine", "inner/mine", "kept", "another's"):
        (state / name).write_text("")
    (elsewhere / "precious").write_text("")
    os.chown(state / "another's", 7, 7)
    os.link(elsewhere / "precious", state / "second name")
    (state / "link").symlink_to(elsewhere / "precious")
    (state / "way out").symlink_to(elsewhere)
    given = give(state, SOMEBODY, keep=frozenset({"kept"}))
    owners = {path.name: path.lstat().st_uid for path in (state, *state.rglob("*"))}
    uid = SOMEBODY.uid
    assert owners == {
        "state": uid, "inner": uid, "mine": uid, "kept": 0, "another's": 7, "second name": 0, "link": uid, "way out": uid
    }  # fmt: skip
    assert (elsewhere / "precious").stat().st_uid == elsewhere.stat().st_uid == 0
    assert given >= 6
    assert give(state, SOMEBODY, keep=frozenset({"kept"})) == 0, "once"


@root
def test_a_new_directory_is_the_users_and_an_old_one_stays(tmp_path):
    give_new_directory(tmp_path, SOMEBODY)
    assert tmp_path.stat().st_uid == 0
    give_new_directory(tmp_path / "a" / "b", SOMEBODY)
    assert ((tmp_path / "a").stat().st_uid, (tmp_path / "a" / "b").stat().st_uid) == (0, SOMEBODY.uid)


@root
def test_programs_within_reach_are_told(tmp_path):
    program, safe = tmp_path / "bin" / "program", tmp_path / "safe"
    program.parent.mkdir()
    program.write_text("")
    safe.write_text("")
    assert within_reach([str(safe)], SOMEBODY) == []
    os.chown(program.parent, SOMEBODY.uid, 0)
    assert within_reach([str(program)], SOMEBODY) == [str(program.parent)]
    safe.chmod(0o646)
    assert within_reach([str(safe)], SOMEBODY) == [str(safe)]
    os.chown(safe, 0, SOMEBODY.gid)
    safe.chmod(0o664)
    assert within_reach([str(safe)], SOMEBODY) == [str(safe)]


def in_child(function) -> int:
    """The exit code: 0 unless something was raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@root
def test_become_is_for_good(tmp_path):
    def somebody():
        become(SOMEBODY)
        assert os.getresuid() == os.getresgid() == (SOMEBODY.uid,) * 3
        assert os.getgroups() == list(SOMEBODY.groups)
        with open("/proc/self/status") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
        assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        with pytest.raises(PermissionError):
            os.setuid(0)

    assert in_child(somebody) == 0


@root
def test_a_closed_way_is_told(tmp_path):
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    for parent in (tmp_path, *list(tmp_path.parents)[:-2]):
        parent.chmod(parent.stat().st_mode | 0o001)

    def somebody():
        become(SOMEBODY)
        with pytest.raises(BadUser, match=f"cannot pass {closed}, on the way to {closed}/inner"):
            unreachable(SOMEBODY, [closed / "inner"])

    assert in_child(somebody) == 0


def test_the_lock_of_a_state_directory_is_no_link(tmp_path):
    """The directory may be a user's, and who locks it root."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    state = tmp_path / "state"
    state.mkdir()
    for make in (os.symlink, os.link):
        make(precious, state / "service.lock")
        with pytest.raises(OSError, match=r"service\.lock"), lock_state(state):
            pass
        (state / "service.lock").unlink()
    assert precious.read_text() == "precious"
