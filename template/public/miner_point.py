"""What every statement of a miner's payslip starts from: one hotkey in one window. Pure."""

from evaluation.weights import Account
from template.public.books import Page
from template.public.miner_causes import evidence_causes, pay_causes, window_cause
from template.public.statements import Commands
from template.public.view import WindowView


class MinerPoint:
    """A hotkey in a window. `reference`: the validator whose log is followed; `page`: of its book,
    None where the logs before are not all here. `cause`, `evidence`, `pay`: names of causes.
    """

    def __init__(self, view: WindowView, hotkey: str, commands: Commands) -> None:
        self.view, self.hotkey, self.commands = view, hotkey, commands
        facts = view.run.facts
        self.committed = view.committed_uid(hotkey)
        neuron = facts.subnet.neurons.get(hotkey)
        registered = view.facts.registered.get(hotkey, None if neuron is None else neuron.uid)
        self.uid = registered if self.committed is None else self.committed
        self.verdict = None if self.committed is None else view.speaker(self.committed)
        self.reference = view.reference
        self.page: Page | None = None
        if self.reference is not None:
            self.page = view.run.book(self.reference).pages.get(view.window)
        self.cause = window_cause(view, hotkey)
        self.evidence = (
            evidence_causes(view, self.page, self.verdict) if self.cause == "no_gain" else []
        )
        self.pay = [] if self.uid is None else pay_causes(view, self.page, hotkey, self.uid)

    @property
    def causes(self) -> tuple[str, ...]:
        """All names: the first decides."""
        return (self.cause, *self.evidence, *self.pay)

    @property
    def account(self) -> Account | None:
        if self.page is None or self.paid_uid is None:
            return None
        return self.page.accounts.get(self.paid_uid)

    @property
    def paid_uid(self) -> int | None:
        """By the followed log, which alone knows whose its shares and accounts are."""
        if self.reference is None:
            return None
        return self.view.run.paid_uid(self.view.judgements[self.reference], self.hotkey)

    @property
    def audit(self) -> str:
        """The command that recomputes what the followed log says."""
        if self.reference is None:
            return self.commands.explain(self.hotkey, self.view.window)
        return self.commands.audit(self.reference, self.view.window)

    @property
    def log_source(self) -> tuple[str, ...]:
        if self.reference is None:
            return ()
        return (self.commands.log_of(self.reference, self.view.window),)

    @property
    def logged_share(self) -> float | None:
        if self.reference is None or self.uid is None:
            return None
        return self.view.run.share_of(self.view.judgements[self.reference], self.hotkey)
