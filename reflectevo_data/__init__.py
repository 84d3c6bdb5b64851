"""ReflectEvo's data side: questions in, reflections and preference pairs out. Imports no torch."""

__version__ = "0.1.0.dev0"

from importlib import import_module
from typing import TYPE_CHECKING

from .schema import Completion, Problem, Reflection, Rollout, Trial, Verdict


if TYPE_CHECKING:
    from .builder import ReflectEvo
    from .dataset.build import build_dataset
    from .rollouts.loop import run_rollouts
    from .rollouts.manifest import Loop
    from .sources.load import load_problems
    from .verifiers.pool import VerifierPool, verify

__all__ = [
    "Completion",
    "Loop",
    "Problem",
    "ReflectEvo",
    "Reflection",
    "Rollout",
    "Trial",
    "Verdict",
    "VerifierPool",
    "build_dataset",
    "load_problems",
    "run_rollouts",
    "verify",
]
# imported when first asked for: a command that judges nothing does not wait for the verifiers
_LAZY = {
    "Loop": "rollouts.manifest",
    "ReflectEvo": "builder",
    "VerifierPool": "verifiers.pool",
    "build_dataset": "dataset.build",
    "load_problems": "sources.load",
    "run_rollouts": "rollouts.loop",
    "verify": "verifiers.pool",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
