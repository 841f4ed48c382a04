"""AutoDO's augmentation: every training image has a distribution of its own over warps.

row of two tables -> gates and sizes of seven warps -> one matrix -> one bilinear warp

Gates are relaxed coins and sizes are normal, so a draw is plain noise, and gradients pass through
the warp to the tables.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as Pillow
from PIL.Image import Image

from bench.augment.choice import dice
from bench.augment.learnable import coin
from bench.augment.policy import Batch, Policy
from bench.augment.relaxed import logistic, relaxed_gate
from bench.augment.sampler import affine_matrix, warp
from bench.errors import ConfigError

Tensor = torch.Tensor
Values = Tensor | float
View = Literal["direct", "upsampled", "released"]
Spread = Literal["variance", "deviation"]
# The warps in the order of `affine_matrix`, with the size at a level of one: degrees, shares of
# the side, slopes, factors - 1.
WARPS = ("rotate", "translate-x", "translate-y", "shear-x", "shear-y", "scale-x", "scale-y")
RANGES = (30.0, 0.45, 0.45, 0.3, 0.3, 0.5, 0.5)
SHIFTS = (1, 2)  # columns of the warps that are shares of the side
SCALES = (5, 6)
BEYOND = 3.0  # standard normal numbers are cut here: two shears of 1 would fold the image
SMALLEST = -0.9  # of a scale's factor - 1; at -1 and below the image is a line, or mirrored
FINER = 4  # how much larger upsampled images are


@dataclass(frozen=True)
class Noise:
    """A draw before any parameter has touched it; on the host.

    Attributes:
        gate: (B, 7) float32, logistic.
        size: (B, 7) float32, standard normal within ±3.
        index: (B,) int64, rows of the training set.
    """

    gate: Tensor
    size: Tensor
    index: Tensor


class PerPoint(Policy):
    """Seven warps of each image at once, with a probability and a spread for each image and warp.

    Warp a of image i happens with the probability σ(gates[i, a]); its size is normal about 0 with
    a standard deviation that σ(magnitudes[i, a]) sets, in units of `RANGES`.

    Args:
        points: Images in the training set; with 1 all share one row.
        gates: (points, 7) logits, or one value for all.
        magnitudes: (points, 7) logits, or one value for all.
        spread: `variance`: the standard deviation is ½·√σ, as the paper has it, with M = 5 in
            its factor M/10; `deviation`: σ, as in the released code.
        view: `direct` warps the image; `upsampled` a copy four times as large, as the code does
            for 32 pixels; `released` does so with that code's matrices, made for the small
            image: their pivot lies in the large one's upper left quarter, and they shift a
            quarter as far.
        soft: Whether gates are relaxed, so that every warp moves every image by a part of its
            size, as a search that differentiates through draws sees it.
        device: Where the tables live.

    Attributes:
        gates: float32, changed in place by who learns them; like `magnitudes`.

    Raises:
        ValueError: If there are no points.

    Source: AutoDO (Gudovskiy et al., 2021), section 4.1, its supplement and its code: ranges of
    section 5.1, scales, then a turn, shifts, shears; pixels outside are the nearest inside.
    Deviations: normal numbers are cut at ±3 and scales at a tenth; the whole tables of `points`
    images are no part of `describe`.
    """

    kind = "per-point"
    learned = ("gates", "magnitudes")

    def __init__(
        self,
        points: int = 1,
        *,
        gates: Values = 0.0,
        magnitudes: Values = 0.0,
        spread: Spread = "variance",
        view: View = "direct",
        soft: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        if points < 1:
            raise ValueError(f"points={points}: at least one row is needed")
        self.points, self.spread, self.view, self.soft = points, spread, view, soft
        self.indexed = points > 1
        self.gates = _table(gates, points, device)
        self.magnitudes = _table(magnitudes, points, device)

    def sample(self, index: Tensor, rng: torch.Generator) -> Noise:
        """Always the same number of random values an image."""
        shape = len(index), len(WARPS)
        size = torch.randn(shape, generator=rng, dtype=torch.float64).clamp(-BEYOND, BEYOND)
        return Noise(logistic(dice(rng, *shape)).float(), size.float(), index)

    @torch.no_grad()
    def apply(self, batch: Batch, draw: Noise) -> Batch:
        """The batch with images as float32 of values 0..255."""
        gates, magnitudes = self.rows(draw.index)
        images = self.warped(batch.images, draw, gates, magnitudes, hard=not self.soft)
        return replace(batch, images=images)

    def warped(
        self,
        images: Tensor,
        draw: Noise,
        gates: Tensor,
        magnitudes: Tensor,
        hard: bool = True,
    ) -> Tensor:
        """Images (B, C, H, W) float under given rows of logits, through which gradients pass.

        Args:
            images: (B, C, H, W), square; uint8 or float with values 0..255.
            draw: Noise of B images.
            gates: (B, 7) or (1, 7) floats, logits on the images' device.
            magnitudes: Likewise.
            hard: Whether gates are 0 or 1, with the gradient of soft ones (straight-through).

        Returns:
            In the type of `gates`, values 0..255.
        """
        if images.shape[-1] != images.shape[-2]:
            raise ValueError(f"{tuple(images.shape)}: shares of a side need square images")
        levels = self.levels(draw, gates, magnitudes, hard)
        return _view(images.to(levels.dtype), levels, self.view)

    def levels(self, draw: Noise, gates: Tensor, magnitudes: Tensor, hard: bool = True) -> Tensor:
        """Signed sizes of the warps (B, 7), in units of `RANGES`, 0 behind a closed gate."""
        device, dtype = gates.device, gates.dtype
        noise = draw.gate.to(device, dtype, non_blocking=True)
        size = draw.size.to(device, dtype, non_blocking=True)
        return relaxed_gate(gates, noise, hard=hard) * size * self._deviation(magnitudes)

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of gates and magnitudes of images (B,): (B, 7) each, (1, 7) where shared."""
        if self.points == 1:
            return self.gates, self.magnitudes
        row = index.to(self.gates.device, non_blocking=True)
        return self.gates[row], self.magnitudes[row]

    def log_prob(self, draw: Noise) -> Tensor:
        """Log-density of which gates open and of the sizes behind them, (B,) float64.

        The cut of the normal distribution at ±3 (0.3 %) is left out.

        Raises:
            ValueError: If gates are soft: then none opens or stays shut.
        """
        if self.soft:
            raise ValueError("soft gates have no probability of being open")
        gates, magnitudes = (each.double().cpu() for each in self.rows(draw.index))
        opens = gates + draw.gate.double() > 0
        spread = self._deviation(magnitudes)
        normal = torch.distributions.Normal(torch.zeros_like(spread), spread)
        # The size drawn is a number: it does not move with the parameter that drew it.
        density = normal.log_prob((draw.size.double() * spread).detach())
        logit = gates.expand(opens.shape)
        return (coin(opens, logit) + torch.where(opens, density, 0.0)).sum(1)

    def probability(self) -> Tensor:
        """(points, 7) in [0, 1]: how likely each warp is."""
        return self.gates.sigmoid()

    def strength(self) -> Tensor:
        """(points, 7) in [0, 1]: the standard deviation of each warp's size, of its range."""
        return self._deviation(self.magnitudes)

    def transform(self, image: Image, draw: Noise, row: int) -> Image:
        """Warps one image; values are rounded to whole ones."""
        if image.width != image.height:
            raise ConfigError(
                f"an image of {image.width}×{image.height} pixels: shares of a side need a square"
            )
        pixels = torch.from_numpy(np.array(image)).view(image.height, image.width, -1)
        one = Noise(*(part[row : row + 1] for part in (draw.gate, draw.size, draw.index)))
        single = Batch(pixels.permute(2, 0, 1)[None], torch.zeros(1), one.index)
        made = self.apply(single, one).images[0].cpu().round().clamp(0, 255).byte()
        return Pillow.fromarray(made.permute(1, 2, 0).squeeze(2).numpy())

    @torch.no_grad()
    def explain(self, draw: Noise, row: int) -> list[str]:
        """The warps done to one image, with sizes in percent of their range."""
        one = Noise(*(part[row : row + 1] for part in (draw.gate, draw.size, draw.index)))
        levels = self.levels(one, *self.rows(one.index), hard=not self.soft)[0].tolist()
        pairs = zip(WARPS, levels, strict=True)
        return [f"{name} {100 * level:+.0f} %" for name, level in pairs if level]

    def describe(self) -> dict[str, Any]:
        """Kind and options; the logits where one row serves all, else their means."""
        logits = {"gates": self.gates, "magnitudes": self.magnitudes}
        if self.points == 1:
            numbers = {name: table[0].tolist() for name, table in logits.items()}
        else:
            numbers = {f"mean_{name}": table.mean(0).tolist() for name, table in logits.items()}
        about: dict[str, Any] = {"warps": list(WARPS), "points": self.points}
        if self.soft:
            about["soft"] = True
        return {"policy": self.kind, **about, "spread": self.spread, "view": self.view, **numbers}

    @classmethod
    def rebuild(cls, description: dict[str, Any]) -> "PerPoint":
        """The policy that gave this description.

        Raises:
            ConfigError: If it has a row for each image: they are not in the description.
        """
        if description["points"] != 1:
            raise ConfigError(
                f"this policy has a row for each of {description['points']} images; a record "
                "holds only their means, the rows themselves are in the run's file under points/"
            )
        gates, magnitudes = (torch.tensor([description[name]]) for name in cls.learned)
        how = {name: description[name] for name in ("spread", "view")}
        soft = description.get("soft", False)
        return cls(1, gates=gates, magnitudes=magnitudes, soft=soft, **how)

    def _deviation(self, magnitudes: Tensor) -> Tensor:
        share = magnitudes.sigmoid()
        return 0.5 * share.sqrt() if self.spread == "variance" else share


