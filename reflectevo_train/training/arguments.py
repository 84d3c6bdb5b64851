"""A recipe and the command line -> (script_args, training_args, model_args), with TRL's parser.

    python -m reflectevo_train.sft --config recipe.yaml [--learning_rate 1e-5 …]

Everything that TRL, transformers and PEFT know keeps their names; `ReflectionArguments` adds what is ours. Flags override
the recipe. An unknown key is refused, with the nearest known one.
"""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, get_args

import yaml
from transformers import TrainingArguments
from trl import DPOConfig, ModelConfig, ScriptArguments, SFTConfig, TrlParser

from reflectevo_data.errors import InputError

from ..settings import SFT_SETTINGS, TrainSetting


EvalRole = Literal["reflector", "both"]
EVAL_ROLES: tuple[EvalRole, ...] = get_args(EvalRole)
Config = TypeVar("Config", SFTConfig, DPOConfig)


@dataclass
class ReflectionArguments(ScriptArguments):
    """TRL's script arguments, and what is particular to reflection."""

    dataset_test_split: str = field(default="validation", metadata={"help": "Split that the loss is evaluated on."})
    setting: str = field(
        default="one_stage",
        metadata={"help": f"What a row teaches: {', '.join(SFT_SETTINGS)} from dplus, dpo from dpm or dpref."},
    )
    prompts: str = field(
        default="default",
        metadata={"help": "Prompt set of one-stage training and of evaluation: default, miniature or a folder."},
    )
    segment_weights: list[float] | None = field(
        default=None,
        metadata={"help": "Loss weight of each segment; in one_stage the reflection and the second trial: 1.0 0.5."},
    )
    share_prompts: bool = field(
        default=False,
        metadata={
            "help": "Have rows of one question meet in a batch and read what their prompts share once: the same loss for "
            "less computation (sdpa or eager attention, no packing)."
        },
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Evaluations without a better metric_for_best_model after which training ends."},
    )
    eval_source: str | None = field(
        default=None,
        metadata={
            "help": "Held-out problems for eval_acc_t1 and eval_acc_t2: a source's name or a file; none if unset."
        },
    )
    eval_source_split: str = field(default="validation", metadata={"help": "The source's split."})
    eval_problems: int = field(default=100, metadata={"help": "How many problems each evaluation solves."})
    eval_role: str = field(
        default="both",
        metadata={
            "help": "reflector: the model in training reflects, the base model solves and corrects. both: it does all."
        },
    )
    eval_reflections: int = field(default=1, metadata={"help": "Reflections on each failed trial in an evaluation."})
    eval_temperature: float = field(default=1.0, metadata={"help": "Of the reflections; trials are greedy."})
    eval_max_tokens: int = field(default=512, metadata={"help": "New tokens a completion in an evaluation."})
    sample_rows: int = field(default=0, metadata={"help": "Examples that each evaluation shows as a table."})


