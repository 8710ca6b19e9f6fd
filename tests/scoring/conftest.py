"""The fixtures of this folder; what other modules may import lies in tests/support."""

from tests.support.scoring import form, spec

__all__ = ["form", "spec"]
