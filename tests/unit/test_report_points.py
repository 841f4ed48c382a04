"""The picture of what a run learned about images: its panels, and what they are drawn from."""

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest

from bench.errors import ConfigError
from bench.record import Histogram, OperationMeans, PointsInfo, Record
from bench.report.points import CELL, FEWEST, svg
from tests.golden.report_records import make, scores_of, task_info
from tests.unit.test_timeline import images, texts

NAMES = ["cat <a>", "dog", "a very long class name"]
CONFUSION = [[8, 2, 0], [0, 10, 0], [5, 5, 0]]
POINTS = PointsInfo(
    mislabel_auroc=0.912,
    label_auroc=0.75,
    label_recovery=0.5,
    label_damage=0.04,
    weight_clean=1.0,
    weight_flipped=0.5,
    class_weights_clean=[1.0, 2.0, None],
    class_weights_flipped=[None, 0.5, 0.0],
    operations=["rotate", "shear"],
    strength=OperationMeans(mean=[0.5, 1.0], by_class=[[0.5, 1.0], None, [0.25, 0.0]]),
    probability=OperationMeans(mean=[0.5, 0.5], by_class=[[1.0, 0.5], None, [1.0, 1.0]]),
    weights=Histogram(edges=[0.0, 1.0, 2.0], clean=[1, 3], flipped=[2, 0]),
    given_shares=Histogram(edges=[0.0, 0.5, 1.0], clean=[0, 4], flipped=[1, 1]),
)


def run(
    points: PointsInfo | None = None, confusion: Any = None, names: list[str] = NAMES
) -> Record:
    task = task_info("digits", 0).model_copy(update={"classes": names})
    scores = scores_of(0.4, confusion=confusion)
    return make(task_info=task).model_copy(update={"points": points, "scores": scores})


