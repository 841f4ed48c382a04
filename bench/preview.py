"""A picture of a policy: some images, and below each what several draws make of it, in words.

For `augbench preview METHOD`, which shows a method's policy before training, and for
`augbench preview RUN`, which shows the one that a finished run ended with.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from bench.augment.export import rebuild
from bench.augment.policy import Batch, Policy
from bench.augment.space import Entry
from bench.augment.spaces import space
from bench.config import TaskConfig, validated
from bench.data.arrays import Arrays
from bench.data.sources import Source
from bench.errors import AugbenchError, ConfigError, RecordError
from bench.plugins import Selected
from bench.record import Record
from bench.rng import generator
from bench.train.prepare import prepare
from bench.train.recipe import Recipe

TILE, GAP, LINE, MARGIN = 112, 10, 13, 16
MOST_COPIES = 1000  # of a space's table in a policy
LINES = 5  # of words below a tile
BY_OPERATION = ("keeps", "levels", "marginals")
BY_PAIR = ("probabilities", "magnitudes")
BY_WARP = ("probability", "strength")
BY_REGULARISER = ("strengths", "sigma")
INK, PALE, PAPER = (31, 35, 40), (101, 109, 118), (255, 255, 255)


Loader = Callable[[str, int | None], Source]


@dataclass(frozen=True)
class Cell:
    """A tile of the picture: an image (H, W, C) uint8 and the words below it."""

    pixels: np.ndarray
    words: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A policy to show, the images to show it on, and a title."""

    policy: Policy
    arrays: Arrays
    classes: Sequence[str]
    title: str


def of_run(record: Record, load: Loader) -> Subject:
    """The policy that a run ended with, on the images that it learned from.

    Raises:
        ConfigError: If the record keeps no policy that can be rebuilt.
    """
    policy = policy_of(record)  # or it says why not, before any image is read
    assert record.task is not None
    config = validated(TaskConfig, record.config.get("task", {}), f"run {record.hash}")
    source = load(config.data, config.size)
    prepared = prepare(
        source,
        distort=config.distort,
        network=config.network,
        recipe=config.recipe,
        seed=record.seed,
        device=torch.device("cpu"),
        val_fraction=config.val_fraction,
    )
    title = f"{record.method.spec} after training on {record.task.name}, seed {record.seed}"
    return Subject(policy, prepared.task.train, source.classes, title)


def policy_of(record: Record) -> Policy:
    """The policy that a run ended with.

    Raises:
        ConfigError: If the run left none, or augbench cannot rebuild it.
        RecordError: If what it left describes no policy.
    """
    if record.policy is None or record.task is None:
        raise ConfigError(f"run {record.hash}: it failed and left no policy")
    with describing(record.hash):
        return rebuild(record.policy)


@contextmanager
def describing(run: str) -> Iterator[None]:
    """While a run's policy is rebuilt or drawn from: what is wrong with it, in a sentence.

    Raises:
        RecordError: Whatever a policy says of a description that is none.
    """
    try:
        yield
    except AugbenchError:
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        raise RecordError(f"run {run}: its policy describes none ({said})") from error


def labels_of(record: Record) -> dict[str, list[str]]:
    """Names of the rows of series that have one for each operation of a policy, or each class.

    Raises:
        RecordError: If the run's policy is not as policies describe themselves.
    """
    try:
        return _labels(record)
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise RecordError(f"run {record.hash}: its policy describes none ({error})") from error


def _labels(record: Record) -> dict[str, list[str]]:
    found = {"weights": record.task.classes} if record.task else {}
    stack = [record.policy] if record.policy else []
    while stack:
        policy = stack.pop()
        stack.extend(policy.get("of", []))
        if "space" in policy:
            labels = [_named(entry) for entry in space(policy["space"]).entries]
            found = dict.fromkeys(BY_OPERATION, labels) | found
            # Every row of the space several times over, a pair each.
            if policy.get("copies", 0) > MOST_COPIES:
                raise ValueError(f"{policy['copies']} copies")
            pairs = [label for _ in range(policy.get("copies", 0)) for label in labels]
            found = dict.fromkeys(BY_PAIR, pairs) | found if pairs else found
        if "warps" in policy:
            found = dict.fromkeys(BY_WARP, policy["warps"]) | found
        if "strengths" in policy:
            names = list(policy["strengths"])
            found = dict.fromkeys(BY_REGULARISER, names) | found
    return found


