"""Environments at rest: each sealed under a data key of its own, bound to its function.

Law of this file: what the store may hold of an environment, and for what it is sealed. That it belongs to this function is the
context of both seals, so one function's cannot be passed off as another's. Ciphers and keys are the envelopes'.

    seals = Seals(envelopes)
    stored = await seals.seal(config)
    environment = await seals.open(stored, "hello")      open, or locked: the key cannot be had
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from scheduler.errors import Unavailable
from scheduler.functions.environments import Environment
from scheduler.keys.envelopes import is_envelope
from scheduler.keys.port import KeyProblem

if TYPE_CHECKING:
    from scheduler.functions.model import FunctionConfig
    from scheduler.keys.envelopes import Envelopes

__all__ = ["Seals", "context", "is_sealed"]

OWN = "v1"  # without the keyring file, whose wrapped keys begin so, there is no service


def is_sealed(stored: Any) -> bool:
    """False: it is from before environments were sealed, and to be written anew."""
    return isinstance(stored, dict) and (not stored or is_envelope(stored))


def context(name: str) -> dict[str, str]:
    """What the environment of this function is sealed for."""
    return {"for": "environment", "LambdaFunctionName": name}


class Seals:
    def __init__(self, envelopes: Envelopes) -> None:
        self._envelopes = envelopes

    @property
    def far(self) -> bool:
        """Keys are asked for over a network."""
        return self._envelopes.current.kind != OWN

    async def seal(self, config: FunctionConfig) -> dict[str, str]:
        """What is stored. Nothing is stored of nothing; of a locked one, what was. KeyProblem."""
        environment = config.environment
        if environment.problem is not None:
            return dict(environment.stored or {})
        if not environment:
            self._envelopes.check(config.kms_key_arn, config.tenant)
            return {}
        text = json.dumps(dict(environment), ensure_ascii=False).encode()
        stored = await self._envelopes.seal(text, context(config.name), key=config.kms_key_arn, tenant=config.tenant)
        environment.stored = stored
        return stored

    async def open(self, stored: Any, name: str) -> Environment:
        """Locked where a key far away, or one that its user has named, cannot be had. Unavailable: the keyring is not the one
        it was sealed with. ValueError, TypeError: it is nothing of ours."""
        if not is_sealed(stored):
            return Environment(dict(stored))
        if not stored:
            return Environment({})
        try:
            text = await self._envelopes.open(stored, context(name))
        except KeyProblem as problem:
            if stored["under"].split(".", 1)[0] == OWN:
                raise Unavailable(
                    f"the environment of function {name} does not open with this keyring: restore the one it was sealed with"
                ) from None
            return Environment({}, stored, problem)
        return Environment(json.loads(text), stored)

    async def refresh(self, environment: Environment, name: str) -> None:
        """Opens it again, or locks it, as its key is to be had now."""
        stored = environment.stored
        if not stored or self.usable_now(environment, name):
            return
        opened = await self.open(stored, name)
        if opened.problem is not None:
            environment.lock(opened.problem)
        else:
            environment.unlock(opened)

    def usable_now(self, environment: Environment, name: str) -> bool:
        """A sandbox may be made with it at once: nobody far away has to be asked for its key."""
        if environment.problem is not None:
            return False
        under = environment.under
        if under is None or under.startswith(OWN + "."):
            return True
        return self._envelopes.usable_now(under, context(name)) is True
