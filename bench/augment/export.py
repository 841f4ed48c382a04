"""Policies as files, and as transforms for an ordinary PyTorch data loader.

    augbench policy export RUN --output policy.json

    from bench.augment.export import load
    transform = load("policy.json")            # Pillow image -> Pillow image
    dataset = torchvision.datasets.CIFAR10("data", transform=Compose([transform, ToTensor()]))

A file holds what `Policy.describe` says, nothing else: plain JSON, no code.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from bench.augment.augmix import AugMix
from bench.augment.choice import SubPolicies, Uniform
from bench.augment.learnable import Categorical, Gated, OpsAndLevels
from bench.augment.mixing import CutMix, Mixup
from bench.augment.per_point import PerPoint
from bench.augment.policy import Chain, Identity, Policy
from bench.augment.population import Population, Schedule
from bench.augment.regularisers import Regularisers
from bench.augment.standard import CropFlip, Cutout, Erasing
from bench.errors import ConfigError

FORMAT = 1
MODES = ("L", "RGB")


class PolicyTransform(torch.nn.Module):
    """A policy as a torchvision transform: draws anew for each image, and applies with Pillow.

    It draws from torch's global generator, which a data loader seeds in each of its workers.

    Args:
        policy: A policy that works on single images.
        about: Where it comes from, as its file says.

    Raises:
        ConfigError: If it mixes images or makes several of one.
    """

    def __init__(self, policy: Policy, about: dict[str, Any] | None = None) -> None:
        super().__init__()
        if not policy.single:
            raise ConfigError(
                "this policy mixes images or makes several views of each, which no transform of "
                "one image can do"
            )
        self.policy, self.about = policy, about or {}

    def forward(self, image: Image, index: int | None = None) -> Image:
        """The augmented image.

        Args:
            image: Of mode L or RGB.
            index: The image's row in the training set, for policies with parameters per image.

        Raises:
            ConfigError: If the image has another mode, or its row is needed and missing.
        """
        if index is None and self.policy.indexed:
            raise ConfigError(
                "this policy has parameters for each training image: call it with the image's row"
            )
        if image.mode not in MODES:
            raise ConfigError(f"an image of mode {image.mode!r}: convert it to one of {MODES}")
        draw = self.policy.sample(torch.tensor([index or 0]), torch.default_generator)
        return self.policy.transform(image, draw, 0)

    def extra_repr(self) -> str:
        """The policy's description."""
        return json.dumps(self.policy.describe())[:200]


def save(policy: dict[str, Any], path: Path, about: dict[str, Any]) -> None:
    """Writes a policy's description, with words about where it comes from.

    Raises:
        OSError: If the disk refuses.
    """
    content = {"augbench_policy": FORMAT, **about, "policy": policy}
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load(path: str | Path) -> PolicyTransform:
    """The transform of a file that `augbench policy export` wrote.

    Raises:
        ConfigError: If it is no such file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy file {str(path)!r} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("augbench_policy") != FORMAT:
        raise ConfigError(f"{str(path)!r} is no policy file of format {FORMAT}")
    try:
        return PolicyTransform(rebuild(content.pop("policy")), content)
    except KeyError as error:
        raise ConfigError(f"{str(path)!r} lacks {error}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{str(path)!r} describes no policy: {error}") from error


def rebuild(description: dict[str, Any]) -> Policy:
    """The policy that gave this description.

    Raises:
        ConfigError: If augbench has no such policy.
    """
    kind = description.get("policy")
    if kind not in BUILDERS:
        raise ConfigError(f"policy {kind!r} cannot be rebuilt; known are {', '.join(BUILDERS)}")
    return BUILDERS[kind](description)


def _chain(description: dict[str, Any]) -> Policy:
    first, *others = (rebuild(part) for part in description["of"])
    return Chain(first, *others)


def _cutout(description: dict[str, Any]) -> Policy:
    height, width = description["shape"]
    return Cutout(description["side"], (height, width), tuple(description["fill"]))


def _erasing(description: dict[str, Any]) -> Policy:
    return Erasing(**{name: value for name, value in description.items() if name != "policy"})


DESCRIBED = (
    Uniform,
    SubPolicies,
    Categorical,
    OpsAndLevels,
    Gated,
    Population,
    Schedule,
    PerPoint,
    Regularisers,
)
BUILDERS: dict[str, Callable[[dict[str, Any]], Policy]] = {
    "identity": lambda description: Identity(),
    "chain": _chain,
    "crop-flip": lambda description: CropFlip(description["pad"], description["flip"]),
    "cutout": _cutout,
    "erasing": _erasing,
    **{kind.kind: kind.rebuild for kind in DESCRIBED},
    "mixup": Mixup.rebuild,
    "cutmix": CutMix.rebuild,
    "augmix": AugMix.rebuild,
}
