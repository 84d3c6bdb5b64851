"""Every recipe is what the tables make, parses against the installed TRL, and says what its name says; others are refused."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from trl import DPOConfig, SFTConfig

from reflectevo_data.errors import InputError
from reflectevo_train.recipes import make
from reflectevo_train.training.arguments import parse_arguments
from reflectevo_train.training.setup import run
from tests.reference import ROOT


RECIPES = make.RECIPES
MODELS = {
    "llama-3-8b-instruct": "meta-llama/Meta-Llama-3-8B-Instruct",
    "mistral-7b-instruct-v0.2": "mistralai/Mistral-7B-Instruct-v0.2",
    "gemma-2-9b-it": "google/gemma-2-9b-it",
    "qwen3-0.6b": "Qwen/Qwen3-0.6B",
    "qwen3-8b": "Qwen/Qwen3-8B",
    "miniature": "miniature",
}
FILES = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.glob("*/*/config_*.yaml"))


def test_there_is_a_recipe_for_everything():
    sft = [
        f"config_{s}_{m}" for s in ("one_stage", "two_stage_reflect", "two_stage_correct") for m in ("full", "lora")
    ]
    dpo = [f"config_{s}_{m}" for s in ("dpm", "dpref") for m in ("full", "lora")]
    expected = {f"{model}/sft/{name}.yaml" for model in MODELS for name in [*sft, "config_one_stage_qlora"]}
    expected |= {f"{model}/dpo/{name}.yaml" for model in MODELS for name in dpo}
    expected.add("miniature/sft/config_qa_full.yaml")  # with a rate of its own; elsewhere `--setting qa` is all
    assert set(FILES) == expected
    assert {path.parent.name for path in RECIPES.glob("*/README.md")} == set(MODELS)


def test_every_file_is_what_the_tables_make():
    assert make.differing_files(make.made_files()) == [], "run python -m reflectevo_train.recipes.make"


def test_what_differs_is_named_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    copy = Path(shutil.copytree(RECIPES, tmp_path / "recipes"))
    monkeypatch.setattr(make, "RECIPES", copy)
    assert make.main(["--check"]) == 0
    changed, gone, foreign = (
        copy / "qwen3-8b/sft" / f"config_{name}.yaml" for name in ("one_stage_full", "two_stage_correct_lora", "mine")
    )
    text = changed.read_text()
    changed.write_text(text.replace("seed: 42", "seed: 43"))
    gone.unlink()
    foreign.write_text("seed: 1\n")

    assert make.main(["--check"]) == 1
    named = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert named == [path.relative_to(copy).as_posix() for path in (foreign, changed, gone)]
    assert not gone.exists()

    assert make.main([]) == 0
    assert (changed.read_text(), gone.is_file(), foreign.read_text()) == (text, True, "seed: 1\n")


def test_no_trainer_is_loaded_to_make_them():
    code = "import sys, reflectevo_train.recipes.make; sys.exit(bool({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.filterwarnings("error::FutureWarning")  # a name that a coming version drops
@pytest.mark.parametrize("file", FILES)
def test_recipe_parses(file: str, tmp_path: Path):
    model, script, name = file.removesuffix(".yaml").split("/")
    *what, method = name.removeprefix("config_").split("_")
    config_class = SFTConfig if script == "sft" else DPOConfig
    # bf16 is refused where no device has it
    arguments = ["--config", str(RECIPES / file), "--output_dir", str(tmp_path), "--bf16", "false"]
    script_args, training_args, model_args = parse_arguments(config_class, arguments)

    assert model_args.model_name_or_path == MODELS[model]
    assert model_args.use_peft == (method != "full")
    assert model_args.load_in_4bit == (method == "qlora")
    if method != "full":
        assert (model_args.lora_r, model_args.lora_alpha, model_args.lora_dropout) == (8, 32, 0.1)
        assert model_args.lora_target_modules == ["q_proj", "k_proj", "v_proj"]
    if script == "sft":
        assert (script_args.dataset_config, script_args.setting) == ("dplus", "_".join(what))
    else:
        assert (script_args.dataset_config, script_args.setting) == ("_".join(what), "dpo")
        assert (script_args.eval_source == "miniature") == ("sft" in training_args.loss_type)
    assert isinstance(training_args.learning_rate, float)
    assert training_args.learning_rate > 0
    # transformers acts on the new name, TRL on the old one, which TRL sets by default
    checkpointing = model != "miniature"
    assert (training_args.activation_checkpointing, training_args.gradient_checkpointing) == (checkpointing,) * 2
    if script == "dpo" and model != "miniature":  # the paper's
        assert (training_args.beta, training_args.num_train_epochs) == (0.01, 1)
        assert training_args.learning_rate == (5e-7 if method == "full" else 5e-6)
        assert (training_args.lr_scheduler_type, training_args.warmup_steps) == ("cosine", 0.1)


@pytest.mark.parametrize("name", ["single", "ddp", "fsdp2", "zero2", "zero3"])
def test_accelerate_config(name: str):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / "accelerate_configs" / f"{name}.yaml"))
    assert config.num_processes == (1 if name == "single" else 8)
    distributed = {"single": "NO", "ddp": "MULTI_GPU", "fsdp2": "FSDP"}.get(name, "DEEPSPEED")
    assert str(config.distributed_type).endswith(distributed)


def write_recipe(folder: Path, **changes: object) -> str:
    recipe = yaml.safe_load((RECIPES / "miniature/sft/config_one_stage_full.yaml").read_text())
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1e-3}, r"recipe.yaml: unknown key 'learning_rat'. Did you mean learning_rate\?"),
        ({"max_seq_length": 512}, r"unknown key 'max_seq_length'. Did you mean max_length\?"),
        ({"zzz": 1}, "unknown key 'zzz'. Remove it."),
        ({"learning_rate": "5e-7"}, r"learning_rate: 5e-7 is a text in YAML. Write 5.0e-7"),
        ({"setting": "one-stage"}, "setting: 'one-stage' is not one of one_stage, two_stage_reflect"),
        ({"setting": "dpo"}, r"setting: 'dpo' is not one of .*\(reflectevo_train.sft\)"),
        ({"dataset_config": "dpm"}, "dataset_config: found 'dpm', sft trains on dplus"),
        ({"dataset_name": None}, "dataset_name: none given"),
        ({"segment_weights": [1.0]}, r"segment_weights: found \[1.0\], one_stage has 2"),
        (
            {"metric_for_best_model": "eval_acc_t2", "eval_source": None},
            "eval_acc_t2 needs held-out problems. Set eval_source",
        ),
        ({"early_stopping_patience": 2}, "early_stopping_patience: .* Set load_best_model_at_end: true"),
        ({"eval_role": "judge"}, "eval_role: 'judge' is not one of reflector, both"),
        ({"eval_strategy": "sometimes"}, "the arguments do not fit: sometimes is not a valid IntervalStrategy"),
    ],
)
def test_recipe_that_is_refused(changes: dict, message: str, tmp_path: Path):
    with pytest.raises(InputError, match=message):
        parse_arguments(SFTConfig, ["--config", write_recipe(tmp_path, **changes), "--bf16", "false"])


def test_flag_overrides_the_recipe_and_an_unknown_one_is_refused(tmp_path: Path):
    recipe = ["--config", write_recipe(tmp_path), "--bf16", "false"]
    assert parse_arguments(SFTConfig, [*recipe, "--learning_rate", "1e-6"])[1].learning_rate == 1e-6
    with pytest.raises(InputError, match=r"--learningrate: no such option. Did you mean learning_rate\?"):
        parse_arguments(SFTConfig, [*recipe, "--learningrate", "1e-6"])


@pytest.mark.parametrize("flags", [["--gradient_checkpointing", "true"], ["--no_gradient_checkpointing"]])
def test_old_name_that_the_recipe_would_override_is_refused(flags: list[str], tmp_path: Path):
    recipe = ["--config", write_recipe(tmp_path), "--bf16", "false"]
    assert parse_arguments(SFTConfig, [*recipe, "--activation_checkpointing", "true"])[1].activation_checkpointing
    with pytest.raises(InputError, match=f"{flags[0]}: .* Write --activation_checkpointing true or false"):
        parse_arguments(SFTConfig, [*recipe, *flags])


def test_recipe_that_cannot_be_read(tmp_path: Path):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for name, message in [("none.yaml", "no such file"), ("list.yaml", "found a list"), ("broken.yaml", "not YAML")]:
        with pytest.raises(InputError, match=message):
            parse_arguments(SFTConfig, ["--config", str(tmp_path / name)])


def test_exit_code_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["sft", "--config", write_recipe(tmp_path, setings="qa")])
    assert run(lambda *_: pytest.fail("must not start"), SFTConfig) == 2
    assert capsys.readouterr().err.endswith("recipe.yaml: unknown key 'setings'. Did you mean setting?\n")
