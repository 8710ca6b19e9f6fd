"""One subnet from its creation to its weights, by the unmodified btcli against a chain process."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bittensor as bt
import pytest

from tests.support.localnet.btcli import (
    U16_MAX,
    Btcli,
    metagraph_by_btcli,
    report_differences,
    run_script,
    weight_rows,
    weights_by_btcli,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow  # starting btcli takes ten seconds

OWNER, VALIDATOR, MINER, POOR = "owner", "validator", "miner", "poor"
ROLES = (OWNER, VALIDATOR, MINER)
NETUID, ON_SUBNET = "1", ("--netuid", "1")
RATE_LIMIT_BLOCKS, TEMPO_BLOCKS = 80, 40
SUBNET_COST_TAO, ENDOWMENT_TAO = 1000, 10_000
STAKE_TAO, PRICE_TAO = 500, 0.1
ROW = ("--uids", "2,0", "--weights", "0.75,0.25")
FLAGS = (
    *("--block-time", "0.05", "--network-cost", str(SUBNET_COST_TAO), "--burn", str(PRICE_TAO)),
    *("--tempo", str(TEMPO_BLOCKS), "--weights-rate-limit", str(RATE_LIMIT_BLOCKS)),
)
# The story is told on machines that do other work too.


@dataclass(frozen=True, kw_only=True)
class Subnet:
    """A chain with the subnet of the story, btcli and the SDK on it, and its people's keys."""

    cli: Btcli
    sdk: Any
    url: str
    home: Path
    cold: dict[str, str]
    hot: dict[str, str]


def signed_by(name: str) -> tuple[str, ...]:
    return "-w", name, "-H", "default"


def wallet_create(name: str) -> tuple[str, ...]:
    return "wallet", "create", *signed_by(name), "--no-password"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """HOME of btcli and, for its caches, of the SDK in this process."""
    path = tmp_path_factory.mktemp("operator")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(path))
        yield path


@pytest.fixture(scope="module")
def cli(home: Path) -> Iterator[Btcli]:
    btcli = Btcli(home)
    yield btcli
    btcli.close()


@pytest.fixture(scope="module")
def cold(cli: Btcli) -> dict[str, str]:
    """Everyone's wallet, made before there is a chain."""
    return {name: cli.json(*wallet_create(name))["coldkey_ss58"] for name in ROLES}


@pytest.fixture(scope="module")
def subnet(
    home: Path, cli: Btcli, cold: dict[str, str], start_chain: Callable[..., Any]
) -> Iterator[Subnet]:
    """Subnet 1: owner is uid 0, a validator with stake and a permit uid 1, a miner uid 2."""
    endow = ("--endow", f"{cold[OWNER]}={ENDOWMENT_TAO}")
    url = start_chain(*FLAGS, *endow).url
    cli.endpoint = url
    listed = cli.json("wallet", "list")["coldkeys"]
    hot = {wallet["coldkey"]: wallet["hotkeys"][0]["ss58"] for wallet in listed}
    with bt.Subtensor(network=url, fallback_endpoints=[], archive_endpoints=[]) as sdk:
        story = Subnet(cli=cli, sdk=sdk, url=url, home=home, cold=cold, hot=hot)
        _found(story)
        _join(story)
        yield story


def _found(story: Subnet) -> None:
    created = story.cli.submit("subnets", "create", *signed_by(OWNER))
    assert created["data"]["netuid"] == 1
    assert created["data"]["registration_price_rao"] == SUBNET_COST_TAO * 10**9
    story.cli.submit("hparams", "start", *ON_SUBNET, *signed_by(OWNER))


