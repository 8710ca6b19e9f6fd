"""Yuma against recorded runs of the real runtime: epoch after epoch, bonds and dividends."""

import dataclasses

import numpy as np
import pytest

from localnet.chain.yuma import EpochOutputs, YumaParams, run_epoch
from localnet.chain.yuma_math import U16_MAX
from tests.support.localnet.yuma_cases import assert_near_u16, epoch_inputs

# A real runtime (spec version 202) with its default hyperparameters; Yuma 2.
RECORDED_STAKE = [132, 39_241, 26_160, 0, 0, 0]
RECORDED_WEIGHTS = {
    1: {3: 65_535, 4: 20_000, 5: 40_000},
    2: {3: 10_000, 4: 65_535, 5: 65_535},
}


def test_recorded_epoch_of_the_real_runtime():
    out = run_epoch(epoch_inputs(RECORDED_STAKE, RECORDED_WEIGHTS))
    assert_near_u16(out.consensus, [0, 0, 0, 34_212, 10_440, 20_881])
    assert_near_u16(out.incentive, [0, 0, 0, 27_314, 12_740, 25_480])
    assert_near_u16(out.dividends, [0, 47_979, 17_555, 0, 0, 0])
    assert_near_u16(out.validator_trust, [0, 65_534, 35_968, 0, 0, 0])
    assert_near_u16([out.bonds[1][uid] for uid in (3, 4, 5)], [65_535] * 3)
    assert_near_u16([out.bonds[2][uid] for uid in (3, 4, 5)], [5_932, 43_689, 43_689])
    assert out.new_permits == [True, True, True, False, False, False]
    assert sum(out.server_share) == pytest.approx(1.0)
    assert sum(out.validator_share) == pytest.approx(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trajectory:
    """Validators 0 to 2 weigh servers 3, 4 (and 5) over several epochs.

    `named` has one word per epoch, one letter per validator: the servers, by number from 1,
    that it gives equal weight to, joined if there are two. The last word is repeated.
    `bonds` and `dividends` are recorded after an epoch, by its index.
    """

    stakes: tuple[int, int, int]
    named: tuple[str, ...]
    bonds: dict[int, list[list[float]]]
    dividends: dict[int, list[float]]
    params: YumaParams = YumaParams(
        bonds_penalty=0,
        bonds_moving_average=975_000,
        max_allowed_validators=3,
        yuma3=True,
        liquid_alpha=True,
        alpha_low=6_554,
        alpha_high=19_661,
    )

    @property
    def num_servers(self) -> int:
        return len(self.bonds[0][0])

    def weights(self, epoch: int) -> dict[int, dict[int, int]]:
        """Rows as the runtime's tests set them: zeros are set, not left out."""
        word = self.named[min(epoch, len(self.named) - 1)]
        return {
            uid: {2 + s: U16_MAX * (str(s) in named) for s in range(1, self.num_servers + 1)}
            for uid, named in enumerate(word.split("-"))
        }


def listed(*rows: list) -> dict[int, list]:
    return dict(enumerate(rows))


# subtensor, pallets/subtensor/src/tests/epoch/yuma_3.rs: test_yuma_3_kappa_moves_first.
KAPPA_MOVES_FIRST = Trajectory(
    stakes=(8, 1, 1),
    named=("1-1-1", "2-1-1", "2-2-1", "2-2-2"),
    bonds=listed(
        [[0.1013, 0], [0.1013, 0], [0.1013, 0]],
        [[0.0908, 0.1013], [0.3697, 0], [0.3697, 0]],
        [[0.0815, 0.1924], [0.3170, 0.1013], [0.5580, 0]],
        [[0.0731, 0.2742], [0.2765, 0.1924], [0.4306, 0.1013]],
        [[0.0656, 0.3478], [0.2435, 0.2742], [0.3589, 0.1924]],
        [[0.0588, 0.4139], [0.2157, 0.3478], [0.3089, 0.2742]],
    ),
    dividends=listed(
        [0.8, 0.1, 0.1],
        [1, 0, 0],
        [0.9382, 0.0618, 0],
        [0.8819, 0.0773, 0.0407],
        [0.8564, 0.0844, 0.0592],
        [0.8418, 0.0884, 0.0697],
    ),
)
# test_yuma_3_kappa_moves_second
KAPPA_MOVES_SECOND = Trajectory(
    stakes=(8, 1, 1),
    named=("1-1-1", "1-2-1", "2-2-1", "2-2-2"),
    bonds=listed(
        [[0.1013, 0], [0.1013, 0], [0.1013, 0]],
        [[0.1924, 0], [0.0908, 0.2987], [0.1924, 0]],
        [[0.1715, 0.1013], [0.0815, 0.3697], [0.4336, 0]],
        [[0.1531, 0.1924], [0.0731, 0.4336], [0.3608, 0.1013]],
        [[0.1369, 0.2742], [0.0656, 0.4910], [0.3103, 0.1924]],
        [[0.1225, 0.3478], [0.0588, 0.5426], [0.2712, 0.2742]],
    ),
    dividends=listed(
        [0.8, 0.1, 0.1],
        [0.8446, 0.0498, 0.1056],
        [0.6868, 0.3132, 0],
        [0.7421, 0.2090, 0.0489],
        [0.7625, 0.1706, 0.0669],
        [0.7730, 0.1508, 0.0762],
    ),
)
# test_yuma_3_kappa_moves_last
KAPPA_MOVES_LAST = Trajectory(
    stakes=(8, 1, 1),
    named=("1-1-1", "1-2-1", "1-2-2", "2-2-2"),
    bonds=listed(
        [[0.1013, 0], [0.1013, 0], [0.1013, 0]],
        [[0.1924, 0], [0.0908, 0.2987], [0.1924, 0]],
        [[0.2742, 0], [0.0815, 0.5081], [0.1715, 0.2987]],
        [[0.2416, 0.1013], [0.0731, 0.5580], [0.1531, 0.3697]],
        [[0.2141, 0.1924], [0.0656, 0.6028], [0.1369, 0.4336]],
        [[0.1903, 0.2742], [0.0588, 0.6430], [0.1225, 0.4910]],
    ),
    dividends=listed(
        [0.8, 0.1, 0.1],
        [0.8446, 0.0498, 0.1056],
        [0.8966, 0.0333, 0.0701],
        [0.4663, 0.3210, 0.2127],
        [0.5976, 0.2340, 0.1683],
        [0.6592, 0.1932, 0.1475],
    ),
)
# test_yuma_3_one_epoch_switch
ONE_EPOCH_SWITCH = Trajectory(
    stakes=(33, 33, 34),
    named=("1-1-1", "1-1-1", "1-1-2", "1-1-1"),
    bonds=listed(
        [[0.1013, 0], [0.1013, 0], [0.1013, 0]],
        [[0.1924, 0], [0.1924, 0], [0.1924, 0]],
        [[0.2742, 0], [0.2742, 0], [0.1715, 0.2987]],
        [[0.3478, 0], [0.3478, 0], [0.2554, 0.2618]],
        [[0.4139, 0], [0.4139, 0], [0.3309, 0.2312]],
        [[0.4733, 0], [0.4733, 0], [0.3987, 0.2051]],
    ),
    dividends=listed(
        [0.33, 0.33, 0.34],
        [0.33, 0.33, 0.34],
        [0.3782, 0.3782, 0.2436],
        [0.3628, 0.3628, 0.2745],
        [0.3541, 0.3541, 0.2917],
        [0.3487, 0.3487, 0.3026],
    ),
)
# test_yuma_3_liquid_alpha_disabled
LIQUID_ALPHA_DISABLED = Trajectory(
    stakes=(33, 33, 34),
    named=ONE_EPOCH_SWITCH.named,
    bonds=listed(
        [[0.0250, 0], [0.0250, 0], [0.0250, 0]],
        [[0.0494, 0], [0.0494, 0], [0.0494, 0]],
        [[0.0731, 0], [0.0731, 0], [0.0481, 0.0250]],
        [[0.0963, 0], [0.0963, 0], [0.0719, 0.0244]],
        [[0.1189, 0], [0.1189, 0], [0.0951, 0.0238]],
        [[0.1409, 0], [0.1409, 0], [0.1178, 0.0232]],
    ),
    dividends=listed(
        [0.33, 0.33, 0.34],
        [0.33, 0.33, 0.34],
        [0.3734, 0.3734, 0.2532],
        [0.3611, 0.3611, 0.2779],
        [0.3541, 0.3541, 0.2919],
        [0.3495, 0.3495, 0.3009],
    ),
    params=dataclasses.replace(KAPPA_MOVES_FIRST.params, liquid_alpha=False),
)
# test_yuma_3_stable_miner
STABLE_MINER = Trajectory(
    stakes=(8, 1, 1),
    named=("13-13-13", "13-23-13", "23-23-13", "23-23-23"),
    bonds=listed(
        [[0.0507, 0, 0.0507], [0.0507, 0, 0.0507], [0.0507, 0, 0.0507]],
        [[0.0962, 0, 0.0962], [0.0455, 0.1000, 0.0962], [0.0962, 0, 0.0962]],
        [[0.0863, 0.0507, 0.1371], [0.0408, 0.1405, 0.1371], [0.1770, 0, 0.1371]],
        [[0.0774, 0.0962, 0.1739], [0.0367, 0.1770, 0.1739], [0.1579, 0.0507, 0.1739]],
        [[0.0694, 0.1371, 0.2069], [0.0329, 0.2097, 0.2069], [0.1411, 0.0962, 0.2069]],
        [[0.0623, 0.1739, 0.2366], [0.0296, 0.2391, 0.2366], [0.1263, 0.1371, 0.2366]],
    ),
    dividends=listed(
        [0.8, 0.1, 0.1],
        [0.8226, 0.0745, 0.1028],
        [0.7750, 0.1685, 0.0565],
        [0.7864, 0.1372, 0.0764],
        [0.7912, 0.1241, 0.0847],
        [0.7937, 0.1173, 0.0890],
    ),
)
# test_yuma_3_bonds_reset: before epoch 20 all bonds to the first server are wiped.
RESET_EPOCH, RESET_UID = 20, 3
BONDS_RESET = Trajectory(
    stakes=(8, 1, 1),
    named=("1-1-1", "1-2-2", *("2-2-2",) * 19, "2-1-1", "1-1-1"),
    bonds={
        0: [[0.1013, 0], [0.1013, 0], [0.1013, 0]],
        1: [[0.1924, 0], [0.0908, 0.2987], [0.0908, 0.2987]],
        2: [[0.1715, 0.1013], [0.0815, 0.3697], [0.0815, 0.3697]],
        19: [[0.0269, 0.8539], [0.0131, 0.8975], [0.0131, 0.8975]],
        20: [[0, 0.8687], [0, 0.9079], [0, 0.9079]],
        21: [[0, 0.8820], [0.2987, 0.6386], [0.2987, 0.6386]],
        40: [[0.8687, 0.0578], [0.9079, 0.0523], [0.9079, 0.0523]],
    },
    dividends={
        0: [0.8, 0.1, 0.1],
        1: [0.8944, 0.0528, 0.0528],
        2: [0.5230, 0.2385, 0.2385],
        19: [0.7919, 0.1040, 0.1040],
        20: [0.7928, 0.1036, 0.1036],
        21: [0.8467, 0.0766, 0.0766],
        40: [0.7928, 0.1036, 0.1036],
    },
)
TRAJECTORIES = (
    KAPPA_MOVES_FIRST,
    KAPPA_MOVES_SECOND,
    KAPPA_MOVES_LAST,
    ONE_EPOCH_SWITCH,
    LIQUID_ALPHA_DISABLED,
    STABLE_MINER,
)


def run_trajectory(case: Trajectory, reset_epoch: int | None = None) -> list[EpochOutputs]:
    stakes = [*case.stakes, *[0] * case.num_servers]
    bonds: list[dict[int, int]] = [{} for _ in stakes]
    outputs = []
    for epoch in range(max(case.bonds) + 1):
        if epoch == reset_epoch:
            bonds = [{j: v for j, v in row.items() if j != RESET_UID} for row in bonds]
        inputs = epoch_inputs(stakes, case.weights(epoch), case.params)
        outputs.append(run_epoch(dataclasses.replace(inputs, bonds=bonds)))
        bonds = outputs[-1].bonds
    return outputs


def assert_as_recorded(case: Trajectory, outputs: list[EpochOutputs]) -> None:
    """Within 2e-4: four digits are recorded, and u16 bonds truncate in each of up to 41 epochs."""
    servers = range(3, 3 + case.num_servers)
    for epoch, recorded in case.bonds.items():
        rows = outputs[epoch].bonds[:3]
        stored = [[row.get(server, 0) / U16_MAX for server in servers] for row in rows]
        assert stored == pytest.approx(np.array(recorded), abs=2e-4), epoch
        dividends = np.array(outputs[epoch].dividends[:3]) / U16_MAX
        assert dividends == pytest.approx(np.array(case.dividends[epoch]), abs=2e-4), epoch


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_recorded_yuma3_trajectories(case: Trajectory):
    assert_as_recorded(case, run_trajectory(case))


def test_recorded_yuma3_with_a_reset_of_bonds():
    assert_as_recorded(BONDS_RESET, run_trajectory(BONDS_RESET, RESET_EPOCH))
    with pytest.raises(AssertionError):
        assert_as_recorded(BONDS_RESET, run_trajectory(BONDS_RESET))
