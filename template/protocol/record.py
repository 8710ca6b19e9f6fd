"""The record: everything that a hotkey publishes on chain, in one commitment.

First byte: version (high nibble) and flags of the sections (low nibble); with the flag of further
sections a second byte with their flags. Then in order

- run: with a payload or a vote, the first 8 bytes of the run id, and the version key of the
  hotkey's software (u32).
- access: read-only credentials of the hotkey's bucket. Kind byte; kinds 0 to 2 are
  Cloudflare R2 (default, EU and FedRAMP jurisdiction) as account (16 bytes), access key id
  (16) and secret (32); kind 3 is any other S3 endpoint as three ASCII strings (URL, access
  key id, secret), each after its length byte.
- payload: window (u32) and SHA-256 of the payload (32 bytes).
- vote: window (u32), state root (16), sample digest (8), bit maps of 256 uids (32 each; uid u is
  bit u % 8, from the lowest, of byte u // 8) of named uids and of missing uids, the digest
  of the verdict log (16), and the pace (one signed byte: -1, 0 or 1).
- offer (a further section): the run id (16 bytes) of a run whose spec lies in the hotkey's bucket.
  The subnet owner's offer is how a newcomer finds the run.
- support (a further section, with a vote alone): the first window (u32) and the id (16 bytes) of a
  spec that continues the run and lies in the hotkey's bucket: a proposal that the validator
  supports, or the newest spec that was adopted (`template.protocol.succession`).

Integers are little endian. A hotkey mines or votes, not both: with R2 at most 224 bytes, with
another endpoint at most 379, within the three raw fields of 128 bytes that a commitment holds.
"""

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from template import __spec_version__
from template.errors import RecordError
from template.protocol.keys import RUN_ID_BYTES

VERSION = 4
MAX_RECORD_BYTES = 3 * 128
R2_RECORD_BYTES = 224
RUN_BYTES = 8
ROOT_BYTES = 16
SAMPLE_DIGEST_BYTES = 8
LOG_DIGEST_BYTES = 16
MAX_UIDS = 256
PACES = (-1, 0, 1)
"""What a vote says of alpha: too large, nothing, too small."""

_ACCESS, _PAYLOAD, _VOTE, _FURTHER = 1, 2, 4, 8
_OFFER, _SUPPORT = 1, 2
"""Flags of further sections, which few records have: their byte is left out without one."""
_R2 = struct.Struct("<16s16s32s")
_PAYLOAD_SECTION = struct.Struct("<I32s")
_VOTE_SECTION = struct.Struct("<I16s8s32s32s16sb")
_MAX_STRING_BYTES = 72
_RUN_SECTION = struct.Struct("<8sI")
_SUPPORT_SECTION = struct.Struct("<I16s")


class AccessKind(IntEnum):
    """Provider of a bucket; the value is the kind byte."""

    R2 = 0
    R2_EU = 1
    R2_FEDRAMP = 2
    S3 = 3


