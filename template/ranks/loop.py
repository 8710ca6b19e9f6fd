"""Orders: rank 0 says what to do, and every rank does its part.

An order is a JSON object with the order's name and values; tensors follow by the ranks' own
exchange. Every rank, rank 0 too, carries out the same orders one after another, so no rank waits
for another that does something else. An unforeseen failure of a rank ends that rank, and so all.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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
_JSON, _BYTES, _ERROR = b"j", b"b", b"e"


class Team:
    """Rank 0's voice: `call` and `tell` are carried out by every rank. For any thread."""

    def __init__(self, group: Group, orders: Orders) -> None:
        self.group = group
        self._orders = orders
        self._lock = RLock()
        self._broken: str | None = None
        self._last_number = 0
        self._dropped: list[int] = []

    def number(self) -> int:
        """A number that nothing had before, for what the ranks are to hold."""
        with self._lock:
            self._last_number += 1
            return self._last_number

    def drop(self, number: int) -> None:
        """The ranks may forget what has this number, with the next order."""
        # From any place where a last reference ends, so neither a lock nor a word to the ranks.
        self._dropped.append(number)

    def tell(self, order: str, given: Any = None, **values: Any) -> Any:
        """Every rank does this; rank 0's own result, without waiting for the others."""
        with self._in_step():
            return self._begin(order, given, values, answers=False)

    def call(self, order: str, given: Any = None, **values: Any) -> list[Any]:
        """Every rank does this; all results by rank. The first SubnetError of a rank is raised."""
        with self._in_step():
            try:
                own = pack(self._begin(order, given, values, answers=True))
            except SubnetError as error:
                own = refusal(error)
            answers = self.group.gather(own)
        return [unpack(answer, rank) for rank, answer in enumerate(answers)]

    def end(self) -> None:
        """Tell all ranks that the miner has ended well, and part."""
        with self._in_step():
            self.group.broadcast(json.dumps({"order": _END}).encode())
            self.group.leave()
        self._broken = "the ranks have parted"

    def _begin(self, order: str, given: Any, values: Mapping[str, Any], *, answers: bool) -> Any:
        # One by one: another thread may drop a number at any time.
        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        message = {"order": order, "values": values, "dropped": dropped, "answers": answers}
        self.group.broadcast(json.dumps(message).encode())
        return carry_out(self._orders, message, given)

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        """After anything unforeseen in the middle of an order, nobody knows what ranks wait for."""
        with self._lock:
            if self._broken is not None:
                raise RankLost(self._broken)
            try:
                yield
            except RuntimeError as error:
                self._broken = f"the ranks are out of step after an error: {error}"
                raise RankLost(self._broken) from error
            except BaseException as error:
                self._broken = f"the ranks are out of step after {type(error).__name__}"
                raise


def carry_out(orders: Orders, message: Mapping[str, Any], given: Any = None) -> Any:
    """One rank's part of an order."""
    for number in message["dropped"]:
        orders["drop"]({"number": number}, None)
    return orders[message["order"]](message["values"], given)


def serve(group: Group, orders: Orders) -> None:
    """Carry out rank 0's orders until the end. RankLost when rank 0, or another rank, has ended."""
    while True:
        try:
            message = json.loads(group.broadcast())
            if message["order"] == _END:
                group.leave()
                return
            if message["answers"]:
                group.gather(_answer(orders, message))
            else:
                carry_out(orders, message)
        except torch.OutOfMemoryError as error:
            raise RankLost(
                f"rank {group.rank}: the device's memory is used up: {error}. Take more ranks, "
                "larger devices, --neuron.offload host, or a smaller --neuron.micro_batch"
            ) from error
        except RuntimeError as error:
            raise RankLost(
                f"rank {group.rank} ends: {error}. If this is a lost connection, another rank has "
                "ended first, and the log of that rank has the reason"
            ) from error


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
