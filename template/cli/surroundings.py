"""Environment variables that would decide in the place of the run spec, removed at the start.

Libraries read the environment behind our back: accelerate joins a training cluster or changes the
batch, torch and its libraries change the arithmetic, the SDK moves the chain `local`, and every
client of the web takes a proxy. A node computes as the run spec says and connects directly, so
a command removes such variables before a library is loaded, and says so in one line. Variables of
the machine stay: threads, devices, memory, caches, logs.
"""

import re
from collections.abc import Iterable, MutableMapping
from typing import Final

_LAUNCHERS: Final = (
    "(LOCAL_|GROUP_|ROLE_|CROSS_)?(RANK|WORLD_SIZE)|NODE_RANK|NPROC|FORK_LAUNCHED"
    "|MASTER_(ADDR|PORT)|(MPI|OMPI|PMI|PMIX|MV2|SM|SMDATAPARALLEL)_.*"
)
_TRAINING: Final = (
    "(ACCELERATE|FSDP|FP8|DEEPSPEED|MEGATRON_LM|PARALLELISM_CONFIG|TRANSFORMERS)_.*"
    "|USE_(TORCH|TORCH_XLA|TF|FLAX|JAX|HUB_KERNELS)|FLASH_ATTENTION_.*|TRUST_REMOTE_CODE"
)
_ARITHMETIC: Final = (
    "(PY)?TORCH.*|(ATEN|AOT|AOT_INDUCTOR|CUBLAS|CUBLASLT|DNNL|ONEDNN|MKL|TRITON)_.*"
    "|(PJRT|PT_HPU|TPU|XLA)_.*|NVIDIA_TF32_OVERRIDE"
)
_CHAIN: Final = "BT_CHAIN_ENDPOINT"
_PROXIES: Final = ".+_proxy"
_MACHINE: Final = frozenset(
    {
        "CUBLAS_VERSION",
        "MKL_NUM_THREADS",
        "PYTORCH_ALLOC_CONF",
        "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_BUILD_NUMBER",
        "PYTORCH_BUILD_VERSION",
        "PYTORCH_HOME",
        "PYTORCH_VERSION",
        "TORCHINDUCTOR_CACHE_DIR",
        "TORCH_CUDA_ARCH_LIST",
        "TORCH_HOME",
        "TORCH_LOGS",
        "TORCH_SHOW_CPP_STACKTRACES",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS",
        "TRANSFORMERS_OFFLINE",
        "TRANSFORMERS_VERBOSITY",
        "TRITON_CACHE_DIR",
    }
)
"""Names that the patterns match, and that decide nothing of the run."""
_DECIDING: Final = re.compile("|".join((_LAUNCHERS, _TRAINING, _ARITHMETIC, _CHAIN)))
_PROXY: Final = re.compile(_PROXIES, re.IGNORECASE)
_NO_PROXY: Final = "no_proxy"


def deciding(names: Iterable[str]) -> list[str]:
    """The names of variables that a node ignores, sorted."""
    return sorted(name for name in names if _is_deciding(name))


def clear_environment(env: MutableMapping[str, str]) -> list[str]:
    """Remove every deciding variable from `env`; the names, sorted.

    `no_proxy` becomes `*`, so that no client falls back on the proxies of the system's settings.
    """
    names = deciding(env)
    for name in names:
        del env[name]
    env[_NO_PROXY] = "*"
    return [name for name in names if name.lower() != _NO_PROXY]


def cleared_line(names: Iterable[str]) -> str:
    """The line for the operator about removed variables."""
    return (
        f"ignores {', '.join(names)} of the environment: the run spec decides how a node computes, "
        "and a node connects directly, through no proxy; unset them\n"
    )


def _is_deciding(name: str) -> bool:
    if name in _MACHINE:
        return False
    return _DECIDING.fullmatch(name) is not None or _PROXY.fullmatch(name) is not None
