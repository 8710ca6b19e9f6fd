"""A validator's memory on disk: what comes back pays as what was saved."""

import json

import pytest

from evaluation.history import Entry
from evaluation.work import WorkSample
from template.base.memory import ValidatorMemory
from template.errors import ConfigError
from template.protocol.spec import parse_spec
from template.scoring.rules import pay_rules
from tests.support.scoring import SPEC_FILE

RULES = pay_rules(parse_spec(SPEC_FILE.read_text(encoding="ascii")))
SAMPLE = WorkSample(effect=0.5, variance=0.07, page_effect=0.2, page_square=1.3)


@pytest.mark.parametrize(
    "entry",
    [
        Entry(relative_gain=0.25, pages=480, work=SAMPLE, gain_log_ratio=1.5, named_gain=0.01),
        Entry(relative_gain=0.25, pages=480, work=SAMPLE, model_share=0.4, width=4),
        Entry(relative_gain=None, pages=0),
    ],
    ids=["usual", "a wide part", "not drawn"],
)
def test_an_entry_comes_back_with_every_field(entry: Entry) -> None:
    """Without the share of the model, a validator that restarted would pay a part as a whole."""
    memory = ValidatorMemory(rules=RULES, histories={"hk1": {7: entry}})
    saved = json.loads(json.dumps(memory.to_values()))
    assert ValidatorMemory.from_values(saved, RULES).histories == {"hk1": {7: entry}}


def test_accounts_of_another_version_are_refused_with_the_remedy() -> None:
    entry = Entry(relative_gain=0.25, pages=480, work=SAMPLE)
    memory = ValidatorMemory(rules=RULES, histories={"hk1": {7: entry}})
    saved = json.loads(json.dumps(memory.to_values()))
    saved["histories"]["hk1"]["7"].pop()
    with pytest.raises(ConfigError, match="state_dir.*start the version that wrote them"):
        ValidatorMemory.from_values(saved, RULES)
