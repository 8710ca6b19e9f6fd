"""Buckets behind an S3 endpoint: Cloudflare R2, SeaweedFS, or any other.

Owns the translation between `Store` and S3: calls, limits and errors. Every setting is an
argument: neither `~/.aws` nor an `AWS_*` variable changes a request. botocore (the core of boto3)
signs requests and parses answers; boto3's transfer layer is unused, because on objects of this
size the layer costs four times the CPU.
"""

import re
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache, partial
from os import devnull
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.config import Config
from botocore.configprovider import ConfigValueStore
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from template.errors import Denied, NodeTrouble, NotFound, StoreError, TooLarge, Unavailable
from template.retry import retry
from template.secret import Secret
from template.store.endpoints import parse_endpoint
from template.store.keys import check_key, check_prefix, check_range, content_type
from template.store.multipart import (
    PART_BYTES,
    BytesSource,
    FileSource,
    split,
    upload_parts,
)
from template.store.ranges import Cursor
from template.store.s3_upload import S3Upload
from template.store.transport import (
    CHUNK_BYTES,
    BoundedTransport,
    NodeFailure,
    RefusedAnswer,
    TransportError,
    TransportLimits,
    node_failure,
)
from template.store.types import Source, Take

T = TypeVar("T")
E = TypeVar("E", bound=StoreError)

MAX_OBJECT_BYTES = 4_995 * (1 << 40) // 1_000
"""R2 ends at 4.995 TiB for an object in parts, S3 at 5 TiB or beyond."""

MAX_TRIES = 16
"""Requests of one call at most, each with a single exchange, whatever the server answers."""
ROUND_BYTES = 16 << 20
"""Bytes of a download that earn it another round of tries after a cut. A bucket that drips slower
than about 0.2 MB/s earns none."""
MAX_PAGES = 10_000
"""Calls of one listing at most: ten million keys."""

_BUCKET = re.compile(r"[a-z0-9](-?[a-z0-9]){2,62}")
_CODE = re.compile(r"[A-Za-z0-9.]{1,64}")

_DENIED = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "Unauthorized"})
_NOT_FOUND = frozenset({"NoSuchKey", "NoSuchBucket", "InvalidBucketName"})

# What is final is listed, and everything else is tried again: proxies in front of a bucket make
# up statuses of their own (Cloudflare has 520 to 527 and 530) and pages without an S3 code.
_BAD_REQUEST = 400
_NOT_IMPLEMENTED = 501
_CLIENT_FAULTS = range(400, 500)
_PASSING_CLIENT_FAULTS = frozenset({408, 409, 421, 423, 425, 429, 499})
"""Timeout, conflict, misdirected, locked, too early, too many requests, hung up."""
_FINAL_BAD_REQUESTS = frozenset(
    {
        "AuthorizationHeaderMalformed",
        "EntityTooLarge",
        "ExpiredRequest",
        "ExpiredToken",
        "IllegalLocationConstraintException",
        "InvalidArgument",
        "InvalidEncryptionAlgorithmError",
        "InvalidLocationConstraint",
        "InvalidObjectName",
        "InvalidRegionName",
        "InvalidRequest",
        "InvalidStorageClass",
        "InvalidToken",
        "InvalidURI",
        "KeyTooLongError",
        "MetadataTooLarge",
        "MissingSecurityHeader",
        "PermanentRedirect",
        "RequestHeaderSectionTooLarge",
        "RequestTimeTooSkewed",
    }
)
"""S3's codes of a 400 that the same request gets again. Any other 400 says, or may say, that the
body was damaged on the way: BadDigest, IncompleteBody, RequestTimeout, XAmzContentSHA256Mismatch,
a proxy's page."""

_OURS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})

_CLIENT_LOCK = Lock()


_PARSER_FAULTS = (
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)