def _join(story: Subnet) -> None:
    """Fund and register validator and miner; the validator stakes and waits for its permit."""
    for name, amount_tao in ((VALIDATOR, 1000), (MINER, 5)):
        amount = ("--amount-tao", str(amount_tao))
        story.cli.submit("wallet", "transfer", "--dest", name, *amount, *signed_by(OWNER))
        story.cli.submit("subnets", "register", *ON_SUBNET, *signed_by(name))
    amount = ("--amount-tao", str(STAKE_TAO))
    story.cli.submit("stake", "add", *ON_SUBNET, *amount, *signed_by(VALIDATOR))
    wait_until(lambda: story.sdk.subnets.metagraph(1).neurons[1].validator_permit)


def test_the_subnet_is_listed_and_shown(subnet: Subnet) -> None:
    root, listed = subnet.cli.json("subnets", "list")
    assert (root["netuid"], root["neurons"]) == (0, 0)
    assert (listed["netuid"], listed["neurons"], listed["tempo"]) == (1, 3, TEMPO_BLOCKS)
    assert listed["price_tao_per_alpha"] == 1.0
    shown = subnet.cli.json("subnets", "show", NETUID)
    assert shown["owner_coldkey"] == subnet.cold[OWNER]
    assert shown["owner_hotkey"] == subnet.hot[OWNER]
    assert shown["neurons"] == 3


def test_a_wallet_shows_what_its_owner_has(subnet: Subnet) -> None:
    validator = subnet.cli.json("wallet", "inspect", *signed_by(VALIDATOR))
    spent_tao = STAKE_TAO + PRICE_TAO
    assert validator["balance"]["free_tao"] == pytest.approx(1000 - spent_tao, abs=0.05)
    (stake,) = validator["stakes"]
    assert (stake["netuid"], stake["hotkey"]) == (1, subnet.hot[VALIDATOR])
    assert stake["stake_amount"] >= STAKE_TAO
    (owner,) = subnet.cli.json("wallet", "registrations", *signed_by(OWNER))
    (registered,) = owner["hotkeys"][0]["registrations"]
    assert (registered["netuid"], registered["uid"]) == (1, 0)


def test_the_owner_reads_and_sets_hyperparameters(subnet: Subnet) -> None:
    before = subnet.cli.json("hparams", "get", *ON_SUBNET)
    assert (before["tempo"], before["weights_rate_limit"]) == (TEMPO_BLOCKS, RATE_LIMIT_BLOCKS)
    assert before["min_allowed_weights"] == 1
    change = (*ON_SUBNET, "--name", "immunity_period", "--value", "77")
    stranger = set_when_thawed(subnet.cli, *change, *signed_by(MINER))
    assert stranger.refusal["name"] == "BadOrigin"
    assert stranger.refusal["code"] == "not_authorized"
    assert set_when_thawed(subnet.cli, *change, *signed_by(OWNER)).value["success"]
    assert subnet.cli.json("hparams", "get", *ON_SUBNET)["immunity_period"] == 77
    assert subnet.sdk.hyperparameters.immunity_period(netuid=1) == 77


def set_when_thawed(cli: Btcli, *words: str) -> Any:
    """`hparams set`; the chain takes none in the last ten blocks before an epoch."""
    for _ in range(10):
        ran = cli.run("hparams", "set", *words, "-y", "--json")
        frozen = ran.status == 1 and ran.refusal["code"] == "too_early"
        if not frozen:
            return ran
    raise AssertionError("the subnet was frozen ten times in a row")


def test_an_axon_is_published(subnet: Subnet) -> None:
    where = ("--ip", "203.0.113.7", "--port", "8091")
    subnet.cli.submit("axon", "set", *ON_SUBNET, *where, *signed_by(MINER))
    neurons = subnet.sdk.subnets.metagraph(1).neurons
    assert [neuron.axon for neuron in neurons] == [None, None, "203.0.113.7:8091"]


