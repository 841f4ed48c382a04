"""Out of memory: whether an error says so, and what its user can do about it."""

import torch

KIND = "OutOfMemory"  # a failure's type in records
_HOST = ("can't allocate memory", "Cannot allocate memory", "Unable to allocate", "bad_alloc")
_LESS = "lower the recipe's batch_size, take a smaller network, or run fewer at a time"
ADVICE = {
    "cpu": f"{_LESS} (--jobs); --memory-limit bounds the images that are held",
    "cuda": f"{_LESS} on a device (--per-device)",
}


def advice(error: BaseException) -> str | None:
    """A sentence about an error that means too little memory; None for every other error."""
    if isinstance(error, torch.OutOfMemoryError):
        where = "cuda"
    elif isinstance(error, MemoryError) or any(text in str(error) for text in _HOST):
        where = "cpu"
    else:
        return None
    said = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    what = {"cpu": "out of memory", "cuda": "the device is out of memory"}[where]
    return f"{what}{f' ({said})' if said else ''}: {ADVICE[where]}"
