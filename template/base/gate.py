"""A gate between training and work that needs training to stand still.

On a CPU, training and the rest of a node share memory: a new theta fits where gradients were, and
the moments on their way to the disk must not change. Training passes the gate before every inner
step, and rests there while somebody needs it to.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition


def _do_nothing() -> None:
    pass


class Gate:
    """One thread trains; any other may ask it to stand still."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._num_asking = 0
        self._is_busy = False

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within the block this thread trains: nobody's `still` begins but at `pass_by`."""
        with self._changed:
            self._changed.wait_for(lambda: not self._num_asking)
            self._is_busy = True
        try:
            yield
        finally:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def pass_by(self, make_room: Callable[[], None] = _do_nothing) -> None:
        """Rest while somebody asks for it; `make_room` is called before a rest."""
        with self._changed:
            if not self._num_asking:
                return
        make_room()
        with self.apart():
            pass

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within the block, in the middle of `busy`, this thread only waits."""
        with self._changed:
            was_busy, self._is_busy = self._is_busy, False
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._changed.wait_for(lambda: not self._num_asking)
                self._is_busy = was_busy

    @contextmanager
    def still(self) -> Iterator[None]:
        """Within the block training stands still: from the next inner step, or the end, on."""
        with self._changed:
            self._num_asking += 1
        try:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_busy)
            yield
        finally:
            with self._changed:
                self._num_asking -= 1
                self._changed.notify_all()
