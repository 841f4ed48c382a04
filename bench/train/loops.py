"""Training loops that methods share.

`fit` is the whole of a method whose policy is fixed: rehearse one step, plan how many fit into the
budget, train with a cosine that ends there.
"""

from collections.abc import Iterator
from typing import Literal

import torch

from bench.augment.policy import Batch, Policy
from bench.data.arrays import Arrays
from bench.train.learner import Learner
from bench.train.losses import Loss, cross_entropy
from bench.train.session import Session


def augment(
    session: Session, policy: Policy, batch: Batch, rng: torch.Generator | None = None
) -> Batch:
    """Draws from a policy (stream `policy` by default) and applies it to a batch, metered."""
    draw = policy.sample(batch.index, rng or session.rng("policy"))
    with session.metered("augment"):
        return policy.apply(batch, draw)


def training_step(
    session: Session,
    learner: Learner,
    policy: Policy,
    batches: Iterator[Batch],
    progress: float,
    loss: Loss = cross_entropy,
    rng: torch.Generator | None = None,
) -> torch.Tensor:
    """One optimiser step on one augmented batch.

    Args:
        session: Meters it.
        learner: Is trained.
        policy: Augments.
        batches: Gives the images.
        progress: Step / planned steps, for the learning rate.
        loss: What is minimised.
        rng: What the policy draws from, for trials; the stream `policy` by default, which pairs
            with other methods'.

    Returns:
        The batch's mean loss, detached, on the device.
    """
    batch = augment(session, policy, next(batches), rng)
    with session.metered("train"):
        value = loss(learner, batch)
        learner.descend(value, progress)
    session.tally(steps=1, images_seen=len(batch))
    return value.detach()


def fit(
    session: Session,
    learner: Learner,
    policy: Policy,
    steps: int | None = None,
    milestones: bool = True,
    loss: Loss = cross_entropy,
    data: Literal["train", "val"] | Arrays = "train",
) -> int:
    """Trains a learner under a fixed policy with the task's recipe.

    Args:
        session: Meters it.
        learner: Is trained.
        policy: Augments every batch; it contains the standard augmentation if that is wanted.
        steps: Optimiser steps; as many as fit into what remains by default, and at most.
        milestones: Whether these are the run's own weights, for the anytime curve, rather than a
            trial's.
        loss: What is minimised, e.g. `consistency()` with a policy that gives views.
        data: What it trains on, as for `Session.batches`; the policy gets rows of this.

    Returns:
        The number of steps planned.
    """
    batches = session.batches(data)

    def one(progress: float) -> torch.Tensor:
        return training_step(session, learner, policy, batches, progress, loss)

    price = session.price("train", lambda: one(0.0))
    affordable = session.afford(price)
    wanted = affordable if steps is None else min(steps, affordable)
    planned = session.plan(train=wanted)["train"]
    with session.slice(1.0):
        for step in session.steps(planned):
            session.log(train_loss=one(step / planned))
            if milestones:
                session.progress(learner, (step + 1) / planned)
    return planned
