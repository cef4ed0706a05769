"""What the account tree has to do, said the short way: no running sums, everything counted anew.

An account with a guarantee `min` holds that much of its parent's pool whether it uses it or not, so what an account holds is
its own units plus, for each child, the greater of the child's guarantee and of what the child holds. A unit is
granted when no account on the way up would use more than its `max`, nor come to hold more than it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.model.core_binding import NO_ACCOUNT, NO_LIMIT, Resource

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Account", "Accounts"]

SUMMED = (Resource.CONCURRENCY, Resource.MEMORY, Resource.QUEUED_CALLS, Resource.QUEUED_BYTES)


@dataclass(slots=True)
class Account:
    index: int
    parent: int
    weight: int
    max: list[int]
    min: list[int]
    burst: int
    own: list[int] = field(default_factory=lambda: [0] * len(Resource))  # charged here directly
    tat_ns: int = 0


class Accounts:
    """Account 0, the node, exists from the start, as in the core."""

    def __init__(self) -> None:
        self._of: dict[int, Account] = {}
        big = (1 << 63) - 1
        self.put(0, NO_ACCOUNT, 100, [NO_LIMIT, NO_LIMIT, NO_LIMIT, big, NO_LIMIT, big], [0] * 6, 1)

    def __contains__(self, index: int) -> bool:
        return index in self._of

    def __getitem__(self, index: int) -> Account:
        return self._of[index]

    def __iter__(self) -> Iterator[Account]:
        return iter(self._of.values())

    def indices(self) -> list[int]:
        return list(self._of)

    def put(self, index: int, parent: int, weight: int, maxima: list[int], minima: list[int], burst: int) -> bool:
        known = self._of.get(index)
        if (index == 0) != (parent == NO_ACCOUNT) or (index != 0 and (parent not in self._of or parent == index)):
            return False
        if known is not None and known.parent != parent:
            return False
        if any(value < 0 for value in (*maxima, *minima)):
            return False
        if known is None:
            self._of[index] = Account(index, parent, weight, list(maxima), list(minima), burst)
        else:
            known.weight, known.max, known.min, known.burst = weight, list(maxima), list(minima), burst
        return True

    def children(self, index: int) -> list[Account]:
        return [account for account in self._of.values() if account.parent == index]

    def remove(self, index: int) -> None:
        del self._of[index]

    def path(self, leaf: int) -> list[Account]:
        """The leaf first, the node last."""
        found = []
        while leaf != NO_ACCOUNT:
            found.append(self._of[leaf])
            leaf = self._of[leaf].parent
        return found

    def used(self, index: int, resource: Resource) -> int:
        return self._of[index].own[resource] + sum(self.used(child.index, resource) for child in self.children(index))

    def held(self, index: int) -> int:
        """Units of concurrency that are used in this subtree or set aside below it."""
        return self._of[index].own[Resource.CONCURRENCY] + sum(
            max(child.min[Resource.CONCURRENCY], self.held(child.index)) for child in self.children(index)
        )

    def add(self, leaf: int, resource: Resource, units: int) -> None:
        own = self._of[leaf].own
        own[resource] += units
        assert own[resource] >= 0, f"account {leaf}: {resource.name} fell below zero"

    def refuses(self, leaf: int, resource: Resource, units: int = 1) -> int | None:
        """The first account on the way up that has no room for so many units more; None: there is room."""
        if resource is not Resource.CONCURRENCY:
            for account in self.path(leaf):
                if self.used(account.index, resource) + units > account.max[resource]:
                    return account.index
            return None
        before = {account.index: self.held(account.index) for account in self.path(leaf)}
        self._of[leaf].own[resource] += units
        try:
            for account in self.path(leaf):
                held = self.held(account.index)
                if self.used(account.index, resource) > account.max[resource] or (
                    held > before[account.index] and held > account.max[resource]
                ):
                    return account.index
            return None
        finally:
            self._of[leaf].own[resource] -= units

    def rate_refuses(self, leaf: int, now_ns: int) -> int | None:
        """GCRA at every level with a rate. A call that passes is counted at all of them, one that does not at none."""
        limited = [a for a in self.path(leaf) if a.max[Resource.RATE] < NO_LIMIT]
        for account in limited:
            rate = account.max[Resource.RATE]
            if rate == 0 or account.tat_ns > now_ns + (account.burst - 1) * (10**9 // rate):
                return account.index
        for account in limited:
            account.tat_ns = max(account.tat_ns, now_ns) + 10**9 // account.max[Resource.RATE]
        return None
