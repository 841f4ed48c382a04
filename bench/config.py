"""What to run: suites (TOML) and single runs, strictly validated, and the hash that names a
record.

A suite is the product of its tasks, methods, budgets and seeds; a run is one point of it.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from bench.data.distort import Distortion
from bench.data.sources import LARGEST_SIDE
from bench.errors import ConfigError
from bench.plain import plain
from bench.record import NAME, PROTOCOL_VERSION
from bench.train.recipe import Recipe

LONGEST_NAME = 300
MOST_RATE = 1e9
SUITES = Path(__file__).parent / "suites"
Track = Literal["portable", "gpu"]
MOST_RUNS = 100_000
"""Of a suite: a slip of the keyboard makes more."""
MOST_STEPS, MOST_IMAGES, MOST_PADDING = 10**9, 1 << 20, LARGEST_SIDE // 8
DEEPEST, WIDEST = 1000, 100
"""Wide-ResNet's depth and width."""
Budget = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
# Canonical text: `noise=0.10` and `noise=0.1` are one task.
Distort = Annotated[str, AfterValidator(lambda text: str(Distortion.parse(text)))]


def _shown(text: str) -> str:
    """A name that a table can show."""
    if plain(text) != text or len(text) > LONGEST_NAME:
        raise ValueError(
            f"must be UTF-8 of at most {LONGEST_NAME} characters, no control characters among them"
        )
    return text


def _network(name: str) -> str:
    """A network that can be built at all."""
    match = re.fullmatch(r"wrn-([0-9]+)-([0-9]+)", name)
    if match and (len(name) > 20 or int(match[1]) > DEEPEST or int(match[2]) > WIDEST):
        raise ValueError(f"depth and width may be at most {DEEPEST} and {WIDEST}")
    if name.startswith("wrn-") and not match:
        raise ValueError("write wrn-DEPTH-WIDTH, e.g. wrn-16-1")
    return name


def _recipe(recipe: Recipe) -> Recipe:
    """A recipe that some machine can carry out."""
    limits = {"steps": MOST_STEPS, "batch_size": MOST_IMAGES, "pad": MOST_PADDING, "lr": MOST_RATE}
    for name, most in (limits | {"weight_decay": MOST_RATE}).items():
        found = getattr(recipe, name)
        if found is not None and found > most:
            raise ValueError(f"{name} = {found:g} is over {most:g}")
    return recipe


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class _Task(_Frozen):
    """A data set, a network and a recipe.

    Attributes:
        data: A source as `bench.data.sources.load` takes it.
        size: Side of the images in pixels; None keeps the source's.
        val_fraction: Share of the training set held out; None takes the source's (20 %).
    """

    data: Annotated[str, AfterValidator(_shown)]
    network: Annotated[str, AfterValidator(_shown), AfterValidator(_network)]
    size: int | None = Field(None, gt=0, le=LARGEST_SIDE)
    val_fraction: float | None = Field(None, gt=0, lt=1)
    recipe: Annotated[Recipe, AfterValidator(_recipe)]


class TaskConfig(_Task):
    """A task under one distortion: `clean` or e.g. `imbalance=10,noise=0.1`."""

    distort: Distort = "clean"


class RunConfig(_Frozen):
    """One task, method, budget and seed, and how it is computed."""

    suite: str
    task: TaskConfig
    method: str
    budget: Budget
    seed: int = Field(ge=0)
    track: Track = "portable"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = Field(1, ge=1)
    compile: bool = False


class SuiteTask(_Task):
    """A task of a suite under each of its distortions."""

    distort: list[Distort] = Field(default=["clean"], min_length=1)

    def tasks(self) -> list[TaskConfig]:
        """One task a distortion."""
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return [TaskConfig(**{**fields, "distort": distort}) for distort in self.distort]


class Suite(_Frozen):
    """A set of runs that share one leaderboard.

    Attributes:
        reference: The row that others are compared with; None: the filled `standard`.
    """

    name: str = Field(pattern=NAME)
    title: Annotated[str, AfterValidator(_shown)] = ""
    track: Track = "portable"
    budgets: list[Budget] = Field(min_length=1)
    seeds: int = Field(3, ge=1)
    methods: list[str] = Field(min_length=1)
    reference: str | None = None
    tasks: list[SuiteTask] = Field(min_length=1)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        tasks = sum(len(task.distort) for task in self.tasks)
        runs = len(self.budgets) * self.seeds * len(self.methods) * tasks
        if runs > MOST_RUNS:
            raise ValueError(
                f"{self.seeds} seeds, {len(self.budgets)} budgets, {len(self.methods)} methods "
                f"and {tasks} tasks make {runs} runs; a suite has at most {MOST_RUNS}"
            )
        return self

    def runs(
        self, *, device: Literal["cpu", "cuda"], threads: int, compiled: bool
    ) -> Iterator[Any]:
        """Every run, seed by seed, so that an interrupted suite holds whole blocks."""
        for budget in self.budgets:
            for seed in range(self.seeds):
                for task in (t for group in self.tasks for t in group.tasks()):
                    for method in self.methods:
                        yield RunConfig(
                            suite=self.name,
                            task=task,
                            method=method,
                            budget=budget,
                            seed=seed,
                            track=self.track,
                            device=device,
                            threads=threads,
                            compile=compiled,
                        )


