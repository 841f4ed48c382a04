"""One driver at a time among a suite's records: a lock on `results/SUITE/.lock`.

The kernel releases it when its holder ends, however that happens, so that no stale lock can stay;
the file itself means nothing.  Whoever only reads takes no lock.  Drivers on several machines see
each other's lock where the network file system passes it on: NFS does since Linux 2.6.12, unless
it is mounted with `nolock` or `local_lock`; then it guards one machine only.
"""

import fcntl
import os
import platform
from pathlib import Path

from bench.errors import ConfigError

NAME = ".lock"


class Lock:
    """Holds a suite's folder until `release`, or until the process ends.

    Args:
        folder: `results/SUITE`, which is made where it is missing.

    Raises:
        ConfigError: If another process holds it.
        OSError: If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 200, 0).decode(errors="replace").strip()
            self.release()
            raise ConfigError(
                f"another augbench run{f' ({holder})' if holder.isprintable() else ''} is at work "
                f"in {folder}: wait until it has ended, or choose another --results"
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)

    def release(self) -> None:
        """Lets others in; once is enough."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.release()
