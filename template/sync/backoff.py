"""When to try again, in windows: the gap doubles after each try, up to a limit. Pure."""


class Backoff:
    """Counts tries by window.

    A try may cost the download of a checkpoint; a newer checkpoint comes every `limit_windows`, so
    a longer gap would miss one.
    """

    def __init__(self, limit_windows: int) -> None:
        self._limit_windows = limit_windows
        self.reset()

    def reset(self) -> None:
        """Forget all tries: the next window is due."""
        self.next_window, self._gap_windows = 0, 1

    def is_due(self, window: int) -> bool:
        """Whether to try in this window; if so, the try counts."""
        if window < self.next_window:
            return False
        self.next_window = window + self._gap_windows
        self._gap_windows = min(2 * self._gap_windows, self._limit_windows)
        return True
