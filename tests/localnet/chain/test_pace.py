"""The pace file: a chain hurries, slows down and starts again by it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from localnet.chain.__main__ import main
from localnet.chain.pace import Pace, PaceFile, write_pace
from localnet.chain.rpc import RpcServer
from template.errors import ConfigError
from tests.support.localnet.ledger import Ledger
from tests.support.waiting import HANG_S

SLOW_S = 60.0
"""No block in the time of a test, unless the chain hurries."""


async def reach(chain: object, block: int) -> None:
    async with asyncio.timeout(HANG_S):
        while chain.head.header.number < block:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)


def test_a_hurry_ends_at_its_block_and_a_new_pace_needs_no_old_block(
    ledger: Ledger, tmp_path: Path
) -> None:
    """The chain is in the middle of a block of a minute when the file changes."""
    path, chain = tmp_path / "pace", ledger.chain
    first = chain.head.header.number
    write_pace(path, Pace(block_time_s=SLOW_S, hurry_to=first + 30))

    async def scenario() -> None:
        async with RpcServer(chain, 0, pace=path):
            await reach(chain, first + 30)
            for _ in range(20):
                await asyncio.sleep(0.01)
            assert chain.head.header.number == first + 30
            write_pace(path, Pace(block_time_s=SLOW_S, hurry_to=first + 40))
            await reach(chain, first + 40)
            write_pace(path, Pace(block_time_s=0.01))
            await reach(chain, first + 50)

    asyncio.run(scenario())


def test_a_chain_in_a_hurry_answers_between_two_blocks(ledger: Ledger, tmp_path: Path) -> None:
    path, chain = tmp_path / "pace", ledger.chain
    write_pace(path, Pace(block_time_s=SLOW_S, hurry_to=10**6))

    async def scenario() -> int:
        async with RpcServer(chain, 0, pace=path):
            begun = chain.head.header.number
            for _ in range(50):  # each is a turn of the loop for somebody else
                await asyncio.sleep(0)
            return chain.head.header.number - begun

    assert 0 < asyncio.run(scenario()) <= 60


def test_a_restarted_chain_has_the_pace_of_before(
    start_chain: Callable[..., object], tmp_path: Path
) -> None:
    path, journal = tmp_path / "pace", tmp_path / "journal"
    flags = ("--block-time", "60", "--state", str(journal), "--pace", str(path))

    def wait_for(lines: int) -> None:
        """The journal has a line of flags, then one for each block."""
        process = chain.process  # type: ignore[attr-defined]
        while len(journal.read_bytes().splitlines()) < lines:
            assert process.poll() is None

    write_pace(path, Pace(block_time_s=SLOW_S, hurry_to=10))
    chain = start_chain(*flags)
    wait_for(12)
    chain.process.kill()  # type: ignore[attr-defined]
    chain.process.wait(HANG_S)  # type: ignore[attr-defined]
    write_pace(path, Pace(block_time_s=SLOW_S, hurry_to=20))
    chain = start_chain(*flags)
    wait_for(22)
    assert len(journal.read_bytes().splitlines()) == 22


def test_without_a_file_the_usual_pace_counts(tmp_path: Path) -> None:
    usual = Pace(block_time_s=1.5)
    assert PaceFile(None, usual).current() == usual
    file = PaceFile(tmp_path / "pace", usual)
    assert file.current() == usual
    write_pace(tmp_path / "pace", Pace(block_time_s=0.5, hurry_to=7))
    assert file.current() == Pace(block_time_s=0.5, hurry_to=7)
    (tmp_path / "pace").unlink()
    assert file.current() == usual
    assert [usual.after(7), file.current().after(0)] == [1.5, 1.5]
    assert [Pace(block_time_s=0.5, hurry_to=7).after(head) for head in (6, 7)] == [0.0, 0.5]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "5", '{"block_time_s": 1}', '{"block_time_s": 0, "hurry_to": 0}',
     '{"block_time_s": NaN, "hurry_to": 0}', '{"block_time_s": "x", "hurry_to": 0}'],
)  # fmt: skip
def test_a_file_that_is_no_pace_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pace"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"--pace {path}"):
        PaceFile(path, Pace(block_time_s=1.0)).current()


def test_a_chain_that_finds_no_pace_in_its_file_ends_for_an_operator(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pace"
    path.write_text("fast")
    assert main(["--port", "0", "--pace", str(path)]) == 2
    assert f"--pace {path}" in capsys.readouterr().err
