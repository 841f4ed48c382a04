"""What only a CUDA device can show: the same pixels, the same bill, seconds that add up."""

from pathlib import Path

import pytest
import torch

from bench.augment.policy import Batch, Chain
from bench.augment.standard import CropFlip, Cutout
from bench.check import DISTORT, RECIPE, small_config
from bench.data.sources import load
from bench.method import Method
from bench.plugins import discover, select
from bench.rng import generator
from bench.stage import Outcome, run_method, stage
from bench.train.loops import training_step
from bench.train.prepare import Prepared, prepare
from bench.train.task import cutout, standard

pytestmark = pytest.mark.gpu
BASELINES = Path(__file__).parents[2] / "baselines"


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepare(
        load("digits"),
        distort=DISTORT,
        network="small-cnn",
        recipe=RECIPE,
        seed=0,
        device=torch.device("cuda"),
    )


def outcome(prepared: Prepared, track: str, compiled: bool = False) -> Outcome:
    selected = select(discover([BASELINES]), "standard[length=filled]")
    changes = {"track": track, "device": "cuda", "compile": compiled}
    config = small_config(selected).model_copy(update=changes)
    method: Method = selected.make()
    return run_method(method, prepared, config)


@pytest.mark.parametrize("policy", [CropFlip(4, True), Cutout(16, (32, 32), (1, 2, 3))])
def test_policies_give_the_same_pixels_as_on_the_cpu(policy: CropFlip | Cutout) -> None:
    rng = generator("pixels")
    images = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=rng)
    index, targets = torch.arange(64), torch.zeros(64, dtype=torch.int64)
    draw = policy.sample(index, rng)
    here = policy.apply(Batch(images, targets, index), draw).images
    there = policy.apply(Batch(images.cuda(), targets.cuda(), index), draw).images
    assert torch.equal(here, there.cpu())


def test_the_portable_bill_is_the_cpus(prepared: Prepared) -> None:
    ledger = outcome(prepared, "portable").meter.ledger
    assert ledger.spent == pytest.approx(2.0)
    here = prepare(
        load("digits"), distort=DISTORT, network="small-cnn", recipe=RECIPE, seed=0,
        device=torch.device("cpu"),
    )  # fmt: skip
    selected = select(discover([BASELINES]), "standard[length=filled]")
    other = run_method(selected.make(), here, small_config(selected)).meter.ledger
    assert ledger.flops("run") == other.flops("run")


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_seconds_track_fills_its_budget(prepared: Prepared, compiled: bool) -> None:
    result = outcome(prepared, "gpu", compiled)
    ledger = result.meter.ledger
    assert 0.5 < ledger.spent / ledger.budget < 1.05
    items = sum(item.seconds for _, _, item in ledger.items("run"))
    assert 0 < items <= 1.02 * ledger.billed_seconds
    assert result.after is not None
    assert result.test.error < 0.5


def test_steps_do_not_wait_for_the_device(prepared: Prepared) -> None:
    """No hidden synchronisation in the training loop: torch raises at any."""
    selected = select(discover([BASELINES]), "cutout")
    config = small_config(selected).model_copy(update={"device": "cuda"})
    session = stage(prepared, config).session
    learner, batches = session.learner(), session.batches("train")
    policy = Chain(standard(session.task), cutout(session.task))
    for _ in range(3):
        training_step(session, learner, policy, batches, 0.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            training_step(session, learner, policy, batches, 0.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert session.tallies["steps"] == 23
