"""A dataset folder made by the package's own loop, judge and build, with a script in the place of the model.

The script answers as the miniature's corpus is written, so that rows look as the miniature's do: about half of the first
trials fail, thorough reflections mend most of them, lazy ones few.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from reflectevo_data.completers.base import Sampling
from reflectevo_data.completers.scripted import Request, ScriptedCompleter
from reflectevo_data.curation.judge import SelfJudge, judge_run
from reflectevo_data.dataset.build import build_dataset
from reflectevo_data.prompts.templates import load_prompts
from reflectevo_data.rollouts.generate import generate_run
from reflectevo_data.rollouts.loop import Role, Roles
from reflectevo_data.rollouts.manifest import Loop, Manifest, PromptSource, RoleModels
from reflectevo_data.rollouts.store import Preferences, RunDirectory
from reflectevo_data.sources.miniature import Chain, chain_of, problems
from reflectevo_data.verifiers.pool import VerifierPool
from reflectevo_train.miniature import corpus


def answer(request: Request) -> str:
    """What a miniature might say; the request's seed decides."""
    rng = random.Random(request.seed)
    question, _, rest = request.prompt.partition("\n\nAttempt:\n")
    chain = chain_of(question)
    assert isinstance(chain, Chain)
    if not rest:
        return corpus.attempt_text(corpus.quick_steps(chain, rng))
    trial, _, rest = rest.partition("\n\n")
    steps = corpus.steps_of(trial)
    if rest.startswith("Reflection:\n"):
        return corpus.correction(chain, steps, rest.removeprefix("Reflection:\n").partition("\n\n")[0], rng)
    return corpus.thorough_reflection(steps) if rng.random() < 0.5 else corpus.lazy_reflection(steps, rng)


def make_dataset(folder: Path, *, n_problems: int = 80, n_reflections: int = 4) -> Path:
    """Builds `folder/ReflectEvo` with all four configs; half of the questions are in the validation split."""
    from reflectevo_data.curation.curate import Curation

    completer = ScriptedCompleter(answer, model="scripted", score=lambda prompt, *_: -float(len(prompt)))
    prompts = load_prompts("miniature")
    role = Role(completer, Sampling(temperature=1.0))

    async def generate(run: RunDirectory, verifier: VerifierPool) -> None:
        await generate_run(
            list(problems("train", seed=0, n=n_problems)),
            Roles(role, role, role),
            run,
            Loop(n_reflections=n_reflections),
            prompts=prompts,
            verifier=verifier,
        )

    manifest = Manifest(models=RoleModels("scripted"), prompts=PromptSource("miniature"))
    with VerifierPool(1) as verifier, RunDirectory.open(folder / "run", manifest) as run:
        asyncio.run(generate(run, verifier))
    with Preferences(folder / "run") as preferences:
        asyncio.run(judge_run(preferences, SelfJudge(completer, prompts)))
    build_dataset([folder / "run"], folder / "ReflectEvo", curation=Curation(validation_fraction=0.3))
    return folder / "ReflectEvo"
