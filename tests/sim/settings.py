"""What the core under judgement was given."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tests.model import keep as model

__all__ = ["Settings"]


@dataclass(slots=True, frozen=True)
class Settings:
    """Of the core under judgement; times in ns. `late_ns`: how late the driver may call core_step() after core_next_ns()."""

    calls_max: int
    sandboxes_max: int
    ahead_max: int
    starting_max: int
    ahead_window_ns: int
    init_timeout_ns: int
    idle_timeout_ns: int
    reap_timeout_ns: int
    idle_min_ns: int = 60_000_000_000
    idle_max_ns: int = 3_600_000_000_000
    idle_grain_ns: int = 1_000_000_000
    age_max_ns: int = 0
    sandbox_calls_max: int = 0
    cold_start_guess_ns: int = 15_000_000
    cpus: int = 2
    provisioned_init_timeout_ns: int = 130_000_000_000
    late_ns: int = 0

    def of_core(self) -> dict[str, int]:
        """Those that are fields of core_config."""
        return {name: value for name, value in asdict(self).items() if name != "late_ns"}

    def patience(self) -> model.Patience:
        return model.Patience(self.idle_timeout_ns, self.idle_min_ns, self.idle_max_ns, self.idle_grain_ns)
