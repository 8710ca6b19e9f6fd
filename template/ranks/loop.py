"""Orders: rank 0 says what to do, and every rank does its part.

An order is a JSON object with the order's name and values; tensors follow by the ranks' own
exchange. Every rank, rank 0 too, carries out the same orders one after another, so no rank waits
for another that does something else. An unforeseen failure of a rank ends that rank, and so all.
"""

import itertools
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Final

import torch

from template.errors import ConfigError, ObjectError, RankLost, StateError, SubnetError
from template.ranks.group import Group

log = logging.getLogger(__name__)

Order = Callable[[Mapping[str, Any], Any], Any]
"""(values, what rank 0 alone is given) -> JSON values or bytes, for rank 0."""
Orders = Mapping[str, Order]

_END: Final = "end"
NOTHING: Final = "nothing"
"""The order that only passes on what was dropped."""
RESULT: Final = "result"
DONE: Final = "done"
"""What rank 0 waits for: each rank's result, or only the word that the order is carried out."""
_JSON, _BYTES, _ERROR = b"j", b"b", b"e"


@dataclass
class Fate:
    """Shared by all streams: the error after which nobody knows what ranks wait for."""

    broken: str | None = None


class Stream:
    """Orders one after another, which every rank carries out. For any thread.

    `is_settled`: an order is over when every rank has carried it out, and not only rank 0.
    """

    def __init__(
        self, group: Group, orders: Orders, fate: Fate, *, is_settled: bool = False
    ) -> None:
        self.group, self._orders, self._fate = group, orders, fate
        self._is_settled = is_settled
        self._lock = RLock()
        self._dropped: list[int] = []

    def drop(self, number: int) -> None:
        """The ranks need not keep what has this number for this stream's next orders."""
        # From any place where a last reference ends, so neither a lock nor a word to the ranks.
        self._dropped.append(number)

    def tell(self, order: str, given: Any, values: Mapping[str, Any]) -> Any:
        """Every rank does this; rank 0's own result."""
        with self._in_step():
            own = self._begin(order, given, values, DONE if self._is_settled else "")
            if self._is_settled:
                self.group.gather(b"")
            return own

    def call(self, order: str, given: Any, values: Mapping[str, Any]) -> list[Any]:
        """Every rank does this; all results by rank. The first SubnetError of a rank is raised."""
        with self._in_step():
            try:
                own = pack(self._begin(order, given, values, RESULT))
            except SubnetError as error:
                own = refusal(error)
            answers = self.group.gather(own)
        return [unpack(answer, rank) for rank, answer in enumerate(answers)]

    def forget_if_idle(self) -> None:
        """Pass on what was dropped, if that holds nobody up."""
        if self._dropped and self._lock.acquire(blocking=False):
            try:
                self.tell(NOTHING, None, {})
            finally:
                self._lock.release()

    def end(self, *, leaves: bool) -> None:
        """Tell all ranks that the orders are over; `leaves`: and part."""
        with self._in_step():
            self.group.broadcast(json.dumps({"order": _END}).encode())
            if leaves:
                self.group.leave()

    def _begin(self, order: str, given: Any, values: Mapping[str, Any], answer: str) -> Any:
        # One by one: another thread may drop a number at any time.
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        message = {"order": order, "values": values, "dropped": dropped, "answer": answer}
        self.group.broadcast(json.dumps(message).encode())
        return carry_out(self._orders, message, given)

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """After anything unforeseen in the middle of an order, nobody knows what ranks wait for."""
        fate = self._fate
        with self._lock:
            if fate.broken is not None:
                raise RankLost(fate.broken)
            try:
                yield
            except torch.OutOfMemoryError as error:
                fate.broken = used_up(self.group.rank, error)
                raise RankLost(fate.broken) from error
            except RuntimeError as error:
                fate.broken = f"the ranks are out of step after an error: {error}"
                raise RankLost(fate.broken) from error
            except BaseException as error:
                fate.broken = f"the ranks are out of step after {type(error).__name__}"
                raise


