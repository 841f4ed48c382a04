"""Training loops that methods share.

`fit` is the whole of a method whose policy is fixed: rehearse one step, plan how many fit into the
budget, train with a cosine that ends there.
"""

from collections.abc import Iterator

import torch

from bench.augment.policy import Batch, Policy
from bench.train.learner import Learner
from bench.train.session import Session


def augment(
    session: Session, policy: Policy, batch: Batch, rng: torch.Generator | None = None
) -> Batch:
    """Draws from a policy (stream `policy` by default) and applies it to a batch, metered."""
    draw = policy.sample(batch.index, rng or session.rng("policy"))
    with session.metered("augment"):
        return policy.apply(batch, draw)


def training_step(
    session: Session, learner: Learner, policy: Policy, batches: Iterator[Batch], progress: float
) -> torch.Tensor:
    """One optimiser step on one augmented batch.

    Args:
        session: Meters it.
        learner: Is trained.
        policy: Augments.
        batches: Gives the images.
        progress: Step / planned steps, for the learning rate.

    Returns:
        The batch's mean loss, detached, on the device.
    """
    batch = augment(session, policy, next(batches))
    with session.metered("train"):
        loss = learner.loss(batch.images, batch.targets)
        learner.descend(loss, progress)
    session.tally(steps=1, images_seen=len(batch))
    return loss.detach()


def fit(
    session: Session,
    learner: Learner,
    policy: Policy,
    steps: int | None = None,
    milestones: bool = True,
) -> int:
    """Trains a learner under a fixed policy with the task's recipe.

    Args:
        session: Meters it.
        learner: Is trained.
        policy: Augments every batch; it contains the standard augmentation if that is wanted.
        steps: Optimiser steps; as many as fit into what remains by default, and at most.
        milestones: Whether these are the run's own weights, for the anytime curve, rather than a
            trial's.

    Returns:
        The number of steps planned.
    """
    batches = session.batches("train")
    price = session.price("train", lambda: training_step(session, learner, policy, batches, 0.0))
    affordable = session.afford(price)
    wanted = affordable if steps is None else min(steps, affordable)
    planned = session.plan(train=wanted)["train"]
    with session.slice(1.0):
        for step in range(planned):
            loss = training_step(session, learner, policy, batches, step / planned)
            session.log(train_loss=loss)
            if milestones:
                session.progress(learner, (step + 1) / planned)
    return planned
