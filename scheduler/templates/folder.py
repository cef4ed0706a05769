"""function.toml: what a folder says of its function, so that nobody has to say it at each deployment.

    handler = "app.handler"
    memory_mb = 512
    timeout_s = 30

    [environment]
    STAGE = "dev"

Law of this file: keys are those of a deployment (docs/cli.md); their values are judged by the service. What the command line
says goes before what stands here.
"""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final

from scheduler.client.methods import CONFIGURATION_KEYS
from scheduler.templates.plan import TemplateBroken

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FILE", "read_settings"]

FILE: Final = "function.toml"
FILE_BYTES_MAX: Final = 64 * 1024
KEYS: Final = ("name", "publish", *CONFIGURATION_KEYS)


def read_settings(source: Path) -> dict[str, Any]:
    """What the folder's file says; nothing where there is none. TemplateBroken names the key."""
    path = source / FILE
    if not source.is_dir() or not path.is_file():
        return {}
    try:
        data = path.read_bytes()
        if len(data) > FILE_BYTES_MAX:
            raise TemplateBroken(f"{path}: has {len(data)} bytes, the limit is {FILE_BYTES_MAX}")
        found = tomllib.loads(data.decode())
    except (ValueError, OSError) as error:
        raise TemplateBroken(f"{path}: cannot be read: {error}") from None
    for key, value in found.items():
        if key not in KEYS:
            raise TemplateBroken(f"{path}: there is no key {key!r}; there are: {', '.join(KEYS)}")
        if key == "environment" and not (isinstance(value, dict) and all(isinstance(text, str) for text in value.values())):
            raise TemplateBroken(f"{path}: environment is not a table of texts")
    return found
