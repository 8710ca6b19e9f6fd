"""The folder of a localnet's results: never somebody else's, never two runs at once."""

import pytest

from localnet.folder import prepare_folder
from template.errors import ConfigError


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    """Preparing a folder moves HOME into it."""
    monkeypatch.setenv("HOME", str(tmp_path))


def test_an_earlier_result_is_emptied(tmp_path):
    out = tmp_path / "out"
    prepare_folder(out).close()
    (out / "report.json").write_text("{}")
    prepare_folder(out).close()
    assert not (out / "report.json").exists()
    assert (out / "home").is_dir()


def test_a_folder_in_use_is_left_alone(tmp_path):
    out = tmp_path / "out"
    with prepare_folder(out):
        (out / "report.json").write_text("{}")
        with pytest.raises(ConfigError, match="another localnet runs there"):
            prepare_folder(out)
        assert (out / "report.json").exists()


def test_what_is_not_a_localnets_is_left_alone(tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="not a localnet's"):
        prepare_folder(tmp_path)
    with pytest.raises(ConfigError, match="is a file"):
        prepare_folder(tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"
