"""Controls for privileged clean labels: what they train on, what they declare, how they show."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from bench.augment.policy import Batch, Identity, Policy
from bench.check import Trial, small_config, trial
from bench.config import RunConfig, run_hash
from bench.data.sources import canonical, fingerprint
from bench.errors import ConfigError
from bench.method import FixedPolicy
from bench.plugins import Plugin, Selected, discover, select
from bench.record import read_records
from bench.runner import DataOptions, Made, execute
from bench.train.prepare import Prepared
from bench.train.task import Task
from tests.conftest import ROOT
from tests.unit.test_stage import BASELINES

PLUGINS = discover([BASELINES])


class Spy(Identity):
    """Remembers the rows and images that it is given."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.images: set[bytes] = set()

    def sample(self, index: torch.Tensor, rng: torch.Generator) -> int:
        self.rows |= set(index.tolist())
        return len(index)

    def apply(self, batch: Batch, draw: int) -> Batch:
        labels = zip(batch.images, batch.targets.tolist(), strict=True)
        self.images |= {image.numpy().tobytes() + bytes([label]) for image, label in labels}
        return batch


def watched(small: Prepared, data: str, length: str = "filled") -> tuple[Spy, Trial]:
    spy = Spy()

    class Watched(FixedPolicy):
        name = "watched"

        def policy(self, task: Task) -> Policy:
            return spy

    config = Watched.Config.model_validate({"data": data, "length": length})
    chosen = Selected(Plugin(Watched, BASELINES, "test"), config, "watched", None)
    return spy, trial(chosen, small, small_config(chosen, 4.0))


def contents(small: Prepared, *parts: str) -> set[bytes]:
    found = set()
    for part in parts:
        arrays = getattr(small.task, part)
        labelled = zip(arrays.images, arrays.labels.tolist(), strict=True)
        found |= {image.numpy().tobytes() + bytes([label]) for image, label in labelled}
    return found


@pytest.mark.parametrize("data", ["train", "train+val", "val"])
def test_it_trains_on_what_it_says_and_pays_for_it(small: Prepared, data: str) -> None:
    spy, done = watched(small, data)
    parts = data.split("+")
    assert spy.images == contents(small, *parts)
    assert spy.rows == set(range(sum(len(getattr(small.task, part)) for part in parts)))
    assert done.bill_error == 0
    assert done.stage.session.plans == [{"train": 240}]


def test_the_natural_length_is_the_recipe_s_whatever_the_data(small: Prepared) -> None:
    assert watched(small, "val", "natural")[1].stage.session.plans == [{"train": 60}]


def test_specifications_are_canonical_and_the_default_is_unnamed() -> None:
    text = "standard[length=filled,data=train+val]"
    assert select(PLUGINS, text).spec == "standard[data=train+val,length=filled]"
    assert select(PLUGINS, "standard[data=train]").spec == "standard"
    assert select(PLUGINS, "mixup[data=val]").spec == "mixup[data=val]"
    with pytest.raises(ConfigError, match=r"data: 'test'.*'train\+val'"):
        select(PLUGINS, "standard[data=test]")


def test_hashes_of_committed_runs_are_what_they_were() -> None:
    for record in read_records(ROOT / "results", "quick"):
        spec = select(PLUGINS, record.method.spec).spec
        config = RunConfig.model_validate(record.config | {"method": spec}, strict=False)
        data = canonical(config.task.data), fingerprint(config.task.data, None)
        assert run_hash(config, *data, record.method.source) == record.hash


@pytest.mark.parametrize(
    ("text", "declared"),
    [
        ("standard", "none"),
        ("standard[data=train+val]", "training"),
        ("augmix[data=val]", "training"),
        ("randaugment-grid", "selection"),
    ],
)
def test_the_declaration_follows_the_options(text: str, declared: str) -> None:
    chosen = select(PLUGINS, text)
    assert chosen.plugin.method.declared(chosen.config) == declared


def test_the_record_says_so() -> None:
    chosen = select(PLUGINS, "standard[data=val]")
    made = execute(small_config(chosen, budget=0.5), chosen, DataOptions())
    assert isinstance(made, Made)
    assert made.record.status == "ok"
    assert made.record.method.clean_labels == "training"
    assert made.record.method.options == {"data": "val", "length": "natural"}


def test_the_order_of_the_default_is_that_of_every_other_method(small: Prepared) -> None:
    """`data=train` is the split by name, whose order all methods share at one seed."""

    def weights(method: Callable[[Any], Any]) -> str:
        return method(small)[1].fitted.learner.digest()  # type: ignore[no-any-return]

    plain = select(PLUGINS, "none[length=filled]")
    expected = trial(plain, small, small_config(plain, 4.0)).fitted.learner.digest()
    assert weights(lambda task: watched(task, "train")) == expected
    assert weights(lambda task: watched(task, "val")) != expected
