"""Hostile inputs: each has to end in success, or in one sentence and exit code 2.

A plan that is sound and too large for the memory that this script grants ends in a sentence about
memory, and exit code 1: `shortages`.

    python benchmarks/fuzz.py [--inputs 10000] [--seed 0] [--only NUMBER ...] [--kinds ...]

An input is a folder of files and a command line (`_inputs.py`); it is made from the seed and its
number alone.  Most go through the command's own entry in this process, every 500th through a
process of its own as well, which must agree.  Runs are dry: nothing trains.  What would leave the
input's folder is an offence, found by Python's audit events: files opened to be written elsewhere,
connections, pickles, code.  So is text of a stranger that reaches a table, a picture or the
terminal as it is.  A traceback, an offence or a hang is printed, and its files are kept in
`--failures`, with its command line; `--only NUMBER` repeats it.

Figures, in all: `inputs`, `accepted`, `refused`, `shortages`, `tracebacks`, `hangs`,
`disagreements`.
"""

import argparse
import contextlib
import csv
import functools
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from benchmarks._inputs import Input, Materials, materials

ROOT = Path(__file__).parent.parent
SECONDS = 60  # of one input, after which it hangs
MEMORY = 12 << 30  # bytes that the process may have
LONGEST = 1500  # characters of a sentence
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVERY = 500  # the share of inputs that a process of its own repeats
ACCEPTED, REFUSED, SHORT = "accepted", "refused", "shortages"
FAILED, HANGS = "tracebacks", "hangs"


class Hang(BaseException):
    """An input takes too long; no `except Exception` may swallow it."""


