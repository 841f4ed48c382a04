"""`augbench new`: a working method to change."""

import re
from pathlib import Path

from bench.errors import ConfigError
from bench.record import write_text

TEMPLATE = Path(__file__).parent / "templates" / "method.py.txt"


def scaffold(name: str, folder: Path) -> Path:
    """Writes the template under a method's name and returns the file's path.

    Raises:
        ConfigError: If the name cannot be one, or the file is there already.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise ConfigError(
            f"new {name!r}: a name is lower-case words joined by '-', e.g. my-method"
        )
    path = folder / f"{name.replace('-', '_')}.py"
    if path.exists():
        raise ConfigError(f"new {name!r}: {path} exists already")
    if not folder.is_dir():
        raise ConfigError(f"--folder {str(folder)!r} is not a folder")
    title = "".join(word.capitalize() for word in name.split("-"))
    write_text(
        path, TEMPLATE.read_text(encoding="utf-8").replace("NAME", name).replace("CLASS", title)
    )
    return path
