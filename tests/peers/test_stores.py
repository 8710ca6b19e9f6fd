"""Open stores: one per hotkey, bounded in number, closed when unused and never in use."""

import threading
from collections.abc import Callable, Iterator

import pytest

from simulation.world import hotkey_of
from template.commands.reading import bucket_opener
from template.peers.stores import OpenStores
from template.protocol.record import Access, AccessKind
from template.store.memory import MemoryStore
from tests.support.descriptors import num_open_descriptors
from tests.support.raw_server import RawServer, body_of
from tests.support.waiting import HANG_S, wait_until


def access(number: int, url: str = "http://127.0.0.1:1") -> Access:
    return Access(
        kind=AccessKind.S3, account=url, access_key_id=f"key{number}", secret_access_key="s"
    )


class Closing(MemoryStore):
    """Counts its closings."""

    def __init__(self) -> None:
        super().__init__()
        self.num_closed = 0

    def close(self) -> None:
        self.num_closed += 1


class Opened:
    """An opener that remembers its stores."""

    def __init__(self) -> None:
        self.stores: list[tuple[str, Closing]] = []

    def __call__(self, hotkey: str, _access: Access) -> Closing:
        store = Closing()
        self.stores.append((hotkey, store))
        return store

    @property
    def open_hotkeys(self) -> list[str]:
        assert all(store.num_closed <= 1 for _, store in self.stores)
        return [hotkey for hotkey, store in self.stores if not store.num_closed]


def use(stores: OpenStores, hotkey: str, number: int = 0) -> None:
    stores.call(hotkey, access(number), lambda store: store.list(""))


def test_a_new_access_record_replaces_and_closes_the_old_store() -> None:
    opened = Opened()
    stores = OpenStores(opened)
    for number in range(50):
        for _ in range(2):
            use(stores, "a", number)
        assert opened.open_hotkeys == ["a"]
        assert len(opened.stores) == number + 1


def test_the_least_recently_used_stores_are_closed() -> None:
    opened = Opened()
    stores = OpenStores(opened, max_open=3)
    for hotkey in "abcab":
        use(stores, hotkey)
    assert opened.open_hotkeys == ["a", "b", "c"]
    use(stores, "d")
    assert opened.open_hotkeys == ["a", "b", "d"]
    use(stores, "c")
    assert opened.open_hotkeys == ["b", "d", "c"]
    stores.close_idle()
    assert opened.open_hotkeys == []


def test_stores_of_past_records_are_closed() -> None:
    opened = Opened()
    stores = OpenStores(opened)
    for hotkey in "abc":
        use(stores, hotkey)
    stores.keep_only({"a": access(0), "b": access(1)})
    assert opened.open_hotkeys == ["a"]


def give_up(stores: OpenStores) -> None:
    stores.close_idle()


def rotate(stores: OpenStores) -> None:
    use(stores, "a", 1)
    stores.close_idle()


def forget(stores: OpenStores) -> None:
    stores.keep_only({})


def crowd(stores: OpenStores) -> None:
    for hotkey in "bcdef":
        use(stores, hotkey)
    stores.close_idle()


@pytest.mark.parametrize("disturb", [give_up, rotate, forget, crowd])
def test_no_store_is_closed_in_use(disturb: Callable[[OpenStores], None]) -> None:
    opened = Opened()
    stores = OpenStores(opened, max_open=1)
    asked, released = threading.Event(), threading.Event()

    def ask(_store: object) -> None:
        asked.set()
        released.wait(HANG_S)

    thread = threading.Thread(target=lambda: stores.call("a", access(0), ask))
    thread.start()
    asked.wait(HANG_S)
    disturb(stores)
    assert opened.open_hotkeys == ["a"]
    released.set()
    thread.join(HANG_S)
    stores.close_idle()
    assert opened.open_hotkeys == []


@pytest.fixture
def server() -> Iterator[RawServer]:
    server = RawServer(body_of(b"data"))
    yield server
    server.close()


def test_rotating_records_cost_no_descriptor(server: RawServer) -> None:
    """Real stores and sockets: as many descriptors after many rotations as after the first."""
    stores = OpenStores(bucket_opener(on_localnet=True))
    hotkeys = [hotkey_of(f"m{number}") for number in range(8)]

    def fetch_all(number: int) -> None:
        for hotkey in hotkeys:
            found = stores.call(
                hotkey, access(number, server.url), lambda store: store.get("x", max_bytes=4)
            )
            assert found == b"data"

    before = num_open_descriptors()
    fetch_all(0)
    settled = num_open_descriptors()
    assert settled > before, "idle connections are kept"
    for number in range(1, 6):
        fetch_all(number)
    # The server closes its side of a connection a moment later.
    wait_until(lambda: num_open_descriptors() <= settled, 0.01)
    stores.close_idle()
    wait_until(lambda: num_open_descriptors() <= before, 0.01)
    assert len(server.requests) == 6 * len(hotkeys)
