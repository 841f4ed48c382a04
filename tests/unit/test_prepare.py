"""From source to task: what depends on what, and what the method cannot reach."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch

from bench.data.arrays import Arrays
from bench.data.sources import Source, load
from bench.errors import ConfigError, UnmeteredCompute
from bench.train.prepare import Prepared, prepare
from bench.train.recipe import Recipe

HOST = torch.device("cpu")
NOISY = "imbalance=10,noise=0.3"


@pytest.fixture(scope="module")
def digits() -> Source:
    return load("digits")


def prepared(source: Source, **changes: Any) -> Prepared:
    options = {"distort": NOISY, "network": "small-cnn", "recipe": Recipe(steps=5), "seed": 0}
    return prepare(source, **(options | {"device": HOST} | changes))


def rows_of(arrays: Arrays) -> list[bytes]:
    """Each image's bytes."""
    return [image.numpy().tobytes() for image in arrays.images]


def same(one: Arrays, two: Arrays) -> bool:
    return torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


def test_val_is_clean_stratified_and_apart_from_train(digits: Source) -> None:
    found = prepared(digits)
    truth = dict(zip(rows_of(digits.train), digits.train.labels.tolist(), strict=True))
    val, train = found.task.val, found.task.train
    assert len(val) == round(0.2 * len(digits.train))
    assert [truth[row] for row in rows_of(val)] == val.labels.tolist()
    shares = torch.bincount(val.labels, minlength=10) / len(val)
    of_source = torch.bincount(digits.train.labels, minlength=10) / len(digits.train)
    assert (shares - of_source).abs().max() < 1.5 / len(val)
    assert not set(rows_of(val)) & set(rows_of(train))


def test_train_has_the_distorted_labels_and_the_harness_the_truth(digits: Source) -> None:
    found = prepared(digits)
    truth = dict(zip(rows_of(digits.train), digits.train.labels.tolist(), strict=True))
    train, distorted = found.task.train, found.distorted
    true = torch.tensor([truth[row] for row in rows_of(train)])
    assert torch.equal(distorted.true_labels, true)
    assert torch.equal(distorted.flipped, train.labels != true)
    assert 0.2 < distorted.flipped.double().mean() < 0.3, "0.3 of 10 classes: 0.27 change"
    counts = torch.bincount(true, minlength=10)
    assert counts[:5].sum() >= 10 * counts[5:].sum()
    assert distorted.rare == (False,) * 5 + (True,) * 5


def test_the_test_set_is_the_source_s(digits: Source) -> None:
    assert same(prepared(digits).test, digits.test)


def test_the_clean_task_is_the_rest_of_the_split(digits: Source) -> None:
    task = prepared(digits, distort="clean").task
    everything = sorted(rows_of(task.train) + rows_of(task.val))
    assert everything == sorted(rows_of(digits.train))


def test_numbers_of_the_task(digits: Source) -> None:
    task = prepared(digits).task
    assert (task.classes, task.channels, task.size, task.flip) == (10, 1, 8, False)
    pixels = digits.train.images.double() / 255
    assert task.mean == pytest.approx((pixels.mean().item(),), rel=1e-9)
    assert task.std == pytest.approx((pixels.std(correction=0).item(),), rel=1e-9)
    assert task.network().head.out_features == 10
    with pytest.raises(UnmeteredCompute):  # even a network that no learner holds
        task.network()(torch.zeros(2, 1, 8, 8))


def test_normalisation_is_equal_under_every_distortion_and_seed(digits: Source) -> None:
    tasks = [prepared(digits, distort=d, seed=s).task for d in ("clean", NOISY) for s in (0, 1)]
    assert len({(task.mean, task.std) for task in tasks}) == 1


def test_a_constant_channel_does_not_divide_by_zero(digits: Source) -> None:
    blank = replace(digits.train, images=torch.full_like(digits.train.images, 7))
    task = prepared(replace(digits, train=blank)).task
    assert task.std == (1e-3,)
    assert task.normalise(task.train.images).isfinite().all()


def test_nothing_but_the_seed_decides(digits: Source) -> None:
    first = prepared(digits)
    others = [
        prepared(digits, network="wrn-10-1"),
        prepared(digits, recipe=Recipe(steps=99, batch_size=3)),
    ]
    torch.manual_seed(99)  # whatever ran before
    others.append(prepared(digits))
    for other in others:
        assert same(first.task.train, other.task.train)
        assert same(first.task.val, other.task.val)


def test_seeds_differ_in_split_and_distortion(digits: Source) -> None:
    one, two = prepared(digits, seed=0), prepared(digits, seed=1)
    assert set(rows_of(one.task.val)) != set(rows_of(two.task.val))
    assert set(rows_of(one.task.train)) != set(rows_of(two.task.train))
    assert same(one.test, two.test), "the test set is one and the same"


