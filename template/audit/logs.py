"""Auditing window after window; verdict logs come from a bucket or from files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from evaluation.verdict_log import LogError, WindowLog, decode_log, split_logs
from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.context import ReadContext
from template.errors import ConfigError, NotFound, StoreError
from template.files import reason, remedy
from template.peers.client import Peers
from template.protocol.keys import verdict_key
from template.scoring.rules import verdict_log_limit_bytes

LogSource = Callable[[int], bytes]
"""window -> the bytes of its verdict log; StoreError if the log cannot be fetched."""


def logs_in_bucket(context: ReadContext, peers: Peers, validator: str) -> LogSource:
    """Logs published by a validator; RecordError if the chain has no access record."""
    limit_bytes = max(map(verdict_log_limit_bytes, context.run))

    def get(window: int) -> bytes:
        peers.refresh()
        key = verdict_key(context.run.run_id, window)
        return peers.bucket(validator).get(key, max_bytes=limit_bytes)

    return get


def read_files(paths: Sequence[Path]) -> dict[int, bytes]:
    """window -> the bytes of its log; the last log of a window judged again after a restart.

    ConfigError names the file and the lines of what is no log.
    """
    found: dict[int, bytes] = {}
    for path in paths:
        line = 1
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                for text in split_logs(file):
                    found[decode_log(text).window] = text.encode()
                    line += text.count("\n")
        except OSError as error:
            raise ConfigError(
                f"{path}: cannot be read ({reason(error)}); {remedy(path, error)}"
            ) from error
        except (LogError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: the log that starts at line {line}: {error}. A kill or a full disk may "
                "have left a half log, which its validator cuts off at its next start: take that "
                "log's lines out, or name other verdict logs"
            ) from error
    if not found:
        raise ConfigError("no window in these logs: name logs of a validator that has scored")
    return found


def logs_in_files(logs: Mapping[int, bytes]) -> LogSource:
    def get(window: int) -> bytes:
        if window not in logs:
            raise NotFound(f"window {window} is in none of the files")
        return logs[window]

    return get


def audit_windows(auditor: Auditor, source: LogSource, first: int, last: int) -> Iterator[Findings]:
    """Findings on each window from `first` to `last`, as soon as its votes are final.

    Raises ChainError or ConsensusError if the auditor cannot follow the run.
    """
    for window in range(max(0, first - auditor.num_remembered), first):
        read = _read_log(source, Findings(window=window))
        if read is not None:
            auditor.remember(read[0])
    while (window := auditor.next_window) <= last:
        auditor.wait()
        if window >= first:
            found = Findings(window=window)
            read = _read_log(source, found)
            yield found if read is None else auditor.audit(*read)
        if window == last:
            break
        auditor.advance()
        for skipped in range(max(first, window + 1), min(auditor.next_window, last + 1)):
            found = Findings(window=skipped)
            found.add_unknown("not audited: buckets no longer keep its payloads")
            yield found


def _read_log(source: LogSource, found: Findings) -> tuple[WindowLog, bytes] | None:
    """The log of the findings' window and its bytes; None, with a finding, without a valid log."""
    try:
        data = source(found.window)
    except StoreError as error:
        found.add_unknown(f"its log cannot be fetched: {error}")
        return None
    try:
        logged = decode_log(data.decode("utf-8"))
    except (LogError, UnicodeDecodeError) as error:
        found.add_fault(f"the object at its log's key is no log: {error}")
        return None
    if logged.window != found.window:
        found.add_difference("window of the log", found.window, logged.window)
        return None
    return logged, data
