"""The adopted specs on disk: a restart needs no bucket for them."""

import logging
import os
from pathlib import Path
from typing import Final

from template import __spec_version__, __version__, version_key
from template.errors import ConfigError, ObjectError, StateError, disk_trouble, unreadable
from template.protocol.run import Run
from template.protocol.spec import RunSpec, parse_spec, spec_to_toml
from template.protocol.spec.files import parse_named_table
from template.protocol.strangers import fault
from template.protocol.toml import from_table
from template.training.tensor_files import sync_folder

log = logging.getLogger(__name__)

FOLDER: Final = "specs"
"""Of the state folder: the specs that were adopted, one file each."""
RANKS_FILE: Final = "ranks.spec"
"""In that folder: the spec by which the ranks of a miner build their models."""


def check_version(spec: RunSpec) -> None:
    """ConfigError if this software is older than the spec demands."""
    least = "0.0.0" if spec.continues is None else spec.continues.least_version
    if version_key(least) > __spec_version__:
        raise ConfigError(
            f"run spec {spec.spec_id.hex()}: demands version {least} or newer from window "
            f"{spec.first_window} on, this is {__version__}: install it before, and start again"
        )


def spec_of_table(table: dict[str, object], spec_id: bytes) -> RunSpec:
    """The spec of a table that has the id. ConfigError if a newer version may know more of it."""
    try:
        return from_table(RunSpec, table)
    except ConfigError as error:
        raise ConfigError(
            f"run spec {spec_id.hex()}: this version, {__version__}, does not know all of it "
            f"({fault(error)}): install a newer version before, and start again"
        ) from error


class SpecFolder:
    """The adopted specs of a run in a node's state folder."""

    def __init__(self, run: Run, state_dir: Path) -> None:
        self._run, self._folder = run, state_dir / FOLDER

    def restore(self) -> None:
        """Append the saved specs that the run lacks.

        A damaged file, and what does not follow the run, is removed with a warning: buckets have
        what was adopted. ConfigError if this software is too old; StateError if the disk refuses.
        """
        for path in sorted(self._folder.glob("*.toml")):
            spec = self._read(path)
            if spec is None or spec.first_window <= self._run.newest.first_window:
                continue
            check_version(spec)
            try:
                self._run.extend(spec)
            except ConfigError as error:
                self._drop(path, str(error))

    def _read(self, path: Path) -> RunSpec | None:
        """The spec in a file named by first window and id; None if the file is damaged."""
        try:
            data, spec_id = path.read_bytes(), bytes.fromhex(path.stem.partition("-")[2])
            table = parse_named_table(data, spec_id)
        except OSError as error:
            raise unreadable(path, error) from error
        except (ObjectError, ValueError) as error:
            self._drop(path, f"damaged: {error}")
            return None
        return spec_of_table(table, spec_id)

    def _drop(self, path: Path, why: str) -> None:
        log.warning("%s is removed, and asked for again where it is needed: %s", path, why)
        self._remove(path)

    def save(self, spec: RunSpec) -> None:
        """Keep an adopted spec. StateError if the disk refuses it."""
        self._write(self._folder / f"{spec.first_window:08d}-{spec.spec_id.hex()}.toml", spec)

    def save_for_ranks(self, spec: RunSpec) -> None:
        """Keep the spec that the ranks of a miner build their models by, at their next start."""
        self._write(self._folder / RANKS_FILE, spec)

    def of_ranks(self) -> RunSpec:
        """The spec kept for the ranks, or the run's first.

        StateError if it cannot be read, or is damaged.
        """
        path = self._folder / RANKS_FILE
        try:
            return parse_spec(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return self._run.first
        except OSError as error:
            raise unreadable(path, error) from error
        except (ConfigError, UnicodeDecodeError) as error:
            raise StateError(f"{path}: damaged ({error}): remove it, and start again") from error

    def _write(self, path: Path, spec: RunSpec) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            new = path.with_suffix(".new")
            with new.open("w", encoding="utf-8") as file:
                file.write(spec_to_toml(spec))
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            raise disk_trouble(path, error) from error

    def forget_from(self, window: int) -> None:
        """Remove the specs for this window and later ones, which follow it. StateError if the disk
        refuses.
        """
        for path in sorted(self._folder.glob("*.toml")):
            first_window = path.stem.partition("-")[0]
            if first_window.isdecimal() and int(first_window) >= window:
                self._remove(path)

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_trouble(path, error) from error
