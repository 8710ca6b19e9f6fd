"""Writes a task for lm-eval from the held-out plays: which of four words ends the verse?

The right word is the author's; the other three end other verses of the same plays. Chance is 25 %.

    python docs/examples/held_out_task.py TARBALL FOLDER
    tessera model eval --model model --task_dir FOLDER --tasks held_out_last_word
"""

import itertools
import json
import random
import re
import sys
from pathlib import Path

from template.data.corpus import load_corpus

NUM_QUESTIONS = 400
MIN_WORDS = 6
LAST_WORD = re.compile(r"(.+ )?([a-z]{4,})[.,;:!?]?")
TASK = """\
# Which of four words ends the verse? Verses of the held-out plays, one line before each.
task: held_out_last_word
dataset_path: json
dataset_kwargs:
  data_files:
    test: held_out_last_word.jsonl
output_type: multiple_choice
test_split: test
doc_to_text: "{{text}}"
doc_to_target: answer
doc_to_choice: choices
target_delimiter: " "
num_fewshot: 0
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def questions(texts: list[str]) -> list[dict[str, object]]:
    """Questions drawn by a fixed seed; each has the line before and the verse up to its end."""
    draw = random.Random(0)
    verses = [pair for text in texts for pair in _verses(text)]
    ends = sorted({end for _, end in verses})
    chosen = draw.sample(verses, NUM_QUESTIONS)
    return [_question(start, end, ends, draw) for start, end in chosen]


def _question(start: str, end: str, ends: list[str], draw: random.Random) -> dict[str, object]:
    choices = [end, *draw.sample([word for word in ends if word != end], 3)]
    draw.shuffle(choices)
    return {"text": start, "choices": choices, "answer": choices.index(end)}


def _verses(text: str) -> list[tuple[str, str]]:
    """(the line before and the verse without its last word, the last word) of long verses."""
    found = []
    lines = [line.strip() for line in text.splitlines()]
    for before, verse in itertools.pairwise(lines):
        match = LAST_WORD.fullmatch(verse)
        if before and match is not None and len(verse.split()) >= MIN_WORDS:
            found.append((f"{before}\n{match[1].rstrip()}", match[2]))
    return found


def main(tarball: Path, folder: Path) -> None:
    """Write the task and its questions into `folder`."""
    held_out = load_corpus(tarball).held_out
    rows = questions([document.text.decode("ascii") for document in held_out])
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "held_out_last_word.jsonl").write_text(text, encoding="ascii")
    (folder / "held_out_last_word.yaml").write_text(TASK, encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
