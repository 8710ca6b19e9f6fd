"""Rules of the code base that no linter knows: direction of imports, narrow doors, sizes.

Everything is read from the syntax trees of the files, so imports inside functions and under
TYPE_CHECKING count too. A new package fails here until it has a line in MAY_IMPORT.
"""

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE_DIRS = (
    "template", "compression", "evaluation", "neurons", "localnet", "simulation", "benchmarks",
)  # fmt: skip
OWN_PACKAGES = {*SOURCE_DIRS, "tests"}

MAX_FILE_LINES = 500
MAX_CLASS_LINES = 300
MAX_FUNCTION_LINES = 80

SOURCES = sorted(path for name in SOURCE_DIRS for path in (ROOT / name).rglob("*.py"))
ALL_FILES = sorted([*SOURCES, *(ROOT / "tests").rglob("*.py"), ROOT / "setup.py"])

COMMON = (
    "template", "template.errors", "template.files", "template.secret", "template.retry",
    "template.host",
)  # fmt: skip
LEAVES = ("compression", "evaluation")
PURE = (*LEAVES, "template.protocol")
FOUNDATION = (*COMMON, "template.protocol", "template.settings")
NODE = (
    *FOUNDATION, "template.context", "template.chain", "template.store", "template.data",
    "template.training", "template.metrics", "template.log_context",
)  # fmt: skip
"""What every room of a node's life builds on; the rooms themselves are named one by one."""
EVERYTHING_BELOW = ("template.*", *LEAVES)

MAY_IMPORT = {
    "compression": ("compression",),
    "evaluation": ("evaluation",),
    "template": FOUNDATION,
    "template.metrics_http": FOUNDATION,
    "template.metrics_prometheus": (*FOUNDATION, "template.metrics", "template.metrics_http"),
    "template.context": (*NODE,),
    "template.recompute": EVERYTHING_BELOW,
    "template.replay": EVERYTHING_BELOW,
    "template.protocol": (*COMMON, "template.protocol", "compression"),
    "template.chain": (*COMMON, "template.chain", "template.protocol"),
    "template.store": (*COMMON, "template.store", "template.protocol"),
    "template.data": (*COMMON, "template.data", "template.protocol"),
    "template.training": (
        *COMMON, "template.training", "template.data", "template.protocol", "compression",
    ),
    "template.ranks": (
        *COMMON, "template.ranks", "template.training", "template.protocol", "template.settings",
        "compression",
    ),
    "template.peers": (*NODE, "template.peers"),
    "template.scoring": (*NODE, "template.scoring", "template.peers", *LEAVES),
    "template.bucket": (*NODE, "template.bucket", "template.scoring.rules", "template.peers"),
    "template.sync": (*NODE, "template.sync", "template.bucket", "template.peers"),
    "template.audit": (
        *NODE, "template.audit", "template.sync", "template.scoring", "template.peers",
        "evaluation",
    ),
    "template.base": (
        *NODE, "template.base", "template.bucket", "template.sync", "template.scoring",
        "template.peers", *LEAVES,
    ),
    "template.public": (
        *NODE, "template.public", "template.audit", "template.sync", "template.scoring",
        "template.peers", "evaluation",
    ),
    "template.planning": (
        *NODE, "template.planning", "template.base", "template.bucket", "template.scoring",
        "evaluation",
    ),
    "template.doctor": (*NODE, "template.doctor", "template.planning"),
    "template.status": (*FOUNDATION, "template.status"),
    "template.cli": (*FOUNDATION, "template.cli", "template.log_context"),
    "template.cli.main": (
        *FOUNDATION, "template.cli", "template.commands", "localnet.flags", "localnet.main",
    ),
    "template.cli.plan_flags": (*FOUNDATION, "template.cli", "template.planning.hardware"),
    "template.commands": EVERYTHING_BELOW,
    "localnet": (*EVERYTHING_BELOW, "localnet"),
    "localnet.chain": (*COMMON, "localnet.chain", "template.cli.parser"),
    "neurons": ("template.cli.main",),
    "simulation": (*EVERYTHING_BELOW, "localnet.adversaries", "simulation"),
    "benchmarks": (*EVERYTHING_BELOW, "localnet", "simulation", "benchmarks"),
}  # fmt: skip
"""Importer -> our modules that it may import, prefixes of packages; the longest key counts."""

