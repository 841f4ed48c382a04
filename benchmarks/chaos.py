"""A suite that completes although its driver and its workers are killed at random moments.

A small suite runs once undisturbed.  Then it runs in rounds, each in a folder of its own: drivers
are started one after another until one ends with exit code 0.  Meanwhile SIGKILL hits drivers,
workers (now and then the server that forks them) and whole process groups.  Between two drivers a
finished record is truncated at times, or gets one bit flipped.  Rounds go on until there were
enough kills.

After every kill, each record that was finished before has to be there with the same bytes, and
every record has to be whole.  What was spoiled has to lie in quarantine in the end, and its run
has to be made anew.  In the end of a round the records are those of the undisturbed run in all
but seconds and redone work.  So are leaderboard.csv and leaderboard.md, byte for byte, once both
sets of records have been given the same seconds: no two runs take equally long, and the column
`time` and the columns of seconds show that.

    python benchmarks/chaos.py [--kills 200] [--seed 0] [--pause 1.0] [--folder FOLDER]

Figures: `kills` and those of each kind, `rounds`, `records_lost`, `records_torn`,
`records_spoiled`, `spoiled_trusted` (not found in quarantine, or not made anew), `drivers_failed`
(that ended by themselves otherwise than with a table), `orphans` (processes that outlived their
driver for ten minutes), `records_identical`, `leaderboard_identical`.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.errors import RecordError
from bench.record import Record, read_record, read_records, record_path, write_record
from bench.report import leaderboard

ROOT = Path(__file__).parent.parent
SUITE = "chaos"
TOML = """
title = "Small trainings, fixed and learned, and a search of three trials"
budgets = [3]
seeds = 4
methods = [
    "none", "standard[length=filled]", "cutout[length=filled]", "mixup[length=filled]", "gar",
    "search[space=randaugment,trials=3]",
]

