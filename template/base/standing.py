"""A hotkey's registration, permit and commitments on chain.

Owns the messages to the operator about a missing registration, a missing validator permit, a
used-up quota of commitments, a second process with the same hotkey, and a newer version.
"""

import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from threading import Lock
from typing import Final

from template import version_words
from template.chain import Metagraph, Neuron
from template.chain.commands import Commands
from template.context import NodeContext
from template.errors import ChainError, ConfigError, NodeTrouble, RecordError
from template.peers.notice import AskNotice
from template.peers.threads import start
from template.protocol.notice import VersionNotice
from template.protocol.record import Record, decode_record, encode_record

log = logging.getLogger(__name__)

QUOTA_ERROR: Final = "SpaceLimitExceeded"
RAO_PER_TAO: Final = 10**9
VERSION_WATCH_S: Final = 3600.0
"""A newer version is news for days; a public endpoint counts the questions."""
MAX_REMEMBERED: Final = 64
"""Own commitments remembered: a few are written in a window, and the newest alone is on chain."""


class Standing:
    """This hotkey's place in the metagraph, watched window after window."""

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._has_permit: bool | None = None
        self._commitments = OwnCommitments(context)

    def demand_registration(self) -> Neuron:
        """This hotkey's current row; ConfigError if the hotkey is not registered.

        Also looks for a second process with this hotkey, and at this machine's clock; stake and
        pay go into the metrics.
        """
        context = self._context
        self._commitments.watch()
        context.watch_clock()
        graph = context.chain.metagraph(context.chain.finalized())
        me = registered(graph, context.hotkey, context.commands)
        if (window := context.schedule.window_of(graph.block)) >= 0:
            context.metrics.log(window, pay_of(me))
        return me

    def publish(self, record: Record) -> bool:
        """As the function `publish`; the hotkey's offer of a run stays on chain."""
        record = self._with_offer(record)
        self._commitments.note_own(record)
        return publish(self._context, record)

    def publish_if_new(self, record: Record) -> None:
        """As the function `publish_if_new`; the hotkey's offer of a run stays on chain."""
        record = self._with_offer(record)
        self._commitments.note_own(record)
        publish_if_new(self._context, record)

    def _with_offer(self, record: Record) -> Record:
        """The record with the offer now on chain, which `owner publish` may have changed since."""
        chain, hotkey = self._context.chain, self._context.hotkey
        data = chain.commitments(chain.head()).get(hotkey, b"")
        try:
            return replace(record, offer=decode_record(data).offer)
        except RecordError:
            return record

    def watch_permit(self) -> None:
        """Log a missing or changed validator permit, at the start and at each change."""
        me = self.demand_registration()
        before, self._has_permit = self._has_permit, me.validator_permit
        if me.validator_permit:
            if before is False:
                log.info("this validator has a permit now: its votes and weights count")
        elif before is not False:
            log.warning(
                "this validator has no permit on --netuid %d: its votes and weights do not count; "
                "its stake is %.3f TAO, and permits go to those with the most, anew at each epoch; "
                "if the next one gives it none, add some with %s",
                self._context.commands.netuid,
                me.total_stake_rao / RAO_PER_TAO,
                self._context.commands.stake,
            )


