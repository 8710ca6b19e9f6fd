"""Values and errors of the SDK as types and `ChainError`s of this project. Opens no connection."""

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import bittensor as bt

from template.chain.commitment import join_fields
from template.chain.health import redact_endpoint, redact_urls
from template.chain.types import Metagraph, Neuron, WeightTimes
from template.errors import ChainError
from template.files import remedy

# The SDK's wording for a connection that broke during a write: the error has no code or class
# of its own.
BROKEN_WRITE = ("Connection lost while", "Connection dropped while")
CONNECTION_ERRORS = (bt.RpcConnectionError, bt.ConnectionNotReady, OSError)
_LOCAL_NUMBERS = frozenset(
    {
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.EROFS,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENOENT,
    }
)
"""Never the answer to a connection over TCP."""
SDK_ERRORS = (bt.BittensorError, OSError, ValueError, LookupError)
"""Every exception that a call of the SDK is known to raise."""


class ConnectionLost(ChainError):
    """No answer: the endpoint is down, the socket broke, or a deadline passed."""

    def __init__(self, message: str, *, is_final: bool = False) -> None:
        super().__init__(message, code="unreachable", is_final=is_final)


class OtherChain(ChainError):
    """The endpoint serves another chain than the one of the first answer."""

    def __init__(self, message: str) -> None:
        super().__init__(message, code="other_chain", is_final=True)


class LocalTrouble(ConnectionLost):
    """This machine could not ask: a file or a descriptor is at fault, and no endpoint."""


def translate_error(error: Exception, endpoint: str, timeout_s: float) -> ChainError:
    """The `ChainError` for an exception in `SDK_ERRORS`; `ConnectionLost` invites another try.

    A connection that broke during a write gives a plain ChainError: a retry could write twice.
    """
    shown = redact_endpoint(endpoint)
    if isinstance(error, bt.ChainError):
        if str(error).startswith(BROKEN_WRITE):
            return ChainError(
                f"the connection to the chain at {shown} broke during a write, which may be on "
                "chain all the same; if this repeats, name another endpoint with "
                "--subtensor.network",
                "unreachable",
            )
        return ChainError(redact_urls(str(error)), error.code.value, name=error.name or "")
    local = find_local(error)
    if local is not None:
        return LocalTrouble(
            f"this node could not ask the chain: {local}; {remedy(Path('/'), local)}"
        )
    if isinstance(error, CONNECTION_ERRORS):
        reason = redact_urls(str(error)) or f"no answer within {timeout_s:.0f} s"
        return ConnectionLost(f"the chain at {shown} is unreachable: {reason}")
    return ChainError(f"the SDK failed: {redact_urls(repr(error))}", "not_understood")


def find_local(error: BaseException | None) -> OSError | None:
    """The error about a file or a descriptor of this machine behind an error of the SDK, if any."""
    while error is not None:
        if isinstance(error, OSError) and (
            error.filename is not None or error.errno in _LOCAL_NUMBERS
        ):
            return error
        error = error.__cause__
    return None


def translate_metagraph(graph: bt.Metagraph, netuid: int, block: int) -> Metagraph:
    """Our metagraph; stakes and emissions are taken in rao, as integers."""
    return Metagraph(
        netuid=netuid,
        block=block,
        tempo_blocks=graph.tempo,
        owner_hotkey=graph.owner_hotkey,
        neurons=tuple(_translate_neuron(row) for row in graph.neurons),
        price_tao=graph.price,
    )


def _translate_neuron(row: bt.MetagraphNeuron) -> Neuron:
    return Neuron(
        uid=row.uid,
        hotkey=row.hotkey,
        coldkey=row.coldkey,
        validator_permit=row.validator_permit,
        total_stake_rao=row.total_stake.rao,
        alpha_stake_rao=row.alpha_stake.rao,
        block_at_registration=row.block_at_registration,
        last_update=row.last_update,
        incentive=row.incentive,
        dividends=row.dividends,
        emission_rao=row.emission.rao,
    )


def translate_weight_times(values: Mapping[str, Any] | None, netuid: int) -> WeightTimes:
    """From the SDK's names and values of a subnet's hyperparameters.

    ChainError for None (no such subnet), KeyError for a node that does not tell one of them.
    """
    if values is None:
        raise ChainError(f"netuid {netuid} does not exist", "subnet_not_exists")
    is_hidden = bool(values["commit_reveal_weights_enabled"])
    return WeightTimes(
        rate_limit_blocks=int(values["weights_rate_limit"]),
        cutoff_blocks=int(values["activity_cutoff"]),
        reveal_epochs=int(values["commit_reveal_period"]) if is_hidden else 0,
    )


def translate_commitments(rows: Iterable[tuple[Any, Any]]) -> Mapping[str, bytes]:
    """hotkey -> bytes, for each row of `CommitmentOf` with raw fields only."""
    joined = ((str(hotkey), join_fields(record["info"]["fields"])) for hotkey, record in rows)
    return MappingProxyType({hotkey: data for hotkey, data in joined if data is not None})
