"""A model in a folder for people: what it is, in words and as JSON, beside the model's files.

Owns `README.md` (the model card) and `tessera.json`. Unlike the model's own files both say things
that one reader measured, such as the loss.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from template.errors import ConfigError
from template.files import reason, remedy
from template.protocol.spec import RunSpec
from template.training.model_folder import ModelFiles, model_files, write_files
from template.training.outer import OuterState

CARD_FILE = "README.md"
FACTS_FILE = "tessera.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """What is known of a model. `num_payloads`, `max_tokens`: payloads in theta, and the most
    tokens that their miners can have trained on; None if no bucket has the whole lineage.
    `loss_nats`: mean over `loss_pages` held-out pages, per token; None if not measured. `dtype`: of
    the numbers in the folder; theta itself is float32.
    """

    run: str
    run_id: str
    network: str
    netuid: int
    window: int
    lineage_root: str
    checkpoint_digest: str
    parameters: int
    page_tokens: int
    tokenizer: str
    end_of_document: int
    num_payloads: int | None
    max_tokens: int | None
    loss_nats: float | None
    loss_pages: int
    dtype: str = "float32"


def files_with_card(
    state: OuterState, spec: RunSpec, companions: Mapping[str, bytes], facts: Facts
) -> ModelFiles:
    """The model's files with numbers of `facts.dtype`, the model card and the facts."""
    files = model_files(state.params, spec, companions, facts.dtype)
    own = {CARD_FILE: model_card(facts, spec).encode(), FACTS_FILE: facts_json(facts)}
    return replace(files, small={**files.small, **own})


def write_model(
    folder: Path, state: OuterState, spec: RunSpec, companions: Mapping[str, bytes], facts: Facts
) -> None:
    """Write a model into a folder, in place of an earlier one; ConfigError if the disk refuses."""
    try:
        write_files(folder, files_with_card(state, spec, companions, facts))
    except OSError as error:
        raise ConfigError(
            f"--out {folder}: cannot be written ({reason(error)}); {remedy(folder, error)}"
        ) from error


def facts_json(facts: Facts) -> bytes:
    return json.dumps(asdict(facts), sort_keys=True, indent=1).encode()


def end_of_document(folder: Path) -> int | None:
    """The separator's id, as `tessera.json` of a folder says; None in a folder without it."""
    with suppress(OSError, ValueError):
        found = json.loads((folder / FACTS_FILE).read_bytes())
        end = found.get("end_of_document") if isinstance(found, dict) else None
        return end if type(end) is int and end >= 0 else None
    return None


def model_card(facts: Facts, spec: RunSpec) -> str:
    """The model card: Markdown, with the head that the hub reads."""
    model = spec.model
    tokens = "not counted: the whole lineage was not at hand"
    if facts.num_payloads is not None and facts.max_tokens is not None:
        tokens = f"{facts.max_tokens:,} at most, in {facts.num_payloads:,} payloads"
    loss = "not measured"
    if facts.loss_nats is not None:
        loss = f"{facts.loss_nats:.4f} nats per token, mean of {facts.loss_pages} pages"
    rows = {
        "Run": f"{_plain(facts.run)}, id `{facts.run_id}`",
        "Subnet": f"netuid {facts.netuid}, {facts.network} chain",
        "Window": f"{facts.window} (theta_{facts.window})",
        "Lineage root": f"`{facts.lineage_root}`",
        "Checkpoint digest": f"`{facts.checkpoint_digest}`",
        "Architecture": f"{model.architecture}, {facts.parameters:,} parameters",
        "Numbers": _NUMBERS[facts.dtype],
        "Tokenizer": _plain(facts.tokenizer),
        "Context": f"{facts.page_tokens:,} tokens",
        "Tokens trained": tokens,
        "Held-out loss": loss,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    what = _BASE if spec.data.chat is None else _CHAT
    return _CARD.format(window=facts.window, table=table, what=what)


def _plain(text: str) -> str:
    """A name as Markdown that starts nothing: the owner chose it, and others read it."""
    return "".join(c if c.isalnum() or c in " -._" else " " for c in text)


_NUMBERS = {
    "float32": "float32, exactly those of the run",
    "bfloat16": "bfloat16, rounded to nearest from the run's float32",
}
_BASE = """\
A language model pre-trained by strangers on a Bittensor subnet. It is a base model: it continues
text, follows no instructions, and is filtered for nothing."""
_CHAT = """\
A language model trained by strangers on a Bittensor subnet, last on conversations. Its tokenizer
has a chat template (`tokenizer.apply_chat_template`, `tessera model generate --chat`), answers end
with the token at which generation ends, the held-out loss is that of answers, and the model is
filtered for nothing."""
_CARD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- tessera
- bittensor
---

# theta_{window}

{what}

| | |
|---|---|
{table}

The lineage root names every payload that made these parameters. The votes of most of the
validators' stake on chain lead to it, and anybody can compute the parameters again
(`tessera replay`). A payload's miner claims the tokens trained; the figure is the upper bound.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("FOLDER")
tokenizer = AutoTokenizer.from_pretrained("FOLDER")
words = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**words, max_new_tokens=64)[0]))
```
"""
