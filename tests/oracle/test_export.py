"""Exported policies: for the same draw, the transform gives the engine's pixels, bit for bit.

Warps give floats, of which the transform gives the nearest whole values.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.augment import spaces
from bench.augment.autoaugment import autoaugment
from bench.augment.choice import randaugment, trivialaugment, uniformaugment
from bench.augment.engine import Fill
from bench.augment.export import BUILDERS, PolicyTransform, load, rebuild, save
from bench.augment.learnable import Categorical, Gated, OpsAndLevels, pairs
from bench.augment.mixing import Mixup
from bench.augment.per_point import PerPoint
from bench.augment.policy import Batch, Chain, Identity, Policy
from bench.augment.population import Population, Schedule
from bench.augment.regularisers import Regularisers
from bench.augment.spaces import space
from bench.augment.standard import CropFlip, Cutout, Erasing
from bench.errors import ConfigError
from bench.rng import generator

FILL = Fill(outside=(7,), hole=(125, 123, 114))
IMAGES = 64


def inner() -> dict[str, Policy]:
    """One policy of every kind that works on single images."""
    wide, ohl = space("wide-long"), space("ohl")
    return {
        "identity": Identity(),
        "crop-flip": CropFlip(4, flip=True),
        "cutout": Cutout(15, (32, 32), FILL.hole),
        "randaugment": randaugment(space("randaugment"), 3, 14, FILL),
        "uniformaugment": uniformaugment(space("uniformaugment"), FILL),
        "uniformaugment gar": uniformaugment(wide, FILL, gar=True),
        "trivialaugment": trivialaugment(space("trivialaugment-wide"), FILL),
        "autoaugment": autoaugment("svhn", FILL),
        "categorical": Categorical(ohl, FILL, elements=pairs(ohl), weigh="sigmoid"),
        "ops-and-levels": OpsAndLevels(wide, FILL),
        "gated": Gated(space("pba"), FILL, probabilities=0.0, magnitudes=0.0),
        "population": Population(space("pba"), FILL, sigma=1.0, entries=-1.0),
        "schedule": Schedule(space("pba-raw"), FILL, knots=[[-3.0] * 54, [0.5] * 54]),
        "erasing": Erasing((32, 32), FILL.hole, probability=0.9),
        "per-point": PerPoint(gates=1.0, magnitudes=2.0),
        "regularisers": Regularisers((32, 32), FILL.hole, dropouts=2, sigma=0.5),
    }


POLICIES = inner()


def noise(channels: int = 3) -> torch.Tensor:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (IMAGES, channels, 32, 32), dtype=np.uint8)
    return torch.from_numpy(pixels)


def picture() -> Image.Image:
    return Image.fromarray(noise()[0].permute(1, 2, 0).numpy())


def test_every_kind_of_policy_that_can_be_rebuilt_is_tested() -> None:
    kinds = {policy.describe()["policy"] for policy in POLICIES.values()}
    assert kinds | {"chain", "mixup", "cutmix", "augmix"} == set(BUILDERS)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_transform_equals_the_engine(name: str, channels: int, tmp_path: Path) -> None:
    original = Chain(POLICIES[name], CropFlip(2, flip=True))
    if name == "per-point":  # only a learner takes what comes out of a warp
        original = Chain(CropFlip(2, flip=True), POLICIES[name])
    if channels == 1 and name == "cutout":
        original = Chain(Cutout(15, (32, 32), (99,)))
    if channels == 1 and name == "erasing":
        original = Chain(Erasing((32, 32), (99,), probability=0.9))
    save(original.describe(), tmp_path / "policy.json", {"method": name})
    policy = load(tmp_path / "policy.json").policy
    images, index = noise(channels), torch.arange(IMAGES)
    draw = original.sample(index, generator("export", name))
    batch = Batch(images, torch.zeros(IMAGES, dtype=torch.int64), index)
    made = original.apply(batch, draw).images
    assert made.is_floating_point() is (name == "per-point")
    made = made.round().byte()
    assert name == "identity" or (made != images).any()
    for row in range(IMAGES):
        pixels = images[row].permute(1, 2, 0).squeeze(2).numpy()
        out = np.array(policy.transform(Image.fromarray(pixels), draw, row))
        expected = made[row].permute(1, 2, 0).squeeze(2).numpy()
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", POLICIES)
def test_a_rebuilt_policy_draws_and_describes_alike(name: str) -> None:
    original = POLICIES[name]
    copy = rebuild(json.loads(json.dumps(original.describe())))
    assert copy.describe() == original.describe()
    index = torch.arange(IMAGES)
    first = original.sample(index, generator("again"))
    second = copy.sample(index, generator("again"))
    assert repr(first) == repr(second)


class Pictures(Dataset[torch.Tensor]):
    """Pillow images under a transform, as torchvision's data sets hold them."""

    def __init__(self, transform: PolicyTransform) -> None:
        self.images = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in noise()]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        return torch.from_numpy(np.array(self.transform(self.images[row])))


