"""Miners with committed but undelivered payloads: all, the bad draws, or all readers but one."""

import statistics
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from localnet.adversaries.dishonest import Pretender
from localnet.adversaries.one_reader import OneReaderGate
from localnet.adversaries.tensors import noise_seed
from template.base.conduct import MinerParts
from template.base.miner import Miner
from template.base.pending import PendingPayload
from template.base.work import HonestWork
from template.context import NodeContext
from template.protocol.payload import PayloadHeader, decode_payload, payload_digest
from template.protocol.record import Access, AccessKind
from template.training.checkpoint import LocalCheckpoint
from template.training.scorer import Scorer


class Undelivered(Pretender):
    """Commits the digest of noise and uploads nothing."""

    def forge(self, header: PayloadHeader) -> bytes | None:
        return None

    def reveals(self, payload: PendingPayload) -> bool:
        return False


class GoodDraws(HonestWork):
    """Trains, tries each payload on own pages, and delivers only gains at or above the median."""

    PAGES, REMEMBERED = 32, 5

    def __init__(self, parts: MinerParts, checkpoint: LocalCheckpoint) -> None:
        super().__init__(parts, checkpoint)
        self._own_scorer = Scorer(self.spec, parts.context.device)
        self.gains: list[float] = []
        self._bad: set[bytes] = set()

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        frame = super().make_frame(header, deltas)
        gain = self.measure_gain(frame)
        self.gains = [*self.gains, gain][-self.REMEMBERED :]
        if gain < statistics.median(self.gains):
            self._bad.add(payload_digest(frame))
        return frame

    def reveals(self, payload: PendingPayload) -> bool:
        return payload.digest not in self._bad

    def measure_gain(self, frame: bytes) -> float:
        """The fall of the loss on random pages, at the newest parameters, in nats per token."""
        context = self.parts.context
        payload = decode_payload(frame, self.form)
        reader = self.parts.datasets.at(payload.header.window)
        seed = noise_seed(context.hotkey, payload.header.window)
        ids = np.random.default_rng(seed).integers(reader.num_pages, size=self.PAGES)
        pages, scorer, chat = reader.pages(ids), self._own_scorer, self.spec.data.chat
        state = self.parts.follower.state
        factor = state.alpha(self.spec.outer) * self.spec.evaluation.step_share
        scorer.load(state.params)
        before = scorer.losses(pages, chat)
        with scorer.stepped(payload.tensors, dict.fromkeys(self.form.names, factor)):
            return float((before - scorer.losses(pages, chat)).mean())


class GoodCommits(GoodDraws):
    """Commits good draws only; a bad draw returns to error feedback, for the next payload."""

    def commits(self, payload: PendingPayload) -> bool:
        return payload.digest not in self._bad


def build_one_reader(context: NodeContext) -> Miner:
    """Honest work, but each payload can be fetched only once, by the first reader.

    All readers of a bucket share one credential, so S3 cannot tell them apart: the access record
    names an endpoint of this process, a gate before the real bucket.
    """
    gate = OneReaderGate(context.bucket, max_bytes=context.form_at(0).num_bytes)
    key = context.access
    access = Access(
        kind=AccessKind.S3,
        account=gate.url,
        access_key_id=key.access_key_id,
        secret_access_key=key.secret_access_key,
    )
    return Miner(replace(context, access=access))
