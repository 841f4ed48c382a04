"""Where a run was computed: versions, device, source state.  No host names, no paths."""

import hashlib
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench.augment.native import engine_name

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "torch", "torchvision", "timm", "numpy", "scipy", "pillow", "scikit-learn", "pyarrow",
    "optuna", "cmaes", "botorch", "gpytorch", "ax-platform",
)  # fmt: skip

MAKERS = {
    "data", "augment", "networks", "train", "method.py", "points.py", "rng.py", "runner.py",
    "stage.py",
}  # fmt: skip
"""Folders and files of `bench/` on which the bits of a result depend."""


@dataclass(frozen=True)
class Origin:
    """The code that computes: the digest of what makes results, and the checkout's commit.

    Read once, when a campaign begins: its processes hold that code, whatever is edited later.
    """

    bench: str
    git: str

    @classmethod
    def read(cls) -> "Origin":
        """That of the files as they are now."""
        return cls(bench_digest(), git_state())


def environment(device: torch.device, threads: int, git: str) -> dict[str, Any]:
    """What the bits of a result may depend on, as plain data."""
    return {
        **libraries(),
        "augmentation": engine_name() if device.type == "cpu" else "tensors",
        "platform": f"{platform.system()}-{platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": threads,
        "git": git,
    }


@cache
def libraries() -> dict[str, Any]:
    """Versions of Python and of every package that a result may depend on."""
    packages = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "packages": packages}


def git_state() -> str:
    """The checkout's commit, with `+` when files differ from it; `unknown` outside a checkout."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        # Records and leaderboards change while a suite runs; they are not its source.
        dirty = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+" if dirty else "")


def bench_digest() -> str:
    """SHA-256 prefix of the files of `bench/` that make a result.

    Left out is what plans, keeps, shows or publishes results: it can change between two records of
    one table without a doubt about either.
    """
    total = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.c")]):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] in MAKERS:
            total.update(name.encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:16]


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "CPU"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"
