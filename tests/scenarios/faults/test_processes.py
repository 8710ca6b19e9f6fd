"""Faults at the start that take time or a process of their own: silence, clocks, signals, quota.

All processes are started together and each row waits for its own. A clock that is off is the
real one: `libfaketime`, preloaded into the neuron alone, shifts the wall clock of the process
(not its monotonic one), while chain and bucket server keep the right time. SeaweedFS then
answers 403 RequestTimeTooSkewed from 15 minutes on, as S3 and R2 do.
"""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from simulation.faults import OperatorFault
from template.chain import Chain
from template.errors import ChainError
from template.protocol.record import Record, encode_record
from tests.support.faketime import clock_library, clock_off
from tests.support.faults.process import NodeProcess, ScriptProcess, assert_discreet
from tests.support.faults.subnet import Subnet
from tests.support.relay import Relay, free_port
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`words` None: nothing at all is printed. `is_refused`: it ends before it goes on chain.
    `process`: the environment of an interpreter of its own. `fault`: if it has a name.
    """

    who: str
    status: int
    words: tuple[str, ...] | None
    flags: dict[str, str] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)
    process: dict[str, str] | None = None
    act: Callable[[NodeProcess], None] = lambda _node: None
    is_refused: bool = True
    fault: OperatorFault | None = None


def stop_when_told(words: str) -> Callable[[NodeProcess], None]:
    """The neuron goes on after what it said, until it is stopped."""

    def act(process: NodeProcess) -> None:
        process.wait_for(words)
        process.signal(signal.SIGTERM)
        process.wait_for("INFO", "interrupted;")

    return act


def stop_at_once(process: NodeProcess) -> None:
    """While it loads its libraries: as soon as the handler of SIGTERM, which is ours, stands."""
    status, term = Path(f"/proc/{process.pid}/status"), 1 << (signal.SIGTERM - 1)

    def is_caught() -> bool:
        line = next(x for x in status.read_text().splitlines() if x.startswith("SigCgt"))
        return bool(int(line.split()[1], 16) & term)

    wait_until(is_caught, describe=lambda: process.output)
    process.signal(signal.SIGINT)


def stop_twice(process: NodeProcess) -> None:
    process.wait_for("starting at theta_1")
    for _ in range(2):
        process.signal(signal.SIGINT)


SKEW = ("TESSERA_BUCKET_ENDPOINT", "clock", "RequestTimeTooSkewed", "timedatectl")
FAULTS = {
    "chain down": Fault(
        fault=OperatorFault.CHAIN_DOWN_AT_START,
        who="a",
        status=1,
        flags={"--subtensor.network": f"ws://127.0.0.1:{free_port()}"},
        words=("ERROR", "the chain at ws://127.0.0.1", "--subtensor.network", "start again later"),
    ),
    "bucket server down": Fault(
        who="b",
        status=1,
        variables={"TESSERA_BUCKET_ENDPOINT": f"http://127.0.0.1:{free_port()}"},
        words=("TESSERA_BUCKET_ENDPOINT", "no usable answer", "start again when"),
    ),
    "clock an hour ahead": Fault(
        fault=OperatorFault.CLOCK_OFF,
        who="c",
        status=2,
        process=clock_off(3600),
        words=(*SKEW, "60 minutes ahead"),
    ),
    "clock ten minutes ahead": Fault(
        who="e",
        status=130,
        process=clock_off(600),
        words=("WARNING", "clock is 10 minutes ahead", "timedatectl", "--subtensor.network"),
        act=stop_when_told("starting at theta_1"),
        is_refused=False,
    ),
    "mirror down": Fault(
        who="joiner",
        status=1,
        words=("--run", "data.mirrors", "theta0_digest", "at http://127.0.0.1:", "no answer"),
    ),
    "chain silent": Fault(
        fault=OperatorFault.CHAIN_DOWN_AT_START,
        who="silent",
        status=1,
        words=("ERROR", "did not answer for 15 s", "--subtensor.network", "start again later"),
    ),
    "commitment quota used up": Fault(
        fault=OperatorFault.COMMITMENT_TOO_LONG,
        who="quota",
        status=130,
        words=("not committed", "--wallet.hotkey", "SpaceLimitExceeded", "until then"),
        act=stop_when_told("not committed"),
        is_refused=False,
    ),
    "stopped while it loads": Fault(who="f", status=130, words=None, process={}, act=stop_at_once),
    "stopped twice": Fault(
        who="g", status=130, words=("starting at theta_1",), act=stop_twice, is_refused=False
    ),
}


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subnet]:
    """A name for each row, so that none hides what another committed."""
    names = [fault.who for fault in FAULTS.values()] + ["dead"]
    with Subnet(
        tmp_path_factory.mktemp("crowd"), names, "--block-time", "0.1", "--tempo", "60000"
    ) as running:
        running.register(*names)
        running.create_buckets("owner", *names)
        running.publish_run(in_blocks=1_000_000)
        use_up_the_quota(running.open_chain("quota"))
        yield running


def use_up_the_quota(chain: Chain) -> None:
    error = ""
    while not error:
        try:
            chain.publish(bytes(300))
        except ChainError as refusal:
            error = refusal.name
    assert error == "SpaceLimitExceeded"


def run_of_a_dead_mirror(subnet: Subnet, path: Path) -> Path:
    """The run, but its only mirror says on chain that its bucket is where nobody listens."""
    access = replace(subnet.access("quota"), account=f"http://127.0.0.1:{free_port()}")
    subnet.open_chain("dead").publish(encode_record(Record(access=access)))
    data = replace(subnet.run.spec.data, mirrors=(subnet.hotkeys["dead"],))
    reader = subnet.open_chain()
    wait_until(lambda: subnet.hotkeys["dead"] in reader.commitments(reader.finalized()))
    return subnet.write_run(replace(subnet.run.spec, data=data), path)


@pytest.fixture(scope="module")
def silent_port(crowd: Subnet) -> Iterator[int]:
    """A relay to the chain that takes connections and passes nothing on."""
    relay = Relay(int(crowd.url.rpartition(":")[2]))
    relay.flowing.clear()
    yield relay.port
    relay.flowing.set()
    relay.refuse()


@pytest.fixture(scope="module")
def processes(
    crowd: Subnet, silent_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, NodeProcess]]:
    """All of them, started together."""
    started = {}
    for name, fault in FAULTS.items():
        if fault.process and clock_library() is None:
            continue
        folder = tmp_path_factory.mktemp(fault.who)
        node = crowd.node("miner", fault.who, folder)
        node.flags |= fault.flags
        node.env |= fault.variables
        if fault.who == "silent":
            node.flags["--subtensor.network"] = f"ws://127.0.0.1:{silent_port}"
        if fault.who == "joiner":
            node.flags["--run"] = str(run_of_a_dead_mirror(crowd, folder / "run.toml"))
        output = folder / "output"
        if fault.process is None:
            started[name] = NodeProcess(node, output)
        else:
            started[name] = ScriptProcess(node, output, fault.process)
        if fault.words is None:
            fault.act(started[name])
    yield started
    for process in started.values():
        process.stop()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_has_one_clear_answer(
    name: str, crowd: Subnet, processes: dict[str, NodeProcess]
) -> None:
    if name not in processes:
        pytest.skip("libfaketime is not installed")
    fault, process = FAULTS[name], processes[name]
    if not fault.is_refused:
        # It logs its start before it goes on chain, and is stopped after both.
        wait_until(lambda: crowd.is_on_chain(fault.who), describe=lambda: process.output)
    if fault.words is not None:
        fault.act(process)
    assert process.end() == fault.status, process.output
    if fault.words is None:
        assert process.output == ""
    else:
        assert len(process.lines(*fault.words)) == 1, process.output
    assert_discreet(process.output, process.node)
    assert crowd.is_on_chain(fault.who) == (not fault.is_refused)
