"""The meter: the only place where a learner's network may run, and what each block costs.

    with meter.block("train", batch=128):
        loss(network(images)).backward()

A block's FLOPs are counted the first time its (label, key, input shapes) is seen, and charged from
that count afterwards.  Three things keep this honest.  Every module that computes carries a
guard, a plain function that reads a module variable: a forward pass outside a block raises.  The
guard also notes the shape of every input, so a block that runs other forward passes than were
priced raises. And seeded random recounts compare what is charged with what is done, backward
passes included.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from bench.errors import BudgetExhausted, UnmeteredCompute
from bench.networks.flops import FlopCounter, uncounted
from bench.rng import key as stream_key
from bench.train.ledger import Item, Key, Ledger

Shape = tuple[int, ...]
Work = tuple[str, Key, tuple[Shape, ...]]

AUDIT_RATE = 1 / 1024
_TABLES = ("prices", "extent", "by_first", "before")


class _Now:
    """The block that is open in this process; one process makes one run.

    Not a context variable: torch runs backward passes, and the hooks in them, in threads of its
    own.  Two variables, because a compiled network bakes in the value that it read: `metered` is
    the same constant inside every block, so a change of block recompiles nothing.
    """

    metered: bool = False
    timed: bool = False
    block: "Block | None" = None


def guard(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Forward pre-hook of every computing module of a learner's network.

    It holds no reference to a session, so that copying a network copies no session.

    Raises:
        UnmeteredCompute: Outside a metered block.
    """
    if not _Now.metered:
        raise UnmeteredCompute(
            f"a {type(module).__name__} of a learner's network was called outside "
            "`with session.metered(...)`: nobody would pay for it"
        )
    if not torch.compiler.is_compiling():
        block = _Now.block
        if block is not None and not block.meter.compiled:
            block.note(inputs)


def note_call(images: torch.Tensor) -> None:
    """Tells the current block of a call of a compiled network, whose modules tell nothing.

    Raises:
        UnmeteredCompute: Outside a metered block.
    """
    block = _Now.block
    if block is None:
        raise UnmeteredCompute("a learner was called outside `with session.metered(...)`")
    block.note((images,))


def guarded(network: nn.Module) -> nn.Module:
    """Hangs the guard on every module that has no children or parameters of its own."""
    for module in network.modules():
        computes = not any(module.children()) or any(
            True for _ in module.parameters(recurse=False)
        )
        if computes and guard not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(guard)
    return network


def unguarded(network: nn.Module) -> nn.Module:
    """Takes the guard off a network that nobody will train, e.g. one on the meta device."""
    for module in network.modules():
        hooks = module._forward_pre_hooks
        for number in [number for number, hook in hooks.items() if hook is guard]:
            del hooks[number]
    return network


