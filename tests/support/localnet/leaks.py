"""The secrets of a finished localnet, and where in its folder they are."""

import base64
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ALLOWED: Mapping[str, tuple[str, ...]] = {
    "wallets/*/coldkey": ("coldkey",),
    "wallets/*/hotkeys/default": ("hotkey",),
    "buckets/ids.json": ("write", "read", "admin"),
    "chain.journal": ("chain", "read"),
}
"""File -> kinds of secrets that it may hold, all of them readable by their owner only.

A wallet's file is the key itself. SeaweedFS reads who may do what from ids.json. The journal's
first line is the seed of the chain's hashes, and what follows are its blocks: read credentials
are published there on purpose, and nowhere else.
"""

Secrets = Mapping[str, set[bytes]]
"""Kind -> every form of every secret of that kind."""


def encodings(text: str, raw: bytes | None = None) -> set[bytes]:
    """What a secret may look like: as it is, and as a log or a dump may show it."""
    forms = {text.encode()}
    for data in (text.encode(), *([] if raw is None else [raw])):
        forms |= {data, data.hex().encode(), data.hex().upper().encode(), repr(data)[2:-1].encode()}
        # Without the last characters: they depend on what follows.
        forms.add(base64.b64encode(data)[: len(data) * 4 // 3].rstrip(b"="))
    return forms


def wallet_secrets(path: Path) -> set[bytes]:
    """A key file's secrets: private key, seed, mnemonic."""
    content = json.loads(path.read_text())
    found = encodings(content["secretPhrase"])
    for name in ("privateKey", "secretSeed"):
        text = content[name].removeprefix("0x")
        found |= encodings(text, bytes.fromhex(text))
    return found


def secrets_of(out: Path) -> dict[str, set[bytes]]:
    """The secrets that a localnet made for itself in its folder `out`."""
    found = {
        "hotkey": set.union(*map(wallet_secrets, out.glob("wallets/*/hotkeys/default"))),
        "coldkey": set.union(*map(wallet_secrets, out.glob("wallets/*/coldkey"))),
    }
    for entry in json.loads((out / "buckets" / "ids.json").read_text())["identities"]:
        kind = {"ro": "read", "rw": "write"}.get(entry["name"].rpartition("-")[2], "admin")
        text = entry["credentials"][0]["secretKey"]
        found.setdefault(kind, set()).update(encodings(text, bytes.fromhex(text)))
    with (out / "chain.journal").open() as journal:
        seed = json.loads(journal.readline())["secret"]
    found["chain"] = encodings(seed, bytes.fromhex(seed))
    return found


def kinds_in(data: bytes, secrets: Secrets) -> set[str]:
    return {kind for kind, forms in secrets.items() if any(form in data for form in forms)}


@dataclass(frozen=True, kw_only=True)
class Search:
    """What every file of a folder holds: kinds of secrets that it may, and that it must not.

    `open_files`: those with a secret that others than their owner may read.
    """

    num_files: int
    held: set[str]
    leaked: dict[str, set[str]]
    open_files: list[str]


def search(folder: Path, out: Path, secrets: Secrets) -> Search:
    """Read every file below `folder`, in which the localnet's `out` is."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    contents = {path: path.read_bytes() for path in files}
    # Every node has the same shards.
    seen = {data: kinds_in(data, secrets) for data in set(contents.values())}
    kinds = {path: seen[data] for path, data in contents.items()}
    leaks = {path: kinds[path] - set(_allowed_in(path, out)) for path in files}
    return Search(
        num_files=len(files),
        held={kind for found in kinds.values() for kind in found},
        leaked={str(path.relative_to(folder)): found for path, found in leaks.items() if found},
        open_files=[
            str(path.relative_to(folder))
            for path, found in kinds.items()
            if found and stat.S_IMODE(path.stat().st_mode) != 0o600
        ],
    )


def _allowed_in(path: Path, out: Path) -> tuple[str, ...]:
    name = path.relative_to(out) if path.is_relative_to(out) else Path(path.name)
    return next((kinds for pattern, kinds in ALLOWED.items() if name.match(pattern)), ())
