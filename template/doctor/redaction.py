"""Secrets out of text: every known secret replaced, and a search for any that is left. Pure.

The search is the last door of the support archive: it looks for each secret as it is and in the
spellings that a library may have put it into.
"""

import base64
import json
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import quote, quote_plus

from template.secret import REDACTED, Secret

MIN_SECRET_CHARS = 6
"""A shorter value would be found in texts by accident; no key or password here is that short."""


def spellings(secret: Secret) -> frozenset[str]:
    """The secret as text, URL-quoted, as JSON, in base64 and in hex."""
    value = secret.reveal()
    # A variable of the environment that is no UTF-8 has such characters.
    data = value.encode("utf-8", "surrogateescape")
    coded = (base64.b64encode(data), base64.urlsafe_b64encode(data))
    texts = (
        value,
        quote(value, safe="", errors="surrogateescape"),
        quote_plus(value, errors="surrogateescape"),
        json.dumps(value)[1:-1],
        data.hex(),
        data.hex().upper(),
        *(text.decode("ascii").rstrip("=") for text in coded),
    )
    return frozenset(texts)


class Censor:
    """Knows this node's secrets; values shorter than `MIN_SECRET_CHARS` are left out."""

    def __init__(self, secrets: Iterable[Secret]) -> None:
        found = {each for each in secrets if len(each.reveal()) >= MIN_SECRET_CHARS}
        words = {text for secret in found for text in spellings(secret)}
        # The longest first: a secret may be a part of another.
        self._words = tuple(sorted(words, key=lambda word: (-len(word), word)))

    def clean(self, text: str) -> str:
        """The text with each secret, in any spelling, as `<secret>`."""
        for word in self._words:
            text = text.replace(word, REDACTED)
        return text

    def holds_secret(self, data: bytes) -> bool:
        """Whether any spelling of any secret is in the bytes."""
        return any(word.encode("utf-8", "backslashreplace") in data for word in self._words)


def secret_words(value: object) -> Iterator[str]:
    """Every text inside a JSON value: the texts of a wallet's key file are all secret or public."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from secret_words(part)
    elif isinstance(value, list):
        for part in value:
            yield from secret_words(part)


def secrets_of_key_file(text: str, public: Collection[str]) -> list[Secret]:
    """The secret texts of a wallet's key file; `public`: names whose values are no secret.

    A file that is no JSON object is one secret, in full and line by line.
    """
    try:
        content = json.loads(text)
    except ValueError:
        return [Secret(part) for part in {text, *text.split()} if part]
    if not isinstance(content, dict):
        return [Secret(text)]
    hidden = {name: value for name, value in content.items() if name not in public}
    found = [Secret(word) for word in secret_words(hidden)]
    # Both spellings of a hexadecimal key.
    return found + [Secret(s.reveal()[2:]) for s in found if s.reveal().startswith("0x")]
