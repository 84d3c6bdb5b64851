"""`manifest.json`: what made a run, every key in one place, and `Loop`, how questions go through the loop.

A manifest is written when a run is opened, and compared when it is opened again: a run goes on only as it began. Names of
models and files are those that may be published, never paths. Manifests of format 1 (version 0.1) are read as well.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ..errors import InputError


JsonObject = dict[str, Any]
"""JSON objects within each other."""

MANIFEST = "manifest.json"
FORMAT = 2

RunKind = Literal["generate", "evaluate", "import"]
Gate = Literal["oracle", "none", "self"]
Setting = Literal["two_stage", "one_stage", "retry"]
GATES: tuple[Gate, ...] = get_args(Gate)
SETTINGS: tuple[Setting, ...] = get_args(Setting)


@dataclass(frozen=True, slots=True)
class Loop:
    """How each question goes through the loop.

    Attributes:
        gate: Which answers are reflected on: those that the verifier refuses (`oracle`), all of them (`none`), or those
            that the reflector, asked, does not call right (`self`). But for the oracle, prompts make no claim about
            the answer.
        setting: `two_stage`: the reflector reflects, the corrector answers. `one_stage`: the reflector does both in one
            generation. `retry`: the corrector answers again without a reflection, the baseline.
        rounds: How often an answer is reflected on at most; a later round starts from the last one's answer, voted for
            by its second trials.
        instructions: Keys of the prompt set's pool, `all` or `random`; see `choose_instructions`.
        n_reflections: Reflections on each answer that is tried again.
        n_second_trials: Second trials made from each reflection.
        seed: Every request's seed is derived from this one, the problem's id and the step.
    """

    gate: Gate = "oracle"
    setting: Setting = "two_stage"
    rounds: int = 1
    instructions: tuple[str, ...] = ("random",)
    n_reflections: int = 2
    n_second_trials: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.setting == "one_stage" and self.n_second_trials > 1:
            raise ValueError("one_stage makes one second trial with each reflection, both in one generation")


@dataclass(frozen=True, slots=True)
class Decontamination:
    """Problems that overlap with one evaluation set, and whether they were left out."""

    n_overlapping: int = 0
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class QuestionSource:
    """Where the questions come from.

    Attributes:
        name: A named source, or a file's name; of an import, its files.
        revision: Of a named source on the Hub.
        file: Name of a file that was read in the Hub's place.
        sha256: Of the file that was read: a run that is continued must get the same questions.
        label: The source's name as an import was given it, for rows that do not say it.
        shard: `I/N` of a run that takes every N-th problem.
        decontaminated: Evaluation set -> what was found.
        n_problems: How many; may grow when a run is continued.
    """

    name: str = ""
    split: str = ""
    revision: str = ""
    file: str = ""
    sha256: str = ""
    label: str = ""
    shard: str = ""
    decontaminated: dict[str, Decontamination] = field(default_factory=dict[str, Decontamination])
    n_problems: int | None = None


@dataclass(frozen=True, slots=True)
class RoleModels:
    """Published names of the models, by role."""

    generator: str = ""
    reflector: str = ""
    corrector: str = ""

    def by_role(self) -> dict[str, str]:
        """Role -> name, of the roles that have one."""
        return {role: name for role, name in asdict(self).items() if name}


@dataclass(frozen=True, slots=True)
class RunSampling:
    """How completions were drawn; reflections as trials unless they have a temperature of their own."""

    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 512
    reflection_temperature: float | None = None


@dataclass(frozen=True, slots=True)
class PromptSource:
    """Name and content hash of a prompt set."""

    name: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a run. Sections that a kind of run has no use for are None.

    Attributes:
        verified: Of an import, whether its labels were verified anew.
        versions: Package -> version, of the process that last wrote to the run.
        git_revision: Of the checkout that ran, empty when installed from a package.
    """

    kind: RunKind = "generate"
    source: QuestionSource = field(default_factory=QuestionSource)
    engine: str = ""
    models: RoleModels | None = None
    sampling: RunSampling | None = None
    loop: Loop | None = None
    prompts: PromptSource | None = None
    verified: bool | None = None
    versions: dict[str, str] = field(default_factory=dict[str, str])
    git_revision: str = ""
    format: int = FORMAT

    def to_dict(self) -> JsonObject:
        """The content of `manifest.json`: what is empty is left out."""
        return _without_empty(asdict(self))

    def differences(self, other: Manifest) -> list[str]:
        """What else than time, place and number of problems this run and another have not in common, in words."""
        found, asked = _compared(self), _compared(other)
        return [
            f"{key}: {found.get(key)!r} there, {asked.get(key)!r} now"
            for key in sorted(found.keys() | asked.keys())
            if found.get(key) != asked.get(key)
        ]


