"""Ways around the meter, and how each is caught."""

from collections.abc import Callable

import pytest
import torch

from bench.augment.policy import Batch, Identity
from bench.check import Trial, other_test_set, small_config, trial
from bench.errors import BudgetExhausted, LedgerTampered, PlanError, UnmeteredCompute
from bench.method import Fitted, Method
from bench.stage import run_method
from bench.train.learner import Learner
from bench.train.prepare import Prepared
from bench.train.session import Session
from tests.contract.conftest import selected

Body = Callable[[Session, Learner, Batch], object]


def method_of(body: Body) -> type[Method]:
    class Cheat(Method):
        name = "cheat"

        def run(self, session: Session) -> Fitted:
            learner = session.learner()
            body(session, learner, next(session.batches("train")))
            return Fitted(learner, Identity())

    return Cheat


def pixels(learner: Learner, batch: Batch) -> torch.Tensor:
    return learner.task.normalise(batch.images)


OUTSIDE: dict[str, Body] = {
    "learner": lambda _, net, b: net(b.images),
    "network": lambda _, net, b: net.network(pixels(net, b)),
    "forward": lambda _, net, b: net.network.forward(pixels(net, b)),
    "first layer": lambda _, net, b: net.network.conv1(pixels(net, b)),
    "clone": lambda _, net, b: net.clone().network(pixels(net, b)),
    "functional": lambda _, net, b: torch.func.functional_call(
        net.network, dict(net.network.named_parameters()), (pixels(net, b),)
    ),
    "vmap": lambda _, net, b: torch.vmap(lambda x: net.network.conv1(x[None]))(pixels(net, b)),
}


@pytest.mark.parametrize("body", OUTSIDE.values(), ids=OUTSIDE.keys())
def test_a_forward_outside_a_block_raises(run_small: Callable[..., Trial], body: Body) -> None:
    with pytest.raises(UnmeteredCompute, match="outside"):
        run_small(method_of(body))


@pytest.mark.slow
def test_a_compiled_forward_outside_a_block_raises(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        compiled = torch.compile(learner.network)
        with session.metered("train"):
            compiled(pixels(learner, batch))
        with session.metered("train"):  # another block: nothing to recompile
            compiled(pixels(learner, batch))
        compiled(pixels(learner, batch))

    with pytest.raises(UnmeteredCompute, match="outside"):
        run_small(method_of(body), compiled=True)


def test_a_backward_outside_a_block_shows_in_the_count(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for _ in range(4):
            with session.metered("train"):
                loss = learner.loss(batch.images, batch.targets)
            loss.backward()

    assert run_small(method_of(body)).bill_error > 0.3


def test_blocks_do_not_nest(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        with session.metered("a"), session.metered("b"):
            learner(batch.images)

    with pytest.raises(UnmeteredCompute, match="inside another"):
        run_small(method_of(body))


def test_a_key_that_hides_more_forward_passes_raises(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for passes in (1, 3):
            with session.metered("train"):
                for _ in range(passes):
                    learner(batch.images)

    with pytest.raises(UnmeteredCompute, match="other forward passes"):
        run_small(method_of(body))


def test_a_key_that_hides_more_backward_work_is_audited(small: Prepared) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for step in range(200):
            with session.metered("train"):
                loss = learner.loss(batch.images[:4], batch.targets[:4])
                for _ in range(1 if step < 3 else 3):
                    loss.backward(retain_graph=True)

    chosen = selected(method_of(body))
    config = small_config(chosen, budget=50.0)
    with pytest.raises(UnmeteredCompute, match="was priced at"):
        run_method(chosen.make(), small, config, audit_rate=0.1)


def test_an_honest_key_passes_the_audit(small: Prepared) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for step in range(60):
            passes = 1 + step % 3
            with session.metered("train", passes=passes):
                loss = learner.loss(batch.images[:4], batch.targets[:4])
                for _ in range(passes):
                    loss.backward(retain_graph=True)

    chosen = selected(method_of(body))
    run_method(chosen.make(), small, small_config(chosen, budget=50.0), audit_rate=0.3)


def test_leaving_a_block_by_an_error_pays_in_full(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for _ in range(6):
            try:
                with session.metered("train"):
                    learner.loss(batch.images, batch.targets).backward()
                    raise ValueError("on purpose")
            except ValueError:
                continue

    assert run_small(method_of(body)).bill_error == 0


def test_a_mutated_ledger_is_caught(small: Prepared) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for _ in range(5):
            with session.metered("train"):
                learner.loss(batch.images, batch.targets).backward()
            session._meter.ledger._totals["run"] = 0

    chosen = selected(method_of(body))
    with pytest.raises(LedgerTampered):
        run_method(chosen.make(), small, small_config(chosen))


def test_the_budget_cannot_be_overdrawn(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        with session.slice(1.0):
            while True:
                with session.metered("train"):
                    learner.descend(learner.loss(batch.images, batch.targets), 0.0)

    ledger = run_small(method_of(body), budget=0.5).stage.meter.ledger
    assert 0.49 < ledger.spent <= 0.5


def test_a_plan_beyond_the_budget_is_refused(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        def step() -> None:
            with session.metered("train"):
                learner.loss(batch.images, batch.targets).backward()

        session.price("train", step)
        session.plan(train=10**6)

    with pytest.raises(PlanError, match="remain"):
        run_small(method_of(body))


def test_sleeping_past_a_seconds_budget_ends_the_run_and_is_flagged(small: Prepared) -> None:
    now = [0.0]

    def tick() -> float:
        now[0] += 0.001  # every look at the clock takes a millisecond
        return now[0]

    def body(session: Session, learner: Learner, batch: Batch) -> None:
        with session.metered("train"):
            learner(batch.images)
        now[0] += 1000.0
        with pytest.raises(BudgetExhausted), session.metered("train"):
            learner(batch.images)

    chosen = selected(method_of(body))
    config = small_config(chosen).model_copy(update={"track": "gpu"})
    outcome = run_method(chosen.make(), small, config, now=tick)
    ledger = outcome.meter.ledger
    assert ledger.spent > 1.05 * ledger.budget


def test_a_method_that_reads_the_test_set_fails_the_canary(small: Prepared) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        observer = session._observe
        shift = observer._prepared.test.labels.double().mul(torch.arange(359)).sum() % 97
        with torch.no_grad():
            learner.network.head.bias += shift.float()

    chosen = selected(method_of(body))
    config = small_config(chosen)
    honest = trial(chosen, small, config)
    assert honest.outcome == trial(chosen, small, config).outcome
    assert honest.outcome != trial(chosen, other_test_set(small), config).outcome