ADAPTERS = ("template.chain.bittensor", "template.store.s3", "localnet")
COMPOSERS = (
    "template.cli.main",
    "template.commands",
    "template.bucket.own",
    "localnet",
    "simulation",
    "benchmarks",
    *ADAPTERS,
)
"""Those who may choose an adapter; everyone else is handed one."""

S3_ADAPTER = ("template.store.s3", "template.store.transport", "template.store.exchange")
ONLY_IN = {
    "numba": ("compression",),
    "bittensor": ("template.chain.bittensor", "localnet"),
    "bittensor_core": ("template.chain.bittensor", "localnet"),
    "websockets": ("template.chain.bittensor", "localnet"),
    "boto3": (*S3_ADAPTER, "localnet"),
    "botocore": (*S3_ADAPTER, "localnet"),
    "urllib3": S3_ADAPTER,
    "wandb": ("template.metrics",),
    "prometheus_client": ("template.metrics_prometheus",),
    "openskill": ("evaluation",),
    "accelerate": ("template.training", "template.commands", "benchmarks"),
    "tokenizers": (
        "template.data.tokenizer",
        "template.data.preparing",
        "template.commands",
        "benchmarks",
    ),
    "huggingface_hub": ("template.commands.model_publish",),
    "httpx2": ("template.commands.model_publish",),
    "lm_eval": ("template.commands.model_eval",),
    "transformers": ("template.training", "template.commands", "benchmarks"),
    "Crypto": ("localnet",),
    "cryptography": ("localnet",),
    "jinja2": ("template.public.site", "template.commands.model_chat"),
    "matplotlib": ("localnet", "template.commands", "benchmarks"),
    "rich": ("localnet", "template.commands", "benchmarks"),
    "pickle": (),
    "cloudpickle": (),
    "dill": (),
    "marshal": (),
    "shelve": (),
}
THIRD_PARTY_OF_LEAVES = {
    "compression": {"torch", "numpy", "numba"},
    "evaluation": {"torch", "numpy", "openskill"},
    "template.protocol": {"torch", "numpy"},
}
IMPURE_MODULES = {
    "asyncio", "logging", "os", "random", "secrets", "socket", "subprocess", "threading", "time",
}  # fmt: skip
IMPURE_ALLOWED = {"compression.jit": {"os"}}
"""Compiled code is kept on disk, and the folder must be this user's own."""

BANNED_NAMES = {
    "torch.load",
    "importlib.import_module",
    "import_module",
    "__import__",
    "eval",
    "exec",
}
BROAD_EXCEPT_ALLOWED = {
    "template/base/supervisor.py",
    "template/data/tokenizer.py",
    "template/doctor/checks.py",  # carries a check's error to the thread that waits
    "template/metrics.py",
    "simulation/swarm.py",
}
BROAD = {"Exception", "BaseException"}

