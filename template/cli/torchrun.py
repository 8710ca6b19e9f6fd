"""What torchrun tells each of the equal processes (ranks) of a neuron, by environment variables."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from template.errors import ConfigError
from template.settings import ALONE, Place

RANK: Final = "RANK"
WORLD_SIZE: Final = "WORLD_SIZE"
_OPTIONAL: Final = {"attempt": "TORCHELASTIC_RESTART_COUNT"}
_NEEDED: Final = {
    "rank": RANK,
    "size": WORLD_SIZE,
    "local_rank": "LOCAL_RANK",
    "port": "MASTER_PORT",
}
_HOST: Final = "MASTER_ADDR"
_OF_TORCHRUN: Final = re.compile(
    "(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_.*"
    "|TORCH_NCCL_ASYNC_ERROR_HANDLING"
)


def find_place(env: Mapping[str, str]) -> Place:
    """The place that torchrun gave to this process, or alone; ConfigError if malformed."""
    if RANK not in env and WORLD_SIZE not in env:
        return ALONE
    missing = [name for name in (*_NEEDED.values(), _HOST) if name not in env]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)}: not set, but {RANK} or {WORLD_SIZE} is; torchrun sets all of "
            "them. Start a neuron of many ranks by torchrun, or unset them all"
        )
    numbers = {field: _number(env, name) for field, name in _NEEDED.items()}
    numbers |= {field: _number(env, name) for field, name in _OPTIONAL.items() if name in env}
    place = Place(host=env[_HOST], **numbers)
    if not 0 <= place.rank < place.size:
        raise ConfigError(f"{RANK}: rank {place.rank} of {place.size}; torchrun counts from 0")
    return ALONE if place.is_alone else place


def _number(env: Mapping[str, str], name: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", env[name]) is None:
        raise ConfigError(f"{name}: not a number; torchrun sets this variable")
    return int(env[name])


def without_torchrun(names: Iterable[str]) -> list[str]:
    """The names that torchrun does not set."""
    return [name for name in names if _OF_TORCHRUN.fullmatch(name) is None]
