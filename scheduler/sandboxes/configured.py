"""How the service's settings start its launcher: one place, so that what the doctor examines is what the service runs.

Law of this file: translation only.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from scheduler.sandboxes.launcher import SLOTS_MAX, LauncherConfig
from scheduler.sandboxes.resolvers import name_servers

if TYPE_CHECKING:
    from scheduler.config import Settings

__all__ = ["launcher_config"]

MAKERS = 1  # of images, at once


def launcher_config(settings: Settings, *, runtimes: int) -> LauncherConfig:
    """runtimes: how many are offered; shells of each may wait beside the sandboxes, and images are made."""
    return LauncherConfig(
        isolation=settings.isolation,
        slots=min(SLOTS_MAX, settings.sandboxes_max + settings.shells_max * runtimes + MAKERS),
        uid_base=settings.sandbox_uid_base,
        cgroup_root=str(settings.cgroup_root) if settings.cgroup_root is not None else None,
        code_root=str(settings.code_dir) if settings.user is not None else None,
        cpu_per_memory=settings.cpu_per_memory,
        network_range=settings.sandbox_network_range,
        network_servers=settings.sandbox_name_servers or name_servers(),
        network_allowed=settings.sandbox_network_allowed,
        scratch=settings.scratch,
        scratch_dir=str(settings.scratch_dir),
        scratch_mb_max=settings.scratch_mb_max,
        scratch_ahead=settings.scratch_ahead,
        # A normal user is seldom given control groups; then each process has limits of its own, and the start says so. Root
        # without them is a broken machine.
        require_limits=None if os.geteuid() == 0 else False,
    )
