"""The run spec: the settings common to all nodes of a run.

The spec is one TOML file, parsed into frozen dataclasses. `model`, `training`, `timing` and `pay`
declare the tables: each field once, with type, constraint and docstring. `constraints` checks
fields by their declarations; `run` joins the tables, checks the rules between fields and derives
the run id; `files` reads and writes TOML. docs/run_spec.md is generated from the declarations.
"""

from template.protocol.spec.continues import ContinuesSpec
from template.protocol.spec.files import load_spec, parse_spec, spec_to_toml
from template.protocol.spec.model import ModelSpec
from template.protocol.spec.pay import EvaluationSpec, WeightsSpec
from template.protocol.spec.run import RunSpec
from template.protocol.spec.timing import CheckpointSpec, ScheduleSpec
from template.protocol.spec.training import (
    ChatSpec,
    CompressionSpec,
    DataSpec,
    OuterSpec,
    TrainingSpec,
)

__all__ = [
    "ChatSpec",
    "CheckpointSpec",
    "CompressionSpec",
    "ContinuesSpec",
    "DataSpec",
    "EvaluationSpec",
    "ModelSpec",
    "OuterSpec",
    "RunSpec",
    "ScheduleSpec",
    "TrainingSpec",
    "WeightsSpec",
    "load_spec",
    "parse_spec",
    "spec_to_toml",
]
