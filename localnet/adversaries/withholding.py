"""Miners that commit and do not deliver: never, only good draws, or to one reader alone."""

import statistics
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from localnet.adversaries.dishonest import Pretender
from localnet.adversaries.one_reader import OneReaderGate
from localnet.adversaries.tensors import noise_seed
from template.base.miner import Miner, Pending
from template.context import NodeContext
from template.protocol.payload import PayloadHeader, decode_payload, payload_digest
from template.protocol.record import Access, AccessKind
from template.training.scorer import Scorer


class UndeliveredMiner(Pretender):
    """Commits the digest of noise and uploads nothing."""

    def forge(self, header: PayloadHeader) -> bytes | None:
        return None

    def _reveal(self) -> None:
        """Never."""


class GoodDraws(Miner):
    """Works, tries each payload on pages of its own, and delivers no worse than usual ones."""

    PAGES, REMEMBERED = 32, 5

    def __init__(self, context: NodeContext) -> None:
        super().__init__(context)
        self._own_scorer = Scorer(context.spec, context.device)
        self._gains: list[float] = []
        self._bad: set[bytes] = set()

    def make_frame(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        frame = super().make_frame(header, deltas)
        gain = self._gain(frame)
        self._gains = [*self._gains, gain][-self.REMEMBERED :]
        if gain < statistics.median(self._gains):
            self._bad.add(payload_digest(frame))
        return frame

    def _reveal(self) -> None:
        everything = self._pending
        self._pending = [pending for pending in everything if not self._is_bad(pending)]
        try:
            super()._reveal()
        finally:
            self._pending = everything

    def _is_bad(self, pending: Pending) -> bool:
        return pending.digest in self._bad

    def _gain(self, frame: bytes) -> float:
        """On random pages, at the newest parameters, in nats per token."""
        context = self.context
        payload = decode_payload(frame, context.form)
        seed = noise_seed(context.hotkey, payload.header.window)
        ids = np.random.default_rng(seed).integers(self._pages.num_pages, size=self.PAGES)
        pages, scorer = self._pages.pages(ids), self._own_scorer
        factor = context.spec.outer.outer_lr * context.spec.evaluation.step_share
        scorer.load(self.follower.state.params)
        before = scorer.losses(pages)
        with scorer.stepped(payload.tensors, dict.fromkeys(context.form.names, factor)):
            return float((before - scorer.losses(pages)).mean())


class GoodCommits(GoodDraws):
    """As `GoodDraws`, but does not even commit the others: their work goes into the next."""

    def _commit_pending(self, window: int) -> None:
        for pending in filter(self._is_bad, list(self._pending)):
            self._take_back(pending)
            self._pending.remove(pending)
        super()._commit_pending(window)


class OneReader(Miner):
    """Honest work, but whoever asks for a payload after the first does not find it.

    Readers of a bucket all have the same credential, so that S3 itself cannot tell them apart:
    the access record names an endpoint of this process, which reads the real bucket.
    """

    def __init__(self, context: NodeContext) -> None:
        gate = OneReaderGate(context.bucket, max_bytes=context.form.num_bytes)
        key = context.access
        access = Access(
            kind=AccessKind.S3,
            account=gate.url,
            access_key_id=key.access_key_id,
            secret_access_key=key.secret_access_key,
        )
        super().__init__(replace(context, access=access))