def of_method(selected: Selected, source: Source) -> Subject:
    """The policy that a method starts from.

    Raises:
        ConfigError: If it has none before training.
    """
    nothing = Recipe(steps=1)
    prepared = prepare(
        source,
        distort="clean",
        network="small-cnn",
        recipe=nothing,
        seed=0,
        device=torch.device("cpu"),
    )
    policy = selected.make().policy(prepared.task)
    if policy is None:
        raise ConfigError(
            f"method {selected.spec!r} has no policy before training: preview one of its runs"
        )
    title = f"{selected.spec} on {source.name}"
    return Subject(policy, prepared.task.train, source.classes, title)


def cells(subject: Subject, rows: int, draws: int, seed: int) -> list[list[Cell]]:
    """The picture's rows: an image, then that image under each draw.

    Args:
        subject: Policy and images; one of each class is shown before a second of any.
        rows: How many images.
        draws: How many draws of each.
        seed: Of the choice of images and of the draws.
    """
    policy = subject.policy
    chosen = _varied(subject.arrays.labels.cpu(), rows, seed)
    images, labels = subject.arrays.take(chosen)
    index = chosen.repeat(draws)  # all images under the first draw, then under the second, ...
    batch = Batch(images.repeat(draws, 1, 1, 1), labels.repeat(draws), index)
    draw = policy.sample(index, generator("preview", seed))
    made = policy.apply(batch, draw)
    shown = made.views[0] if made.views else made.images
    table = []
    for row in range(len(chosen)):
        line = [Cell(_pixels(images[row]), (subject.classes[int(labels[row])],))]
        for column in range(draws):
            at = column * len(chosen) + row
            line.append(Cell(_pixels(shown[at]), tuple(policy.explain(draw, at)) or ("–",)))
        table.append(line)
    return table


def picture(table: list[list[Cell]], title: str) -> Image.Image:
    """Draws the rows, with the title above."""
    font, bold = ImageFont.load_default(11), ImageFont.load_default(15)
    columns = len(table[0])
    step_x, step_y = TILE + GAP, TILE + LINES * LINE + GAP
    width = 2 * MARGIN + columns * step_x - GAP
    out = Image.new("RGB", (width, 2 * MARGIN + 28 + len(table) * step_y - GAP), PAPER)
    canvas = ImageDraw.Draw(out)
    canvas.text((MARGIN, MARGIN), title, INK, bold)
    for y, line in enumerate(table):
        for x, cell in enumerate(line):
            left, top = MARGIN + x * step_x, MARGIN + 28 + y * step_y
            tile = Image.fromarray(cell.pixels).convert("RGB")
            out.paste(tile.resize((TILE, TILE), Image.Resampling.NEAREST), (left, top))
            for i, text in enumerate(_lines(cell.words, font)):
                canvas.text((left, top + TILE + 2 + i * LINE), text, PALE if x else INK, font)
    return out


def save(image: Image.Image, path: Path) -> None:
    """Writes the picture as PNG.

    Raises:
        ConfigError: If the path cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG", optimize=True)
    except OSError as error:
        raise ConfigError(f"--output {str(path)!r} cannot be written: {error.strerror}") from error


def _varied(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Rows of `count` images, of as many classes as there are."""
    order = torch.randperm(len(labels), generator=generator("preview", seed, "images"))
    seen: dict[int, int] = {}
    rank = []
    for label in labels[order].tolist():
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    turn = torch.tensor(rank).argsort(stable=True)
    return order[turn[:count]]


def _pixels(image: torch.Tensor) -> np.ndarray:
    values = image.round().clamp(0, 255).to(torch.uint8) if image.is_floating_point() else image
    array = values.permute(1, 2, 0).cpu().numpy()
    return array[:, :, 0] if array.shape[2] == 1 else array


def _lines(words: Sequence[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> list[str]:
    """Words one a line, cut to the tile's width; an ellipsis says that there are more."""
    lines = [_cut(word, font) for word in words]
    return (
        lines if len(lines) <= LINES else [*lines[: LINES - 1], f"… {len(lines) - LINES + 1} more"]
    )


def _cut(word: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    while font.getlength(word) > TILE + GAP - 2:
        word = word.rstrip("…")[:-1] + "…"
    return word


def _named(entry: Entry) -> str:
    """An operation's label, with its magnitude where the table has just one."""
    fixed = entry.low == entry.high and entry.low != 0 and not entry.name
    return f"{entry.label} {entry.low:g}" if fixed else entry.label
