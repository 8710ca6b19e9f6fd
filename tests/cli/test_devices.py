"""A device that cannot be here is told before torch loads."""

import pytest

from template.cli.devices import check_device
from template.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "no CUDA devices"),
        ("cuda:9", "no CUDA devices"),
        ("xpu:0", "no Intel GPUs"),
        ("mps", "no Mac; name cpu"),
    ],
)
def test_without_a_driver_no_device_is_here(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"--neuron.device {name}: .*{words}"):
        check_device(name, lambda kind: False)
    check_device(name, lambda kind: name.startswith(kind))


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_other_devices_need_no_driver(name: str) -> None:
    check_device(name, lambda kind: False)
