"""A device that cannot be here is told before torch loads."""

import pytest

from template.cli.devices import check_device
from template.errors import ConfigError


@pytest.mark.parametrize("name", ["cuda", "cuda:9"])
def test_without_a_driver_no_cuda_device_is_here(name: str) -> None:
    with pytest.raises(ConfigError, match=f"--neuron.device {name}: .* no CUDA devices"):
        check_device(name, lambda: False)
    check_device(name, lambda: True)


@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_other_devices_need_no_driver(name: str) -> None:
    check_device(name, lambda: False)
