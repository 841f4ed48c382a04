"""The files of a suite: read one by one, so that one torn record hides no other."""

import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench import quarantine, sidefile
from bench.config import RunConfig, run_hash
from bench.data.sources import fingerprint
from bench.errors import ConfigError, DataError, RecordError
from bench.publish.findings import Findings
from bench.publish.identities import configuration
from bench.record import PROTOCOL_VERSION, Record, read_record

TIMEOUT = 60


def readable(folder: Path, findings: Findings) -> list[Record]:
    """Every record of a folder that is one, in order of its name.

    Raises:
        RecordError: If there is no file at all.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise RecordError(f"no records in {folder}")
    found, problems = [], []
    for path in paths:
        try:
            record = read_record(path)
            text = path.read_text(encoding="utf-8")
        except RecordError as error:
            problems.append(str(error))
            continue
        found.append(record)
        # A key that stands twice, or a number in other digits, shows in no field.
        if text != json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n":
            problems.append(f"{path.name}: its text is not as records are written")
    problems += [
        f"{path.name}: no record" for path in sorted(folder.iterdir()) if path.suffix != ".json"
    ]
    findings.verify(f"{len(found)} records are whole and bear the name of their hash", problems)
    if begun := {path.stem for path in (folder.parent / "partial").glob("[!.]*")}:
        findings.notes.append(f"{len(begun)} runs are begun and not finished")
    if aside := sorted((folder.parent / quarantine.FOLDER).glob("*")):
        findings.notes.append(
            f"{len(aside)} files that could not be trusted are set aside in {quarantine.FOLDER}/; "
            "nothing of them is in any table"
        )
    return found


def hashes(
    records: Iterable[Record], specs: dict[str, str], root: Path | None, findings: Findings
) -> set[str]:
    """Computes each record's hash anew, where its data set is here.

    Args:
        records: To be checked.
        specs: Canonical name of a data set to how the suite names it, where it has one.
        root: Where data sets lie.
        findings: Gets what is found.

    Returns:
        Canonical names of the data sets that are here.
    """
    prints: dict[str, str | None] = {}
    problems, checked = [], 0
    for record in records:
        if record.protocol != PROTOCOL_VERSION:
            continue  # its hash follows another rule, and it is refused for that anyway
        config = configured(record)
        if config is None:
            continue  # `identities` says so
        data = config.task.data
        if data not in prints:
            prints[data] = _print(specs.get(data, data), root)
            if prints[data] is None:
                findings.unverified.append(f"hashes of records on {data}: the data are not here")
        identity = prints[data]
        if identity is None:
            continue
        checked += 1
        found = run_hash(config, data, identity, record.method.source)
        if found != record.hash:
            problems.append(
                f"{record.hash}: its configuration, data and method give the hash {found}"
            )
    findings.verify(
        f"{checked} hashes follow from configuration, data, method and protocol", problems
    )
    return {data for data, identity in prints.items() if identity is not None}


def configured(record: Record) -> RunConfig | None:
    """The record's configuration, if it is one."""
    try:
        return configuration(record)
    except ConfigError:
        return None


def data_of(record: Record) -> str | None:
    """The canonical name of the record's data set, if its configuration has one."""
    config = configured(record)
    return config.task.data if config is not None else None


def _print(spec: str, root: Path | None) -> str | None:
    try:
        return fingerprint(spec, root)
    except (ConfigError, DataError):  # whose text may hold a path of this machine
        return None


def side_files(folder: Path, records: Iterable[Record], findings: Findings) -> None:
    """Compares side files with the digests in their records."""
    problems, absent, checked = [], 0, 0
    for record in records:
        if record.side_file is None:
            continue
        path = sidefile.beside(folder / f"{record.hash}.json")
        if not path.exists():
            absent += 1
            continue
        checked += 1
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != record.side_file:
            problems.append(f"{path.name}: it is not the file that was written with its record")
    if checked:
        findings.verify(f"{checked} side files are those that their records name", problems)
    if absent:
        findings.unverified.append(f"{absent} side files are not published with their records")


def history(folder: Path, findings: Findings) -> None:
    """What git knows of edits: since the last commit, and by a commit after the first.

    A manifest beside the records could be edited with them, git's history not in silence.
    """
    try:
        changed = _git(folder, "diff", "--name-status", "--diff-filter=MD", "HEAD", "--", ".")
        new = _git(folder, "ls-files", "--others", "--", ".")
        new += _git(folder, "diff", "--name-only", "--diff-filter=A", "HEAD", "--", ".")
        edited, removed = (_logged(folder, kind) for kind in "MD")
    except (OSError, subprocess.SubprocessError):
        findings.unverified.append("whether records were edited: they are in no git checkout")
        return
    problems = [
        f"{Path(name).name}: {'is missing, unlike in' if kind == 'D' else 'differs from'} the "
        "last commit"
        for kind, name in (line.split("\t") for line in changed)
    ]
    kept = {path.name for path in folder.glob("*.json")}
    again, gone = sorted(edited & kept), removed - kept
    findings.verify("the committed records are as committed", problems)
    if again:  # a failed run that was made again, or an edit: only a person can tell
        findings.notes.append(
            f"{len(again)} records have been changed by a commit after their first one: "
            f"{', '.join(again)}"
        )
    if gone:
        findings.notes.append(f"{len(gone)} records have been removed by commits")
    if new:
        findings.notes.append(f"{len(new)} records are not committed")


def _logged(folder: Path, kind: str) -> set[str]:
    """Names of files that a commit has modified (M) or deleted (D)."""
    options = ["--format=", "--name-only", "--no-renames", f"--diff-filter={kind}"]
    return {Path(line).name for line in _git(folder, "log", *options, "--", ".")}


def _git(folder: Path, *arguments: str) -> list[str]:
    command = ["git", "-C", str(folder), "-c", "core.quotepath=off", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT)
    return [line for line in done.stdout.splitlines() if line]
