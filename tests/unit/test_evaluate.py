"""Metrics against hand computation, scikit-learn and an independent NumPy loop."""

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, log_loss, recall_score

from bench.data.arrays import Arrays
from bench.train import evaluate as module
from bench.train.clock import Clock
from bench.train.evaluate import Metrics, confusion, evaluate, metrics, predict
from bench.train.ledger import Ledger, ReferencePrice
from bench.train.meter import Meter
from bench.train.prepare import Prepared
from bench.train.session import Session

quick = settings(max_examples=50, deadline=None)
Floats = npt.NDArray[np.float64]


def softmax(logits: torch.Tensor) -> Floats:
    values = logits.double().numpy()
    powers = np.exp(values - values.max(1, keepdims=True))
    result: Floats = powers / powers.sum(1, keepdims=True)
    return result


def ece_by_loop(logits: torch.Tensor, labels: torch.Tensor, bins: int = 15) -> float:
    """Guo et al. 2017, equation 3, with bins ((m-1)/M, m/M]."""
    shares = softmax(logits)
    confidence, right = shares.max(1), shares.argmax(1) == labels.numpy()
    total = 0.0
    for m in range(1, bins + 1):
        inside = [i for i, c in enumerate(confidence) if (m - 1) / bins < c <= m / bins]
        if inside:
            gap = np.mean(right[inside]) - np.mean(confidence[inside])
            total += len(inside) / len(labels) * abs(gap)
    return float(total)


def random_case(seed: int, count: int, classes: int, scale: float = 3.0):
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(count, classes, generator=rng)
    labels = torch.randint(classes, (count,), generator=rng)
    labels[:classes] = torch.arange(classes)[:count]  # every class is there
    return logits, labels


@pytest.fixture
def session(small: Prepared) -> Session:
    """A session on the small task with more budget than it can use."""
    task = small.task
    ledger = Ledger(100.0, ReferencePrice(10**12, 1.0), "portable", Clock(task.device))
    return Session(task, Meter(ledger, task.device), seed=0)


def test_errors_by_hand() -> None:
    predicted = torch.tensor([0, 0, 1, 1, 2, 2, 2, 0])
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    found = metrics(5.0 * torch.nn.functional.one_hot(predicted, 4).float(), labels, 4)
    assert found.error == 3 / 8
    assert found.class_errors[:3] == pytest.approx((1 / 3, 1 / 2, 1 / 3), rel=1e-15)
    assert math.isnan(found.class_errors[3]), "a class without images has no error"
    assert found.balanced_error == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3, rel=1e-15)
    assert found.worst_error == 1 / 2
    assert found.finite


def test_likelihood_and_calibration_by_hand() -> None:
    # Confidence 0.8 three times, two of them right; 0.6 once, wrong.
    shares = torch.tensor([[0.8, 0.2], [0.8, 0.2], [0.2, 0.8], [0.6, 0.4]])
    labels = torch.tensor([0, 0, 0, 1])
    found = metrics(shares.log(), labels, 2)
    expected = -(2 * math.log(0.8) + math.log(0.2) + math.log(0.4)) / 4
    assert found.nll == pytest.approx(expected, rel=1e-6)
    assert found.ece == pytest.approx(3 / 4 * abs(2 / 3 - 0.8) + 1 / 4 * 0.6, rel=1e-6)


@quick
@given(st.integers(0, 2**31), st.integers(10, 80), st.integers(2, 10), st.floats(0.01, 30))
def test_against_scikit_learn_and_a_loop(
    seed: int, count: int, classes: int, scale: float
) -> None:
    logits, labels = random_case(seed, count, classes, scale)
    found = metrics(logits, labels, classes)
    predicted = logits.argmax(1)
    assert found.error == pytest.approx((predicted != labels).double().mean().item(), abs=1e-15)
    names = np.arange(classes)
    recall = recall_score(labels, predicted, labels=names, average=None, zero_division=0)
    assert found.class_errors == pytest.approx(1 - recall, abs=1e-12)
    balanced = balanced_accuracy_score(labels, predicted)
    assert found.balanced_error == pytest.approx(1 - balanced, abs=1e-12)
    if scale <= 3:  # scikit-learn clips shares at its epsilon
        assert found.nll == pytest.approx(log_loss(labels, softmax(logits), labels=names))
    assert found.ece == pytest.approx(ece_by_loop(logits, labels), abs=1e-9)


def test_confusion_has_true_classes_as_rows() -> None:
    logits, labels = random_case(3, 50, 5, 0.5)
    predicted = logits.argmax(1)
    expected = confusion_matrix(labels, predicted, labels=range(6))  # one class without images
    assert confusion(predicted, labels, 6) == expected.tolist()


def test_likelihood_does_not_saturate() -> None:
    found = metrics(torch.tensor([[1000.0, 0.0]]), torch.tensor([1]), 2)
    assert found.nll == pytest.approx(1000.0)
    assert found.ece == pytest.approx(1.0)