def load_manifest(run: str | os.PathLike[str]) -> Manifest:
    """The run's manifest.

    Raises:
        InputError: The folder is no run, or the manifest cannot be read.
    """
    import msgspec

    path = Path(run) / MANIFEST
    if not path.is_file():
        raise InputError(f"{run}: no run directory (no {MANIFEST}). Make one with `reflectevo-data generate`.")
    try:
        tree = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.ValidationError:
        tree = {}
    except msgspec.DecodeError as error:
        raise InputError(f"{path}: not JSON ({error}). Restore the file or start a new run.") from None
    if tree.get("format") not in (1, FORMAT):
        raise InputError(
            f"{path}: not a manifest of format {FORMAT} or 1. Use the version of reflectevo that made the run."
        )
    try:
        return msgspec.convert(_of_format_1(tree) if tree["format"] == 1 else tree, Manifest)
    except msgspec.ValidationError as error:
        raise InputError(f"{path}: {error}. Restore the file or start a new run.") from None


def running_versions() -> dict[str, str]:
    """The versions of Python and of the packages that a run depends on, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in ("reflectevo", "datasets", "torch", "transformers", "peft", "vllm", "openai", "math-verify"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_revision() -> str:
    """The revision of the checkout that runs, empty when installed from a package."""
    package = Path(__file__).parents[1]
    if not (package.parent / ".git").exists():
        return ""
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def file_sha256(path: str | os.PathLike[str]) -> str:
    """The content of a file of questions: a run that is continued must get the same ones."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def loop_flags(loop: Loop, kind: RunKind) -> JsonObject:
    """The loop's settings by the names that their flags have in the command: `evaluate` calls k reflections a vote."""
    values = asdict(loop) | {"instructions": list(loop.instructions)}
    return {"vote" if kind == "evaluate" and name == "n_reflections" else name: values[name] for name in values}


def _of_format_1(tree: JsonObject) -> JsonObject:
    """A manifest of version 0.1, whose loop's settings stood one by one, in today's form."""
    tree = dict(tree)
    n_reflections = {"n_reflections": tree.pop("vote")} if "vote" in tree else {}
    names = ("gate", "setting", "rounds", "instructions", "n_reflections", "seed")
    loop = {name: tree.pop(name) for name in names if name in tree} | n_reflections
    return tree | ({"loop": loop} if loop else {}) | {"format": FORMAT}


def _without_empty(tree: JsonObject) -> JsonObject:
    kept = {
        key: _without_empty(cast(JsonObject, value)) if isinstance(value, dict) else value
        for key, value in tree.items()
    }
    return {key: value for key, value in kept.items() if value not in (None, "", {}, ())}


def _compared(manifest: Manifest) -> JsonObject:
    """What has to be equal when a run is continued: dotted key -> value; the loop's by the names of their flags."""
    tree = asdict(manifest)
    for key in ("format", "versions", "git_revision", "loop"):
        del tree[key]
    del tree["source"]["n_problems"]
    for found in tree["source"]["decontaminated"].values():
        del found["n_overlapping"]
    return _flat(tree) | (loop_flags(manifest.loop, manifest.kind) if manifest.loop else {})


def _flat(tree: JsonObject, prefix: str = "") -> JsonObject:
    flat: JsonObject = {}
    for key, value in tree.items():
        flat |= (
            _flat(cast(JsonObject, value), f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
        )
    return flat
