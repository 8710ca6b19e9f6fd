"""`data prepare` as a command in real processes, killed and started again, and its publication."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from localnet.onchain import NETUID
from template.cli.flags import CHECKOUT as ROOT
from template.cli.flags import DEFAULT_TEXT
from template.cli.main import run_command
from template.data.folder import open_folder
from template.errors import EXIT_ENDED, EXIT_OPERATOR
from template.protocol.keys import blob_key, shard_key
from template.protocol.spec import load_spec
from tests.support.commands import Run
from tests.support.faults.subnet import OWNER, Subnet
from tests.support.waiting import HANG_S

SMALL = ["--page-tokens", "16", "--segment-pages", "4", "--held-out", "20%"]
FAR_BLOCKS = 1_000_000


def write_corpus(folder: Path, num_files: int = 6) -> Path:
    folder.mkdir()
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 9))) for _ in range(500)]
    for number in range(num_files):
        lines = (json.dumps({"text": " ".join(draw.choices(words, k=90))}) for _ in range(150))
        (folder / f"{number}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def prepare(corpus: Path, out: Path, *flags: str) -> list[str]:
    return ["prepare", *SMALL, "--out", str(out), *flags, str(corpus)]


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def start(argv: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "template.cli", "data", *argv],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def children_of(pid: int) -> set[int]:
    """Processes of Linux started by a process, and by its children."""
    found: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            child = int(path.parent.name)
            found |= {child} | children_of(child)
    return found


def wait_until(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + HANG_S
    while not is_so():
        assert time.monotonic() < end_s, "hangs"
        time.sleep(0.01)


def is_there(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def are_gone(pids: set[int]) -> bool:
    return not any(map(is_there, pids))


def test_the_command_says_what_it_made_and_what_comes_next(tmp_path: Path, capsys) -> None:
    corpus, out = write_corpus(tmp_path / "corpus", 2), tmp_path / "out"
    status = run_command("data", prepare(corpus, out, "--workers", "1"), "tessera data")
    said = capsys.readouterr()
    assert status == EXIT_ENDED, said.err
    manifest = (out / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() in said.out
    assert 'data.tokenizer = "byte", data.page_tokens = 16, data.segment_pages = 4' in said.out
    for phase in ("hash the input", "read and shuffle", "encode", "look for leaks", "write shards"):
        assert f"\n{phase}: " in said.err
    assert "40-grams of tokens of the held-out text are in the training text too" in said.err
    again = run_command("data", prepare(corpus, out), "tessera data")
    assert again == EXIT_OPERATOR
    assert "holds a prepared dataset already" in capsys.readouterr().err


def test_a_bad_line_ends_the_command_with_its_place(tmp_path: Path, capsys) -> None:
    corpus = write_corpus(tmp_path / "corpus", 2)
    with (corpus / "1.jsonl").open("ab") as file:
        file.write(b'{"text": "\xff"}\n')
    status = run_command("data", prepare(corpus, tmp_path / "out", "--workers", "2"), "tessera")
    assert status == EXIT_OPERATOR
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"data: input {corpus}/1.jsonl, line 151: is not UTF-8")
    assert said.endswith("mend it, or leave it out by --skip-bad")


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    """In a process of its own, in which no such library can be found."""
    for name, library in (("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")):
        (tmp_path / name).write_bytes(b"x")
        code = (
            f"import sys; sys.modules[{library!r}] = None\n"
            f"from template.cli.main import run_command\n"
            f"from template.data.preparing import prepare as module\n"
            f"from template.data.preparing.prepare import *\n"
            f"sources = module.find_sources([{str(tmp_path / name)!r}])[0]\n"
            f"from template.data.preparing.readers import Reading, read_part\n"
            f"reading = Reading(sources=dict(enumerate(sources)), field='text')\n"
            f"try:\n"
            f"    for part in module.cut_sources(sources, 9):\n"
            f"        list(read_part(reading, part))\n"
            f"except module.ConfigError as error:\n"
            f"    print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=HANG_S
        )
        assert f"needs the package {library}, which is not installed" in done.stdout, done.stderr
        assert f"`pip install {library}`, or the extra data" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_at_any_moment_it_goes_on_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    flags = ["--train-tokenizer", "600", "--dedup"]
    whole = start(prepare(corpus, tmp_path / "whole", *flags, "--workers", "2"))
    assert whole.communicate(timeout=HANG_S)[0]
    assert whole.returncode == EXIT_ENDED
    out = tmp_path / "broken"
    moments = ("plan.json", "parts/*.rows", "parts/*.json", "tokenizer.json", "buckets/*.train",
               "buckets/000009.json", "leaks/*.json", "shards-train/*.json")  # fmt: skip
    num_killed = 0
    for number, moment in enumerate(moments):
        # Another number of workers each time: how far the last one came must not matter.
        running = start(prepare(corpus, out, *flags, "--workers", str(1 + number % 3)))
        work = out / ".unfinished"

        def came(running=running, work=work, moment=moment) -> bool:
            return running.poll() is not None or any(work.glob(moment))

        wait_until(came)
        workers = children_of(running.pid)
        num_killed += running.poll() is None
        running.kill()
        said = running.communicate(timeout=HANG_S)[0]
        is_over = running.returncode == EXIT_ENDED or "holds a prepared dataset already" in said
        assert is_over or running.returncode == -signal.SIGKILL, said
        wait_until(partial(are_gone, workers))
        assert not (out / "manifest.json").exists() or not work.exists()
    assert num_killed >= 4
    last = start(prepare(corpus, out, *flags, "--workers", "2"))
    said = last.communicate(timeout=HANG_S)[0]
    assert last.returncode == EXIT_ENDED or "holds a prepared dataset already" in said, said
    assert files_of(out) == files_of(tmp_path / "whole")
    assert {"manifest.json", "card.json", "CARD.md", "tokenizer.json"} < files_of(out).keys()


@pytest.mark.slow
@pytest.mark.skipif(not DEFAULT_TEXT.exists(), reason="no text: run `make text`")
def test_what_was_prepared_is_published(subnet: Subnet, run: Run, tmp_path: Path, capsys) -> None:
    """The shipped text, with the works that its own table holds out."""
    out, published = tmp_path / "data", tmp_path / "run.toml"
    argv = ["prepare", "--out", str(out), "--page-tokens", "64", "--segment-pages", "16",
            "--cut", "4K", "--shard-segments", "1000", str(DEFAULT_TEXT)]  # fmt: skip
    assert run_command("data", argv, "tessera data") == EXIT_ENDED
    capsys.readouterr()
    plan = tmp_path / "plan.toml"
    text = (ROOT / "runs" / "testnet.toml").read_text(encoding="utf-8")
    plan.write_text(text.replace('network = "public"', 'network = "local"'))
    env = dict(subnet.node("miner", OWNER, Path()).env)
    flags = ["--netuid", str(NETUID), "--subtensor.network", subnet.url, "--wallet.name", OWNER,
             "--wallet.path", str(subnet.folder / "wallets")]  # fmt: skip
    argv = ["publish", "--plan", str(plan), "--data", str(out), "--out", str(published),
            "--start-in", str(FAR_BLOCKS), *flags]  # fmt: skip
    done = run("owner", argv, env)
    assert done.status == EXIT_ENDED, done.err
    folder = open_folder(out)
    spec = load_spec(published)
    data = (out / "manifest.json").read_bytes()
    assert spec.data.manifest_digest == hashlib.sha256(data).hexdigest()
    bucket = subnet.writer(OWNER)
    try:
        for shard in (*folder.manifest.shards, folder.manifest.held_out):
            digest = bytes.fromhex(shard.sha256)
            found = bucket.get(shard_key(digest), max_bytes=2**30)
            assert found == folder.shard_data(shard)
            assert bucket.get(blob_key(digest), max_bytes=2**30) == folder.digest_list(shard)
    finally:
        bucket.close()
    seen = run("owner", ["check", "--run", str(published), *flags[:4]])
    assert "all is there" in seen.out, seen.out
