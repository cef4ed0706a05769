"""Settings in the engine's words.

Law of this file: units and names; it decides nothing but what follows from one setting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scheduler import limits
from scheduler.catalog import accounts_max
from scheduler.messages import EngineConfig

if TYPE_CHECKING:
    from scheduler.config import Settings

__all__ = ["engine_config"]

S_NS = 1_000_000_000
MS_NS = 1_000_000


def engine_config(settings: Settings, *, quotas: bool = True) -> EngineConfig:
    """Settings in the engine's words. quotas: sandboxes can be held to a part of a CPU here."""
    return EngineConfig(
        calls_max=settings.calls_max,
        functions_max=settings.functions_max + settings.isolated_tenants_max,
        sandboxes_max=settings.sandboxes_max,
        accounts_max=accounts_max(settings),
        ahead_max=settings.ahead_max,
        starting_max=settings.starting_max,
        ahead_window_ns=settings.ahead_window_us * 1000,
        init_timeout_ns=settings.init_timeout_ms * MS_NS,
        idle_timeout_ns=settings.idle_timeout_s * S_NS,
        idle_min_ns=settings.idle_timeout_min_s * S_NS,
        idle_max_ns=settings.idle_timeout_max_s * S_NS,
        age_max_ns=settings.sandbox_age_max_s * S_NS,
        sandbox_calls_max=settings.sandbox_calls_max,
        reap_timeout_ns=settings.reap_timeout_ms * MS_NS,
        cold_start_guess_ns=settings.cold_start_guess_us * 1000,
        cpus=settings.cpu_count(),
        memory_mb_per_cpu=limits.MEMORY_MB_PER_CPU if quotas and settings.cpu_per_memory == "proportional" else 0,
        connections_max=settings.connections_max,
        frame_bytes_max=settings.frame_bytes_max,
        connection_buffer_bytes_max=settings.connection_buffer_bytes_max,
        turn_bytes_max=settings.turn_bytes_max,
        payload_total_bytes_max=settings.payload_bytes_total_max,
        spin_us=settings.spin_us,
        stop_grace_ms=settings.stop_grace_ms,
        log_bytes_max=settings.log_bytes_max,
        log_total_bytes_max=settings.log_total_bytes_max,
        log_turn_s=settings.log_turn_s,
        log_keep_s=settings.log_keep_s,
        spans_s_max=settings.otlp_spans_s_max if settings.otlp_endpoint else 0,
        log_files_max=settings.log_files_max,
        log_dir=str(settings.log_dir),
        allowed_uids=settings.allowed_uids,
        http_signed=settings.http_auth == "sigv4",
    )
