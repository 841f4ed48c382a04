"""What a run learned about each training image, and where it errs, as one SVG.

Histograms of learned weights and soft labels on either side of the truth, strength of augmentation
by class, the confusion matrix, and the network's features of test images in the plane.
"""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.errors import ConfigError
from bench.record import Histogram, PointsInfo, Record
from bench.report.svg import MIDDLE, PALE, RIGHT, WIDTH, Array, heading, heat, page, text

Features = Mapping[str, npt.NDArray[np.generic]]

HEAD, MARGIN, GAP = 46, 12, 36
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
LEFT, TITLE, FOOT = 84.0, 22.0, 30.0  # of a panel: room for names, for its title and below
CHART, SIDE = 150.0, 300.0  # heights of bars and of square panels
NAMED = 20  # classes up to which each has a name and its numbers
FEWEST = 10  # images that make a map
CELL = 8  # pixels of a matrix's cell, for viewers that smooth
CLEAN, FLIPPED = "#0969da", "#d4570a"
TEN = (
    "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd",
    "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf",
)  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """A part of the picture, drawn from (0, 0), `PANEL` wide."""

    svg: str
    height: float


def svg(record: Record, features: Features | None = None, placebo: Record | None = None) -> str:
    """The picture: a panel for each thing that the run has data for, two in a row.

    Args:
        record: A run's.
        features: Its side file, which may hold `features` (n, D), and `true` and `predicted` (n,)
            classes.
        placebo: Its placebo's run, whose panels of points stand beside its own.

    Raises:
        ConfigError: If the run has nothing to show.
    """
    panels = _panels(record, features or {}, placebo)
    if not panels:
        raise ConfigError(
            f"run {record.hash} has nothing to show: runs have that finished since confusion "
            "matrices are kept, of at most 100 classes, or whose method learns about each image; "
            "run it again with `augbench run`, for features with --keep-features"
        )
    task = record.task.name if record.task else ""
    title = f"{record.method.spec} on {task}, {record.budget:g} RT, seed {record.seed}"
    parts, y = [heading(title)], float(HEAD)
    for start in range(0, len(panels), 2):
        row = panels[start : start + 2]
        for column, panel in enumerate(row):
            x = MARGIN + column * (PANEL + GAP)
            parts.append(f'<g transform="translate({x:.1f} {y:.1f})">\n{panel.svg}\n</g>')
        y += max(panel.height for panel in row) + GAP
    return page(parts, y)


def _panels(record: Record, features: Features, placebo: Record | None) -> list[Panel]:
    classes = record.task.classes if record.task else []
    found: list[Panel] = []
    if record.points is not None and placebo is not None and placebo.points is not None:
        both = [record.points, placebo.points]
        limits = _limits(both)
        kind = f" · {placebo.method.options.get('placebo')}"
        own, other = (
            _of_points(info, classes, whose, limits)
            for info, whose in zip(both, ("", kind), strict=True)
        )
        found += [panel for pair in zip(own, other, strict=True) for panel in pair]
    elif record.points is not None:
        found += _of_points(record.points, classes, "", _limits([record.points]))
    if record.scores is not None and record.scores.confusion is not None:
        counts = np.array(record.scores.confusion, dtype=np.float64)
        found.append(_confusion(counts, classes, record.scores.error))
    if "features" in features and _spread(features["features"]):
        found.append(_map(features, classes))
    return found


def _of_points(
    info: PointsInfo, classes: Sequence[str], whose: str, limits: tuple[float, float]
) -> list[Panel]:
    found = []
    if info.weights is not None:
        title = f"learned weights{whose}{_said(info.mislabel_auroc, ', AUROC {:.3f}')}"
        found.append(_histogram(title, info.weights, "weight"))
    if info.given_shares is not None:
        title = (
            f"soft labels{whose}{_said(info.label_auroc, ', AUROC {:.3f}')}"
            f"{_said(info.label_recovery, ', recovered {:.0%}')}"
            f"{_said(info.label_damage, ', damaged {:.0%}')}"
        )
        found.append(_histogram(title, info.given_shares, "share of the given label"))
    if info.class_weights_clean is not None and info.class_weights_flipped is not None:
        means = (info.class_weights_clean, info.class_weights_flipped)
        found.append(_class_weights(means, classes, whose))
    if tables := _tables(info):
        found.append(_operations(tables, info.operations, classes, whose, limits))
    return found


def _tables(info: PointsInfo) -> dict[str, Array]:
    """Means of what operations have, by name: a row for each class, of NaN for an empty one."""
    named = {"strength": info.strength, "probability": info.probability}
    return {
        name: np.array([row or [np.nan] * len(info.operations) for row in table.by_class])
        for name, table in named.items()
        if table is not None
    }


