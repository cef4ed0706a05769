"""The model of native/core/keep.c: gaps, the window learnt from them, what an idle sandbox is worth. Written for reading."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BINS", "Keep", "Patience", "bin_of", "within_eighth", "worth"]

FINE, COARSE = 60, 240
BINS = FINE + COARSE
SAMPLES_MIN, SAMPLES_MAX = 8, 1024
GONE_MAX = 8
USES_MAX = 1 << 16
USES_HALVE_NS = 600 * 10**9
MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Patience:
    """The core's settings of the same names, in ns."""

    idle_timeout_ns: int
    idle_min_ns: int
    idle_max_ns: int
    idle_grain_ns: int


def bin_of(gap_ns: int, grain_ns: int) -> int:
    """BINS: beyond all of them."""
    steps = gap_ns // grain_ns
    if steps < FINE:
        return steps
    return min(FINE + steps // FINE - 1, BINS)


@dataclass(slots=True)
class Keep:
    patience: Patience
    bins: list[int] = field(default_factory=lambda: [0] * BINS)
    beyond: int = 0
    ended: list[int] = field(default_factory=list)  # since when those were idle that were ended for it
    uses: int = 0
    uses_from_ns: int = 0

    @property
    def samples(self) -> int:
        return sum(self.bins)

    @property
    def window_ns(self) -> int:
        p = self.patience
        samples = self.samples
        if samples < SAMPLES_MIN or self.beyond > samples:
            return p.idle_timeout_ns
        gaps = [index for index, count in enumerate(self.bins) for _ in range(count)]
        last = gaps[-(-samples * 99 // 100) - 1]  # 99 of 100 are not longer
        end = (last + 1 if last < FINE else (last - FINE + 2) * FINE) * p.idle_grain_ns
        return max(p.idle_min_ns, min(p.idle_max_ns, end + end // 10))

    def gap(self, gap_ns: int) -> None:
        if gap_ns < self.patience.idle_grain_ns:
            return
        found = bin_of(gap_ns, self.patience.idle_grain_ns)
        if found == BINS:
            self.beyond += 1
        else:
            self.bins[found] += 1
        if self.samples + self.beyond >= SAMPLES_MAX:
            self.bins = [count // 2 for count in self.bins]
            self.beyond //= 2

    def gone(self, idle_since_ns: int) -> None:
        self.ended = [*self.ended, idle_since_ns][-GONE_MAX:]

    def missed(self, now_ns: int) -> None:
        if self.ended:
            self.gap(max(0, now_ns - self.ended.pop()))

    def used(self, now_ns: int) -> None:
        halvings = (now_ns - self.uses_from_ns) // USES_HALVE_NS
        self.uses = min(USES_MAX, (self.uses >> halvings) + 1)
        self.uses_from_ns += halvings * USES_HALVE_NS

    def uses_now(self, now_ns: int) -> int:
        return self.uses >> (now_ns - self.uses_from_ns) // USES_HALVE_NS


def worth(keep: Keep, now_ns: int, *, clock: int, start_ns: int, memory_mb: int, idle: int) -> int:
    """Of one of `idle` idle sandboxes. clock: that of the core when it became idle; start_ns: what a start takes."""
    start_us = min(start_ns // 1000, 1 << 30) + 1
    return min(MASK, clock + start_us * 64 * (keep.uses_now(now_ns) + 1) // (memory_mb * max(1, idle)))


def within_eighth(most: int, handle: int) -> int:
    """Where in the last eighth of `most` a sandbox is worn."""
    mixed = handle * 0x9E3779B97F4A7C15 & MASK
    mixed ^= mixed >> 32
    return most - most // 8 + mixed % (most // 8 + 1)