class _Transient(Unavailable):
    """A failure worth another try; after the deadline the caller sees an Unavailable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Bucket:
    """A bucket and a credential. Raises ValueError if name or endpoint is malformed.

    `region` is `auto` at R2; most servers besides R2 take any name. `signs` False: requests carry
    no credential, as those of anybody.
    """

    endpoint_url: str
    bucket: str
    access_key_id: str = field(repr=False)
    secret_access_key: Secret
    region: str = "auto"
    signs: bool = True

    def __post_init__(self) -> None:
        # Names with two hyphens in a row, dots or colons make botocore choose another endpoint.
        if not 3 <= len(self.bucket) <= 63 or not _BUCKET.fullmatch(self.bucket):
            raise ValueError(
                f"bucket {self.bucket!r:.80} is not a name: take 3 to 63 of [a-z0-9], "
                "with single hyphens between"
            )
        parse_endpoint(self.endpoint_url)


class S3Store:
    """A `Store` on an S3 bucket. Make a store per bucket and credential, and reuse the store.

    Safe to use from `limits.connections` threads. Transient failures (no answer, 429, any 5xx but
    501, a body damaged on the way) are tried again until `deadline_s` after the call, `MAX_TRIES`
    times at most; the last try may take `limits` `connect_s` plus `attempt_s` more, and for an
    object the seconds of its length. With `waits_for_node`, NodeTrouble counts as transient.
    `ca_file` (PEM) replaces botocore's certificate authorities. ValueError if botocore refuses the
    bucket.
    """

    def __init__(
        self,
        bucket: S3Bucket,
        *,
        deadline_s: float = 60.0,
        limits: TransportLimits | None = None,
        ca_file: Path | None = None,
        waits_for_node: bool = True,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self.bucket = bucket
        self._part_bytes = part_bytes
        self._deadline_s = deadline_s
        self._passing = (_Transient, NodeTrouble) if waits_for_node else (_Transient,)
        try:
            self._transport = BoundedTransport(limits or TransportLimits(), ca_file)
            self._client = _new_client(bucket, self._transport)
        except BotoCoreError as error:
            raise ValueError(
                f"the S3 client refuses this bucket ({type(error).__name__})"
            ) from None
        except (OSError, MemoryError) as error:
            raise _own_trouble(bucket.bucket, node_failure(error) or str(error)) from error

    def put(self, key: str, data: bytes) -> None:
        """As in `Store`: up to `part_bytes` in a single request, else in parts side by side."""
        self.put_source(key, BytesSource(data))

    def put_file(self, key: str, path: Path) -> None:
        """As in `Store`: in memory is a part per thread at most."""
        with FileSource(path) as source:
            self.put_source(key, source)

    def put_source(self, key: str, source: Source) -> None:
        """As in `Store`; TooLarge above MAX_OBJECT_BYTES, unsent."""
        check_key(key)
        if source.num_bytes > MAX_OBJECT_BYTES:
            raise TooLarge(
                f"object {key} has {source.num_bytes} bytes: a bucket takes {MAX_OBJECT_BYTES}"
            )
        if source.num_bytes > self._part_bytes:
            upload = S3Upload(self._client, partial(self._call, key), self.bucket.bucket, key)
            upload_parts(upload, source, split(source.num_bytes, self._part_bytes))
            return
        data, kind = source.read(0, source.num_bytes), content_type(key)
        put = partial(self._client.put_object, **self._at(key), Body=data, ContentType=kind)
        self._call(key, put)

    def get(self, key: str, *, max_bytes: int) -> bytes:
        pieces: list[bytes] = []
        self.stream(key, pieces.append, max_bytes=max_bytes)
        return b"".join(pieces)

    def stream(self, key: str, take: Take, *, start: int = 0, max_bytes: int) -> None:
        """As in `Store`. Every `ROUND_BYTES` that came renew the deadline and the tries."""
        check_key(key)
        cursor = Cursor(position=start)
        while True:
            round_start = cursor.position
            try:
                return self._call(key, partial(self._read_on, key, cursor, take, max_bytes))
            except _Transient:
                if cursor.position - round_start < ROUND_BYTES:
                    raise

    def get_range(self, key: str, start: int, length: int) -> bytes:
        check_key(key)
        check_range(start, length)
        return self._call(key, partial(self._read_range, key, start, length))

    def size(self, key: str) -> int:
        check_key(key)
        return self._call(key, partial(self._measure, key))

    def list(self, prefix: str) -> list[str]:
        check_prefix(prefix)
        keys: list[str] = []
        position: dict[str, str] = {}
        for _page in range(MAX_PAGES):
            ask = partial(
                self._client.list_objects_v2, Bucket=self.bucket.bucket, Prefix=prefix, **position
            )
            page = self._call(f"{prefix}*", ask)
            keys += [entry["Key"] for entry in page.get("Contents", [])]
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or token is None:
                return sorted(keys)
            if position.get("ContinuationToken") == token:
                raise Unavailable(f"{self._name(prefix)}*: the listing does not advance")
            position = {"ContinuationToken": token}
        raise Unavailable(f"{self._name(prefix)}*: the listing has more than {MAX_PAGES} pages")

    def delete(self, key: str) -> None:
        check_key(key)
        self._call(key, partial(self._client.delete_object, **self._at(key)))

    def create_bucket(self) -> None:
        """Create the bucket if missing. Needs an account's credential."""
        self._call("", self._create)

    def close(self) -> None:
        """As in `Store`."""
        self._transport.close()
        self._client.close()

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket.bucket, "Key": key}

    def _read_range(self, key: str, start: int, length: int) -> bytes:
        data = self._read(key, length, Range=f"bytes={start}-{start + length - 1}")
        if len(data) < length:
            reason = f"the object ends before byte {start + length}"
            raise _named(Unavailable, self._name(key), reason)
        return data

    def _read(self, key: str, max_bytes: int, **asked: str) -> bytes:
        answer = self._client.get_object(**self._at(key), **asked)
        with closing(answer["Body"]) as body:
            # The transport accepts no object without a length, and http.client reads no further.
            self._demand_length(key, answer["ContentLength"], max_bytes)
            pieces: list[bytes] = []
            while piece := body.read(CHUNK_BYTES):
                pieces.append(piece)
        return b"".join(pieces)

    def _read_on(self, key: str, cursor: Cursor, take: Take, max_bytes: int) -> None:
        """One request for what is left from the cursor on; the cursor moves with each byte."""
        if cursor.is_done:
            return  # the last byte came, and the connection broke behind it
        answer = self._client.get_object(**self._at(key), **cursor.asked())
        with closing(answer["Body"]) as body:
            declared = answer["ContentLength"]
            fault = cursor.accept(declared, answer.get("ContentRange"), answer.get("ETag"))
            if fault:
                raise _named(Unavailable, self._name(key), fault)
            left = cursor.skipped
            self._demand_length(key, cursor.position - left + declared, max_bytes)
            while left and (piece := body.read(min(left, CHUNK_BYTES))):
                left -= len(piece)
            while piece := body.read(CHUNK_BYTES):
                # First, because an exception of `take` ends the download.
                cursor.position += len(piece)
                take(piece)

    def _demand_length(self, key: str, num_bytes: int, max_bytes: int) -> None:
        if num_bytes > max_bytes:
            raise TooLarge(f"{self._name(key)} has {num_bytes} bytes, over {max_bytes}")

    def _measure(self, key: str) -> int:
        num_bytes = int(self._client.head_object(**self._at(key))["ContentLength"])
        if num_bytes < 0:
            raise ValueError("negative length")
        return num_bytes

    def _create(self) -> None:
        try:
            self._client.create_bucket(Bucket=self.bucket.bucket)
        except ClientError as error:
            if error.response["Error"].get("Code") not in _OURS:
                raise

    def _name(self, key: str) -> str:
        return f"{self.bucket.bucket}/{key}"

    def _call(self, key: str, ask: Callable[[], T]) -> T:
        """`ask()`, with failures as our errors and transient failures tried again."""

        def attempt() -> T:
            self._transport.allow_request()
            try:
                return ask()
            except ClientError as error:
                raise _translate(error, self._name(key)) from None
            except (TransportError, BotoCoreError, OSError, MemoryError) as error:
                raise _explain(error, self._name(key)) from None
            except (ResponseParserError, *_PARSER_FAULTS) as error:
                # botocore's parser trusts headers: a Content-Length of letters ends here, a
                # Last-Modified of 1e300 in a RuntimeError.
                reason = f"unreadable answer ({type(error).__name__})"
                raise _named(Unavailable, self._name(key), reason) from None

        return retry(attempt, on=self._passing, deadline_s=self._deadline_s, max_tries=MAX_TRIES)


