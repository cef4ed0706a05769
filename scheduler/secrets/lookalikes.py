"""Variables that look like credentials: told when a function is deployed, since a secret has a better place.

Law of this file: pure. It judges by names and by what values are made of, and says the name of a variable and why, never a
value. It is a hint: nothing is refused for it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ADVICE", "Lookalike", "lookalikes"]

ADVICE: Final = "scheduler secrets put NAME, and secrets = [NAME] of the function"

_NAMES: Final = re.compile(
    r"(^|_)(PASSWORD|PASSWD|PASSPHRASE|PWD|SECRET|SECRETS|CREDENTIALS?|PRIVATE_?KEY|API_?KEY|ACCESS_?KEY|AUTH_?TOKEN|"
    r"ACCESS_?TOKEN|REFRESH_?TOKEN|BEARER_?TOKEN|TOKEN|CONNECTION_?STRING)(_|\d*$)"
)
# Of what names a secret, but is none: where it is, how long it lives, which one it is.
_ABOUT: Final = re.compile(
    r"(^|_)(NAME|NAMES|ARN|ID|IDS|URL|URI|ENDPOINT|PATH|FILE|DIR|TTL|TIMEOUT|LENGTH|SIZE|COUNT|MAX|MIN|HEADER|POLICY|EXPIRY|"
    r"EXPIRES|REGION|VERSION|STAGE|ENABLED|TYPE|PREFIX|SUFFIX|ALGORITHM|ISSUER|AUDIENCE|LIMIT)$"
)
_VALUES: Final = (
    (re.compile(r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z2-7]{16}(?![A-Z0-9])"), "an access key of AWS"),
    (re.compile(r"-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY-----"), "a private key"),
    (re.compile(r"(?<![A-Za-z0-9_])gh[pousr]_[A-Za-z0-9]{36,}"), "a token of GitHub"),
    (re.compile(r"(?<![A-Za-z0-9_])glpat-[A-Za-z0-9_-]{20,}"), "a token of GitLab"),
    (re.compile(r"(?<![A-Za-z0-9_])xox[abprs]-[A-Za-z0-9-]{10,}"), "a token of Slack"),
    (re.compile(r"(?<![A-Za-z0-9_])(sk|rk)_live_[A-Za-z0-9]{16,}"), "a key of Stripe"),
    (re.compile(r"(?<![A-Za-z0-9_])AIza[A-Za-z0-9_-]{35}"), "a key of Google"),
    (re.compile(r"(?<![A-Za-z0-9_])hvs\.[A-Za-z0-9_-]{20,}"), "a token of Vault"),
    (re.compile(r"(?<![A-Za-z0-9_])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"), "a JSON web token"),
    (re.compile(r"^[a-z][a-z0-9+.-]*://[^/\s:@]*:[^/\s:@]+@"), "an address with a password in it"),
)
_RANDOM: Final = re.compile(r"[A-Za-z0-9+/_=.-]{24,}")
_HEX: Final = re.compile(r"[0-9a-fA-F-]+")
BITS_MIN: Final = 4.0  # a character of random base64 has up to 6, of a text about 3.5; of hex up to 4
OURS: Final = "c0tNA"  # how base64 of our KMS' ciphertexts begins


@dataclass(frozen=True, slots=True)
class Lookalike:
    """why: fits behind "looks like"."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} looks like {self.why}"


def lookalikes(environment: Mapping[str, str]) -> tuple[Lookalike, ...]:
    """By name."""
    return tuple(Lookalike(name, why) for name, value in sorted(environment.items()) if (why := _why(name, value)) is not None)


def _why(name: str, value: str) -> str | None:
    if not value or value.startswith(OURS) or _is_reference(value):
        return None
    for pattern, what in _VALUES:
        if pattern.search(value):
            return what
    upper = _words(name)
    if _NAMES.search(upper) and not _ABOUT.search(upper) and not _is_plain(value):
        return "a credential, by its name"
    return "a random token" if _is_random(value) else None


def _words(name: str) -> str:
    """`dbPassword` as DB_PASSWORD."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).upper()


def _is_reference(value: str) -> bool:
    """It says where a secret is."""
    return value.startswith(("arn:", "{{resolve:", "ssm:", "secretsmanager:", "vault:v"))


def _is_plain(value: str) -> bool:
    return value.lower() in ("true", "false", "yes", "no", "on", "off", "none", "null") or value.isdecimal()


def _is_random(value: str) -> bool:
    """Letters and digits mixed as no word and no path has them."""
    if not _RANDOM.fullmatch(value) or value.count("/") > 2 or value.count(".") > 2 or value.count("-") > 4:
        return False
    kinds = sum(bool(re.search(kind, value)) for kind in ("[a-z]", "[A-Z]", "[0-9]"))
    if _HEX.fullmatch(value):
        return len(value.replace("-", "")) >= 40 and kinds >= 2
    return kinds == 3 and _bits(value) >= BITS_MIN and _turns(value) >= 0.25


def _bits(value: str) -> float:
    """Of Shannon, for each character."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())


def _turns(value: str) -> float:
    """How often the kind of character changes: names in camel case and versions change seldom."""
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "o" for c in value]
    return sum(a != b for a, b in pairwise(kinds)) / (len(value) - 1)
