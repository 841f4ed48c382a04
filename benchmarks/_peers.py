"""What benchmarks/augmentation.py holds the engine against: Pillow by hand, and other libraries.

Each function returns a `Candidate` that augments some of the given pictures one call at a time, or
raises `Unavailable` with the reason.  All peers work image by image, because that is the only way
they have to give each image its own policy; the exception, kornia on a whole batch, is named so.
"""

import math
import multiprocessing
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.connection import Connection
from operator import methodcaller
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.autoaugment import RandAugment

from bench.augment.engine import Program
from bench.augment.operations import OPERATIONS

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks the network for its version
LEVELS = range(9, 15)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
AFFINE, NEAREST = Image.Transform.AFFINE, Image.Resampling.NEAREST
PILLOW = "raw Pillow loop, policy drawn beforehand"
TUNED = "raw Pillow loop, tables and matrices made beforehand too"
TORCHVISION = "torchvision RandAugment on PIL"
FULL = "torchvision on PIL, full"
Call = Callable[[Image.Image], Image.Image]


class Unavailable(Exception):
    """A candidate cannot run here; the message says why."""


@dataclass(frozen=True)
class Pictures:
    """The images that everybody gets, each in the form it likes best.

    Attributes:
        origin: Where they come from, in words.
        tensor: (N, 3, S, S) uint8.
    """

    origin: str
    tensor: torch.Tensor

    @property
    def side(self) -> int:
        """Height and width in pixels."""
        return self.tensor.shape[-1]

    @cached_property
    def arrays(self) -> list[np.ndarray]:
        """Contiguous (S, S, 3) arrays."""
        return list(np.ascontiguousarray(self.tensor.permute(0, 2, 3, 1).numpy()))

    @cached_property
    def pil(self) -> list[Image.Image]:
        """Pillow images."""
        return [Image.fromarray(array) for array in self.arrays]


@dataclass(frozen=True)
class Candidate:
    """Something to time.

    Attributes:
        name: As the table shows it.
        images: How many images one call of `work` augments.
        work: Timed; gets what `prepare` returned.
        prepare: Not timed.
    """

    name: str
    images: int
    work: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


def each(pairs: Sequence[tuple[Any, Callable[[Any], object]]]) -> None:
    """Applies to each image its own transform."""
    for image, transform in pairs:
        transform(image)


def per_level(
    name: str, images: Sequence[Any], make: Callable[[int], Callable[[Any], object]]
) -> Candidate:
    """A library's RandAugment on single images, with a level for each drawn beforehand."""
    transforms = {level: make(level) for level in LEVELS}

    def prepare() -> list[tuple[Any, Callable[[Any], object]]]:
        return [(image, transforms[random.choice(LEVELS)]) for image in images]

    return Candidate(name, len(images), each, prepare)


# Pillow by hand


def raw_pillow(
    pictures: Pictures, count: int, draw: Callable[[int, int], Program], tuned: bool = False
) -> Candidate:
    """Pillow's own functions in a loop; choosing them and their arguments is not timed."""
    images = pictures.pil[:count]

    def prepare() -> list[tuple[Image.Image, tuple[Call, ...]]]:
        program = draw(count, pictures.side)
        return list(zip(images, pillow_calls(program, pictures.side, tuned), strict=True))

    return Candidate(TUNED if tuned else PILLOW, count, pillow_loop, prepare)


def pillow_loop(jobs: list[tuple[Image.Image, tuple[Call, ...]]]) -> list[Image.Image]:
    """The loop that is timed."""
    out = []
    for image, calls in jobs:
        for call in calls:
            image = call(image)
        out.append(image)
    return out


def pillow_calls(program: Program, side: int, tuned: bool) -> list[tuple[Call, ...]]:
    """What to call for each image; nothing where the image stays as it is."""
    rows = zip(program.operation.tolist(), program.magnitude.tolist(), strict=True)
    black = Image.new("RGB", (side, side))
    out = []
    for operations, magnitudes in rows:
        steps = zip(operations, magnitudes, strict=True)
        calls = [_pillow_call(OPERATIONS[i].name, m, black, tuned) for i, m in steps]
        out.append(tuple(call for call in calls if call is not None))
    return out


