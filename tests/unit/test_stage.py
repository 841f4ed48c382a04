"""The stage: milestones off the clock, final scores, flags, and reproducible bits."""

from pathlib import Path

import pytest
import torch

from bench.augment.policy import Identity
from bench.check import small_config
from bench.config import RunConfig
from bench.errors import Diverged
from bench.method import Fitted, Method
from bench.plugins import discover, select
from bench.record import Record
from bench.runner import DataOptions, Made, _bill, execute
from bench.stage import MILESTONES, Outcome, run_method
from bench.train.loops import fit
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import standard
from tests.contract.conftest import selected

BASELINES = Path(__file__).parents[2] / "baselines"


class FakeTime:
    """Moves by a fixed step whenever somebody looks at it."""

    def __init__(self, step: float) -> None:
        self.value, self.step = 0.0, step

    def __call__(self) -> float:
        self.value += self.step
        return self.value


class Filled(Method):
    """The standard augmentation for the whole budget."""

    name = "filled"

    def run(self, session: Session) -> Fitted:
        learner = session.learner()
        fit(session, learner, standard(session.task))
        return Fitted(learner, standard(session.task), ("nothing to report",))


def config_of(method: type[Method], **changes: object) -> RunConfig:
    return small_config(selected(method)).model_copy(update=changes)


@pytest.fixture(scope="module")
def outcome(small: Prepared) -> Outcome:
    return run_method(Filled(), small, config_of(Filled))


def test_the_curve_has_four_points_and_ends_at_the_final_scores(outcome: Outcome) -> None:
    assert tuple(point.fraction for point in outcome.curve) == MILESTONES
    spent = [point.spent for point in outcome.curve]
    assert spent == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert outcome.curve[-1].test_error == outcome.test.error
    assert outcome.curve[-1].val_error == outcome.val.error
    assert outcome.curve[0].test_error != outcome.curve[-1].test_error


def test_the_harness_evaluates_at_its_own_expense(outcome: Outcome) -> None:
    ledger = outcome.meter.ledger
    assert ledger.flops("harness") > 0
    assert ledger.spent == pytest.approx(2.0)
    assert {label for label, _, _ in ledger.items("harness")} == {"milestone", "test"}


def test_memorised_is_the_share_of_wrong_labels_that_were_learnt(small: Prepared) -> None:
    class Parrot(Method):
        """Predicts class 3 whatever it sees."""

        name = "parrot"

        def run(self, session: Session) -> Fitted:
            learner = session.learner()
            with torch.no_grad():
                learner.network.head.bias.copy_(100.0 * (torch.arange(10) == 3))
            return Fitted(learner, Identity())

    result = run_method(Parrot(), small, config_of(Parrot))
    noisy = small.distorted.labels[small.distorted.flipped]
    assert result.memorised == pytest.approx((noisy == 3).double().mean().item())
    share = (small.task.train.labels == 3).double().mean().item()
    assert result.train_error == pytest.approx(1 - share)
    assert result.test.worst_error == 1.0


def test_weights_that_are_not_finite_are_a_failure(small: Prepared) -> None:
    class Broken(Method):
        name = "broken"

        def run(self, session: Session) -> Fitted:
            learner = session.learner()
            with torch.no_grad():
                learner.network.head.weight[0, 0] = float("inf")
            return Fitted(learner, Identity())

    with pytest.raises(Diverged):
        run_method(Broken(), small, config_of(Broken))


@pytest.mark.parametrize(
    ("nap", "flags"), [(0.0, []), (0.03, ["overrun>2%"]), (0.2, ["overrun>5%"])]
)
def test_overruns_of_a_seconds_budget_are_flagged(
    small: Prepared, nap: float, flags: list[str]
) -> None:
    time = FakeTime(1e-9)

    class Sleeper(Method):
        """Uses the whole budget and then some, outside any block."""

        name = "sleeper"

        def run(self, session: Session) -> Fitted:
            ledger = session._meter.ledger
            time.value += (1.0 + nap) * ledger.budget * ledger.reference.seconds * 0.999
            return Fitted(session.learner(), Identity())

    config = config_of(Sleeper, track="gpu")
    result = run_method(Sleeper(), small, config, now=time)
    bill = _bill(result, config)
    assert bill.flags == flags
    assert bill.seconds_share == pytest.approx(1 + nap, abs=0.01)
    assert bill.rt_seconds_after is not None