@dataclass
class Guard:
    """Watches what an input does to the world, by audit events.

    Attributes:
        place: The folder that it may write to; None while nothing is watched.
        plugin: Whether it names code of its own.
        offences: What it did elsewhere.
    """

    place: Path | None = None
    plugin: bool = False
    offences: list[str] = field(default_factory=list)

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        """An audit hook."""
        if self.place is None:
            return
        writes = event == "open" and isinstance(details[2], int) and details[2] & WRITING
        if writes or event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
            self._written(event, details[0])
        elif event == "os.rename":
            self._written(event, details[1])
        elif (
            event == "compile" and str(details[1]).startswith(str(self.place)) and not self.plugin
        ):
            self.offences.append(f"compiled {details[1]}")
        elif event in ("pickle.find_class", "os.system"):
            self.offences.append(f"{event} {details}")
        elif event in ("socket.connect", "socket.getaddrinfo"):
            raise OSError("no network in here")

    def _written(self, event: str, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            real = os.path.realpath(os.fsdecode(path))
            if not real.startswith((str(self.place), "/dev/")):
                self.offences.append(f"{event} {real}")


@dataclass(frozen=True)
class Outcome:
    """How an input ended, and what was wrong with that."""

    end: str
    output: str
    why: str = ""


def case(number: int, seed: int, known: Materials, only: list[str]) -> Input:
    """The input of this number."""
    rng = random.Random(f"{seed} {number}")
    kinds = {name: kind for name, kind in known.kinds().items() if not only or name in only}
    weights = [share for _, share in kinds.values()]
    maker, _ = kinds[rng.choices([*kinds], weights)[0]]
    return maker(rng)


def lay(one: Input, place: Path) -> None:
    """Writes an input's files."""
    for name, data in one.files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@contextlib.contextmanager
def limited(place: Path, guard: Guard) -> Iterator[None]:
    """In a folder, watched, for so long."""

    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    guard.place, guard.offences, tempfile.tempdir = place, [], str(place)
    try:
        with contextlib.chdir(place):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        guard.place = tempfile.tempdir = None


def tried(one: Input, place: Path, guard: Guard) -> Outcome:
    """Runs an input in this process."""
    from bench.cli import app

    guard.plugin = "--plugin" in one.arguments
    try:
        with limited(place, guard):
            done = CliRunner().invoke(app, list(one.arguments), env=variables(place))
    except Hang:
        return Outcome(HANGS, "", f"longer than {SECONDS} s")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return Outcome(FAILED, done.output, "".join(traceback.format_exception(done.exception)))
    wrong = guard.offences or list(faults(one, place, done.exit_code, done.output, done.stderr))
    if wrong:
        return Outcome(FAILED, done.output, "; ".join(wrong[:3]))
    end = REFUSED if done.exit_code == 2 else ACCEPTED
    return Outcome(SHORT if short(done.exit_code, done.stderr) else end, done.output)


def variables(place: Path) -> dict[str, str]:
    """The environment of an input."""
    names = ("AUGBENCH_DATA", "AUGBENCH_CACHE", "HOME", "TMPDIR", "TORCHINDUCTOR_CACHE_DIR")
    return dict.fromkeys(names, str(place))


def faults(one: Input, place: Path, code: int, output: str, said: str) -> Iterator[str]:
    """What is wrong with how an input ended."""
    problems = one.arguments[0] == "publish" and code == 1  # found, and listed
    if code not in (0, 2) and not problems and not short(code, said):
        yield f"exit code {code}: {output[-300:]}"
    if code == 2:
        usage = said.startswith("Usage: ")
        lines = [line for line in said.splitlines() if line.startswith("augbench: ")]
        if not usage and (len(lines) != 1 or said.count("\n") != 1 or len(said) > LONGEST):
            yield f"not one sentence: {said[:500]!r}"
    if strange := {char for char in output if unsafe(char)}:
        yield f"the terminal gets {sorted(strange)!r}"
    if code == 0 and one.names:
        yield from leaks(place)


def short(code: int, said: str) -> bool:
    """Whether a command ended with one sentence about too little memory."""
    return code == 1 and said.startswith("augbench: out of memory") and said.count("\n") == 1


def unsafe(char: str) -> bool:
    """Whether a character commands a terminal, or turns the text around."""
    if char == "\n":
        return False
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(
        char
    ) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")


def leaks(place: Path) -> Iterator[str]:
    """What of a stranger's text reaches the files of a table as it is."""
    for path in sorted(place.rglob("leaderboard.md")) + sorted(place.rglob("leaderboard.csv")):
        text = path.read_bytes().decode()
        if strange := {char for char in text if unsafe(char)}:
            yield f"{path.name} holds {sorted(strange)!r}"
        if path.suffix == ".md":
            widths = Counter()
            for block in text.split("\n\n"):
                rows = [line for line in block.split("\n") if line.startswith("|")]
                widths = Counter(len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) for row in rows)
                if len(widths) > 1:
                    yield f"{path.name} has rows of {dict(widths)} cells"
            if re.search(r"<(?!!--)[a-zA-Z/]", text) or "](http" in text or "://" in text:
                yield f"{path.name} holds a tag or a link"
        else:
            for row in csv.reader(text.splitlines()):
                for cell in row:
                    if cell[:1] in tuple("=+-@\t\r") and not number(cell):
                        yield f"{path.name} holds the formula {cell[:60]!r}"
    for path in place.rglob("*.svg"):
        try:
            names = {element.tag.rpartition("}")[2] for element in ET.parse(path).iter()}
        except ET.ParseError as error:
            yield f"{path.name} is no XML: {error}"
            continue
        if names & {"script", "foreignObject", "a"}:
            yield f"{path.name} has elements {names}"


