"""A file or a descriptor of this machine is never told as a fault of the chain's endpoint."""

import errno
import os

import bittensor as bt
import pytest

from template.chain.bittensor.translation import LocalTrouble, translate_error

URL = "wss://entry.example:443"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        PermissionError(errno.EACCES, "Permission denied", "/somewhere/runtime-cache"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
)
def test_this_machines_errors_name_no_endpoint(error: OSError) -> None:
    wrapped = bt.RpcConnectionError("Could not connect")
    wrapped.__cause__ = error
    for seen in (error, wrapped):
        told = translate_error(seen, URL, 15.0)
        assert isinstance(told, LocalTrouble)
        assert "this node could not ask the chain" in str(told)
        assert str(error.strerror) in str(told)
        for words in ("unreachable", "entry.example", "--subtensor.network"):
            assert words not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        PermissionError(errno.EPERM, "Operation not permitted"),
        TimeoutError(),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
    ],
)
def test_the_endpoints_errors_stay_the_endpoints(error: OSError) -> None:
    told = translate_error(error, URL, 15.0)
    assert not isinstance(told, LocalTrouble)
    assert "entry.example" in str(told)
