"""The journal of finished parts: what a part leaves, what is taken from it, and its file."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.archive import Archive
from bench.check import small_config
from bench.environment import Origin
from bench.errors import RecordError, UnmeteredCompute
from bench.method import FixedPolicy
from bench.networks.flops import FlopCounter, uncounted
from bench.partial import Partial, owner
from bench.plugins import Plugin, Selected
from bench.stage import Stage, stage
from bench.train.journal import Entry, Journal
from bench.train.prepare import Prepared
from bench.train.session import Session
from tests.unit.test_archive import pair
from tests.unit.test_ledger import FakeTime

OWNER = {"run": "abc", "code": {"bench": "x"}}


class Killed(BaseException):
    """Stands for a signal."""


def staged(small: Prepared, journal: Journal | None = None, now: Any = None) -> Stage:
    selected = Selected(Plugin(FixedPolicy, Path(__file__), ""), None, "standard", None)  # type: ignore[arg-type, type-abstract]
    more = {"now": now} if now else {}
    set_ = stage(small, small_config(selected), journal=journal, **more)
    set_.clock.start()
    return set_


def trained(session: Session, number: int, steps: int = 3) -> dict[str, Any]:
    """Trains a network of its own, by every stream there is; what the work came to."""
    learner, batches = session.learner(), session.batches("train")
    rate = torch.rand((), generator=session.rng("rate")).item()
    for _ in range(steps):
        batch = next(batches)
        with session.metered("train"):
            learner.descend(learner.loss(batch.images, batch.targets), 0.5)
        session.tally(steps=1)
        session.log(inner=rate, odd=math.nan)
    session.event(number=number)
    return {"digest": learner.digest(), "rate": rate, "noise": torch.rand(()).item()}


def method(session: Session, parts: int = 3, stop: int | None = None) -> list[Any]:
    """A run of some parts, killed in the middle of one of them."""
    found = []
    for number in range(parts):

        def work(number: int = number) -> Any:
            done = trained(session, number)
            if number == stop:
                raise Killed
            return done

        found.append(session.once("part", work, number=number))
        session.log(outer=found[-1]["rate"])
    last = next(session.batches("train"))
    return [found, session.learner().digest(), last.index.tolist(), session.trace.export()]


def account(set_: Stage) -> Any:
    """Everything that a part may leave, but for seconds."""
    session, ledger = set_.session, set_.meter.ledger
    items = [(label, key, item.calls, item.flops) for label, key, item in ledger.items("run")]
    return items, ledger.billed_flops, session.tallies, session.plans, session.prices


# Parts of a run


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_been(small: Prepared, stop: int) -> None:
    whole = staged(small)
    expected = method(whole.session)
    entries: list[Entry] = []
    with pytest.raises(Killed):
        method(staged(small, Journal((), entries.append)).session, stop=stop)
    parts = [entry for entry in entries if entry["name"].startswith("part")]
    assert [entry["name"] for entry in parts] == [f"part {n}" for n in range(stop)]
    again = staged(small, Journal(json.loads(json.dumps(entries)), entries.append))
    assert method(again.session) == expected
    assert account(again) == account(whole)
    again.meter.ledger.audit()
    assert sum(entry["name"].startswith("part") for entry in entries) == 3


def test_a_part_that_is_in_the_journal_does_no_work(small: Prepared) -> None:
    entries: list[Entry] = []
    method(staged(small, Journal((), entries.append)).session)
    session = staged(small, Journal(entries)).session
    assert session.once("part", lambda: 1 / 0, number=0) == entries[-3]["result"]


def test_seconds_of_the_killed_process_count_once(small: Prepared) -> None:
    time, entries = FakeTime(), list[Entry]()
    first = staged(small, Journal((), entries.append), time)

    def work() -> None:
        with first.session.timed("think"):
            time.sleep(3)
        time.sleep(4)

    time.sleep(1)
    first.session.once("part", work)
    time.sleep(2)
    assert first.clock.elapsed == 10
    again = staged(small, Journal(entries), time)
    assert again.meter.ledger.reference == first.meter.ledger.reference
    time.sleep(5)
    again.session.once("part", lambda: 1 / 0)
    assert again.clock.elapsed == 5 + 7
    ((label, _, item),) = again.meter.ledger.items("run")
    assert (label, item.calls, item.flops, item.seconds) == ("think", 1, 0, 3.0)


def test_a_part_moves_no_stream_of_the_run(small: Prepared) -> None:
    session, fresh = staged(small).session, staged(small).session
    before = torch.get_rng_state()
    parts = [session.once("part", lambda: trained(session, 0)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    for name in ("rate", "policy"):
        assert torch.equal(session.rng(name).get_state(), fresh.rng(name).get_state())
    assert parts[0]["rate"] != parts[1]["rate"], "each part draws for itself"
    assert parts[0]["noise"] != parts[1]["noise"]
    assert parts[0]["digest"] != parts[1]["digest"]


def test_parts_in_parts_and_in_rehearsals_are_not_kept(small: Prepared) -> None:
    entries: list[Entry] = []
    session = staged(small, Journal((), entries.append)).session

    def work() -> float:
        return float(session.once("inner", lambda: session.rng("x").initial_seed() % 7))

    price = session.price("train", lambda: session.once("part", lambda: trained(session, 0, 1)))
    assert entries == []
    session.once("part", work)
    names = [entry["name"] for entry in entries]
    assert names == ["price of one RT", "price of train", "part 0"]
    assert entries[1]["result"] == price


def test_what_was_agreed_holds_in_the_next_process(small: Prepared) -> None:
    """Prices in seconds differ from process to process; the plan must not."""
    entries: list[Entry] = []
    for factor in (1.0, 2.0):
        session = staged(small, Journal(entries[:], entries.append)).session
        session.price("train", lambda: trained(session, 0, 1))  # noqa: B023
        assert session.plan(train=int(10 * factor)) == {"train": 10}
        assert session.plans == [{"train": 10}]
        session.once("part", lambda: None)
    assert len(entries) == 4


def test_a_run_that_does_not_repeat_itself_is_told_so(small: Prepared) -> None:
    entries: list[Entry] = []
    staged(small, Journal((), entries.append)).session.once("trial", lambda: 1, point=(0.5, 0.25))
    session = staged(small, Journal(entries)).session
    with pytest.raises(RecordError) as caught:
        session.once("trial", lambda: 1, point=(0.5, 0.75))
    assert "goes on with trial 0 (point=[0.5, 0.25]), and the run with trial 0 (point=[0.5, " in (
        str(caught.value)
    )
    with pytest.raises(RecordError, match="goes on with trial 0"):
        staged(small, Journal(entries)).session.once("other", lambda: 1, point=(0.5, 0.25))


def test_a_result_must_be_plain(small: Prepared) -> None:
    session = staged(small).session
    assert session.once("part", lambda: {"pair": (1, 0.1)}) == {"pair": [1, 0.1]}
    with pytest.raises(ValueError, match="JSON"):
        session.once("part", lambda: math.nan)


def test_a_part_reaches_no_milestone(small: Prepared) -> None:
    set_ = staged(small)
    learner = set_.session.learner()
    set_.session.once("part", lambda: set_.session.progress(learner, 0.5))
    assert set_.observer.curve == []
    set_.session.progress(learner, 0.5)
    assert len(set_.observer.curve) == 1


# Work without a network


def test_timed_work_has_seconds_and_no_flops(small: Prepared) -> None:
    time = FakeTime()
    set_ = staged(small, now=time)
    session = set_.session
    with FlopCounter() as counter:
        for _ in range(2):
            with session.timed("propose"):
                torch.ones(8, 8) @ torch.ones(8, 8)
                time.sleep(2)
    assert (counter.total, counter.aside) == (0, 2 * 2 * 8**3)
    ((label, key, item),) = set_.meter.ledger.items("run")
    assert (label, key, item.calls, item.flops, item.seconds) == ("propose", (), 2, 0, 4.0)
    assert set_.clock.elapsed == 4


def test_no_network_runs_in_timed_work(small: Prepared) -> None:
    session = staged(small).session
    learner, images = session.learner(), small.task.train.images[:2]
    with pytest.raises(UnmeteredCompute, match="outside"), session.timed("propose"):
        learner(images)
    for outer, inner in ((session.timed, session.metered), (session.metered, session.timed)):
        said = pytest.raises(UnmeteredCompute, match="inside another block")
        with said, outer("one"), inner("two"):
            pass
    with session.metered("train"):
        learner(images)


def test_counters_put_nested_work_aside_once() -> None:
    def product() -> None:
        torch.ones(2, 2) @ torch.ones(2, 2)

    with FlopCounter() as outer:
        product()
        with FlopCounter() as inner, uncounted():
            product()
            with uncounted():
                product()
        product()
    assert (outer.total, outer.aside, inner.total, inner.aside) == (32, 32, 0, 32)


# The file


def written(path: Path, entries: list[Entry]) -> bytes:
    partial = Partial.read(path, OWNER)
    for entry in entries:
        partial.append(entry)
    partial.close()
    return path.read_bytes()


ENTRIES: list[Entry] = [{"name": f"part {n}", "inputs": {}, "result": n / 7} for n in range(4)]


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "partial" / "abc.jsonl"
    assert Partial.read(path, OWNER).entries == []
    assert not path.parent.exists(), "a run without parts leaves nothing"
    raw = written(path, ENTRIES[:2])
    assert Partial.read(path, OWNER).entries == ENTRIES[:2]
    assert owner(path) == OWNER
    assert [json.loads(line)["entry"] for line in raw.splitlines()] == [OWNER, *ENTRIES[:2]]
    assert written(path, ENTRIES[2:]).startswith(raw)
    assert Partial.read(path, OWNER).entries == ENTRIES


def test_a_line_is_on_the_disk_when_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    monkeypatch.setattr("os.fsync", lambda fd: sizes.append(path.stat().st_size))
    path = tmp_path / "abc.jsonl"
    partial = Partial.read(path, OWNER)
    path.touch()
    for entry in ENTRIES:
        partial.append(entry)
        assert sizes[-1] == path.stat().st_size
    partial.close()


def test_a_torn_last_line_is_dropped_wherever_it_tore(tmp_path: Path) -> None:
    path = tmp_path / "abc.jsonl"
    raw = written(path, ENTRIES)
    ends = [place + 1 for place, byte in enumerate(raw) if byte == ord("\n")]
    for length in range(len(raw)):
        path.write_bytes(raw[:length])
        whole = sum(end <= length for end in ends)
        assert Partial.read(path, OWNER).entries == ENTRIES[: max(0, whole - 1)]
    path.write_bytes(raw[:-5] + bytes(5))
    assert Partial.read(path, OWNER).entries == ENTRIES[:-1]
    assert written(path, ENTRIES[-1:]) == raw, "and the file is whole again"


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path, line: int) -> None:
    path = tmp_path / "abc.jsonl"
    lines = written(path, ENTRIES).splitlines(keepends=True)
    changes: list[Callable[[bytes], bytes]] = [
        lambda text: text.replace(b"0", b"1", 1).replace(b"a", b"b", 1),
        lambda text: text[:-9] + b"\n",
        lambda text: b"",
        lambda text: text + text,
        lambda text: b"null\n",
        lambda text: b"\n",
    ]
    for change in changes:
        path.write_bytes(b"".join([*lines[:line], change(lines[line]), *lines[line + 1 :]]))
        with pytest.raises(RecordError, match=r"abc.jsonl is damaged in line \d"):
            Partial.read(path, OWNER)


def test_a_file_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "abc.jsonl"
    written(path, ENTRIES)
    other = path.rename(tmp_path / "abd.jsonl")
    with pytest.raises(RecordError, match="damaged in line 1"):
        Partial.read(other, OWNER)
    assert owner(other) is None


def test_what_other_code_began_is_not_used(tmp_path: Path) -> None:
    path, newer = tmp_path / "abc.jsonl", {"run": "abc", "code": {"bench": "y"}}
    written(path, ENTRIES)
    partial = Partial.read(path, newer)
    assert (partial.entries, partial.foreign) == ([], True)
    assert owner(path) == OWNER, "nothing is lost before there is something new"
    partial.append(ENTRIES[0])
    partial.close()
    found = Partial.read(path, newer)
    assert (found.entries, found.foreign) == (ENTRIES[:1], False)


def test_two_drivers_write_no_line_into_each_others_file(tmp_path: Path) -> None:
    path = tmp_path / "abc.jsonl"
    written(path, ENTRIES[:1])
    one, other = Partial.read(path, OWNER), Partial.read(path, OWNER)
    one.append(ENTRIES[1])
    other.append(ENTRIES[1])
    one.append(ENTRIES[2])
    assert Partial.read(path, OWNER).entries == ENTRIES[:2]
    one.close()
    other.close()


# With the records


def test_finished_parts_go_when_their_record_is_filed(tmp_path: Path) -> None:
    job, record = pair()
    archive = Archive.read(tmp_path, "demo")
    older = replace(job, name="b" * 16)  # another method source
    elsewhere = replace(job, name="c" * 16, config=job.config.model_copy(update={"seed": 1}))
    for one in (job, older, elsewhere):
        partial = archive.partial(one)
        partial.append(ENTRIES[0])
        partial.close()
    assert archive.foreign(job)
    assert not archive.foreign(elsewhere)
    left = lambda: sorted(path.stem[0] for path in (tmp_path / "demo/partial").glob("*"))  # noqa: E731
    archive.add(record.model_copy(update={"status": "failed"}))
    assert left() == ["a", "b", "c"], "a failed run is made again, from its finished parts"
    archive.add(record)
    assert left() == ["c"]
    assert not archive.foreign(job)


def test_parts_are_kept_apart_by_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = pair()
    archive = Archive.read(tmp_path, "demo")
    partial = archive.partial(job)
    partial.append(ENTRIES[0])
    partial.close()
    assert archive.partial(job).entries == ENTRIES[:1]
    assert archive.partial(replace(job, origin=Origin("digest", "later"))).entries == ENTRIES[:1]
    assert archive.partial(replace(job, origin=Origin("other", "commit"))).foreign
    monkeypatch.setattr("bench.archive.libraries", lambda: {"packages": {"optuna": "99"}})
    assert archive.partial(job).foreign
