"""The papers' numbers: structure, what the papers' own sums demand of them, and bad files.

No paper lies here, so the numbers are held against what the papers say of them elsewhere: in
their texts, in other tables, and in each other's.
"""

from collections import Counter
from decimal import Decimal

import pytest
import torch

from bench.cli.common import plugins
from bench.data.distort import Distortion
from bench.errors import RecordError
from bench.networks import build
from bench.plugins import select
from bench.report.paper import networks, published

NUMBERS = published()
SUMS = {
    ("GAR", "1"): (12, "10.16"),
    ("GAR", "2"): (16, "1447.64"),
    ("OHL-Auto-Aug", "2"): (28, "66.53"),
    ("OHL-Auto-Aug", "3"): (14, "192.54"),
    ("OHL-Auto-Aug", "4"): (8, "25497208.5"),
    ("AutoDO", "1"): (32, "252.72"),
    ("AutoDO", "2"): (32, "374.57"),
    ("AutoDO", "3"): (32, "1169.4"),
    ("AutoDO", "4"): (10, "434.3"),
    ("AutoDO", "5"): (6, "60.13"),
    ("AutoDO", "6"): (9, "84.94"),
    ("AutoDO", "7"): (15, "6110.882"),
    ("FDS", "1"): (12, "1075.3"),
    ("HBA", "1"): (22, "21544"),
    ("HBA", "2"): (15, "137.08"),
    ("HBA", "3"): (17, "23452"),
    ("HBA", "4"): (110, "874.18"),
    ("HBA", "5"): (11, "95.9"),
    ("HBA", "6"): (10, "44.5"),
    ("HBA", "10"): (30, "278.14"),
}
"""Of each table how many numbers there are, and the sum of them and of their spreads."""
AUTODO = {"svhn": "1", "cifar10": "2", "cifar100": "3", "imagenet": "4"}


def of(paper, table, **wanted):
    """The numbers of a table with these attributes, in its order."""
    chosen = [one for one in NUMBERS if (one.paper, one.table) == (paper, table)]
    return [one for one in chosen if all(getattr(one, key) == wanted[key] for key in wanted)]


def value(*place, **wanted):
    (one,) = of(*place, **wanted)
    return Decimal(one.printed.replace(",", "").partition("±")[0])


def near(found, stated):
    """Whether a stated number is the found one, rounded to the stated digits."""
    stated = Decimal(stated)
    return abs(found - stated) <= Decimal(5).scaleb(stated.as_tuple().exponent - 1)


# Structure


def test_every_table_has_all_of_its_numbers():
    found: dict[tuple[str, str], tuple[int, Decimal]] = {}
    for one in NUMBERS:
        count, total = found.get((one.paper, one.table), (0, Decimal()))
        parts = one.printed.replace(",", "").split("±")
        found[one.paper, one.table] = (count + 1, total + sum(map(Decimal, parts)))
    assert found == {place: (count, Decimal(total)) for place, (count, total) in SUMS.items()}
    assert len(set(NUMBERS)) == len(NUMBERS)


def test_specifications_and_distortions_are_this_project_s():
    found = plugins(None)
    for spec in {spec for one in NUMBERS for spec in one.specs}:
        assert select(found, spec).spec == spec
    for distort in {one.distort for one in NUMBERS}:
        assert str(Distortion.parse(distort)) == distort


def test_networks_are_in_order_of_size():
    sizes = []
    for name in networks():
        if name.startswith(("lenet", "wrn", "resnet", "alexnet")):
            with torch.device("meta"):
                sizes.append(sum(weight.numel() for weight in build(name, 10, 3, 32).parameters()))
    assert len(sizes) == 6
    assert sizes == sorted(sizes)


def test_scores_are_errors():
    (gar,) = of("GAR", "2", specs=("gar",), data="cifar10")
    assert (gar.printed, gar.score, gar.value, gar.spread) == (
        "97.56±0.07",
        "2.44 ± 0.07",
        97.56,
        0.07,
    )
    (quoted,) = of("GAR", "2", specs=("autoaugment",), data="cifar100")
    assert (quoted.score, quoted.spread, quoted.spread_kind) == ("17.1", None, None)
    assert of("HBA", "6", specs=("stn",))[1].score == "0.582 ± 0.004"


