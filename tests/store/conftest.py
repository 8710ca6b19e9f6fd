"""Stores to run the contract against: memory, and S3 against a server in this process."""

import logging
import secrets
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

from template.secret import Secret
from template.store import Store
from template.store.memory import MemoryStore
from template.store.s3 import S3Bucket, S3Store
from template.store.transport import TransportLimits
from tests.support.raw_server import PATIENT, Answer, RawServer, Serve, bucket_at
from tests.support.waiting import HANG_S


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(moto_url: str) -> S3Bucket:
    """A bucket yet to be created; the server takes any credential."""
    return S3Bucket(
        endpoint_url=moto_url,
        bucket=f"test-{secrets.token_hex(8)}",
        access_key_id="test",
        secret_access_key=Secret("test"),
        region="us-east-1",
    )


@pytest.fixture
def s3_store(s3_bucket: S3Bucket) -> Iterator[S3Store]:
    store = S3Store(s3_bucket, deadline_s=HANG_S)
    store.create_bucket()
    yield store
    store.close()


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return request.getfixturevalue("s3_store")


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[RawServer] = []

    def start(
        *answers: Answer, deadline_s: float = 0.0, limits: TransportLimits = PATIENT
    ) -> tuple[S3Store, RawServer]:
        server = RawServer(*answers)
        servers.append(server)
        return S3Store(bucket_at(server.url), deadline_s=deadline_s, limits=limits), server

    yield start
    for server in servers:
        server.close()
