"""The doctor's questions to bucket, disk, memory and device."""

import shutil
from collections.abc import Callable
from contextlib import closing
from typing import Final

import torch

from template.base.preflight import (
    check_own_bucket,
    check_published_endpoint,
    check_state_dir,
    claimed,
    load_codec,
)
from template.bucket.own import COMMAND_PROBE_DEADLINE_S, OwnBucket, open_own_bucket
from template.cli.devices import check_device
from template.cli.doctor_flags import DoctorConfig, given
from template.commands.doctor_chain import Known
from template.commands.rank import inner_options
from template.doctor import checks, judge
from template.doctor.findings import Finding, doubtful, good
from template.doctor.needs import Around, case_of, line_need, memory_of
from template.doctor.speed import measure_line, measure_steps
from template.errors import ConfigError
from template.host import free_memory_bytes, num_cores, total_memory_bytes
from template.planning.case import Case
from template.settings import NeuronConfig
from template.store.probe import check_private
from template.training.devices import device_name, find_device, free_bytes, make_accelerator
from template.training.options import DEFAULT_OPTIONS

LINE_DEADLINE_S: Final = 30.0


class HereChecks:
    """Checks of this machine and of the node's own bucket."""

    def __init__(self, config: DoctorConfig, known: Known) -> None:
        self._config, self._known = config, known
        self._device = "cpu"

    def bucket_keys(self) -> Finding:
        settings = given(self._config.bucket)
        if not isinstance(self._config.spec, ConfigError):
            check_published_endpoint(
                settings.endpoint_url,
                on_localnet=self._config.spec.schedule.is_local,
                variable=settings.endpoint_variable,
            )
        with self._bucket(COMMAND_PROBE_DEADLINE_S) as bucket:
            check_own_bucket(bucket, clock_ahead_s=self._known.clock_ahead_s)
        return good(
            checks.BUCKET_KEYS,
            f"{bucket.where}: the write key writes, the read key reads and cannot write, and reads "
            "no other bucket",
        )

    def bucket_closed(self) -> Finding:
        with self._bucket(COMMAND_PROBE_DEADLINE_S) as bucket:
            check_private(bucket.writer, bucket.anonymous, where=bucket.where)
        return good(checks.BUCKET_CLOSED, "without a key nobody reads or writes the bucket")

    def line(self) -> Finding:
        with self._bucket(LINE_DEADLINE_S) as bucket:
            seen = measure_line(bucket.writer, bucket.reader)
        need = line_need(self._config.role, self._case())
        return judge.judge_line(seen.up_mbps, seen.down_mbps, need)

    def _bucket(self, deadline_s: float) -> closing[OwnBucket]:
        if self._known.wallet is None:
            raise ConfigError("the wallet was not opened")
        hotkey = str(self._known.wallet.hotkey.ss58_address)
        return closing(open_own_bucket(given(self._config.bucket), hotkey, deadline_s=deadline_s))

    def state_folder(self) -> Finding:
        folder = self._neuron.state_dir
        check_state_dir(folder)
        try:
            with claimed(folder):
                pass
        except ConfigError as error:
            if "in use" not in str(error):
                raise
            return doubtful(checks.STATE_FOLDER, f"{error}: if it is this neuron, all is well")
        return good(checks.STATE_FOLDER, f"{folder} can be written, and no process uses it")

    def disk(self) -> Finding:
        folder = self._neuron.state_dir
        needed = memory_of(self._config.role, self._case()).disk_bytes
        own = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return judge.judge_disk(shutil.disk_usage(folder).free, own, needed, str(folder))

    def memory(self) -> Finding:
        needed = memory_of(self._config.role, self._case())
        total, free = total_memory_bytes(), free_memory_bytes()
        if total is None or free is None:
            return doubtful(
                checks.MEMORY,
                f"this system does not tell its memory; the plan needs "
                f"{needed.host_bytes / judge.GB:,.1f} GB: compare yourself",
            )
        host = judge.Bytes(total=total, free=free, needed=needed.host_bytes)
        device_total = device_bytes(self._device)
        device = None
        if device_total is not None:
            device = judge.Bytes(
                total=device_total,
                free=free_bytes(torch.device(self._device)) or device_total,
                needed=needed.device_bytes,
            )
        return judge.judge_memory(host, device)

    def accelerator(self) -> Finding:
        check_device(self._neuron.device)
        self._device = find_device(self._neuron.device)
        name = device_name(torch.device(self._device))
        said = f"{self._device} ({name}), torch {torch.__version__}"
        if not isinstance(self._config.spec, ConfigError):
            precision = self._config.spec.training.precision
            make_accelerator(self._device, precision)
            said += f", trains in {'float32' if precision == 'no' else precision}"
        total = device_bytes(self._device)
        if total is None:
            return good(checks.ACCELERATOR, said, device=name)
        return good(checks.ACCELERATOR, said, device=name, device_gb=round(total / judge.GB, 1))

    def codec(self) -> Finding:
        load_codec()
        return good(checks.CODEC, "the compiled codec loads")

    def inner_step(self) -> Finding:
        spec, neuron = given(self._config.spec), self._neuron
        options = inner_options(neuron, spec)
        if options.parts > 1:
            return doubtful(
                checks.INNER_STEP,
                "not measured for a model in parts (--neuron.parts): look at inner_tokens_per_s "
                "and utilisation after the first windows (`tessera status`)",
            )
        seen = measure_steps(spec, self._device, options, block_s=self._known.block_s)
        return judge.judge_step(seen)

    def _case(self) -> Case:
        spec, graph = given(self._config.spec), self._known.graph
        neurons = () if graph is None else graph.neurons
        num_validators = sum(neuron.validator_permit for neuron in neurons)
        is_miner = self._config.role == "miner"
        around = Around(
            device_name=device_name(torch.device(self._device)),
            device_bytes=device_bytes(self._device),
            cores=num_cores(),
            peers=max(1, len(neurons) - num_validators),
            validators=num_validators,
            block_s=self._known.block_s,
            inner=inner_options(self._neuron, spec) if is_miner else DEFAULT_OPTIONS,
        )
        return case_of(spec, around)

    @property
    def _neuron(self) -> NeuronConfig:
        if self._config.neuron is None:
            raise ConfigError("an owner has no process of its own")
        return given(self._config.neuron)

    def makers(self) -> dict[str, Callable[[], Finding]]:
        """Name -> check."""
        return {
            checks.BUCKET_KEYS: self.bucket_keys,
            checks.BUCKET_CLOSED: self.bucket_closed,
            checks.LINE: self.line,
            checks.STATE_FOLDER: self.state_folder,
            checks.DISK: self.disk,
            checks.MEMORY: self.memory,
            checks.ACCELERATOR: self.accelerator,
            checks.CODEC: self.codec,
            checks.INNER_STEP: self.inner_step,
        }


def device_bytes(name: str) -> int | None:
    """Memory of a device; None for a device that computes in the host's memory."""
    if torch.device(name).type not in ("cuda", "xpu"):
        return None
    _free, total = torch.accelerator.get_memory_info(torch.device(name))
    return int(total)
