"""Proposes the run's changes, and has every honest validator support them.

What operators do by `tessera succession draft` and `tessera succession support`, by the same
functions and in time: a proposal needs a root of the run, and follows the spec before it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from localnet.changes import Change
from localnet.config import LocalnetConfig
from localnet.events import Row
from localnet.onchain import NETUID
from localnet.roster import HONEST
from template.cli.succession_flags import DraftConfig
from template.commands.plan import Dataset, upload_missing
from template.commands.succession import drafted, put_support
from template.data.folder import open_folder
from template.errors import ConfigError
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.run import Run
from template.protocol.spec import RunSpec, spec_to_toml
from template.settings import ChainConfig
from template.store import Store

ROOT_BYTES = 16
"""Of a root, as votes and proposals name it."""


class Proposer:
    """The changes of a run, one after the other. `tell` gets a line for each step."""

    def __init__(
        self,
        spec: RunSpec,
        config: LocalnetConfig,
        endpoint: str,
        tell: Callable[[str], None],
    ) -> None:
        """`endpoint`: of the chain."""
        self._run, self._waiting = Run(spec), list(config.changes)
        self._chain, self._out = ChainConfig(netuid=NETUID, network=endpoint), config.out
        self._validators = [
            config.out / "nodes" / participant.name
            for participant in config.roster
            if (participant.role, participant.behaviour) == ("validator", HONEST)
        ]
        self._tell = tell
        self._proposed: RunSpec | None = None

    def note(self, rows: Iterable[Row]) -> None:
        """What a validator's metrics tell: adopted specs, and roots to continue from."""
        for row in rows:
            if self._proposed is not None:
                self._note_proposed(self._proposed, row)
            elif self._waiting and "state_root" in row:
                self._propose(self._waiting.pop(0), bytes.fromhex(row["state_root"])[:ROOT_BYTES])

    def _note_proposed(self, proposed: RunSpec, row: Row) -> None:
        if row.get("spec") == proposed.spec_id.hex():
            self._run, self._proposed = Run(*self._run, proposed), None
        elif "state_root" in row and row["window"] > proposed.first_window - LEAD_WINDOWS:
            self._tell(
                f"the run does not change at window {proposed.first_window}: the votes on window "
                f"{proposed.first_window - LEAD_WINDOWS} did not adopt the proposal; see the "
                "validators' logs"
            )
            self._proposed, self._waiting = None, []

    def _propose(self, change: Change, root: bytes) -> None:
        out = self._out / f"next-{change.window}.toml"
        spec = _drafted(self._run, change, root, out, self._chain)
        out.write_text(spec_to_toml(spec), encoding="utf-8")
        for folder in self._validators:
            put_support(folder, spec)
        self._proposed = spec
        self._tell(
            f"{change.file} is proposed for window {change.window} on, as {out.name}; "
            f"{len(self._validators)} validators support it"
        )


def checked(spec: RunSpec, config: LocalnetConfig) -> RunSpec:
    """The spec, once all changes are drafted after it: before anything runs in vain.

    ConfigError for a change that cannot be, or whose folder is no dataset fit for it.
    """
    run, chain = Run(spec), ChainConfig(netuid=NETUID, network="local")
    for change in config.changes:
        try:
            run.extend(_drafted(run, change, bytes(ROOT_BYTES), config.out / "next.toml", chain))
        except ConfigError as error:
            raise ConfigError(
                f"--changes {change.window}:{change.file}: the run cannot change so: {error}"
            ) from error
    return spec


def _drafted(run: Run, change: Change, root: bytes, out: Path, chain: ChainConfig) -> RunSpec:
    """The spec of a change, after the run's newest; ConfigError if it may not follow."""
    config = DraftConfig(
        run=out.with_name("run.toml"),
        spec=run.first,
        chain=chain,
        window=change.window,
        changes={},
        name=None,
        least_version="0.0.0",
        out=out,
        changes_file=change.file,
        file_changes=change.table,
        data=change.data,
    )
    dataset = None if change.data is None else open_folder(change.data)
    return drafted(run, config, root, dataset)


def put_datasets(changes: Iterable[Change], bucket: Store) -> None:
    """Put the datasets of all changes into the owner's bucket, a mirror of the run."""
    for change in changes:
        if change.data is not None:
            upload_missing(Dataset(open_folder(change.data)), bucket, bucket, lambda _line: None)
