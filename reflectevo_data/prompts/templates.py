"""Prompt sets: a problem and what is known of it so far -> one user message.

A prompt set is a folder of Jinja templates (`solve`, `retry`, `reflect`, `correct`, `one_stage`, `judge`, `self_check`), a
`few_shot.yaml` and a `pool.yaml` of reflection instructions. `retry`, `reflect`, `correct` and `one_stage` follow a
failed trial and may say so; their `_open` siblings ask the same of a trial that nobody has judged. `default` and
`miniature` are bundled; a user's own folder overrides the files it has and takes the others from `default`. No template
is ever given the gold answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2

from ..errors import InputError
from ..schema import Problem
from .instructions import instruction_pool, yaml_mapping


BUNDLED = Path(__file__).parent
_AFTER_A_TRIAL = ("retry", "reflect", "correct", "one_stage")
TEMPLATES = ("solve", *_AFTER_A_TRIAL, "judge", "self_check", *(f"{name}_open" for name in _AFTER_A_TRIAL))


@dataclass(frozen=True)
class PromptSet:
    """Templates, few-shot examples and the instruction pool of one folder.

    Attributes:
        name: `default`, `miniature`, or the name of the user's folder.
        few_shot: Worked examples by answer type; each has what its template shows.
        pool: Reflection instructions, key -> text, in the pool's order.
        open_pool: The same keys, in words that do not claim a failure.
        fingerprint: Hash of every file that the prompts are made from.
    """

    name: str
    templates: dict[str, jinja2.Template]
    few_shot: dict[str, list[dict[str, Any]]]
    pool: dict[str, str]
    open_pool: dict[str, str]
    fingerprint: str

    def solve(self, problem: Problem) -> str:
        """The first trial's prompt."""
        return self._render("solve", problem)

    def retry(self, problem: Problem, trial: str) -> str:
        """A second trial's prompt without a reflection: the baseline."""
        return self._render("retry", problem, trial=trial)

    def reflect(self, problem: Problem, trial: str, instruction: str) -> str:
        """The reflector's prompt on a failed trial; `instruction` is a key of the pool."""
        return self._render("reflect", problem, trial=trial, instruction=self.pool[instruction])

    def correct(self, problem: Problem, trial: str, reflection: str) -> str:
        """The second trial's prompt: the failed trial and one reflection on it."""
        return self._render("correct", problem, trial=trial, reflection=reflection)

    def one_stage(self, problem: Problem, trial: str) -> str:
        """The prompt for a reflection and a second trial in one assistant message."""
        return self._render("one_stage", problem, trial=trial)

    def open(self) -> PromptSet:
        """The same set for trials that nobody has judged: no prompt claims that the answer is wrong."""
        unjudged = {name: self.templates[f"{name}_open"] for name in _AFTER_A_TRIAL}
        return replace(self, templates=self.templates | unjudged, pool=self.open_pool)

    def self_check(self, problem: Problem, trial: str) -> str:
        """The prompt that asks a model whether its own attempt is right."""
        return self._render("self_check", problem, trial=trial)

    def judge(self, problem: Problem, trial: str, reflection_a: str, reflection_b: str) -> str:
        """The judge's prompt: which of two reflections is the better one."""
        return self._render("judge", problem, trial=trial, reflection_a=reflection_a, reflection_b=reflection_b)

    def _render(self, template: str, problem: Problem, **known: str) -> str:
        return (
            self.templates[template]
            .render(
                question=problem.question.strip(),
                options=_options_to_show(problem),
                answer_type=problem.answer_type,
                # one test shows how a solution is called; a function fitted to it alone fails the others
                example_test=problem.test_list[0] if problem.test_list else "",
                few_shot=self.few_shot.get(problem.answer_type, []),
                **known,
            )
            .strip()
        )


def load_prompts(name_or_folder: str, *, instruction_file: str | None = None) -> PromptSet:
    """The bundled set of this name, or the user's folder.

    Args:
        name_or_folder: `default`, `miniature` or a folder.
        instruction_file: YAML, key -> instruction text, added to the set's pool.

    Raises:
        InputError: The folder or a file in it cannot be used; the message names file and reason.
    """
    folder = BUNDLED / name_or_folder if name_or_folder in ("default", "miniature") else Path(name_or_folder)
    if not folder.is_dir():
        raise InputError(f"--prompts {name_or_folder}: neither default, miniature nor a folder. Name one of these.")
    digest = hashlib.blake2b(digest_size=8)

    def source(file: str) -> tuple[Path, str]:
        path = folder / file if (folder / file).is_file() else BUNDLED / "default" / file
        text = path.read_text("utf-8")
        digest.update(f"{file}\0{text}\0".encode())
        return path, text

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FileSystemLoader([folder, BUNDLED / "default"]),
    )
    templates = {}
    for template in TEMPLATES:
        path, _ = source(f"{template}.jinja")
        try:
            templates[template] = environment.get_template(f"{template}.jinja")
        except jinja2.TemplateSyntaxError as error:
            raise InputError(f"{path}:{error.lineno}: {error.message}. Correct the template.") from None
    for shared in sorted({path.name for path in [*folder.glob("_*.jinja"), *(BUNDLED / "default").glob("_*.jinja")]}):
        source(shared)
    few_shot = yaml_mapping(*source("few_shot.yaml"))
    pool_file = source("pool.yaml")
    pool, open_pool = instruction_pool(*pool_file), instruction_pool(*pool_file, choices="choices_open")
    if instruction_file is not None:
        path = Path(instruction_file)
        if not path.is_file():
            raise InputError(f"--instruction-file {instruction_file}: no such file.")
        text = path.read_text("utf-8")
        digest.update(text.encode())
        pool |= instruction_pool(path, text)
        open_pool |= instruction_pool(path, text, choices="choices_open")
    return PromptSet(folder.name, templates, few_shot, pool, open_pool, digest.hexdigest())


def _options_to_show(problem: Problem) -> list[str]:
    """The options, unless the question's text already lists them."""
    listed = all(option.strip() in problem.question for option in problem.options)
    return [] if listed else list(problem.options)
