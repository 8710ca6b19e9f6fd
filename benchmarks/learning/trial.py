"""A trial: everything that fixes one run of the benchmark, and so its key in the record."""

import hashlib
import json
from dataclasses import asdict, dataclass

from template.errors import ConfigError

KEY_DIGITS = 16
LATER_FIELDS = {
    "catch_up_step": 0, "decay_share": 1.0, "inner": "adamw", "muon_momentum": 0.95,
    "max_length_ratio": 0.0,
}  # fmt: skip
"""What came after the first records, and what it was before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One run. Its tokens: miners * inner_steps * rounds * batch_pages * page_tokens, and
    warm_steps * batch_pages * page_tokens more if theta_0 is trained alone first.

    `lag`: rounds between the sending of an update and its use; 1 is the protocol's.
    `outer_lr`: alpha. `decay`: beta of error feedback, or DeMo's of the momentum.
    `clip_factor`, `max_length_ratio` 0: no clip, no cap on lengths. `weighting`: "equal", or
    "tokens" (by the steps that a miner made: the first `slow_miners` make a third of them).
    `noise_miners`: the last ones send noise; every payload is then judged by its held-out gain.
    `bits`: of a value's code.

    Remedies, each 0 for none. `eager`: a miner starts from theta less alpha * eager * its own
    payload that is not applied yet; 1/miners is what the mean rule will apply of it, 1 takes
    the miner's own work for everybody's. `step_ahead`: the same share of its error feedback.
    `compensate`: share of the payload under way that is taken off the pseudo-gradient.
    `warm_steps`: inner steps of one miner alone before the first round. `dense_rounds`: first
    rounds with four times `top_k`. `outer_warmup`: rounds over which alpha grows to its value.
    `catch_up_step`: inner step at which miners move to the parameters with the update under
    way, once they could fetch its payloads.

    `decay_share`: of the rounds, the last ones, over which the learning rate decays.
    `inner`: a miner's optimiser, "adamw" or "muon", and the momentum of the latter.
    """

    strategy: str
    lag: int = 1
    miners: int = 8
    inner_steps: int = 15
    rounds: int = 24
    seed: int = 1
    model: str = "small"
    batch_pages: int = 8
    warmup_steps: int = 30
    inner_lr: float = 2e-3
    adam_beta2: float = 0.95
    outer_lr: float = 1.0
    decay: float = 0.9
    top_k: int = 64
    bits: int = 2
    clip_factor: float = 2.0
    min_divisor: int = 2
    weighting: str = "equal"
    slow_miners: int = 0
    noise_miners: int = 0
    eager: float = 0.0
    step_ahead: float = 0.0
    compensate: float = 0.0
    warm_steps: int = 0
    dense_rounds: int = 0
    outer_warmup: int = 0
    catch_up_step: int = 0
    decay_share: float = 1.0
    inner: str = "adamw"
    muon_momentum: float = 0.95
    max_length_ratio: float = 0.0

    def __post_init__(self) -> None:
        _check(self.lag in (0, 1), "lag", "0 or 1")
        _check(self.bits in (1, 2, 4), "bits", "1, 2 or 4")
        _check(self.weighting in ("equal", "tokens"), "weighting", '"equal" or "tokens"')
        _check(self.inner in ("adamw", "muon"), "inner", '"adamw" or "muon"')
        _check(0 <= self.noise_miners < self.miners, "noise_miners", "fewer than miners")
        _check(min(self.miners, self.inner_steps, self.rounds) > 0, "miners", "positive numbers")

    @property
    def canonical(self) -> str:
        """Without what came after the first records, where it is as before."""
        fields = {k: v for k, v in asdict(self).items() if LATER_FIELDS.get(k, ...) != v}
        return json.dumps(fields, sort_keys=True, separators=(",", ":"))

    @property
    def key(self) -> str:
        return hashlib.sha256(self.canonical.encode()).hexdigest()[:KEY_DIGITS]

    @property
    def total_steps(self) -> int:
        """Inner steps that one miner makes, the warm start aside."""
        return self.rounds * self.inner_steps

    def steps_of(self, miner: int) -> int:
        """A miner's inner steps in one round; 0 for a miner that sends noise."""
        if miner >= self.miners - self.noise_miners:
            return 0
        return max(1, self.inner_steps // 3) if miner < self.slow_miners else self.inner_steps

    def tokens(self, page_tokens: int) -> int:
        steps = self.rounds * sum(self.steps_of(m) for m in range(self.miners)) + self.warm_steps
        return steps * self.batch_pages * page_tokens


def _check(ok: bool, field: str, remedy: str) -> None:
    if not ok:
        raise ConfigError(f"trial: {field}: must be {remedy}")
