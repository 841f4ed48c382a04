"""The ledger: what was spent, on what, and how much is left.

One run has three accounts.  `run` is the bill.  `rehearsal` holds the steps that were priced on
cloned state before training; it is free up to 5 % of the budget and the excess is billed.
`harness` holds the harness's own evaluations, recorded and never billed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.errors import BudgetExhausted, LedgerTampered
from bench.train.clock import Clock

Account = Literal["run", "rehearsal", "harness"]
Track = Literal["portable", "gpu"]
Key = tuple[tuple[str, int], ...]
Spent = dict[str, Any]  # plain data: items of accounts, seconds, seconds of rehearsals

FREE_REHEARSAL = 0.05
_PARTS = ("calls", "flops", "seconds")
_TOLERANCE = 1e-9  # relative; shares of a budget are floats, the FLOPs behind them integers


@dataclass
class Item:
    """All blocks of one account, label and key."""

    calls: int = 0
    flops: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class Fence:
    """A limit on what may have been spent in all, in RT; compared by identity."""

    limit: float


@dataclass(frozen=True)
class ReferencePrice:
    """What one reference training (RT) costs on this machine, in both currencies."""

    flops: int
    seconds: float


@dataclass
class Ledger:
    """Accounts of one run under a budget.

    Args:
        budget: In RT.
        reference: The price of one RT.
        track: `portable` binds on FLOPs, `gpu` on device-seconds.
        clock: Elapsed device-seconds.

    Attributes:
        computed: FLOPs that this process has done, on whatever account.
        crossed: The fence at which work was turned away, until the slice that it ends has ended.
    """

    budget: float
    reference: ReferencePrice
    track: Track
    clock: Clock
    account: Account = "run"
    rehearsal_seconds: float = 0.0
    computed: int = 0
    crossed: Fence | None = None
    _items: dict[tuple[Account, str, Key], Item] = field(default_factory=dict)
    _totals: dict[Account, int] = field(default_factory=dict)
    _fences: list[Fence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._fences.append(Fence(self.budget))

    def charge(self, label: str, key: Key, flops: int) -> Item:
        """Books one block on the current account and returns its item."""
        self.computed += flops
        return self._add((self.account, label, key), 1, flops)

    def _add(self, name: tuple[Account, str, Key], calls: int, flops: int) -> Item:
        item = self._items.setdefault(name, Item())
        item.calls += calls
        item.flops += flops
        self._totals[name[0]] = self._totals.get(name[0], 0) + flops
        return item

    def mark(self) -> Spent:
        """What is booked so far, for `since`."""
        return self.since({"items": [], "seconds": 0.0, "rehearsal_seconds": 0.0})

    def since(self, mark: Spent) -> Spent:
        """What was spent after `mark`, as plain data for `book`."""
        before = {_name(one): Item(*(one[part] for part in _PARTS)) for one in mark["items"]}
        items = []
        for name, item in self._items.items():
            old = before.get(name, Item())
            if item != old:
                account, label, key = name
                one: dict[str, Any] = {"account": account, "label": label, "key": dict(key)}
                items.append(one | {p: getattr(item, p) - getattr(old, p) for p in _PARTS})
        return {
            "items": items,
            "seconds": self.clock.elapsed - mark["seconds"],
            "rehearsal_seconds": self.rehearsal_seconds - mark["rehearsal_seconds"],
        }

    def book(self, spent: Spent) -> None:
        """Books what another process spent on this run, as `since` told it."""
        for one in spent["items"]:
            self._add(_name(one), one["calls"], one["flops"]).seconds += one["seconds"]
        self.clock.credit(spent["seconds"])
        self.rehearsal_seconds += spent["rehearsal_seconds"]

    def state_dict(self) -> dict[str, Any]:
        """All that is booked, and the limits of the open slices."""
        return {"booked": self.mark(), "limits": [fence.limit for fence in self._fences]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the books to those of another process, which had as many slices open."""
        self._items, self._totals, self.rehearsal_seconds = {}, {}, 0.0
        self.clock.credit(-self.clock.elapsed)
        self.book(state["booked"])
        for fence, limit in zip(self._fences, state["limits"], strict=True):
            fence.limit = limit

    def audit(self) -> None:
        """Checks that the items add up to the totals.

        Raises:
            LedgerTampered: If they don't.
        """
        for account in ("run", "rehearsal", "harness"):
            items = sum(item.flops for (a, _, _), item in self._items.items() if a == account)
            if items != self._totals.get(account, 0):
                raise LedgerTampered(
                    f"the {account} account's items add up to {items} FLOPs, its total says "
                    f"{self._totals.get(account, 0)}: the ledger was changed from outside"
                )

    def flops(self, account: Account) -> int:
        """FLOPs booked on an account."""
        return self._totals.get(account, 0)

    @property
    def billed_flops(self) -> int:
        """The bill in FLOPs: the run, and rehearsal beyond its free share of the budget."""
        free = FREE_REHEARSAL * self.budget * self.reference.flops
        return self.flops("run") + round(max(0.0, self.flops("rehearsal") - free))

    @property
    def billed_seconds(self) -> float:
        """The bill in device-seconds: the clock, and rehearsal beyond its free share."""
        free = FREE_REHEARSAL * self.budget * self.reference.seconds
        return self.clock.elapsed + max(0.0, self.rehearsal_seconds - free)

    @property
    def spent(self) -> float:
        """What the run has cost so far, in RT of the binding currency."""
        if self.track == "gpu":
            return self.billed_seconds / self.reference.seconds
        return self.billed_flops / self.reference.flops

    @property
    def remaining(self) -> float:
        """RT left inside every open slice."""
        return max(0.0, min(fence.limit for fence in self._fences) - self.spent)

    def admit(self, cost: float) -> None:
        """Lets a block of this cost (RT) begin.

        Raises:
            BudgetExhausted: If it does not fit; `scope` is the innermost fence it would cross.
        """
        if self.account != "run":
            return
        after = self.spent + cost
        for fence in reversed(self._fences):
            if after > fence.limit + _TOLERANCE * self.budget:
                self.crossed = fence
                what = "budget" if fence is self._fences[0] else "slice"
                raise BudgetExhausted(
                    f"{cost:.4g} RT more would take the bill to {after:.4g} RT, past the {what}'s "
                    f"end at {fence.limit:.4g} RT",
                    fence,
                )

    def check(self) -> None:
        """Ends a run or slice that a block without a price has overdrawn.

        Raises:
            BudgetExhausted: If more was spent than the innermost crossed fence allows.
        """
        self.admit(0.0)

    @contextmanager
    def slice(self, fraction: float) -> Iterator[None]:
        """Fences off a fraction of what remains; ends quietly when that is used up."""
        outer = min(fence.limit for fence in self._fences)
        spent = self.spent
        fence = Fence(outer if fraction == 1.0 else spent + fraction * max(0.0, outer - spent))
        self._fences.append(fence)
        try:
            yield
        except BudgetExhausted as exhausted:
            if exhausted.scope is not fence:
                raise
            self.crossed = None
        finally:
            self._fences.remove(fence)

    def number_of(self, fence: object) -> int | None:
        """Which of the open slices a fence is, from the outermost; None if it is none."""
        found = [number for number, one in enumerate(self._fences) if one is fence]
        return found[0] if found else None

    def cross(self, number: int) -> None:
        """Ends an open slice as a block that does not fit would.

        Raises:
            BudgetExhausted: Always.
        """
        self.crossed = self._fences[number]
        raise BudgetExhausted("the slice ended here in the process that was killed", self.crossed)

    @contextmanager
    def on_account(self, account: Account) -> Iterator[None]:
        """Books the blocks inside on another account."""
        before, self.account = self.account, account
        try:
            yield
        finally:
            self.account = before

    def items(self, account: Account) -> list[tuple[str, Key, Item]]:
        """The items of an account, by label and key."""
        found = [(label, key, i) for (a, label, key), i in self._items.items() if a == account]
        return sorted(found, key=lambda entry: entry[:2])


def _name(one: dict[str, Any]) -> tuple[Account, str, Key]:
    """What a booked item is known by."""
    return one["account"], one["label"], tuple(sorted(one["key"].items()))
