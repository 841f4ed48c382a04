"""Compiles and loads `native.c`, the engine for images in the processor's memory.

It needs a C compiler (`CC`, or cc), once: the library is kept in the user's cache under the digest
of its source, compiler and processor.  Without a compiler the engine computes with tensors, more
slowly and to the same bits; `engine_name` says which one it is, and records keep that.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import ConfigError

SOURCE = Path(__file__).with_name("native.c")
FLAGS = ("-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
LEAST_PER_THREAD = 1 << 17  # bytes: less is done before a thread has woken
SWITCH = "AUGBENCH_ENGINE"
ENGINES = ("native", "tensors")


def available() -> bool:
    """Whether the compiled engine can be used; compiles it at the first call.

    Raises:
        ConfigError: If there is a compiler that does not compile it, or the switch is misspelt.
    """
    wanted = os.environ.get(SWITCH, ENGINES[0])
    if wanted not in ENGINES:
        raise ConfigError(f"{SWITCH}={wanted!r}: {' and '.join(ENGINES)} are allowed")
    return wanted == "native" and _library() is not None


def engine_name() -> str:
    """`native` or `tensors`, for the record's environment."""
    return "native" if available() else "tensors"


def run(
    images: torch.Tensor,
    operation: NDArray[np.int64],
    magnitude: NDArray[np.float64],
    whole: NDArray[np.int32],
    colours: NDArray[np.uint8],
) -> torch.Tensor:
    """Carries out programs, large batches with as many threads as torch may use.

    Args:
        images: (B, C, H, W) uint8 on the host.
        operation: (B, L) numbers of the catalogue.
        magnitude: (B, L).
        whole: (B, L, 6): the coefficients of a warp, or first and last column and row of a cutout.
        colours: (2, 4): outside a warped image, and in a cutout, per channel.

    Raises:
        ConfigError: If the compiler does not compile.
        MemoryError: If the scratch memory of three images per thread cannot be had.
    """
    library = _library()
    assert library is not None
    images = images.contiguous()
    out = torch.empty_like(images)
    count, channels, height, width = images.shape
    arrays = [
        np.ascontiguousarray(array, dtype)
        for array, dtype in (
            (operation, np.int64),
            (magnitude, np.float64),
            (whole, np.int32),
            (colours, np.uint8),
        )
    ]
    pointers = [array.ctypes.data for array in arrays]

    def part(first: int, last: int) -> int:
        shape = (first, last, channels, height, width, operation.shape[1])
        failed: int = library.run(images.data_ptr(), out.data_ptr(), *shape, *pointers)
        return failed

    threads = max(1, min(torch.get_num_threads(), images.numel() // LEAST_PER_THREAD))
    if threads == 1:
        failed = part(0, count)
    else:
        cuts = [count * i // threads for i in range(threads + 1)]
        failed = max(_pool(threads).map(part, cuts[:-1], cuts[1:]))
    if failed:
        raise MemoryError("the augmentation engine found no memory for its scratch images")
    return out


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="augment")


# A forked process has no threads of the pool.
os.register_at_fork(after_in_child=_pool.cache_clear)


@cache
def _library() -> ctypes.CDLL | None:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    path = _folder() / f"native-{_key(compiler)}.so"
    if not path.exists():
        _compile(compiler, path)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be loaded ({error}): mend it, or set {SWITCH}=tensors"
        ) from error
    pointer, size, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    library.run.argtypes = [pointer, pointer, size, size, *(number,) * 4, *(pointer,) * 4]
    library.run.restype = number
    return library


def _compile(compiler: list[str], path: Path) -> None:
    """Compiles beside the target and renames, so that two processes cannot meet half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".so")
    os.close(handle)
    try:
        command = [*compiler, *FLAGS, str(SOURCE), "-o", temporary, "-lm"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        os.replace(temporary, path)
    except subprocess.CalledProcessError as error:
        Path(temporary).unlink(missing_ok=True)
        lines = error.stderr.strip().splitlines() or ["it says nothing"]
        said = next((line for line in lines if "error" in line), lines[0])
        raise ConfigError(
            f"{shlex.join(compiler)} cannot compile {SOURCE.name} ({said}): "
            f"mend it, or set {SWITCH}=tensors for the slower engine with the same results"
        ) from error


def _folder() -> Path:
    """The user's cache, or a folder for this process alone where there is no such place."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base) / "augbench"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.mkdtemp(prefix="augbench-"))
    return folder if os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="augbench-"))


def _key(compiler: list[str]) -> str:
    """Whatever changes the library: source, flags, compiler, processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True).stdout
    total = hashlib.sha256(SOURCE.read_bytes())
    for part in (*compiler, *FLAGS, version, platform.machine(), _processor()):
        total.update(part.encode())
    return total.hexdigest()[:16]


def _processor() -> str:
    """The instruction sets that -march=native would find."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