class VersionWatch:
    """Says once, and at each change, that there is a newer version than this.

    Two sources: the hyperparameter `weights_version`, which the subnet's owner alone sets, is a
    demand; the owner's signed notice names a version and a digest. Nothing is updated: an operator
    decides and installs. `least_version_key` and `ask_notice` are asked at most once in `every_s`,
    the second in a thread of its own: the owner's bucket may be slow.
    """

    def __init__(
        self,
        own_key: int,
        least_version_key: Callable[[], int],
        ask_notice: AskNotice,
        *,
        every_s: float = VERSION_WATCH_S,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._own_key, self._ask, self._ask_notice = own_key, least_version_key, ask_notice
        self._every_s, self._now_s = every_s, now_s
        self._asked_s = float("-inf")
        self._told = 0
        self._told_notice: VersionNotice | None = None
        self._coming: Future[VersionNotice | None] | None = None

    def look(self) -> dict[str, int]:
        """What is new since the last look, as metrics; a source without an answer is no news.

        `least_version_key`: if the chain was asked now. `newest_version_key`: of a notice that
        has come, newer than this version or not.
        """
        found: dict[str, int] = {}
        if self._now_s() - self._asked_s >= self._every_s:
            self._asked_s = self._now_s()
            if (key := self._look_at_demand()) is not None:
                found["least_version_key"] = key
            if self._coming is None:
                self._coming = self._start_asking()
        if (notice := self._take_notice()) is not None:
            found["newest_version_key"] = notice.key
        return found

    def _look_at_demand(self) -> int | None:
        try:
            key = self._ask()
        except ChainError as error:
            log.debug("the chain does not say the least version key: %s", error)
            return None
        if key > self._own_key and key != self._told:
            log.warning(
                "the subnet's owner demands version %s or newer (weights_version %d), and "
                "this is older (%d): validators of this version can set no weights. Nothing is "
                "updated by itself: compare the release's signature, install it, start again",
                version_words(key),
                key,
                self._own_key,
            )
        self._told = key
        return key

    def _start_asking(self) -> Future[VersionNotice | None]:
        pool = ThreadPoolExecutor(1, thread_name_prefix="notice")
        future = start(pool, self._ask_notice)
        pool.shutdown(wait=False)  # the thread ends with the answer
        return future

    def _take_notice(self) -> VersionNotice | None:
        """The notice, if one has come since the last look; a newer version is told."""
        if self._coming is None or not self._coming.done():
            return None
        future, self._coming = self._coming, None
        try:
            notice = future.result()
        except NodeTrouble as error:
            log.debug("the owner's notice was not asked for: %s", error)
            return None
        if notice is not None and notice.key > self._own_key and notice != self._told_notice:
            log.warning(
                "the subnet owner's signed notice names version %s, and this is %s: %s with "
                "SHA-256 %s. Nothing is updated by itself: compare your download (%s), install "
                "it, start again",
                notice.version,
                version_words(self._own_key),
                notice.kind,
                notice.digest.hex(),
                notice.comparison,
            )
            self._told_notice = notice
        return notice


def pay_of(me: Neuron) -> dict[str, float | int]:
    """Stake and pay of a row of the metagraph; emission is that of the last epoch."""
    return {
        "uid": me.uid,
        "stake_tao": me.total_stake_rao / RAO_PER_TAO,
        "emission_alpha": me.emission_rao / RAO_PER_TAO,
        "incentive": me.incentive,
        "dividends": me.dividends,
    }


class OwnCommitments:
    """Compares this hotkey's commitment on chain with the commitments of this process.

    Only the hotkey's own key can write there, so a commitment that is not this process's shows a
    second node with the same key. A single such commitment may be the last write of the process
    before a restart, or of an owner's command; the second one is told, once.
    """

    def __init__(self, context: NodeContext) -> None:
        self._context = context
        self._num_foreign = 0
        self._is_told = False
        # What is on chain before this process's first write is nobody's fault.
        chain = context.chain
        seen = (chain.commitments(b).get(context.hotkey) for b in (chain.finalized(), chain.head()))
        found = (data for data in seen if data is not None)
        self._known: deque[bytes] = deque(found, maxlen=MAX_REMEMBERED)
        self._lock = Lock()
        """A miner commits and watches in different threads."""

    def note_own(self, record: Record) -> None:
        """Remember a commitment before its write: a write without an answer may be on chain."""
        with self._lock:
            self._known.append(encode_record(record))

    def watch(self) -> None:
        """Look at the commitment on chain; an error, once, if another process writes too."""
        chain, hotkey = self._context.chain, self._context.hotkey
        block = chain.finalized()
        data = chain.commitments(block).get(hotkey)
        with self._lock:
            if data is None or data in self._known:
                return
            self._known.append(data)
        self._num_foreign += 1
        if self._num_foreign < 2 or self._is_told:
            return
        self._is_told = True
        log.error(
            "--wallet.hotkey: another process writes to the chain with hotkey %s: at block %d its "
            "commitment (%s) is none of this node's. Two nodes with one hotkey overwrite each "
            "other's payload digests and votes, and both lose pay: end one of them, or give it a "
            "hotkey of its own. If no other node is yours, somebody has a copy of the key: "
            "register another hotkey",
            hotkey,
            block,
            _content(data),
        )


def _content(data: bytes) -> str:
    """What a commitment says, in words."""
    try:
        record = decode_record(data)
    except RecordError:
        return "no record of this subnet"
    parts = [] if record.payload is None else [f"a payload of window {record.payload.window}"]
    parts += [] if record.vote is None else [f"a vote on window {record.vote.window}"]
    return ", ".join(parts) or "an access record alone"


def registered(graph: Metagraph, hotkey: str, commands: Commands) -> Neuron:
    """The hotkey's row of the metagraph; ConfigError names the registration command."""
    row = graph.by_hotkey(hotkey)
    if row is None:
        raise ConfigError(
            f"--wallet.hotkey: {hotkey} is not registered on --netuid {commands.netuid} as of "
            f"block {graph.block}; register it with {commands.register}"
        )
    return row


def unregistered_owner(graph: Metagraph) -> str:
    """For a graph without `owner_uid`: what is wrong, and the owner's remedy."""
    return (
        f"the hotkey of the subnet's owner, {graph.owner_hotkey}, is not registered as of block "
        f"{graph.block}, so no uid can take what nobody earned; its owner registers it "
        f"(`btcli subnets register --netuid {graph.netuid}`)"
    )


def publish(context: NodeContext, record: Record) -> bool:
    """Put this hotkey's record on chain; False, and a warning, if the quota is used up."""
    try:
        context.chain.publish(encode_record(record))
    except ChainError as error:
        if error.name != QUOTA_ERROR:
            raise
        log.warning(
            "not committed: the chain's quota of commitments of --wallet.hotkey %s is used up for "
            "this epoch (%s). It is free again with the next; until then start this node less "
            "often, and let nothing else commit with this hotkey",
            context.hotkey,
            QUOTA_ERROR,
        )
        return False
    return True


def publish_if_new(context: NodeContext, record: Record) -> None:
    """Put the record on chain, unless an equal record is there: restarts save quota."""
    chain = context.chain
    if chain.commitments(chain.head()).get(context.hotkey) != encode_record(record):
        publish(context, record)
