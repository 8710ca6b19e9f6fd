"""What a test does beside a running localnet: neurons of its own, a look at chain and buckets."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from template.chain.bittensor import BittensorChain
from template.secret import Secret
from template.store.s3 import S3Bucket, S3Store
from tests.support.faults.process import NodeProcess
from tests.support.faults.subnet import NodeStart
from tests.support.localnet.running import RunningLocalnet


@dataclass
class Start(NodeStart):
    """With words of its own where other tests' neurons have --wandb.off."""

    more: tuple[str, ...] = ()

    @property
    def argv(self) -> list[str]:
        return [*(word for flag in self.flags.items() for word in flag), *self.more]


class Beside:
    """Neurons with the owner's hotkey, which has no process of its own, and the admin's view."""

    def __init__(self, net: RunningLocalnet) -> None:
        self.net = net
        environment = Path(f"/proc/{net.pids['miner-0']}/environ").read_text().split("\0")
        base = dict(line.split("=", 1) for line in environment if line)
        self._env = {k: v for k, v in base.items() if not k.startswith(("TESSERA_", "WANDB_"))}
        self._url = base["TESSERA_BUCKET_ENDPOINT"]
        identities = json.loads((net.out / "buckets" / "ids.json").read_text())["identities"]
        self._keys = {i["name"]: i["credentials"][0] for i in identities}
        self._buckets = [n.removesuffix("-rw") for n in self._keys if n.endswith("-rw")]
        self._started: dict[str, NodeProcess] = {}

    def start(self, name: str, *more: str, **changes: str) -> NodeProcess:
        """A miner; its output goes to `name`.output beside the localnet's folder."""
        out = self.net.out
        # Roster and identities are in the same order, and the owner is the first.
        read, write = (self._keys[f"{self._buckets[0]}-{kind}"] for kind in ("ro", "rw"))
        env = {
            "TESSERA_BUCKET_ENDPOINT": self._url,
            "TESSERA_BUCKET_WRITE_KEY_ID": write["accessKey"],
            "TESSERA_BUCKET_WRITE_SECRET": write["secretKey"],
            "TESSERA_BUCKET_READ_KEY_ID": read["accessKey"],
            "TESSERA_BUCKET_READ_SECRET": read["secretKey"],
        }
        flags = {
            "--netuid": "1",
            "--subtensor.network": self.net.endpoint,
            "--run": str(out / "run.toml"),
            "--wallet.name": "owner",
            "--wallet.hotkey": "default",
            "--wallet.path": str(out / "wallets"),
            "--neuron.device": "cpu",
            "--neuron.state_dir": str(out / "nodes" / name),
        }
        env = {**self._env, **env, **changes}
        node = Start(role="miner", flags=flags, env=env, more=more)
        self._started[name] = NodeProcess(node, out.with_name(f"{name}.output"))
        return self._started[name]

    def output(self, name: str) -> str:
        return self._started[name].output

    def kill_leftovers(self) -> None:
        """For a test that failed."""
        for process in self._started.values():
            process.stop()

    def block_hashes(self, num_blocks: int | None = None) -> list[bytes]:
        """Of the first blocks, or of all that there are."""
        url = self.net.endpoint
        chain = BittensorChain(endpoint=url, netuid=1, wallet=None, version_key=0)
        with closing(chain):
            return [chain.block_hash(block) for block in range(num_blocks or chain.head() + 1)]

    def objects(self) -> dict[str, str]:
        """Bucket and key -> SHA-256 of all that is in the buckets."""
        return {
            f"{bucket}/{key}": hashlib.sha256(data).hexdigest()
            for bucket in self._buckets
            for key, data in self._content(bucket)
        }

    def _content(self, bucket: str) -> Iterator[tuple[str, bytes]]:
        key = self._keys["admin"]
        view = S3Bucket(
            endpoint_url=self._url,
            bucket=bucket,
            access_key_id=key["accessKey"],
            secret_access_key=Secret(key["secretKey"]),
        )
        with closing(S3Store(view)) as store:
            for name in store.list(""):
                yield name, store.get(name, max_bytes=2**30)
