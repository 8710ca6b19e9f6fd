"""An endpoint that fails in mid-run: another one that was named takes over, of the same chain."""

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from template.chain.bittensor import BittensorChain, ChainOptions, ConnectionLost
from template.chain.waiter import Waiter
from template.errors import ConfigError
from tests.support.localnet.serving import Endpoint
from tests.support.relay import free_port

HASTY = ChainOptions(read_timeout_s=5.0, read_deadline_s=0.5, write_timeout_s=15.0, min_still_s=0.4)
NOBODY = "ws://127.0.0.1:{}/hunter3"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path / "runtime"))


@pytest.fixture
def first() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def second() -> Iterator[Endpoint]:
    with Endpoint() as endpoint:
        yield endpoint


@pytest.fixture
def open_chain() -> Iterator[Callable[..., BittensorChain]]:
    opened = []

    def build(*named: str, wallet: Any = None) -> BittensorChain:
        chain = BittensorChain(
            endpoint=named[0], fallbacks=named[1:], netuid=1, wallet=wallet, version_key=0,
            options=HASTY,
        )  # fmt: skip
        opened.append(chain)
        return chain

    yield build
    for chain in opened:
        chain.close()


def changes(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert "hunter" not in caplog.text
    return [line for line in caplog.messages if "is used from now on" in line]


def test_one_that_answers_and_stands_still_is_left_in_mid_run(
    first: Endpoint, second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    wallet = first.ledger.wallets["alice"]
    chain = open_chain(first.url, second.url, wallet=wallet)
    waiter = Waiter(chain)
    waiter.until_finalized(first.height + 2)
    chain.publish(b"before")
    assert chain.commitments(chain.head())[wallet.hot] == b"before"
    first.stand_still()
    stood = chain.head()
    goal = max(first.height, second.height) + 30
    waiter.until_finalized(goal)
    assert second.height >= goal > first.height >= stood
    (line,) = changes(caplog)
    assert f"ws://{second.place} is used from now on instead of ws://{first.place}" in line
    assert f"stands still: block {first.height} since" in line or "final block" in line

    assert wallet.hot not in chain.commitments(goal), "no answer of the first one is remembered"
    chain.publish(b"after")
    assert chain.commitments(chain.head())[wallet.hot] == b"after"
    assert len(changes(caplog)) == 1


def test_one_that_goes_away_is_left(
    first: Endpoint, second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    chain = open_chain(first.url, second.url)
    assert chain.metagraph(chain.head()).netuid == 1
    first.go_away()
    assert chain.head() <= second.height
    (line,) = changes(caplog)
    assert f"ws://{second.place} is used from now on instead of ws://{first.place}" in line
    assert "does not answer" in line


@pytest.mark.slow
def test_nobody_answering_is_no_change_and_ends_the_call(
    first: Endpoint, second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    chain = open_chain(first.url, second.url)
    chain.head()
    first.go_away()
    second.go_away()
    with pytest.raises(ConnectionLost, match="none of 2 endpoints answered") as caught:
        chain.head()
    assert caught.value.is_final
    assert changes(caplog) == []


def test_a_first_one_that_never_answers_costs_its_turn_alone(
    second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    chain = open_chain(NOBODY.format(free_port()), second.url)
    assert 0 < chain.head() <= second.height
    assert len(changes(caplog)) == 1


@pytest.mark.slow
def test_one_of_another_chain_is_refused_by_name_and_never_used(
    first: Endpoint, second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    with Endpoint("another") as other:
        chain = open_chain(first.url, other.url, second.url)
        chain.head()
        first.stand_still()
        goal = max(first.height, second.height) + 30
        Waiter(chain).until_head(goal)
        (line,) = changes(caplog)
        assert f"ws://{second.place} is used" in line
        (refusal,) = [line for line in caplog.messages if "another chain" in line]
        assert f"ws://{other.place} serves another chain" in refusal
        assert "--subtensor.fallback_endpoints" in refusal


def test_a_start_names_a_fallback_of_another_chain(
    first: Endpoint, second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    nobody = NOBODY.format(free_port())
    open_chain(first.url, second.url, nobody).check_fallbacks()
    (line,) = caplog.messages
    assert "--subtensor.fallback_endpoints: the chain at ws://127.0.0.1" in line
    with Endpoint("another") as other:
        chain = open_chain(first.url, second.url, other.url)
        named = rf"fallback_endpoints: ws://{other.place} serves another chain"
        with pytest.raises(ConfigError, match=named):
            chain.check_fallbacks()
    assert "hunter" not in caplog.text


@pytest.mark.slow
def test_a_chain_that_stands_still_everywhere_is_no_change(
    first: Endpoint, second: Endpoint, open_chain, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    chain = open_chain(first.url, second.url)
    chain.head()
    first.stand_still()
    second.stand_still()
    while second.height > first.height:
        first.ledger.seal()
    with pytest.raises(StopIteration):
        Waiter(chain, sleep=_after(40)).until_head(first.height + 1)
    assert changes(caplog) == []


def _after(num_sleeps: int) -> Callable[[float], None]:
    """Sleeps so many times; then StopIteration ends the wait."""
    left = iter(range(num_sleeps))

    def sleep(_seconds: float) -> None:
        next(left)
        time.sleep(0.05)

    return sleep
