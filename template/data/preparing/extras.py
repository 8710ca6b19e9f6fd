"""The libraries that only some inputs need: imported when such an input comes, never before."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from template.errors import ConfigError


@contextmanager
def open_parquet(path: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`. ConfigError if the file is damaged, also when read later,
    or if `pyarrow` is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(_missing(path, "Parquet", "pyarrow", "data")) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except ValueError as error:  # pyarrow's ArrowInvalid is one
        raise ConfigError(
            f"input {path}: is no whole Parquet file ({error}); fetch it again"
        ) from error


def load_zstandard(path: str) -> Any:
    """`zstandard`. ConfigError with the remedy if it is not installed."""
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError(_missing(path, "zstd", "zstandard", "data")) from error
    return zstandard


def load_datasets(path: str) -> Any:
    """`datasets` of Hugging Face. ConfigError with the remedy if it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(_missing(path, "a `datasets` dataset", "datasets", "hub")) from error
    return datasets


def _missing(path: str, what: str, library: str, extra: str) -> str:
    return (
        f"input {path}: {what} needs the package {library}, which is not installed: "
        f"`pip install {library}`, or the extra {extra} of this package"
    )