[[tasks]]
data = "digits"
distort = ["clean"]
network = "small-cnn"
recipe = { steps = 60, batch_size = 64, lr = 0.1, weight_decay = 5e-4, warmup = 0.05 }
"""
KINDS = {"worker": 0.6, "server": 0.05, "driver": 0.25, "group": 0.1}  # shares of kills
SPOILED = 0.25  # share of drivers after which a record is spoiled
EARLY = 0.2  # share of drivers that may be killed before their first worker is there
PATIENCE = 600.0  # seconds after which a driver, or an orphan, hangs


@dataclass
class Book:
    """What has been done, and what has been seen."""

    done: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        """Of all kinds."""
        return sum(self.done[kind] for kind in KINDS)


@dataclass
class Round:
    """One folder of results, from the first driver to one that ends well.

    Attributes:
        finished: Bytes of the records that were finished, by name.
        spoiled: What was made of some of them.
        drivers: Process ids, which are those of their sessions.
    """

    folder: Path
    book: Book
    finished: dict[str, bytes] = field(default_factory=dict)
    spoiled: list[tuple[str, bytes]] = field(default_factory=list)
    drivers: list[int] = field(default_factory=list)

    def look(self) -> None:
        """Holds the records against those that were seen before."""
        pending = dict(self.spoiled)
        for path in sorted((self.folder / SUITE / "runs").glob("*.json")):
            try:
                raw = path.read_bytes()
            except FileNotFoundError:  # a driver sets it aside; if not, it is missed below
                continue
            if raw == pending.get(path.name):
                continue  # no driver has come to it yet
            try:
                record = read_record(path)
            except RecordError as error:
                print(f"torn: {error}", flush=True)
                self.book.found["records_torn"] += 1
                continue
            if record.status == "ok":
                self._hold(path.name, raw)
        for name in self.finished.keys() - {path.name for path in self._paths()}:
            print(f"lost: {name}", flush=True)
            self.book.found["records_lost"] += 1
            del self.finished[name]

    def _hold(self, name: str, raw: bytes) -> None:
        if self.finished.setdefault(name, raw) != raw:
            print(f"changed: {name}", flush=True)
            self.book.found["records_lost"] += 1
            self.finished[name] = raw

    def _paths(self) -> Iterator[Path]:
        return (self.folder / SUITE / "runs").glob("*.json")

    def spoil(self, chance: random.Random) -> None:
        """Truncates a finished record, or flips a bit of it; no driver is running."""
        if not self.finished:
            return
        name = chance.choice(sorted(self.finished))
        raw = bytearray(self.finished.pop(name))
        if chance.random() < 0.5:
            del raw[chance.randrange(len(raw)) :]
        else:
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        record_path(self.folder, SUITE, Path(name).stem).write_bytes(raw)
        self.spoiled.append((name, bytes(raw)))
        self.book.done["spoiled"] += 1

    def settle(self) -> None:
        """In the end: what was spoiled is set aside, and made anew; and no worker is left."""
        self.book.found["orphans"] += self.bury(PATIENCE)
        aside = [path.read_bytes() for path in (self.folder / SUITE / "quarantine").glob("*")]
        for name, raw in self.spoiled:
            if raw not in aside or name not in self.finished:
                print(f"trusted: {name}", flush=True)
                self.book.found["spoiled_trusted"] += 1

    def bury(self, patience: float) -> int:
        """Waits for processes of killed drivers; kills and counts those that do not end."""
        deadline = time.monotonic() + patience
        while left := [pid for leader in self.drivers for pid, _ in _session(leader)]:
            if time.monotonic() > deadline:
                for pid in left:
                    os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.1)
        return len(left)


class Driver:
    """A driver and its processes, in a session of their own."""

    def __init__(self, toml: Path, results: Path) -> None:
        self.said = results.parent / "output.txt"
        command = ["run", "--suite", str(toml), "--results", str(results)]
        command += ["--devices", "cpu", "--jobs", "2", "--checkpoint-minutes", "0.005"]
        with self.said.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bench.cli", *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )

    def over(self, seconds: float) -> bool:
        """Whether the driver ends within so many seconds."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def children(self) -> tuple[list[int], list[int]]:
        """Servers, which are the driver's children, and workers, which are theirs."""
        parents = dict(_session(self.process.pid))
        servers = [pid for pid, parent in parents.items() if parent == self.process.pid]
        return servers, [pid for pid, parent in parents.items() if parent in servers]

    def kill(self, kind: str, chance: random.Random) -> bool:
        """Kills a process of a kind, or all of them; False if there is none."""
        pid = self.process.pid
        if kind == "group":
            os.killpg(pid, signal.SIGKILL)
        else:
            servers, workers = self.children()
            victims = {"driver": [pid], "server": servers, "worker": workers}[kind]
            if not victims:
                return False
            try:
                os.kill(chance.choice(victims), signal.SIGKILL)
            except ProcessLookupError:
                return False
        if kind in ("driver", "group"):
            self.process.wait()
        return True