def _pillow_call(name: str, m: float, black: Image.Image, tuned: bool) -> Call | None:
    plain = {"autocontrast": ImageOps.autocontrast, "equalize": ImageOps.equalize}
    if name in plain:
        return plain[name]
    if name == "invert":
        return ImageOps.invert
    if name == "identity" or m == 0:
        return None
    warps = {
        "shear-x": (1, m, 0, 0, 1, 0),
        "shear-y": (1, 0, 0, m, 1, 0),
        "translate-x": (1, 0, m, 0, 1, 0),
        "translate-y": (1, 0, 0, 0, 1, m),
    }
    if name in warps:
        return methodcaller("transform", black.size, AFFINE, warps[name], NEAREST)
    if name == "rotate":
        if tuned:
            return methodcaller(
                "transform", black.size, AFFINE, _rotation(m, *black.size), NEAREST
            )
        return methodcaller("rotate", m, NEAREST)
    if name == "posterize":
        mask = 256 - 2 ** int(m)
        table = [value & mask for value in range(256)] * 3
        return (
            methodcaller("point", table) if tuned else partial(ImageOps.posterize, bits=8 - int(m))
        )
    if name == "solarize":
        table = [value if value < 256 - m else 255 - value for value in range(256)] * 3
        return (
            methodcaller("point", table)
            if tuned
            else partial(ImageOps.solarize, threshold=256 - m)
        )
    if name == "solarize-add":
        table = [min(255, value + int(m)) if value < 128 else value for value in range(256)] * 3
        return methodcaller("point", table)
    if name == "brightness" and tuned:
        return lambda image: Image.blend(black, image, 1 + m)
    enhancer = getattr(ImageEnhance, name.capitalize())
    return lambda image: enhancer(image).enhance(1 + m)


