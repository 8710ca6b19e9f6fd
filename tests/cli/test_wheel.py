"""The wheel of a miner or validator: no local chain, one console script."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("template", "compression", "evaluation", "localnet", "neurons", "runs")
FILES = ("setup.py", "pyproject.toml", "LICENSE", "NOTICE")


@pytest.mark.slow
def test_the_wheel_has_the_command_and_no_local_chain(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in SOURCES:
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, tree)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(tmp_path), str(tree)], check=True, timeout=300)
    (path,) = tmp_path.glob("tessera_subnet-*.whl")
    with ZipFile(path) as wheel:
        names = wheel.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert b"tessera = template.cli.main:entry" in wheel.read(entry_points)
    packages = {name.partition("/")[0] for name in names if name.endswith(".py")}
    assert packages == {"template", "compression", "evaluation"}
    assert "template/commands/neuron.py" in names
    assert "template/planning/costs.json" in names
    assert "template/public/schemas/payslip.json" in names
    assert "template/public/site/templates/index.html" in names
    assert "template/public/site/templates/style.css" in names
    assert not [name for name in names if "yuma" in name or "pallets" in name]
