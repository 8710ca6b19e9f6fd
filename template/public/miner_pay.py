"""Credit and share in a miner's payslip. Pure."""

import math

from evaluation.duels import drawn_pairs
from evaluation.weights import WeightRules, shares_of_work
from template.public.books import Page
from template.public.miner_causes import usual_pages
from template.public.miner_point import MinerPoint
from template.public.statements import Figure, Statement, counted, percent

DUEL_RULE = (
    " A duel between two drawn miners moves weights.duel_share of the smaller share to the miner "
    "that gained more on a drawn half of the held-out pages."
)


def credit(point: MinerPoint) -> Statement | None:
    account, view = point.account, point.view
    if account is None or point.page is None:
        return _no_credit(point)
    num = view.window - account.first + 1
    usual = usual_pages(point.page.accounts)
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
            Figure("windows_needed", view.run.rules(view.window).weights.min_windows, "payloads"),
            Figure("pages", account.pages, "pages/window"),
            Figure("usual_pages", usual, "pages/window"),
            Figure("trained_share", account.trained),
            Figure("relative_gain_bound", bound),
            Figure("relative_gain_needed", view.run.rules(view.window).weights.min_relative_gain),
            Figure("credit", account.work, "pages/window"),
        ),
        sources=_book_sources(point),
        rule="Credit: mean claimed pages a window, times the share of the model, times the "
        "share of the claims that was trained; 0 while the work test or the gain gate is "
        "closed. A refused or undelivered payload brings no pages, an absence counts as zero.",
        where="evaluation/weights.py, evaluation/trained.py",
        command=point.audit,
    )


def _book_sources(point: MinerPoint) -> tuple[str, ...]:
    if point.reference is None or point.page is None:
        return ()
    known, window = point.page.judgement.known, point.view.window
    sources = () if not known else (point.commands.logs_of(point.reference, known),)
    return (*sources, point.commands.log_of(point.reference, window))


def _no_credit(point: MinerPoint) -> Statement | None:
    """Why there is no account, where a log of the window is there."""
    if point.reference is None:
        words = "No verdict log of this window can be read yet: credit and share are not known."
        waiting = sorted({row.log for row in point.view.rows(None)})
        words += f" State of the validators' logs: {', '.join(waiting) or 'no validators'}."
    elif lacking := point.view.run.book(point.reference).gaps.get(point.view.window):
        words = (
            f"Not followed: {counted(len(lacking), 'log')} on which pay rests are not here, the "
            f"first of window {min(lacking)}. The share below is the log's own word."
        )
    else:
        words = "No account: this hotkey has no scored payload in the counted windows."
    return Statement(topic="credit", words=words, command=point.audit)


def share(point: MinerPoint) -> Statement | None:
    share = point.logged_share
    if share is None or point.reference is None or point.uid is None:
        return None
    judgement, page = point.view.judgements[point.reference], point.page
    weights = point.view.run.rules(point.view.window).weights
    has_duels = weights.has_duels(point.view.window)
    figures = [Figure("share", share)]
    words = f"Share of the pay: {percent(share)}."
    if page is not None and point.account is not None:
        total = math.fsum(account.work for account in page.accounts.values())
        words += f" It is its credit over the sum of all credits, {total:.1f}."
        figures += [Figure("sum_of_credits", total, "pages/window")]
    if page is not None:
        figures += [Figure("follows", page.follows)]
        figures += [Figure("max_share", weights.max_share)]
        duel_words, duel_figures = _duel(
            point.paid_uid, share, page, point.view.run.rules(point.view.window).weights
        )
        words += duel_words
        figures += duel_figures
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
        sources=point.log_source,
        rule="Share: credit over the sum of credits, at most weights.max_share. The rest goes "
        "to the subnet owner's uid, and is burned." + (DUEL_RULE if has_duels else ""),
        where="evaluation/weights.py" + (", evaluation/duels.py" if has_duels else ""),
        command=point.audit,
    )


def _duel(
    uid: int | None, share: float, page: Page, rules: WeightRules
) -> tuple[str, list[Figure]]:
    """What the duel of the pay period so far moved; nothing to say without duels or a rival."""
    before = shares_of_work(page.accounts, rules)
    window = page.judgement.window
    pairs = drawn_pairs(before, window) if rules.has_duels(window) else []
    rivals = [rival for pair in pairs if uid in pair for rival in pair if rival != uid]
    if uid is None or not rivals:
        return "", []
    moved = share - before[uid]
    words = (
        f" Of it {percent(abs(moved))} was {'won from' if moved >= 0 else 'lost to'} uid "
        f"{rivals[0]} in a duel: {percent(before[uid])} before."
    )
    figures = [
        Figure("share_before_duel", before[uid]),
        Figure("duel_rival", rivals[0], "uid"),
        Figure("duel_moved", moved),
    ]
    return words, figures