def _session(leader: int) -> Iterator[tuple[int, int]]:
    """Processes of a session and their parents."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            yield int(path.parent.name), int(fields[1])


def driven(driver: Driver, round_: Round, wanted: int, pause: float, chance: random.Random) -> int:
    """Disturbs a driver until it ends, or until there were enough kills; returns its exit code."""
    deadline = time.monotonic() + PATIENCE
    early = chance.random() < EARLY
    while not early and not driver.over(0.1) and not driver.children()[1]:
        assert time.monotonic() < deadline, driver.said.read_text()
    while round_.book.kills < wanted and not driver.over(chance.uniform(0, 2 * pause)):
        assert time.monotonic() < deadline, driver.said.read_text()
        (kind,) = chance.choices(list(KINDS), list(KINDS.values()))
        if driver.kill(kind, chance):
            round_.book.done[kind] += 1
            round_.look()
    assert driver.over(PATIENCE), driver.said.read_text()
    round_.look()
    return driver.process.returncode


def endured(toml: Path, round_: Round, wanted: int, pause: float, chance: random.Random) -> None:
    """Starts drivers until one ends well."""
    while True:
        driver = Driver(toml, round_.folder)
        round_.drivers.append(driver.process.pid)
        code = driven(driver, round_, wanted, pause, chance)
        book, said = round_.book, driver.said.read_text()
        counts = ", ".join(f"{name} {book.done[name]}" for name in (*KINDS, "spoiled"))
        print(f"exit {code}, {len(round_.finished)} finished; {counts}", flush=True)
        if code not in (0, -signal.SIGKILL) and "wrote" not in said:
            print(said, flush=True)
            book.found["drivers_failed"] += 1
        if code == 0:
            round_.settle()
            return
        if book.kills < wanted and chance.random() < SPOILED:
            round_.spoil(chance)


def equal_seconds(record: Record) -> dict[str, Any]:
    """A record's content, with seconds that follow from FLOPs, without work that kills undid."""
    content = record.model_dump(mode="json")
    content["environment"].pop("git")  # files may be edited meanwhile
    bill = content["bill"]
    for part in (bill, *bill["items"]):
        for name in part:
            if "seconds" in name or name.startswith("redone"):
                part[name] = 0.0
    bill["rt_seconds"], bill["seconds"] = bill["rt_flops"] / 1e9, bill["flops"] / 1e9
    bill["seconds_share"], bill["redone_flops"] = bill["flops_share"], 0
    return content


def tables(results: Path, scratch: Path) -> tuple[dict[str, Any], list[bytes]]:
    """A suite's records by name and its tables, all with equal seconds."""
    records = {record.hash: record for record in read_records(results, SUITE)}
    contents = {name: equal_seconds(record) for name, record in records.items()}
    for name, content in contents.items():
        made = content | {"environment": content["environment"] | {"git": "any"}}
        write_record(record_path(scratch, SUITE, name), Record.model_validate(made))
    _, paths = leaderboard.write(scratch, SUITE)
    return contents, [path.read_bytes() for path in paths]


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two contents differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            yield from differences(one.get(name), other.get(name), f"{place}.{name}")
    elif one != other:
        yield place


def main() -> None:
    """Runs the suite in peace, then in chaos, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause", type=float, default=1.0, help="mean seconds between kills")
    parser.add_argument("--folder", type=Path, help="of all results, to look at afterwards")
    options = parser.parse_args()
    book, chance, same = Book(), random.Random(options.seed), Counter[str]()
    with TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        (folder / "peace").mkdir(parents=True)
        toml = folder / f"{SUITE}.toml"
        toml.write_text(TOML)
        peace = Round(folder / "peace" / "results", Book())
        endured(toml, peace, 0, options.pause, chance)
        records, board = tables(peace.folder, folder / "peace" / "scratch")
        while book.kills < options.kills:
            same["rounds"] += 1
            place = folder / f"round-{same['rounds']}"
            place.mkdir()
            round_ = Round(place / "results", book)
            try:
                endured(toml, round_, options.kills, options.pause, chance)
            finally:
                round_.bury(0.0)
            found, again = tables(round_.folder, place / "scratch")
            differ = list(differences(records, found))
            print(f"round {same['rounds']}: {', '.join(differ) or 'no record differs'}")
            same["records"] += not differ
            same["leaderboard"] += again == board
    for kind in KINDS:
        print(f"figure kills_{kind} {book.done[kind]} count")
    print(f"figure kills {book.kills} count")
    print(f"figure rounds {same['rounds']} count")
    print(f"figure records_spoiled {book.done['spoiled']} count")
    for name in ("spoiled_trusted", "drivers_failed", "orphans", "records_lost", "records_torn"):
        print(f"figure {name} {book.found[name]} count")
    for name in ("records", "leaderboard"):
        print(f"figure {name}_identical {int(same[name] == same['rounds'])} bool")


if __name__ == "__main__":
    main()
