"""`model generate --chat`: the model answers, by the chat template in its folder."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jinja2 import TemplateError

from template.cli.model_flags import GenerateConfig
from template.commands.model_generate import Loaded, continue_tokens, load_model
from template.commands.model_latest import model_folder
from template.data.chat import ASSISTANT, USER
from template.errors import ConfigError
from template.protocol.strangers import MALFORMED, fault

Say = Callable[[str], None]
Messages = list[dict[str, str]]
PROMPT = "> "


def run_chat(config: GenerateConfig, write: Say, say: Say) -> None:
    """Answer the prompt; without one each line of standard input, with what was said before.

    ConfigError for a folder without a model, or without a chat template.
    """
    with model_folder(config.source, say) as folder:
        loaded = load_model(folder, config.source.device)
    if loaded.tokenizer.chat_template is None:
        raise ConfigError(
            f"--chat: the model in {folder} has no chat template: it continues texts, leave --chat "
            "out; a run has one after a succession with the table [data.chat] (docs/succession.md)"
        )
    turns: Iterable[str] = [config.prompt] if config.prompt is not None else _lines(write)
    chat(loaded, config, turns, write, say)


def chat(
    loaded: Loaded, config: GenerateConfig, turns: Iterable[str], write: Say, say: Say
) -> Messages:
    """Answer each turn, and write the answers; all messages.

    The oldest turns are forgotten where question and history leave an answer no room in the
    length that the model was trained on.
    """
    messages: Messages = []
    ends = _ends(loaded)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        for turn in turns:
            if not turn:
                continue
            messages.append({"role": USER, "content": turn})
            ids = _prompt_ids(loaded, messages)
            while len(messages) > 1 and len(ids) >= loaded.context_tokens:
                messages = messages[2:]
                ids = _prompt_ids(loaded, messages)
            made = continue_tokens(loaded, config, ids, write, say, ends)
            write("\n")
            answer = [token for token in made if token not in ends]
            text = loaded.tokenizer.decode(answer, skip_special_tokens=True)
            messages.append({"role": ASSISTANT, "content": text})
    return messages


def _prompt_ids(loaded: Loaded, messages: Messages) -> list[int]:
    """The tokens of a conversation, up to the token before an answer."""
    try:
        ids: Any = loaded.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except (TemplateError, MemoryError, *MALFORMED) as error:
        raise ConfigError(
            f"--chat: the chat template of the model cannot be used ({fault(error)}): take a "
            "folder that `tessera model latest` has written"
        ) from error
    return [int(token) for token in ids]


def _ends(loaded: Loaded) -> frozenset[int]:
    """The tokens that end an answer, by the folder's settings of generation."""
    ends = loaded.model.generation_config.eos_token_id
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return frozenset(int(token) for token in listed)


def _lines(write: Say) -> Iterator[str]:
    """The lines of standard input until its end; on a terminal with a sign that asks for one.

    ConfigError for a line that is not UTF-8.
    """
    is_terminal, number = sys.stdin.isatty(), 0
    while True:
        if is_terminal:
            write(PROMPT)
        number += 1
        try:
            line = sys.stdin.readline()
            line.encode("utf-8")  # Elsewhere a stray byte comes as a lone surrogate.
        except UnicodeError as error:
            raise ConfigError(
                f"standard input: is not UTF-8 in line {number} or after: mend it, or convert it "
                "by `iconv`"
            ) from error
        if not line:
            if is_terminal:
                write("\n")
            return
        yield line.rstrip("\n")
