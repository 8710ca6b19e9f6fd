"""R simulated miners: pages, AdamW states, and one model that stands at each in turn.

One after another, not stacked: at 512 tokens a step the products already run at the
core's peak, and a batched version of the same model was only 1.1 times as fast. What a
miner draws depends on the seed, the miner and its step alone, so that all rules of a
comparison see the same pages.

Legend: R miners, N parameters, P pages, T tokens of a page.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.learning.muon import Muon
from benchmarks.learning.space import Space
from benchmarks.learning.text import ROOT, load_pages, spread
from benchmarks.learning.trial import Trial
from template.commands.plan import RunChoices, check_plan, load_plan
from template.protocol.spec import RunSpec
from template.training.model import build_model, initial_params, tensor_shapes
from template.training.rates import inner_lr
from template.training.scorer import means_of_parts

PLAN = ROOT / "runs" / "localnet.toml"
OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
MODELS = {
    "tiny": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1},
    "deep": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4},
    "small": {},
    "medium": {
        "hidden_size": 128,
        "intermediate_size": 344,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "large": {
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
    "huge": {
        "hidden_size": 512,
        "intermediate_size": 1376,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
}
"""What differs from the localnet's model: 18, 49, 114 and 428 thousand parameters, 3.2 and 9.6
million.
"""

CURVE_PAGES, FINAL_PAGES = 160, 1600
EVAL_BATCH = 16
TRAINING, WARM_START, SCORING = 0, 1, 2
"""First word of the seeds of what is drawn."""


def trial_plan(trial: Trial) -> dict[str, Any]:
    """The localnet's plan with the changes of a trial."""
    plan = load_plan(PLAN)
    plan["model"] |= MODELS[trial.model]
    plan["schedule"]["num_windows"] = trial.rounds
    plan["training"] |= {
        "inner_steps": trial.inner_steps,
        "batch_pages": trial.batch_pages,
        "inner_lr": trial.inner_lr,
        "adam_beta2": trial.adam_beta2,
        "decay_share": trial.decay_share,
        "warmup_windows": trial.warmup_steps / trial.inner_steps,
        "max_parts": 1,
    }
    plan["compression"] = {"top_k": trial.top_k, "error_feedback_decay": min(trial.decay, 0.9999)}
    plan["outer"] |= {
        "outer_lr": trial.outer_lr,
        "min_divisor": trial.min_divisor,
        "clip_factor": trial.clip_factor or 1e9,
        "max_length_ratio": trial.max_length_ratio,
    }
    return plan


def trial_spec(trial: Trial) -> RunSpec:
    """The spec of a trial's plan, without digests."""
    return check_plan(PLAN, trial_plan(trial), RunChoices(owner_hotkey=OWNER, start_block=100))


