"""`python -m localnet.chain`: run a local chain until SIGTERM or SIGINT.

Owns the command line only. One line on standard output, once the port answers:
`ready ws://127.0.0.1:PORT genesis 0x...`. Exit status: 0 it was told to stop; 2 a flag or the
state file is wrong; 1 the port is taken or a block could not be written: a restart may help.
"""

import argparse
import asyncio
import logging
import signal
import sys
import time
from pathlib import Path

import bittensor_core

from localnet.chain.chain import LocalChain, draw_secret
from localnet.chain.config import (
    COMMIT_REVEAL,
    RAO_PER_TAO,
    ChainConfig,
    SubnetDefaults,
)
from localnet.chain.drand import read_pulses
from localnet.chain.journal import Journal, JournalError, open_chain
from localnet.chain.metadata import load_metadata
from localnet.chain.rpc import HOST, RpcServer
from template.cli.parser import Parser
from template.errors import ConfigError

DEV_ACCOUNTS = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
"""The well-known accounts of substrate's development chains: anybody can sign for them."""
DEV_ENDOWMENT_TAO = 1_000_000
_ENDOW_HELP = (
    "balance in block 0, may be given more than once; without any, the development accounts "
    f"//{', //'.join(DEV_ACCOUNTS)} have {DEV_ENDOWMENT_TAO:,} TAO each"
)
_REVEAL_HELP = (
    "off: weights in the clear; on: timelocked commits, as in the public runtime; "
    "modelled: weights in the clear that take effect when a commit of them would have opened"
)
_PACE_HELP = (
    'file {"block_time_s": SECONDS, "hurry_to": BLOCK} that paces this chain in place of '
    "--block-time, read again whenever it changes; up to BLOCK, blocks wait for nothing"
)
_PULSES_HELP = (
    'recorded pulses of drand\'s quicknet, a JSON object {"round": "signature hex"}: without '
    "them, no timelocked commit ever opens here"
)


def build_parser() -> Parser:
    """Every flag of the local chain; defaults of subnets are the public runtime's."""
    subnet, chain = SubnetDefaults(), ChainConfig()
    parser = Parser(
        prog="python -m localnet.chain",
        description="A local subtensor stand-in that the unmodified Bittensor SDK talks to.",
    )
    add = parser.add_argument
    add("--port", type=int, default=9944, help="port on 127.0.0.1; 0 picks a free one")
    add("--state", type=Path, help="file that the chain survives a restart in")
    add("--block-time", type=float, default=chain.block_time_s, help="seconds per block")
    add("--pace", type=Path, metavar="FILE", help=_PACE_HELP)
    add("--finality-lag", type=int, default=chain.finality_lag_blocks, help="blocks behind head")
    add("--seed", help="repeatable block hashes (tests); default: unpredictable ones")
    add("--endow", action="append", default=[], metavar="SS58=TAO", help=_ENDOW_HELP)
    add("--tempo", type=int, default=subnet.tempo_blocks, help="blocks per epoch")
    add("--weights-rate-limit", type=int, default=subnet.weights_rate_limit_blocks)
    add("--immunity-period", type=int, default=subnet.immunity_period_blocks, help="blocks")
    add("--max-uids", type=int, default=subnet.max_uids)
    add("--max-validators", type=int, default=subnet.max_validators)
    add("--min-allowed-weights", type=int, default=subnet.min_allowed_weights)
    add("--min-non-immune-uids", type=int, default=subnet.min_non_immune_uids)
    add("--burn", type=_tao, default=subnet.burn_rao, metavar="TAO", help="first registration")
    add("--network-cost", type=_tao, default=subnet.network_cost_rao, metavar="TAO")
    pace = subnet.network_rate_limit_blocks
    add("--network-rate-limit", type=int, default=pace, help="blocks between two new subnets")
    add("--commit-reveal", choices=COMMIT_REVEAL, default=subnet.commit_reveal, help=_REVEAL_HELP)
    add("--drand-pulses", type=Path, metavar="FILE", help=_PULSES_HELP)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Serve until told to stop; returns the exit status."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s %(levelname)s %(message)s")
    arguments = build_parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        chain, journal = _open(_config(arguments), arguments.state)
    except (ConfigError, JournalError) as error:
        return _failed(error)
    except KeyboardInterrupt:
        return 0
    try:
        asyncio.run(_serve(chain, arguments.port, journal, arguments.pace))
    except (ConfigError, JournalError) as error:
        return _failed(error)
    except OSError as error:
        return _failed(f"--port {arguments.port}: {error.strerror or error}; choose another")
    finally:
        if journal is not None:
            journal.close()
    return 0


def _failed(error: object) -> int:
    """2 for what an operator has to change, else 1."""
    sys.stderr.write(f"error: {error}\n")
    return 2 if isinstance(error, ConfigError) else 1


def _open(config: ChainConfig, path: Path | None) -> tuple[LocalChain, Journal | None]:
    now_ms = time.time_ns() // 1_000_000
    metadata = load_metadata(config.block_time_s)
    if path is not None:
        return open_chain(path, config, metadata, now_ms=now_ms)
    secret = draw_secret(config.seed)
    return LocalChain(config, metadata, secret=secret, now_ms=now_ms), None


async def _serve(chain: LocalChain, port: int, journal: Journal | None, pace: Path | None) -> None:
    on_block = None if journal is None else journal.write_block
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with RpcServer(chain, port, on_block, pace) as server:
        sys.stdout.write(f"ready ws://{HOST}:{server.port} genesis 0x{chain.genesis_hash.hex()}\n")
        sys.stdout.flush()
        waits = {asyncio.create_task(stop.wait()), asyncio.create_task(server.wait_broken())}
        done, pending = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


def _config(arguments: argparse.Namespace) -> ChainConfig:
    return ChainConfig(
        subnet=SubnetDefaults(
            tempo_blocks=arguments.tempo,
            weights_rate_limit_blocks=arguments.weights_rate_limit,
            immunity_period_blocks=arguments.immunity_period,
            max_uids=arguments.max_uids,
            max_validators=arguments.max_validators,
            min_allowed_weights=arguments.min_allowed_weights,
            min_non_immune_uids=arguments.min_non_immune_uids,
            burn_rao=arguments.burn,
            network_cost_rao=arguments.network_cost,
            network_rate_limit_blocks=arguments.network_rate_limit,
            commit_reveal=arguments.commit_reveal,
        ),
        endowments_rao=dict(map(_endowment, arguments.endow)) or _dev_endowments(),
        block_time_s=arguments.block_time,
        finality_lag_blocks=arguments.finality_lag,
        seed=arguments.seed,
        drand_pulses=read_pulses(arguments.drand_pulses) if arguments.drand_pulses else {},
    )


def _dev_endowments() -> dict[str, int]:
    keys = [bittensor_core.Keypair.create_from_uri(f"//{name}") for name in DEV_ACCOUNTS]
    return {str(key.ss58_address): DEV_ENDOWMENT_TAO * RAO_PER_TAO for key in keys}


def _endowment(text: str) -> tuple[str, int]:
    address, _, amount = text.partition("=")
    try:
        bittensor_core.ss58_decode(address)
        return address, _tao(amount)
    except ValueError:
        raise ConfigError(
            f"--endow {text}: give an SS58 address, '=' and a number of TAO"
        ) from None


def _tao(text: str) -> int:
    """Rao of a decimal number of TAO."""
    return round(float(text) * RAO_PER_TAO)


if __name__ == "__main__":
    sys.exit(main())