def _rotation(degrees: float, width: int, height: int) -> tuple[float, ...]:
    """The matrix that Image.rotate makes for an angle that is not a right one."""
    angle = -math.radians(degrees % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return (cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y)


# Other libraries


def torchvision_pil(pictures: Pictures, count: int) -> Candidate:
    """The usual way: one Pillow image after the other."""
    return per_level(TORCHVISION, pictures.pil[:count], partial(RandAugment, 2))


def torchvision_tensor(pictures: Pictures, count: int) -> Candidate:
    """torchvision.transforms.v2 on single uint8 tensors."""
    name = "torchvision.v2 RandAugment, uint8 tensors one by one"
    return per_level(name, pictures.tensor[:count].unbind(), partial(v2.RandAugment, 2))


def torchvision_pil_full(pictures: Pictures, count: int) -> Candidate:
    """Crop, flip, RandAugment, to float, normalise: what a training script's data set does."""

    def make(level: int) -> Callable[[Any], object]:
        return v1.Compose(
            [
                v1.RandomCrop(pictures.side, padding=4),
                v1.RandomHorizontalFlip(),
                RandAugment(2, level),
                v1.ToTensor(),
                v1.Normalize(MEAN, STD),
            ]
        )

    return per_level(FULL, pictures.pil[:count], make)


def torchvision_tensor_full(pictures: Pictures, count: int) -> Candidate:
    """The same with torchvision.transforms.v2 on uint8 tensors."""

    def make(level: int) -> Callable[[Any], object]:
        return v2.Compose(
            [
                v2.RandomCrop(pictures.side, padding=4),
                v2.RandomHorizontalFlip(),
                v2.RandAugment(2, level),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    name = "torchvision.v2 on uint8 tensors one by one, full"
    return per_level(name, pictures.tensor[:count].unbind(), make)


def timm(pictures: Pictures, count: int) -> Candidate:
    """timm on Pillow images; its default probability of one half per operation is switched off."""
    try:
        from timm.data.auto_augment import rand_augment_transform
    except ImportError as error:
        raise Unavailable(f"timm: {error}") from error
    hparams = {"img_mean": (0, 0, 0), "interpolation": NEAREST}
    transform = rand_augment_transform("rand-m9-n2-p1.0-inc1", hparams)
    pairs = [(image, transform) for image in pictures.pil[:count]]
    return Candidate("timm rand-m9-n2-p1-inc1 on PIL, nearest", count, each, lambda: pairs)


def kornia(pictures: Pictures, count: int, batch: int) -> Candidate:
    """kornia on float32 in [0, 1]; it draws one pair of operations for a whole batch."""
    try:
        from kornia.augmentation.auto import RandAugment as Kornia
    except ImportError as error:
        raise Unavailable(f"kornia: {error}") from error
    transform = Kornia(n=2, m=9)
    floats = pictures.tensor[:count].float() / 255
    pairs = [(part, transform) for part in floats.split(batch)]
    way = "batches of 1" if batch == 1 else f"batch {batch}: another algorithm, one policy a batch"
    return Candidate(f"kornia RandAugment, {way}", count, each, lambda: pairs)


def albumentations(pictures: Pictures, count: int) -> Candidate:
    """Two of 14 operations like RandAugment's at levels 9..14 of 30; it has no RandAugment."""
    try:
        import albumentations as a
        import cv2
    except ImportError as error:
        raise Unavailable(f"albumentations: {error}") from error
    cv2.setNumThreads(0)
    nearest = {"interpolation": cv2.INTER_NEAREST, "p": 1.0}
    shift = round(14 / 30 * 150 / 331 * pictures.side)
    still = {"hue": (0.0, 0.0), "p": 1.0}
    operations = [
        a.NoOp(p=1.0),
        a.Affine(shear={"x": (-8, 8), "y": (0, 0)}, **nearest),
        a.Affine(shear={"x": (0, 0), "y": (-8, 8)}, **nearest),
        a.Affine(translate_px={"x": (-shift, shift), "y": (0, 0)}, **nearest),
        a.Affine(translate_px={"x": (0, 0), "y": (-shift, shift)}, **nearest),
        a.Rotate((-14, 14), **nearest),
        a.RandomBrightnessContrast((-0.4, 0.4), (0.0, 0.0), p=1.0),
        a.RandomBrightnessContrast((0.0, 0.0), (-0.4, 0.4), p=1.0),
        a.ColorJitter((1.0, 1.0), (1.0, 1.0), (0.6, 1.4), **still),
        a.Sharpen((0.2, 0.4), (1.0, 1.0), p=1.0),
        a.Posterize(6, p=1.0),
        a.Solarize((0.5, 0.7), p=1.0),
        a.AutoContrast(p=1.0),
        a.Equalize(p=1.0),
    ]
    transform = a.SomeOf(operations, n=2, replace=True, p=1.0)
    arrays = pictures.arrays[:count]

    def work(_: None) -> None:
        for array in arrays:
            transform(image=array)

    return Candidate("albumentations SomeOf(14 operations, n=2)", count, work)


# All cores


class Crew:
    """Processes that each do a candidate's whole work, as a data loader's workers would.

    They are forked, so they hold the images already, and nothing they make is sent back: the time
    is what the work itself takes.
    """

    def __init__(self, candidates: Sequence[Candidate], workers: int) -> None:
        self.workers = workers
        self._pipes: list[Connection] = []
        self._processes = []
        context = multiprocessing.get_context("fork")
        for number in range(workers):
            here, there = context.Pipe()
            arguments = (candidates, there, number)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            self._pipes.append(here)
            self._processes.append(process)

    def candidates(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """The same candidates, done by all workers at once."""

        def prepare(position: int) -> None:
            self._tell(position)

        def work(_: None) -> None:
            self._tell(True)

        return [
            Candidate(c.name, c.images * self.workers, work, partial(prepare, i))
            for i, c in enumerate(candidates)
        ]

    def close(self) -> None:
        """Ends the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(10)

    def _tell(self, message: object) -> None:
        for pipe in self._pipes:
            pipe.send(message)
        for pipe in self._pipes:
            pipe.recv()


def _serve(candidates: Sequence[Candidate], pipe: Connection, number: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(number)
    random.seed(number)
    while (position := pipe.recv()) is not None:
        given = candidates[position].prepare()
        pipe.send(True)
        pipe.recv()
        candidates[position].work(given)
        pipe.send(True)
