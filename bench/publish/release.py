"""The release folder: tables, records, checksums, citation, and what the check said.

release/SUITE-p1-1a2b3c4d/   p: the protocol's version; then a digest of the records
    leaderboard.csv  leaderboard.md  index.html  suite.toml
    records.tar.gz   runs/<hash>.json, the same bytes whoever packs them
    environment.json CITATION.cff  CHECK.md  SHA256SUMS
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from importlib.metadata import metadata
from pathlib import Path

from bench.config import find_suite
from bench.errors import ConfigError
from bench.publish.checking import Checked, Request
from bench.publish.citation import cff, unknown
from bench.record import PROTOCOL_VERSION, Record
from bench.report.text import markdown

SUMS, VERDICT = "SHA256SUMS", "CHECK.md"
DIGITS = 8


def release(request: Request, done: Checked, folder: Path, anyway: bool) -> Path:
    """Writes the release of a checked suite, the whole of it or nothing.

    Args:
        request: What was checked.
        done: What that found.
        folder: Where releases lie.
        anyway: Whether to release in spite of problems, which the release then names.

    Returns:
        The release's folder; it is left as it is if this very release is there already.

    Raises:
        ConfigError: If the check found problems, the records give no tables, or another release
            has this one's name.
    """
    if done.findings.problems and not anyway:
        count = len(done.findings.problems)
        raise ConfigError(f"{done.name} is not released: {count} problems; mend them, or --anyway")
    if done.tables is None:
        raise ConfigError(f"{done.name} cannot be released: its records give no tables")
    packed = records_tar(request.results / done.name / "runs")
    name = f"{done.name}-p{PROTOCOL_VERSION}-{hashlib.sha256(packed).hexdigest()[:DIGITS]}"
    contents = _contents(request, done, name, packed)
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {n}\n" for n, data in contents.items())
    contents[SUMS] = sums.encode()
    place = folder / name
    if place.exists():
        _same(place, contents)
        return place
    folder.mkdir(parents=True, exist_ok=True)
    _write(place, contents)
    return place


def records_tar(runs: Path) -> bytes:
    """The records as a tar file: sorted, without times or owners, so that its bytes are theirs."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(runs.glob("*.json")):
            data = path.read_bytes()
            entry = tarfile.TarInfo(f"runs/{path.name}")
            entry.size, entry.mode = len(data), 0o644
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _contents(request: Request, done: Checked, name: str, packed: bytes) -> dict[str, bytes]:
    assert done.tables is not None
    methods = [record.method.name for record in done.records]
    about = metadata("augbench")
    message = "Please cite this release and the papers of the methods that you compare."
    if not done.findings.ok:
        message = f"This release did not pass its check, see {VERDICT}. {message}"
    title = done.suite.title if done.suite is not None and done.suite.title else done.name
    texts = dict(done.tables.texts)
    texts |= {
        "environment.json": _environments(done.records),
        "CITATION.cff": cff(
            f"augbench: {title}", name, about["License-Expression"], methods, message
        ),
        VERDICT: verdict(done, unknown(methods)),
    }
    contents = {file: text.encode() for file, text in texts.items()}
    suite = Path(request.suite) if request.suite.endswith(".toml") else find_suite(request.suite)
    if suite is not None:
        contents["suite.toml"] = suite.read_bytes()
    contents["records.tar.gz"] = gzip.compress(packed, mtime=0)
    contents |= _report(done)
    return dict(sorted(contents.items()))


def _report(done: Checked) -> dict[str, bytes]:
    """The files of the suite's report, by their place in the release."""
    from bench.preview import labels_of
    from bench.report import report  # takes a while, and a check needs none of it

    suite = done.suite
    with tempfile.TemporaryDirectory() as folder:
        paths = report.write(
            done.records,
            done.name,
            Path(folder),
            labels_of,
            reference=suite.reference if suite is not None else None,
            title=suite.title if suite is not None else "",
            known=suite is not None,
        )
        return {f"report/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in paths}


def verdict(done: Checked, without_paper: list[str]) -> str:
    """What the check said, for whoever reads the release."""
    findings = done.findings
    head = "Nothing that was checked refuses this release."
    if not findings.ok:
        head = (
            f"**Released in spite of {len(findings.problems)} problems.** Numbers here cannot be "
            "trusted before they are mended."
        )
    parts = {
        "Problems": findings.problems,
        "Notes": findings.notes,
        "Not checked": findings.unverified,
        "Checked": findings.verified,
    }
    if without_paper:
        parts["Cited without a paper"] = without_paper
    lines = [f"# Check of {done.name}", "", head]
    for title, sentences in parts.items():
        if sentences:
            lines += [
                "",
                f"## {title}",
                "",
                *(f"- {markdown(sentence)}" for sentence in sentences),
            ]
    if done.rerun is not None:
        lines += ["", f"The record that was trained again was drawn with seed {done.seed}."]
    return "\n".join(lines) + "\n"


def _environments(records: list[Record]) -> str:
    """Where the records were made: each environment once, with the records that it made."""
    made: dict[str, list[str]] = {}
    for record in records:
        place = {"bench": record.bench, "environment": record.environment}
        made.setdefault(json.dumps(place, sort_keys=True), []).append(record.hash)
    listed = [json.loads(place) | {"records": names} for place, names in sorted(made.items())]
    return json.dumps(listed, indent=1, sort_keys=True) + "\n"


def _same(place: Path, contents: dict[str, bytes]) -> None:
    """Accepts a release that is there already; another check of it is no other release.

    Raises:
        ConfigError: If it holds other files.
    """
    fresh = {name: data for name, data in contents.items() if name not in (SUMS, VERDICT)}
    paths = [path for path in place.rglob("*") if path.is_file()]
    there = {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}
    other = {n for n in there.keys() | fresh.keys() if there.get(n) != fresh.get(n)}
    if changed := sorted(other - {SUMS, VERDICT}):
        raise ConfigError(
            f"{place} holds another release of these records ({', '.join(changed)} differ): "
            "a release is never overwritten; move it away"
        )


def _write(place: Path, contents: dict[str, bytes]) -> None:
    """Fills a hidden folder beside the release and renames it: a kill leaves no half release."""
    hidden = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    try:
        hidden.chmod(0o755)
        for name, data in contents.items():
            (hidden / name).parent.mkdir(parents=True, exist_ok=True)
            with (hidden / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        os.rename(hidden, place)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise
    directory = os.open(place.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