COMES_WITH = {
    "bittensor_core": "bittensor", "urllib3": "botocore", "Crypto": "pycryptodome",
    "prometheus_client": "prometheus-client", "huggingface_hub": "huggingface-hub",
    "httpx2": "huggingface-hub", "lm_eval": "lm-eval", "markupsafe": "jinja2",
}  # fmt: skip
"""Imported name -> the declared distribution that brings it."""


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def for_each(paths: Sequence[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Makes one test of a check of a file; the file that fails is named. (A test for each file and
    rule would be three thousand.)
    """

    def make(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    error.add_note(label(path))
                    raise

        return test

    return make


each_source = for_each(SOURCES)
each_file = for_each(ALL_FILES)


@pytest.fixture(autouse=True, scope="module")
def _trees_end_with_the_module() -> Iterator[None]:
    """A million nodes that stay would slow every later garbage collection of the worker."""
    yield
    tree_of.cache_clear()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def is_package(name: str) -> bool:
    return name != "template" and (ROOT.joinpath(*name.split(".")) / "__init__.py").is_file()


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, in full: `from template.store import s3` counts as s3."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
            found.update(name if is_module(name) else base for name in names)
    return frozenset(found)


def covers(prefix: str, module: str) -> bool:
    """Whether `module` is `prefix` or inside it; "template" alone is just that one file."""
    if prefix == "template":
        return module == prefix
    prefix = prefix.removesuffix(".*")
    return module == prefix or module.startswith(prefix + ".")


def is_in(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(covers(prefix, module) for prefix in prefixes)


def allowed_for(importer: str) -> tuple[str, ...]:
    keys = [key for key in MAY_IMPORT if importer == key or importer.startswith(key + ".")]
    key = max(keys, key=len)
    if key == "template":
        is_module_of_its_own = importer.count(".") <= 1 and not is_package(importer)
        assert is_module_of_its_own, f"{importer}: add its package to MAY_IMPORT"
    return MAY_IMPORT[key]


def top(module: str) -> str:
    return module.partition(".")[0]


def third_party(path: Path) -> set[str]:
    return {
        top(name)
        for name in imports(path)
        if top(name) not in OWN_PACKAGES and top(name) not in sys.stdlib_module_names
    }


@each_source
def test_imports_point_one_way(path):
    allowed = allowed_for(module_name(path))
    own = {name for name in imports(path) if top(name) in OWN_PACKAGES}
    assert {name for name in own if not is_in(name, allowed)} == set()


@each_source
def test_adapters_are_chosen_at_the_top(path):
    if not is_in(module_name(path), COMPOSERS):
        assert {name for name in imports(path) if is_in(name, ADAPTERS)} == set()


@each_source
def test_libraries_have_one_door(path):
    importer = module_name(path)
    doors = {name: ONLY_IN[top(name)] for name in imports(path) if top(name) in ONLY_IN}
    assert [name for name, places in doors.items() if not is_in(importer, places)] == []


@each_source
def test_leaves_and_pure_packages_import_little(path):
    importer = module_name(path)
    for package, libraries in THIRD_PARTY_OF_LEAVES.items():
        if is_in(importer, (package,)):
            assert third_party(path) <= libraries
    if is_in(importer, PURE):
        impure = {top(name) for name in imports(path)} & IMPURE_MODULES
        assert impure == IMPURE_ALLOWED.get(importer, set())


def test_every_library_is_declared():
    own = declared_in("setup.py")
    of_localnet = declared_in("localnet/pyproject.toml")
    assert {"torch", "bittensor", "numpy"} <= own
    for path in SOURCES:
        declared = own | of_localnet if is_in(module_name(path), ("localnet",)) else own
        assert {n for n in third_party(path) if COMES_WITH.get(n, n) not in declared} == set()


def declared_in(name: str) -> set[str]:
    source = (ROOT / name).read_text(encoding="ascii")
    return {name.lower() for name in re.findall(r'"([A-Za-z0-9-]+)(?:\[\w+\])?[><=]=', source)}


def loaded_by(*modules: str) -> set[str]:
    """Every module that a fresh Python process holds after importing `modules`."""
    code = f"import {', '.join(modules)}, sys; print(*sys.modules)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True, timeout=50)
    return set(done.stdout.split())


CLIENTS = {"bittensor", "bittensor_core", "boto3", "botocore", "wandb"}


def test_leaves_load_neither_chain_nor_bucket_clients():
    names = [
        module.name
        for package in ("compression", "evaluation")
        for module in pkgutil.walk_packages([str(ROOT / package)], package + ".")
    ]
    assert loaded_by("compression", "evaluation", *names) & CLIENTS == set()
    assert "compression.decoder" in names


def test_the_context_of_a_node_loads_no_client_and_no_command_line():
    """torch loads argparse, so the test looks for `template.cli` and for argparse in the
    sources of our modules instead.
    """
    loaded = loaded_by("template.context")
    assert "template.context" in loaded
    assert loaded & CLIENTS == set()
    own = {name for name in loaded if top(name) in OWN_PACKAGES}
    assert {name for name in own if covers("template.cli", name)} == set()
    paths = [path for path in SOURCES if module_name(path) in own]
    assert len(paths) == len(own)
    assert [label(path) for path in paths if "argparse" in imports(path)] == []


@each_file
def test_sizes(path):
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_FILE_LINES
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert num_node_lines(node) <= MAX_FUNCTION_LINES, node.name
        elif isinstance(node, ast.ClassDef):
            assert num_node_lines(node) <= MAX_CLASS_LINES, node.name


def num_node_lines(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def names_in(node: ast.expr | None) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} if node else set()


def broad_handlers(tree: ast.Module) -> list[int]:
    """Lines where any exception is caught and kept; cleaning up and raising it again is fine."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            broad = node.type is None or names_in(node.type) & BROAD
            if broad and ast.unparse(node.body[-1]) != "raise":
                lines.append(node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            lines += [node.lineno for arg in node.args if names_in(arg) & BROAD]
    return lines


@each_source
def test_no_broad_except(path):
    if label(path) not in BROAD_EXCEPT_ALLOWED:
        assert broad_handlers(tree_of(path)) == []


@each_file
def test_no_unpickling_and_no_code_by_name(path):
    last_words = {name.rpartition(".")[2] for name in BANNED_NAMES}
    code = {
        ast.unparse(node)
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id) in last_words
    }
    assert code & BANNED_NAMES == set()


@each_source
def test_every_module_says_what_it_owns(path):
    docstring = ast.get_docstring(tree_of(path)) or ""
    assert len(docstring) >= 20
    assert "PLACEHOLDER" not in docstring


@each_file
def test_sources_are_ascii(path):
    path.read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("try: pass\nexcept: pass", [2]),
        ("try: pass\nexcept Exception: pass", [2]),
        ("try: pass\nexcept (OSError, BaseException) as e: pass", [2]),
        ("with contextlib.suppress(Exception): pass", [1]),
        ("try: pass\nexcept (OSError, ValueError): pass", []),
        ("try: pass\nexcept BaseException:\n    stop()\n    raise", []),
    ],
)
def test_the_rule_on_broad_except_finds_them(code, lines):
    assert broad_handlers(ast.parse(code)) == lines