_R2_HOSTS = {
    AccessKind.R2: "https://{}.r2.cloudflarestorage.com",
    AccessKind.R2_EU: "https://{}.eu.r2.cloudflarestorage.com",
    AccessKind.R2_FEDRAMP: "https://{}.fedramp.r2.cloudflarestorage.com",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Public, read-only access to a bucket. `account` is the R2 account id or the endpoint URL.

    For R2 all three are lower-case hex (32, 32 and 64 characters); otherwise printable ASCII.
    """

    kind: AccessKind
    account: str
    access_key_id: str
    secret_access_key: str = field(repr=False)

    @property
    def endpoint_url(self) -> str:
        template = _R2_HOSTS.get(self.kind)
        return self.account if template is None else template.format(self.account)


@dataclass(frozen=True, kw_only=True, slots=True)
class PayloadCommitment:
    """`digest`: SHA-256 of the hotkey's payload frame of `window`, 32 bytes."""

    window: int
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """A validator's statement on `window`.

    `root` (16 bytes) and `sample_digest` (8 bytes) describe theta at window + 1. `uids`: payloads
    to accept. `missing`: payloads without fetchable bytes. `log_digest`: `log_digest()` of the
    validator's verdict log of the window; zeros without a log. `pace`: -1, 0 or 1, the wanted move
    of alpha's exponent.
    """

    window: int
    root: bytes
    sample_digest: bytes
    uids: frozenset[int]
    missing: frozenset[int] = frozenset()
    log_digest: bytes = bytes(LOG_DIGEST_BYTES)
    pace: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Support:
    """A validator's word for a spec that continues the run. `spec`: its id, 16 bytes.

    `window`: its first window. The word counts at the ballot `LEAD_WINDOWS` before.
    """

    window: int
    spec: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """A hotkey's commitment; None is an absent section.

    `run`: the first bytes of the id of the run that payload or vote belong to: what was said in
    another run says nothing in this one. `offer`: id of a run whose spec lies in the hotkey's
    bucket. RecordError for a payload with a vote, and for either without a run.
    """

    access: Access | None = None
    payload: PayloadCommitment | None = None
    vote: Vote | None = None
    run: bytes = b""
    offer: bytes | None = None
    support: Support | None = None
    software: int = 0

    def __post_init__(self) -> None:
        if len(self.run) != (RUN_BYTES if self.has_statement else 0):
            raise RecordError(f"a run of {len(self.run)} bytes: see Record.of")
        if self.payload is not None and self.vote is not None:
            raise RecordError(
                "a payload and a vote in one record: mine and validate with a hotkey each"
            )
        if self.support is not None and self.vote is None:
            raise RecordError("support for a spec without a vote: validators alone decide on specs")

    @property
    def has_statement(self) -> bool:
        """Whether the record says something about a run."""
        return self.payload is not None or self.vote is not None

    @classmethod
    def of(
        cls,
        run_id: bytes,
        *,
        access: Access | None = None,
        payload: PayloadCommitment | None = None,
        vote: Vote | None = None,
        support: Support | None = None,
    ) -> "Record":
        """A record of a run, by this version of the software."""
        says = payload is not None or vote is not None
        return cls(
            access=access,
            payload=payload,
            vote=vote,
            run=run_id[:RUN_BYTES] if says else b"",
            support=support,
            software=__spec_version__ if says else 0,
        )

    def within(self, run_id: bytes) -> "Record":
        """The record without payload and vote, unless these belong to the run."""
        if self.run in (b"", run_id[:RUN_BYTES]):
            return self
        return Record(access=self.access, offer=self.offer)


def log_digest(text: bytes) -> bytes:
    """The digest of a verdict log in a vote: the first 16 bytes of the object's SHA-256."""
    return hashlib.sha256(text).digest()[:LOG_DIGEST_BYTES]


def encode_record(record: Record) -> bytes:
    """The record's bytes. RecordError if a value does not fit the field."""
    flags, further, parts = 0, 0, [b""]
    if record.has_statement:
        if not 0 <= record.software < 2**32:
            raise RecordError(f"version key {record.software} does not fit 32 unsigned bits")
        parts.append(_RUN_SECTION.pack(record.run, record.software))
    if record.access is not None:
        flags |= _ACCESS
        parts.append(_encode_access(record.access))
    if record.payload is not None:
        flags |= _PAYLOAD
        _require_length("payload digest", record.payload.digest, 32)
        parts.append(
            _PAYLOAD_SECTION.pack(_check_window(record.payload.window), record.payload.digest)
        )
    if record.vote is not None:
        flags |= _VOTE
        parts.append(_encode_vote(record.vote))
    if record.offer is not None:
        further |= _OFFER
        _require_length("offered run", record.offer, RUN_ID_BYTES)
        parts.append(record.offer)
    if record.support is not None:
        further |= _SUPPORT
        _require_length("supported spec", record.support.spec, RUN_ID_BYTES)
        window = _check_window(record.support.window)
        parts.append(_SUPPORT_SECTION.pack(window, record.support.spec))
    head = [VERSION << 4 | flags | _FURTHER, further] if further else [VERSION << 4 | flags]
    return bytes(head) + b"".join(parts)


def decode_record(data: bytes) -> Record:
    """The record in a commitment's bytes; RecordError unless exactly a record."""
    if not data:
        raise RecordError("empty commitment")
    version, flags = data[0] >> 4, data[0] & 15
    if version != VERSION:
        raise RecordError(f"record version {version}; this node reads version {VERSION}")
    reader = _Reader(data, 1)
    further = _further_flags(reader) if flags & _FURTHER else 0
    run, software = b"", 0
    if flags & (_PAYLOAD | _VOTE):
        run, software = _RUN_SECTION.unpack(reader.take(_RUN_SECTION.size))
    access = _decode_access(reader) if flags & _ACCESS else None
    payload = _decode_payload(reader) if flags & _PAYLOAD else None
    vote = _decode_vote(reader) if flags & _VOTE else None
    offer = reader.take(RUN_ID_BYTES) if further & _OFFER else None
    support = _decode_support(reader) if further & _SUPPORT else None
    if reader.position != len(data):
        # Trailing bytes would give one record several spellings.
        raise RecordError(f"{len(data) - reader.position} bytes after the last section")
    return Record(
        access=access,
        payload=payload,
        vote=vote,
        run=run,
        offer=offer,
        support=support,
        software=software,
    )


def _further_flags(reader: "_Reader") -> int:
    flags = reader.take(1)[0]
    if not 0 < flags <= (_OFFER | _SUPPORT):
        raise RecordError(f"further sections {flags:#04x}: none, or one that is unknown")
    return flags


def _decode_support(reader: "_Reader") -> Support:
    window, spec = _SUPPORT_SECTION.unpack(reader.take(_SUPPORT_SECTION.size))
    return Support(window=window, spec=spec)


class _Reader:
    def __init__(self, data: bytes, position: int) -> None:
        self.data = data
        self.position = position

    def take(self, num_bytes: int) -> bytes:
        end = self.position + num_bytes
        if end > len(self.data):
            raise RecordError(f"{len(self.data)} bytes; the sections need at least {end}")
        part = self.data[self.position : end]
        self.position = end
        return part


def _encode_access(access: Access) -> bytes:
    if access.kind is not AccessKind.S3:
        fields = (access.account, access.access_key_id, access.secret_access_key)
        account, key_id, secret = (
            _parse_hex(name, v) for name, v in zip(_ACCESS_FIELDS, fields, strict=True)
        )
        for name, value, size in zip(
            _ACCESS_FIELDS, (account, key_id, secret), (16, 16, 32), strict=True
        ):
            _require_length(name, value, size)
        return bytes([access.kind]) + _R2.pack(account, key_id, secret)
    strings = (access.account, access.access_key_id, access.secret_access_key)
    return bytes([access.kind]) + b"".join(
        _encode_string(name, value) for name, value in zip(_ACCESS_FIELDS, strings, strict=True)
    )


_ACCESS_FIELDS = ("account or endpoint", "read access key id", "read secret")


def _encode_string(name: str, value: str) -> bytes:
    if not value.isascii() or not value.isprintable() or not 0 < len(value) <= _MAX_STRING_BYTES:
        raise RecordError(f"{name}: use 1 to {_MAX_STRING_BYTES} printable ASCII characters")
    return bytes([len(value)]) + value.encode("ascii")


def _decode_access(reader: _Reader) -> Access:
    kind_byte = reader.take(1)[0]
    if kind_byte not in set(AccessKind):
        raise RecordError(f"unknown access kind {kind_byte}")
    kind = AccessKind(kind_byte)
    if kind is not AccessKind.S3:
        parts = [part.hex() for part in _R2.unpack(reader.take(_R2.size))]
    else:
        parts = [_decode_string(reader) for _ in _ACCESS_FIELDS]
    return Access(kind=kind, account=parts[0], access_key_id=parts[1], secret_access_key=parts[2])


def _decode_string(reader: _Reader) -> str:
    raw = reader.take(reader.take(1)[0])
    value = raw.decode("ascii", errors="replace")
    if not raw or len(raw) > _MAX_STRING_BYTES or not value.isascii() or not value.isprintable():
        raise RecordError("a string of the access section is empty, too long or not printable")
    return value


def _decode_payload(reader: _Reader) -> PayloadCommitment:
    window, digest = _PAYLOAD_SECTION.unpack(reader.take(_PAYLOAD_SECTION.size))
    return PayloadCommitment(window=window, digest=digest)


def _encode_vote(vote: Vote) -> bytes:
    _require_length("root", vote.root, ROOT_BYTES)
    _require_length("sample digest", vote.sample_digest, SAMPLE_DIGEST_BYTES)
    _require_length("log digest", vote.log_digest, LOG_DIGEST_BYTES)
    return _VOTE_SECTION.pack(
        _check_window(vote.window),
        vote.root,
        vote.sample_digest,
        _encode_uids(vote.uids),
        _encode_uids(vote.missing),
        vote.log_digest,
        _check_pace(vote.pace),
    )


def _encode_uids(uids: Iterable[int]) -> bytes:
    bitmap = bytearray(MAX_UIDS // 8)
    for uid in uids:
        if not 0 <= uid < MAX_UIDS:
            raise RecordError(f"uid {uid} is not in [0, {MAX_UIDS})")
        bitmap[uid // 8] |= 1 << uid % 8
    return bytes(bitmap)


def _decode_vote(reader: _Reader) -> Vote:
    window, root, sample, named, missing, digest, pace = _VOTE_SECTION.unpack(
        reader.take(_VOTE_SECTION.size)
    )
    return Vote(
        window=window,
        root=root,
        sample_digest=sample,
        uids=_decode_uids(named),
        missing=_decode_uids(missing),
        log_digest=digest,
        pace=_check_pace(pace),
    )


def _decode_uids(bitmap: bytes) -> frozenset[int]:
    return frozenset(uid for uid in range(MAX_UIDS) if bitmap[uid // 8] >> uid % 8 & 1)


def _check_window(window: int) -> int:
    if not 0 <= window < 2**32:
        raise RecordError(f"window {window} does not fit 32 unsigned bits")
    return window


def _check_pace(pace: int) -> int:
    if pace not in PACES:
        raise RecordError(f"pace {pace} is not -1, 0 or 1")
    return pace


def _require_length(name: str, value: bytes, num_bytes: int) -> None:
    if len(value) != num_bytes:
        raise RecordError(f"{name}: {len(value)} bytes, not {num_bytes}")


def _parse_hex(name: str, value: str) -> bytes:
    try:
        return bytes.fromhex(value)
    except ValueError as error:
        raise RecordError(f"{name}: not hexadecimal, as R2's are") from error
