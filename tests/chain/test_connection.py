"""A connection to the chain that nobody has asked anything."""

import pytest

from template.chain.bittensor import connection as module


def test_a_close_waits_for_no_write_of_another_thread(monkeypatch: pytest.MonkeyPatch):
    """A stop has eight seconds, and a write that another lane waits for may take minutes."""
    monkeypatch.setattr(module, "BUSY_LIMIT_S", 0.05)
    connection = module.Connection(lambda _genesis_hash: True)
    with connection._lock:
        connection.close()
    connection.close()
    assert not connection._thread.is_alive()
