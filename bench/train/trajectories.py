"""N copies of a learner that train side by side on the same images, augmented differently.

    copies = trajectories(session, learner, 8, stacked=True)
    losses = copies.step(images, targets, progress)       # images (8, B, C, H, W)
    copies.broadcast(int(copies.accuracies(task.val).argmax()))

`Stacked` is one program over weights with a leading axis N: few large kernels instead of N times
as many small ones, which a GPU wants.  `Sequential` is N learners, one after the other, which a
CPU runs faster.  They compute the same up to rounding, in single precision; in half precision
BatchNorm gives single precision under `vmap`, and dropout differs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.func import functional_call

from bench.data.arrays import Arrays
from bench.errors import ConfigError
from bench.train.evaluate import CHUNK
from bench.train.learner import Learner, evaluating
from bench.train.session import Session

Tensor = torch.Tensor


class Trajectories(ABC):
    """N copies of a learner; after a broadcast they are equal.

    Args:
        session: Meters them.
        learner: The first copy, or the one that the first copy is put back into.
        copies: N.
        momentum: What copies get of the winner's momentum at a broadcast: `winner` all of it,
            `own` nothing, they keep their own, `zero` sets all to zero.
    """

    def __init__(
        self, session: Session, learner: Learner, copies: int, momentum: str = "winner"
    ) -> None:
        self.session, self.learner, self.copies, self.momentum = session, learner, copies, momentum

    @abstractmethod
    def step(self, images: Tensor, targets: Tensor, progress: float) -> Tensor:
        """One optimiser step of each copy.

        Args:
            images: (N, B, C, H, W) uint8.
            targets: (B,) classes, the same for all.
            progress: Step / planned steps.

        Returns:
            Mean losses (N,), on the device.
        """

    @abstractmethod
    def accuracies(self, arrays: Arrays) -> Tensor:
        """The share of right predictions of each copy, (N,) float64 on the device, metered."""

    @abstractmethod
    def broadcast(self, best: int) -> None:
        """Makes all copies equal to one: weights, BatchNorm statistics, and see `momentum`."""

    @abstractmethod
    def recalibrated(self, batches: list[Tensor]) -> AbstractContextManager[None]:
        """A block in which the copies have BatchNorm statistics of other images.

        Args:
            batches: Images (B, C, H, W) uint8 each; each batch counts the same.
        """


class Sequential(Trajectories):
    """N learners, one after the other."""

    def __init__(
        self, session: Session, learner: Learner, copies: int, momentum: str = "winner"
    ) -> None:
        super().__init__(session, learner, copies, momentum)
        self.learners = [learner, *(learner.clone() for _ in range(copies - 1))]

    def step(self, images: Tensor, targets: Tensor, progress: float) -> Tensor:
        """N ordinary steps."""
        losses = []
        for learner, own in zip(self.learners, images, strict=True):
            with self.session.metered("train"):
                loss = learner.loss(own, targets)
                learner.descend(loss, progress)
            losses.append(loss.detach())
        return torch.stack(losses)

    @torch.no_grad()
    def accuracies(self, arrays: Arrays) -> Tensor:
        """N ordinary evaluations."""
        return torch.stack([self._accuracy(learner, arrays) for learner in self.learners])

    def _accuracy(self, learner: Learner, arrays: Arrays) -> Tensor:
        right = torch.zeros((), dtype=torch.float64, device=arrays.labels.device)
        with evaluating(learner.network):
            for index in torch.arange(len(arrays)).split(CHUNK):
                images, labels = arrays.take(index)
                with self.session.metered("validate"):
                    right += (learner(images).argmax(1) == labels).sum()
        return right / len(arrays)

    def broadcast(self, best: int) -> None:
        """Loads the winner's state into the others."""
        winner = self.learners[best]
        for learner in self.learners:
            own = [dict(s) for s in learner.optimiser.state.values()]
            if learner is not winner:
                learner.load_state_dict(winner.state_dict())
            for state, before in zip(learner.optimiser.state.values(), own, strict=False):
                if self.momentum == "own":
                    state.update(before)
                elif self.momentum == "zero" and state.get("momentum_buffer") is not None:
                    state["momentum_buffer"].zero_()

    @contextmanager
    def recalibrated(self, batches: list[Tensor]) -> Iterator[None]:
        """New statistics for each learner; the old ones come back."""
        before = [
            {name: value.clone() for name, value in learner.network.named_buffers()}
            for learner in self.learners
        ]
        try:
            for learner in self.learners:
                for number, images in enumerate(batches):
                    block = self.session.metered("recalibrate")
                    # Eager: every momentum would be compiled anew.
                    slow = _momentum(learner, 1 / (number + 1))
                    with slow, learner.eager(), torch.no_grad(), block:
                        learner(images)
            yield
        finally:
            for learner, values in zip(self.learners, before, strict=True):
                for name, value in learner.network.named_buffers():
                    value.copy_(values[name])