class Team:
    """Rank 0's voice: `call` and `tell` are carried out by every rank. For any thread.

    Two streams of orders reach every rank, so that long work of one holds up no step of the other.
    A miner that works beside its training (`split`) trains by the first; everybody else uses the
    second then, and before that, and in a validator, all use the first. What one stream has made
    and the other reads is made with `call`, or told in the second, where an order is over when
    every rank has carried it out. What has a number is kept until both streams have dropped it.
    """

    def __init__(self, group: Group, orders: Orders, beside: Orders | None = None) -> None:
        """`beside`: the orders of the second stream, with exchanges of its own."""
        self.group = group
        self._fate = Fate()
        self._first = Stream(group, orders, self._fate)
        others = orders if beside is None else beside
        self._second = Stream(group.beside, others, self._fate, is_settled=True)
        self._numbers = itertools.count(1)
        self._is_split = False
        self._here = threading.local()

    def number(self) -> int:
        """A number that nothing had before, for what the ranks are to hold."""
        return next(self._numbers)

    def drop(self, number: int) -> None:
        """The ranks may forget what has this number, with the next orders."""
        self._first.drop(number)
        self._second.drop(number)

    def split(self) -> None:
        """From now on only a thread within `training` uses the first stream; may be repeated."""
        if not self._is_split:
            self._first.call(NOTHING, None, {})  # whatever was told is done
            self._is_split = True

    @contextmanager
    def training(self) -> Iterator[None]:
        """Within the block this thread trains."""
        self._here.trains = True
        try:
            yield
        finally:
            self._here.trains = False

    def tell(self, order: str, given: Any = None, **values: Any) -> Any:
        """Every rank does this; rank 0's own result, without waiting for the others."""
        own = self._stream.tell(order, given, values)
        self._pass_on()
        return own

    def call(self, order: str, given: Any = None, **values: Any) -> list[Any]:
        """Every rank does this; all results by rank. The first SubnetError of a rank is raised."""
        found = self._stream.call(order, given, values)
        self._pass_on()
        return found

    def end(self) -> None:
        """Tell all ranks that the neuron has ended well, and part."""
        self._second.end(leaves=False)
        self._first.end(leaves=True)
        self._fate.broken = "the ranks have parted"

    @property
    def _stream(self) -> Stream:
        is_first = not self._is_split or getattr(self._here, "trains", False)
        return self._first if is_first else self._second

    def _pass_on(self) -> None:
        """Pass drops on to the idle stream: ranks would keep the bands until its next order."""
        other = self._second if self._stream is self._first else self._first
        if other is self._second or not self._is_split:
            other.forget_if_idle()


def carry_out(orders: Orders, message: Mapping[str, Any], given: Any = None) -> Any:
    """One rank's part of an order."""
    for number in message["dropped"]:
        orders["drop"]({"number": number}, None)
    if message["order"] == NOTHING:
        return None
    return orders[message["order"]](message["values"], given)


def serve(group: Group, orders: Orders, *, leaves: bool = True) -> None:
    """Carry out rank 0's orders until the end. RankLost when rank 0, or another rank, has ended.

    `leaves`: part from the others at the end.
    """
    while True:
        try:
            message = json.loads(group.broadcast())
            if message["order"] == _END:
                if leaves:
                    group.leave()
                return
            if message["answer"] == RESULT:
                group.gather(_answer(orders, message))
            else:
                carry_out(orders, message)
            if message["answer"] == DONE:
                group.gather(b"")
        except torch.OutOfMemoryError as error:
            raise RankLost(used_up(group.rank, error)) from error
        except RuntimeError as error:
            raise RankLost(
                f"rank {group.rank} ends: {error}. If this is a lost connection, another rank has "
                "ended first, and the log of that rank has the reason"
            ) from error


def used_up(rank: int, error: Exception) -> str:
    """What an operator reads when a device's memory does not suffice."""
    return (
        f"rank {rank}: the device's memory is used up: {error}. Take more ranks, larger devices, "
        "--neuron.offload host, or a smaller --neuron.micro_batch (a miner) or "
        "--neuron.scoring_batch (a validator)"
    )


def _answer(orders: Orders, message: Mapping[str, Any]) -> bytes:
    try:
        return pack(carry_out(orders, message))
    except SubnetError as error:
        return refusal(error)


def pack(result: Any) -> bytes:
    """A result as bytes."""
    if isinstance(result, bytes):
        return _BYTES + result
    return _JSON + json.dumps(result).encode()


def refusal(error: SubnetError) -> bytes:
    """An error that a rank foresaw, for rank 0."""
    lasts = isinstance(error, StateError) and error.is_lasting
    return _ERROR + json.dumps([type(error).__name__, str(error), lasts]).encode()


def unpack(answer: bytes, rank: int) -> Any:
    """The result; the rank's SubnetError is raised here."""
    kind, data = answer[:1], answer[1:]
    if kind == _ERROR:
        name, text, lasts = json.loads(data)
        said = f"rank {rank}: {text}"
        if name == StateError.__name__:
            raise StateError(said, is_lasting=lasts)
        known = {each.__name__: each for each in (ConfigError, ObjectError)}
        raise known.get(name, SubnetError)(said)
    return data if kind == _BYTES else json.loads(data)