def parse_arguments(
    config_class: type[Config], arguments: Sequence[str] | None = None
) -> tuple[ReflectionArguments, Config, ModelConfig]:
    """Script, training and model arguments of a command line.

    Raises:
        InputError: The recipe cannot be read, or has a key that nothing knows.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    classes = (ReflectionArguments, config_class, ModelConfig)
    parser = TrlParser(classes)  # pyright: ignore[reportArgumentType]  # no class is of its `DataClassType`
    if "--config" in arguments:
        recipe = check_recipe(arguments[arguments.index("--config") + 1 :][0:1], parser)
        check_names(recipe, arguments)
    try:
        script_args, training_args, model_args, *unknown = parser.parse_args_and_config(
            arguments, return_remaining_strings=True
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"the arguments do not fit: {' '.join(str(error).split())}") from None
    if unknown[0]:
        raise InputError(
            f"{unknown[0][0]}: no such option.{_suggestion(unknown[0][0].lstrip('-'), known_keys(parser))}"
        )
    check_setting(script_args, config_class)
    check_selection(script_args, training_args)
    check_sharing(script_args, training_args)
    return script_args, training_args, model_args


def check_recipe(path: Sequence[str], parser: TrlParser) -> dict[str, object]:
    """The recipe, refused if it is no YAML mapping or has an unknown key.

    Raises:
        InputError: Says where, and which key may have been meant.
    """
    if not path or not Path(path[0]).is_file():
        raise InputError(f"--config {' '.join(path)}: no such file. Expected a recipe (YAML).")
    try:
        recipe = yaml.safe_load(Path(path[0]).read_text("utf-8"))
    except yaml.YAMLError as error:
        raise InputError(f"{path[0]}: not YAML ({' '.join(str(error).split())}). Correct the file.") from None
    if not isinstance(recipe, dict):
        raise InputError(f"{path[0]}: found a {type(recipe).__name__}, expected a mapping. Correct the file.")
    known = known_keys(parser)
    for key, value in recipe.items():
        if key not in known and key != "env":
            raise InputError(f"{path[0]}: unknown key {key!r}.{_suggestion(str(key), known)}")
        # YAML 1.1 reads 5e-7 as a text; a default that is a text is not converted by argparse for an Optional field
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?e[-+]?\d+", value, re.IGNORECASE):
            mantissa, exponent = value.lower().split("e")
            as_yaml = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"
            raise InputError(f"{path[0]}: {key}: {value} is a text in YAML. Write {as_yaml}.")
    return recipe


def check_names(recipe: Mapping[str, object], flags: Sequence[str]) -> None:
    """Refuses the old name of a recipe's key as a flag: transformers would take the recipe's value without a word."""
    for flag in flags:
        if "activation_checkpointing" in recipe and re.match(r"--(no[_-])?gradient[_-]checkpointing(=|$)", flag):
            raise InputError(f"{flag}: the recipe has its new name. Write --activation_checkpointing true or false.")


def known_keys(parser: TrlParser) -> list[str]:
    """Every key that a recipe may have."""
    return [action.dest for action in parser._actions if action.dest != "help"]


def check_setting(script_args: ReflectionArguments, config_class: type[SFTConfig] | type[DPOConfig]) -> None:
    """Refuses a setting that this script or this dataset cannot train."""
    expected: tuple[TrainSetting, ...] = ("dpo",) if config_class is DPOConfig else SFT_SETTINGS
    script = "dpo" if config_class is DPOConfig else "sft"
    if script_args.setting not in expected:
        raise InputError(
            f"setting: {script_args.setting!r} is not one of {', '.join(expected)} (reflectevo_train.{script})."
        )
    configs = ("dpm", "dpref") if script == "dpo" else ("dplus",)
    if script_args.dataset_config not in configs:
        raise InputError(
            f"dataset_config: found {script_args.dataset_config!r}, {script} trains on {' or '.join(configs)}."
        )
    if script_args.dataset_name is None:
        raise InputError("dataset_name: none given. Expected a folder that `reflectevo-data build` made, or a Hub id.")
    if script_args.eval_role not in EVAL_ROLES:
        raise InputError(f"eval_role: {script_args.eval_role!r} is not one of {', '.join(EVAL_ROLES)}.")
    weights = script_args.segment_weights
    n_segments = 2 if script_args.setting == "one_stage" else 1
    if weights is not None and (len(weights) != n_segments or min(weights) < 0):
        raise InputError(f"segment_weights: found {weights}, {script_args.setting} has {n_segments} (none below 0).")


def check_selection(script_args: ReflectionArguments, training_args: TrainingArguments) -> None:
    """Refuses to stop early or to choose the best model by something that is not measured."""
    metric = training_args.metric_for_best_model or ""
    if metric.removeprefix("eval_") in ("acc_t1", "acc_t2", "delta", "own_acc_t1") and script_args.eval_source is None:
        raise InputError(f"metric_for_best_model: {metric} needs held-out problems. Set eval_source.")
    if script_args.early_stopping_patience is not None and not training_args.load_best_model_at_end:
        raise InputError("early_stopping_patience: it needs to know the best model. Set load_best_model_at_end: true.")


def check_sharing(script_args: ReflectionArguments, training_args: SFTConfig | DPOConfig) -> None:
    """Refuses shared prompts where something else decides which rows meet."""
    if script_args.share_prompts and isinstance(training_args, SFTConfig) and training_args.packing:
        raise InputError("share_prompts: packing arranges the rows as well. Drop one of the two.")
    if script_args.share_prompts and script_args.dataset_streaming:
        raise InputError("share_prompts: rows that stream by cannot be arranged. Drop dataset_streaming.")


def _suggestion(key: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    return f" Did you mean {near[0]}?" if near else " Remove it."
