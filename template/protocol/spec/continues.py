"""The table of the run spec by which a spec continues a run: a succession."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from template.protocol.spec.constraints import Hexadecimal, Range, Table, Version
from template.protocol.spec.timing import MAX_WINDOWS

ID_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ContinuesSpec(Table):
    """Only in a spec that continues a run: which run, from which window on.

    Validators support such a spec in their records. With more than half of the voting stake at the
    ballot six windows before `window`, all nodes switch at that window; otherwise nothing happens.
    docs/succession.md says what may change.
    """

    TABLE: ClassVar[str] = "continues"

    run_id: Annotated[str, Hexadecimal(ID_BYTES)]
    """Id of the run: the id of its first spec."""
    spec: Annotated[str, Hexadecimal(ID_BYTES)]
    """Id of the spec that this one follows."""
    window: Annotated[int, Range(ge=1, lt=MAX_WINDOWS)]
    """First window under this spec."""
    root: Annotated[str, Hexadecimal(ID_BYTES)]
    """A state root of the run at the time of the proposal: names the history that is continued. A
    validator whose own history lacks the root supports nothing.
    """
    least_version: Annotated[str, Version()] = "0.0.0"
    """Oldest version of the software that can follow this spec, MAJOR.MINOR.PATCH. An older node
    says so early, and stops before the window.
    """
