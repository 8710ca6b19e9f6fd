"""Conversations as text and as tokens: markers, the template, and what a conversation must be.

Pure. A message is its role's marker, the content, and the end marker; conversations follow each
other without anything between. `chat_template` says the same to other programs: what
`apply_chat_template` makes of a conversation are the tokens that training has seen.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Final

from template.data.manifest import BYTE_TOKENIZER, MAX_TOKENIZER_BYTES, TokenizerEntry
from template.protocol.spec import ChatSpec
from template.protocol.strangers import parse_json

SYSTEM, USER, ASSISTANT, END = "system", "user", "assistant", "end"
ROLES: Final = (SYSTEM, USER, ASSISTANT)
MARKERS: Final = {name: f"<|{name}|>" for name in (*ROLES, END)}
"""The markers of every tokenizer but `byte`, by the key of `[data.chat]`."""
BYTE_CHAT: Final = ChatSpec(system=1, user=5, assistant=2, end=3)
"""The markers of `byte`: start of heading, enquiry, start of text, end of text."""
MAX_MARKER_CHARS: Final = 64
_ASCII: Final = 128


class ChatError(Exception):
    """A conversation that cannot be taken; the message follows "messages" or a document's name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Markers:
    """The texts of the four tokens of `[data.chat]`."""

    system: str
    user: str
    assistant: str
    end: str

    def of(self, role: str) -> str:
        """The marker of one of `ROLES`."""
        return {SYSTEM: self.system, USER: self.user, ASSISTANT: self.assistant}[role]


NAMED_MARKERS: Final = Markers(**MARKERS)
BYTE_MARKERS: Final = Markers(**{key: chr(byte) for key, byte in asdict(BYTE_CHAT).items()})


def markers_of(chat: ChatSpec, entry: TokenizerEntry, data: bytes) -> Markers | None:
    """The texts of the tokens of `chat`; None if one is no special token of the tokenizer.

    `data`: the dataset's `tokenizer.json`. Only a special token is cut out of a text before the
    rest is encoded; of `byte`, every character of ASCII. ObjectError for a file that is no JSON.
    """
    if entry.name == BYTE_TOKENIZER:
        texts = {token: chr(token) for token in asdict(chat).values() if token < _ASCII}
    else:
        texts = {token: text for text, token in special_tokens(data).items()}
    found = {key: texts.get(token, "") for key, token in asdict(chat).items()}
    if not all(0 < len(text) <= MAX_MARKER_CHARS for text in found.values()):
        return None
    return Markers(**found)


def special_tokens(data: bytes) -> dict[str, int]:
    """Text -> id of the special tokens of a `tokenizer.json`. ObjectError if it is no JSON."""
    document = parse_json(data, "tokenizer.json", max_bytes=MAX_TOKENIZER_BYTES)
    added = document.get("added_tokens") if isinstance(document, dict) else None
    found = {}
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and token.get("special") is True:
            text, number = token.get("content"), token.get("id")
            if isinstance(text, str) and type(number) is int:
                found[text] = number
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatForm:
    """How conversations become text. `refused`: texts that no content may have, since they would be
    read as tokens.
    """

    markers: Markers
    refused: tuple[str, ...]


def rendered(messages: object, form: ChatForm) -> str:
    """A conversation as text with markers. ChatError for anything else than the standard form.

    `messages`: [{"role": "system" | "user" | "assistant", "content": TEXT}, ...] with an answer,
    and no answer empty.
    """
    markers = form.markers
    if not isinstance(messages, list) or not messages:
        raise ChatError("is no list of messages")
    parts, has_answer = [], False
    for number, message in enumerate(messages, start=1):
        role, content = _role_and_content(message, number)
        for text in form.refused:
            if text in content:
                raise ChatError(
                    f"message {number} holds {json.dumps(text)}, which is a token of the tokenizer"
                )
        if role == ASSISTANT and not content:
            raise ChatError(f"message {number} is an empty answer")
        has_answer |= role == ASSISTANT
        parts.append(f"{markers.of(role)}{content}{markers.end}")
    if not has_answer:
        raise ChatError(f"has no message of the role {ASSISTANT}")
    return "".join(parts)


def _role_and_content(message: object, number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise ChatError(f"message {number} is no object with role and content")
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise ChatError(f"message {number} has another role than {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise ChatError(f"message {number} has no text as content")
    return str(role), content


def chat_template(markers: Markers) -> str:
    """The template in Jinja, as `tokenizer_config.json` has it."""
    cases = "".join(
        f"{{%- {'if' if role == SYSTEM else 'elif'} message['role'] == '{role}' -%}}"
        f"{{{{- {_quoted(markers.of(role))} -}}}}"
        for role in ROLES
    )
    return (
        "{%- for message in messages -%}"
        f"{cases}"
        "{%- else -%}"
        "{{- raise_exception('a role is system, user or assistant') -}}"
        "{%- endif -%}"
        f"{{{{- message['content'] + {_quoted(markers.end)} -}}}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        f"{{{{- {_quoted(markers.assistant)} -}}}}"
        "{%- endif -%}"
    )


def _quoted(text: str) -> str:
    """A text of Jinja, whose escapes are Python's: printable ASCII for any text."""
    return ascii(text)


def plain_texts(text: str, markers: Markers) -> list[str]:
    """The contents of a rendered conversation, without markers."""
    signs = (markers.system, markers.user, markers.assistant, markers.end)
    return [part for part in re.split("|".join(map(re.escape, signs)), text) if part]


def chat_table(chat: ChatSpec) -> str:
    """The table `[data.chat]` as TOML."""
    return "[data.chat]\n" + "".join(f"{key} = {token}\n" for key, token in asdict(chat).items())