def number(text: str) -> bool:
    """Whether a cell is a plain number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def apart(one: Input, place: Path) -> str:
    """How an input ends in a process of its own."""
    command = [sys.executable, "-m", "bench.cli", *one.arguments]
    environment = os.environ | variables(place) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=place, env=environment, capture_output=True, timeout=10 * SECONDS
    )
    found = {1: ACCEPTED} if one.arguments[0] == "publish" else {}  # problems, listed
    return (found | {0: ACCEPTED, 2: REFUSED}).get(done.returncode, FAILED)


@dataclass
class Tally:
    """What became of the inputs of each kind."""

    ends: dict[str, Counter[str]] = field(default_factory=dict)
    disagreements: int = 0
    seconds: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, end: str, seconds: float) -> None:
        """Counts one."""
        self.ends.setdefault(kind, Counter())[end] += 1
        self.seconds[kind] += seconds

    def total(self, end: str) -> int:
        """Over all kinds."""
        return sum(counter[end] for counter in self.ends.values())

    def table(self) -> str:
        """A line a kind."""
        heads = (ACCEPTED, REFUSED, SHORT, FAILED, HANGS)
        lines = [f"{'kind':12}" + "".join(f"{head:>12}" for head in heads) + f"{'seconds':>10}"]
        for kind, counter in sorted(self.ends.items()):
            cells = "".join(f"{counter[head]:12}" for head in heads)
            lines.append(f"{kind:12}{cells}{self.seconds[kind]:10.0f}")
        return "\n".join(lines)


def keep(one: Input, number: int, outcome: Outcome, folder: Path) -> None:
    """Says what failed, and leaves its files and its command line."""
    place = folder / f"{number}-{one.kind}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    lay(one, place)
    command = shlex.join(["augbench", *one.arguments])
    told = f"{command}\n\n{outcome.why}\n\n{outcome.output}\n"
    (place / "case.txt").write_text(told, encoding="utf-8", errors="backslashreplace")
    last = [line for line in outcome.why.splitlines() if line.strip()][-1:]
    print(f"FAILED {number} ({one.kind}) {command[:160]!a}: {ascii(last)[:300]}", flush=True)


def fuzz(
    numbers: list[int], seed: int, known: Materials, failures: Path, only: list[str] | None = None,
    every: int = EVERY,
) -> Tally:  # fmt: skip
    """Tries the inputs of these numbers."""
    tally, guard = Tally(), Guard()
    sys.addaudithook(guard)
    with patience():
        for number in numbers:
            one = case(number, seed, known, only or [])
            with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as folder:
                place = Path(folder).resolve()
                lay(one, place)
                began = time.perf_counter()
                outcome = tried(one, place, guard)
                tally.add(one.kind, outcome.end, time.perf_counter() - began)
            if outcome.end in (FAILED, HANGS):
                keep(one, number, outcome, failures)
            elif every and number % every == 0 and outcome.end != SHORT:  # without this limit
                with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
                    lay(one, Path(folder))
                    end = apart(one, Path(folder))
                if end != outcome.end:
                    tally.disagreements += 1
                    why = f"alone {end}, here {outcome.end}"
                    keep(one, number, Outcome(FAILED, outcome.output, why), failures)
    return tally


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Reads once what no input changes: the methods' sources, the checkout's state."""
    from bench import environment, plugins

    digest, state = plugins.digest, environment.git_state
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    known = functools.cache(digest)
    plugins.digest = lambda path: (known if path.is_relative_to(ROOT) else digest)(path)
    environment.git_state = functools.cache(state)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, hard))
    try:
        yield
    finally:
        plugins.digest, environment.git_state = digest, state
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main() -> None:
    """Tries the inputs, and prints a table and the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="+", help="Only the inputs of these numbers.")
    parser.add_argument("--kinds", nargs="+", default=[], help="Only inputs of these kinds.")
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    numbers = options.only or list(range(options.inputs))
    failures = options.failures.resolve()
    tally = fuzz(numbers, options.seed, materials(ROOT), failures, options.kinds)
    print(tally.table())
    print(f"figure inputs {len(numbers)} count")
    for end in (ACCEPTED, REFUSED, SHORT, FAILED, HANGS):
        print(f"figure {end} {tally.total(end)} count")
    print(f"figure disagreements {tally.disagreements} count")
    if tally.total(FAILED) or tally.total(HANGS) or tally.disagreements:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