class Meter:
    """Prices and books the blocks of one run.

    Args:
        ledger: Where to book.
        device: Blocks are itemised in seconds of this device.
        seed: Names the random recounts.
        audit_rate: Share of blocks counted again.
        compiled: Whether learners are compiled.  Then a counted step runs eagerly, which changes
            bits, so steps are priced in rehearsal and not audited; and a block knows the shapes of
            whole calls, not of every module's input.
    """

    def __init__(
        self,
        ledger: Ledger,
        device: torch.device,
        seed: int = 0,
        audit_rate: float = AUDIT_RATE,
        compiled: bool = False,
    ) -> None:
        self.ledger = ledger
        self.device = device
        self.compiled = compiled
        self.prices: dict[Work, int] = {}
        self.extent: dict[tuple[str, Key], tuple[int, int]] = {}  # cheapest and dearest form
        self.by_first: dict[tuple[str, Key, Shape], int] = {}
        self.before: dict[tuple[str, Key], int] = {}  # what blocks compute before any network
        self._audits = random.Random(stream_key("audit", seed))
        self._audit_rate = 0.0 if compiled else audit_rate
        self._events: list[tuple[Item, torch.cuda.Event, torch.cuda.Event]] = []

    def block(self, label: str, **key: int) -> "Block":
        """A context manager for one block of work; blocks do not nest.

        Args:
            label: What the work is for, on the bill.
            key: Every integer that changes the work, other than the shapes of network inputs.
        """
        return Block(self, label, tuple(sorted(key.items())))

    def audited(self) -> bool:
        """Whether the next block is counted again."""
        return self._audit_rate > 0 and self._audits.random() < self._audit_rate

    def settle(self, block: "Block", flops: int) -> None:
        """Books a block and learns its price."""
        work = block.work
        self.prices[work] = flops
        pair = work[:2]
        low, high = self.extent.get(pair, (flops, flops))
        self.extent[pair] = min(low, flops), max(high, flops)
        self.before[pair] = max(block.before, self.before.get(pair, 0))
        if block.shapes:
            self.by_first[(*pair, block.shapes[0])] = flops
        self.book(block, flops)
        self.ledger.check()  # a first block has no price to be turned away by

    def book(self, block: "Block", flops: int) -> None:
        """Charges a block to the ledger, with its seconds."""
        item = self.ledger.charge(block.label, block.key, flops)
        if block.start_event is None:
            item.seconds += self.ledger.clock.now() - block.started
            return
        end = torch.cuda.Event(enable_timing=True)
        end.record()
        self._events.append((item, block.start_event, end))
        if len(self._events) >= 4096:
            self.collect(wait=False)

    def state_dict(self) -> dict[str, Any]:
        """Prices, and where the random recounts stand."""
        tables = {name: dict(getattr(self, name)) for name in _TABLES}
        return tables | {"audits": self._audits.getstate()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts them back."""
        for name in _TABLES:
            setattr(self, name, dict(state[name]))
        self._audits.setstate(state["audits"])

    def collect(self, wait: bool = True) -> None:
        """Turns finished device events into seconds; waits for all of them at the run's end."""
        if wait and self._events:
            torch.cuda.synchronize(self.device)
        pending = []
        for item, start, end in self._events:
            if wait or end.query():
                item.seconds += start.elapsed_time(end) / 1000
            else:
                pending.append((item, start, end))
        self._events = pending

    @contextmanager
    def timed(self, label: str) -> Iterator[None]:
        """Work on the host without a network: itemised in seconds, at no FLOPs.

        Raises:
            UnmeteredCompute: If it is inside another block.
        """
        if _Now.metered or _Now.timed:
            raise UnmeteredCompute(f"the timed block {label!r} opens inside another block")
        began, _Now.timed = self.ledger.clock.now(), True
        try:
            with uncounted():
                yield
        finally:
            _Now.timed = False
            item = self.ledger.charge(label, (), 0)
            item.seconds += self.ledger.clock.now() - began

    @contextmanager
    def harness(self) -> Iterator[None]:
        """The harness's own work: off the clock, on its own account."""
        with self.ledger.clock.pause(), self.ledger.on_account("harness"):
            yield


class Block:
    """One metered block; see `Meter.block`."""

    def __init__(self, meter: Meter, label: str, key: Key) -> None:
        self.meter = meter
        self.label = label
        self.key = key
        self.shapes: list[Shape] = []
        self.started = 0.0
        self.start_event: torch.cuda.Event | None = None
        self._counter: FlopCounter | None = None
        self.before = 0  # FLOPs counted before the first input to a network
        self._late = False  # whether counting began at the first input, not at the start

    @property
    def work(self) -> Work:
        """What prices are known by: label, key and the shapes that entered the network."""
        return self.label, self.key, tuple(self.shapes)

    def __enter__(self) -> "Block":
        meter = self.meter
        if _Now.metered or _Now.timed:
            raise UnmeteredCompute(f"the block {self.label!r} opens inside another block")
        known = meter.extent.get((self.label, self.key))
        # Shapes come later; a block whose cheapest form cannot fit need not begin at all.
        meter.ledger.admit(self._share(known[0]) if known else 0.0)
        if known is None or meter.audited():
            self._count()
        self.started = meter.ledger.clock.now()
        if meter.device.type == "cuda":
            self.start_event = torch.cuda.Event(enable_timing=True)
            self.start_event.record()
        _Now.metered, _Now.block = True, self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _Now.metered, _Now.block = False, None
        if self._counter is not None:
            self._counter.__exit__(kind, error, trace)
        if error is not None:
            self._abandon(error)
        elif self._counter is not None:
            self._settle(self._counter.total)
        elif self.work in self.meter.prices:
            self.meter.book(self, self.meter.prices[self.work])
        else:
            raise UnmeteredCompute(
                f"the block {self.label!r} {dict(self.key)} ran other forward passes than it was "
                "priced for: put every integer that changes the work into metered(label, **key)"
            )

    def note(self, inputs: tuple[Any, ...]) -> None:
        """Notes one more input; the first one decides whether this block is priced already."""
        self.shapes.append(getattr(inputs[0], "shape", ()) if inputs else ())
        if len(self.shapes) == 1:
            self._open(self.shapes[0])

    def _open(self, shape: Shape) -> None:
        price = self.meter.by_first.get((self.label, self.key, shape))
        if self._counter is not None:
            self.before = self._counter.total
        elif price is None:
            self._late = True
            self._count()
        if price is not None:
            self.meter.ledger.admit(self._share(price))

    def _count(self) -> None:
        self._counter = FlopCounter()
        self._counter.__enter__()

    def _settle(self, counted: int) -> None:
        if self._late and self.meter.before.get((self.label, self.key), 0):
            self.meter.book(self, max(counted, self.meter.extent[self.label, self.key][1]))
            raise UnmeteredCompute(
                f"the block {self.label!r} {dict(self.key)} computes before it calls a network, "
                "and then gave it a new shape: put the size into metered(label, **key)"
            )
        charged = self.meter.prices.get(self.work, counted)
        if charged != counted:
            self.meter.book(self, counted)
            raise UnmeteredCompute(
                f"the block {self.label!r} {dict(self.key)} was priced at {charged} FLOPs and now "
                f"does {counted}: put every integer that changes the work into "
                "metered(label, **key)"
            )
        self.meter.settle(self, counted)

    def _abandon(self, error: BaseException) -> None:
        """A block left by an error pays in full, unless it was turned away at the door."""
        if isinstance(error, BudgetExhausted) and len(self.shapes) <= 1:
            return
        counted = self._counter.total if self._counter is not None else 0
        self.meter.book(
            self, max(counted, self.meter.extent.get((self.label, self.key), (0, 0))[1])
        )

    def _share(self, flops: int) -> float:
        ledger = self.meter.ledger
        return flops / ledger.reference.flops if ledger.track == "portable" else 0.0
