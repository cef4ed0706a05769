"""Rotation: every data key is wrapped anew, no ciphertext is touched, and it may end anywhere."""

from __future__ import annotations

import json

import pytest

from scheduler.accesskeys import AccessKeys
from scheduler.config import load
from scheduler.errors import BadRequest, Unavailable
from scheduler.functions.names import Identity
from scheduler.functions.registry import FunctionRegistry
from scheduler.keyring import Keyring
from scheduler.keyroom import KeyRoom
from scheduler.log import Log
from scheduler.secrets.store import Value
from tests.functions.test_registry import RUNTIMES, Memory, code
from tests.keys.doubles import KmsDouble, serving
from tests.keys.test_sources import credentials

NAMES = tuple(f"f{number}" for number in range(6))


class Life:
    """What of a service a rotation touches; a crash is a new one over the same files and the same store."""

    def __init__(self, directory, memory, settings=None):
        self.directory, self.memory, self.settings = directory, memory, settings or load()

    async def start(self):
        keyring = Keyring.open(self.directory / "keyring.json")
        self.access_keys = AccessKeys(self.directory / "access-keys.json", keyring)
        self.room = KeyRoom(self.settings, keyring, self.access_keys, Log())
        await self.room.load(self.memory, Identity())
        self.registry = await FunctionRegistry.load(self.memory, load(), runtimes=RUNTIMES, seals=self.room.seals)
        self.room.use(self.registry, None, lambda: True)
        return self

    def stored(self):
        """(where, sealed text, wrapped key) of everything."""
        found = {}
        for key, entry in self.memory.entries.items():
            if key.startswith(("sm.", "ks.")):
                continue
            raw = json.loads(entry.value)
            if key.startswith(("mk.", "sv.")):
                found[key] = raw
            else:
                found[key] = (raw.get("latest") or raw.get("version"))["config"]["environment"]
        return found


async def filled(tmp_path):
    life = await Life(tmp_path, Memory()).start()
    for number, name in enumerate(NAMES):
        fields = {"name": name, "handler": "a.b", "environment": {"VALUE": f"of {name}"}}
        await life.registry.deploy(fields, code(number + 1), publish=number % 2 == 0)
    life.access_keys.create("client", rights=("invoke",))
    key = await life.room.masters.create("default", aliases=("alias/a",))
    life.memory.sealed = life.room.masters.encrypt(key, b"of the key", {})
    await life.room.secrets.create("default", "password", Value(text="of the secret"))
    return life


async def check_whole(life):
    assert life.room.masters.decrypt(life.memory.sealed, {}, tenant="default")[1] == b"of the key"
    assert (await life.room.secrets.value("password", "default"))[2].text == "of the secret"
    for version in life.registry.all():
        assert version.config.environment == {"VALUE": f"of {version.name}"}, version.display_name
    assert life.access_keys.all()[0].secret


async def test_a_rotation_leaves_ciphertexts_as_they_are(tmp_path):
    life = await filled(tmp_path)
    before = life.stored()
    turned = await life.room.turn(rotate=True)
    after = life.stored()
    assert (turned.wrapped, turned.resealed, turned.failed) == (len(before), 1, 0)
    for key, held in before.items():
        assert after[key]["sealed"] == held["sealed"]
        assert after[key]["under"].split(".")[1] == turned.key != held["under"].split(".")[1]
    await life.registry.update(NAMES[0], {"memory_mb": 256})  # the registry knows the revisions that the rotation has made
    await check_whole(await Life(tmp_path, life.memory).start())
    assert (await life.room.turn(rotate=False)).wrapped == 0
    reads = []
    life.registry.rewrap = lambda name, wrap: reads.append(name)
    await life.room.finish()
    assert reads == [], "a start does not look at it all where a mark says that nothing is to be done"
    view = await life.room.view()
    assert [key["data_keys"] for key in view["keys"]] == [0, len(before)]
    assert view["elsewhere"] == {}


async def test_it_may_end_after_each_step_and_the_next_start_does_the_rest(tmp_path):
    life = await filled(tmp_path)
    for step in range(len(life.stored())):
        for how in ("before", "after"):
            life.memory.fail = [""] * step + [how]
            with pytest.raises(Unavailable):
                await life.room.turn(rotate=True)
            life.memory.fail = []
            life = await Life(tmp_path, life.memory).start()
            await check_whole(life)
    await life.room.finish()
    current = (await life.room.source.generations())[-1].id
    assert {held["under"].split(".")[1] for held in life.stored().values()} == {current}
    await check_whole(await Life(tmp_path, life.memory).start())


async def test_retired_keys_are_gone_and_nothing_was_under_them(tmp_path):
    life = await filled(tmp_path)
    old = (tmp_path / "keyring.json").read_bytes()
    turned = await life.room.turn(rotate=True, retire=True)
    assert turned.retired == 1
    again = await Life(tmp_path, life.memory).start()
    await check_whole(again)
    (tmp_path / "keyring.json").write_bytes(old)  # the one that leaked
    (tmp_path / "access-keys.json").unlink()
    with pytest.raises(Unavailable, match="does not open with this keyring"):
        await Life(tmp_path, life.memory).start()


async def test_from_the_keyring_to_a_kms_and_back(tmp_path):
    life = await filled(tmp_path)
    double = KmsDouble()
    with serving(double) as url:
        settings = load(
            {
                "key_source": "kms",
                "key_server": url,
                "key_id": "alias/main",
                "key_credentials_file": str(credentials(tmp_path)),
            }
        )
        life = await Life(tmp_path, life.memory, settings).start()
        await check_whole(life)
        await life.room.finish()
        assert {held["under"].split(".")[0] for held in life.stored().values()} == {"kms"}
        (tmp_path / "keyring.json").rename(tmp_path / "kept.json")  # of no use for environments any more
        again = Life(tmp_path, life.memory, settings)
        (tmp_path / "access-keys.json").rename(tmp_path / "kept-keys.json")
        await again.start()
        assert [v.config.environment for v in again.registry.all()] == [{"VALUE": f"of {v.name}"} for v in again.registry.all()]
        with pytest.raises(BadRequest, match="where they are"):
            await again.room.turn(rotate=True, retire=True)

        double.disabled.add("alias/main")
        locked = await Life(tmp_path, life.memory, settings).start()
        version = locked.registry.get(NAMES[0])
        assert version.config.environment.problem.code == "KMSDisabledException"
        assert not locked.registry.usable_now(version)
        assert "KMSDisabledException" in await locked.room.ready(NAMES[0])
        assert (await locked.room.turn(rotate=False)).failed == 0, "they are under this key"
        await locked.registry.update(NAMES[0], {"memory_mb": 512})  # what is locked stays as it is stored
        double.disabled.clear()
        assert await locked.room.ready(NAMES[0]) is None
        assert version.config.environment == {"VALUE": f"of {NAMES[0]}"}
        assert locked.registry.usable_now(locked.registry.get(NAMES[0]))

        (tmp_path / "kept.json").rename(tmp_path / "keyring.json")
        (tmp_path / "kept-keys.json").rename(tmp_path / "access-keys.json")
        back = await Life(tmp_path, life.memory).start()
        assert back.registry.get(NAMES[1]).config.environment.problem.code == "KMSNotFoundException"
        settings = load({"key_source": "keyring"})
    back = await Life(tmp_path, life.memory, settings).start()
    assert back.registry.get(NAMES[1]).config.environment.problem is not None