# What the papers say of their numbers elsewhere


def test_gar_s_split_probabilities_add_up_to_nine():
    pairs = of("GAR", "1")
    for noisy, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert noisy.row == other.row
        assert noisy.value + 9 * other.value == pytest.approx(9, abs=0.05)


def test_ohl_s_reductions_are_differences():
    for reduction in of("OHL-Auto-Aug", "2", metric="error-reduction"):
        before = reduction.column.split("(")[1].rstrip(")")
        ohl = value("OHL-Auto-Aug", "2", network=reduction.network, column="OHL-Auto-Aug")
        mine = value("OHL-Auto-Aug", "2", row=reduction.row, column=before)
        assert mine - ohl == Decimal(reduction.printed), reduction.row


def test_ohl_s_iterations_are_products():
    steps = [one.value for one in of("OHL-Auto-Aug", "4", metric="iterations")]
    counted = [15000 * 4000 * 120, 300 * 50000 * 8, 15000 * 6000 * 200, 1.28e6 * 4 * 150]
    assert steps == pytest.approx([count / 1024 for count in counted], rel=0.004)
    assert steps[0] / steps[1] == pytest.approx(60, rel=0.01)
    assert round(steps[2] / steps[3], 1) == 23.5, "the paper's 24"


@pytest.mark.parametrize(
    ("data", "distort", "gain"),
    [
        ("svhn", "clean", "0.2"), ("cifar10", "clean", "0.1"), ("cifar100", "clean", "0.5"),
        ("svhn", "imbalance=100", "5.6"), ("cifar10", "imbalance=10", "1.5"),
        ("cifar100", "imbalance=10", "3.3"), ("imagenet", "imbalance=10", "1.2"),
        ("svhn", "noise=0.1", "0.8"), ("cifar10", "noise=0.1", "2.0"),
        ("cifar100", "noise=0.1", "4.1"),
        ("svhn", "imbalance=100,noise=0.1", "7.3"), ("cifar10", "imbalance=10,noise=0.1", "4.3"),
        ("cifar100", "imbalance=10,noise=0.1", "9.3"),
        ("imagenet", "imbalance=10,noise=0.1", "0.6"),
    ],
)  # fmt: skip
def test_autodo_s_gains_are_those_of_its_text(data, distort, gain):
    found = of("AutoDO", AUTODO[data], distort=distort)
    own = min(one.value for one in found if "(ours)" in one.row)
    prior = min(one.value for one in found if "(ours)" not in one.row)
    assert prior - own == pytest.approx(float(gain), abs=1e-9)


def test_autodo_s_tables_agree():
    for one in of("AutoDO", "5", column="Dval → Dtrain"):
        (whole,) = of("AutoDO", AUTODO[one.data], distort="clean", specs=one.specs)
        assert near(Decimal(str(one.value)), whole.printed.partition("±")[0])
    for data, less in {"svhn": "0.1", "cifar10": "0.3", "cifar100": "1.9"}.items():
        clean = value("AutoDO", AUTODO[data], distort="clean", specs=("autodo",))
        assert near(clean - value("AutoDO", "6", data=data, column="AutoDO"), less)


def test_autodo_s_hours_are_rates_times_epochs():
    for data in ("cifar10", "svhn"):
        rate = value("AutoDO", "7", data=data, row="AutoDO, 1 epoch")
        for start in (50, 150):
            hours = value("AutoDO", "7", data=data, row=f"AutoDO, E = {start}")
            assert abs(rate * (200 - start) - hours) <= Decimal("0.0005") * (
                200 - start
            ) + Decimal("0.05")


def test_hba_s_first_table_is_a_summary():
    for one in of("HBA", "1"):
        if one.metric == "hours":
            (full,) = of("HBA", "3", row=one.column, data=one.data)
        else:
            (full,) = of(
                "HBA", "4", column=one.column, data=one.data, network=one.network, metric="error"
            )
        assert near(Decimal(full.printed.partition("±")[0]), one.printed), (one.column, one.row)


def test_hba_s_second_table_is_half_of_the_tenth():
    half = [one.printed for one in of("HBA", "10", network="wrn-28-10")]
    assert [one.printed for one in of("HBA", "2")] == half


