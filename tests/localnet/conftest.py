"""A chain without a network for tests of its rules, and one in its own process for the rest."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.support.localnet.ledger import (
    NAMES,
    REPOSITORY,
    ChainProcess,
    Ledger,
    LocalWallet,
    ledger_config,
    populate,
)
from tests.support.waiting import HANG_S


@pytest.fixture(scope="session")
def wallets() -> dict[str, LocalWallet]:
    """The wallets of all endowed accounts, by name."""
    return {name: LocalWallet(name) for name in NAMES}


@pytest.fixture
def make_ledger() -> Callable[..., Ledger]:
    """Build a chain; keyword arguments are fields of SubnetDefaults."""
    return lambda **overrides: Ledger(ledger_config(**overrides))


@pytest.fixture
def ledger(make_ledger: Callable[..., Ledger]) -> Ledger:
    """A chain with every account endowed and no subnet."""
    return make_ledger()


@pytest.fixture
def subnet(ledger: Ledger) -> Ledger:
    """The chain with subnet 1: owner is uid 0, alice, bob and carol are uids 1 to 3."""
    return populate(ledger)


@pytest.fixture
def populated() -> Callable[[Ledger], Ledger]:
    """Turn any fresh ledger into one like `subnet`."""
    return populate


@pytest.fixture(scope="module")
def start_chain() -> Iterator[Callable[..., ChainProcess]]:
    """Start chains with extra flags; all of them are stopped at the end of the module."""
    started: list[subprocess.Popen[str]] = []

    def start(*flags: str) -> ChainProcess:
        endowments = [f"{LocalWallet(name).cold}=100000" for name in NAMES]
        endow = [word for text in endowments for word in ("--endow", text)]
        command = [sys.executable, "-m", "localnet.chain", "--port", "0"]
        process = subprocess.Popen(
            [*command, *endow, *flags], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        started.append(process)
        assert process.stdout is not None
        ready = process.stdout.readline().split()
        assert ready[:1] == ["ready"], f"the chain did not start: {ready}"
        return ChainProcess(url=ready[1], process=process)

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.wait(timeout=HANG_S)
        if process.stdout is not None:
            process.stdout.close()
