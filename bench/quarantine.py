"""Files among a suite's records that cannot be trusted go to `results/SUITE/quarantine/`.

Nothing there is read again, deleted or overwritten.  Only `augbench run` moves files there, while
it holds the suite's lock; whoever else meets such a file refuses it with a sentence.
"""

from itertools import count
from pathlib import Path

FOLDER = "quarantine"


def set_aside(path: Path, suite: Path) -> Path:
    """Moves a file, or whatever else stands there, into a suite's quarantine.

    Args:
        path: What to move.
        suite: `results/SUITE`.

    Returns:
        Where it is now: under its own name, with a number if that is taken.
    """
    place = suite / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    names = (f"{path.stem}{f'-{n}' if n else ''}{path.suffix}" for n in count())
    aside = next(place / name for name in names if not _taken(place / name))
    path.rename(aside)
    return aside


def _taken(path: Path) -> bool:
    return path.exists() or path.is_symlink()