def test_hba_beats_dada_as_often_as_it_says():
    outcome = Counter()
    for dada in of("HBA", "4", column="DADA"):
        (own,) = of("HBA", "4", column="HBA", row=dada.row, data=dada.data)
        gap = Decimal(dada.printed) - Decimal(own.printed.partition("±")[0])
        clear = abs(gap) > 2 * Decimal(str(own.spread))
        outcome["tie" if not clear else "win" if gap > 0 else "loss"] += 1
    assert outcome == {"win": 3, "tie": 9, "loss": 1}


def test_hba_s_target_tasks_are_better_in_three_of_four():
    proxy, target = (of("HBA", "5", metric="error")[part] for part in (slice(0, 4), slice(4, 8)))
    better = [own.value < other.value for own, other in zip(target, proxy, strict=True)]
    assert [one.data for one in target] == [one.data for one in proxy]
    assert better == [True, False, True, True]


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_two_papers_quote_the_same(data):
    for name, here, there in (
        ("PBA", "PBA", "PBA"),
        ("FAA", "Fast AA", "FAA"),
        ("AA", "AA", "AA"),
        ("RA", "RA", "RA"),
    ):
        accuracy = value("GAR", "2", column=here, data=data)
        assert 100 - accuracy == value("HBA", "4", column=there, data=data, network="wrn-28-10"), (
            name
        )


def test_hba_quotes_ohl():
    for metric in ("error", "top5-error"):
        source = value(
            "OHL-Auto-Aug", "3", row="OHL-Auto-Aug", network="timm:resnet50", metric=metric
        )
        (quoted,) = of("HBA", "4", column="OHLAA", metric=metric)
        assert near(source, quoted.printed)


def test_hours_are_quoted_alike_but_for_one():
    differing = [
        (one.printed, other.printed)
        for one in of("AutoDO", "7", origin="quoted")
        for other in of("HBA", "3", data=one.data, row=one.row.replace("OHL", "OHLAA"))
        if Decimal(one.printed.replace(",", "")) != Decimal(other.printed)
    ]
    assert differing == [("83.3", "83.4")]


# Bad files

GOOD = """
papers = { gar = "GAR" }
networks = { fc = "FC" }
[[tables]]
paper = "gar"
table = "1"
metric = "error"
unit = "%"
split = "test"
data = "mnist"
columns = [{ name = "A" }, { name = "B", note = "n" }]
rows = [{ name = "R", network = "fc", note = "m", values = ["1.5", "-"] }]
"""


def read(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return published(path)


def test_a_table_unfolds(tmp_path):
    (one,) = read(tmp_path, GOOD)
    assert (one.row, one.column, one.value, one.note, one.epochs) == ("R", "A", 1.5, "m", None)
    (_, two) = read(
        tmp_path / "..", GOOD.replace('"-"', '{ value = "1,2.5±0.1", spread_kind = "std" }')
    )
    assert (two.value, two.spread, two.note) == (12.5, 0.1, "n; m")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"-"]', '"-", "2"]', "3 values for 2 columns"),
        ('"1.5"', '"1.5 %"', "'1.5 %' is no number"),
        ('"1.5"', '"1.5±0.1"', "a spread needs its kind"),
        ('"1.5"', '{ value = "1.5", spread_kind = "std" }', "a kind its spread"),
        ('"1.5"', '{ value = "1.5", runs = 0 }', "runs: Input should be greater than 0"),
        ('"1.5"', '{ value = "1.5", seeds = 3 }', "seeds: Extra inputs"),
        ('paper = "gar"', 'paper = "rag"', "paper 'rag': gar"),
        ('network = "fc"', 'network = "cnn"', "network 'cnn' is not among"),
        ('data = "mnist"', 'data = "digits"', "data: Input should be"),
        ('split = "test"', "", "a number of error of split None"),
        ('metric = "error"', 'metric = "hours"', "a number of hours of split test"),
        ('{ name = "A" }', '{ name = "A", network = "fc" }', r"both say \['network'\]"),
        ("[[tables]]", "[[tabled]]", "tables: Field required"),
        ("[[tables]]", "[[tables]", "cannot be read"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(RecordError, match=message) as caught:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert "mine.toml" in str(caught.value)


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(RecordError, match="cannot be read: "):
        published(tmp_path / "none.toml")
