"""kill -9 at any moment, and a disk that is full: no block that a client heard of is lost."""

import json
import random
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bittensor_core
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from localnet.chain.metadata import load_metadata
from tests.support.localnet.ledger import REPOSITORY, LocalWallet
from tests.support.waiting import HANG_S

BLOCK_TIME_S = 0.05
NUM_KILLS = 20


@dataclass
class Caller:
    """One connection that submits transfers, in the clear and sealed, and notes what it hears."""

    url: str
    heard: dict[int, dict[str, Any]] = field(default_factory=dict)
    sealed: set[str] = field(default_factory=set)

    def live(self, until: Callable[[], bool]) -> None:
        """Submit and listen until the process dies under it, or `until` says so."""
        with connect(self.url) as socket:
            self.socket = socket
            self.codec = load_metadata(BLOCK_TIME_S).codec
            self.genesis = self.ask("chain_getBlockHash", 0)
            turn = 0
            while not until():
                self.submit(turn)
                self.note()
                turn += 1

    def note(self) -> None:
        """Read the head with all that a client can see of it."""
        header = self.ask("chain_getHeader")
        number = int(header["number"], 16)
        if number in self.heard:
            return
        block_hash = self.ask("chain_getBlockHash", number)
        key = "0x" + load_metadata().storage_key("System", "Events", ()).hex()
        self.heard[number] = {
            "hash": block_hash,
            "block": self.ask("chain_getBlock", block_hash),
            "events": self.ask("state_getStorage", key, block_hash),
        }

    def check(self) -> None:
        """Everything that was ever heard is still there."""
        with connect(self.url) as socket:
            self.socket = socket
            known, self.heard = self.heard, {}
            key = "0x" + load_metadata().storage_key("System", "Events", ()).hex()
            for number, seen in known.items():
                assert self.ask("chain_getBlockHash", number) == seen["hash"], number
                assert self.ask("chain_getBlock", seen["hash"]) == seen["block"], number
                assert self.ask("state_getStorage", key, seen["hash"]) == seen["events"], number
            self.heard = known

    def submit(self, turn: int) -> None:
        wallet = LocalWallet(("owner", "alice", "bob")[turn % 3])
        call = ("Balances", "transfer_keep_alive", {"dest": LocalWallet("dave").cold, "value": 700})
        nonce = self.ask("account_nextIndex", wallet.cold)
        if turn % 2:
            self.send(self.sign(wallet, call, nonce))
            return
        plain = self.sign(wallet, call, nonce + 1)
        self.sealed.add("0x" + plain.hex())
        item = "0x" + load_metadata().storage_key("MevShield", "NextKey", ()).hex()
        # The stored value is a byte vector in SCALE: two bytes of length, then the key.
        public = bytes.fromhex(self.ask("state_getStorage", item)[2:])[2:]
        ciphertext = bytes(bittensor_core.encrypt_mlkem768(public, plain, include_key_hash=True))
        carrier = ("MevShield", "submit_encrypted", {"ciphertext": "0x" + ciphertext.hex()})
        self.send(self.sign(wallet, carrier, nonce))

    def sign(self, wallet: LocalWallet, call: tuple[str, str, Any], nonce: int) -> bytes:
        head = int(self.ask("chain_getHeader")["number"], 16)
        checkpoint = self.ask("chain_getBlockHash", bittensor_core.era_birth(8, head))
        era = {"period": 8, "current": head}
        signed: dict[str, Any] = {"era": era, "nonce": nonce, "tip": 0, "tip_asset_id": None}
        composed = self.codec.compose_call(*call)
        payload = self.codec.signature_payload(
            composed, genesis_hash=self.genesis, era_block_hash=checkpoint, **signed
        )
        key = wallet.coldkey
        raw, _ = self.codec.encode_signed_extrinsic(
            composed,
            public_key=key.public_key,
            signature=key.sign(payload),
            signature_version=1,
            **signed,
        )
        return bytes(raw)

    def send(self, raw: bytes) -> None:
        """Submit; a nonce that the other kind of call has taken meanwhile is no matter here."""
        self.exchange("author_submitExtrinsic", "0x" + raw.hex())

    def ask(self, method: str, *params: Any) -> Any:
        return self.exchange(method, *params)["result"]

    def exchange(self, method: str, *params: Any) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        self.socket.send(json.dumps(request))
        return json.loads(self.socket.recv(timeout=HANG_S))


@pytest.mark.slow
def test_twenty_kills_under_load_lose_no_block_that_was_heard_of(
    tmp_path: Path, start_chain: Callable[..., Any]
) -> None:
    flags: tuple[str, ...] = (
        "--block-time",
        str(BLOCK_TIME_S),
        "--state",
        str(tmp_path / "chain.jsonl"),
    )
    chain = start_chain(*flags)
    flags = (*flags, "--port", chain.url.rpartition(":")[2])
    caller, rng = Caller(chain.url), random.Random(20)
    for _ in range(NUM_KILLS):
        heard_before = len(caller.heard)
        killer = threading.Timer(rng.uniform(0.2, 1.0), chain.process.kill)
        killer.start()
        with suppress(ConnectionClosed):
            caller.live(until=lambda: False)
        killer.join()
        chain.process.wait(timeout=HANG_S)
        assert len(caller.heard) > heard_before, "blocks were made and heard of"
        chain = start_chain(*flags)
        caller.check()
    bodies = [seen["block"]["block"]["extrinsics"] for seen in caller.heard.values()]
    raws = {raw for body in bodies for raw in body[1:]}
    assert len(raws & caller.sealed) > NUM_KILLS, "sealed extrinsics were opened"
    assert len(raws - caller.sealed) > 2 * NUM_KILLS, "and others executed"


def run_chain(path: Path, *flags: str, limit_kib: int | None = None) -> subprocess.Popen[str]:
    """A chain on `path`; `limit_kib` is how large it may make a file."""
    words = [sys.executable, "-m", "localnet.chain", "--port", "0", "--seed", "full"]
    words += ["--block-time", "0.02", "--state", str(path), *flags]
    limit = "" if limit_kib is None else f"ulimit -f {limit_kib}; "
    return subprocess.Popen(
        ["bash", "-c", f"{limit}exec {shlex.join(words)}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )


def test_a_disk_that_is_full_stops_the_chain_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "chain.jsonl"
    full = run_chain(path, limit_kib=16)
    assert full.stdout is not None
    url = full.stdout.readline().split()[1]
    hashes: dict[int, str] = {}
    with suppress(ConnectionClosed), connect(url) as socket:
        while True:
            socket.send(json.dumps({"id": 1, "method": "chain_getHeader", "params": []}))
            header = json.loads(socket.recv(timeout=HANG_S))["result"]
            hashes[int(header["number"], 16) - 1] = header["parentHash"]
            time.sleep(0.005)
    hashes.pop(-1, None)
    _, errors = full.communicate(timeout=HANG_S)
    assert full.returncode == 1
    assert f"--state {path}: File too large" in errors
    assert "start it again with the same flags" in errors
    assert "Traceback" not in errors
    roomy = run_chain(path)
    assert roomy.stdout is not None
    url = roomy.stdout.readline().split()[1]
    with connect(url) as socket:
        socket.send(json.dumps({"id": 1, "method": "chain_getBlockHash", "params": [list(hashes)]}))
        answer = json.loads(socket.recv(timeout=HANG_S))["result"]
    roomy.terminate()
    roomy.communicate(timeout=HANG_S)
    assert max(hashes) >= 3
    assert answer == list(hashes.values())
