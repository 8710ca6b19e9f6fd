"""Which rules there are, by name. A new one is a file of `strategies` and a line here."""

from benchmarks.learning.strategies.adamw_dp import AdamWDataParallel
from benchmarks.learning.strategies.demo import Demo
from benchmarks.learning.strategies.diloco import DiLoCo
from benchmarks.learning.strategies.mean import Mean
from benchmarks.learning.strategies.muon_dp import MuonDataParallel
from benchmarks.learning.strategies.normmatch import NormMatched
from benchmarks.learning.strategies.ours import Ours
from benchmarks.learning.strategies.senders import Senders
from benchmarks.learning.strategy import Strategy

RULES: dict[str, type[Strategy]] = {
    "adamw_dp": AdamWDataParallel,
    "muon_dp": MuonDataParallel,
    "demo": Demo,
    "diloco": DiLoCo,
    "senders": Senders,
    "mean": Mean,
    "normmatch": NormMatched,
    "ours": Ours,
}
LOCAL_RULES = ("diloco", "senders", "mean", "normmatch", "ours")
