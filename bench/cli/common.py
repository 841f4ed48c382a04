"""What every command shares: options, and how mistakes end."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

Results = Annotated[Path, typer.Option("--results", help="Where records and leaderboards live.")]
Plugins = Annotated[
    list[Path] | None, typer.Option("--plugin", help="A Python file with a method (repeatable).")
]


def say(text: str, err: bool = False) -> None:
    """Prints lines, whatever names are in them."""
    from bench.plain import plain

    typer.echo("\n".join(map(plain, text.split("\n"))), err=err)


def one_sentence(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a command with exit code 2 and one sentence where the user made a mistake."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        from bench.errors import ConfigError, DataError, RecordError
        from bench.plain import sentence

        try:
            return command(*arguments, **options)
        except (ConfigError, DataError, RecordError) as error:
            say(f"augbench: {sentence(str(error))}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            say("augbench: interrupted; finished runs are kept, run it again to resume")
            raise typer.Exit(130) from None
        except Exception as error:
            if (said := shortage(error)) is None:
                raise
            say(f"augbench: {sentence(said)}; finished runs are kept", err=True)
            raise typer.Exit(1) from error

    return wrapped


def shortage(error: Exception) -> str | None:
    """What a disk or memory that is full has to do with an error; None if it has nothing."""
    from bench import disk, memory
    from bench.errors import DiskError

    if isinstance(error, DiskError):
        return str(error)
    if isinstance(error, OSError) and error.errno in disk.REFUSALS:
        return disk.sentence(error)
    return memory.advice(error)


def plugins(files: list[Path] | None) -> Any:
    """Every method of the project and of the files that the user names."""
    import baselines
    import methods
    from bench.plugins import discover

    folders = [Path(package.__path__[0]) for package in (methods, baselines)]
    return discover(folders, [path.resolve() for path in files or []])


def write_file(output: Path, picture: str) -> None:
    """Writes what a command made, where `--output` says.

    Raises:
        ConfigError: If the path cannot be written.
    """
    from bench.errors import ConfigError

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(picture, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--output {output}: {error.strerror}") from error
