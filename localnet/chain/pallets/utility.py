"""Several calls in one extrinsic.

Source: subtensor's fork (pallets/utility) of substrate's utility pallet. A failed inner call is
undone alone. The caller passes the table of calls as `dispatch`, since this module is an entry
of the table.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from localnet.chain.state import DispatchFailed, State

Dispatch = Callable[[State, str, "Call"], None]
_PALLET = "Utility"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A nested call."""

    pallet: str
    function: str
    args: dict[str, Any]


def batch(dispatch: Dispatch, state: State, origin: str, *, calls: list[dict[str, Any]]) -> None:
    """Utility.batch: run in order; stop at the first failure and keep the earlier calls."""
    _check_length(state, calls)
    for index, call in enumerate(map(_parse, calls)):
        error = _attempt(dispatch, state, origin, call)
        if error is not None:
            interrupted = {"index": index, "error": error}
            state.emit(_PALLET, "BatchInterrupted", interrupted)
            return
        state.emit(_PALLET, "ItemCompleted", None)
    state.emit(_PALLET, "BatchCompleted", None)


def batch_all(
    dispatch: Dispatch, state: State, origin: str, *, calls: list[dict[str, Any]]
) -> None:
    """Utility.batch_all: a failed call undoes every call; refuses a nested batch_all."""
    _check_length(state, calls)
    for call in map(_parse, calls):
        if (call.pallet, call.function) == (_PALLET, "batch_all"):
            raise state.fail("System", "CallFiltered")
        dispatch(state, origin, call)
        state.emit(_PALLET, "ItemCompleted", None)
    state.emit(_PALLET, "BatchCompleted", None)


def force_batch(
    dispatch: Dispatch, state: State, origin: str, *, calls: list[dict[str, Any]]
) -> None:
    """Utility.force_batch: try every call, even after failures."""
    _check_length(state, calls)
    has_errors = False
    for call in map(_parse, calls):
        error = _attempt(dispatch, state, origin, call)
        if error is None:
            state.emit(_PALLET, "ItemCompleted", None)
        else:
            has_errors = True
            state.emit(_PALLET, "ItemFailed", {"error": error})
    state.emit(_PALLET, "BatchCompletedWithErrors" if has_errors else "BatchCompleted", None)


CALLS = (batch, batch_all, force_batch)


def nested_calls(pallet: str, args: dict[str, Any]) -> Iterator[Call]:
    """The calls inside a call of this pallet."""
    if pallet == _PALLET:
        yield from map(_parse, args["calls"])


def _parse(decoded: dict[str, Any]) -> Call:
    """A nested call from the codec's form."""
    return Call(
        pallet=decoded["call_module"],
        function=decoded["call_function"],
        args={argument["name"]: argument["value"] for argument in decoded["call_args"]},
    )


def _attempt(dispatch: Dispatch, state: State, origin: str, call: Call) -> Any:
    """Run a call in a separate transaction; return the error, or None."""
    try:
        with state.transaction():
            dispatch(state, origin, call)
    except DispatchFailed as failed:
        return failed.dispatch_error
    return None


def _check_length(state: State, calls: list[dict[str, Any]]) -> None:
    if len(calls) > state.metadata.codec.constant(_PALLET, "batched_calls_limit"):
        raise state.fail(_PALLET, "TooManyCalls")
