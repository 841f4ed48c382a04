"""Every method, killed at any step and gone on from a checkpoint, ends in the same bits."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.augment.policy import Batch, Identity
from bench.check import BILL_TOLERANCE, _budget, conformance, small_config
from bench.errors import RecordError
from bench.method import Fitted, Method
from bench.networks.flops import FlopCounter
from bench.plugins import Selected, select
from bench.saved import read, write_state
from bench.stage import Stage, stage
from bench.train.checkpoint import Checkpoints, Work, joined
from bench.train.journal import Entry, Journal
from bench.train.learner import Learner
from bench.train.loops import training_step
from bench.train.prepare import Prepared
from bench.train.session import Session
from bench.train.task import standard
from tests.contract.conftest import selected as selected_method
from tests.contract.test_methods import PLUGINS, specs

OWNER = {"run": "test"}
STEPS = 12


class Killed(BaseException):
    """Stands for a signal."""


@dataclass
class Scripted(Checkpoints):
    """Checkpoints at the steps that a test names, and a kill at another."""

    at: int = -1
    dies: int = -1
    points: int = -1

    def due(self, now: float) -> bool:
        self.points += 1
        if self.points == self.dies:
            raise Killed
        return self.points == self.at


@dataclass
class Run:
    """One process after the other, until the run is finished."""

    chosen: Selected
    prepared: Prepared
    path: Path
    entries: list[Entry] = field(default_factory=list)
    worked: Work = field(default_factory=Work)
    computed: int = 0  # FLOPs of all processes, by a counter of its own

    def process(self, at: int = -1, dies: int = -1) -> tuple[Stage, Fitted, Scripted]:
        """One process."""
        entries, saved = joined(self.entries, read(self.path, OWNER))
        journal = Journal(entries, self.entries.append, len(self.entries))
        write = lambda state: write_state(self.path, OWNER, state)  # noqa: E731
        checkpoints = Scripted(write, 0.0, saved, self.worked, self.note, at=at, dies=dies)
        method = self.chosen.make()
        budget = _budget(method.minimum(self.prepared.task))
        config = small_config(self.chosen, budget)
        set_ = stage(self.prepared, config, journal=journal, checkpoints=checkpoints)
        with FlopCounter() as counter:
            try:
                set_.clock.start()
                fitted = method.run(set_.session)
                set_.clock.stop()
            finally:
                self.computed += counter.total
        set_.meter.ledger.audit()
        assert checkpoints.saved is None
        return set_, fitted, checkpoints

    def note(self, work: Work) -> None:
        self.worked = work


def outcome(set_: Stage, fitted: Fitted) -> Any:
    """Everything that a record tells of a run, but for seconds."""
    session, ledger = set_.session, set_.meter.ledger
    accounts = ("run", "rehearsal", "harness")
    items = [(a, i[0], i[1], i[2].calls, i[2].flops) for a in accounts for i in ledger.items(a)]
    return {
        "weights": fitted.learner.digest(),
        "policy": json.dumps(fitted.policy.describe(), sort_keys=True),
        "deviations": fitted.deviations,
        "points": {n: t.tolist() for n, t in fitted.points.tables().items()}
        if fitted.points
        else None,
        "trace": json.dumps(session.trace.export()),
        "plans": session.plans,
        "prices": session.prices,
        "tallies": session.tallies,
        "curve": [vars(point) for point in set_.observer.curve],
        "bill": (items, ledger.billed_flops),
        "global": torch.get_rng_state().tolist(),
    }


def check(chosen: Selected, small: Prepared, path: Path, many: int) -> None:
    """Kills a run at some of its steps, each time after a checkpoint some steps before."""
    path.unlink(missing_ok=True)
    whole = Run(chosen, small, path)
    set_, fitted, script = whole.process()
    expected, points = outcome(set_, fitted), script.points + 1
    assert points > 0, "no place for a checkpoint"
    assert set_.session.redone == Work()
    for number in range(many):
        at = (2 * number + 1) * points // (2 * many)
        dies = min(points - 1, at + 1 + number)
        run = Run(chosen, small, path)
        path.unlink(missing_ok=True)
        if dies == at:
            dies = -1
        else:
            with pytest.raises(Killed):
                run.process(at, dies)
            at = -1
        again, fitted, script = run.process()
        found = outcome(again, fitted)
        for what, value in expected.items():
            assert found[what] == value, f"{what} differs after a kill at {dies} of {points}"
        total = run.computed - again.session.redone.flops
        ledger = again.meter.ledger
        booked = sum(ledger.flops(a) for a in ("run", "rehearsal", "harness"))
        assert total == pytest.approx(booked, rel=BILL_TOLERANCE)


# One of each way in which a method loops: once, with a policy that moves, with a kept list, in
# phases, in parts.  The others with --slow.
QUICK = {"standard", "gar", "hba", "fds[outer=2,rates=2]", "search[trials=2]"}


@pytest.fixture(scope="module")
def brief(small: Prepared) -> Prepared:
    """The small task with a shorter recipe."""
    recipe = small.task.recipe.model_copy(update={"steps": 24})
    return replace(small, task=replace(small.task, recipe=recipe))


def marked() -> list[Any]:
    """All specifications; those that are not quick are slow."""
    names = [spec if isinstance(spec, str) else spec.values[0] for spec in specs()]
    return [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("spec", marked())
def test_a_killed_run_ends_in_the_same_bits(
    spec: str, small: Prepared, brief: Prepared, tmp_path: Path
) -> None:
    task = brief if spec in QUICK else small  # the grid's many trials need more steps
    check(select(PLUGINS, spec), task, tmp_path / "run.ckpt", many=1)


# What the check finds


class Averaging(Method):
    """Trains under a fixed policy and ends with the mean of its weights."""

    name = "averaging"
    keeps = True

    def run(self, session: Session) -> Fitted:
        learner, batches = session.learner(), session.batches("train")
        weights = list(learner.network.parameters())
        means = [torch.zeros_like(weight) for weight in weights]
        if self.keeps:
            session.keep(means=means)
        for done in session.steps(STEPS):
            training_step(session, learner, Identity(), batches, done / STEPS)
            for mean, weight in zip(means, weights, strict=True):
                mean.add_(weight.detach(), alpha=1 / STEPS)
        with torch.no_grad():
            for mean, weight in zip(means, weights, strict=True):
                weight.copy_(mean)
        return Fitted(learner, Identity())


class Forgetful(Averaging):
    """The same, but that it does not say what it changes."""

    name, keeps = "forgetful", False


def test_what_is_not_kept_is_missed(brief: Prepared, tmp_path: Path) -> None:
    check(selected_method(Averaging), brief, tmp_path / "run.ckpt", many=2)
    with pytest.raises(AssertionError, match="weights differs after a kill at"):
        check(selected_method(Forgetful), brief, tmp_path / "run.ckpt", many=1)


@pytest.mark.parametrize(("method", "ok"), [(Averaging, True), (Forgetful, False)])
def test_conformance_says_so(method: type[Method], ok: bool) -> None:
    found = conformance(method.name, {method.name: selected_method(method).plugin})
    assert {finding.rule: finding.ok for finding in found}["resume"] is ok
    assert all(finding.ok for finding in found if finding.rule != "resume")


class TwoTrainings(Method):
    """A loop, an end that a slice brings, a phase that makes a plan, a part, and a last loop."""

    name = "two-trainings"

    def run(self, session: Session) -> Fitted:
        learner, scout = session.learner(), session.learner()
        batches, others = session.batches("train"), session.batches("train")
        self.seen = torch.zeros(())
        session.keep(seen=self.seen)
        price = session.price("train", lambda: self.step(session, scout, others, 0.0))
        plan = session.plan(train=session.afford(price) // 2)["train"]
        with session.slice(0.2):
            for done in session.steps(plan):  # more than this slice pays for
                self.step(session, scout, others, done / plan)
        digest = session.phase("scouting", lambda: self.scouted(session, scout, others))
        again = session.once("trial", lambda: self.tried(session), scout=digest)
        session.event(sign=float(again > 0))
        with session.slice(1.0):
            for done in session.steps(plan):
                self.step(session, learner, batches, done / plan)
                session.progress(learner, (done + 1) / plan)
        said = digest, str(again), scout.digest(), str(self.seen.item())
        return Fitted(learner, Identity(), said)

    def step(
        self, session: Session, learner: Learner, batches: Iterator[Batch], at: float
    ) -> torch.Tensor:
        loss = training_step(session, learner, standard(session.task), batches, at)
        session.log(train_loss=loss)
        return loss

    def scouted(self, session: Session, scout: Learner, batches: Iterator[Batch]) -> str:
        price = session.price("scout", lambda: self.step(session, scout, batches, 0.0))
        plan = session.plan(scout=session.afford(price) // 8)["scout"]
        for done in session.steps(plan):
            self.seen += self.step(session, scout, batches, done / plan)
        return scout.digest()

    def tried(self, session: Session) -> float:
        learner, batches = session.learner(), session.batches("train")
        for done in session.steps(5):
            loss = self.step(session, learner, batches, done / 5)
        return loss.item()


@pytest.mark.parametrize("many", [4, pytest.param(12, marks=pytest.mark.slow)])
def test_loops_phases_and_parts_in_one_run(many: int, brief: Prepared, tmp_path: Path) -> None:
    check(selected_method(TwoTrainings), brief, tmp_path / "run.ckpt", many)


def test_checkpoints_change_nothing(brief: Prepared, tmp_path: Path) -> None:
    chosen = selected_method(TwoTrainings)
    without = stage(brief, small_config(chosen))
    without.clock.start()
    expected = outcome(without, chosen.make().run(without.session))
    run = Run(chosen, brief, tmp_path / "run.ckpt")
    set_, fitted, _ = run.process(at=20)
    assert run.path.is_file()
    assert outcome(set_, fitted) == expected


def test_a_run_that_does_not_repeat_itself_is_told(small: Prepared, tmp_path: Path) -> None:
    class Moody(TwoTrainings):
        name, moods = "moody", iter([7, 8])

        def tried(self, session: Session) -> float:
            return float(sum(session.steps(next(self.moods))))

    run = Run(selected_method(Moody), small, tmp_path / "run.ckpt")
    with pytest.raises(Killed):
        run.process(at=39, dies=40)
    with pytest.raises(RecordError, match="it does not repeat itself on this machine"):
        run.process()
