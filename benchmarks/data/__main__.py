"""MB/s per core of `tessera data prepare` beside `datasets`: shuffle, encode, write tokens.

Both read the shipped text as JSON lines of 4 KB and use the same tokenizer in one process;
`datasets` makes neither digests nor a card, looks for no leaks and holds nothing out. The two take
turns. Writes benchmarks/results/data_prepare.json.

    python -m benchmarks.data
"""

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from template.cli.flags import CHECKOUT, DEFAULT_TEXT
from template.data.corpus import load_corpus
from template.data.preparing.bpe import END_OF_DOCUMENT, train_bpe
from template.data.preparing.documents import slices
from template.data.preparing.order import Order
from template.data.preparing.prepare import prepare
from template.data.preparing.settings import Choices
from template.data.preparing.vocabulary import TokenizerChoice

RESULT = CHECKOUT / "benchmarks" / "results" / "data_prepare.json"
VOCAB_SIZE, CUT_BYTES, REPEATS = 4_096, 4_096, 3


def main() -> None:
    """Measure, print and record."""
    # Both the tokenizer's threads and the worker have one core each way.
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1")
    corpus = load_corpus(DEFAULT_TEXT)
    texts = [piece for document in corpus.train for piece in slices(document.text, CUT_BYTES)]
    num_bytes = sum(map(len, texts))
    seconds: dict[str, list[float]] = {"tessera": [], "datasets": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, tokenizer = folder / "a.jsonl", folder / "tokenizer.json"
        tokenizer.write_bytes(train_bpe(texts, VOCAB_SIZE))
        rows = (json.dumps({"text": text.decode()}) for text in texts)
        source.write_text("\n".join(rows) + "\n")
        for repeat in range(REPEATS):
            began_s = time.perf_counter()
            _with_tessera(source, tokenizer, folder / f"ours{repeat}")
            seconds["tessera"].append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            _with_datasets(source, tokenizer, folder / f"theirs{repeat}")
            seconds["datasets"].append(time.perf_counter() - began_s)
    rates = {key: num_bytes / 1e6 / statistics.median(each) for key, each in seconds.items()}
    found: dict[str, Any] = {
        "num_bytes": num_bytes,
        "vocab_size": VOCAB_SIZE,
        "seconds": seconds,
        "mb_per_s_per_core": rates,
    }
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


def _with_tessera(source: Path, tokenizer: Path, out: Path) -> None:
    order = Order(
        inputs=(str(source),),
        out=out,
        choices=Choices(held_out_ppm=10_000),
        tokenizer=TokenizerChoice(path=tokenizer),
        page_tokens=256,
        segment_pages=16,
        workers=1,
    )
    prepare(order, lambda _: None)


def _with_datasets(source: Path, tokenizer: Path, out: Path) -> None:
    import datasets
    import numpy as np
    import tokenizers

    encoder = tokenizers.Tokenizer.from_file(str(tokenizer))
    end = encoder.token_to_id(END_OF_DOCUMENT)
    assert end is not None

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        found = encoder.encode_batch_fast(batch["text"], add_special_tokens=False)
        return {"ids": [[*each.ids, end] for each in found]}

    cache = str(out / "cache")
    rows = datasets.load_dataset("json", data_files=str(source), split="train", cache_dir=cache)
    encoded = rows.shuffle(seed=0).map(encode, batched=True, remove_columns=["text"])
    with (out / "tokens").open("wb") as file:
        for batch in encoded.with_format("arrow").iter(1_000):
            ids = batch.column("ids").combine_chunks().flatten().to_numpy()
            file.write(ids.astype(np.uint16).tobytes())


if __name__ == "__main__":
    main()