def _explain(error: Exception, name: str) -> StoreError:
    """Our error for an exchange without a readable answer."""
    if isinstance(error, NodeFailure):
        return _own_trouble(name, str(error))
    if isinstance(error, TransportError):
        kind = Unavailable if isinstance(error, RefusedAnswer) else _Transient
        return _named(kind, name, str(error))
    if (trouble := node_failure(error)) is not None:
        return _own_trouble(name, trouble)
    return _named(_Transient, name, type(error).__name__)


def _own_trouble(name: str, reason: str) -> NodeTrouble:
    return _named(NodeTrouble, name, f"this node could not ask ({reason})")


def _named(kind: type[E], name: str, reason: str) -> E:
    return kind(f"{name}: {reason}", reason=reason)


def _translate(error: ClientError, name: str) -> StoreError:
    """Our error for the server's, without the server's message, which may quote the credential."""
    details: Any = error.response.get("Error", {})
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(details.get("Code", ""))
    word = code if _CODE.fullmatch(code) else "unknown"
    said = f"the server answered {status} {word}"
    if code in _NOT_FOUND or status == 404:
        return _named(NotFound, name, said)
    if code in _DENIED or status in (401, 403):
        said = f"{said}: check this bucket's credential and this machine's clock"
        return _named(Denied, name, said)
    # An answer to a HEAD has no body for a code, and the request none to be damaged.
    is_final = _is_final(status, code) or (
        status == _BAD_REQUEST and error.operation_name == "HeadObject"
    )
    return _named(Unavailable if is_final else _Transient, name, said)


