"""The compiled engine's library: processes, threads, a fork; `test_engine` has the rest."""

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


@needs_compiler
def test_a_forked_process_starts_threads_of_its_own() -> None:
    code = """
import os, signal, sys, torch
from bench.augment import native
from bench.augment.engine import Program, execute
native.LEAST_PER_THREAD = 1
torch.set_num_threads(3)
images = torch.arange(48, dtype=torch.uint8).view(4, 3, 2, 2)
program = Program(torch.full((4, 1), 8), torch.zeros(4, 1).double(), torch.zeros(4, 1, 2).double())
expected = execute(images, program)
child = os.fork()
if not child:
    signal.alarm(20)
    os._exit(0 if torch.equal(execute(images, program), expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("name", ["tensor", "", "NATIVE"])
def test_a_misspelt_switch_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.SWITCH, name)
    with pytest.raises(ConfigError, match="native and tensors are allowed"):
        native.available()


@needs_compiler
def test_a_compiler_with_options(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -DNOTHING")
    assert native.available()


@needs_compiler
def test_a_library_that_cannot_be_loaded_is_one_sentence(fresh: Path) -> None:
    fresh.mkdir(parents=True)
    compiler = ["cc"]
    (fresh / f"native-{native._key(compiler)}.so").write_text("no library")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        native.available()