def test_calibration_at_the_ends_of_the_bins() -> None:
    certain = torch.tensor([[200.0, 0.0], [200.0, 0.0]])  # confidence exactly 1
    assert metrics(certain, torch.tensor([0, 0]), 2).ece == pytest.approx(0, abs=1e-12)
    assert metrics(certain, torch.tensor([0, 1]), 2).ece == pytest.approx(0.5, abs=1e-12)
    even = torch.zeros(4, 2)  # confidence 1/2, argmax 0
    assert metrics(even, torch.tensor([0, 0, 1, 1]), 2).ece == pytest.approx(0, abs=1e-12)
    # Opposite gaps in one bin cancel; in two bins they do not.
    one = torch.tensor([[0.95, 0.05], [0.95, 0.05]]).log()
    assert metrics(one, torch.tensor([0, 1]), 2).ece == pytest.approx(0.45, rel=1e-6)
    two = torch.tensor([[0.95, 0.05], [0.55, 0.45]]).log()
    assert metrics(two, torch.tensor([0, 1]), 2).ece == pytest.approx((0.05 + 0.55) / 2, rel=1e-6)
    # The last bin is (14/15, 1] with its end, the first (0, 1/15] is not part of the second.
    last = torch.tensor([[0.95, 0.05], [1.0, 1e-30]]).log()
    assert metrics(last, torch.tensor([0, 1]), 2).ece == pytest.approx(0.95 / 2, rel=1e-6)
    low = torch.full((2, 20), 0.94 / 19)
    low[0, 0], low[1], low[1, 0] = 0.06, 0.9 / 19, 0.1
    found = metrics(low.log(), torch.tensor([0, 1]), 20).ece
    assert found == pytest.approx((0.94 + 0.1) / 2, rel=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_logit_is_noticed(bad: float) -> None:
    logits, labels = random_case(0, 20, 4)
    assert metrics(logits, labels, 4).finite
    logits[7, 2] = bad
    assert not metrics(logits, labels, 4).finite


def scored(*errors: float) -> Metrics:
    return Metrics(0.0, errors, 0.0, 0.0, True)


NAN = float("nan")


@pytest.mark.parametrize(
    ("errors", "rare", "expected"),
    [
        ((0.1, 0.2, 0.6, 0.4), (False, False, True, True), 0.5),  # mean of the rare ones
        ((0.9, 0.2, 0.6, 0.4), (False, True, False, False), 0.2),  # though others are worse
        ((0.1, 0.5, 0.3, 0.2, 0.9, 0.4), (False,) * 6, 0.7),  # worst third: 2 of 6
        ((0.1, 0.5, 0.3, 0.2, 0.9), (False,) * 5, 0.9),  # 1 of 5
        ((0.1, 0.5), (False, False), 0.5),  # at least one
        ((0.1, NAN, 0.6, 0.4), (False, True, True, False), 0.6),  # no images: left out
        ((0.1, NAN, 0.6, 0.4), (False, True, False, False), 0.6),  # only such: worst third
        ((0.1, NAN, 0.6, NAN, NAN, 0.4), (False,) * 6, 0.6),  # a third of those with images
    ],
)
def test_tail_error(errors: tuple[float, ...], rare: tuple[bool, ...], expected: float) -> None:
    assert scored(*errors).tail_error(rare) == pytest.approx(expected, rel=1e-12)


def test_tail_error_wants_one_flag_a_class() -> None:
    with pytest.raises(ValueError, match="shorter"):
        scored(0.1, 0.2).tail_error((True,))


def test_prediction_is_in_evaluation_mode_in_chunks_and_in_order(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner, val = session.learner(), session.task.val
    monkeypatch.setattr(module, "CHUNK", 100)
    assert len(val) % 100, "the last chunk is a smaller one"
    learner.network.train()
    state = {name: v.clone() for name, v in learner.network.state_dict().items()}
    logits = predict(learner, val, session._meter, "validate")
    assert learner.network.training, "put back"
    assert not logits.requires_grad
    for name, value in learner.network.state_dict().items():
        assert torch.equal(value, state[name]), f"{name} moved"
    learner.network.eval()
    with session.metered("other"), torch.no_grad():
        whole = learner(val.images)
    assert torch.allclose(logits, whole, atol=1e-5)
    learner.network.eval()
    predict(learner, val, session._meter, "validate")
    assert not learner.network.training, "an evaluating network stays one"


def test_evaluate_scores_the_labels_of_the_arrays(session: Session) -> None:
    learner, val = session.learner(), session.task.val
    logits = predict(learner, val, session._meter, "validate")
    assert evaluate(learner, val, session._meter, "validate") == metrics(logits, val.labels, 10)
    right: Arrays = val.with_labels(logits.argmax(1))
    assert evaluate(learner, right, session._meter, "validate").error == 0.0
    assert session.validate(learner) == metrics(logits, val.labels, 10)
