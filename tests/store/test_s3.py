"""S3 beyond the contract: missing buckets, names, TLS, and AWS settings left unread."""

import dataclasses
import datetime
import ipaddress
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from template.errors import NotFound, Unavailable
from template.secret import Secret
from template.store.s3 import S3Bucket, S3Store
from template.store.transport import TransportLimits
from tests.support.raw_server import read_request
from tests.support.waiting import HANG_S

LIMITS = TransportLimits(connect_s=HANG_S, silence_s=HANG_S, attempt_s=HANG_S)

# Every one of these stops or diverts a botocore client that reads its environment.
HOSTILE_ENVIRONMENT = {
    "AWS_PROFILE": "no-such-profile",
    "AWS_CONFIG_FILE": "/nonexistent/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "operator",
    "AWS_SECRET_ACCESS_KEY": "operators-own",
    "AWS_CA_BUNDLE": "/nonexistent/ca.pem",
    "AWS_RETRY_MODE": "nonsense",
    "AWS_MAX_ATTEMPTS": "many",
    "AWS_DEFAULTS_MODE": "nonsense",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "nonsense",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_DATA_PATH": "/nonexistent",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}

USE_A_BUCKET = """
import sys
from template.secret import Secret
from template.store.s3 import S3Bucket, S3Store
store = S3Store(S3Bucket(endpoint_url=sys.argv[1], bucket="operators-bucket",
    access_key_id="ours", secret_access_key=Secret("ours"), region="us-east-1"), deadline_s=0)
store.create_bucket()
store.put("object", b"data")
assert store.get("object", max_bytes=4) == b"data"
"""


def test_missing_bucket_is_not_found(s3_bucket: S3Bucket) -> None:
    store = S3Store(s3_bucket, deadline_s=5.0)
    calls = [
        lambda: store.get("object", max_bytes=1),
        lambda: store.size("object"),
        lambda: store.put("object", b"x"),
        lambda: store.list(""),
    ]
    for call in calls:
        with pytest.raises(NotFound, match=s3_bucket.bucket):
            call()


def test_creating_a_bucket_twice_keeps_what_is_in_it(s3_store: S3Store) -> None:
    s3_store.put("object", b"kept")
    s3_store.create_bucket()
    assert s3_store.get("object", max_bytes=4) == b"kept"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab",
        "a" * 64,
        "Upper",
        "dot.ted",
        "-a-b",
        "a-b-",
        "a--b",
        "arn:aws:s3:::x",
        "a/b",
        "a b",
    ],
)
def test_bucket_names_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name"):
        make_bucket(bucket=name)


@pytest.mark.parametrize("name", ["abc", "a" * 63, "tessera-" + "a2" * 26, "m7-rw"])
def test_bucket_names_that_can(name: str) -> None:
    assert make_bucket(bucket=name).bucket == name


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://host",
        "host:80",
        "http://user:pw@host",
        "http://host/path",
        "http://h?q",
        "http://",
    ],
)
def test_endpoints_that_cannot_be(url: str) -> None:
    with pytest.raises(ValueError, match="endpoint_url") as caught:
        make_bucket(endpoint_url=url)
    assert "pw" not in str(caught.value)


def test_repr_shows_neither_half_of_the_credential() -> None:
    text = repr(make_bucket())
    assert "example-id" not in text
    assert "example-secret" not in text
    with pytest.raises(TypeError):
        dataclasses.asdict(make_bucket())


def test_the_operators_aws_settings_change_nothing(moto_url: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", USE_A_BUCKET, moto_url],
        env={**os.environ, **HOSTILE_ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_tls_with_a_trusted_certificate(tls_url: str, certificate: Path) -> None:
    store = S3Store(make_bucket(endpoint_url=tls_url), ca_file=certificate, limits=LIMITS)
    assert store.get("object", max_bytes=9) == b"encrypted"
    assert store.get("object", max_bytes=9) == b"encrypted"


def test_tls_with_an_unknown_certificate_is_unavailable(tls_url: str) -> None:
    store = S3Store(make_bucket(endpoint_url=tls_url), deadline_s=0.0, limits=LIMITS)
    with pytest.raises(Unavailable, match="SSL"):
        store.get("object", max_bytes=9)


def test_an_upload_over_tls_arrives_whole(
    tls_url: str, certificate: Path, tls_requests: list[bytes]
) -> None:
    store = S3Store(make_bucket(endpoint_url=tls_url), ca_file=certificate, limits=LIMITS)
    data = os.urandom(3_000_000)
    store.put("upload", data)
    assert tls_requests[-1].endswith(b"\r\n\r\n" + data)


def test_tls_server_that_stalls_after_the_handshake(tls_url: str, certificate: Path) -> None:
    limits = TransportLimits(connect_s=2.0, silence_s=0.5, attempt_s=1.0)
    store = S3Store(
        make_bucket(endpoint_url=tls_url), ca_file=certificate, limits=limits, deadline_s=0.0
    )
    with pytest.raises(Unavailable, match="peer-bucket/slow"):
        store.get("slow", max_bytes=9)


def make_bucket(**changes: str) -> S3Bucket:
    fields: dict[str, Any] = {
        "endpoint_url": "http://127.0.0.1:1",
        "bucket": "peer-bucket",
        "access_key_id": "example-id",
    } | changes
    return S3Bucket(secret_access_key=Secret("example-secret"), **fields)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1 with its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@pytest.fixture
def tls_requests() -> list[bytes]:
    """The requests that `tls_url` has received."""
    return []


@pytest.fixture
def tls_url(certificate: Path, tls_requests: list[bytes]) -> Iterator[str]:
    """A TLS server that answers `encrypted`, and for the key `slow` a header byte at a time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    stopping = threading.Event()

    def serve(raw: socket.socket) -> None:
        with suppress(OSError), context.wrap_socket(raw, server_side=True) as connection:
            while request := read_request(connection):
                tls_requests.append(request)
                if request.startswith(b"PUT"):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                    continue
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n")
                while b"/slow" in request and not stopping.wait(0.05):
                    connection.sendall(b"X-Slow: 1\r\n")
                connection.sendall(b"\r\nencrypted")

    def accept() -> None:
        with suppress(OSError):
            while True:
                raw, _ = listener.accept()
                threading.Thread(target=serve, args=(raw,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        stopping.set()
        listener.shutdown(socket.SHUT_RDWR)