def _is_final(status: int, code: str) -> bool:
    """Whether the same request gets the same refusal again."""
    if status == _BAD_REQUEST:
        return code in _FINAL_BAD_REQUESTS
    if status in _CLIENT_FAULTS:
        return status not in _PASSING_CLIENT_FAULTS
    return status == _NOT_IMPLEMENTED


def _new_client(bucket: S3Bucket, transport: BoundedTransport) -> Any:
    config = Config(
        signature_version="s3v4" if bucket.signs else UNSIGNED,
        s3={"addressing_style": "path", "payload_signing_enabled": True},
        retries={"mode": "standard", "total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        use_dualstack_endpoint=False,
        use_fips_endpoint=False,
        proxies={},
    )
    with _CLIENT_LOCK:
        client = _isolated_session().client(
            "s3",
            region_name=bucket.region,
            endpoint_url=bucket.endpoint_url,
            aws_access_key_id=bucket.access_key_id,
            aws_secret_access_key=bucket.secret_access_key.reveal(),
            verify=True,
            config=config,
        )
    client.meta.events.register("before-send.s3", transport.send)
    # Registered after botocore's own handler, so the mark of this one stands.
    client.meta.events.register("before-parameter-build.s3", _mark_as_redirected)
    return client


def _mark_as_redirected(context: dict[str, Any], **_event: Any) -> None:
    """Keep botocore from asking for a bucket's region and asking again there.

    botocore redirects a request once. The endpoint is the only server that may be asked.
    """
    context.setdefault("s3_redirect", {})["redirected"] = True


@cache
def _isolated_session() -> boto3.Session:
    """A session with botocore's default for every setting.

    Replaces the reader of AWS_* variables and points both of the operator's files at the null
    device: a missing AWS_PROFILE or a strange AWS_DEFAULTS_MODE would stop the client.
    """
    session = botocore.session.Session()
    settings = ConfigValueStore()
    for name, (_file_key, _variable, default, _convert) in session.session_var_map.items():
        settings.set_config_variable(name, default)
    settings.set_config_variable("config_file", devnull)
    settings.set_config_variable("credentials_file", devnull)
    session.register_component("config_store", settings)
    return boto3.Session(botocore_session=session)
