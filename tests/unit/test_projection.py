"""What a dry run says: exact FLOPs, lengths without files, and what is assumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import baselines
import methods
from bench import drive, outline, projection
from bench.config import TaskConfig
from bench.data.sources import load
from bench.errors import ConfigError
from bench.outline import Published, Step, count
from bench.plugins import Plugin, discover
from bench.projection import Assumption, cost
from bench.request import Request, suite_of
from bench.runner import DataOptions
from bench.train.prepare import prepare
from bench.train.recipe import Recipe
from bench.train.reference import reference_price
from tests.datasets import generate

RECIPE = Recipe(steps=7, batch_size=16)


@pytest.fixture(scope="module")
def plugins() -> dict[str, Plugin]:
    return discover([Path(package.__path__[0]) for package in (methods, baselines)])


def request(**changes: object) -> Request:
    fields = {
        "suite": None, "data": None, "methods": (), "distort": (), "budgets": (), "seeds": None,
        "network": None, "size": None, "steps": None, "name": None, "track": None, "jobs": 1,
        "devices": "cpu", "threads": 1, "compiled": False, "root": None, "memory_limit": 4 << 30,
        "skip_corrupt": False, "results": Path("nowhere"), "dry_run": True,
    }  # fmt: skip
    return Request(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("distort", ["clean", "imbalance=10,noise=0.1"])
@pytest.mark.parametrize("network", ["small-cnn", "wrn-10-1"])
def test_an_outline_has_the_lengths_and_flops_of_the_real_task(
    distort: str, network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate("cifar10", tmp_path, monkeypatch)
    monkeypatch.setitem(outline.PUBLISHED, "cifar10", Published((20,) * 10, 20))
    outline._split.cache_clear()
    outline._lengths.cache_clear()
    config = TaskConfig(data="cifar10", network=network, distort=distort, recipe=RECIPE)
    real = prepare(
        load("cifar10", root=tmp_path), distort=distort, network=network, recipe=RECIPE, seed=0,
        device=torch.device("cpu"),
    ).task  # fmt: skip
    known = outline.outline(config)
    outline._split.cache_clear()
    outline._lengths.cache_clear()
    assert (known.train, known.val) == (len(real.train), len(real.val))
    assert (known.task().size, known.task().classes) == (real.size, real.classes)
    counted = count(known.task()).flops * RECIPE.steps
    assert counted == reference_price(real, timed_steps=1).flops
    assert counted == count(real).flops * RECIPE.steps


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "imagenet"])
def test_published_sizes_agree_with_what_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate(name, tmp_path, monkeypatch)
    source, published = load(name, root=tmp_path), outline.PUBLISHED[name]
    assert source.train.shape == (published.channels, published.side, published.side)
    assert source.val_fraction == published.val_fraction


@pytest.mark.parametrize(
    ("name", "train", "classes"),
    [("cifar10", 50_000, 10), ("cifar100", 50_000, 100), ("svhn", 73_257, 10),
     ("mnist", 60_000, 10), ("fashion-mnist", 60_000, 10), ("imagenet", 1_281_167, 1000)],
)  # fmt: skip
def test_published_sizes_add_up(name: str, train: int, classes: int) -> None:
    published = outline.PUBLISHED[name]
    assert (sum(published.train), len(published.train)) == (train, classes)


def test_the_slower_of_computing_and_launching_counts() -> None:
    assumption = Assumption(tflops=2.0, launch=1e-3)
    assert assumption.seconds(Step(flops=8 * 10**12, operations=10)) == 4.0
    assert assumption.seconds(Step(flops=10**9, operations=10)) == 0.01


def test_natural_rows_cost_one_training(plugins: dict[str, Plugin]) -> None:
    standard, gar = plugins["standard"].method(), plugins["gar"].method()
    augmix = plugins["augmix"].method()
    assert [cost(standard, 0.0, budget) for budget in (0.5, 1, 10)] == [0.5, 1, 1]
    assert cost(augmix, 3.0, 10) == 3
    assert cost(gar, 1.2, 10) == 10


def test_a_dry_run_needs_no_files_and_says_what_it_assumes(
    plugins: dict[str, Plugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.data.sources.load", lambda *_, **__: pytest.fail("read data"))
    asked = request(
        suite="gpu-hour", methods=("standard", "gar", "ohl"), results=tmp_path / "results"
    )
    campaign = drive.plan(asked, plugins)
    text = projection.projection(campaign, plugins)
    assert "cifar10 · clean · wrn-16-4: 9 runs, at most 21 RT of 542.5 TFLOP" in text
    assert "18 runs, 0 of them finished; 18 to run, 1 at a time" in text
    assert "scaled even at 3 RT, below their smallest faithful budget: ohl (18.4 RT)" in text
    assert "projected time, assumed and not measured" in text
    assert "100 TFLOP/s sustained (10% of an H200's dense bfloat16 peak of 989)" in text
    assert "on this machine" not in text
    slow = projection.estimates(campaign, plugins, Assumption(tflops=1e-3))
    assert slow[0].seconds == pytest.approx(slow[0].flops / 1e9)
    assert list(tmp_path.iterdir()) == []


def test_a_skipped_row_is_named_and_costs_nothing(plugins: dict[str, Plugin]) -> None:
    campaign = drive.plan(request(suite="gpu-hour", methods=("stn",), seeds=1), plugins)
    text = projection.projection(campaign, plugins)
    assert "skipped: stn on cifar10 · clean · wrn-16-4 and 1 more: dropouts need a chain" in text
    assert "0 runs, at most 0 RT" in text


def test_large_images_take_disk(plugins: dict[str, Plugin]) -> None:
    pixels = (1_281_167 + 50_000) * 3 * 224 * 224
    known = outline.outline(TaskConfig(data="imagenet", network="lenet", recipe=RECIPE))
    assert known.pixels == pixels > 200e9
    for limit, said in (
        (pixels, "decoded images in memory"),
        (pixels - 1, "decoded images 200 GB"),
    ):
        asked = request(suite="full", methods=("standard",), seeds=1, memory_limit=limit)
        campaign = drive.plan(asked, plugins)
        last = [job for job in campaign.jobs if job.config.task.network == "timm:resnet18"][:1]
        assert said in projection.projection(replace(campaign, jobs=last), plugins)


def test_only_a_dry_run_of_a_gpu_suite_does_without_one() -> None:
    with pytest.raises(ConfigError, match="--track gpu needs a CUDA device"):
        suite_of(request(suite="gpu-hour", dry_run=False), DataOptions(), "cpu")
    assert suite_of(request(suite="gpu-hour"), DataOptions(), "cpu").track == "gpu"
