"""A measurement of two idle cores, and the plan of the localnet, for tests of the pace."""

from localnet.pacing import costs_of
from template.protocol.spec.plan import RunChoices, draft_spec, load_plan
from tests.support.localnet.running import ROOT

OWNER = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
SPEC = draft_spec(
    load_plan(ROOT / "runs" / "localnet.toml"), RunChoices(owner_hotkey=OWNER, start_block=1000)
)
ROW = {
    "loaded_cpu_s": 4.5, "step_cpu_s": 0.01, "page_cpu_s": 4e-4, "share": 1.0, "memory_bytes": 4e8,
}  # fmt: skip
COSTS = costs_of([ROW, ROW], 2.0)
