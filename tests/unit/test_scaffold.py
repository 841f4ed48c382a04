"""`augbench new`: the file it writes is a method that keeps the rules."""

import ast
import os
from pathlib import Path

import pytest

from bench.check import conformance
from bench.errors import ConfigError
from bench.method import Method
from bench.plugins import discover, select
from bench.scaffold import scaffold


def test_the_scaffolded_method_is_found_and_keeps_the_rules(tmp_path: Path) -> None:
    path = scaffold("my-method", tmp_path)
    assert path == tmp_path / "my_method.py"
    assert os.listdir(tmp_path) == ["my_method.py"]
    plugins = discover([tmp_path])
    assert list(plugins) == ["my-method"]
    assert plugins["my-method"].method.__name__ == "MyMethod"
    assert select(plugins, "my-method[strength=0.2]").spec == "my-method[strength=0.2]"
    findings = conformance("my-method[strength=0.2]", plugins)
    rules = {finding.rule: finding for finding in findings}
    assert set(rules) == {
        "determinism",
        "bill",
        "budget",
        "data wall",
        "RNG hygiene",
        "resume",
        "harness account",
        "clean labels",
    }
    assert [finding for finding in findings if not finding.ok] == []


def test_no_placeholder_is_left(tmp_path: Path) -> None:
    text = scaffold("two-words", tmp_path).read_text(encoding="utf-8")
    ast.parse(text)
    assert "NAME" not in text
    assert "CLASS" not in text
    assert "augbench check two-words" in text


@pytest.mark.parametrize(
    ("name", "file", "title"),
    [
        ("gar2", "gar2.py", "Gar2Method"),
        ("a-b-3", "a_b_3.py", "AB3Method"),
        ("class", "class.py", "ClassMethod"),
    ],
)
def test_names_of_file_and_class(tmp_path: Path, name: str, file: str, title: str) -> None:
    assert scaffold(name, tmp_path).name == file
    (plugin,) = discover([tmp_path]).values()
    assert (plugin.method.name, plugin.method.__name__) == (name, title)


@pytest.mark.parametrize(
    "name",
    [
        *("", "My-Method", "my_method", "my method", "2fast", "-x", "x-", "a--b"),
        *("../x", "x.py", "é", "x\n", "a/b"),
    ],
)
def test_other_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a name is lower-case words joined by '-'") as caught:
        scaffold(name, tmp_path)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"my_method\.py exists already"):
        scaffold("my-method", tmp_path)
    assert (tmp_path / "my_method.py").read_text(encoding="utf-8") == "mine"


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(ConfigError, match="is not a folder"):
            scaffold("my-method", folder)
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", ["chain", "brightness", "fitted"])
def test_a_name_of_the_template_itself_works(tmp_path: Path, name: str) -> None:
    found = discover([], [scaffold(name, tmp_path)])
    assert issubclass(found[name].method, Method)
    assert type(found[name].method()).run is found[name].method.run


def test_a_taken_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="already"):
        scaffold("standard", tmp_path, taken={"standard"})
    assert list(tmp_path.iterdir()) == []