def test_the_seconds_track_fills_its_budget(small: Prepared) -> None:
    result = run_method(Filled(), small, config_of(Filled, track="gpu"), now=FakeTime(1e-3))
    ledger = result.meter.ledger
    assert 0.9 < ledger.spent / ledger.budget <= 1.02
    items = sum(item.seconds for _, _, item in ledger.items("run"))
    assert 0 < items <= ledger.billed_seconds


def record(spec: str, seed: int) -> Record:
    chosen = select(discover([BASELINES]), spec)
    config = small_config(chosen, budget=0.5).model_copy(update={"seed": seed})
    result = execute(config, chosen, DataOptions())
    assert isinstance(result, Made)
    return result.record


def test_equal_configurations_give_equal_bits_whatever_ran_before() -> None:
    first = record("standard", 0)
    torch.manual_seed(99)
    torch.rand(5)
    other = record("cutout", 1)
    again = record("standard", 0)
    parts = ("hash", "scores", "val_scores", "weights", "curve", "trace", "plan", "policy", "task")
    for part in parts:
        assert getattr(first, part) == getattr(again, part), part
    assert other.weights != first.weights


def test_a_record_tells_what_was_done() -> None:
    found = record("cutout[length=filled]", 2)
    assert found.status == "ok"
    assert found.task is not None
    assert sum(found.task.train_counts) == found.task.sizes["train"]
    assert found.task.rare == [False] * 5 + [True] * 5
    assert 0.05 < found.task.flipped_total < 0.13
    assert found.plan == [{"train": 30}]
    assert (found.steps, found.images_seen) == (30, 960)
    assert found.policy is not None
    assert [part["policy"] for part in found.policy["of"]] == ["crop-flip", "cutout"]
    assert len(found.trace["train_loss"]["value"]) == 30
    assert found.environment["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert found.bill is not None
    assert found.bill.flops_share == pytest.approx(1.0)
    assert {item.label for item in found.bill.items} == {"augment", "train"}


def test_skipped_milestones_are_left_out(small: Prepared) -> None:
    class Jumps(Method):
        """Says nothing before it is half done, and nothing at the end."""

        name = "jumps"

        def run(self, session: Session) -> Fitted:
            learner = session.learner()
            fit(session, learner, Identity(), steps=10, milestones=False)
            session.progress(learner, 0.6)
            session.progress(learner, 0.3)
            return Fitted(learner, Identity())

    curve = run_method(Jumps(), small, config_of(Jumps)).curve
    assert [point.fraction for point in curve] == [0.5, 1.0]


def test_a_policy_that_cannot_be_written_down_is_a_failed_run(tmp_path: Path) -> None:
    path = tmp_path / "odd.py"
    path.write_text(
        "import torch\n"
        "from bench.augment.policy import Identity\n"
        "from bench.method import Fitted, Method\n"
        "class Odd(Identity):\n"
        "    def describe(self): return {'p': torch.zeros(2)}\n"
        "class Method_(Method):\n"
        "    name = 'odd'\n"
        "    def run(self, session): return Fitted(session.learner(), Odd())\n"
    )
    chosen = select(discover([], [path]), "odd")
    result = execute(small_config(chosen), chosen, DataOptions())
    assert isinstance(result, Made)
    found = result.record
    assert found.status == "failed"
    assert found.failure is not None
    assert "serialize" in found.failure.message


def test_an_overdrawn_flop_budget_is_flagged(small: Prepared) -> None:
    class Overdraws(Method):
        """One block without a price takes it all."""

        name = "overdraws"

        def run(self, session: Session) -> Fitted:
            learner, batch = session.learner(), next(session.batches("train"))
            with session.slice(1.0), session.metered("huge"):
                for _ in range(200):
                    learner.loss(batch.images, batch.targets).backward()
            return Fitted(learner, Identity())

    config = config_of(Overdraws)
    assert _bill(run_method(Overdraws(), small, config), config).flags == ["overrun>0.1%"]


def test_a_rehearsed_training_reaches_no_milestone(small: Prepared) -> None:
    class Rehearses(Method):
        """Prices a whole trial before the run's own training."""

        name = "rehearses"

        def run(self, session: Session) -> Fitted:
            learner, trial = session.learner(), session.learner()
            session.price("trial", lambda: fit(session, trial, Identity(), steps=3))
            fit(session, learner, Identity(), steps=8)
            return Fitted(learner, Identity())

    result = run_method(Rehearses(), small, config_of(Rehearses))
    assert [point.fraction for point in result.curve] == list(MILESTONES)
    assert result.session.plans == [{"train": 8}]
