"""The run's stopwatch: device-synchronised at its ends and at pauses, never in between."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

Time = Callable[[], float]
SYNCHRONISE_EVERY = 10


class Clock:
    """Elapsed device-seconds of a run, without the harness's own evaluations.

    Its time never runs backwards, whatever is done to the machine's date.  A machine that sleeps
    may or may not count its sleep, never less than nothing.

    Args:
        device: Synchronised at start, pauses and stop; reading `elapsed` never synchronises.
        now: The source of time in seconds, which knows no date; tests put a fake here.
    """

    def __init__(self, device: torch.device, now: Time = time.perf_counter) -> None:
        self._device = device
        self._now = now
        self._latest = -math.inf
        self._started: float | None = None
        self._paused = 0.0
        self._credited = 0.0
        self._stopped: float | None = None
        self._depth = 0
        self._pause_began = 0.0

    def now(self) -> float:
        """The time in seconds, from an arbitrary beginning; never before an earlier answer."""
        self._latest = max(self._latest, self._now())
        return self._latest

    def synchronise(self) -> None:
        """Waits for the device's queued work."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def start(self) -> None:
        """Starts counting."""
        self.synchronise()
        self._started = self.now()

    def stop(self) -> float:
        """Stops counting and returns the elapsed seconds."""
        self.synchronise()
        self._stopped = self.now()
        return self.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds since `start`, pauses left out and credit added; 0 before it."""
        if self._started is None:
            return 0.0
        end = self._stopped if self._stopped is not None else self.now()
        if self._depth:
            end = self._pause_began
        return end - self._started - self._paused + self._credited

    @property
    def worked(self) -> float:
        """Seconds of this process alone, without any credit."""
        return self.elapsed - self._credited if self._started is not None else 0.0

    def credit(self, seconds: float) -> None:
        """Adds time that another process spent on this run; less than 0 takes it back."""
        self._credited += seconds

    def repeat(self, step: Callable[[], object], times: int, allowed: float) -> tuple[int, float]:
        """Runs a step up to `times` times, at least once, until a time is used up.

        Returns:
            How often it ran, and the seconds.
        """
        self.synchronise()
        began = self.now()
        for done in range(1, times + 1):
            step()
            if done in (1, times) or done % SYNCHRONISE_EVERY == 0:
                self.synchronise()  # only now and then: steps are queued ahead as in training
                if self.now() - began > allowed:
                    break
        return done, self.now() - began

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Takes a block off the clock; pauses nest, and mean nothing outside start and stop."""
        if self._started is None or self._stopped is not None:
            yield
            return
        if self._depth == 0:
            self.synchronise()
            self._pause_began = self.now()
        self._depth += 1
        try:
            yield
        finally:
            if self._depth == 1:
                self.synchronise()
                self._paused += self.now() - self._pause_began
            self._depth -= 1
