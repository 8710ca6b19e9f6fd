"""No code of the project turns bytes into code: no pickle under any name.

Read from the syntax trees of all files, tests and tools among them; the linter says the same, and
here it is shown that it is told to.
"""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    "pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal",
    "shelve",
}  # fmt: skip
CALLS = {
    "torch.load",
    "torch.jit.load",
    "torch.package.PackageImporter",
    "torch.serialization.load",
    "pandas.read_pickle",
}
"""What unpickles although its module is welcome."""
LAST_WORDS = {call.rpartition(".")[2] for call in CALLS}
ALLOWED = {"tests/test_secret.py"}
"""It shows that a secret refuses to be pickled."""
SKIPPED = {".venv", ".cache", "build", "localnet-out", ".git"}

FILES = sorted(
    path
    for top in ROOT.iterdir()
    if top.name not in SKIPPED  # .venv has a hundred times as many files as the project
    for path in (top.rglob("*.py") if top.is_dir() else [top])
    if path.suffix == ".py" and path.relative_to(ROOT).as_posix() not in ALLOWED
)


def names_of(tree: ast.Module) -> dict[str, str]:
    """Local name -> what it stands for in full, as the imports of a file say."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                local = alias.asname or alias.name.partition(".")[0]
                found[local] = alias.name if alias.asname else local
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
    return found


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    head, _, rest = ast.unparse(node).partition(".")
    return ".".join(part for part in (names.get(head, head), rest) if part)


def unpickling(tree: ast.Module) -> list[str]:
    """What of a file could run code from bytes, each as it is written."""
    names, found = names_of(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            modules |= {node.module or ""} if isinstance(node, ast.ImportFrom) else set()
            if MODULES.intersection(module.partition(".")[0] for module in modules):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute | ast.Name):
            # The last word decides at once for nearly all names: to unparse is slow.
            last = node.attr if isinstance(node, ast.Attribute) else names.get(node.id, node.id)
            if last.rpartition(".")[2] not in LAST_WORDS:
                continue
            if full_name(node, names).replace("np.", "numpy.", 1) in CALLS:
                found.append(ast.unparse(node))
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            # Not even torch.load(weights_only=True): it is the unpickler with a list of names.
            if node.arg == "weights_only" or ast.unparse(node.value) != "False":
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and node.value in MODULES and is_by_name(tree, node):
            found.append(ast.unparse(node))
    return found


def is_by_name(tree: ast.Module, constant: ast.Constant) -> bool:
    """Whether a module's name is passed to a function that imports by name."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return any(
        constant in call.args and ast.unparse(call.func).rpartition(".")[2]
        in ("import_module", "__import__", "importorskip")
        for call in calls
    )  # fmt: skip


def test_no_file_unpickles() -> None:
    found = {path: unpickling(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {path.relative_to(ROOT): lines for path, lines in found.items() if lines} == {}


def test_every_package_is_read() -> None:
    packages = {path.relative_to(ROOT).parts[0] for path in FILES}
    assert {"template", "compression", "evaluation", "neurons", "benchmarks", "tests"} <= packages
    assert {"fuzz", "setup.py"} <= packages


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "import numpy, marshal as m",
        "from pickle import loads",
        "from joblib.numpy_pickle import load",
        "def f():\n    import dill",
        "import torch\ntorch.load(path)",
        "import torch as t\nt.load(path)",
        "from torch import load\nload(path)",
        "from torch import load as read\nread(path)",
        "import torch.serialization\ntorch.serialization.load(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "load(path, weights_only=True)",
        "importlib.import_module('pickle')",
    ],
)
def test_the_rule_finds_it(code: str) -> None:
    assert unpickling(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.load(path)",
        "np.load(path, allow_pickle=False)",
        "from safetensors.torch import load\nload(data)",
        "import json\njson.load(file)",
        "ONLY_IN = {'pickle': ()}",
    ],
)
def test_the_rule_lets_it_pass(code: str) -> None:
    assert unpickling(ast.parse(code)) == []


def test_the_linter_refuses_it_too(tmp_path: Path) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    banned = settings["flake8-tidy-imports"]["banned-api"]
    assert MODULES - {"_pickle", "cPickle"} <= banned.keys()
    assert {"torch.load", "torch.jit.load", "torch.serialization.load"} <= banned.keys()
    code = (
        "import marshal\nimport pickle\nimport shelve\n\nimport dill\nimport torch\n\n"
        "torch.load('x')\npickle.loads(b'')\n"
    )
    (tmp_path / "code.py").write_text(code)
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    command += ["--output-format", "concise", "--no-cache", str(tmp_path / "code.py")]
    said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    lines = {line.split(":")[1] for line in said.splitlines() if "TID251" in line}
    assert {"1", "2", "3", "5", "8"} <= lines
    assert any(":9:" in line and "S301" in line for line in said.splitlines())