class Workers:
    """The miners of one trial; `train` is what they do in a round. `eval_batch`: pages a pass."""

    eval_batch = EVAL_BATCH

    def __init__(self, trial: Trial) -> None:
        self.trial, self.spec = trial, trial_spec(trial)
        self.space = Space(shapes=tensor_shapes(self.spec))
        self._pages = load_pages(self.spec.data.page_tokens)
        self._model = build_model(self.spec)
        self._grad_N = torch.zeros(self.space.num_elements)
        for name, grad in self.space.views(self._grad_N).items():
            self._model.get_parameter(name).grad = grad
        self._optimizers: dict[int, torch.optim.AdamW] = {}
        self._muons: dict[int, Muon] = {}
        self._theta0_N = self._trained_alone()

    def theta0(self) -> Tensor:
        """The first parameters, float32 [N]; trained alone for a while if the trial says so."""
        return self._theta0_N.clone()

    def _trained_alone(self) -> Tensor:
        params_N = self.space.flat(initial_params(self.spec, self.trial.seed))
        for step in range(self.trial.warm_steps):
            self._step(params_N, -1, self._draw(WARM_START, 0, step), self._warm_lr(step))
        self._optimizers.clear()
        self._muons.clear()
        return params_N

    def train(self, bases_RN: Tensor, number: int) -> Tensor:
        """Start less end of every miner's inner steps in round `number`; [R, N]."""
        ends_RN = bases_RN.clone()
        self.advance(ends_RN, number, 0, self.trial.inner_steps)
        return bases_RN - ends_RN

    def advance(self, params_RN: Tensor, number: int, first: int, stop: int) -> None:
        """Inner steps `first` to `stop` of round `number`, every miner's in place."""
        for miner, params_N in enumerate(params_RN):
            for step in range(first, min(stop, self.trial.steps_of(miner))):
                pages = self._draw(TRAINING, miner, number * self.trial.inner_steps + step)
                self._step(params_N, miner, pages, self.inner_lr(number, step))

    def gradients(self, params_N: Tensor, number: int, step: int) -> Tensor:
        """The miners' gradients at the same parameters, on the pages `train` takes; [R, N]."""
        self._stand_at(params_N)
        rows = []
        for miner in range(self.trial.miners):
            self._backward(self._draw(TRAINING, miner, number * self.trial.inner_steps + step))
            rows.append(self._grad_N.clone())
        return torch.stack(rows)

    def inner_lr(self, number: int, step: int) -> float:
        """The run's schedule: linear warm-up, then a cosine to a tenth at the last round."""
        return inner_lr(self.spec, number, step)

    def adamw(self, params_N: Tensor) -> torch.optim.AdamW:
        """The run's inner optimiser over one vector, which it changes in place."""
        training = self.spec.training
        return torch.optim.AdamW(
            [torch.nn.Parameter(params_N)],
            lr=training.inner_lr,
            betas=(training.adam_beta1, training.adam_beta2),
            weight_decay=training.weight_decay,
            fused=True,
        )

    def muon(self) -> Muon:
        """Muon for the hidden matrices, AdamW for all else."""
        return Muon(self.space, self.spec, self.trial.muon_momentum)

    def held_out_loss(self, params_N: Tensor, num_pages: int) -> float:
        """Nats per byte on fixed pages of works that nobody trains on."""
        return float(self.losses(params_N, spread(self._pages.held_out, num_pages)).mean())

    def scoring_pages(self, number: int) -> np.ndarray:
        """The common pool on which the payloads of a round are judged."""
        count = self.spec.evaluation.held_out_pages
        ids = self._random(SCORING, 0, number).integers(len(self._pages.train), size=count)
        return self._pages.train[ids]

    def draw(self, miner: int, step: int, width: int = 1) -> np.ndarray:
        """Pages of a miner's inner step, counted from the run's start; int64 [P, T].

        `width`: batches in one step.
        """
        return self._draw(TRAINING, miner, step, width)

    def gradient(self, params_N: Tensor, pages: np.ndarray) -> Tensor:
        """The gradient of the mean loss of some pages; [N], overwritten by the next."""
        self._stand_at(params_N)
        self._backward(pages)
        return self._grad_N

    def step(self, params_N: Tensor, miner: int, pages: np.ndarray, lr: float) -> None:
        """One inner step of a miner, in place."""
        self._step(params_N, miner, pages, lr)

    def random_pages(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Training pages of anybody's, int64 [P, T]."""
        return self._pages.train[rng.integers(len(self._pages.train), size=count)]

    def losses(self, params_N: Tensor, pages_PT: np.ndarray) -> np.ndarray:
        """Mean loss of every page, float64 [P]."""
        return self.part_losses(params_N, pages_PT, 1)[:, 0]

    @torch.no_grad()
    def part_losses(self, params_N: Tensor, pages_PT: np.ndarray, parts: int) -> np.ndarray:
        """Mean losses of so many equal parts of every page, float64 [P, parts]."""
        self._stand_at(params_N)
        found = [
            means_of_parts(self._token_losses(torch.from_numpy(batch)), parts)
            for batch in np.split(pages_PT, range(self.eval_batch, len(pages_PT), self.eval_batch))
        ]
        return np.concatenate(found)

    def _random(self, what: int, miner: int, step: int) -> np.random.Generator:
        return np.random.default_rng((what, self.trial.seed, miner, step))

    def _draw(self, what: int, miner: int, step: int, width: int = 1) -> np.ndarray:
        """Pages of the miner's own shard: every R-th page of the text, from page `miner` on."""
        shard = self._pages.train[miner :: self.trial.miners]
        count = width * self.trial.batch_pages
        ids = self._random(what, miner, step).integers(len(shard), size=count)
        return shard[ids]

    def _warm_lr(self, step: int) -> float:
        warmup = self.trial.warmup_steps
        return self.spec.training.inner_lr * min(1.0, (step + 1) / max(1, warmup))

    def _step(self, params_N: Tensor, miner: int, pages: np.ndarray, lr: float) -> None:
        """One step of a miner's inner optimiser, in place."""
        if self.trial.inner == "muon":
            if miner not in self._muons:
                self._muons[miner] = self.muon()
            self._muons[miner].step(params_N, self.gradient(params_N, pages), lr)
            return
        if miner not in self._optimizers:
            self._optimizers[miner] = self.adamw(params_N)
        optimizer = self._optimizers[miner]
        (group,) = optimizer.param_groups
        (parameter,) = group["params"]
        parameter.data, group["lr"] = params_N, lr
        self._stand_at(params_N)
        self._backward(pages)
        parameter.grad = self._grad_N
        torch.nn.utils.clip_grad_norm_(parameter, self.spec.training.max_gradient_norm)
        optimizer.step()

    def _stand_at(self, params_N: Tensor) -> None:
        for name, view in self.space.views(params_N.detach()).items():
            self._model.get_parameter(name).data = view

    def _backward(self, pages: np.ndarray) -> None:
        self._grad_N.zero_()
        self._page_losses(torch.from_numpy(pages)).mean().backward()

    def _page_losses(self, tokens_PT: Tensor) -> Tensor:
        return self._token_losses(tokens_PT).mean(dim=1)

    def _token_losses(self, tokens_PT: Tensor) -> Tensor:
        logits = self._logits(tokens_PT)
        losses = functional.cross_entropy(
            logits.flatten(0, 1), tokens_PT[:, 1:].flatten(), reduction="none"
        )
        return losses.view(len(tokens_PT), -1)

    def _logits(self, tokens_PT: Tensor) -> Tensor:
        """Of all tokens but the first, [P, T - 1, V]."""
        logits: Tensor = self._model(input_ids=tokens_PT).logits[:, :-1]
        return logits
