"""Features of test images: those that the last layer sees, and nothing of the run changes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.augment.policy import Identity
from bench.check import small_config
from bench.errors import ConfigError
from bench.method import Fitted, Method
from bench.plugins import discover, select
from bench.runner import DataOptions, Made, execute
from bench.stage import Stage, run_method, stage
from bench.train.features import Features, check, features, strided
from bench.train.learner import Learner
from bench.train.prepare import Prepared
from bench.train.session import Session
from tests.contract.conftest import selected
from tests.contract.test_cheats import method_of
from tests.unit.test_stage import BASELINES


@pytest.fixture
def place(small: Prepared) -> Stage:
    return stage(small, small_config(selected(method_of(lambda *_: None))))


def kept(place: Stage, learner: Learner, small: Prepared) -> Features:
    guess = torch.arange(len(small.test)) % 10
    with place.meter.harness():
        return features(learner, small.test, guess, place.meter)


@given(st.integers(1, 10_000), st.integers(1, 3000))
def test_rows_are_distinct_and_evenly_spaced(count: int, most: int) -> None:
    index = strided(count, most)
    assert len(index) == min(count, most)
    assert index[0] == 0
    assert index[-1] < count
    gaps = index.diff()
    if len(gaps):
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 1


def test_they_are_what_enters_the_head_in_evaluation_mode(
    place: Stage, small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.train.features.CHUNK", 100)
    learner = place.session.learner()
    before = {name: len(m._forward_pre_hooks) for name, m in learner.network.named_modules()}
    found = kept(place, learner, small)
    network = learner.network
    with torch.no_grad(), place.session.metered("by hand"):
        network.eval()
        expected = network.features(learner.pixels(small.test.images))  # type: ignore[operator]
    torch.testing.assert_close(found.values.float(), expected, rtol=1e-3, atol=1e-3)
    assert found.values.dtype == torch.float16
    assert torch.equal(found.true, small.test.labels)
    assert torch.equal(found.predicted, torch.arange(len(small.test)) % 10)
    after = {name: len(m._forward_pre_hooks) for name, m in network.named_modules()}
    assert after == before, "no hook stays"
    ledger = place.meter.ledger
    assert {label for label, _, _ in ledger.items("harness")} == {"features"}


class Odd(nn.Module):
    """The linear layer that comes first is the last to be called."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(3, 10), nn.Linear(64, 3)
        self.aside = nn.Linear(2, 2)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.scale * self.first(x.flatten(1)))
        return logits + self.aside(torch.ones(1, 2)).sum()


@pytest.mark.parametrize("scale", [1.0, 1e9])
def test_the_last_layer_is_the_last_one_called_on_images(
    place: Stage, small: Prepared, scale: float
) -> None:
    found = kept(place, place.session.learner(lambda: Odd(scale)), small)
    assert found.values.shape == (len(small.test), 3)
    assert found.values.isfinite().all(), "what half precision cannot hold is clamped"


def test_a_network_without_a_linear_layer_is_refused(place: Stage, small: Prepared) -> None:
    network = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    with pytest.raises(ConfigError, match="--keep-features: a Sequential has no linear layer"):
        check(network)
    check(nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
    with pytest.raises(ConfigError, match="--keep-features"):
        kept(place, place.session.learner(lambda: network), small)


def test_keeping_features_changes_no_bit_of_a_run() -> None:
    chosen = select(discover([BASELINES]), "standard")
    config = small_config(chosen, budget=0.5)
    results = [
        execute(config, chosen, DataOptions(), keep_features=keep) for keep in (False, True)
    ]
    without, with_ = results
    assert isinstance(without, Made)
    assert isinstance(with_, Made)
    assert set(with_.arrays) == {"features", "index", "true", "predicted"}
    assert not without.arrays
    timed = {"bill", "prices"}
    one, two = (made.record.model_dump(exclude=timed) for made in (without, with_))
    assert one == two
    assert with_.record.scores is not None
    wrong = with_.arrays["true"] != with_.arrays["predicted"]
    assert wrong.mean() == pytest.approx(with_.record.scores.error)
    bills = [made.record.bill for made in (without, with_)]
    assert bills[0] is not None
    assert bills[1] is not None
    assert bills[0].flops == bills[1].flops


def test_the_confusion_matrix_is_of_the_test_set(
    small: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Untrained(Method):
        name = "untrained"

        def run(self, session: Session) -> Fitted:
            return Fitted(session.learner(), Identity())

    config = small_config(selected(Untrained))
    outcome = run_method(Untrained(), small, config)
    table = torch.tensor(outcome.confusion)
    assert table.shape == (10, 10)
    assert table.sum(1).tolist() == torch.bincount(small.test.labels).tolist()
    assert 1 - table.trace() / table.sum() == pytest.approx(outcome.test.error)
    monkeypatch.setattr("bench.stage.MOST_CLASSES", 9)
    assert run_method(Untrained(), small, config).confusion is None
