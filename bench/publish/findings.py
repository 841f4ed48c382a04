"""What a check found: problems that refuse a release, notes, and what was and was not verified."""

from dataclasses import dataclass, field
from typing import Literal

Level = Literal["FAIL", "note", "open", "ok"]
LEVELS: tuple[Level, ...] = ("FAIL", "note", "open", "ok")


@dataclass
class Findings:
    """Sentences by level, in the order in which they were found.

    Attributes:
        problems: Each of them refuses the release.
        notes: What a reader should know and may accept.
        unverified: What could not be checked here, and why.
        verified: What was checked, with how much of it.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    verified: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing refuses the release."""
        return not self.problems

    def lines(self) -> list[tuple[Level, str]]:
        """Everything, the problems first."""
        parts = (self.problems, self.notes, self.unverified, self.verified)
        return [(level, text) for level, part in zip(LEVELS, parts, strict=True) for text in part]

    def verify(self, what: str, problems: list[str]) -> None:
        """Files the problems of one kind of check, or that there are none."""
        self.problems += problems
        if not problems:
            self.verified.append(what)
