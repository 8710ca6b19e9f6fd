"""What torchrun tells a miner's processes, and what each of them may see."""

import pytest

from template.cli.environment import forget_secrets
from template.cli.torchrun import find_place, without_torchrun
from template.errors import ConfigError
from template.settings import ALONE, Place

TOLD = {
    "RANK": "2",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RESTART_COUNT": "1",
}


def test_a_process_has_the_place_that_torchrun_gave() -> None:
    assert find_place(TOLD) == Place(
        rank=2, size=4, local_rank=0, host="10.0.0.7", port=29500, attempt=1
    )


@pytest.mark.parametrize("env", [{}, TOLD | {"RANK": "0", "WORLD_SIZE": "1"}])
def test_a_process_alone_pays_nothing(env: dict[str, str]) -> None:
    assert find_place(env) is ALONE


@pytest.mark.parametrize(
    ("env", "named"),
    [
        ({"RANK": "0"}, "WORLD_SIZE, LOCAL_RANK, MASTER_PORT, MASTER_ADDR"),
        (TOLD | {"RANK": "4"}, "rank 4 of 4"),
        (TOLD | {"LOCAL_RANK": "x"}, "LOCAL_RANK"),
    ],
)
def test_a_wrong_place_is_named(env: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        find_place(env)


def test_only_what_torchrun_sets_is_taken() -> None:
    assert without_torchrun([*TOLD, "ACCELERATE_USE_FSDP", "TORCHINDUCTOR_X"]) == [
        "ACCELERATE_USE_FSDP",
        "TORCHINDUCTOR_X",
    ]


def test_other_ranks_forget_the_keys() -> None:
    env = {"TESSERA_BUCKET_WRITE_SECRET": "a", "TESSERA_R2_ACCOUNT_ID": "b", "WANDB_API_KEY": "c"}
    env |= {"BT_WALLET_PASSWORD": "e", "BT_PW__HOME_ME_WALLETS_MINE": "f", "PATH": "d"}
    forget_secrets(env)
    assert env == {"PATH": "d"}
