"""Which windows can be audited now, and which range an audit takes.

Buckets keep payloads and checkpoints for a few windows, so an audit of older windows would wait for
ever; a range that reaches into the future follows the run, and says until when.
"""

from collections.abc import Callable
from dataclasses import dataclass

from template.context import ReadContext
from template.errors import ConfigError
from template.sync.waits import first_kept_window

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """Windows with final votes whose objects buckets keep; `last` < `first` where there is none."""

    first: int
    last: int

    def __str__(self) -> str:
        if self.last < self.first:
            return "no window has final votes yet"
        return f"windows {self.first} to {self.last} can be audited now"


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Windows asked for by flags; `logged`: first and last window of verdict logs in files."""

    first: int | None = None
    last: int | None = None
    logged: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """The windows of an audit. `first` None: from the newest published checkpoint on."""

    first: int | None
    last: int

    @property
    def start(self) -> int:
        """The newest window that the audit may start with."""
        return self.last if self.first is None else self.first


def kept_windows(context: ReadContext) -> Kept:
    """By the rule of what buckets keep, at the last final block."""
    counted = context.schedule.last_counted(context.chain.finalized())
    last = min(counted, context.run.num_windows - 1)
    # The votes on window w lead to theta_{w+2}, where every bucket is swept.
    return Kept(first=first_kept_window(last + 2, context.run), last=last)


def choose_range(context: ReadContext, wanted: Wanted, kept: Kept, say: Say) -> Range:
    """The range to audit; ConfigError where flags name a window that cannot be audited.

    Windows that only the files name are left out, and said to be.
    """
    num_windows = context.run.num_windows
    context.waiter.recent_head()
    _demand_kept(wanted, kept)
    _demand_begun(context, wanted, kept)
    first, last = wanted.first, wanted.last
    if wanted.logged is not None:
        first = wanted.logged[0] if first is None else first
        last = wanted.logged[1] if last is None else last
        if last < kept.first:
            raise ConfigError(
                f"buckets no longer keep what an audit of windows {first} to {last} of these logs "
                f"needs: {kept}. Follow older logs without --validator"
            )
        if first < kept.first:
            say(
                f"left out: windows {first} to {kept.first - 1} of these logs, for buckets no "
                f"longer keep what their audit needs; {kept}"
            )
            first = kept.first
    last = num_windows - 1 if last is None else last
    if last > kept.last:
        say(
            f"{kept}; following the run to window {last}, until its votes are final at "
            f"{context.waiter.when(context.schedule.vote_block(last))}. Ctrl-C ends the audit; "
            "--last names an earlier end"
        )
    return Range(first=first, last=last)


def _demand_kept(wanted: Wanted, kept: Kept) -> None:
    for flag, window in (("--first", wanted.first), ("--last", wanted.last)):
        if window is not None and window < kept.first:
            raise ConfigError(
                f"{flag} {window}: buckets no longer keep what an audit of window {window} needs: "
                f"{kept}. Name --first {kept.first} or later; an audit of every window has to run "
                "beside the run"
            )


def _demand_begun(context: ReadContext, wanted: Wanted, kept: Kept) -> None:
    """The next window may be waited for; a later one lies in the future."""
    if wanted.first is not None and wanted.first > kept.last + 1:
        begin = context.schedule.vote_block(wanted.first)
        raise ConfigError(
            f"--first {wanted.first}: window {wanted.first} has no votes before "
            f"{context.waiter.when(begin)}; {kept}. Start again then, or name --first "
            f"{max(kept.last + 1, 0)} to follow the run from here"
        )
