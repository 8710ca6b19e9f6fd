"""The model again, from public objects alone, to the bit.

    python -m template.replay --run run.toml --netuid N --subtensor.network NAME
        [--since W] [--out FOLDER] [--audit]

Reads chain and buckets with no wallet and takes part in nothing. It starts from theta_0, or from
the oldest published checkpoint from which buckets still keep every payload, and takes every step
that leads to the root which most of the voting stake votes now. Ends with one line of JSON:
window, root and digest of all tensors, and which validators voted what does not follow, as far
back as the chain's endpoint keeps state. With --audit, their verdict logs too: every loss is
computed again.

Exit status 0 if the replay ends where the majority stands and nothing is found wrong, 1 if
something is, 2 if it cannot be known.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from template.cli.flags import DEFAULT_NETWORK, add_chain_flags
from template.errors import SubnetError
from template.settings import ChainConfig

EXIT_UNKNOWN = 2


def main(argv: Sequence[str]) -> int:
    """0 if it ends where the majority stands, 1 if something is wrong, 2 if it cannot be known."""
    arguments = _parser().parse_args(argv)
    # The chain's library takes a second to load: not for --help.
    from template.commands.replay import ReplayConfig, run_replay

    config = ReplayConfig(
        run=arguments.run,
        chain=ChainConfig(
            netuid=arguments.netuid,
            network=arguments.chain_endpoint or arguments.network or DEFAULT_NETWORK,
        ),
        since=arguments.since,
        out=arguments.out,
        audit=arguments.audit,
    )
    try:
        return run_replay(config, _say, _tell)
    except SubnetError as error:
        _say(f"replay: {error}")
        return EXIT_UNKNOWN
    except KeyboardInterrupt:
        _say("replay: interrupted")
        return EXIT_UNKNOWN


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m template.replay", description=__doc__, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--run", type=Path, required=True, help="the run spec")
    add_chain_flags(parser)
    add("--since", metavar="W", type=int, default=1, help="not from before theta_W (default: 1)")
    add(
        "--out", metavar="FOLDER", type=Path, help="write the model there, as from_pretrained reads"
    )
    add("--audit", action="store_true", help="compute the losses of every validator's logs again")
    return parser


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
