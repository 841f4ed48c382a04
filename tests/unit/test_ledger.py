"""The ledger's fences and accounts, and the clock under it."""

import pytest
import torch

from bench.errors import BudgetExhausted, LedgerTampered
from bench.train.clock import Clock
from bench.train.ledger import Ledger, ReferencePrice


class FakeTime:
    """A source of time that stands still until told."""

    def __init__(self) -> None:
        self.value = 100.0

    def __call__(self) -> float:
        return self.value

    def sleep(self, seconds: float) -> None:
        self.value += seconds


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


def ledger(time: FakeTime, budget: float = 3.0, track: str = "portable") -> Ledger:
    clock = Clock(torch.device("cpu"), time)
    clock.start()
    return Ledger(budget, ReferencePrice(1000, 10.0), track, clock)  # type: ignore[arg-type]


def test_clock_counts_without_pauses(time: FakeTime) -> None:
    clock = Clock(torch.device("cpu"), time)
    assert clock.elapsed == 0
    clock.start()
    time.sleep(2)
    with clock.pause():
        time.sleep(5)
        assert clock.elapsed == 2
        with clock.pause():
            time.sleep(5)
        time.sleep(5)
    time.sleep(1)
    assert clock.stop() == 3
    with clock.pause():
        time.sleep(9)
    assert clock.elapsed == 3


def test_portable_track_binds_on_flops_alone(time: FakeTime) -> None:
    books = ledger(time)
    time.sleep(1e6)
    books.charge("train", (), 1500)
    assert books.spent == 1.5
    assert books.remaining == 1.5


def test_gpu_track_binds_on_seconds_alone(time: FakeTime) -> None:
    books = ledger(time, track="gpu")
    books.charge("train", (), 10**9)
    assert books.remaining == 3
    time.sleep(29)
    books.admit(0.1)
    time.sleep(2)  # a method that sleeps does not escape
    with pytest.raises(BudgetExhausted):
        books.admit(0.0)


def test_a_block_that_exactly_fits_is_admitted(time: FakeTime) -> None:
    books = ledger(time, budget=0.3)
    for _ in range(3):
        books.admit(0.1)
        books.charge("train", (), 100)
    with pytest.raises(BudgetExhausted, match="past the budget's end"):
        books.admit(0.1)


def test_a_slice_absorbs_its_own_end_and_no_other(time: FakeTime) -> None:
    books = ledger(time)
    with books.slice(0.5):  # ends at 1.5
        while True:
            books.admit(0.2)
            books.charge("a", (), 200)
    assert books.flops("run") == 1400
    with pytest.raises(BudgetExhausted) as caught, books.slice(1.0):
        raise BudgetExhausted("somebody else's", object())
    assert str(caught.value) == "somebody else's"


def test_slices_nest(time: FakeTime) -> None:
    books, inner_ends = ledger(time), 0
    with books.slice(0.5):
        while True:
            books.admit(0.1)
            with books.slice(0.5):
                while True:
                    books.admit(0.1)
                    books.charge("a", (), 100)
            inner_ends += 1
            books.admit(0.1)
            books.charge("a", (), 100)
    assert inner_ends > 1
    assert books.flops("run") == 1500
    assert books.remaining == pytest.approx(1.5)


def test_rehearsal_is_free_up_to_five_percent(time: FakeTime) -> None:
    books = ledger(time)
    with books.on_account("rehearsal"):
        books.admit(100.0)  # never turned away
        books.charge("train", (), 150)
    assert books.billed_flops == 0
    with books.on_account("rehearsal"):
        books.charge("train", (), 60)
    assert books.billed_flops == 60
    with books.on_account("harness"):
        books.charge("test", (), 10**6)
    assert books.billed_flops == 60


def test_rehearsal_seconds_are_free_up_to_five_percent(time: FakeTime) -> None:
    books = ledger(time, track="gpu")
    books.rehearsal_seconds = 1.5
    assert books.spent == 0
    books.rehearsal_seconds = 2.5
    assert books.spent == pytest.approx(0.1)


@pytest.mark.parametrize("change", ["total", "item"])
def test_a_changed_ledger_is_noticed(time: FakeTime, change: str) -> None:
    books = ledger(time)
    item = books.charge("train", (), 500)
    books.audit()
    if change == "total":
        books._totals["run"] = 1
    else:
        item.flops = 1
    with pytest.raises(LedgerTampered):
        books.audit()
