"""Ways around the meter, and how each is caught."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.augment.policy import Batch, Identity
from bench.check import Trial, conformance, other_truth, small_config, trial
from bench.errors import BudgetExhausted, LedgerTampered, PlanError, UnmeteredCompute
from bench.method import Fitted, Method
from bench.plugins import Plugin
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
    assert honest.outcome != trial(chosen, other_truth(small), config).outcome


def test_training_at_the_harness_expense_is_noticed(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        with session._meter.harness(), session.metered("milestone"):
            learner.descend(learner.loss(batch.images, batch.targets), 0.0)

    findings = {f.rule: f.ok for f in conformance("cheat", plugins_of(method_of(body)))}
    assert findings == {
        "determinism": True, "bill": True, "harness account": False, "budget": True,
        "data wall": True, "RNG hygiene": True, "resume": True, "clean labels": True,
    }  # fmt: skip


def test_reading_the_true_labels_breaks_the_data_wall() -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        flipped = session._observe._prepared.distorted.flipped
        with torch.no_grad():
            learner.network.head.bias += flipped.float().mul(torch.arange(len(flipped))).mean()

    findings = {f.rule: f.ok for f in conformance("cheat", plugins_of(method_of(body)))}
    assert not findings["data wall"]
    assert findings["determinism"]


def test_training_on_undeclared_clean_labels_is_noticed() -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        clean = next(session.batches("val"))
        with session.metered("train"):
            learner.descend(learner.loss(clean.images, clean.targets), 0.0)

    findings = {f.rule: f.ok for f in conformance("cheat", plugins_of(method_of(body)))}
    assert not findings["clean labels"]
    assert findings["data wall"]


def test_a_first_block_that_overdraws_ends_the_slice(run_small: Callable[..., Trial]) -> None:
    reached = []

    def body(session: Session, learner: Learner, batch: Batch) -> None:
        with session.slice(0.5):
            with session.metered("huge"):
                for _ in range(40):
                    learner.loss(batch.images, batch.targets).backward()
            reached.append("after")

    ledger = run_small(method_of(body), budget=0.5).stage.meter.ledger
    assert reached == []
    assert ledger.spent > 0.5  # recorded, and flagged by the runner


def test_a_rehearsal_beyond_the_budget_ends_the_run(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        def trial_training() -> None:
            for _ in range(100):
                with session.metered("train"):
                    learner.descend(learner.loss(batch.images, batch.targets), 0.0)

        session.price("trial", trial_training)

    with pytest.raises(BudgetExhausted):
        run_small(method_of(body), budget=0.5)


@pytest.mark.parametrize("known", [True, False])
def test_work_before_the_network_is_priced_or_refused(
    run_small: Callable[..., Trial], known: bool
) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for rows in (8, 4, 8, 4):
            key = {"rows": rows} if known else {}
            with session.metered("head", **key):
                torch.ones(256, 256) @ torch.ones(256, 256)
                learner(batch.images[:rows])

    if known:
        assert run_small(method_of(body)).bill_error == 0
        return
    with pytest.raises(UnmeteredCompute, match="before it calls a network"):
        run_small(method_of(body))


def test_a_ragged_batch_is_priced_exactly(run_small: Callable[..., Trial]) -> None:
    def body(session: Session, learner: Learner, batch: Batch) -> None:
        for rows in (8, 8, 3, 8, 3):
            with session.metered("eval"):
                learner(batch.images[:rows])

    assert run_small(method_of(body)).bill_error == 0


def plugins_of(method: type[Method]) -> dict[str, Plugin]:
    return {"cheat": Plugin(method, Path(__file__), "test")}
