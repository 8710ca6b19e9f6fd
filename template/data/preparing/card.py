"""The data card: what went into a dataset, what was left out, and how to get the same bytes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from template.errors import ConfigError
from template.protocol.spec import ChatSpec
from template.protocol.strangers import MALFORMED, fault
from template.protocol.toml import from_table

CARD_NAME: Final = "card.json"
TEXT_NAME: Final = "CARD.md"
MAX_LISTED: Final = 50
"""Sources that the text lists; the JSON file lists all."""

Card = Mapping[str, Any]


def card_json(card: Card) -> bytes:
    """The card for programs: one value a line, keys sorted."""
    return (json.dumps(card, indent=1, sort_keys=True) + "\n").encode("ascii")


def read_chat(folder: Path) -> ChatSpec | None:
    """The table `[data.chat]` in a dataset's card; None for a card without the table.

    ConfigError for a card that is damaged, and for a dataset without one: whether its documents
    are conversations is not known then.
    """
    path = folder / CARD_NAME
    try:
        card = json.loads(path.read_bytes())
        table = card.get("chat")
        return None if table is None else from_table(ChatSpec, table, "chat.")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: has no {CARD_NAME}, which says whether its documents are conversations: "
            "the command that made the dataset was interrupted; prepare or mix it again, in "
            "another folder"
        ) from error
    except (OSError, ConfigError, *MALFORMED) as error:
        raise ConfigError(
            f"{path}: cannot be read ({fault(error)}): prepare the dataset again"
        ) from error


def card_text(card: Card) -> bytes:
    """The card for people, in Markdown."""
    counts, tokenizer, leak = card["counts"], card["tokenizer"], card["leak"]
    lines = [
        "# Data card",
        "",
        f"Licence: {card['licence'] or 'not given'}",
        "",
        f"Manifest (SHA-256): `{card['manifest_sha256']}`",
        "",
        f"Tokenizer: {tokenizer['name']}, {tokenizer['vocab_size']:,} tokens"
        + (
            f", `tokenizer.json` with SHA-256 `{tokenizer['sha256']}`"
            if tokenizer["sha256"]
            else ""
        ),
        "",
        "| | documents | bytes of text | tokens | in shards |",
        "|---|---|---|---|---|",
        *(
            _side(name, counts[key])
            for name, key in (("training", "train"), ("held out", "held_out"))
        ),
        "",
        f"Left out: {counts['empty']:,} empty documents, {counts['repeats']:,} repeated, "
        f"{counts['bad']:,} that could not be read.",
        *(f"- {_shown(example)}" for example in card["bad_examples"]),
        *_chat_lines(card),
        "",
        f"Leak: {leak_words(leak)}.",
        "",
        "## Settings",
        "",
        *(f"- {key}: {value}" for key, value in sorted(card["settings"].items())),
        "",
        "## Sources",
        "",
        "| name | kind | bytes | SHA-256 |",
        "|---|---|---|---|",
        *_sources(card["sources"]),
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def mixture_text(card: Card) -> bytes:
    """The card of a mixture for people, in Markdown."""
    lines = [
        "# Data card",
        "",
        f"A mixture of {len(card['mixture'])} datasets, by segments; each has a card of its own.",
        "",
        f"Manifest (SHA-256): `{card['manifest_sha256']}`",
        "",
        f"Tokenizer: {card['tokenizer']['name']}, {card['tokenizer']['vocab_size']:,} tokens",
        "",
        f"Held out: the shard `{card['held_out_sha256']}`. Seed: {card['seed']}.",
        "",
        "| dataset | manifest (SHA-256) | share | segments taken | of |",
        "|---|---|---|---|---|",
        *(
            f"| {_shown(each['name'])} | {each['manifest_sha256']} | {each['share']} | "
            f"{each['segments']:,} | {each['segments_there']:,} |"
            for each in card["mixture"]
        ),
        *_chat_lines(card),
    ]
    return ("\n".join(lines) + "\n").encode("utf-8")


def _chat_lines(card: Card) -> list[str]:
    """Of conversations: the table of the run spec, and what did not fit."""
    if "chat" not in card:
        return []
    lines = ["", "Conversations: `[data.chat]` of the run spec is"]
    lines.append(", ".join(f"`{key} = {token}`" for key, token in card["chat"].items()) + ".")
    sides = [card["counts"][key] for key in ("train", "held_out")] if "counts" in card else []
    if sides:
        too_long, filling, tokens = (
            sum(side[key] for side in sides) for key in ("too_long", "filling", "tokens")
        )
        lines.append(
            f"Left out: {too_long:,} conversations longer than a page. "
            f"{percent(filling, tokens)} of the tokens fill pages."
        )
    return lines


def leak_words(leak: Mapping[str, Any]) -> str:
    """How much of the held-out text is in the training text, as part of a sentence."""
    what, total, found = leak["what"], leak["num_grams"], leak["num_found"]
    if not total:
        return f"no document of the held-out text is so long that it has {what} to look for"
    return (
        f"{percent(found, total)} of {total:,} {what} of the held-out text are in the training "
        "text too"
    )


def percent(part: int, whole: int) -> str:
    """A share with three digits after the point: a leak of 0.024 % is worth knowing."""
    return f"{100 * part / max(1, whole):.3f} %"


def _side(name: str, side: Mapping[str, int]) -> str:
    return (
        f"| {name} | {side['documents']:,} | {side['bytes']:,} | {side['tokens']:,} | "
        f"{side['tokens_in_shards']:,} |"
    )


def _sources(sources: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {_shown(each['name'])} | {each['kind']} | {each['bytes']:,} | "
        f"{each['sha256'] or 'none: a dataset of a library'} |"
        for each in sources[:MAX_LISTED]
    ]
    if len(sources) > MAX_LISTED:
        rows.append(f"| and {len(sources) - MAX_LISTED:,} more, in {CARD_NAME} | | | |")
    return rows


def _shown(text: str) -> str:
    """A file's name in a table of Markdown."""
    return text.replace("|", "\\|").replace("\n", " ")
