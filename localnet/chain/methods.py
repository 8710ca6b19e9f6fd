"""The answers of JSON-RPC methods, from the chain alone.

Owns parameter checks and the shape of answers. `rpc.py` owns sockets, batches and
subscriptions; `views/` owns runtime APIs.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from localnet.chain import views
from localnet.chain.blocks import Block, hex_of
from localnet.chain.chain import LocalChain
from localnet.chain.metadata import (
    SPEC_NAME,
    SPEC_VERSION,
    SS58_FORMAT,
    TRANSACTION_VERSION,
    RuntimeMethod,
)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
SERVER_ERROR = 4003
MAX_PAGE = 1000
_CACHED_VIEWS = 512
_METADATA_V15 = 15
_RUNTIME_VERSION: dict[str, Any] = {
    "specName": SPEC_NAME,
    "implName": SPEC_NAME,
    "specVersion": SPEC_VERSION,
    "implVersion": 1,
    "authoringVersion": 1,
    "transactionVersion": TRANSACTION_VERSION,
    "stateVersion": 1,
    "apis": [],
}
_PROPERTIES = {"ss58Format": SS58_FORMAT, "tokenDecimals": 9, "tokenSymbol": "TAO"}
_SUBSCRIPTIONS = (
    "author_submitAndWatchExtrinsic",
    "author_unwatchExtrinsic",
    "chain_subscribeFinalizedHeads",
    "chain_subscribeNewHeads",
    "chain_unsubscribeFinalizedHeads",
    "chain_unsubscribeNewHeads",
)


class RpcError(Exception):
    """A JSON-RPC error response."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Methods:
    """Dispatches the plain (not subscribing) methods."""

    def __init__(self, chain: LocalChain) -> None:
        self._chain = chain
        # Answers of runtime APIs at a block never change; polls by many nodes are alike.
        self._views: OrderedDict[tuple[str, bytes, int], str] = OrderedDict()
        self._table: dict[str, Callable[..., object]] = {
            "account_nextIndex": chain.next_nonce,
            "author_submitExtrinsic": lambda raw: hex_of(self.submit([raw])),
            "chain_getBlock": self._block,
            "chain_getBlockHash": self._block_hash,
            "chain_getFinalizedHead": lambda: hex_of(chain.finalized.hash),
            "chain_getHead": lambda: hex_of(chain.head.hash),
            "chain_getHeader": lambda at=None: self._at(at).header.to_json(),
            "rpc_methods": lambda: {"methods": sorted([*self._table, *_SUBSCRIPTIONS])},
            "state_call": self._runtime_call,
            "state_getKeysPaged": self._keys,
            "state_getRuntimeVersion": self._runtime_version,
            "state_getStorage": self._storage,
            "state_getStorageAt": self._storage,
            "state_queryStorageAt": self._query_storage,
            "system_accountNextIndex": chain.next_nonce,
            "system_chain": lambda: "Bittensor local",
            "system_health": lambda: {"peers": 0, "isSyncing": False, "shouldHavePeers": False},
            "system_name": lambda: "localnet.chain",
            "system_properties": lambda: _PROPERTIES,
        }

    def call(self, method: str, params: list[Any]) -> Any:
        """The result of a method; raises RpcError or InvalidTransaction."""
        handler = self._table.get(method)
        if handler is None:
            raise RpcError(METHOD_NOT_FOUND, f"Method not found: {method}")
        try:
            return handler(*params)
        except (TypeError, ValueError, OverflowError) as error:
            raise RpcError(INVALID_PARAMS, f"Invalid params of {method}: {error}") from error

    def submit(self, params: list[Any]) -> bytes:
        """Put `params[0]`, a hex extrinsic, into the pool; returns the extrinsic's hash."""
        if len(params) != 1:
            raise RpcError(INVALID_PARAMS, "expected one extrinsic")
        try:
            raw = _bytes(params[0])
        except (TypeError, ValueError) as error:
            raise RpcError(INVALID_PARAMS, f"not a hex extrinsic: {error}") from error
        return self._chain.submit(raw).hash

    def _at(self, at: str | None) -> Block:
        """The block of a hash, the head if None."""
        if at is None:
            return self._chain.head
        number = self._chain.blocks.number_of(_bytes(at))
        block = None if number is None else self._chain.blocks.at(number)
        if block is None:
            raise RpcError(SERVER_ERROR, f"Client error: UnknownBlock: Header was not found: {at}")
        return block

    def _number(self, at: str | None) -> int:
        return self._at(at).header.number

    def _block(self, at: str | None = None) -> dict[str, Any]:
        block = self._at(at)
        extrinsics = [hex_of(raw) for raw in block.extrinsics]
        body = {"header": block.header.to_json(), "extrinsics": extrinsics}
        return {"block": body, "justifications": None}

    def _block_hash(self, number: Any = None) -> object:
        if isinstance(number, list):
            return [self._block_hash(one) for one in number]
        if number is None:
            return hex_of(self._chain.head.hash)
        block = self._chain.blocks.at(int(number, 16) if isinstance(number, str) else int(number))
        return None if block is None else hex_of(block.hash)

    def _runtime_version(self, at: str | None = None) -> dict[str, Any]:
        self._at(at)
        return _RUNTIME_VERSION

    def _storage(self, key: str, at: str | None = None) -> str | None:
        value = self._chain.raw_value(_bytes(key), self._number(at))
        return None if value is None else hex_of(value)

    def _query_storage(self, keys: list[str], at: str | None = None) -> list[dict[str, Any]]:
        block = self._at(at)
        changes = [[key, self._storage(key, hex_of(block.hash))] for key in keys]
        return [{"block": hex_of(block.hash), "changes": changes}]

    def _keys(
        self, prefix: str, limit: int, start: str | None = None, at: str | None = None
    ) -> list[str]:
        if not 0 < limit <= MAX_PAGE:
            raise RpcError(INVALID_PARAMS, f"count {limit} is not 1 to {MAX_PAGE}")
        after = b"" if start is None else _bytes(start)
        found = self._chain.raw_keys(_bytes(prefix), self._number(at), after=after)
        return [hex_of(key) for key in found[:limit]]

    def _runtime_call(self, name: str, data: str, at: str | None = None) -> str:
        """`state_call`: SCALE arguments in, SCALE result out."""
        if not isinstance(name, str):
            raise TypeError("the method's name is not a string")
        number = self._number(at)
        key = (name, _bytes(data), number)
        cached = self._views.get(key)
        if cached is not None:
            self._views.move_to_end(key)
            return cached
        answer = hex_of(self._compute(name, key[1], number))
        self._views[key] = answer
        if len(self._views) > _CACHED_VIEWS:
            self._views.popitem(last=False)
        return answer

    def _compute(self, name: str, arguments: bytes, number: int) -> bytes:
        metadata = self._chain.metadata
        if name == "Metadata_metadata_at_version":
            is_v15 = int.from_bytes(arguments, "little") == _METADATA_V15
            return metadata.opaque_option if is_v15 else b"\x00"
        if name == "Metadata_metadata_versions":
            return b"\x04" + _METADATA_V15.to_bytes(4, "little")
        method = metadata.runtime_method(name)
        view = views.RUNTIME_APIS.get(name)
        if method is not None and name in views.FEE_METHODS:
            return bytes(metadata.codec.encode(method.output_type, views.FEE_QUOTE))
        if method is None or view is None:
            reason = f"Exported method {name} is not found in the local chain"
            raise RpcError(SERVER_ERROR, f"Client error: Execution failed: {reason}")
        values = self._decode_arguments(method, arguments)
        result = view(self._chain.state_at(number), *values)
        return bytes(metadata.codec.encode(method.output_type, result))

    def _decode_arguments(self, method: RuntimeMethod, arguments: bytes) -> tuple[Any, ...]:
        """Decode the concatenated arguments one by one; ValueError on bytes left over."""
        values, rest = [], arguments
        codec = self._chain.metadata.codec
        for type_name in method.input_types:
            value = codec.decode(type_name, rest, strict=False)
            rest = rest[len(codec.encode(type_name, value)) :]
            values.append(value)
        if rest:
            raise ValueError(f"{len(rest)} bytes too many")
        return tuple(values)


def _bytes(text: str) -> bytes:
    """Bytes of a 0x-prefixed hex string; TypeError or ValueError on other values."""
    if not isinstance(text, str):
        raise TypeError(f"expected a hex string, got {type(text).__name__}")
    return bytes.fromhex(text.removeprefix("0x"))
