"""The notice of a version in the bucket of the subnet's owner, by the owner's record on chain."""

import logging
from collections.abc import Callable
from contextlib import closing
from functools import partial

from template.chain import Chain
from template.chain.ballots import read_records_of_any_run
from template.context import OpenBucket
from template.errors import RecordError, SubnetError
from template.protocol.keys import notice_key
from template.protocol.notice import MAX_NOTICE_BYTES, VersionNotice, parse_notice
from template.protocol.record import Record
from template.protocol.strangers import fault

log = logging.getLogger(__name__)

Verify = Callable[[str, bytes, bytes], bool]
"""(hotkey, message, signature) -> whether the hotkey signed the message."""
AskNotice = Callable[[], VersionNotice | None]


def fetch_notice(chain: Chain, open_bucket: OpenBucket, verify: Verify) -> VersionNotice:
    """The notice signed by the subnet owner's hotkey, from the bucket of the owner's record.

    Costs one GET of at most `MAX_NOTICE_BYTES`, within the deadline of the opened bucket. Raises
    ChainError, RecordError without a usable record, StoreError of the bucket, NotFound among them,
    and ObjectError for anything but a notice with the owner's signature.
    """
    graph = chain.metagraph(chain.finalized())
    hotkey = graph.owner_hotkey
    record = read_records_of_any_run(chain, graph.block).get(hotkey, Record())
    if record.access is None:
        raise RecordError(f"the subnet's owner, {hotkey}, has no access record on chain")
    with closing(open_bucket(hotkey, record.access)) as bucket:
        data = bucket.get(notice_key(), max_bytes=MAX_NOTICE_BYTES)
    return parse_notice(data, graph.netuid, partial(verify, hotkey))


def read_notice(chain: Chain, open_bucket: OpenBucket, verify: Verify) -> VersionNotice | None:
    """As `fetch_notice`; None, and a line for debugging, where no valid notice is to be had."""
    try:
        return fetch_notice(chain, open_bucket, verify)
    except SubnetError as error:
        log.debug("no notice of a version from the subnet's owner: %s", fault(error))
        return None
