"""A miner's payslip of one window. Pure: facts in, statements out."""

import math
import statistics

from evaluation.judge import whole_gain
from evaluation.verdict import Verdict
from evaluation.weights import Account
from template.public.books import Page
from template.public.causes import cause_of
from template.public.miner_causes import pay_causes, usual_pages, window_cause
from template.public.money import emission, weights_statement
from template.public.statements import (
    Commands,
    Figure,
    Payslip,
    Statement,
    counted,
    nats,
    percent,
)
from template.public.view import WindowView


def miner_slip(view: WindowView, hotkey: str, commands: Commands) -> Payslip:
    """The payslip; every hotkey has one, also one that sent nothing."""
    return _MinerSlip(view, hotkey, commands).payslip()


class _MinerSlip:
    """What the statements of one payslip share."""

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
        self.pay = [] if self.uid is None else pay_causes(view, self.page, hotkey, self.uid)

    @property
    def account(self) -> Account | None:
        if self.page is None or self.uid is None:
            return None
        return self.page.accounts.get(self.uid)

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

    def payslip(self) -> Payslip:
        made = [
            self._sent(), self._delivered(), self._decided(), self._gain(), self._work(),
            self._credit(), self._share(),
            weights_statement(self.view, self.uid, self.commands),
            emission(self.view, self.hotkey, self.commands), self._more(),
        ]  # fmt: skip
        return Payslip(
            run_id=self.view.run.facts.spec.run_id.hex(),
            window=self.view.window,
            hotkey=self.hotkey,
            uid=self.uid,
            role="miner",
            causes=(self.cause, *self.pay),
            headline=self._headline(),
            statements=tuple(each for each in made if each is not None),
            validators=self.view.rows(self.committed),
        )

    def _headline(self) -> str:
        window, what = f"Window {self.view.window}", cause_of(self.cause).words
        share = None if self.uid is None else self._logged_share()
        if share is None:
            return f"{window}: {what}."
        return f"{window}: {what}. Share of the pay after it: {percent(share)}."

    def _logged_share(self) -> float | None:
        if self.reference is None or self.uid is None:
            return None
        return self.view.judgements[self.reference].shares.get(self.uid, 0.0)

    def _sent(self) -> Statement:
        commands, view = self.commands, self.view
        schedule = view.run.facts.spec.schedule.schedule()
        block = schedule.commit_block(view.window)
        member = None if self.committed is None else view.facts.committed.get(self.committed)
        digest = self.verdict.digest if member is None and self.verdict else ""
        digest = digest if member is None else member.digest.hex()
        figures = [Figure("committed", self.committed is not None)]
        if self.committed is None:
            words = cause_of(self.cause).words.capitalize() + "."
        else:
            words = f"A payload was committed: its SHA-256 {digest[:16]}... stands on chain."
            figures.append(Figure("digest", digest))
            if (claim := self._claim()) is not None:
                words += " " + claim[0]
                figures += claim[1]
        return Statement(
            topic="sent",
            words=words,
            figures=tuple(figures),
            sources=(commands.commitments_at(block), *self.log_source),
            rule="The digest on chain at a window's last block is its payload; what is uploaded "
            "later has to have it. Pages, width and part stand in the payload's header.",
            where="template/chain/ballots.py, contrib/FORMAT.md",
            command=self.audit,
        )

    def _claim(self) -> tuple[str, list[Figure]] | None:
        """The header's claim, from a log; None for a payload that nobody opened."""
        verdict, spec = self.verdict, self.view.run.facts.spec
        if verdict is None or verdict.pages_consumed is None:
            return None
        assigned = verdict.width * spec.training.pages_per_window
        words = (
            f"It claims {verdict.pages_consumed} of {assigned} assigned pages of "
            f"{spec.data.page_tokens} tokens, trained from theta_{verdict.base_window}."
        )
        if verdict.parts > 1:
            words += (
                f" It trains part {verdict.part + 1} of {verdict.parts} of the model, "
                f"{percent(verdict.model_share)} of the parameters."
            )
        return words, [
            Figure("pages_claimed", verdict.pages_consumed, "pages"),
            Figure("pages_assigned", assigned, "pages"),
            Figure("tokens_claimed", verdict.pages_consumed * spec.data.page_tokens, "tokens"),
            Figure("base_window", verdict.base_window),
            Figure("width", verdict.width),
            Figure("model_share", verdict.model_share),
        ]

    def _delivered(self) -> Statement | None:
        if self.committed is None:
            return None
        rows = self.view.rows(self.committed)
        came = [row for row in rows if row.fetched]
        lost = [row for row in rows if row.fetched is False]
        unknown = len(rows) - len(came) - len(lost)
        words = (
            f"{counted(len(came), 'validator')} fetched it, {len(lost)} could not, of {unknown} "
            "it is not known."
        )
        for row in lost:
            words += f" uid {row.uid}: {row.detail or row.status or 'voted it missing'}."
        outcome = self.view.facts.outcome
        missing_rao = self.view.stake_missing(self.committed)
        figures = [
            Figure("fetched_by", len(came), "validators"),
            Figure("not_fetched_by", len(lost), "validators"),
            Figure("stake_missing_rao", missing_rao, "rao"),
        ]
        if outcome is not None and outcome.undelivered is not None:
            is_lost = self.committed in outcome.undelivered
            figures.append(Figure("undelivered", is_lost))
            words += (
                " Half of the reference stake reports it missing: it counts as the worst gain for "
                "every validator."
                if is_lost
                else ""
            )
        block = self.view.run.facts.spec.schedule.schedule().vote_block(self.view.window)
        return Statement(
            topic="delivered",
            words=words,
            figures=tuple(figures),
            sources=(self.commands.commitments_at(block), *self.log_source),
            rule="A payload is undelivered if validators with half of the reference stake vote it "
            "missing. What only some could not fetch is not held against its miner.",
            where="template/protocol/quorum.py, docs/scoring.md",
            command=self.audit,
        )

    def _decided(self) -> Statement:
        view, cause = self.view, cause_of(self.cause)
        words = cause.words[0].upper() + cause.words[1:] + "."
        figures = [Figure("cause", self.cause)]
        outcome = view.facts.outcome
        if self.verdict is not None:
            figures.append(Figure("status", self.verdict.status))
            if self.verdict.detail:
                words += f" The log says: {self.verdict.detail}."
            if self.verdict.alike:
                words += f" Alike to the payloads of uids {list(self.verdict.alike)}."
        if outcome is not None and self.committed is not None:
            naming_rao = view.stake_naming(self.committed)
            figures += [
                Figure("accepted", self.committed in outcome.accepted),
                Figure("stake_naming_rao", naming_rao, "rao"),
                Figure("stake_needed_rao", outcome.reference_rao // 2 + 1, "rao"),
                Figure("num_accepted", len(outcome.accepted), "payloads"),
            ]
            if view.facts.votes:
                words += (
                    f" Stake that named it: {naming_rao / 1e9:.1f} of the more than "
                    f"{outcome.reference_rao / 2e9:.1f} needed (alpha and TAO as the chain weighs "
                    "them)."
                )
            if outcome.no_op:
                words += f" {outcome.no_op[0].upper()}{outcome.no_op[1:]}."
        return Statement(
            topic="decided",
            words=words,
            figures=tuple(figures),
            sources=(
                self.commands.lineage_of(view.window),
                self.commands.commitments_at(
                    view.run.facts.spec.schedule.schedule().vote_block(view.window)
                ),
                *self.log_source,
            ),
            rule="A payload is applied if validators with more than half of the reference stake "
            "name it; each names what its own measurements call useful.",
            where=", ".join(dict.fromkeys(("template/protocol/quorum.py", cause.where))),
            command=self.commands.replay,
        )

    def _gain(self) -> Statement | None:
        verdict = self.verdict
        if verdict is None or not verdict.measured:
            return None
        own, error = verdict.gain, verdict.gain_standard_error or 0.0
        figures = [
            Figure("gain", own, "nats/token"),
            Figure("gain_error", error, "nats/token"),
            Figure("relative_gain", verdict.relative_gain),
        ]
        shown = "not finite" if own is None else f"{nats(own)} +- {error:.5f} nats per token"
        words = f"Gain on held-out pages: {shown}."
        if (others := self._others(verdict)) is not None:
            words += " " + others[0]
            figures += others[1]
        if (evidence := self._evidence(verdict)) is not None:
            words += " " + evidence[0]
            figures += evidence[1]
        return Statement(
            topic="gain",
            words=words,
            figures=tuple(figures),
            sources=self.log_source,
            rule="Gain: the loss of theta less the loss after a tenth of the payload's outer step, "
            "mean over the window's held-out pages; the error is its standard error. Relative: "
            "over the root mean square of the window's positive gains. A hotkey is named while "
            "its evidence of gain is above zero, once that and the evidence of work together have "
            "reached the bound, unless gain + z * error lies at or below the floor.",
            where="evaluation/gain.py, evaluation/evidence.py, evaluation/judge.py",
            command=self.audit,
        )

    def _others(self, own: Verdict) -> tuple[str, list[Figure]] | None:
        if self.reference is None:
            return None
        verdicts = self.view.judgements[self.reference].verdicts.values()
        gains = [v.gain for v in verdicts if v.gain is not None and v.uid != own.uid]
        if not gains:
            return "No other payload was measured.", []
        middle = statistics.median(gains)
        words = (
            f"The window's {counted(len(gains), 'other')}: {nats(middle)} in the middle, "
            f"{nats(min(gains))} to {nats(max(gains))}."
        )
        return words, [
            Figure("others_median_gain", middle, "nats/token"),
            Figure("others_least_gain", min(gains), "nats/token"),
            Figure("others_most_gain", max(gains), "nats/token"),
            Figure("num_others", len(gains), "payloads"),
        ]

    def _evidence(self, verdict: Verdict) -> tuple[str, list[Figure]] | None:
        """The gain test after the window, and the floor where the windows before are known."""
        if self.reference is None:
            return None
        reputation = self.view.judgements[self.reference].reputations.get(self.hotkey)
        rules = self.view.run.rules.judge
        figures, words = [], ""
        if reputation is not None and verdict.gain_log_ratio is not None:
            gain, bound = reputation.evidence.gain, rules.gain.bound
            words = (
                f"Evidence of gain: {verdict.gain_log_ratio:+.2f} by this window, "
                f"{gain.log_ratio:+.2f} in all, of {bound:.2f} at most; the gate is "
                f"{'open' if gain.holds else 'closed'}."
            )
            figures += [
                Figure("gain_evidence_window", verdict.gain_log_ratio),
                Figure("gain_evidence", gain.log_ratio),
                Figure("gain_evidence_bound", bound),
                Figure("gain_gate_open", gain.holds),
            ]
        whole = whole_gain(verdict)
        if self.page is not None and whole is not None and math.isfinite(whole):
            bar = self.page.bar
            error = min((verdict.gain_standard_error or 0.0) / verdict.model_share, bar.error_limit)
            reach = whole + rules.naming_z * error
            words += (
                f" The floor is {nats(bar.floor)}: with {rules.naming_z:g} errors this payload "
                f"reaches {nats(reach)}."
            )
            figures += [
                Figure("gain_scale", bar.scale, "nats/token"),
                Figure("gain_floor", bar.floor, "nats/token"),
                Figure("gain_reach", reach, "nats/token"),
            ]
        return (words.strip(), figures) if figures else None

    def _work(self) -> Statement | None:
        verdict, rules = self.verdict, self.view.run.rules
        if verdict is None or not verdict.measured or not rules.tested or self.reference is None:
            return None
        reputation = self.view.judgements[self.reference].reputations.get(self.hotkey)
        figures = [
            Figure("work_effect", verdict.work_effect, "standard deviations"),
            Figure("work_variance", verdict.work_variance),
        ]
        if verdict.work_effect is None:
            words = "None of its claimed pages was in the window's pool: no evidence of work."
        else:
            words = (
                f"On its own pages it gains {verdict.work_effect:+.2f} standard deviations more "
                f"than on held-out pages (expected of honest work: at least "
                f"{rules.judge.work.effect:g})."
            )
        if reputation is not None:
            work, bound = reputation.evidence.work, rules.judge.work.bound
            words += (
                f" Evidence of work over its windows: {work.log_ratio:+.2f} of +-{bound:.2f}; the "
                f"gate is {'open' if work.holds else 'closed'}."
            )
            figures += [
                Figure("work_evidence", work.log_ratio),
                Figure("work_evidence_bound", bound),
                Figure("work_gate_open", work.holds),
            ]
        return Statement(
            topic="work",
            words=words,
            figures=tuple(figures),
            sources=self.log_source,
            rule="A payload has to gain more on the pages that it claims than on pages that nobody "
            "trained on. Evidence adds up over windows; at the upper bound the gate opens, at the "
            "lower bound payloads are refused.",
            where="evaluation/work.py",
            command=self.audit,
        )

    def _credit(self) -> Statement | None:
        account, view = self.account, self.view
        if account is None or self.page is None:
            return self._no_credit()
        num = view.window - account.first + 1
        usual = usual_pages(self.page.accounts)
        trained = "not looked at: the gate is closed"
        if account.trained is not None:
            trained = percent(account.trained)
        words = (
            f"Over windows {account.first} to {view.window} ({num}): "
            f"{counted(account.num_scored, 'payload')} scored, {account.pages:.1f} pages a window "
            f"(the paid miner in the middle: {usual:.1f}), trained share {trained}; credit "
            f"{account.work:.1f} pages."
        )
        bound = account.bound if math.isfinite(account.bound) else None
        return Statement(
            topic="credit",
            words=words,
            figures=(
                Figure("first_window", account.first),
                Figure("windows_counted", num, "windows"),
                Figure("windows_scored", account.num_scored, "payloads"),
                Figure("windows_needed", view.run.rules.weights.min_windows, "payloads"),
                Figure("pages", account.pages, "pages/window"),
                Figure("usual_pages", usual, "pages/window"),
                Figure("trained_share", account.trained),
                Figure("relative_gain_bound", bound),
                Figure("relative_gain_needed", view.run.rules.weights.min_relative_gain),
                Figure("credit", account.work, "pages/window"),
            ),
            sources=self._book_sources(),
            rule="Credit: mean claimed pages a window, times the share of the model, times the "
            "share of the claims that was trained; 0 while the work test or the gain gate is "
            "closed. A refused or undelivered payload brings no pages, an absence counts as zero.",
            where="evaluation/weights.py, evaluation/trained.py",
            command=self.audit,
        )

    def _book_sources(self) -> tuple[str, ...]:
        if self.reference is None or self.page is None:
            return ()
        known = self.page.judgement.known
        return tuple(self.commands.log_of(self.reference, w) for w in (*known, self.view.window))

    def _no_credit(self) -> Statement | None:
        """Why there is no account, where a log of the window is there."""
        if self.reference is None:
            words = "No verdict log of this window can be read yet: credit and share are not known."
            waiting = sorted({row.log for row in self.view.rows(None)})
            words += f" State of the validators' logs: {', '.join(waiting) or 'no validators'}."
        elif lacking := self.view.run.book(self.reference).gaps.get(self.view.window):
            words = (
                f"Not followed: the logs of windows {list(lacking)}, on which pay rests, are not "
                "here. The share below is the log's own word."
            )
        else:
            words = "No account: this hotkey has no scored payload in the counted windows."
        return Statement(topic="credit", words=words, command=self.audit)

    def _share(self) -> Statement | None:
        share = self._logged_share()
        if share is None or self.reference is None or self.uid is None:
            return None
        judgement, page = self.view.judgements[self.reference], self.page
        figures = [Figure("share", share)]
        words = f"Share of the pay: {percent(share)}."
        if page is not None and self.account is not None:
            total = math.fsum(account.work for account in page.accounts.values())
            words += f" It is its credit over the sum of all credits, {total:.1f}."
            figures += [Figure("sum_of_credits", total, "pages/window")]
        if page is not None:
            figures += [Figure("follows", page.follows)]
            figures += [Figure("max_share", self.view.run.rules.weights.max_share)]
            if not page.follows:
                words += " The log's shares do NOT follow from the logs before: audit it."
        if judgement.burn_uid is not None:
            burned = judgement.shares.get(judgement.burn_uid, 0.0)
            words += f" Burned, because nobody earned it: {percent(burned)}."
            figures.append(Figure("burned", burned))
        return Statement(
            topic="share",
            words=words,
            figures=tuple(figures),
            sources=self.log_source,
            rule="Share: credit over the sum of credits, at most weights.max_share. The rest goes "
            "to the subnet owner's uid, and is burned.",
            where="evaluation/weights.py",
            command=self.audit,
        )

    def _more(self) -> Statement:
        names = [name for name in (self.cause, *self.pay) if cause_of(name).remedy]
        lines = [f"{name}: {cause_of(name).remedy}" for name in names]
        words = "; ".join(lines) + "." if lines else "Nothing holds this pay back."
        figures = [Figure("causes", ", ".join((self.cause, *self.pay)))]
        account = self.account
        if account is not None and self.page is not None:
            usual = usual_pages(self.page.accounts)
            if account.work > 0 and usual > account.pages:
                figures.append(Figure("pages_to_usual", usual - account.pages, "pages/window"))
            lacking = self.view.run.rules.weights.min_windows - account.num_scored
            figures += [Figure("windows_to_pay", lacking, "payloads")] if lacking > 0 else []
        return Statement(
            topic="more",
            words=words,
            figures=tuple(figures),
            sources=self.log_source,
            rule="What would have been needed for more.",
            where=", ".join(dict.fromkeys(cause_of(n).where for n in (self.cause, *self.pay))),
            command=self.audit,
        )