STAKE_ADD = ("stake", "add", *ON_SUBNET, "--amount-tao")
REFUSALS = {
    "a stake that the wallet does not hold": (
        (*STAKE_ADD, "100000", *signed_by(MINER)),
        ("NotEnoughBalanceToStake", "insufficient_balance"),
    ),
    "a transfer that the wallet does not hold": (
        ("wallet", "transfer", "--dest", OWNER, "--amount-tao", "100000", *signed_by(MINER)),
        ("FundsUnavailable", "insufficient_balance"),
    ),
    "a hotkey that is registered": (
        ("subnets", "register", *ON_SUBNET, *signed_by(MINER)),
        ("HotKeyAlreadyRegisteredInSubNet", "already_exists"),
    ),
    "a subnet that does not exist": (
        ("subnets", "register", "--netuid", "7", *signed_by(MINER)),
        ("SubnetNotExists", "subnet_not_exists"),
    ),
    "a start by someone else": (
        ("hparams", "start", *ON_SUBNET, *signed_by(MINER)),
        ("BadOrigin", "not_authorized"),
    ),
    "a second start": (
        ("hparams", "start", *ON_SUBNET, *signed_by(OWNER)),
        ("FirstEmissionBlockNumberAlreadySet", "already_exists"),
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_runtimes_error(subnet: Subnet, case: str) -> None:
    words, (name, code) = REFUSALS[case]
    refusal = subnet.cli.refuse(*words)
    assert (refusal["name"], refusal["code"]) == (name, code)
    assert refusal["remediation"]


def test_weights_of_an_unregistered_hotkey_are_refused(subnet: Subnet) -> None:
    subnet.cli.run("wallet", "new-hotkey", "-w", MINER, "-H", "spare", "--json")
    row = ("--uids", "0", "--weights", "1", "-w", MINER, "-H", "spare")
    refusal = subnet.cli.refuse("weights", "set", *ON_SUBNET, *row)
    assert refusal["code"] == "not_registered"


@pytest.fixture(scope="module")
def weighed(subnet: Subnet) -> Subnet:
    """The subnet once the validator has weighed the miner 3 to the owner's 1, and was paid.

    Last, for it has to wait until the chain takes weights of a new hotkey.
    """
    sdk = subnet.sdk
    wait_until(lambda: sdk.epochs.blocks_since_last_update(netuid=1, uid=1) > RATE_LIMIT_BLOCKS)
    subnet.cli.submit("weights", "set", *ON_SUBNET, *ROW, *signed_by(VALIDATOR))
    return subnet


def test_query_metagraph_shows_keys_stakes_and_incentives(weighed: Subnet) -> None:
    wait_until(lambda: weighed.sdk.subnets.metagraph(1).neurons[2].incentive > 0)
    shown = weighed.cli.json("query", "metagraph", *ON_SUBNET)
    same = weighed.sdk.at(shown["block"]).subnets.metagraph(1)
    assert shown["num_uids"] == 3
    assert shown["hotkeys"] == same.hotkeys == [weighed.hot[name] for name in ROLES]
    assert shown["coldkeys"] == [weighed.cold[name] for name in ROLES]
    assert shown["validator_permit"] == [neuron.validator_permit for neuron in same]
    assert shown["total_stake"] == [neuron.total_stake.rao for neuron in same]
    assert shown["total_stake"][1] >= STAKE_TAO * 10**9
    # One validator: its row is the consensus, and incentives are its shares.
    incentives = [value / U16_MAX for value in shown["incentives"]]
    assert incentives == pytest.approx([0.25, 0.0, 0.75], abs=1e-4)
    assert shown["dividends"][1] == U16_MAX
    assert (shown["rank"], shown["trust"]) == ([], [])


def test_query_weights_shows_the_rows_that_a_report_is_made_of(weighed: Subnet) -> None:
    rows = weight_rows(weighed.cli.json("query", "weights", *ON_SUBNET))
    assert rows == {1: {2: pytest.approx(0.75, abs=1e-4), 0: pytest.approx(0.25, abs=1e-4)}}
    assert rows == weighed.sdk.weights.weights(netuid=1)
    wait_until(lambda: weighed.sdk.subnets.metagraph(1).neurons[2].incentive > 0)
    graph = weighed.cli.json("query", "metagraph", *ON_SUBNET)
    shares = {OWNER: 0.25, VALIDATOR: 0.0, MINER: 0.75}
    neurons: list[dict[str, Any]] = [
        {"name": name, "uid": uid, "hotkey": weighed.hot[name], "weight": w, "incentive": w}
        for uid, (name, w) in enumerate(shares.items())
    ]
    assert report_differences({"neurons": neurons}, rows, graph) == []
    neurons[0]["hotkey"], neurons[1]["weight"] = weighed.hot[MINER], 0.001
    neurons[2]["incentive"] = 0.7
    found = report_differences({"neurons": neurons}, rows, graph)
    assert [text.split()[0] for text in found] == [f"{name}:" for name in ROLES]


def test_weights_that_come_too_soon_are_refused(weighed: Subnet) -> None:
    row = (*ON_SUBNET, *ROW, *signed_by(VALIDATOR))
    # The first may be due by now; then the second is not.
    results = [weighed.cli.run("weights", "set", *row, "-y", "--json") for _ in range(2)]
    refusal = results[-1].refusal
    assert refusal["code"] == "rate_limited"
    assert f"the rate limit is {RATE_LIMIT_BLOCKS} blocks" in refusal["message"]


@pytest.mark.slow
def test_a_fork_says_what_the_installed_script_says(subnet: Subnet) -> None:
    for words in (
        ("hparams", "get", *ON_SUBNET, "--json"),
        ("wallet", "registrations", *signed_by(MINER)),
        ("subnets", "show", "9", "--json"),
        ("stake", "add", "--netuid", "no-number"),
        ("hparams", "set", *ON_SUBNET, "--name", "nonsense", "--value", "1", "-y", "--json"),
    ):
        script = run_script(*words, home=subnet.home, endpoint=subnet.url)
        assert subnet.cli.run(*words) == script
        assert script.out or script.err
    graph = metagraph_by_btcli(subnet.url, 1, subnet.home)
    assert graph["hotkeys"] == [subnet.hot[name] for name in ROLES]
    rows = weights_by_btcli(subnet.url, 1, subnet.home)
    assert rows == weight_rows(subnet.cli.json("query", "weights", *ON_SUBNET))


@pytest.mark.slow
def test_the_installed_script_makes_a_wallet(home: Path, cli: Btcli) -> None:
    made = run_script(*wallet_create("by-script"), "--json", home=home).value
    listed = {wallet["coldkey"]: wallet for wallet in cli.json("wallet", "list")["coldkeys"]}
    assert listed["by-script"]["ss58"] == made["coldkey_ss58"]


@pytest.mark.slow
def test_weights_are_committed_where_commit_reveal_is_on(
    home: Path, cold: dict[str, str], start_chain: Callable[..., Any]
) -> None:
    endow = ("--endow", f"{cold[OWNER]}={ENDOWMENT_TAO}")
    cli = Btcli(home, start_chain(*FLAGS, "--commit-reveal", "on", *endow).url)
    cli.submit("subnets", "create", *signed_by(OWNER))
    cli.submit("hparams", "start", *ON_SUBNET, *signed_by(OWNER))
    row = (*ON_SUBNET, "--uids", "0", "--weights", "1", *signed_by(OWNER))
    ran = cli.run("weights", "set", *row, "-y", "--json")
    while ran.status == 1 and ran.refusal["code"] == "rate_limited":
        ran = cli.run("weights", "set", *row, "-y", "--json")
    assert ran.value["data"]["reveal_round"] > 0
    assert cli.json("query", "weights", *ON_SUBNET) == {}
    (commits,) = cli.json("query", "timelocked-weight-commits", *ON_SUBNET).values()
    assert len(commits) == 1
    cli.close()