def _limits(infos: Sequence[PointsInfo]) -> tuple[float, float]:
    """The least and greatest value of all heat maps, so that shades can be compared."""
    values = [np.prod(list(tables.values()), 0) for info in infos if (tables := _tables(info))]
    return (float(np.nanmin(values)), float(np.nanmax(values))) if values else (0.0, 1.0)


def _said(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _histogram(title: str, data: Histogram, label: str) -> Panel:
    """Shares of the clean and of the flipped points in each bin."""
    counts = [sum(data.clean), sum(data.flipped)]
    shares = [
        [count / max(total, 1) for count in group]
        for group, total in zip((data.clean, data.flipped), counts, strict=True)
    ]
    top = max(map(max, shares)) or 1.0
    bottom = TITLE + CHART
    parts = [
        _bars(title, shares, top, f"{top:.0%}"),
        text(LEFT, bottom + 13, f"{data.edges[0]:.3g}", PALE),
        text((LEFT + PANEL) / 2, bottom + 13, label, MIDDLE),
        text(PANEL, bottom + 13, f"{data.edges[-1]:.3g}", f"{RIGHT} {PALE}"),
        _legend(bottom + FOOT, [f" ({count:,})" for count in counts]),
    ]
    return Panel("\n".join(parts), bottom + FOOT)


def _class_weights(
    means: Sequence[Sequence[float | None]], classes: Sequence[str], whose: str
) -> Panel:
    """Mean weights of clean and of flipped points, for each given label."""
    top = max((mean or 0.0 for group in means for mean in group), default=0.0) or 1.0
    height = TITLE + CHART + _depth(classes) + 14
    parts = [
        _bars(f"mean learned weight by given label{whose}", means, top, f"{top:.3g}"),
        _columns(classes, (PANEL - LEFT) / len(classes), TITLE + CHART),
        _legend(height, ["", ""]),
    ]
    return Panel("\n".join(parts), height)


def _bars(title: str, groups: Sequence[Sequence[float | None]], top: float, highest: str) -> str:
    """Two bars side by side in each place; none where there is no value."""
    wide = (PANEL - LEFT) / len(groups[0])
    parts = [
        text(0, 12, title, 'font-weight="bold"'),
        text(LEFT - 6, TITLE + 10, highest, f"{RIGHT} {PALE}"),
    ]
    for side, (group, colour) in enumerate(zip(groups, (CLEAN, FLIPPED), strict=True)):
        for i, value in enumerate(group):
            if value is not None:
                x, height = LEFT + (i + 0.1 + 0.4 * side) * wide, CHART * value / top
                parts.append(
                    f'<rect x="{x:.1f}" y="{TITLE + CHART - height:.1f}" '
                    f'width="{0.4 * wide:.1f}" height="{height:.1f}" fill="{colour}"/>'
                )
    parts.append(
        f'<path d="M{LEFT:.1f} {TITLE + CHART:.1f}H{PANEL:.1f}" stroke="#57606a" '
        'stroke-width="0.5"/>'
    )
    return "\n".join(parts)


def _legend(y: float, counts: Sequence[str]) -> str:
    named = zip(("clean", "flipped"), counts, (CLEAN, FLIPPED), strict=True)
    return "\n".join(
        text(LEFT + 130 * i, y, name + count, f'fill="{colour}"')
        for i, (name, count, colour) in enumerate(named)
    )


def _operations(
    tables: Mapping[str, Array],
    operations: Sequence[str],
    classes: Sequence[str],
    whose: str,
    limits: tuple[float, float],
) -> Panel:
    """Strength × probability, or the one that there is: a row for each class."""
    values: Array = np.prod(list(tables.values()), axis=0)
    low, high = limits
    height = max(CHART, min(SIDE, 16.0 * len(values)))
    title = f"mean {' × '.join(tables)} by class{whose} (pale {low:.3g}, dark {high:.3g})"
    parts = [text(0, 12, title, 'font-weight="bold"')]
    parts.append(heat(values, low, high, (LEFT, TITLE, PANEL - LEFT, height), CELL))
    parts.append(_rows(classes, height / len(values)))
    parts.append(_columns(operations, (PANEL - LEFT) / len(operations), TITLE + height))
    return Panel("\n".join(parts), TITLE + height + _depth(operations))


def _confusion(counts: Array, classes: Sequence[str], error: float) -> Panel:
    """Rows are true classes, shaded by shares of the row; numbers where there is room."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = SIDE / len(counts)
    title = f"confusion on the test set: true → predicted, error {error:.1%}"
    parts = [text(0, 12, title, 'font-weight="bold"')]
    parts.append(heat(shares, 0.0, 1.0, (LEFT, TITLE, SIDE, SIDE), CELL))
    parts.append(_rows(classes, cell))
    parts.append(_columns(classes, cell, TITLE + SIDE))
    if len(counts) <= NAMED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                x, y = LEFT + (column + 0.5) * cell, TITLE + (row + 0.5) * cell + 3
                ink = "#fff" if shares[row, column] > 0.5 else "#1f2328"
                style = f'fill="{ink}" {MIDDLE} font-size="{min(11.0, cell / 2.2):.1f}"'
                parts.append(text(x, y, f"{count:.0f}", style))
    return Panel("\n".join(parts), TITLE + SIDE + _depth(classes))


def _map(features: Features, classes: Sequence[str]) -> Panel:
    """Every image a dot in its true class's colour; a ring where the prediction is wrong."""
    values = np.asarray(features["features"], dtype=np.float32)
    true, predicted = (np.asarray(features[name]).tolist() for name in ("true", "predicted"))
    places = _embedded(values)
    low, high = places.min(0), places.max(0)
    places = (places - low) / np.maximum(high - low, 1e-12)
    colours = _palette(len(classes))
    title = f"features of {len(values):,} test images (t-SNE); rings are misclassified"
    parts = [text(0, 12, title, 'font-weight="bold"')]
    for (x, y), label, guess in zip(places.tolist(), true, predicted, strict=True):
        at = f'cx="{8 + x * (SIDE + 20):.1f}" cy="{TITLE + 4 + y * (SIDE - 8):.1f}"'
        colour = colours[label]
        paint = f'fill="{colour}"' if label == guess else f'fill="none" stroke="{colour}"'
        parts.append(f'<circle {at} r="2" {paint}/>')
    if len(classes) <= NAMED:
        for i, (name, colour) in enumerate(zip(classes, colours, strict=False)):
            parts.append(text(SIDE + 44, TITLE + 12 + 14 * i, name, f'fill="{colour}"'))
    return Panel("\n".join(parts), TITLE + SIDE)


def _spread(features: npt.NDArray[np.generic]) -> bool:
    """Whether there are enough images, and differences between them, for a map."""
    values = np.asarray(features, dtype=np.float32)
    return len(values) >= FEWEST and values.shape[1] >= 2 and bool(np.ptp(values, axis=0).any())


def _embedded(values: npt.NDArray[np.float32]) -> Array:
    """Two dimensions (n, 2) of features (n, D), the same ones every time."""
    from sklearn.manifold import TSNE  # takes a second, and few pictures have a map

    perplexity = min(30.0, (len(values) - 1) / 3)
    tsne = TSNE(random_state=0, init="pca", perplexity=perplexity)
    return np.asarray(tsne.fit_transform(values), dtype=np.float64)


def _palette(count: int) -> list[str]:
    """Colours that differ in hue; beyond ten, every second one in lightness."""
    if count <= len(TEN):
        return list(TEN)
    mixed = [colorsys.hls_to_rgb(i / count, 0.42 - 0.14 * (i % 2), 0.75) for i in range(count)]
    return [f"#{round(255 * r):02x}{round(255 * g):02x}{round(255 * b):02x}" for r, g, b in mixed]


def _rows(names: Sequence[str], step: float) -> str:
    """Names at the left of a matrix, or how many there are."""
    if len(names) > NAMED:
        return text(LEFT - 6, TITLE + 10, f"{len(names)} classes", RIGHT + " " + PALE)
    middles = [TITLE + (i + 0.5) * step + 4 for i in range(len(names))]
    named = zip(middles, names, strict=True)
    return "\n".join(text(LEFT - 6, y, _cut(name), RIGHT) for y, name in named)


def _columns(names: Sequence[str], step: float, y: float) -> str:
    """Names below a chart, slanted; none if there are many."""
    if len(names) > NAMED:
        return text(LEFT, y + 13, f"{len(names)} columns, in order", PALE)
    parts = []
    for i, name in enumerate(names):
        x = LEFT + (i + 0.5) * step + 3
        slant = f'{RIGHT} transform="rotate(-40 {x:.1f} {y + 11:.1f})"'
        parts.append(text(x, y + 11, _cut(name), slant))
    return "\n".join(parts)


def _depth(names: Sequence[str]) -> float:
    """How far `_columns` reaches down."""
    return 18.0 if len(names) > NAMED else 16 + 4.2 * max(len(_cut(name)) for name in names)


def _cut(name: str) -> str:
    return name if len(name) <= 13 else name[:12] + "…"