def test_it_works_in_a_data_loader_with_workers() -> None:
    transform = PolicyTransform(POLICIES["randaugment"])
    loaded = []
    for _ in range(2):
        loader = DataLoader(
            Pictures(transform), 16, num_workers=2, generator=torch.Generator().manual_seed(1)
        )
        loaded.append(torch.cat(list(loader)))
    assert loaded[0].shape == (IMAGES, 32, 32, 3)
    assert torch.equal(loaded[0], loaded[1])  # the loader's seed decides
    assert (loaded[0] != noise().permute(0, 2, 3, 1)).any()


def test_a_policy_that_mixes_images_is_refused() -> None:
    policy = Chain(CropFlip(4, flip=True), Mixup(1.0, 10))
    with pytest.raises(ConfigError, match="mixes images"):
        PolicyTransform(policy)


def test_parameters_for_each_image_need_its_row() -> None:
    gates = torch.full((IMAGES, 7), -80.0)
    gates[3, 1] = 80.0
    transform, image = PolicyTransform(PerPoint(IMAGES, gates=gates)), picture()
    with pytest.raises(ConfigError, match="call it with the image's row"):
        transform(image)
    assert transform(image, 2) == image
    assert any(transform(image, 3) != image for _ in range(3))


def test_a_row_for_each_image_is_in_no_file(tmp_path: Path) -> None:
    policy = Chain(CropFlip(2, flip=True), PerPoint(IMAGES))
    save(policy.describe(), tmp_path / "policy.json", {})
    with pytest.raises(ConfigError, match=rf"a row for each of {IMAGES} images") as caught:
        load(tmp_path / "policy.json")
    assert "\n" not in str(caught.value)
    assert PolicyTransform(policy)(picture(), 5).size == (32, 32)  # in memory it works


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("cutout", (64, 64)),
        ("erasing", (64, 64)),
        ("regularisers", (64, 64)),
        ("randaugment", (8, 6)),
        ("per-point", (8, 6)),
    ],
)
def test_images_of_other_shapes_are_refused(name: str, size: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match=f"{size[0]}×{size[1]} pixels"):
        PolicyTransform(POLICIES[name])(Image.new("RGB", size))


def test_a_table_that_has_changed_is_refused() -> None:
    description = POLICIES["randaugment"].describe() | {"table": "0123456789abcdef"}
    with pytest.raises(ConfigError, match="another table"):
        rebuild(description)


def test_other_modes_are_refused() -> None:
    with pytest.raises(ConfigError, match="mode 'RGBA'"):
        PolicyTransform(Identity())(Image.new("RGBA", (8, 8)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is no policy file"),
        ('{"augbench_policy": 2}', "is no policy file"),
        ('{"augbench_policy": 1, "policy": {"policy": "x"}}', "policy 'x' cannot be rebuilt"),
        ('{"augbench_policy": 1, "policy": {"policy": "cutout"}}', "lacks 'shape'"),
        ('{"augbench_policy": 1, "policy": {"policy": "uniform", "space": "randaugment", '
         '"table": "TABLE", "fill": {"outside": [0], "hole": [0]}, "ops": 0}}', "ops=0"),
        ('{"augbench_policy": 1, "policy": {"policy": "uniform", "space": "x", "fill": {}}}',
         "space 'x'"),
        ('{"augbench_policy": 1}', "lacks 'policy'"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    path.write_text(text.replace("TABLE", space("randaugment").digest))
    with pytest.raises(ConfigError, match=said):
        load(path)


def test_the_spaces_are_all_known_by_name() -> None:
    assert all(space(name).name == name for name in spaces.SPACES)
