"""Faults planted into settings in which everything else is right, for the doctor to find."""

import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from localnet.buckets import BucketServer
from localnet.proxy import HttpProxy, Trouble
from template.base.preflight import claimed
from template.cli.plan_flags import read_plan_or_spec
from tests.support.faketime import clock_library, clock_off
from tests.support.faults.subnet import ROOT, NodeStart, Subnet
from tests.support.relay import free_port

SLOW_CHECKS = "inner step,codec"
"""Left out of most rows: neither asks chain or bucket."""


@dataclass
class Patient:
    """How the doctor is called: a neuron's start with a fault, and more for the process."""

    node: NodeStart
    without: str = SLOW_CHECKS
    env: dict[str, str] | None = None
    """More variables, for a process of its own."""

    @property
    def argv(self) -> list[str]:
        flags = self.node.flags
        if self.node.role == "owner":
            flags = {k: v for k, v in flags.items() if not k.startswith("--neuron")}
        words = [word for pair in flags.items() for word in pair]
        return [self.node.role, *words, "--without", self.without]


Plant = Callable[[Subnet, Patient, Path, ExitStack], None]


def flags(**values: str) -> Plant:
    def plant(_subnet: Subnet, patient: Patient, _folder: Path, _exit: ExitStack) -> None:
        patient.node.flags |= {f"--{k.replace('__', '.')}": v for k, v in values.items()}

    return plant


def key(purpose: str, which: str, *, second: bool = False) -> Plant:
    """Another key of the bucket for the purpose READ or WRITE."""

    def plant(subnet: Subnet, patient: Patient, _folder: Path, _exit: ExitStack) -> None:
        keys = subnet.second_keys if second else subnet.keys
        found = getattr(keys["node"], which)
        patient.node.env[f"TESSERA_BUCKET_{purpose}_KEY_ID"] = found.access_key_id
        secret = found.secret_access_key.reveal()
        patient.node.env[f"TESSERA_BUCKET_{purpose}_SECRET"] = secret
        patient.node.secrets.add(secret)

    return plant


def no_variable(name: str) -> Plant:
    def plant(_subnet: Subnet, patient: Patient, _folder: Path, _exit: ExitStack) -> None:
        del patient.node.env[name]

    return plant


def unreachable(_subnet: Subnet, patient: Patient, _folder: Path, _exit: ExitStack) -> None:
    patient.node.flags["--subtensor.network"] = f"ws://127.0.0.1:{free_port()}"


def public_bucket(subnet: Subnet, patient: Patient, folder: Path, exit_: ExitStack) -> None:
    """A second server, on which anybody reads the bucket."""
    identity = subnet.keys["node"]
    server = BucketServer(folder / "public", [identity], public=[identity.bucket])
    exit_.enter_context(server)
    server.create_buckets()
    patient.node.env["TESSERA_BUCKET_ENDPOINT"] = server.endpoint_url


def slow_line(subnet: Subnet, patient: Patient, folder: Path, exit_: ExitStack) -> None:
    """A line of 1.2 Mb/s, and a plan with a model of 150 M parameters."""
    proxy = exit_.enter_context(HttpProxy(urlsplit(subnet.server.endpoint_url).port or 0))
    proxy.begin(Trouble(kind="slow", bytes_per_s=150_000))
    patient.node.env["TESSERA_BUCKET_ENDPOINT"] = f"http://127.0.0.1:{proxy.port}"
    large_model("150m")(subnet, patient, folder, exit_)


def large_model(plan: str) -> Plant:
    def plant(subnet: Subnet, patient: Patient, folder: Path, _exit: ExitStack) -> None:
        model = read_plan_or_spec(ROOT / "runs" / f"{plan}.toml").model
        training = replace(subnet.run.spec.training, batch_pages=4)
        spec = replace(subnet.run.spec, model=model, training=training)
        patient.node.flags["--run"] = str(subnet.write_run(spec, folder / "large.toml"))

    return plant


def other_spec(pattern: str, replacement: str) -> Plant:
    def plant(_subnet: Subnet, patient: Patient, folder: Path, _exit: ExitStack) -> None:
        text = patient.node.run_file.read_text()
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count == 1
        path = folder / "other.toml"
        path.write_text(text)
        patient.node.flags["--run"] = str(path)

    return plant


def blocked_folder(_subnet: Subnet, patient: Patient, folder: Path, _exit: ExitStack) -> None:
    (folder / "blocked").write_text("a file where a folder should be")
    patient.node.flags["--neuron.state_dir"] = str(folder / "blocked" / "below")


def folder_in_use(_subnet: Subnet, patient: Patient, _folder: Path, exit_: ExitStack) -> None:
    patient.node.state_dir.mkdir()
    exit_.enter_context(claimed(patient.node.state_dir))


def clock_behind(seconds: int) -> Plant:
    def plant(_subnet: Subnet, patient: Patient, _folder: Path, _exit: ExitStack) -> None:
        if clock_library() is None:
            pytest.skip("libfaketime is not installed")
        patient.env = clock_off(seconds)

    return plant