class Stacked(Trajectories):
    """One program over stacked weights."""

    def __init__(
        self, session: Session, learner: Learner, copies: int, momentum: str = "winner"
    ) -> None:
        super().__init__(session, learner, copies, momentum)
        network = learner.network
        if any(getattr(m, "momentum", 0) is None for m in network.modules()):
            raise ConfigError(
                "BatchNorm with cumulative statistics (momentum=None) cannot be stacked: use "
                "stacked=false"
            )
        self.weights = {
            name: _stack(p, copies).requires_grad_() for name, p in network.named_parameters()
        }
        self.buffers = {name: _stack(b, copies) for name, b in network.named_buffers()}
        self.optimiser = learner.recipe.optimiser(self.weights.values())
        session.keep(weights=self.weights, buffers=self.buffers, optimiser=self.optimiser)

    def step(self, images: Tensor, targets: Tensor, progress: float) -> Tensor:
        """One forward and backward pass of all copies."""
        learner = self.learner
        with self.session.metered("train", copies=self.copies):
            logits = self._logits(images, train=True)
            losses = F.cross_entropy(
                logits.flatten(0, 1), targets.repeat(self.copies), reduction="none"
            )
            losses = losses.view(self.copies, -1).mean(1)
            losses.sum().backward()
        for group in self.optimiser.param_groups:
            group["lr"] = learner.recipe.rate(progress)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        return losses.detach()

    @torch.no_grad()
    def accuracies(self, arrays: Arrays) -> Tensor:
        """All copies see each chunk together."""
        right = torch.zeros(self.copies, dtype=torch.float64, device=arrays.labels.device)
        with evaluating(self.learner.network):
            # As many activations at a time as one copy has.
            for index in torch.arange(len(arrays)).split(max(1, CHUNK // self.copies)):
                images, labels = arrays.take(index)
                with self.session.metered("validate", copies=self.copies, size=len(index)):
                    right += (self._logits(images).argmax(2) == labels).sum(1)
        return right / len(arrays)

    @torch.no_grad()
    def broadcast(self, best: int) -> None:
        """Copies the winner along the leading axis, and into the learner."""
        for value in (*self.weights.values(), *self.buffers.values()):
            value.copy_(value[best].clone().expand_as(value))
        for state in self.optimiser.state.values():
            buffer = state.get("momentum_buffer")
            if buffer is None:
                continue
            if self.momentum == "winner":
                buffer.copy_(buffer[best].clone().expand_as(buffer))
            elif self.momentum == "zero":
                buffer.zero_()
        network = self.learner.network
        own = dict(network.named_parameters()) | dict(network.named_buffers())
        for name, value in (self.weights | self.buffers).items():
            own[name].copy_(value[best])

    @contextmanager
    def recalibrated(self, batches: list[Tensor]) -> Iterator[None]:
        """New statistics for all copies together; the old ones come back."""
        before = {name: value.clone() for name, value in self.buffers.items()}
        try:
            for number, images in enumerate(batches):
                block = self.session.metered("recalibrate", copies=self.copies)
                with _momentum(self.learner, 1 / (number + 1)), torch.no_grad(), block:
                    self._logits(images, train=True)
            yield
        finally:
            for name, value in self.buffers.items():
                value.copy_(before[name])

    def _logits(self, images: Tensor, train: bool = False) -> Tensor:
        """(N, B, classes) of own images (N, B, C, H, W) or shared ones (B, C, H, W)."""
        learner = self.learner

        def call(weights: dict[str, Tensor], buffers: dict[str, Tensor], pixels: Tensor) -> Any:
            # Cloned: BatchNorm updates its statistics in place.
            buffers = {name: value.clone() for name, value in buffers.items()}
            logits = functional_call(learner.network, (weights, buffers), (pixels,))
            return logits.float(), buffers

        pixels = learner.task.normalise(images)
        own = 0 if images.ndim == 5 else None
        with learner.precision():
            mapped = torch.vmap(call, in_dims=(0, 0, own), randomness="different")
            logits, buffers = mapped(self.weights, self.buffers, pixels)
        if train:
            with torch.no_grad():
                for name, value in self.buffers.items():
                    value.copy_(buffers[name])
        return logits  # type: ignore[no-any-return]


def trajectories(
    session: Session, learner: Learner, copies: int, stacked: bool, momentum: str = "winner"
) -> Trajectories:
    """N copies of a learner, as one program or one after the other."""
    kind = Stacked if stacked else Sequential
    return kind(session, learner, copies, momentum)


def _stack(value: Tensor, copies: int) -> Tensor:
    return value.detach().expand(copies, *value.shape).clone()


@contextmanager
def _momentum(learner: Learner, momentum: float) -> Iterator[None]:
    """Another weight of the newest batch in all running statistics of BatchNorm."""
    norms = [m for m in learner.network.modules() if getattr(m, "running_mean", None) is not None]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = momentum  # type: ignore[assignment]
    try:
        yield
    finally:
        for norm, value in zip(norms, before, strict=True):
            norm.momentum = value
