"""The session: everything that a method may touch during one run.

learner = session.learner()                      # fresh, equal across methods at one seed
price = session.price("train", step)             # RT, rehearsed on cloned state
steps = session.plan(train=session.afford(price))["train"]
for i in session.steps(steps):                        # a killed run goes on from here
    with session.metered("train"):               # the only place where networks may run
        ...
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import nn

from bench.augment.policy import Batch
from bench.data.arrays import Arrays
from bench.data.batches import Batches
from bench.errors import PlanError
from bench.rng import forked
from bench.train.batches import BatchIterator
from bench.train.checkpoint import Checkpoints
from bench.train.evaluate import Metrics, evaluate
from bench.train.journal import Journal
from bench.train.learner import Learner
from bench.train.meter import Block, Meter
from bench.train.parts import Parts
from bench.train.recipe import Recipe
from bench.train.running import Observer
from bench.train.task import Task

TIMED_STEPS = 30
WARM_UP_STEPS = 3
TIMED_SHARE = 0.04  # of a seconds budget, for pricing one kind of step


class Session(Parts):
    """One run of one method on one task at one seed.

    Args:
        task: Training and validation data, recipe and network.
        meter: Prices and books every block.
        seed: Names every random stream of the run; streams do not depend on the method.
        compiled: Whether learners are compiled.
        observe: Called with a learner and the share of the plan that is done: the harness
            evaluates there, off the clock.
        replay: Plans of an earlier run, to be followed instead of made anew.
        journal: What a killed process had finished of this run, and where to note more.
        checkpoints: Where the run's state goes now and then, and the one to go on from.
    """

    def __init__(
        self,
        task: Task,
        meter: Meter,
        seed: int,
        *,
        compiled: bool = False,
        observe: Observer | None = None,
        replay: list[dict[str, int]] | None = None,
        journal: Journal | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        super().__init__(task, meter, seed, observe, journal, checkpoints)
        self._compiled = compiled
        self._replay = replay

    # What to learn with

    def learner(
        self, network: Callable[[], nn.Module] | None = None, recipe: Recipe | None = None
    ) -> Learner:
        """A learner with the run's next initial weights.

        The k-th call of a run gets the k-th initialisation, equal across methods at one seed.  A
        method that trains several makes the one that it will return first, so that it pairs with
        the other methods'.

        Args:
            network: Builds a network of the method's own, e.g. a hypernetwork, from torch's global
                generator.  Each of its parameters that has the name and shape of one of the task's
                network gets that one's initial value; the others keep theirs.
            recipe: Optimiser and schedule, where they are what the method tunes.
        """
        number = self._next("learner")
        with forked("initial weights", self.seed, number):
            plain = self.task.network()
        if network is None:
            own = plain
        else:
            with forked("own weights", self.seed, number):
                own = network()
            values = plain.state_dict()
            with torch.no_grad():
                for name, parameter in own.named_parameters():
                    if name in values and values[name].shape == parameter.shape:
                        parameter.copy_(values[name])
        return Learner(own, self.task, recipe, compiled=self._compiled, registry=self._learners)

    def batches(
        self, split: Literal["train", "val"] | Arrays, size: int | None = None
    ) -> Iterator[Batch]:
        """Endless shuffled full batches; the order of the k-th call is equal across methods.

        Args:
            split: Which arrays; or arrays made of them, e.g. a subset.
            size: Images a batch; the recipe's batch size by default, the whole split at most.
        """
        if isinstance(split, Arrays):
            arrays, name = split, "own"
        else:
            arrays, name = (self.task.train if split == "train" else self.task.val), split
        stream = self._streams(f"order {name} {self._next(f'order {name}')}")
        batches = BatchIterator(Batches(arrays, size or self.task.recipe.batch_size, stream))
        self._batches.add(batches)
        return batches

    def rng(self, stream: str) -> torch.Generator:
        """The run's named host generator, e.g. `policy`; streams never disturb each other."""
        return self._streams(f"method {stream}")

    # What it costs

    def metered(self, label: str, **key: int) -> Block:
        """The only context in which a learner's network may be called.

        Args:
            label: What the work is for, on the bill.
            key: Every integer that changes the work beside the shapes of network inputs: tangent
                columns, Neumann terms, copies.

        Raises:
            BudgetExhausted: If the block does not fit into what remains.
            UnmeteredCompute: If it does other work than its label and key were priced for.
        """
        return self._meter.block(label, **key)

    def timed(self, label: str) -> AbstractContextManager[None]:
        """Work on the host in which no network may run, e.g. fitting a surrogate model.

        It costs seconds, which the bill shows under its label, and no FLOPs.
        """
        return self._meter.timed(label)

    @property
    def remaining(self) -> float:
        """RT left in the budget, or in the innermost slice."""
        return self._meter.ledger.remaining

    def slice(self, fraction: float) -> AbstractContextManager[None]:
        """Fences off a fraction of what remains; the block ends quietly when that is used up.

        Raises:
            ValueError: If the fraction is not in (0, 1].
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"slice({fraction}): the fraction must be in (0, 1]")
        return self._meter.ledger.slice(fraction)

    def price(self, label: str, step: Callable[[], object]) -> float:
        """Cost in RT of one call of `step`, measured in a rehearsal that is undone and unbilled.

        Learners and their clones, optimisers, batches, random streams and everything given to
        `keep` are put back afterwards; gradients are dropped.  Rehearsals are free up to 5 % of
        the budget; more is billed.

        Args:
            label: The name under which the price is recorded.
            step: One step of the work to come, its metered blocks included.

        Raises:
            BudgetExhausted: If what rehearsals cost beyond that leaves nothing.
        """
        with self._rehearsal():
            if self._meter.ledger.track == "portable":
                before = self._meter.ledger.flops("rehearsal")
                step()
                flops = self._meter.ledger.flops("rehearsal") - before
                price = flops / self._meter.ledger.reference.flops
            else:
                price = self._seconds(step) / self._meter.ledger.reference.seconds
        self.prices[label] = self._journal.agree(f"price of {label}", price)
        self._meter.ledger.check()
        return self.prices[label]

    def afford(self, price: float, share: float = 1.0) -> int:
        """How many steps of this price (RT) fit into a share of what remains.

        Raises:
            ValueError: If the price is 0: such steps would never end.
        """
        if price <= 0:
            raise ValueError(f"afford({price}): a step without a price fits for ever")
        return math.floor(share * self.remaining / price * (1 + 1e-9))

    def plan(self, **steps: int) -> dict[str, int]:
        """Fixes integer step counts before training, so that every schedule knows its end.

        Args:
            steps: How often each priced label will run.

        Returns:
            The counts to follow: these, or the recorded ones when a run is being replayed.

        Raises:
            PlanError: If a label has no price, or the plan is empty or costs more than what
                remains.
        """
        unpriced = sorted(steps.keys() - self.prices.keys())
        if unpriced:
            raise PlanError(f"plan({unpriced[0]}=...): price it first; {self.prices} are priced")
        if self._replay is not None:
            if len(self.plans) >= len(self._replay):
                raise PlanError("the run makes more plans than the record that it repeats")
            steps = self._replay[len(self.plans)]
        if not any(steps.values()):
            label = next(iter(steps))
            raise PlanError(
                f"{self.remaining:.3g} RT remain, and they pay for nothing: one {label!r} costs "
                f"{self.prices[label]:.3g} RT; allow more budget"
            )
        cost = sum(self.prices[label] * count for label, count in steps.items())
        if self._replay is None and cost > self.remaining * (1 + 1e-6):
            raise PlanError(
                f"the plan {steps} costs {cost:.4g} RT and only {self.remaining:.4g} RT remain"
            )
        self.plans.append(self._journal.agree("plan", steps))
        return dict(self.plans[-1])

    # What happened

    def validate(self, learner: Learner) -> Metrics:
        """Metrics on the clean validation images, billed."""
        return evaluate(learner, self.task.val, self._meter, "validate")

    def progress(self, learner: Learner, fraction: float) -> None:
        """Says which share of the plan is done; the harness may evaluate the learner here.

        Call it after every step, or at least at every quarter.  A rehearsal reaches no milestone.
        """
        repeated = self._checkpoints.saved is not None  # seen by the process that was killed
        if self._observe is not None and self._meter.ledger.account == "run" and not repeated:
            self._observe(learner, fraction)

    def tally(self, **counts: int) -> None:
        """Adds to the record's totals: steps, images_seen, policy_updates or names of your own."""
        for name, count in counts.items():
            self.tallies[name] = self.tallies.get(name, 0) + count

    def log(self, **values: Any) -> None:
        """Appends to the trace: numbers, lists, or tensors (left on the device until the end)."""
        self.trace.append(self.tallies["steps"], values)

    def event(self, **values: Any) -> None:
        """Appends to the trace as `log` does, for series that no mean can stand for.

        The record keeps all of their points, e.g. the parameters and the error of every trial;
        long curves of `log` are thinned.
        """
        self.trace.append(self.tallies["steps"], values, whole=True)

    def _seconds(self, step: Callable[[], object]) -> float:
        """Mean device-seconds of a step after warm-up, over as many as a small share pays for."""
        ledger = self._meter.ledger
        clock, allowed = ledger.clock, TIMED_SHARE * ledger.budget * ledger.reference.seconds
        _, warm = clock.repeat(step, WARM_UP_STEPS, allowed)
        times, seconds = clock.repeat(step, TIMED_STEPS, allowed - warm)
        return seconds / times
