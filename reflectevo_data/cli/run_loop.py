"""What `generate` and `evaluate` do: the problems that the flags name through the loop, into `--output`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from .arguments import engine_of, problems_of, prompts_of


if TYPE_CHECKING:
    from ..rollouts.generate import GenerationReport
    from ..rollouts.manifest import Loop, QuestionSource, RunKind
    from ..rollouts.store import RunDirectory
    from ..schema import Problem


def run_loop(
    args: argparse.Namespace,
    kind: RunKind,
    loop: Loop,
    *,
    finish: Callable[[RunDirectory, list[Problem], GenerationReport], int],
    questions: Callable[[argparse.Namespace], tuple[list[Problem], QuestionSource]] = problems_of,
    reflection_temperature: float | None = None,
) -> int:
    """Runs the loop over the problems that the run has no record of yet; returns what `finish` returns.

    Args:
        args: With the flags of `add_questions`, `add_models`, `add_instructions`, `add_sampling`, `add_randomness` and
            `add_verification`, and `output`.
        kind: Of the run.
        loop: What each problem goes through.
        finish: Takes the run directory, all its problems and the report; prints them, and returns the exit code.
        questions: The problems, and what the manifest says of them.
        reflection_temperature: Of the reflector, where it is not that of the trials.
    """
    from ..completers.base import Sampling
    from ..completers.engine import open_roles
    from ..rollouts.generate import generate_run
    from ..rollouts.loop import Role, Roles
    from ..rollouts.manifest import Manifest, PromptSource, RoleModels, RunSampling
    from ..rollouts.store import RunDirectory
    from ..verifiers.pool import VerifierPool

    prompts = prompts_of(args)
    engine = engine_of(args)
    problems, source = questions(args)
    manifest = Manifest(
        kind=kind,
        source=source,
        engine=args.engine,
        models=RoleModels(**engine.names()),
        sampling=RunSampling(args.temperature, args.top_p, args.max_tokens, reflection_temperature),
        loop=loop,
        prompts=PromptSource(prompts.name, prompts.fingerprint),
    )
    trials = Sampling(args.temperature, args.top_p, args.max_tokens)
    reflections = trials if reflection_temperature is None else replace(trials, temperature=reflection_temperature)

    async def run_all() -> int:
        async with open_roles(engine) as completers:
            report = await generate_run(
                problems,
                Roles(
                    Role(completers.generator, trials),
                    Role(completers.reflector, reflections),
                    Role(completers.corrector, trials),
                ),
                directory,
                loop,
                prompts=prompts,
                verifier=verifier,
                in_flight=args.concurrency or 2 * max(completer.slots for completer in completers),
                title=kind,
            )
        return finish(directory, problems, report)

    with VerifierPool(args.verifier_workers, allow_unsandboxed_code=args.allow_unsandboxed_code) as verifier:
        verifier.preflight(problems)
        with RunDirectory.open(args.output, manifest) as directory:
            return asyncio.run(run_all())
