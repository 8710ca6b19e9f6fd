"""`model generate`: the model continues a text, word by word; and loading a model from a folder.

`template.commands.model_chat` has the conversation.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
from transformers.utils import logging as transformers_logging

from template.cli.model_flags import GenerateConfig
from template.commands.model_latest import model_folder
from template.data.manifest import MAX_TOKENIZER_BYTES
from template.data.tokenizer import FastTokenizer
from template.data.tokenizer_files import TOKENIZER_FILE
from template.errors import ConfigError, ObjectError
from template.protocol.strangers import fault
from template.training.card import end_of_document
from template.training.devices import find_device

Say = Callable[[str], None]
_FAULTS = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
"""What loaders raise about a folder's content."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """A model and its tokenizer, both of `transformers`. `separator`: id between documents.

    `num_tokens`: ids of the tokenizer; a padded vocabulary has words beyond.
    """

    model: Any
    tokenizer: Any
    separator: int
    num_tokens: int

    @property
    def context_tokens(self) -> int:
        """Longest sequence that the model was trained on."""
        return int(self.model.config.max_position_embeddings)


def run_generate(config: GenerateConfig, write: Callable[[str], None], say: Say) -> None:
    """Write prompt and continuation, piece by piece; ConfigError for a folder without a model."""
    with model_folder(config.source, say) as folder:
        loaded = load_model(folder, config.source.device)
    generate(loaded, config, write, say)
    write("\n")


def load_model(folder: Path, device: str) -> Loaded:
    """The model in a folder. Nothing in the folder is run, and no hub is asked.

    ConfigError for a folder whose tensors are not whole: loaders fill the gaps with noise.
    """
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    num_tokens = _count_tokens(folder)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        model = model.to(find_device(device)).eval()
    except _FAULTS as error:
        raise _no_model(folder, fault(error)) from error
    gaps = [name for kind in ("missing_keys", "mismatched_keys") for name in info[kind]]
    if gaps:
        raise _no_model(folder, f"{len(gaps)} tensors are missing or of another shape")
    end = end_of_document(folder)
    separator = end if end is not None else tokenizer.eos_token_id
    if separator is None or not 0 <= separator < model.config.vocab_size:
        separator = 0
    return Loaded(model=model, tokenizer=tokenizer, separator=separator, num_tokens=num_tokens)


def generate(loaded: Loaded, config: GenerateConfig, write: Say, say: Say) -> None:
    """Write the prompt, and the continuation as it comes. An empty prompt begins a document."""
    prompt = config.prompt or ""
    ids = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    write(prompt)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        continue_tokens(loaded, config, ids or [loaded.separator], write, say)


def continue_tokens(
    loaded: Loaded,
    config: GenerateConfig,
    ids: Sequence[int],
    write: Say,
    say: Say,
    silent: Collection[int] = (),
) -> list[int]:
    """Continue the tokens, and write the text as it comes; the new tokens.

    `silent`: tokens that end the text and are no part of it. Draws from torch's random state.
    """
    tokens = torch.tensor([list(ids)], device=loaded.model.device)
    longest = tokens.shape[1] + config.max_tokens
    if longest > loaded.context_tokens:
        say(
            f"note: the model was trained on {loaded.context_tokens} tokens at once, and prompt "
            f"and text may have {longest}: what comes later may make less sense"
        )
    drawing: dict[str, Any] = {"do_sample": False}
    if config.temperature:
        drawing = {
            "do_sample": True,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": 0,
        }
    padding = list(range(loaded.num_tokens, int(loaded.model.config.vocab_size)))
    if padding:
        drawing["suppress_tokens"] = padding
    if silent:
        drawing["eos_token_id"] = sorted(silent)
    with torch.inference_mode():
        made = loaded.model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=config.max_tokens,
            pad_token_id=loaded.separator,
            streamer=_Pieces(loaded.tokenizer, write, silent),
            **drawing,
        )
    new: list[int] = made[0, tokens.shape[1] :].tolist()
    return new


class _Pieces(TextStreamer):
    """Hands on text word by word."""

    def __init__(
        self, tokenizer: Any, write: Callable[[str], None], silent: Collection[int]
    ) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write, self._silent = write, frozenset(silent)

    def put(self, value: torch.Tensor) -> None:
        """Take the prompt, or one new token."""
        if value.numel() != 1 or int(value.flatten()[0]) not in self._silent:
            super().put(value)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
        self._write(text)


def _count_tokens(folder: Path) -> int:
    """The tokenizer's ids: the highest and one more.

    The compiled loader panics at some files, and a panic has no name to catch.
    """
    try:
        with (folder / TOKENIZER_FILE).open("rb") as file:
            tokenizer = FastTokenizer(file.read(MAX_TOKENIZER_BYTES + 1), folder.name, 0)
            return tokenizer.entry.vocab_size
    except (OSError, ObjectError) as error:
        raise _no_model(folder, fault(error)) from error


def _no_model(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"--model {folder}: cannot be loaded ({why}): name a folder that `tessera model latest "
        "--out` has written whole"
    )
