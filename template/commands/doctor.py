"""`tessera doctor`: the checks of a role, a line each, and the support archive."""

import platform
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from template import __spec_version__, __version__
from template.base.log_publisher import LOG_FILE
from template.cli.doctor_flags import DoctorConfig
from template.cli.process_state import hide_memory
from template.cli.signals import STOP_LIMIT_S, unwind_on_signals
from template.cli.terminal import complain, say, say_json
from template.commands.doctor_chain import ChainChecks, Known
from template.commands.doctor_here import HereChecks
from template.doctor.bundle import (
    MAX_FILE_BYTES,
    Member,
    as_json,
    listing,
    pack,
    tail,
    write_archive,
)
from template.doctor.checks import CHECKS, examine
from template.doctor.findings import Finding, Report, summary, to_json
from template.doctor.redaction import Censor, secrets_of_key_file
from template.errors import EXIT_INTERRUPTED, EXIT_OPERATOR, ConfigError
from template.metrics import EVENTS_FILE
from template.protocol.spec import spec_to_toml
from template.secret import Secret
from template.settings import NeuronConfig

LIBRARIES: Final = (
    "tessera-subnet", "torch", "bittensor", "bittensor-core", "transformers", "accelerate",
    "numpy", "numba", "boto3", "botocore", "safetensors", "tokenizers", "prometheus-client",
    "wandb", "rich",
)  # fmt: skip
KEY_FILES: Final = ("hotkeys/{hotkey}", "coldkey")
PUBLIC_OF_KEY_FILE: Final = ("accountId", "publicKey", "ss58Address")
_MARKS: Final = {"ok": "ok    ", "warn": "warn  ", "fail": "FAIL  ", "skipped": "-     "}


def run_doctor(config: DoctorConfig) -> int:
    """Make the checks and print them; the exit status: 1 if a check failed."""
    unwind_on_signals(limit_s=STOP_LIMIT_S)
    hide_memory()
    try:
        report = _examined(config)
        if config.bundle is not None:
            write_bundle(config, report)
    except ConfigError as error:
        complain(f"doctor: {error}")
        return EXIT_OPERATOR
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return report.status


def _examined(config: DoctorConfig) -> Report:
    found = []
    for finding in examinations(config):
        found.append(finding)
        if not config.is_json:
            say(line_of(finding))
    report = Report(role=config.role, version=__version__, findings=tuple(found))
    if config.is_json:
        say_json(to_json(report))
    else:
        say(summary(report))
    return report


def examinations(config: DoctorConfig) -> Iterator[Finding]:
    """The findings of a role's checks as they come, without a secret; the chain is closed after."""
    known, censor = Known(), Censor(known_secrets(config))
    makers = ChainChecks(config, known).makers() | HereChecks(config, known).makers()
    try:
        for found in examine(CHECKS[config.role], makers, without=config.without):
            # A library's error may quote what it was given.
            yield replace(found, said=censor.clean(found.said), remedy=censor.clean(found.remedy))
    finally:
        if known.chain is not None:
            known.chain.close()


def line_of(finding: Finding) -> str:
    """A finding as a line for a person."""
    return f"{_MARKS[finding.state]}{finding.name:<15}{finding.line}"


def write_bundle(config: DoctorConfig, report: Report) -> None:
    """Write the support archive of --bundle; ConfigError if a secret is found in it."""
    if config.bundle is None:
        return
    data = pack(list(_members(config, report)), Censor(known_secrets(config)))
    write_archive(config.bundle, data)
    complain(f"written to {config.bundle}, {len(data):,} bytes, without secrets")


def known_secrets(config: DoctorConfig) -> list[Secret]:
    """Every secret that this node can read: of the environment, of the wallet, and endpoints."""
    found = list(config.secrets)
    if not isinstance(config.bucket, ConfigError):
        found += [config.bucket.write.secret, config.bucket.read.secret]
    folder = config.wallet.path.expanduser() / config.wallet.name
    for pattern in KEY_FILES:
        file = folder / pattern.format(hotkey=config.wallet.hotkey)
        text = _text_of(file)
        found += [] if text is None else secrets_of_key_file(text, PUBLIC_OF_KEY_FILE)
    return found


def _text_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("utf-8", "replace")
    except OSError:
        return None


def _members(config: DoctorConfig, report: Report) -> Iterator[Member]:
    yield as_json("doctor.json", to_json(report))
    yield as_json("versions.json", versions())
    yield Member(name="command.txt", text=f"tessera doctor {config.role}\n")
    # The spec as it was understood, never the file itself: --run may name the env file by mistake.
    if not isinstance(config.spec, ConfigError):
        yield Member(name="run.toml", text=spec_to_toml(config.spec))
    neuron = config.neuron
    if isinstance(neuron, NeuronConfig):
        yield Member(name="state/listing.txt", text=listing(neuron.state_dir))
        for name in (EVENTS_FILE, LOG_FILE):
            yield Member(name=f"state/{name}", text=tail(neuron.state_dir / name))
    if config.logging_dir is not None:
        name = f"{config.role}.log"
        yield Member(name=f"log/{name}", text=tail(config.logging_dir / name))


def versions() -> dict[str, object]:
    """Versions of this project, of Python and of its libraries, and the system's name."""
    return {
        "tessera": __version__,
        "version_key": __spec_version__,
        "python": sys.version,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "libraries": {name: _version_of(name) for name in LIBRARIES},
    }


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
