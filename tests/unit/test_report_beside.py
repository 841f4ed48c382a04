"""Which of the papers' numbers stand beside a measured one, and when the two compare."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))

from report_records import make, task_info

from bench.report import quotes
from bench.report.beside import RANKS, Beside, Setting, beside, nearest, of_records, setting
from bench.report.paper import published

SMALL = "parquet:cifar10-jpeg-small"
BOTH = "imbalance=10,noise=0.1"


def first(spec, data=SMALL, distort="clean", network="wrn-10-1", **more):
    found = beside(spec, Setting(data, distort, network, **more))
    return found[0] if found else None


@pytest.mark.parametrize(
    ("spec", "data", "distort", "network", "score", "place"),
    [
        ("standard", SMALL, "clean", "wrn-10-1", "5.3", "HBA 4"),
        ("standard[length=filled]", SMALL, "clean", "wrn-10-1", "5.3", "HBA 4"),
        ("standard", SMALL, BOTH, "wrn-10-1", "22.8 ± 1.09", "AutoDO 2"),
        ("standard", "cifar10", "clean", "wrn-28-10", "6.0 ± 0.10", "AutoDO 2"),
        ("standard", "cifar10", "clean", "resnet-18", "4.66", "OHL 2"),
        ("standard", "cifar10", "clean", "timm:resnet34", "4.66", "OHL 2"),
        ("standard", "imagenet", "clean", "timm:resnet50", "24.70", "OHL 3"),
        ("gar", "cifar100", "clean", "wrn-28-10", "16.46 ± 0.14", "GAR 2"),
        ("gar[space=wide-long]", "cifar10", "noise=0.1", "lenet", "2.61 ± 0.15", "GAR 2"),
        ("ohl", SMALL, "clean", "resnet-18", "3.29", "OHL 2"),
        ("ohl", SMALL, "clean", "wrn-10-1", "2.61", "OHL 2"),
        ("autodo[variant=aw]", "svhn", "imbalance=100", "wrn-28-10", "6.1 ± 0.22", "AutoDO 1"),
        ("autodo", "imagenet", BOTH, "timm:resnet18", "44.1", "AutoDO 4"),
        ("fds", "mnist", "clean", "lenet", "1.3 ± 0.1", "FDS 1"),
        ("search", SMALL, "clean", "lenet", "17.7 ± 0.7", "FDS 1"),
        ("hba", SMALL, "clean", "wrn-10-1", "3.63 ± 0.07", "HBA 5"),
        ("hba[mode=replay,reduced=0.08]", SMALL, "clean", "wrn-40-2", "3.80 ± 0.15", "HBA 4"),
        ("hba[layers=conv]", SMALL, "clean", "wrn-28-10", "2.88 ± 0.06", "HBA 2"),
        ("hba[layers=conv,space=regularisers]", SMALL, "clean", "lenet", "18.76 ± 0.11", "HBA 6"),
        ("search[space=regularisers,trials=25]", SMALL, "clean", "lenet", "0.752", "HBA 6"),
        ("randaugment-grid", SMALL, "clean", "wrn-10-1", "2.7", "GAR 2"),
    ],
)  # fmt: skip
def test_the_nearest_number(spec, data, distort, network, score, place):
    found = first(spec, data, distort, network).published
    paper, table = place.replace("OHL", "OHL-Auto-Aug").split()
    assert (found.score, found.paper, found.table) == (score, paper, table)


@pytest.mark.parametrize(
    ("spec", "data"),
    [
        ("gar", "digits"),
        ("gar", "folder:birds"),
        ("gar", "parquet:cifar1000"),
        ("gar", "parquet:not-cifar10"),
        ("fds", "fashion-mnist"),
        ("fds", "imagenet"),
        ("none", "cifar10"),
        ("gar[placebo=uniform]", "cifar10"),
        ("gar[lr=0.01]", "cifar10"),
        ("standard[data=train+val]", "cifar10"),
        ("standard[data=train+val,length=filled]", "cifar10"),
    ],
)
def test_nothing_is_near(spec, data):
    assert first(spec, data) is None


def test_other_distortions_do_not_stand_in():
    for one in beside("autodo", Setting("cifar10", BOTH, "wrn-28-10")):
        assert one.published.distort in (BOTH, "clean")
    lone = first("autodo", distort="longtail=10")
    assert lone.published.distort == "clean"
    assert "another distortion" in lone.differences


def test_one_number_a_task_and_none_twice():
    tasks = [Setting(SMALL, distort, "wrn-10-1") for distort in ("clean", BOTH)]
    assert [one.published.score for one in nearest("autodo", tasks)] == [
        "4.9 ± 0.09",
        "13.1 ± 0.16",
    ]
    (gar,) = nearest("gar", tasks[::-1])
    assert gar.setting.distort == "clean"
    assert nearest("gar", []) == ()


EQUAL = Setting("cifar10", "clean", "wrn-28-10", 50000, 200.0)


def same(spec="hba[mode=replay]", **changes):
    """HBA's number of Table 5 beside a run that is like it but for the changes."""
    found = [
        one
        for one in beside(spec, replace(EQUAL, **changes))
        if one.published.row == "CIFAR-10 → CIFAR-10, WRN-28-10"
    ]
    return found[0]


