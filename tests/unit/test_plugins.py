"""Finding methods in files, and resolving specifications."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.plugins import Plugin, Selected, digest, discover, options_of, select
from tests.conftest import ROOT

METHOD = """
from typing import Literal
from bench.method import Fitted, Method, MethodConfig

class Config(MethodConfig):
    width: int = 2
    rate: float = 0.5
    deep: bool = False
    mode: Literal["slow", "fast"] = "slow"
    placebo: Literal["uniform", "shuffled"] | None = None

class Mine(Method):
    name = "NAME"
    Config = Config

    def run(self, session):
        raise NotImplementedError
"""


def write(folder: Path, file: str, text: str = METHOD, name: str = "mine") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file
    path.write_text(text.replace("NAME", name), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Plugin]:
    folder = tmp_path_factory.mktemp("mine")
    write(folder, "mine.py")
    return discover([folder])


# Discovery


def test_folders_and_files_give_their_methods(tmp_path: Path) -> None:
    one = write(tmp_path / "a", "one.py", name="one")
    two = write(tmp_path / "b", "two.py", name="two")
    three = write(tmp_path / "elsewhere", "_three.py", name="three")
    write(tmp_path / "a", "_hidden.py", "raise RuntimeError('must not be loaded')")
    write(tmp_path / "a", "notes.txt", "raise RuntimeError('must not be loaded')")
    found = discover([tmp_path / "a", tmp_path / "b"], [three])
    assert [(name, plugin.path) for name, plugin in found.items()] == [
        ("one", one),
        ("two", two),
        ("three", three),
    ]
    assert all(plugin.method.name == name for name, plugin in found.items())
    assert discover([]) == {}


def test_only_concrete_methods_of_the_file_itself_count(tmp_path: Path) -> None:
    text = METHOD + (
        "from baselines.fixed import FixedPolicy, Standard\n"  # imported: abstract and concrete
        "class Abstract(Method):\n    name = 'abstract'\n"
        "class Nameless(Method):\n    def run(self, session): ...\n"
        "class NoMethod:\n    name = 'none'\n"
        "class Second(Mine):\n    name = 'second'\n"
        "instance = Second()\n"
    )
    path = write(tmp_path, "several.py", text)
    assert list(discover([], [path])) == ["mine", "second"]


def test_the_project_has_its_baselines() -> None:
    found = discover([ROOT / "methods", ROOT / "baselines"])
    assert {"none", "standard", "cutout"} <= found.keys()
    for name, plugin in found.items():
        assert plugin.path.parent.name in {"methods", "baselines"}
        assert plugin.source == digest(plugin.path)
        assert select(found, name).spec == name, "the defaults have the plain name"
        assert plugin.method.clean_labels in {"none", "selection", "hypergradient"}
        assert plugin.method.declared(plugin.method.Config()) == plugin.method.clean_labels
        if plugin.method.learned:
            assert "placebo" in plugin.method.Config.model_fields, "PROTOCOL.md, Placebos"


def test_two_methods_of_one_name_are_refused(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a", "one.py"), write(tmp_path / "b", "two.py")
    with pytest.raises(ConfigError) as caught:
        discover([one.parent], [two])
    for part in (str(one), str(two), "'mine'"):
        assert part in str(caught.value)


def test_files_of_one_stem_do_not_mix(tmp_path: Path) -> None:
    one = write(tmp_path / "a", "same.py", name="one")
    two = write(tmp_path / "b", "same.py", name="two")
    found = discover([], [one, two])
    assert {name: plugin.path for name, plugin in found.items()} == {"one": one, "two": two}
    assert found["one"].method is not found["two"].method


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def broken(:\n", "SyntaxError"),
        ("import a_package_that_is_not_there\n", "ModuleNotFoundError"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_file_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    path = write(tmp_path, "broken.py", text)
    for _ in range(2):  # it is not remembered as loaded
        with pytest.raises(ConfigError) as caught:
            discover([tmp_path])
        assert str(caught.value).startswith(f"{path} cannot be imported: ")
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_another_kind_of_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.py", tmp_path):
        with pytest.raises(ConfigError, match=r"^--plugin .* cannot be read: "):
            discover([], [path])
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ConfigError, match="not a Python file"):
        discover([], [tmp_path / "notes.txt"])


def test_the_source_digest_is_the_content_of_the_file(tmp_path: Path) -> None:
    one, copy = write(tmp_path / "a", "one.py"), write(tmp_path / "b", "other.py")
    changed = write(tmp_path / "c", "one.py", METHOD + "# a comment\n")
    digests = [discover([], [path])["mine"].source for path in (one, copy, changed)]
    assert digests[0] == digests[1] != digests[2]
    assert len(digests[0]) == 16
    before = digest(one)
    one.write_text(one.read_text() + "\n")
    assert digest(one) != before


def test_the_source_digest_follows_the_helpers_that_are_imported(tmp_path: Path) -> None:
    """Also those that helpers import; the helpers of other methods do not count."""
    one = write(tmp_path, "one.py", "def f():\n    from pack._near import x\n")
    near, far = (
        write(tmp_path, "_near.py", "from . import _far"),
        write(tmp_path, "_far.py", "x=1"),
    )
    other, plain = write(tmp_path, "_other.py", "x=1"), write(tmp_path, "plain.py", "x=1")
    write(tmp_path, "__init__.py", "")
    for path, counts in ((near, True), (far, True), (one, True), (other, False), (plain, False)):
        before = digest(one)
        path.write_text(path.read_text() + "\n# changed\n")
        assert (digest(one) != before) is counts
    far.write_text("from pack import _near, _missing")  # a circle, and a name without a file
    assert len(digest(one)) == 16
    far.write_text("def broken(:")
    with pytest.raises(ConfigError, match="cannot be imported: SyntaxError"):
        digest(one)


# Selection


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("mine", "mine"),
        (" mine[] ", "mine"),
        ("mine[width=2,mode=slow]", "mine"),
        ("mine[width=02]", "mine"),
        ("mine[rate=.25]", "mine[rate=0.25]"),
        ("mine[rate=25e-2]", "mine[rate=0.25]"),
        ("mine[deep=yes]", "mine[deep=True]"),
        ("mine[width=3,mode=fast,deep=1]", "mine[deep=True,mode=fast,width=3]"),
        ("mine[ width = 3 , rate = 0.5 ]", "mine[width=3]"),
    ],
)
def test_equal_options_have_one_canonical_name(
    mine: dict[str, Plugin], text: str, spec: str
) -> None:
    assert select(mine, text).spec == spec


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-(10**6), 10**6),
    st.floats(allow_nan=False),
    st.booleans(),
    st.sampled_from(["slow", "fast"]),
    st.sampled_from([None, "uniform", "shuffled"]),
    st.permutations(range(5)),
)
def test_the_canonical_name_selects_the_same_options(
    mine: dict[str, Plugin], width, rate, deep, mode, placebo, order
) -> None:
    given_ = {"width": width, "rate": rate, "deep": deep, "mode": mode, "placebo": placebo}
    parts = [f"{key}={value}" for key, value in given_.items() if value is not None]
    parts = [parts[i] for i in order if i < len(parts)]
    chosen = select(mine, f"mine[{','.join(parts)}]")
    assert dict(chosen.config) == given_
    again = select(mine, chosen.spec)
    assert (again.spec, again.config) == (chosen.spec, chosen.config)


def test_the_method_gets_its_options(mine: dict[str, Plugin]) -> None:
    chosen = select(mine, "mine[width=7]")
    assert isinstance(chosen, Selected)
    method = chosen.make()
    assert type(method) is mine["mine"].method
    assert method.config.width == 7
    assert options_of(method.config, only_changed=True) == {"width": 7}
    assert options_of(method.config) == {
        "width": 7,
        "rate": 0.5,
        "deep": False,
        "mode": "slow",
        "placebo": None,
    }
    assert type(chosen.make().config) is type(select(mine, "mine").make().config)


@pytest.mark.parametrize(
    ("text", "placebo_of"),
    [
        ("mine", None),
        ("mine[width=3]", None),
        ("mine[placebo=uniform]", "mine"),
        ("mine[placebo=shuffled,width=3,mode=fast]", "mine[mode=fast,width=3]"),
        ("mine[width=2,placebo=uniform]", "mine"),
    ],
)
def test_a_placebo_names_its_method(
    mine: dict[str, Plugin], text: str, placebo_of: str | None
) -> None:
    assert select(mine, text).placebo_of == placebo_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("other", ["'other'", "unknown", "mine"]),
        ("mine[depth=3]", ["depth", "unknown", "width", "rate", "placebo"]),
        ("mine[width=x]", ["width", "'x'", "integer"]),
        ("mine[width=2.5]", ["width", "'2.5'"]),
        ("mine[mode=medium]", ["mode", "'medium'", "'slow'", "'fast'"]),
        ("mine[placebo=none]", ["placebo", "'none'", "'uniform'"]),
        ("Mine", ["'Mine'"]),
    ],
)
def test_a_wrong_specification_is_one_sentence(
    mine: dict[str, Plugin], text: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        select(mine, text)
    for word in ["method", *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plugin_that_exits_does_not_end_augbench(tmp_path: Path) -> None:
    path = tmp_path / "quits.py"
    path.write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(ConfigError, match="SystemExit"):
        discover([], [path])


def test_one_file_named_twice_and_an_alias_are_one_method(tmp_path: Path) -> None:
    path = tmp_path / "twice.py"
    path.write_text(
        "from bench.method import Method\n"
        "class M(Method):\n    name = 'm'\n    def run(self, session): ...\n"
        "Alias = M\n"
    )
    assert list(discover([tmp_path], [path, path])) == ["m"]


def test_a_name_that_cannot_be_selected_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "named.py"
    path.write_text(
        "from bench.method import Method\n"
        "class M(Method):\n    name = 'My Method'\n    def run(self, session): ...\n"
    )
    with pytest.raises(ConfigError, match="'My Method'"):
        discover([], [path])


def test_a_required_option_is_part_of_the_spec(tmp_path: Path) -> None:
    path = tmp_path / "required.py"
    path.write_text(
        "from bench.method import Method, MethodConfig\n"
        "class C(MethodConfig):\n    a: int\n"
        "class M(Method):\n    name = 'm'\n    Config = C\n    def run(self, session): ...\n"
    )
    found = discover([], [path])
    assert select(found, "m[a=3]").spec == "m[a=3]"
    with pytest.raises(ConfigError, match="a: is required"):
        select(found, "m")


def test_options_are_read_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "typed.py"
    path.write_text(
        "from typing import Literal\n"
        "from bench.method import Method, MethodConfig\n"
        "class C(MethodConfig):\n"
        "    copies: Literal[1, 4, 8] = 8\n"
        "    rate: float | None = 0.5\n"
        "    label: str = 'x'\n"
        "    fast: bool = False\n"
        "class M(Method):\n    name = 'm'\n    Config = C\n    def run(self, session): ...\n"
    )
    found = discover([], [path])
    config = select(found, "m[copies=4,rate=null,label=7,fast=true]").config
    assert config.model_dump() == {"copies": 4, "rate": None, "label": "7", "fast": True}
    with pytest.raises(ConfigError, match="copies: '5'"):
        select(found, "m[copies=5]")