def test_the_split_is_equal_under_every_distortion(digits: Source) -> None:
    assert same(prepared(digits, distort="clean").task.val, prepared(digits).task.val)


def test_a_share_of_one_s_own(digits: Source) -> None:
    task = prepared(digits, val_fraction=0.5, distort="clean").task
    assert len(task.val) == round(0.5 * len(digits.train))
    assert len(task.train) + len(task.val) == len(digits.train)


def test_a_validation_split_of_the_source_s_own_is_kept(digits: Source) -> None:
    own = digits.test.subset(torch.arange(50))
    found = prepared(replace(digits, val=own), distort="clean", val_fraction=0.5)
    assert same(found.task.val, own)
    assert same(found.task.train, digits.train)


@pytest.mark.parametrize(
    ("network", "words"), [("wrn-11-1", "6n"), ("lenet", "28×28"), ("nope", "unknown")]
)
def test_an_impossible_network_is_refused_here(digits: Source, network: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        prepared(digits, network=network)


def test_the_source_is_left_as_it_was(digits: Source) -> None:
    before = digits.train.images.clone(), digits.train.labels.clone(), digits.test.labels.clone()
    found = prepared(digits)
    found.task.train.images.zero_()
    found.task.train.labels.zero_()
    assert torch.equal(digits.train.images, before[0])
    assert torch.equal(digits.train.labels, before[1])
    assert torch.equal(found.test.labels, before[2])
    assert found.distorted.true_labels.any(), "the truth is not the method's to overwrite"


# The data wall


def reachable(thing: Any, seen: dict[int, Any] | None = None) -> Iterator[Any]:
    """Everything that attributes, items, closures and bound arguments lead to."""
    seen = {} if seen is None else seen
    if id(thing) in seen or isinstance(thing, type | str | bytes | int | float | type(None)):
        return
    seen[id(thing)] = thing
    yield thing
    parts: list[Any] = []
    if isinstance(thing, dict):
        parts += [*thing.keys(), *thing.values()]
    elif isinstance(thing, list | tuple | set | frozenset):
        parts += thing
    elif isinstance(thing, partial):
        parts += [thing.func, thing.args, thing.keywords]
    elif isinstance(thing, torch.Tensor):
        parts += [thing._base]
    else:
        parts += (
            [getattr(thing, field.name) for field in fields(thing)] if is_dataclass(thing) else []
        )
        parts += [getattr(thing, "__dict__", None), getattr(thing, "__self__", None)]
        parts += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        parts += [getattr(thing, "__defaults__", None)]
    for part in parts:
        yield from reachable(part, seen)


def stores(tensors: list[torch.Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def tensors_in(thing: Any) -> list[torch.Tensor]:
    return [part for part in reachable(thing) if isinstance(part, torch.Tensor)]


def test_the_walk_finds_what_is_hidden() -> None:
    secret = torch.tensor([1.5])
    hidden = {
        "closure": lambda: secret,
        "partial": partial(print, [secret]),
        "bound": secret.clone,
        "view": secret[:],
    }
    for name, thing in hidden.items():
        assert stores([secret]) & stores(tensors_in(thing)), name


@pytest.mark.parametrize("distort", ["clean", NOISY])
def test_nothing_in_the_task_leads_to_test_images_or_true_labels(
    digits: Source, distort: str
) -> None:
    found = prepared(digits, distort=distort)
    task = found.task
    task.normalise(task.val.images[:1])  # fills what it keeps
    within = tensors_in(task)
    assert stores([task.train.images, task.val.labels]) <= stores(within), "the walk works"
    test, distorted = found.test, found.distorted
    forbidden = [test.images, test.labels, digits.train.images, digits.train.labels]
    forbidden += [distorted.true_labels, distorted.flipped, distorted.index]
    assert not stores(forbidden) & stores(within)
    images = set(rows_of(test)) - set(rows_of(digits.train))
    for tensor in within:
        if tensor.dtype == torch.uint8 and tensor.ndim == 4:
            assert not images & {image.numpy().tobytes() for image in tensor}
        if tensor.dtype == torch.int64 and distort != "clean":
            assert not torch.equal(tensor, distorted.true_labels)
    kinds = [part for part in reachable(task) if isinstance(part, Prepared | Source)]
    assert kinds == []
    assert {field.name for field in fields(task)} == {
        "classes", "channels", "size", "train", "val", "mean", "std", "flip", "recipe",
        "network", "device",
    }, "a new field: does it keep the wall?"  # fmt: skip


def test_a_network_that_cannot_take_the_images_is_refused_first() -> None:
    with pytest.raises(ConfigError, match="cannot take 1×8×8 images"):
        prepare(
            load("digits"), distort="clean", network="timm:inception_v3",
            recipe=Recipe(steps=1), seed=0, device=torch.device("cpu"),
        )  # fmt: skip
