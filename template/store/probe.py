"""Tests a node's bucket and both of its keys: a write, a read, and what the read key must not do.

Used at a node's start and by `neurons/bucket.py check`. The caller opens the bucket with each key.
"""

import secrets
from collections.abc import Callable
from contextlib import suppress

from template.errors import ConfigError, Denied, NotFound, StoreError
from template.store.types import Store

WRITE_KEY = "TESSERA_BUCKET_WRITE_KEY_ID and TESSERA_BUCKET_WRITE_SECRET"
READ_KEY = "TESSERA_BUCKET_READ_KEY_ID and TESSERA_BUCKET_READ_SECRET"
PROBE_PREFIX = "probe"
_PROBE_BYTES = 32


def check_bucket(
    writer: Store,
    reader: Store,
    elsewhere: Store,
    *,
    where: str,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Write a small object, read the object with the read key, and try what that key must not do.

    `elsewhere` is another bucket seen with the read key, of a name that nobody has: a server tells
    only a key of the whole account that there is no such bucket. `where` names bucket and endpoint
    in messages; `say` receives a line after each step passed.
    The object is removed if the write key may delete. Raises ConfigError, naming the variables to
    change, for a wrong bucket or key, and Unavailable if the bucket does not answer.
    """
    token = secrets.token_bytes(_PROBE_BYTES)
    key = f"{PROBE_PREFIX}/{token.hex()}"
    _write(writer, key, token, where)
    say("the write key writes")
    try:
        _read(reader, key, token, where)
        say("the read key reads what was written")
        _demand_refusal(reader, key, token, where)
        say("the read key cannot write, as it must be")
        _demand_this_bucket_alone(elsewhere, key, where)
        say("the read key reads no other bucket")
    finally:
        # A key without the right to delete is no fault here: its bucket only grows.
        with suppress(StoreError):
            writer.delete(key)


def check_private(writer: Store, anonymous: Store, *, where: str) -> None:
    """Write a small object, and try to read and to replace the object without a key.

    `anonymous` is the bucket opened without a credential. Raises ConfigError for a bucket that
    anybody may read or write, and Unavailable if the bucket does not answer.
    """
    token = secrets.token_bytes(_PROBE_BYTES)
    key = f"{PROBE_PREFIX}/{token.hex()}"
    _write(writer, key, token, where)
    try:
        can_write = _is_allowed(lambda: anonymous.put(key, token))
        can_read = _is_allowed(lambda: anonymous.size(key))
    finally:
        with suppress(StoreError):
            writer.delete(key)
    if can_read or can_write:
        raise ConfigError(
            f"{where}: the bucket is PUBLIC: anybody {'writes' if can_write else 'reads'} objects "
            "without a key, and the traffic is on this account's bill; close it to the public (in "
            "R2's dashboard: Settings, Public access, Disallow; elsewhere remove the bucket's "
            "policy for anonymous users)"
        )


def _is_allowed(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except (Denied, NotFound):
        # A server may hide from strangers that the object, or the bucket, is there.
        return False
    return True


def _write(writer: Store, key: str, token: bytes, where: str) -> None:
    try:
        writer.put(key, token)
    except NotFound as error:
        raise ConfigError(
            f"{where}: there is no such bucket: create it under exactly this name "
            "(`python neurons/bucket.py name` prints it)"
        ) from error
    except Denied as error:
        raise ConfigError(
            f"{where}: the write key was refused ({error.reason}): {WRITE_KEY} must be a key that "
            "reads and writes this bucket (are they another hotkey's variables?), and the bucket "
            "must exist"
        ) from error


def _read(reader: Store, key: str, token: bytes, where: str) -> None:
    try:
        found = reader.get(key, max_bytes=_PROBE_BYTES)
    except Denied as error:
        raise ConfigError(
            f"{where}: the read key was refused ({error.reason}): {READ_KEY} must be a key that "
            "reads this bucket"
        ) from error
    except NotFound as error:
        raise ConfigError(
            f"{where}: the read key does not see the object written with the write key "
            f"({error.reason}): {READ_KEY} must belong to this same bucket"
        ) from error
    if found != token:
        raise ConfigError(
            f"{where}: the read key read other bytes than the write key wrote: {READ_KEY} must "
            "belong to this same bucket"
        )


def _demand_refusal(reader: Store, key: str, token: bytes, where: str) -> None:
    """Raises ConfigError if the read key, published on chain, could write to the bucket."""
    try:
        reader.put(key, token)
    except Denied:
        return
    raise ConfigError(
        f"{where}: the read key can WRITE, and it is published on chain: {READ_KEY} must be a "
        "key that only reads this bucket; create one"
    )


def _demand_this_bucket_alone(elsewhere: Store, key: str, where: str) -> None:
    """Raises ConfigError if the read key, published on chain, reads the account's other buckets."""
    try:
        elsewhere.size(key)
    except Denied:
        return
    except NotFound:
        pass
    raise ConfigError(
        f"{where}: the read key reads OTHER BUCKETS of this account, and it is published on chain: "
        f'{READ_KEY} must be a key for this one bucket (in R2\'s dashboard "Object Read only", '
        "applied to specific buckets only); create one, and delete this one"
    )
