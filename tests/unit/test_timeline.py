"""Pictures of policies over time: what they hold, and whose placebo stands beside."""

import base64
import io
import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import ConfigError
from bench.preview import labels_of
from bench.record import Record
from bench.report.timeline import placebo_of, svg
from tests.golden.report_records import make


def run(spec: str = "gar", placebo: str | None = None, **more: Any) -> Record:
    """A finished run whose trace has a series of three rows, and one of numbers."""
    name = f"{spec}[placebo={placebo}]" if placebo else spec
    made = make(name, **more)
    trace = {
        "keeps": {"step": [2, 4], "value": [[0.0, 0.5, 1.0], [0.2, 0.5, 0.8]]},
        "train_loss": {"step": [2, 4], "value": [2.0, 1.0]},
    }
    return made.model_copy(update={"trace": trace})


def texts(picture: str) -> list[str]:
    return [e.text or "" for e in ET.fromstring(picture).iter() if e.tag.endswith("text")]


def images(picture: str) -> list[np.ndarray]:
    found = re.findall(r"base64,([^\"]+)", picture)
    return [np.array(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def test_time_goes_right_rows_go_down_and_more_is_darker() -> None:
    picture = svg(run(), None, {"keeps": ["a & b", "c", "d"]})
    (image,) = images(picture)
    assert image.shape == (3, 2, 3)
    grey = image.astype(int).sum(2)
    assert (grey[0, 0], grey[2, 0]) == (grey.max(), grey.min())
    assert grey[0, 1] < grey[0, 0]
    assert grey[2, 1] > grey[2, 0]
    assert {"a & b", "c", "d", "pale 0", "dark 1", "step 2", "4"} <= set(texts(picture))
    assert "train_loss" not in picture


def test_its_placebo_stands_beside_it_on_the_same_scale() -> None:
    other = run(placebo="shuffled")
    assert other.trace is not None
    other.trace["keeps"]["value"] = [[0.0, 0.0, 2.0], [0.0, 0.0, 0.0]]
    picture = svg(run(), other, {})
    mine, its = images(picture)
    assert mine[2, 0].sum() > its[2, 0].sum()  # 1 of 0..2 is paler than 2
    assert "keeps · gar[placebo=shuffled]" in texts(picture)


def test_the_placebo_is_of_the_same_method_task_budget_and_seed() -> None:
    mine, shuffled = run(), run(placebo="shuffled")
    others = [run(spec="ohl", placebo="shuffled"), run(placebo="replay"), shuffled, mine]
    assert placebo_of(mine, others) is shuffled
    assert placebo_of(mine, others[:2]) is None
    assert placebo_of(mine, [run(placebo="shuffled", seed=7), mine]) is None
    assert placebo_of(mine, [run(placebo="shuffled", track="gpu")]) is None
    still = shuffled.model_copy(update={"trace": {}})
    assert placebo_of(mine, [still]) is None


def test_no_value_is_white() -> None:
    made = run()
    assert made.trace is not None
    made.trace["keeps"]["value"] = [[None, 0.5, 1.0], [None, 0.5, 0.8]]
    (image,) = images(svg(made, None, {}))
    assert (image[0] == 255).all()
    assert (image[1] != 255).any()


def test_a_series_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"series 'levels'.*has keeps"):
        svg(run(), None, {}, only="levels")
    with pytest.raises(ConfigError, match="no policy over time"):
        svg(run().model_copy(update={"trace": {}}), None, {})


def test_rows_are_named_after_the_policys_operations() -> None:
    part = {"policy": "categorical", "space": "ohl"}
    made = run().model_copy(update={"policy": {"policy": "chain", "of": [part]}})
    labels = labels_of(made)["marginals"]
    assert labels[0] == "shear-x 0.1"
    assert labels[-1] == "invert"
    bare = run().model_copy(update={"policy": None})
    assert labels_of(bare) == {"weights": bare.task.classes}
    warps = {"policy": "per-point", "warps": ["rotate", "shear-x"]}
    made = run().model_copy(update={"policy": {"policy": "chain", "of": [part, warps]}})
    assert labels_of(made)["strength"] == ["rotate", "shear-x"]
    assert labels_of(made)["marginals"] == labels
    pairs = {"policy": "schedule", "space": "pba", "copies": 2}
    made = run().model_copy(update={"policy": pairs})
    named = labels_of(made)["probabilities"]
    assert len(named) == 30
    assert named[:15] == named[15:] == labels_of(made)["marginals"]
    tuned = {"policy": "regularisers", "strengths": {"hue": 0.1, "dropout_1": 0.2}}
    made = run().model_copy(update={"policy": tuned})
    assert labels_of(made)["sigma"] == ["hue", "dropout_1"]
