"""The notice of a version: one small JSON object in the bucket of the subnet's owner.

A notice names a version and the SHA-256 of the file to compare a download with. The owner's hotkey
signs the notice; no program installs anything because of a notice.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from template import version_key, version_words
from template.errors import ObjectError
from template.protocol.hashing import labelled_hash, uint_bytes
from template.protocol.strangers import parse_json, quoted, refusing, text_of

Kind = Literal["tag", "wheel"]
Sign = Callable[[bytes], bytes]
"""A message -> the 64-byte signature of the owner's hotkey."""
VerifySignature = Callable[[bytes, bytes], bool]
"""(message, 64-byte signature) -> whether the owner's hotkey signed the message."""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
MAX_NOTICE_BYTES: Final = 1024
"""Four times the length of a notice as `encode_notice` writes one."""
DIGEST_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
WHAT: Final = "notice of a version"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionNotice:
    """A version, and the digest of what carries the version.

    `version`: MAJOR.MINOR.PATCH without leading zeros, with a key below 2**64. `kind` "wheel":
    `digest` is the SHA-256 of the wheel's file; "tag": the SHA-256 of the signed tag object, as
    `git cat-file tag` writes the object. Raises ValueError for another version, kind or length.
    """

    version: str
    kind: Kind
    digest: bytes

    def __post_init__(self) -> None:
        if version_words(self.key) != self.version:
            raise ValueError(f"version {quoted(self.version)} has a leading zero")
        uint_bytes(self.key)
        if self.kind not in KINDS:
            raise ValueError(f"kind is {quoted(self.kind)}, must be one of {', '.join(KINDS)}")
        if len(self.digest) != DIGEST_BYTES:
            raise ValueError(f"the digest has {len(self.digest)} bytes, not {DIGEST_BYTES}")

    @property
    def key(self) -> int:
        """The version key: greater for a newer version."""
        return version_key(self.version)

    @property
    def comparison(self) -> str:
        """Shell commands that give an operator the digest to compare, and check the tag."""
        if self.kind == "wheel":
            return "sha256sum FILE.whl"
        tag = f"v{self.version}"
        return f"git verify-tag {tag} && git cat-file tag {tag} | sha256sum"


def signed_message(notice: VersionNotice, netuid: int) -> bytes:
    """The 32 bytes under the signature: a notice of one subnet is worth nothing in another."""
    return labelled_hash(
        "tessera/version notice",
        uint_bytes(netuid),
        notice.version.encode("ascii"),
        notice.kind.encode("ascii"),
        notice.digest,
    )


def encode_notice(notice: VersionNotice, netuid: int, sign: Sign) -> bytes:
    """The object's bytes: JSON with version, kind, and digest and signature in hexadecimal."""
    row = {
        "version": notice.version,
        "kind": notice.kind,
        "digest": notice.digest.hex(),
        "signature": sign(signed_message(notice, netuid)).hex(),
    }
    return json.dumps(row).encode("ascii") + b"\n"


def parse_notice(data: bytes, netuid: int, verify: VerifySignature) -> VersionNotice:
    """The notice in a stranger's bytes; ObjectError for anything else.

    `verify` is asked once at most, and only for a signature of 64 bytes under a well-formed notice.
    """
    row = parse_json(data, WHAT, max_bytes=MAX_NOTICE_BYTES)
    with refusing(WHAT):
        if not isinstance(row, dict) or set(row) != {"version", "kind", "digest", "signature"}:
            raise ValueError("not an object of version, kind, digest and signature")
        notice = VersionNotice(
            version=text_of(row["version"], "version"),
            kind=_kind(text_of(row["kind"], "kind")),
            digest=_parse_hex(row["digest"], "digest", DIGEST_BYTES),
        )
        signature = _parse_hex(row["signature"], "signature", SIGNATURE_BYTES)
        message = signed_message(notice, netuid)
    if not verify(message, signature):
        raise ObjectError(f"{WHAT}: the signature is not the owner's for subnet {netuid}")
    return notice


def _kind(text: str) -> Kind:
    for kind in KINDS:
        if text == kind:
            return kind
    raise ValueError(f"kind is {quoted(text)}, must be one of {', '.join(KINDS)}")


def _parse_hex(value: object, what: str, num_bytes: int) -> bytes:
    """Bytes in lower-case hexadecimal: another spelling of the same bytes is refused."""
    text = text_of(value, what)
    found = bytes.fromhex(text)
    if len(found) != num_bytes or found.hex() != text:
        raise ValueError(f"{what} must be {2 * num_bytes} lower-case hexadecimal digits")
    return found
