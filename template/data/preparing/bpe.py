"""Training a byte-level BPE tokenizer on the training documents."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from template.data.preparing.documents import slices

END_OF_DOCUMENT: Final = "<|endoftext|>"
_SLICE_BYTES: Final = 2**20


def train_bpe(texts: Iterable[bytes], vocab_size: int, reserved: Sequence[str] = ()) -> bytes:
    """The `tokenizer.json` of a byte-level BPE: lossless, the same bytes for the same texts.

    The vocabulary is smaller than asked for where the texts have no more pairs to merge.
    `reserved`: special tokens beside the end of a document.
    """
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_DOCUMENT, *reserved],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_strings(texts), trainer)
    text: str = tokenizer.to_str()
    return text.encode()


def _strings(texts: Iterable[bytes]) -> Iterator[str]:
    for text in texts:
        for piece in slices(text, _SLICE_BYTES):
            yield piece.decode("utf-8")
