"""The bill against one counter around the whole run, for every kind of work the methods do."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

from bench.augment.policy import Batch, Identity
from bench.check import Trial
from bench.method import Fitted, Method
from bench.train.learner import Learner
from bench.train.losses import consistency
from bench.train.session import Session
from bench.train.task import standard

Step = Callable[[Session, Learner, Batch], None]


def loss_of(learner: Learner, batch: Batch, values: object) -> torch.Tensor:
    images = learner.task.normalise(batch.images)
    return F.cross_entropy(functional_call(learner.network, values, (images,)), batch.targets)


def plain(session: Session, learner: Learner, batch: Batch) -> None:
    with session.metered("train"):
        learner.descend(learner.loss(batch.images, batch.targets), 0.5)


def hessian_vector(session: Session, learner: Learner, batch: Batch) -> None:
    parameters = list(learner.network.parameters())
    with session.metered("hvp"):
        loss = learner.loss(batch.images, batch.targets)
        gradients = torch.autograd.grad(loss, parameters, create_graph=True)
        product = sum((g * g.detach()).sum() for g in gradients)
        torch.autograd.grad(product, parameters)


def forward_over_reverse(session: Session, learner: Learner, batch: Batch) -> None:
    values = {n: v.detach().clone() for n, v in learner.network.named_parameters()}
    tangents = {name: torch.ones_like(value) for name, value in values.items()}
    learner.network.eval()
    with session.metered("jvp", columns=1):
        jvp(
            grad(lambda v: loss_of(learner, batch, v)),
            (values,),
            (tangents,),
        )
    learner.network.train()


def stacked(session: Session, learner: Learner, batch: Batch) -> None:
    networks = [learner.clone().network for _ in range(3)]
    parameters, buffers = stack_module_state(networks)

    def one(values: object, state: dict[str, torch.Tensor]) -> torch.Tensor:
        own = {name: value.clone() for name, value in state.items()}
        return loss_of(learner, batch, (values, own))

    with session.metered("stacked", copies=3):
        vmap(grad(one), in_dims=(0, 0))(parameters, buffers)


def head_only(session: Session, learner: Learner, batch: Batch) -> None:
    """Work that passes no guarded module: a product with plain matrices, repeated."""
    features = torch.ones(32, 64)
    with session.metered("neumann", terms=5):
        for _ in range(5):
            features = features @ torch.ones(64, 64) / 64


def with_views(session: Session, learner: Learner, batch: Batch) -> None:
    """AugMix's step: a view more or less would be another price, so the key says how many."""
    both = replace(batch, views=(batch.images.float(), batch.images.flip(-1).float()))
    with session.metered("views", views=2):
        learner.descend(consistency()(learner, both), 0.5)


def method_of(steps: list[Step], repeats: int = 12) -> type[Method]:
    class Loop(Method):
        name = "loop"

        def run(self, session: Session) -> Fitted:
            learner, batches = session.learner(), session.batches("train")
            self.turn(session, learner, batches)
            return Fitted(learner, standard(session.task))

        def turn(self, session: Session, learner: Learner, batches: Iterator[Batch]) -> None:
            for step in steps:
                session.price(
                    step.__name__, lambda step=step: step(session, learner, next(batches))
                )
            session.plan(**{step.__name__: repeats for step in steps})
            with session.slice(1.0):
                for i in range(repeats):
                    for step in steps:
                        step(session, learner, next(batches))
                    if i % 4 == 0:
                        session.validate(learner)
                    session.progress(learner, (i + 1) / repeats)

    return Loop


@pytest.mark.parametrize(
    "step",
    [plain, hessian_vector, forward_over_reverse, stacked, head_only, with_views],
    ids=lambda s: s.__name__,
)
def test_bill_equals_count(run_small: Callable[..., Trial], step: Step) -> None:
    trial = run_small(method_of([step]), budget=30.0)
    assert trial.counted > 0
    assert trial.bill_error == 0


def test_mixed_work_and_rehearsals_add_up(run_small: Callable[..., Trial]) -> None:
    trial = run_small(method_of([plain, hessian_vector, stacked]), budget=30.0)
    ledger = trial.stage.meter.ledger
    assert trial.bill_error == 0
    assert ledger.flops("rehearsal") > 0
    assert ledger.flops("harness") > 0
    labels = {label for label, _, _ in ledger.items("run")}
    assert labels == {"train", "hvp", "stacked", "validate"}


@pytest.mark.slow
def test_compiled_steps_are_billed(run_small: Callable[..., Trial]) -> None:
    trial = run_small(method_of([plain]), budget=30.0, compiled=True)
    assert trial.bill_error <= 0.01


def test_uncounted_work_shows(run_small: Callable[..., Trial]) -> None:
    """The comparison can fail: work outside any block is counted and not billed."""

    class Freeloader(Method):
        name = "freeloader"

        def run(self, session: Session) -> Fitted:
            learner = session.learner()
            plain(session, learner, next(session.batches("train")))
            torch.ones(512, 512) @ torch.ones(512, 512)
            return Fitted(learner, Identity())

    assert run_small(Freeloader).bill_error > 0.01
