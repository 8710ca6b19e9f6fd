"""The findings of an audit on one window."""

from dataclasses import dataclass, field

from template.protocol.strangers import in_ascii

MAX_LINE_CHARS = 2000
"""Maximum length of a finding: two lists of 256 uids."""


@dataclass(kw_only=True)
class Findings:
    """Findings on the verdict log of one window.

    `wrong`: differences between the log and the public objects. `unknown`: facts beyond the
    auditor's reach. `num_losses`: losses compared; `worst`: largest difference, nats per token.
    """

    window: int
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    num_losses: int = 0
    worst: float = 0.0

    @property
    def window_label(self) -> str:
        return f"window {self.window}"

    def add_fault(self, text: str) -> None:
        self.wrong.append(in_ascii(f"{self.window_label}, {text}", MAX_LINE_CHARS))

    def add_difference(self, subject: str, actual: object, logged: object) -> None:
        line = f"{self.window_label}, {subject} is {actual}, the log says {logged}"
        self.wrong.append(in_ascii(line, MAX_LINE_CHARS))

    def add_unknown(self, text: str) -> None:
        self.unknown.append(in_ascii(f"{self.window_label}, {text}", MAX_LINE_CHARS))