def features(count: int = 30, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    true = np.arange(count) % 3
    values = (rng.normal(size=(count, 6)) + 5 * np.eye(6)[true]).astype(np.float16)
    predicted = np.where(np.arange(count) < 4, (true + 1) % 3, true)
    return {"features": values, "true": true, "predicted": predicted}


def titles(picture: str) -> list[str]:
    return re.findall(r'font-weight="bold">([^<]+)<', picture)[1:]


def elements(picture: str, name: str) -> list[ET.Element]:
    return [e for e in ET.fromstring(picture).iter() if e.tag.rpartition("}")[2] == name]


def test_every_panel_stands_in_its_place_with_its_numbers() -> None:
    picture = svg(run(POINTS, CONFUSION), features())
    assert titles(picture) == [
        "learned weights, AUROC 0.912",
        "soft labels, AUROC 0.750, recovered 50%, damaged 4%",
        "mean learned weight by given label",
        "mean strength × probability by class (pale 0, dark 0.5)",
        "confusion on the test set: true → predicted, error 40.0%",
        "features of 30 test images (t-SNE); rings are misclassified",
    ]
    places = [e.get("transform") for e in elements(picture, "g")]
    assert len(set(places)) == 6
    assert {"clean (4)", "flipped (2)", "cat <a>", "a very long …", "rotate"} <= set(
        texts(picture)
    )
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


def test_only_what_there_is_is_drawn() -> None:
    assert titles(svg(run(confusion=CONFUSION))) == [
        "confusion on the test set: true → predicted, error 40.0%"
    ]
    bare = PointsInfo(weights=POINTS.weights)
    assert titles(svg(run(bare))) == ["learned weights"]
    one = PointsInfo(operations=["rotate", "shear"], probability=POINTS.probability)
    assert titles(svg(run(one))) == ["mean probability by class (pale 0.5, dark 1)"]


def test_a_run_with_nothing_to_show_says_which_runs_have_something() -> None:
    for record in (run(), make(error=None)):
        with pytest.raises(ConfigError, match=r"nothing to show: .*--keep-features") as caught:
            svg(record)
        assert "\n" not in str(caught.value)


def test_bars_are_shares_of_their_own_group() -> None:
    bars = elements(svg(run(PointsInfo(weights=POINTS.weights))), "rect")[1:]
    heights = [float(bar.get("height") or 0) for bar in bars]
    assert [height / heights[2] for height in heights] == pytest.approx(
        [0.25, 0.75, 1, 0], abs=1e-3
    )
    assert [bar.get("fill") for bar in bars] == ["#0969da"] * 2 + ["#d4570a"] * 2


def test_a_class_without_such_points_has_no_bar() -> None:
    info = PointsInfo(
        class_weights_clean=POINTS.class_weights_clean,
        class_weights_flipped=POINTS.class_weights_flipped,
    )
    assert len(elements(svg(run(info)), "rect")) == 1 + 4


def test_the_confusion_is_shaded_by_row_and_numbered_up_to_twenty_classes() -> None:
    picture = svg(run(confusion=CONFUSION))
    (image,) = images(picture)
    assert image.shape == (3 * CELL, 3 * CELL, 3)
    grey = image[::CELL, ::CELL].astype(int).sum(2)
    assert grey[1, 1] < grey[0, 0] < grey[2, 0] == grey[2, 1] < grey[0, 1] < grey[0, 2]
    numbers = [words for words in texts(picture) if words.isdecimal()]
    assert sorted(numbers) == sorted(["8", "2", "10", "5", "5"])
    many = [f"c{i}" for i in range(21)]
    picture = svg(run(confusion=np.eye(21, dtype=int).tolist(), names=many))
    assert not [words for words in texts(picture) if words.isdecimal()]
    assert "21 classes" in texts(picture)


def test_strength_times_probability_has_a_row_for_each_class() -> None:
    info = PointsInfo(
        operations=POINTS.operations, strength=POINTS.strength, probability=POINTS.probability
    )
    (image,) = images(svg(run(info)))
    grey = image[::CELL, ::CELL].astype(int).sum(2)
    assert grey.shape == (3, 2)
    assert (grey[1] == 3 * 255).all(), "a class without points is white"
    assert grey[0, 0] == grey[0, 1] < grey[2, 0] < grey[2, 1]


def test_the_placebos_panels_stand_beside_its_own_on_one_scale() -> None:
    weak = POINTS.strength.model_copy(update={"by_class": [[0.1, 0.1], None, [0.1, 0.1]]})
    other = run(POINTS.model_copy(update={"mislabel_auroc": 0.5, "strength": weak}))
    options = {"placebo": "shuffled"}
    placebo = other.model_copy(
        update={"method": other.method.model_copy(update={"options": options})}
    )
    picture = svg(run(POINTS), placebo=placebo)
    shown = titles(picture)
    assert shown[:2] == ["learned weights, AUROC 0.912", "learned weights · shuffled, AUROC 0.500"]
    assert [title.count("shuffled") for title in shown] == [0, 1] * 4
    own, others = images(picture)
    assert own.astype(int).min() < others.astype(int).min(), "weaker is paler"
    assert titles(svg(run(POINTS), placebo=run())) == titles(svg(run(POINTS)))


def test_the_map_is_the_same_every_time_and_rings_its_errors() -> None:
    picture = svg(run(), features())
    assert picture == svg(run(), features())
    dots = elements(picture, "circle")
    assert len(dots) == 30
    assert [dot.get("fill") == "none" for dot in dots] == [True] * 4 + [False] * 26
    places = np.array([[float(dot.get(axis) or 0) for axis in ("cx", "cy")] for dot in dots])
    true = features()["true"]
    centres = np.stack([places[true == label].mean(0) for label in range(3)])
    nearest = ((places[:, None] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == true).mean() > 0.9, "classes that lie apart stay apart"


@pytest.mark.parametrize("seed", [0, 1])
def test_too_few_or_equal_features_make_no_map(seed: int) -> None:
    few = {name: value[: FEWEST - 1] for name, value in features(seed=seed).items()}
    flat = features() | {"features": np.full((30, 6), seed, dtype=np.float16)}
    thin = features() | {"features": features()["features"][:, :1]}
    for arrays in (few, flat, thin):
        assert "circle" not in svg(run(confusion=CONFUSION), arrays)
    assert "circle" in svg(run(), features(count=FEWEST))
