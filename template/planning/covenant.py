"""Covenant-72B's published figures from its own parameters, beside ours on the same line.

Source: arXiv 2603.08163: table 4 (parameters), section 4.1 (64 values of 4,096, 14 bits each) and
section 4.3 (20 peers, 20 minutes of computing, 70 s of communication, 110 and 500 Mb/s).
"""

from typing import Final

from template.planning.case import Case
from template.planning.hardware import BITS, Line
from template.planning.phases import serial_utilisation

PARAMETERS: Final = 72_747_327_488
KEPT_SHARE: Final = 64 / 4096
BITS_PER_VALUE: Final = 14
PEERS: Final = 20
COMPUTE_S: Final = 1200.0
COMMUNICATION_S: Final = 70.0
LINE: Final = Line(up_mbps=110.0, down_mbps=500.0)


def payload_bytes() -> float:
    """A payload of Covenant-72B: 14 bits for each of 64 values in 4,096."""
    return PARAMETERS * KEPT_SHARE * BITS_PER_VALUE / BITS


def stated_utilisation() -> float:
    """At the 70 s that the paper states."""
    return COMPUTE_S / (COMPUTE_S + COMMUNICATION_S)


def literal_utilisation(payload: float, line: Line = LINE, peers: int = PEERS) -> float:
    """At the line's rate, where the payloads of all others follow the computing."""
    return serial_utilisation(COMPUTE_S, line.up_s(payload), line.down_s((peers - 1) * payload))


def ours(case: Case) -> float:
    """The same for a payload of this run: nothing hidden, 20 minutes of computing."""
    return literal_utilisation(case.payload_bytes, case.line, case.peers)
