"""STN's regularisers: colour jitter, Cutout, input scale and dropout, each with its strength.

λ (E,) -> λ + ε of every image (B, E) -> strengths, a share of each range -> one draw an image

Seven entries are of augmentation, the others of dropouts.  What happens to pixels happens here;
the input's scale and dropout happen to normalised images and inside a network, under the
strengths that `inside` reads off a draw's entries.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL.Image import Image

from bench.augment import engine
from bench.augment.choice import dice
from bench.augment.engine import Fill, Program
from bench.augment.hue import turned
from bench.augment.learnable import Values, parameter
from bench.augment.operations import IDENTITY, INDEX
from bench.augment.policy import Batch, Policy
from bench.errors import ConfigError

Tensor = torch.Tensor
JITTER = ("hue", "contrast", "saturation", "brightness")  # the first entries, in this order
ENHANCERS = torch.tensor(
    [IDENTITY, INDEX["contrast"], INDEX["color"], INDEX["brightness"]], dtype=torch.int64
)
LENGTH, HOLES, ON_PIXELS = 4, 5, 6  # of Cutout; how many entries act on pixels
AUGMENTATION = 7  # entries before those of dropouts
FARTHEST = 40.0  # of an entry from 0: σ(-40) is nothing beside 1
SLACK = 1e-9  # so that a strength of 1 that rounding made smaller is not cut to 0


@dataclass(frozen=True)
class Regulariser:
    """One hyperparameter: its strength is top · σ(entry).

    Attributes:
        name: As it stands in records.
        top: The end of its range, which begins at 0.
        start: Its strength before training.
        whole: Whether it is cut to a whole number.
    """

    name: str
    top: float
    start: float
    whole: bool = False


def regularisers(size: int, dropouts: int) -> tuple[Regulariser, ...]:
    """The hyperparameters for images of a size and a network with so many dropouts, in λ's order.

    Source: STN's experiments with 15 of them and its code, which starts the length at 4 of a
    stretch of 25; lengths are in proportion to a side of 32 pixels.
    """
    side = size / 32
    return (
        *(Regulariser(name, 0.5 if name == "hue" else 1.0, 0.05) for name in JITTER),
        Regulariser("cutout_length", 24 * side, 24 * side * 4 / 25, whole=True),
        Regulariser("cutout_holes", 4, 1, whole=True),
        Regulariser("input_scale", 0.3, 0.05),
        # The first dropout is the input's.
        *(
            Regulariser(f"dropout_{i}" if i else "input_dropout", 0.9 if i else 1.0, 0.05)
            for i in range(dropouts)
        ),
    )


@dataclass(frozen=True)
class Regularised:
    """What happens to each image's pixels, and under which λ; on the host.

    Attributes:
        entries: λ + ε (B, E) float64.
        order: (B, 4) int64, a permutation of `JITTER`.
        shift: (B,) int64, of hues, of 256 to a turn.
        factors: (B, 3) float64, of contrast, saturation and brightness.
        half: (B,) int64, half the side of the holes.
        holes: (B,) int64.
        place: (B, 4, 2) int64, row and column of the centre of each hole there may be.
    """

    entries: Tensor
    order: Tensor
    shift: Tensor
    factors: Tensor
    half: Tensor
    holes: Tensor
    place: Tensor

    def __len__(self) -> int:
        return len(self.entries)


class Regularisers(Policy):
    """Jitters colours and cuts holes, with strengths that each image perturbs.

    Args:
        shape: Height and width of the images, which are square.
        fill: The colour of holes, one uint8 value per channel: the training set's rounded mean,
            which is zero after normalisation.
        dropouts: How many entries are of dropouts.
        entries: λ (E,), E = 7 + dropouts, or one value for all; what is beyond ±40 is ±40.
        sigma: Standard deviations of ε, normal and of each image and entry: (E,), or one value.

    Attributes:
        entries: float64 on the host, changed in place by who learns it; like `sigma`.

    Raises:
        ValueError: If a σ is negative or not finite.

    Source: MacKay et al., "Self-Tuning Networks", 2019; the jitter is torchvision's ColorJitter on
    Pillow's images, bit for bit, the holes are those of DeVries and Taylor, 2017.
    Deviations: a hue that is turned by less than a step leaves the image as it is; holes are
    filled before normalisation; strengths are not squeezed by a thousandth at their ends.
    """

    kind = "regularisers"

    def __init__(
        self,
        shape: tuple[int, int],
        fill: tuple[int, ...],
        *,
        dropouts: int = 0,
        entries: Values | None = None,
        sigma: Values = 0.0,
    ) -> None:
        self.shape, self.fill, self.dropouts = (shape[0], shape[1]), tuple(fill), dropouts
        self.table = regularisers(shape[0], dropouts)
        self.tops = torch.tensor([each.top for each in self.table], dtype=torch.float64)
        if entries is None:
            entries = self.at([each.start for each in self.table])
        self.entries = parameter(entries, len(self.table)).clamp_(-FARTHEST, FARTHEST)
        self.sigma = parameter(sigma, len(self.table))
        if not ((self.sigma >= 0) & self.sigma.isfinite()).all():
            raise ValueError(f"sigma={sigma}: standard deviations are at least 0 and finite")

    def at(self, strengths: Values) -> Tensor:
        """The entries (E,) of strengths (E,)."""
        shares = torch.as_tensor(strengths, dtype=torch.float64) / self.tops
        return shares.logit().clamp_(-FARTHEST, FARTHEST)

    def strengths(self, entries: Tensor) -> Tensor:
        """Of entries (..., E), not cut to whole numbers; differentiable."""
        return self.tops * entries.sigmoid()

    def inside(self, entries: Tensor) -> Tensor:
        """Of entries (..., E) the strengths for a network: input scale, rates, (..., 1 + D)."""
        return self.strengths(entries)[..., ON_PIXELS:]

    @torch.no_grad()
    def sample(self, index: Tensor, rng: torch.Generator) -> Regularised:
        """Always the same number of random values an image."""
        count = len(index)
        noise = torch.randn(count, len(self.table), generator=rng, dtype=torch.float64)
        entries = self.entries + self.sigma * noise
        strength = self.strengths(entries)
        order = torch.from_numpy(np.argsort(dice(rng, count, len(JITTER)).numpy(), 1))
        width = strength[:, : len(JITTER)]
        # No strength of the jitter exceeds 1: its intervals are not cut at 0.
        turn, *scales = (width * (2 * dice(rng, count, len(JITTER)) - 1)).unbind(1)
        whole = (strength[:, [LENGTH, HOLES]] + SLACK).long()
        size = torch.tensor(self.shape)
        place = (dice(rng, count, int(self.tops[HOLES]), 2) * size).long()
        shift = (255 * turn).long() % 256  # cut towards 0
        factors = 1 + torch.stack(scales, 1)
        return Regularised(entries, order, shift, factors, whole[:, 0] // 2, whole[:, 1], place)

    def apply(self, batch: Batch, draw: Regularised) -> Batch:
        """Jitters in each image's own order, then cuts holes."""
        images, place = batch.images, draw.order.argsort(1)
        before = draw.order.new_tensor(range(len(JITTER))) < place[:, :1]
        images = engine.execute(images, _enhancing(draw, before))
        images = turned(images, draw.shift.to(images.device, non_blocking=True))
        images = engine.execute(images, _enhancing(draw, ~before))
        for number in range(int(draw.holes.amax()) if len(draw) else 0):
            images = engine.erase_boxes(images, _boxes(draw, number), Fill(hole=self.fill))
        return replace(batch, images=images)

    def transform(self, image: Image, draw: Regularised, row: int) -> Image:
        """Jitters and cuts one image.

        Raises:
            ConfigError: If it has another size than the images that the policy was made for.
        """
        if (image.height, image.width) != self.shape:
            height, width = self.shape
            raise ConfigError(
                f"an image of {image.width}×{image.height} pixels: these regularisers are for "
                f"{width}×{height}; resize it first"
            )
        pixels = torch.from_numpy(np.array(image)).view(*self.shape, -1)
        one = Regularised(**{name: part[row : row + 1] for name, part in vars(draw).items()})
        single = Batch(pixels.permute(2, 0, 1)[None].contiguous(), one.holes, one.holes)
        made = self.apply(single, one).images[0]
        return Pillow.fromarray(made.permute(1, 2, 0).squeeze(2).numpy())

    def log_prob(self, draw: Regularised) -> Tensor:
        """Log-density of ε, and under it of turns, factors, orders and centres, (B,) float64.

        Turns and factors count with the density of what they were before any was cut.
        """
        strength = self.strengths(draw.entries)
        total = -(2 * strength[:, : len(JITTER)]).log().sum(1) - math.lgamma(len(JITTER) + 1)
        holes = (strength[:, HOLES] + SLACK).floor()
        total = total - holes * math.log(math.prod(self.shape))
        if self.sigma.any():
            noisy = self.sigma > 0
            normal = torch.distributions.Normal(self.entries[noisy], self.sigma[noisy])
            total = total + normal.log_prob(draw.entries[:, noisy]).sum(1)
        return total

    def explain(self, draw: Regularised, row: int) -> list[str]:
        """Turn, factors and holes of one image, in order."""
        said = []
        for which in draw.order[row].tolist():
            if which:
                said.append(f"{JITTER[which]} ×{draw.factors[row, which - 1]:.2f}")
            elif draw.shift[row]:
                said.append(f"hue {(int(draw.shift[row]) + 128) % 256 - 128:+d}/256")
        if draw.half[row] and draw.holes[row]:
            said.append(f"{draw.holes[row]} holes of {2 * draw.half[row]}")
        return said

    def state_dict(self) -> dict[str, Tensor]:
        """λ and σ, for `session.keep`."""
        return {"entries": self.entries.detach().clone(), "sigma": self.sigma.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts them back, in place."""
        with torch.no_grad():
            self.entries.copy_(state["entries"])
            self.sigma.copy_(state["sigma"])

    def describe(self) -> dict[str, Any]:
        """Kind, shape, fill, λ and σ; and names and strengths, for those who read it."""
        strengths = self.strengths(self.entries.detach()).tolist()
        names = [each.name for each in self.table]
        return {
            "policy": self.kind,
            "shape": list(self.shape),
            "fill": list(self.fill),
            "dropouts": self.dropouts,
            "entries": self.entries.tolist(),
            "sigma": self.sigma.tolist(),
            "strengths": dict(zip(names, strengths, strict=True)),
        }

    @classmethod
    def rebuild(cls, description: dict[str, Any]) -> "Regularisers":
        """The policy that gave this description."""
        names = ("dropouts", "entries", "sigma")
        height, width = description["shape"]
        numbers = {name: description[name] for name in names}
        return cls((height, width), tuple(description["fill"]), **numbers)


def _enhancing(draw: Regularised, chosen: Tensor) -> Program:
    """The program that does the chosen ones (B, 4) of an order, hues apart."""
    factors = torch.cat([torch.ones(len(draw), 1, dtype=torch.float64), draw.factors], 1)
    operation = torch.where(chosen, ENHANCERS[draw.order], IDENTITY)
    magnitude = factors.gather(1, draw.order) - 1
    return Program(operation, magnitude, torch.zeros(*magnitude.shape, 2, dtype=torch.float64))


def _boxes(draw: Regularised, number: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """First and last column and row (4, B) of each image's hole of a number; empty for none."""
    row, column = draw.place[:, number].unbind(1)
    half = torch.where(draw.holes > number, draw.half, 0)
    ends = [column - half, column + half - 1, row - half, row + half - 1]
    return torch.stack(ends).numpy()
