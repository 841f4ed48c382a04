"""A release's `CITATION.cff`: the software, and the papers of the methods that it measured."""

import json
from collections.abc import Iterable
from typing import Any

from bench.plain import plain
from bench.publish.papers import PAPERS, Paper

DEVELOPERS = "The augbench developers"


def cff(title: str, version: str, licence: str, methods: Iterable[str], message: str) -> str:
    """The file's text, in the Citation File Format 1.2.0.

    Args:
        title: Of the release.
        version: Of the release; its name.
        licence: An SPDX identifier.
        methods: Names of the methods in the release.
        message: The sentence above everything else.
    """
    papers = dict.fromkeys(p for name in sorted(set(methods)) for p in PAPERS.get(name, ()))
    lines = ["cff-version: 1.2.0"]
    top = {"message": message, "title": title, "type": "dataset", "version": version}
    lines += [f"{key}: {_text(value)}" for key, value in (top | {"license": licence}).items()]
    lines += ["authors:", f"  - name: {_text(DEVELOPERS)}"]
    if papers:
        lines += ["references:", *(line for paper in papers for line in _reference(paper))]
    return "\n".join(lines) + "\n"


def unknown(methods: Iterable[str]) -> list[str]:
    """Methods of which no paper is known here."""
    return sorted(set(methods) - PAPERS.keys())


def _reference(paper: Paper) -> list[str]:
    fields: dict[str, Any] = {"title": paper.title, "year": paper.year, "journal": paper.venue}
    if paper.link:
        fields["url"] = paper.link
    lines = ["  - type: article", *(f"    {key}: {_text(value)}" for key, value in fields.items())]
    lines.append("    authors:")
    for author in paper.authors:
        given, _, family = author.rpartition(" ")
        lines += [f"      - given-names: {_text(given)}", f"        family-names: {_text(family)}"]
    return lines if paper.authors else [*lines, "      - name: anonymous"]


def _text(value: str | int) -> str:
    """A scalar; a JSON string is a YAML string."""
    return json.dumps(plain(value) if isinstance(value, str) else value, ensure_ascii=False)
