"""The tables of models, settings, methods and defaults -> every recipe, and the README of every model but the miniature.

    python -m reflectevo_train.recipes.make [--check]

A recipe is one file that is read, copied and launched by itself, so what they share is in dozens of files. It is changed
here, once. `--check` writes nothing, names the files that differ, and exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from reflectevo_data.console import say


RECIPES = Path(__file__).parent

# A key of a recipe -> its value as YAML has it, comment included. None leaves the key out, which makes it TRL's default.
# A key like "# Model" heads a section; its value is a remark.
Values = dict[str, str | None]

# Every key in the order of a recipe, None where the tables below, which override this one, give the value.
DEFAULTS: Values = {
    "# Model": None,
    "model_name_or_path": None,
    "dtype": "bfloat16",
    "attn_implementation": "sdpa",
    "use_peft": None,
    "lora_r": None,
    "lora_alpha": None,
    "lora_dropout": None,
    "lora_target_modules": None,
    "load_in_4bit": None,
    "bnb_4bit_quant_type": None,
    "# Data": "a folder that `reflectevo-data build` made, or a Hub id",
    "dataset_name": "ReflectEvo-460K",
    "dataset_config": None,
    "setting": None,
    "prompts": "default",
    "max_length": "4096",
    "# Training": None,
    "beta": None,
    "loss_type": None,
    "loss_weights": None,
    "learning_rate": None,
    "lr_scheduler_type": "cosine",
    "warmup_steps": "0.1",
    "num_train_epochs": None,
    "per_device_train_batch_size": None,
    "gradient_accumulation_steps": None,
    "share_prompts": None,
    "activation_checkpointing": "true",
    "use_cpu": None,
    "bf16": "true",
    "train_sampling_strategy": None,
    "seed": "42",
    "# Evaluation and checkpoints": None,
    "eval_source": None,
    "eval_problems": None,
    "eval_role": None,
    "eval_max_tokens": None,
    "eval_strategy": "steps",
    "eval_steps": "100",
    "save_strategy": "steps",
    "save_steps": "100",
    "save_total_limit": "2",
    "load_best_model_at_end": "true",
    "metric_for_best_model": "eval_loss",
    "logging_steps": "10",
    "report_to": "none",
    "output_dir": None,
}

SFT: Values = {
    "dataset_config": "dplus",
    "num_train_epochs": "3",
    "per_device_train_batch_size": "2",
    "gradient_accumulation_steps": "8",
    "train_sampling_strategy": "group_by_length",
}
DPO: Values = {
    "setting": "dpo",
    "beta": "0.01",
    "loss_type": "[sigmoid]  # [sigmoid, sft] where eval_own_acc_t1 falls",
    "num_train_epochs": "1",
    "per_device_train_batch_size": "1",
    "gradient_accumulation_steps": "16",
}
RECIPE_SETTINGS: dict[str, Values] = {
    "one_stage": SFT | {"setting": "one_stage"},
    "two_stage_reflect": SFT | {"setting": "two_stage_reflect"},
    "two_stage_correct": SFT | {"setting": "two_stage_correct"},
    "qa": SFT | {"setting": "qa"},
    "dpm": DPO | {"dataset_config": "dpm"},
    "dpref": DPO | {"dataset_config": "dpref"},
}

LORA: Values = {
    "use_peft": "true",
    "lora_r": "8",
    "lora_alpha": "32",
    "lora_dropout": "0.1",
    "lora_target_modules": "[q_proj, k_proj, v_proj]",
    "learning_rate": "1.0e-4",
}
METHODS: dict[str, Values] = {
    "full": {"learning_rate": "1.0e-5"},
    "lora": LORA,
    "qlora": LORA | {"load_in_4bit": "true", "bnb_4bit_quant_type": "nf4"},
}
MODELS: dict[str, Values] = {
    "llama-3-8b-instruct": {"model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct"},
    "mistral-7b-instruct-v0.2": {"model_name_or_path": "mistralai/Mistral-7B-Instruct-v0.2"},
    "gemma-2-9b-it": {
        "model_name_or_path": "google/gemma-2-9b-it",
        "attn_implementation": "eager  # its soft-capped attention needs it",
    },
    "qwen3-0.6b": {"model_name_or_path": "Qwen/Qwen3-0.6B"},
    "qwen3-8b": {"model_name_or_path": "Qwen/Qwen3-8B"},
    "miniature": {
        "# Model": "the bundled one",
        "model_name_or_path": "miniature",
        "dtype": "float32",
        "attn_implementation": None,
        "# Data": "a folder that `reflectevo-data build` made",
        "prompts": "miniature",
        "max_length": "1024",
        "per_device_train_batch_size": "32",
        "gradient_accumulation_steps": None,
        "share_prompts": "true",
        "activation_checkpointing": "false",
        "use_cpu": "true",
        "bf16": "false  # a processor without bf16 instructions is several times slower with it",
        "train_sampling_strategy": None,
        "# Evaluation and checkpoints": "validation problems through the loop",
        "eval_source": "miniature",
        "eval_problems": "32",
        "eval_role": "both",
        "eval_max_tokens": "200",
        "eval_strategy": "epoch",
        "eval_steps": None,
        "save_strategy": "epoch",
        "save_steps": None,
        "save_total_limit": "1",
        "load_best_model_at_end": None,
        "metric_for_best_model": None,
        "logging_steps": "5",
    },
}

# Values of the recipes that have all of these words: model, script, setting, method. Later rows override earlier ones.
COMBINATIONS: dict[tuple[str, ...], Values] = {
    ("dpo", "full"): {"learning_rate": "5.0e-7"},
    ("dpo", "lora"): {"learning_rate": "5.0e-6  # ten times that of all weights, as for SFT"},
    ("qwen3-0.6b", "full"): {"dtype": "float32"},
    ("qwen3-0.6b", "sft"): {"per_device_train_batch_size": "8", "gradient_accumulation_steps": "2"},
    ("qwen3-0.6b", "dpo"): {"per_device_train_batch_size": "4", "gradient_accumulation_steps": "4"},
    ("miniature", "sft"): {"learning_rate": "3.0e-3", "num_train_epochs": "4"},
    ("miniature", "sft", "full"): {"learning_rate": "1.0e-3", "num_train_epochs": "2"},
    ("miniature", "one_stage", "full"): {"learning_rate": "5.0e-4"},
    ("miniature", "qa"): {"learning_rate": "2.0e-4", "share_prompts": None},
    ("miniature", "dpo"): {
        "beta": "0.1",
        "loss_type": "[sigmoid, sft]  # without the SFT term the model forgets how to answer",
        "loss_weights": "[1.0, 1.0]",
        "learning_rate": "1.0e-3",
        "num_train_epochs": "2",
    },
    ("miniature", "dpm", "full"): {"learning_rate": "2.0e-4", "num_train_epochs": "1"},
    ("miniature", "dpref", "full"): {"learning_rate": "3.0e-4"},
}


class About(NamedTuple):
    """What a model's README says of it.

    Attributes:
        note: What to know before training it.
        billions: Number of its parameters, which the memory that training takes is worked out from.
        accelerate_config: What all its weights are trained with: `zero3` on 8 GPUs, `single` on one.
        measured: Results.
    """

    note: str
    billions: float
    accelerate_config: str = "zero3"
    measured: str = "Nothing yet."


GATED = "Access on the Hub is granted on request: set `HF_TOKEN`."
NO_THINKING = (
    "It is asked not to think before it answers (`enable_thinking` off), in training as at inference: "
    "the attempt's own `Thought:` is the reasoning."
)
# The miniature's README is like no other, and written by hand.
READMES: dict[str, About] = {
    "llama-3-8b-instruct": About(f"The paper's. {GATED}", 8.0),
    "mistral-7b-instruct-v0.2": About(
        "The paper's. Its chat template has no system role; our prompts need none.", 7.2
    ),
    "gemma-2-9b-it": About(
        f"The paper's family, one version on. Eager attention: its soft-capped scores are lost in the fused kernels. {GATED}",
        9.2,
    ),
    "qwen3-0.6b": About(f"Small enough for one consumer GPU. {NO_THINKING}", 0.6, "single"),
    "qwen3-8b": About(NO_THINKING, 8.2),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the files that differ, or with `--check` names them."""
    parser = argparse.ArgumentParser(
        prog="python -m reflectevo_train.recipes.make", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file differs")
    check = parser.parse_args(argv).check
    files = made_files()
    differing = differing_files(files)
    for name in differing:
        if name not in files:
            say(f"{name}: no table makes it. Delete it, or add it to the tables.", program="recipes")
        elif check:
            say(f"{name}: differs from what the tables make. Change the tables, then run this.", program="recipes")
        else:
            (RECIPES / name).parent.mkdir(parents=True, exist_ok=True)
            (RECIPES / name).write_text(files[name], "utf-8")
            say(f"{name}: written.", program="recipes")
    return 1 if check and differing else 0


def differing_files(files: Mapping[str, str]) -> list[str]:
    """Names of files that are missing, too many, or not the text that they should be."""
    paths = {RECIPES / name for name in files} | set(RECIPES.glob("*/*/config_*.yaml"))
    there = {path.relative_to(RECIPES).as_posix(): path.read_text("utf-8") for path in paths if path.is_file()}
    return sorted(name for name in there.keys() | files.keys() if there.get(name) != files.get(name))


def made_files() -> dict[str, str]:
    """The text of every file, by its name below `recipes`."""
    files = {f"{model}/README.md": readme(model) for model in READMES}
    for model in MODELS:
        for setting, method in settings_and_methods(model):
            files[f"{model}/{script_of(setting)}/config_{setting}_{method}.yaml"] = recipe(model, setting, method)
    return files


def settings_and_methods(model: str) -> list[tuple[str, str]]:
    """What a model has recipes for.

    For the baseline, the recipe of the corrector is launched with `--setting qa`; the miniature's has a learning rate of
    its own.
    """
    found = [(setting, method) for setting in RECIPE_SETTINGS if setting != "qa" for method in ("full", "lora")]
    found.append(("one_stage", "qlora"))  # the paper's
    return [*found, ("qa", "full")] if model == "miniature" else found


def script_of(setting: str) -> str:
    return "dpo" if RECIPE_SETTINGS[setting]["setting"] == "dpo" else "sft"


def recipe(model: str, setting: str, method: str) -> str:
    """The text of a recipe."""
    script = script_of(setting)
    values = DEFAULTS | RECIPE_SETTINGS[setting] | METHODS[method] | MODELS[model]
    for words, theirs in COMBINATIONS.items():
        if {model, script, setting, method}.issuperset(words):
            values |= theirs
    taught = f"dpo_{setting}" if script == "dpo" else setting
    values["output_dir"] = f"out/{model}-{taught}-{method}".replace("_", "-")
    return "\n".join(line for key, value in values.items() for line in lines_of(key, value)).lstrip() + "\n"


def lines_of(key: str, value: str | None) -> list[str]:
    """The lines of one key: its value, or the head of a section after an empty line."""
    if key.startswith("#"):
        return ["", key if value is None else f"{key}: {value}"]
    return [] if value is None else [f"{key}: {value}"]


def readme(model: str) -> str:
    """The text of a model's README."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string((RECIPES / "README.md.jinja").read_text("utf-8"))
    return template.render(model=model, hub_id=MODELS[model]["model_name_or_path"], about=READMES[model])


if __name__ == "__main__":
    sys.exit(main())
