"""A miner's payslip of one window: facts in, statements out. Pure."""

from template.public.causes import cause_of, told_status
from template.public.miner_causes import usual_pages
from template.public.miner_merit import gain, work
from template.public.miner_pay import credit, share
from template.public.miner_point import MinerPoint
from template.public.money import emission, weights_statement
from template.public.statements import Commands, Figure, Payslip, Statement, counted, percent
from template.public.view import WindowView


def miner_slip(view: WindowView, hotkey: str, commands: Commands) -> Payslip:
    """The payslip; every hotkey has one, also one that sent nothing."""
    point = MinerPoint(view, hotkey, commands)
    made = [
        _sent(point), _delivered(point), _decided(point), gain(point), work(point),
        credit(point), share(point),
        weights_statement(point.view, point.hotkey, point.uid, point.commands),
        emission(point.view, point.hotkey, point.uid, point.commands), _more(point),
    ]  # fmt: skip
    return Payslip(
        run_id=point.view.run.facts.run.run_id.hex(),
        window=point.view.window,
        hotkey=point.hotkey,
        uid=point.uid,
        role="miner",
        causes=point.causes,
        headline=_headline(point),
        statements=tuple(each for each in made if each is not None),
        validators=point.view.rows(point.committed, hotkey),
    )


def _headline(point: MinerPoint) -> str:
    names = (point.cause, *point.evidence)
    window, what = f"Window {point.view.window}", ": ".join(cause_of(n).words for n in names)
    share = None if point.uid is None else point.logged_share
    if share is None:
        return f"{window}: {what}."
    return f"{window}: {what}. Share of the pay after it: {percent(share)}."


def _sent(point: MinerPoint) -> Statement:
    commands, view = point.commands, point.view
    schedule = view.run.facts.run.schedule
    block = schedule.commit_block(view.window)
    member = None if point.committed is None else view.facts.committed.get(point.committed)
    digest = point.verdict.digest if member is None and point.verdict else ""
    digest = digest if member is None else member.digest.hex()
    figures = [Figure("committed", point.committed is not None)]
    if point.committed is None:
        words = cause_of(point.cause).words.capitalize() + "."
    else:
        words = f"A payload was committed: its SHA-256 {digest[:16]}... stands on chain."
        figures.append(Figure("digest", digest))
        if (claim := _claim(point)) is not None:
            words += " " + claim[0]
            figures += claim[1]
    return Statement(
        topic="sent",
        words=words,
        figures=tuple(figures),
        sources=(commands.commitments_at(block), *point.log_source),
        rule="The digest on chain at a window's last block is its payload; what is uploaded "
        "later has to have it. Pages, width and part stand in the payload's header.",
        where="template/chain/ballots.py, contrib/FORMAT.md",
        command=point.audit,
    )


def _claim(point: MinerPoint) -> tuple[str, list[Figure]] | None:
    """The header's claim, from a log; None for a payload that nobody opened."""
    verdict, spec = point.verdict, point.view.run.facts.run.at(point.view.window)
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


def _delivered(point: MinerPoint) -> Statement | None:
    if point.committed is None:
        return None
    rows = point.view.rows(point.committed)
    came = [row for row in rows if row.fetched]
    lost = [row for row in rows if row.fetched is False]
    unknown = len(rows) - len(came) - len(lost)
    words = f"{counted(len(came), 'validator')} fetched it, {len(lost)} could not"
    words += f"; of {unknown} it is not known." if unknown else "."
    for row in lost:
        words += f" uid {row.uid}: {row.detail or row.status or 'voted it missing'}."
    outcome = point.view.facts.outcome
    missing_rao = point.view.stake_missing(point.committed)
    figures = [
        Figure("fetched_by", len(came), "validators"),
        Figure("not_fetched_by", len(lost), "validators"),
        Figure("stake_missing_rao", missing_rao, "rao"),
    ]
    if outcome is not None and outcome.undelivered is not None:
        is_lost = point.committed in outcome.undelivered
        figures.append(Figure("undelivered", is_lost))
        words += (
            " Half of the reference stake reports it missing: it counts as the worst gain for "
            "every validator."
            if is_lost
            else ""
        )
    block = point.view.run.facts.run.schedule.vote_block(point.view.window)
    return Statement(
        topic="delivered",
        words=words,
        figures=tuple(figures),
        sources=(point.commands.commitments_at(block), *point.log_source),
        rule="A payload is undelivered if validators with half of the reference stake vote it "
        "missing. What only some could not fetch is not held against its miner.",
        where="template/protocol/quorum.py, docs/scoring.md",
        command=point.audit,
    )


def _decided(point: MinerPoint) -> Statement:
    view, cause = point.view, cause_of(point.cause)
    words = cause.words[0].upper() + cause.words[1:] + "."
    figures = [Figure("cause", point.cause)]
    outcome = view.facts.outcome
    if point.verdict is not None:
        figures.append(Figure("status", told_status(point.verdict.status)))
        if point.verdict.detail:
            words += f" The log says: {point.verdict.detail}."
        if point.verdict.alike:
            words += f" Alike to the payloads of uids {list(point.verdict.alike)}."
    if outcome is not None and point.committed is not None:
        naming_rao = view.stake_naming(point.committed)
        figures += [
            Figure("accepted", point.committed in outcome.accepted),
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
            point.commands.lineage_of(view.window),
            point.commands.commitments_at(view.run.facts.run.schedule.vote_block(view.window)),
            *point.log_source,
        ),
        rule="A payload is applied if validators with more than half of the reference stake "
        "name it; each names what its own measurements call useful.",
        where=", ".join(dict.fromkeys(("template/protocol/quorum.py", cause.where))),
        command=point.commands.replay,
    )


def _more(point: MinerPoint) -> Statement:
    names = [name for name in point.causes if cause_of(name).remedy]
    lines = [f"{name}: {cause_of(name).remedy}" for name in names]
    words = "; ".join(lines) + "." if lines else "Nothing holds this pay back."
    figures = [Figure("causes", ", ".join(point.causes))]
    account = point.account
    if account is not None and point.page is not None:
        usual = usual_pages(point.page.accounts)
        if account.work > 0 and usual > account.pages:
            figures.append(Figure("pages_to_usual", usual - account.pages, "pages/window"))
        lacking = point.view.run.rules(point.view.window).weights.min_windows - account.num_scored
        figures += [Figure("windows_to_pay", lacking, "payloads")] if lacking > 0 else []
    return Statement(
        topic="more",
        words=words,
        figures=tuple(figures),
        sources=point.log_source,
        rule="What would have been needed for more.",
        where=", ".join(dict.fromkeys(cause_of(n).where for n in point.causes)),
        command=point.audit,
    )