def run_hash(config: RunConfig, data: str, fingerprint: str, source: str) -> str:
    """The record's name: equal for runs that promise equal bits in an equal environment.

    Args:
        config: The run; its data source is replaced by `data`, so that no path enters.
        data: Canonical name of the data set.
        fingerprint: The data files' identity.
        source: Digest of the method's source file.
    """
    content = config.model_dump(mode="json")
    content["task"]["data"] = [data, fingerprint]
    content["method_source"], content["protocol"] = source, PROTOCOL_VERSION
    del content["suite"]  # the same run in two suites is the same run
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def suite_files() -> dict[str, Path]:
    """The project's suites by name; one in a subfolder is called e.g. `paper/gar`."""
    paths = sorted(SUITES.rglob("*.toml"))
    return {path.relative_to(SUITES).with_suffix("").as_posix(): path for path in paths}


def folder_name(suite: str) -> str:
    """The folder of a suite's records below `results/`: that of `paper/gar` is `paper-gar`.

    One level, so that a record is at the same depth in every suite, and none is elsewhere.

    Raises:
        ConfigError: If no suite can have this name.
    """
    name = _flat(suite)
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"suite {suite!r}: a name is of at most 100 letters, digits, '.', '_' and '-'"
        )
    return name


def _flat(suite: str) -> str:
    return suite.replace("/", "-")


def find_suite(name: str) -> Path | None:
    """A suite's file, by its name or the name of its folder of records; None if there is none."""
    return {_flat(each): path for each, path in suite_files().items()}.get(_flat(name))


def load_suite(name: str) -> Suite:
    """Reads a suite by name, or from a TOML file.

    Raises:
        ConfigError: If there is no such suite or it is not valid.
    """
    path = Path(name) if name.endswith(".toml") else find_suite(name)
    if path is None or not _is_file(path):
        known = ", ".join(suite_files())
        raise ConfigError(f"--suite {name!r}: no such suite or file; the suites are {known}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, too deep, too many digits
        raise ConfigError(f"--suite {name!r}: the file is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"--suite {name!r} cannot be read: {error.strerror}") from error
    own = (each for each, file in suite_files().items() if file == path.resolve())
    content.setdefault("name", folder_name(next(own, path.stem)))
    return validated(Suite, content, f"--suite {name!r}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # of a name that no file system takes
        return False


Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], content: dict[str, Any], what: str) -> Model:
    """Validates plain data, with the first problem as one sentence.

    Raises:
        ConfigError: Naming the option, its value and what is wrong with it.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "it"
        if first["type"] == "extra_forbidden":
            message = (
                f"unknown; the options are {', '.join(_options(model, first['loc'])) or 'none'}"
            )
        elif first["type"] == "missing":
            message = "is required"
        else:
            said = first["msg"].removeprefix("Value error, ")
            message = said if place == "it" else f"{_short(first['input'])}: {said}"
        where = "" if place == "it" else f"{place}: "
        raise ConfigError(f"{what}: {where}{message}") from error


def _short(value: object) -> str:
    """A value as it was written, the middle left out if it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST_NAME else f"{text[:100]}…{text[-20:]}"


def _options(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The names that are allowed where an unknown one was found."""
    for part in location[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inner = [annotation, *get_args(annotation)]
            model = next(t for t in inner if isinstance(t, type) and issubclass(t, BaseModel))
    return list(model.model_fields)


def parse_spec(text: str) -> tuple[str, dict[str, str]]:
    """Splits `name[option=value,...]` into name and options.

    Raises:
        ConfigError: If it has another form, or names an option twice.
    """
    match = re.fullmatch(r"([a-z0-9][a-z0-9_-]*)(?:\[(.*)\])?", text.strip())
    if not match or plain(text) != text or len(text) > LONGEST_NAME:
        raise ConfigError(
            f"method {_short(text)}: write name or name[option=value,...] in at most "
            f"{LONGEST_NAME} characters, no control characters among them"
        )
    options: dict[str, str] = {}
    for part in (match[2] or "").split(","):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value or name in options:
            raise ConfigError(f"method {text!r}: {part.strip()!r} is not one option=value")
        options[name] = value
    return match[1], options
