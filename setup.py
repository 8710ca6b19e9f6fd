"""Package metadata: what is installed and what it needs. Exact versions: constraints.txt.

The console script is `tessera`; `neurons/` holds scripts for a checkout and is not installed.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
PACKAGES = ("template", "compression", "evaluation")

DATA_FILES = (
    "planning/*.json",
    "public/schemas/*.json",
    "public/site/templates/*.html",
    "public/site/templates/*.css",
)

REQUIRES = [
    "torch>=2.13,<2.14",
    "bittensor>=11.3,<12",
    "websockets>=14.1,<17",
    "transformers>=5.23,<6",
    "tokenizers>=0.23,<0.24",
    "huggingface-hub>=2.4,<3",
    "accelerate>=1.15,<2",
    "safetensors>=0.8,<1",
    "boto3>=1.44,<2",
    "botocore>=1.44,<2",
    "openskill>=6.2,<7",
    "numba>=0.68,<0.70",
    "numpy>=2.4,<3",
    "rich>=15,<16",
    "jinja2>=3.1.6,<4",
    "shtab>=1.13,<2",
]

EXTRAS = {
    # What `tessera data prepare` reads Parquet and zstd with; text, JSON lines and gzip need none.
    "data": ["pyarrow>=22,<27", "zstandard>=0.23,<1"],
    # Folders of `datasets` and names on the hub, for `tessera data prepare`.
    "hub": ["datasets>=4.4,<6"],
    "wandb": ["wandb>=0.31,<1"],
    # The Prometheus endpoint of a neuron, --metrics.port.
    "metrics": ["prometheus-client>=0.22,<1"],
    # Standard tasks, for `tessera model eval`.
    "eval": ["lm-eval>=0.4.13,<0.5"],
    # What benchmarks draw with; the localnet's own needs are in localnet/pyproject.toml.
    "benchmarks": ["matplotlib>=3.11,<4"],
    "test": [
        "pytest>=9.2,<10",
        "pytest-randomly>=5.1,<6",
        "pytest-timeout>=2.4,<3",
        "pytest-xdist>=3.8,<4",
        "hypothesis>=6.170,<7",
        "jsonschema>=4.26,<5",
        "libfaketime>=3.0.1,<4; sys_platform == 'linux'",
        "moto[server]>=5.2.5,<6",
        "jsonschema>=4.25,<5",
        "ruff==0.17.6",
        "mypy==2.4.1",
        "botocore-stubs>=1.43,<2",
    ],
}
# Not in "all": there are wheels for few platforms, and only `make fuzz` needs it.
FUZZ = ["atheris>=3,<4; sys_platform == 'linux' and platform_machine == 'x86_64'"]
# Nor "eval", which brings forty packages that no test needs.
EXTRAS["all"] = [
    requirement for name, extra in EXTRAS.items() if name != "eval" for requirement in extra
]
EXTRAS["fuzz"] = FUZZ


def read_version() -> str:
    """The version in template/__init__.py, read as text: importing it may need what we install."""
    source = (ROOT / "template" / "__init__.py").read_text(encoding="ascii")
    match = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if match is None:
        raise SystemExit("setup.py: template/__init__.py has no line of the form __version__ = ...")
    return match.group(1)


if __name__ == "__main__":
    setup(
        name="tessera-subnet",
        version=read_version(),
        description="A Bittensor subnet on which strangers pre-train one language model together",
        license="MIT",
        license_files=["LICENSE", "NOTICE"],
        python_requires=">=3.11,<3.14",
        packages=find_packages(include=[*PACKAGES, *(f"{name}.*" for name in PACKAGES)]),
        package_data={name: ["py.typed", *DATA_FILES] for name in PACKAGES},
        install_requires=REQUIRES,
        extras_require=EXTRAS,
        entry_points={"console_scripts": ["tessera = template.cli.main:entry"]},
    )