def blurred(images: Tensor, view: View) -> Tensor:
    """What `view` does to an image that no warp moves: nothing, or up and down again."""
    if view == "direct":
        return images
    levels = torch.zeros(len(images), len(WARPS), device=images.device)
    return _view(images.to(levels.dtype), levels, "upsampled")


def _view(images: Tensor, levels: Tensor, view: View) -> Tensor:
    side = images.shape[-1]
    sizes = [level * reach for level, reach in zip(levels.unbind(1), RANGES, strict=True)]
    for column in SHIFTS:
        sizes[column] = sizes[column] * side
    for column in SCALES:
        sizes[column] = sizes[column].clamp_min(SMALLEST)
    matrix = affine_matrix(*sizes)
    if view == "direct":
        return warp(images, matrix, "border")
    large = F.interpolate(images, scale_factor=FINER, mode="bilinear", align_corners=False)
    turn, shift = matrix[:, :, :2], matrix[:, :, 2:]
    if view == "upsampled":
        shift = FINER * shift
    else:
        # Turned about the small image's centre, at side / 2 of the large one's pixels.
        off = (FINER * side - 1) / 2 - side / 2
        shift = shift + (turn.sum(2, keepdim=True) - 1) * off
    moved = warp(large, torch.cat([turn, shift], 2), "border")
    return F.interpolate(moved, size=side, mode="bilinear", align_corners=False)


def _table(values: Values, points: int, device: torch.device | str) -> Tensor:
    given = torch.as_tensor(values, dtype=torch.float32).detach().to(device)
    return given.expand(points, len(WARPS)).clone()
