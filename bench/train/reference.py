"""1 RT: the recipe with standard augmentation, run for its full length, as metered here."""

import time

from bench.train.clock import Clock, Time
from bench.train.ledger import Ledger, ReferencePrice
from bench.train.loops import training_step
from bench.train.meter import Meter
from bench.train.session import WARM_UP_STEPS, Session
from bench.train.task import Task, standard


def reference_price(
    task: Task, *, timed_steps: int, compiled: bool = False, now: Time = time.perf_counter
) -> ReferencePrice:
    """Counts one step of the reference training, times some, and multiplies by the recipe's steps.

    The recipe's steps all do the same work on equal shapes, so the count is exact.

    Args:
        task: Whose recipe.
        timed_steps: How many steps to time after warm-up.
        compiled: Whether the learner is compiled, as in the run.
        now: Source of time in seconds, for tests.
    """
    clock = Clock(task.device, now)
    ledger = Ledger(float("inf"), ReferencePrice(1, 1.0), "portable", clock)
    session = Session(
        task,
        Meter(ledger, task.device, audit_rate=0.0, compiled=compiled),
        seed=0,
        compiled=compiled,
    )
    learner, policy, batches = session.learner(), standard(task), session.batches("train")

    training_step(session, learner, policy, batches, 0.0)
    flops = ledger.flops("run")
    for _ in range(WARM_UP_STEPS):
        training_step(session, learner, policy, batches, 0.0)
    clock.synchronise()
    began = clock.now()
    for _ in range(timed_steps):
        training_step(session, learner, policy, batches, 0.0)
    clock.synchronise()
    seconds = (clock.now() - began) / timed_steps
    return ReferencePrice(flops * task.recipe.steps, seconds * task.recipe.steps)