def test_equal_conditions_compare():
    assert same().comparable
    assert same(images=48000, epochs=215.0).comparable
    assert quotes.short([same()]) == "2.59 ± 0.09 (HBA, Table 5, comparable)"
    assert quotes.full([same()]).endswith("; yes")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"data": SMALL}, "other images"),
        ({"distort": BOTH}, "another distortion"),
        ({"network": "wrn-40-2"}, "another network"),
        ({"images": 40000}, "40,000 training images here"),
        ({"images": None}, "training images not known here"),
        ({"epochs": 150.0}, "150 epochs in all here"),
        ({"epochs": None}, "epochs in all not known here"),
        ({"spec": "hba"}, "that of hba[mode=replay]"),
    ],
)
def test_one_difference_is_enough(changes, why):
    assert same(**changes).differences == (why,)
    assert not same(**changes).comparable


@pytest.mark.parametrize(
    ("spec", "where", "why"),
    [
        ("standard", EQUAL, "random erasing"),
        ("standard", EQUAL, "weights best on test"),
        ("gar", EQUAL, "weights' selection not stated"),
        ("autoaugment", EQUAL, "quoted"),
        ("autoaugment", EQUAL, "epochs not stated"),
        ("fds", replace(EQUAL, network="wrn-16-1"), "training images not stated"),
        ("hba[layers=bn]", EQUAL, "validation images"),
        ("search[space=regularisers]", EQUAL, "a loss"),
    ],
)
def test_what_a_paper_did_otherwise_or_leaves_out(spec, where, why):
    assert why in beside(spec, where)[0].differences


def test_settings_come_from_records():
    task = task_info("digits", 0).model_copy(update={"recipe": {"batch_size": 50}})
    assert setting(make(task_info=task, steps=40)) == Setting(
        "digits", "none", "small-cnn", 1000, 2.0
    )
    assert setting(make(task_info=None, error=None)) is None
    assert setting(make(task_info=task, error=None, steps=0)).epochs is None


def test_finished_runs_say_how_long():
    task = task_info("digits", 0).model_copy(update={"data": "cifar10", "distort": "clean"})
    failed = make("gar", error=None, seed=0, task_info=task, steps=0)
    done = make("gar", seed=1, task_info=task, steps=500)
    (found,) = of_records([failed, done])
    assert found.setting.epochs == 64.0
    (found,) = of_records([failed])
    assert "epochs in all not known here" in found.differences
    assert of_records([make("gar", error=None, task_info=None)]) == ()


def test_the_csv_s_text_has_ten_parts_always():
    for number in published():
        if number.metric in RANKS.get(number.split, {}):
            text = quotes.full([Beside("gar", EQUAL, number, ("why", "and why"))] * 2)
            assert [len(one.split("; ")) for one in text.split(" | ")] == [10, 10]
            assert text.endswith("; no: why, and why")
            (line,) = quotes.lines([Row((Beside("gar", EQUAL, number, ()),))])
            assert len(line) == len(quotes.HEADS)


class Row:
    """As much of a table's row as the section looks at."""

    def __init__(self, found):
        self.published = found
