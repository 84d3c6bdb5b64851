"""ReflectEvo's data side: questions in, reflections and preference pairs out. Imports no torch."""

__version__ = "0.1.0.dev0"

from typing import TYPE_CHECKING, Any

from .schema import Completion, Problem, Reflection, Rollout, Trial, Verdict


if TYPE_CHECKING:
    from .verifiers.pool import VerifierPool, verify

__all__ = ["Completion", "Problem", "Reflection", "Rollout", "Trial", "Verdict", "VerifierPool", "verify"]


def __getattr__(name: str) -> Any:
    """The verifiers, imported when first asked for: a command that judges nothing does not wait for them."""
    if name in ("VerifierPool", "verify"):
        from .verifiers import pool as verifiers

        return getattr(verifiers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
