"""Auditing window after window: where logs come from, and what becomes of missing ones."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from evaluation.verdict_log import LogError, WindowLog, decode_log, split_logs
from template.audit.auditor import Auditor
from template.audit.findings import Findings
from template.context import ReadContext
from template.errors import ConfigError, NotFound, StoreError
from template.peers.client import Peers
from template.protocol.keys import verdict_key

MAX_LOG_BYTES = 64 * 2**20

LogSource = Callable[[int], bytes]
"""window -> the bytes of its verdict log; StoreError if there are none to be had."""


def logs_in_bucket(context: ReadContext, peers: Peers, validator: str) -> LogSource:
    """Those that a validator has published; RecordError without its access record."""

    def get(window: int) -> bytes:
        peers.refresh()
        key = verdict_key(context.spec.run_id, window)
        return peers.bucket(validator).get(key, max_bytes=MAX_LOG_BYTES)

    return get


def read_files(paths: Sequence[Path]) -> dict[int, bytes]:
    """window -> its log; of one that was judged again after a restart, the last word."""
    found: dict[int, bytes] = {}
    for path in paths:
        try:
            for text in split_logs(path.read_text(encoding="utf-8")):
                found[decode_log(text).window] = text.encode()
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}: name verdict logs") from error
        except (LogError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}: name verdict logs") from error
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

    Raises what following the run raises: ChainError, ConsensusError.
    """
    for window in range(max(0, first - auditor.num_remembered), first):
        read = _read(source, Findings(window=window))
        if read is not None:
            auditor.remember(read[0])
    while (window := auditor.next_window) <= last:
        auditor.wait()
        if window >= first:
            found = Findings(window=window)
            read = _read(source, found)
            yield found if read is None else auditor.audit(*read)
        if window == last:
            break
        auditor.advance()


def _read(source: LogSource, found: Findings) -> tuple[WindowLog, bytes] | None:
    """The log of the findings' window, and its bytes; None if there is none: that is then among
    them.
    """
    try:
        data = source(found.window)
    except StoreError as error:
        found.cannot_tell(f"its log is not to be had: {error}")
        return None
    try:
        said = decode_log(data.decode("utf-8"))
    except (LogError, UnicodeDecodeError) as error:
        found.wrong.append(f"{found.place}: what lies in the place of its log is none: {error}")
        return None
    if said.window != found.window:
        found.differs("window of the log", found.window, said.window)
        return None
    return said, data
