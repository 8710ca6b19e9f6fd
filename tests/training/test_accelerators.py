"""Accelerators of several threads of one process."""

from concurrent.futures import ThreadPoolExecutor

from template.training.devices import make_accelerator


def test_threads_make_accelerators_at_once(monkeypatch) -> None:
    """Accelerate empties and restores os.environ; two at once lost variables of each other."""
    monkeypatch.setenv("TESSERA_TEST_ENVIRONMENT", "kept")
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: make_accelerator("cpu", "no"), range(64)))
    assert {accelerator.device.type for accelerator in made} == {"cpu"}