@pytest.mark.parametrize(
    ("importer", "module", "expected"),
    [
        ("compression.topk", "compression.chunking", True),
        ("compression.topk", "template.errors", False),
        ("evaluation.score", "template.chain.types", False),
        ("evaluation.score", "template.protocol.hashing", False),
        ("template.base.miner", "template.metrics", True),
        ("template.base.miner", "localnet.buckets", False),
        ("template.training.outer", "template.base.miner", False),
        ("localnet.chain.rpc", "template.protocol.record", False),
        ("neurons.miner", "template.cli.main", True),
        ("neurons.miner", "template.chain.bittensor", False),
        ("template.cli.flags", "template.commands.neuron", False),
        ("template.cli.main", "template.commands.neuron", True),
        ("template.chain.bittensor.calls", "template.chain.types", True),
        ("template.chain.bittensor.calls", "template.store.s3", False),
        ("neurons.miner", "neurons.validator", False),
        ("template.settings", "template.base.miner", False),
        ("template.sync.follower", "template.scoring.window", False),
        ("template.scoring.window", "template.sync.follower", False),
        ("template.context", "template.cli.flags", False),
        ("simulation.swarm", "template.base.miner", True),
        ("simulation.swarm", "localnet.launcher", False),
        ("template.base.miner", "simulation.world", False),
        ("localnet.launcher", "simulation.world", False),
    ],
)
def test_the_rule_on_imports_tells_them_apart(importer, module, expected):
    assert is_in(module, allowed_for(importer)) is expected


TESTS = ROOT / "tests"
TEST_MODULES = sorted(TESTS.rglob("test_*.py"))
WITHOUT_ONE_SOURCE = ("scenarios", "docs", "support", "gpu")
ABOUT_ALL_SOURCES = ("test_architecture", "test_no_pickle", "test_version")
LOOKS_AT_OTHER_TESTS = ("tests/scenarios/faults/test_catalogue.py",)
"""Counts the rows of the fault tables, which lie beside the tests that run them."""


def test_tests_mirror_the_packages() -> None:
    for path in TEST_MODULES:
        folders = path.relative_to(TESTS).parts[:-1]
        if folders:
            mirrored = [ROOT.joinpath(*folders), ROOT.joinpath("template", *folders)]
            is_mirror = any(next(folder.glob("*.py"), None) for folder in mirrored)
            assert folders[0] in WITHOUT_ONE_SOURCE or is_mirror, label(path)
        else:
            subject = path.stem.removeprefix("test_")
            assert path.stem in ABOUT_ALL_SOURCES or is_module(f"template.{subject}"), label(path)


def test_no_test_imports_another() -> None:
    for path in sorted(TESTS.rglob("*.py")):
        if label(path) not in LOOKS_AT_OTHER_TESTS:
            others = {
                n for n in imports(path) if top(n) == "tests" and not n.startswith("tests.support")
            }
            assert others == set(), label(path)
