"""Endpoints of a local chain inside this process, which stop making blocks when told."""

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any

from localnet.chain.rpc import HOST, RpcServer
from tests.support.localnet.ledger import Ledger, ledger_config, populate
from tests.support.waiting import HANG_S

BLOCK_S = 0.02


class Endpoint:
    """A chain with subnet 1 behind a port of its own, on a thread of its own.

    Endpoints with the same seed have the same genesis hash.
    """

    def __init__(self, seed: str = "tests") -> None:
        self.ledger = populate(Ledger(replace(ledger_config(), seed=seed, block_time_s=BLOCK_S)))
        self.place = ""
        self._loop = asyncio.new_event_loop()
        self._server = RpcServer(self.ledger.chain, 0)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> "Endpoint":
        self._thread.start()
        self._await(self._server.__aenter__())
        self.place = f"{HOST}:{self._server.port}"
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.go_away()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(HANG_S)
        self._loop.close()

    @property
    def url(self) -> str:
        """With a secret that no message may show."""
        return f"ws://{self.place}/hunter1?token=hunter2"

    @property
    def height(self) -> int:
        return self.ledger.height

    def stand_still(self) -> None:
        """Go on answering, and make no block any more."""
        timer = self._server._timer
        assert timer is not None
        self._loop.call_soon_threadsafe(timer.cancel)

    def go_away(self) -> None:
        """Close every connection and the port; may be called twice."""
        if self._server._server is not None and self._server._server.is_serving():
            self._await(self._server.__aexit__())

    def _await(self, coroutine: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(HANG_S)
