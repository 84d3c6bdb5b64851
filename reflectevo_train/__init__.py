"""The training side: what is particular to reflection, on top of TRL."""

from importlib import import_module
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .training.callbacks import ReflectionEvalCallback
    from .training.collators import ReflectionCollator

__all__ = ["ReflectionCollator", "ReflectionEvalCallback"]
_LAZY = {"ReflectionCollator": "training.collators", "ReflectionEvalCallback": "training.callbacks"}


def __getattr__(name: str) -> object:
    """Imported when first asked for: evaluation and report work without torch."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
