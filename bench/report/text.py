"""Numbers and names as text: signs, intervals, units, escaping."""

import re
from math import ceil, floor, isnan, log10

from bench.plain import plain
from bench.report.statistics import Effect

NOTHING = "–"
"""What an empty place of a table shows."""

_MARKDOWN = str.maketrans(
    {char: f"\\{char}" for char in "\\`*|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}
)
_FORMULAS = frozenset("=+-@\uff1d\uff0b\uff0d\uff20")
_LINKS = re.compile(r"(\]\(|://|@)|(www)\.", re.IGNORECASE)
"""What begins a link, or what a reader of Markdown may take for one."""


def markdown(text: str) -> str:
    """Text that Markdown shows as it is: on one line, without markup, HTML or cell borders."""
    line = plain(" ".join(text.split())).translate(_MARKDOWN)
    return _LINKS.sub(_unlinked, line)


def _unlinked(found: re.Match[str]) -> str:
    return f"{found[2]}\\." if found[2] else f"{found[1][:-1]}\\{found[1][-1]}"


def cell(text: str) -> str:
    """Text for a CSV cell, on one line; what a spreadsheet might run gets an apostrophe."""
    formula = text[:1] in {"\t", "\r", "\n"} or text.lstrip()[:1] in _FORMULAS
    return "'" + plain(text) if formula else plain(text)


def number(value: float | int | None) -> str:
    """A number for machines: 6 significant digits, empty if there is none."""
    if value is None or isnan(value):
        return ""
    # Rounding first drops what is only the order of a sum; adding 0 turns -0 into 0.
    return f"{round(float(value), 12) + 0.0:.6g}"


def percent(effect: Effect, signed: bool = False) -> str:
    """A fraction with its half-width in percent: `12.3 ± 0.4`, `12.30` alone.

    Signed ones are differences and get a decimal more, `−1.24 ± 0.51`: what counts is whether the
    interval holds 0.
    """
    if isnan(effect.mean):
        return NOTHING
    known = not isnan(effect.half)
    digits = _decimals(100.0 * effect.half) + signed if known else 2
    value = f"{100.0 * effect.mean:{'+' if signed else ''}.{digits}f}".replace("-", "−")
    if float(value.replace("−", "-")) == 0.0:
        value = value.lstrip("+−")
    return f"{value} ± {100.0 * effect.half:.{digits}f}" if known else value


def share(value: float) -> str:
    """A fraction in whole percent: `98 %`; one decimal below 10 %."""
    if isnan(value):
        return NOTHING
    return f"{100.0 * value:.{1 if 0 < abs(value) < 0.0995 else 0}f} %"


def p_value(p: float) -> str:
    """A p value; below 0.001 only that."""
    if isnan(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def count(value: float) -> str:
    """A count or amount with three significant digits and an SI prefix: `1.23 T`, `390`."""
    if isnan(value):
        return NOTHING
    power = 0 if value < 1000 else min(5, floor(log10(value) / 3))
    scaled = value / 1000.0**power
    if float(f"{scaled:.3g}") >= 1000 and power < 5:
        power, scaled = power + 1, scaled / 1000.0
    digits = 0 if scaled >= 100 or scaled == int(scaled) else 1 if scaled >= 10 else 2
    return f"{scaled:.{digits}f}{('', ' k', ' M', ' G', ' T', ' P')[power]}"


def seconds(value: float) -> str:
    """Seconds with a decimal below 100."""
    if isnan(value):
        return NOTHING
    return f"{value:.{1 if value < 100 else 0}f} s"


def span(low: int, high: int) -> str:
    """`3`, or `2–3` if the ends differ."""
    return str(low) if low == high else f"{low}–{high}"


def _decimals(half: float) -> int:
    """Decimals that show the half-width's first digit, at least one and at most two."""
    return 2 if half <= 0 else max(1, min(2, ceil(-log10(half))))
