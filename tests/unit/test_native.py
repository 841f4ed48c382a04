"""The compiled engine: built once, kept under its digest, left out where there is no compiler."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.augment import native, tensors
from bench.augment.operations import OPERATIONS
from bench.errors import ConfigError
from tests.conftest import ROOT

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache folder, and nothing loaded yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(native.SWITCH, raising=False)
    native._library.cache_clear()
    yield tmp_path / "augbench"
    native._library.cache_clear()


def test_the_numbers_in_c_are_the_catalogues() -> None:
    source = native.SOURCE.read_text()
    listed = source[source.index("enum {") + 6 : source.index("};")].replace("\n", "").split(",")
    assert [name.strip() for name in listed] == [
        operation.name.upper().replace("-", "_") for operation in OPERATIONS
    ]


@needs_compiler
def test_it_is_compiled_once(fresh: Path) -> None:
    assert native.available()
    assert native.engine_name() == "native"
    (library,) = fresh.iterdir()
    built = library.stat().st_mtime_ns
    native._library.cache_clear()
    assert native.available()
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [built]


def test_without_a_compiler_tensors_do_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not native.available()
    assert native.engine_name() == "tensors"


@needs_compiler
def test_it_can_be_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, "tensors")
    assert native.engine_name() == "tensors"


def test_a_compiler_that_fails_is_one_sentence(
    fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho this is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    with pytest.raises(ConfigError, match=r"this is broken.*AUGBENCH_ENGINE=tensors"):
        native.available()
    assert list(fresh.iterdir()) == []


@needs_compiler
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_cache_is_no_obstacle(fresh: Path) -> None:
    fresh.mkdir(mode=0o500)
    assert native.available()


def arguments(count: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (count, 3, 9, 7), dtype=np.uint8))
    plain = [i for i, operation in enumerate(OPERATIONS) if operation.unit is None and i != 6]
    operation = rng.choice([i for i in plain if i != 7], (count, 3))
    whole = np.zeros((count, 3, 6), np.int32)
    return images, operation, np.ones((count, 3)), whole, np.zeros((2, 4), np.uint8)  # type: ignore[return-value]


@needs_compiler
@pytest.mark.parametrize("count", [0, 1, 63, 64, 500])
def test_threads_share_a_batch_without_a_difference(count: int) -> None:
    given = arguments(count)
    alone = native.run(*given)  # type: ignore[arg-type]
    torch.set_num_threads(4)
    try:
        together = native.run(*given)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(1)
    assert torch.equal(alone, together)
    assert torch.equal(alone, tensors.run(*given))  # type: ignore[arg-type]


@needs_compiler
def test_processes_that_compile_at_the_same_time_do_not_meet(tmp_path: Path) -> None:
    code = "from bench.augment import native; assert native.available()"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen([sys.executable, "-c", code], env=environment) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(list((tmp_path / "augbench").iterdir())) == 1
