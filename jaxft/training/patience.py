"""How long a step may take before a run of several processes counts as stuck."""

from __future__ import annotations

import time

# Of what no earlier step tells: compiling, evaluating, writing a checkpoint.
LONGEST_PAUSE = 1800.0
_SHORTEST = 20.0
_TIMES = 10.0


class Patience:
    """Learns from the steps so far.

    Steps are handed to the devices ahead of time and waited for where their metrics are read, so that what counts is
    the longest time between two steps, once one such wait has been seen.
    """

    def __init__(self, log_every: int):
        """
        Args:
          log_every: steps between reports, at which metrics are read.
        """
        self._untold = log_every + 2
        self._longest = 0.0
        self._since: float | None = None

    def pause(self) -> float:
        """Seconds that what is no step may take; the time until the next step tells nothing."""
        self._since = None
        return LONGEST_PAUSE

    def step(self) -> float:
        """Takes a step that is done; seconds that the next may take."""
        now = time.monotonic()
        if self._since is not None:
            self._longest = max(self._longest, now - self._since)
            self._untold -= 1
        self._since = now
        return LONGEST_PAUSE if self._untold > 0 else max(_SHORTEST, _TIMES * self._longest)
