"""What both training scripts begin and end with: the dataset, the tokenizer, the model, where the callbacks come from."""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import datasets
import transformers
from datasets.exceptions import DatasetNotFoundError
from trl import DPOConfig, ModelConfig, SFTConfig, get_peft_config, get_quantization_config

from reflectevo_data.errors import InputError, one_line
from reflectevo_data.models import miniature_path

from ..hub.push import push_trained
from ..hub.training_record import record_training
from ..settings import LOOP_SETTINGS
from .arguments import Config, EvalRole, ReflectionArguments, parse_arguments


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

logger = logging.getLogger(__name__)


def run(main: Callable[[ReflectionArguments, Config, ModelConfig], None], config_class: type[Config]) -> int:
    """Parses the command line and runs a script's `main`; what the user can mend is one line and exit code 2."""
    try:
        main(*parse_arguments(config_class))
    except InputError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    return 0


def set_up_logging(training_args: transformers.TrainingArguments) -> None:
    """Logs of this package and of transformers at the level that the recipe asks for."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    level = training_args.get_process_log_level()
    logging.getLogger("reflectevo_train").setLevel(level)
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_explicit_format()


class TrainingRows(NamedTuple):
    """What is trained on, and what the loss is evaluated on."""

    train: datasets.Dataset | datasets.IterableDataset
    evaluation: datasets.Dataset | datasets.IterableDataset | None


def load_training_rows(script_args: ReflectionArguments, *, with_evaluation: bool) -> TrainingRows:
    """The rows of the dataset's splits.

    Raises:
        InputError: There is no such dataset, config or split, or no row in it.
    """
    name, config = str(script_args.dataset_name), script_args.dataset_config
    try:
        loaded = datasets.load_dataset(name, config, streaming=script_args.dataset_streaming)
    except (FileNotFoundError, ValueError, ConnectionError, DatasetNotFoundError) as error:
        raise InputError(f"dataset_name: {name} ({config}) cannot be loaded: {one_line(error)}") from None
    splits = [script_args.dataset_train_split, *([script_args.dataset_test_split] if with_evaluation else [])]
    for split in splits:
        if split not in loaded:
            remedy = "" if split == splits[0] else " Or set eval_strategy: 'no'."
            raise InputError(
                f"{name} ({config}): has no split {split!r}. Expected one of {', '.join(map(str, loaded))}.{remedy}"
            )
        rows = loaded[split]
        if isinstance(rows, datasets.Dataset) and not len(rows):
            raise InputError(
                f"{name} ({config}): its split {split} has no rows. Generate more, or set eval_strategy: 'no'."
            )
    return TrainingRows(loaded[splits[0]], loaded[splits[1]] if with_evaluation else None)


def all_at_hand(rows: datasets.Dataset | datasets.IterableDataset, needed_by: str) -> datasets.Dataset:
    """The rows, for what looks at each of them before training.

    Raises:
        InputError: They stream by.
    """
    if isinstance(rows, datasets.IterableDataset):
        raise InputError(f"dataset_streaming: {needed_by} looks at all rows before training. Drop it.")
    return rows


def load_tokenizer(
    model_args: ModelConfig, *, trust_remote_code: bool = False
) -> transformers.PreTrainedTokenizerBase:
    """The model's tokenizer, with a padding token."""
    path = model_path(model_args)
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        path, revision=model_args.model_revision, trust_remote_code=trust_remote_code
    )
    if tokenizer.pad_token is None:  # labels are masked by position, so that the end of a turn is still learnt
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def model_path(model_args: ModelConfig) -> str:
    """Folder or Hub id; `miniature` is the bundled model."""
    if model_args.model_name_or_path is None:
        raise InputError("model_name_or_path: none given. Expected miniature, a folder or a Hub id.")
    return str(miniature_path()) if model_args.model_name_or_path == "miniature" else model_args.model_name_or_path


class ModelAndPeft(NamedTuple):
    """What TRL's trainers take under these names."""

    model: str | PeftModel
    peft_config: PeftConfig | None
    quantization_config: transformers.BitsAndBytesConfig | None


