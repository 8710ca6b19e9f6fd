"""Error feedback of a miner of many ranks: as `template.base.feedback`, by bands."""

from collections.abc import Mapping

from torch import Tensor

from template.protocol.payload import Payload, PayloadFormat, PayloadHeader, frame_of
from template.ranks.handles import BandSpreader


class RanksFeedback:
    """One float32 tensor per parameter, in bands on the ranks."""

    def __init__(
        self,
        spreader: BandSpreader,
        form: PayloadFormat,
        decay: float,
        saved: Mapping[str, Tensor],
        returned_share: float,
    ) -> None:
        """Starts from `saved`, or from zeros."""
        self._spreader, self._team = spreader, spreader.team
        self._form, self._decay, self._returned_share = form, decay, returned_share
        self.tensors = spreader.bands_of(saved) if saved else spreader.zeros(form.shapes)
        self.revision: object = object()
        """Another object after every change of the tensors."""

    def follow(self, form: PayloadFormat, decay: float) -> None:
        """Encode by another spec of the run from now on."""
        self._form, self._decay = form, decay

    def encode(self, header: PayloadHeader, deltas: Mapping[str, Tensor]) -> bytes:
        """The frame of decay * feedback + delta; the feedback keeps the rest.

        ValueError for a part of the model: many ranks hold, and train, all of it.
        """
        if not header.blocks.is_whole:
            raise ValueError(
                f"{header.blocks}: several ranks send payloads of the whole model alone"
            )
        self.revision = object()
        # A handle of its own name: the ranks forget bands with the last reference.
        given = self._spreader.bands_of(deltas)
        body: bytes = self._team.tell(
            "encode",
            deltas=given.number,
            feedback=self.tensors.number,
            decay=self._decay,
        )
        return frame_of(header, body, self._form)

    def keep(self, deltas: Mapping[str, Tensor]) -> None:
        """Keep a whole pseudo-gradient for the next payload."""
        self.revision = object()
        given = self._spreader.bands_of(deltas)
        self._team.call("keep", deltas=given.number, feedback=self.tensors.number)

    def take_back(self, payload: Payload) -> None:
        """Return a share of a payload's content."""
        self.revision = object()
        self._team.tell(
            "take_back",
            payload.body,
            feedback=self.tensors.number,
            names=sorted(payload.norms),
            top_k=payload.plan.top_k,
            share=self._returned_share,
        )
