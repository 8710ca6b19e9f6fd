"""Which spec a validator supports: the operator's file, checked, and served from the own bucket.

`tessera succession support` writes the file into the state folder; the running validator reads it
before each vote. The word stands in the validator's record beside the vote.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from template.context import NodeContext
from template.data.fit import check_dataset
from template.errors import ConfigError, SubnetError, Unavailable, unreadable
from template.peers.client import Peers
from template.protocol.keys import spec_key
from template.protocol.quorum import LEAD_WINDOWS
from template.protocol.record import Support
from template.protocol.spec import RunSpec, parse_spec, spec_to_toml
from template.protocol.spec.files import MAX_SPEC_BYTES
from template.protocol.succession import changes, check_successor
from template.sync.dataset import Datasets
from template.sync.follower import Follower
from template.sync.lineage import read_lineage
from template.sync.spec_folder import check_version

log = logging.getLogger(__name__)

SUPPORT_FILE: Final = "support.toml"
"""In the state folder: the spec that this validator supports."""
HISTORY_WINDOWS: Final = 512
"""Windows back from now in which the root named by a proposal is looked for."""


def support_path(state_dir: Path) -> Path:
    """The file with the spec that a validator supports."""
    return state_dir / SUPPORT_FILE


class Word(NamedTuple):
    """What the operator's file says, and when it was written: to say the same again is a new word,
    which is looked at anew.
    """

    text: str
    written_ns: int


class Supporter:
    """Says what the record's support is, and serves the specs of the run and the supported one."""

    def __init__(
        self,
        context: NodeContext,
        peers: Peers,
        follower: Follower,
        datasets: Datasets,
        carry: Callable[[RunSpec], None],
    ) -> None:
        """`carry` fetches and serves the tokenizer of a spec's dataset, as `carry_companions`."""
        self._context, self._peers, self._follower = context, peers, follower
        self._datasets, self._carry = datasets, carry
        self._path = support_path(context.state_dir)
        self._served: set[bytes] = set()
        self._refused = Word("", 0)
        """The operator's word that this node does not follow, and has said so."""
        self._roots: set[bytes] = set()
        """Roots found in the run's history."""

    def support(self, window: int) -> Support | None:
        """The record's support beside the vote on `window`; None without a succession."""
        for spec in self._context.run.specs[1:]:
            self._serve(spec)
        newest, proposed = self._context.run.newest, self._proposed(window)
        if proposed is not None and self._serve(proposed):
            return Support(window=proposed.first_window, spec=proposed.spec_id)
        if newest.continues is None:
            return None
        return Support(window=newest.first_window, spec=newest.spec_id)

    def _proposed(self, window: int) -> RunSpec | None:
        """The spec of the operator's file, if it may still be adopted."""
        try:
            word = self._read()
            if not word.text or word == self._refused:
                return None
            spec = self._checked(word.text, window)
        except ConfigError as error:
            self._refused = word
            log.error("%s: this spec is not supported: %s", self._path, error)
            return None
        except SubnetError as error:
            log.warning("%s: this spec is not supported now: %s", self._path, error)
            return None
        return None if spec.spec_id in {each.spec_id for each in self._context.run} else spec

    def _read(self) -> "Word":
        """What the operator says now; StateError if the file cannot be read."""
        try:
            with self._path.open("rb") as file:
                text = file.read(MAX_SPEC_BYTES + 1).decode("utf-8", errors="replace")
                return Word(text, os.fstat(file.fileno()).st_mtime_ns)
        except FileNotFoundError:
            return Word("", 0)
        except OSError as error:
            raise unreadable(self._path, error) from error

    def _checked(self, text: str, window: int) -> RunSpec:
        """The spec in the file's text. ConfigError unless it may be supported, or is adopted.

        Its dataset is opened, with the tokenizer: a run whose data nobody has could not change any
        more. Another SubnetError where it cannot be judged now.
        """
        run, spec = self._context.run, parse_spec(text)
        if spec.spec_id in {each.spec_id for each in run}:
            return spec
        check_version(spec)
        check_successor(run.newest, spec)
        decided = spec.first_window - LEAD_WINDOWS
        if self._follower.next_window <= decided < window:
            # A word now would say that it was adopted, and this node does not know.
            raise Unavailable(f"the votes on window {decided} are not counted here yet")
        if decided < window:
            raise ConfigError(
                f"the votes on window {decided} decided on it, and did not adopt it, or it came "
                f"too late for them: draft one for window {window + LEAD_WINDOWS + 1} or later"
            )
        if not self._knows(spec):
            raise ConfigError(
                f"continues.root: is no root of the last {HISTORY_WINDOWS} windows of this run: "
                "draft it again"
            )
        check_dataset(self._datasets.of(spec).manifest, spec, max_hotkeys=1)
        self._carry(spec)
        return spec

    def _knows(self, spec: RunSpec) -> bool:
        """Whether the root named by the spec is one of this run's history."""
        assert spec.continues is not None, "checked by check_successor"
        wanted, state = bytes.fromhex(spec.continues.root), self._follower.state
        if wanted in self._roots:
            return True
        own = [state.root, *(step.root for step in self._follower.ledger.steps)]
        self._roots.update(root[: len(wanted)] for root in own)
        if wanted not in self._roots:
            since = max(0, state.window - HISTORY_WINDOWS)
            steps = read_lineage(self._context, self._peers, state.window, state.root, since)
            self._roots.update(step.root[: len(wanted)] for step in steps)
        return wanted in self._roots

    def _serve(self, spec: RunSpec) -> bool:
        """Whether the spec lies in the own bucket: to support is to serve."""
        if spec.spec_id in self._served:
            return True
        key = spec_key(self._context.run.run_id, spec.spec_id)
        try:
            self._context.bucket.put(key, spec_to_toml(spec).encode())
        except SubnetError as error:
            log.warning("run spec %s is not in the bucket yet: %s", spec.spec_id.hex(), error)
            return False
        self._served.add(spec.spec_id)
        if spec.spec_id not in {each.spec_id for each in self._context.run}:
            told = "; ".join(map(str, changes(self._context.run.newest, spec))) or "nothing"
            log.warning(
                "supporting run spec %s for window %d on, which changes %s; the votes on window %d "
                "decide",
                spec.spec_id.hex(),
                spec.first_window,
                told,
                spec.first_window - LEAD_WINDOWS,
            )
        return True
