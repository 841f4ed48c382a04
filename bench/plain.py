"""Strangers' text, fit to be shown: nothing in it commands a terminal or turns the text around it.

Names of classes, methods and suites, and whole records, come from other people.  What cannot be
shown is shown as Python spells it, `\\x1b`.
"""

import math
import re
from typing import Any

LONGEST = 1000  # characters of a sentence; a long value is cut in its middle
_LINES = "\t\n"
_COMMANDS = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# As JSON may spell them, and numbers that JSON does not have, or that no table can hold.
_SUSPECT = re.compile(
    "[\x7f-\x9f\u2028-\u202e\u2066-\u2069]"
    r"|\\u00[0189][0-9a-f]|\\u007f|\\u202|\\u206|\\ud|\\[bfr]|NaN|Infinity|e\+?\d{3}|\d{19}",
    re.IGNORECASE,
)
_LARGEST = 2**63


def plain(text: str) -> str:
    """A text on one line, without control characters and without reversals of direction."""
    return _COMMANDS.sub(_spelt, text)


def sentence(text: str) -> str:
    """What is said of a mistake: `plain`, and not longer than can be read."""
    line = plain(text)
    if len(line) <= LONGEST:
        return line
    half = LONGEST // 2
    return f"{line[:half]} [{len(line) - LONGEST} characters] {line[-half:]}"


def suspect(text: str) -> bool:
    """Whether a JSON text may hold what `cleaned` changes or refuses; it may also hold none."""
    return _SUSPECT.search(text) is not None


def cleaned(content: Any) -> Any:
    """Plain data with every text in it `plain`, lines and tabs kept.

    Raises:
        ValueError: If a number is not finite, or an integer beyond 64 bits.
    """
    if isinstance(content, str):
        return _COMMANDS.sub(lambda found: _spelt(found, _LINES), content)
    if isinstance(content, dict):
        return {cleaned(key): cleaned(inner) for key, inner in content.items()}
    if isinstance(content, list):
        return [cleaned(inner) for inner in content]
    if isinstance(content, int) and abs(content) >= _LARGEST:
        raise ValueError("it holds an integer beyond 64 bits")
    if isinstance(content, float) and not math.isfinite(content):
        raise ValueError("it holds a number that is not finite")
    return content


def _spelt(found: re.Match[str], kept: str = "") -> str:
    return found[0] if found[0] in kept else found[0].encode("unicode_escape").decode()
