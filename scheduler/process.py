"""What the service's process needs of the system it runs on: descriptors, and directories that others can pass.

Law of this file: it looks, and raises limits of this process; it changes nothing else.
"""

from __future__ import annotations

import os
import resource
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from scheduler.config import Settings
    from scheduler.log import Log

__all__ = ["hidden_from_others", "raise_descriptor_limit"]

DESCRIPTORS_OF_A_SANDBOX = 10  # of one that executes programs: with the listener of its API and three connections there
DESCRIPTORS_OF_A_TLS_CLIENT = 3  # its own, and both ends of the pair to the engine
DESCRIPTORS_SPARE = 1536  # a third each for further connections to sandboxes' APIs, for their doors, for all else


def raise_descriptor_limit(settings: Settings, log: Log) -> None:
    """As many descriptors as the settings may need; a warning where the system does not allow them."""
    of_a_client = DESCRIPTORS_OF_A_TLS_CLIENT if settings.tls else 1
    wanted = settings.connections_max * of_a_client + settings.sandboxes_max * DESCRIPTORS_OF_A_SANDBOX + DESCRIPTORS_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
        if hard < wanted:
            log.warning("descriptors", limit=hard, wanted=wanted, text="raise `ulimit -n` or lower connections_max")


def hidden_from_others(directory: Path) -> Path | None:
    """The first directory on the way that the users of sandboxes cannot pass. Without mounts they walk there themselves."""
    if os.geteuid() != 0:
        return None  # they are this user
    way = (*reversed(directory.parents), directory)
    return next((path for path in way if not path.stat().st_mode & stat.S_IXOTH), None)