def model_and_peft(model_args: ModelConfig, training_args: SFTConfig | DPOConfig) -> ModelAndPeft:
    """The model by its path, or loaded where it is an adapter.

    A folder that holds a LoRA adapter is trained on: SFT goes on with it, and DPO compares with a frozen copy of it.
    Anything else is passed on as a path, which DPO loads a second time as its reference.
    """
    path = model_path(model_args)
    given = cast("dict[str, object] | None", training_args.model_init_kwargs)  # a text was parsed
    options = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(given or {}),
    }
    quantization = get_quantization_config(model_args)
    if not (Path(path) / "adapter_config.json").is_file():
        training_args.model_init_kwargs = options
        return ModelAndPeft(path, get_peft_config(model_args), quantization)

    from peft import AutoPeftModelForCausalLM

    training_args.model_init_kwargs = None
    if options["dtype"] not in (None, "auto"):
        import torch

        options["dtype"] = getattr(torch, options["dtype"])
    if quantization is not None:
        options["quantization_config"] = quantization
    logger.info("%s holds an adapter: training goes on with it", path)
    return ModelAndPeft(AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True, **options), None, None)


def add_callbacks(trainer: transformers.Trainer, script_args: ReflectionArguments, model_args: ModelConfig) -> None:
    """Evaluation with the loop, the table of examples and early stopping, as far as the recipe asks for them."""
    from .callbacks import ReflectionEvalCallback, SampleTableCallback

    if script_args.eval_source is not None:
        from reflectevo_data.prompts.templates import load_prompts
        from reflectevo_data.sources.load import load_problems

        problems = load_problems(
            script_args.eval_source, split=script_args.eval_source_split, limit=script_args.eval_problems
        )
        evaluation = ReflectionEvalCallback(
            trainer,
            problems,
            load_prompts(script_args.prompts),
            role=cast(EvalRole, script_args.eval_role),  # a text for the parser, checked there
            setting=LOOP_SETTINGS[script_args.setting],
            base=_base_model(trainer, script_args, model_args),
            n_reflections=script_args.eval_reflections,
            temperature=script_args.eval_temperature,
            max_tokens=script_args.eval_max_tokens,
        )
        # before early stopping, which reads the metrics that this one adds
        trainer.add_callback(evaluation)
        if script_args.sample_rows:
            trainer.add_callback(SampleTableCallback(evaluation, n_rows=script_args.sample_rows))
    if script_args.early_stopping_patience is not None:
        trainer.add_callback(transformers.EarlyStoppingCallback(script_args.early_stopping_patience))


def finish(
    trainer: transformers.Trainer, script_args: ReflectionArguments, model_args: ModelConfig, *, push: bool
) -> None:
    """Saves the model and the record of its training, pushes it if asked to, and ends trackers and process group."""
    trainer.save_model(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        record_training(trainer, script_args, model_args)
    trainer.save_state()  # last: what has it is done
    if push and trainer.is_world_process_zero():
        push_trained(trainer.args)
    trainer.accelerator.end_training()


def take_push(training_args: transformers.TrainingArguments, model_args: ModelConfig) -> bool:
    """Whether the recipe asks for a push; the trainer is not to do it itself, at every checkpoint and with its own card.

    Raises:
        InputError: The push at the end would be refused.
    """
    path = Path(model_path(model_args))
    new_adapter = model_args.use_peft and not (path / "adapter_config.json").is_file()
    if training_args.push_to_hub and new_adapter and path.is_dir():
        raise InputError(
            f"push_to_hub: the adapter's base would be the folder {path}, which nobody else has. Name the base by its Hub "
            "id, or train without push_to_hub and run `reflectevo-train push --base-model ID`."
        )
    push, training_args.push_to_hub = training_args.push_to_hub, False
    return push


def _base_model(
    trainer: transformers.Trainer, script_args: ReflectionArguments, model_args: ModelConfig
) -> transformers.PreTrainedModel | None:
    """A frozen copy of the model before training, where an evaluation needs one beside the model in training."""
    if script_args.eval_role == "both" or hasattr(trainer.model, "disable_adapter"):
        return None
    return transformers.AutoModelForCausalLM.from_pretrained(
        model_path(model_args),
        revision=model_args.model_revision,
        dtype=cast(transformers.PreTrainedModel, trainer.model).dtype,  # there from the start
    ).requires_grad_(False)
