"""`augbench new`: a working method to change."""

import re
from collections.abc import Collection
from pathlib import Path

from bench.atomic import write_text
from bench.errors import ConfigError
from bench.plugins import NAME, NAME_RULE

TEMPLATE = Path(__file__).parent / "templates" / "method.py.txt"


def scaffold(name: str, folder: Path, taken: Collection[str] = ()) -> Path:
    """Writes the template under a method's name and returns the file's path.

    Raises:
        ConfigError: If the name cannot be one or is taken, or the file is there already.
    """
    if not re.fullmatch(NAME, name) or not name[0].isalpha():
        raise ConfigError(f"new {name!r}: a name is {NAME_RULE}")
    if name in taken:
        raise ConfigError(f"new {name!r}: there is a method of this name already")
    path = folder / f"{name.replace('-', '_')}.py"
    if path.exists():
        raise ConfigError(f"new {name!r}: {path} exists already")
    if not folder.is_dir():
        raise ConfigError(f"--folder {str(folder)!r} is not a folder")
    # The suffix keeps a method called `chain` from shadowing the template's imports.
    title = "".join(word.capitalize() for word in name.removesuffix("-method").split("-"))
    write_text(
        path,
        TEMPLATE.read_text(encoding="utf-8")
        .replace("NAME", name)
        .replace("CLASS", f"{title}Method"),
    )
    return path
