"""A trained model -> the Hub: weights or adapter, tokenizer, chat template, card and results in one commit.

reflectevo-train push out/reflector --repo-id owner/reflector --eval eval-logiqa eval-math [--push-predictions]
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from reflectevo_data.cli.arguments import add_repository
from reflectevo_data.errors import InputError
from reflectevo_data.hub.cards import CARD, merge_cards, new_card, public_name, render
from reflectevo_data.hub.commit import Published, Remote, publish, token_free

from ..evaluation.evaluate import PREDICTIONS, REPORT, Evaluation, load_evaluation
from .card import benchmark_results, model_card, read_json, shown
from .training_record import load_record


if TYPE_CHECKING:
    from huggingface_hub import HfApi

MODEL_MANIFEST = "reflectevo.json"
# What belongs to a model; checkpoints, optimizer states, logs and pickles stay at home.
MODEL_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
)
_OWNED = (*MODEL_FILES, "pytorch_model*.bin", "training_args.bin", "checkpoint-*", "evaluations/*", ".eval_results/*")
_FIXED = ("model-index", "base_model", "library_name", "pipeline_tag", "datasets")
# Cards that a program wrote: TRL's, the Trainer's, PEFT's empty form.
_PROGRAM = re.compile(
    r"trained using \[TRL\]|generated automatically according to the information the Trainer|Model Card for Model ID"
)


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    evaluations: Sequence[str | Path] = (),
    base_model: str | None = None,
    benchmarks: Mapping[str, str] | None = None,
    push_predictions: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    api: HfApi | None = None,
    wait: Callable[[float], None] = time.sleep,
) -> Published:
    """Publishes a model with its card and its results; pushing it again changes nothing.

    Args:
        folder: A model or a LoRA adapter as `save_model` writes it.
        repo_id: `owner/name`.
        evaluations: Folders of `reflectevo-train evaluate`.
        base_model: Hub id of what was trained, where the folder knows it only by a path.
        benchmarks: Source -> `dataset_id` or `dataset_id:task_id` of a benchmark that is registered on the Hub.
        push_predictions: Also publish the predictions, as the dataset `REPO_ID-predictions`.
        private: For repositories that are made now.
        revision: A branch; `main` by default.
        api: The Hub's client; by default the one that HF_ENDPOINT and HF_TOKEN name.
        wait: Sleeps between attempts.

    Raises:
        InputError: The folder holds no model, an evaluation cannot be read, or the Hub refuses or cannot be reached.
    """
    folder = Path(folder)
    read = {Path(e).absolute().name: load_evaluation(e) for e in evaluations}
    if len(read) < len(evaluations):
        raise InputError("--eval: two folders have the same name. Rename one.")
    contents = _model_contents(folder, base_model)
    predictions = f"{repo_id}-predictions" if push_predictions and read else ""
    for name, evaluation in read.items():
        contents[f"evaluations/{name}/{REPORT}"] = (evaluation.folder / REPORT).read_bytes()
        contents[f"evaluations/{name}/manifest.json"] = _public_manifest(evaluation)
    contents |= benchmark_results(read, benchmarks or {})
    card, metadata = model_card(folder, repo_id, read, base_model=base_model, predictions=predictions)
    manifest = {"kind": "reflectevo-model", "format": 1, "training": load_record(folder) or {}, "card": metadata}
    contents[MODEL_MANIFEST] = orjson.dumps(manifest, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    for name, content in [*contents.items(), (CARD, card.encode())]:
        if isinstance(content, bytes):
            token_free(name, content)

    def files(remote: Remote) -> Mapping[str, Path | bytes]:
        theirs = (remote.read(CARD) or b"").decode("utf-8", "replace")
        merged = merge_cards(
            card, theirs, generated=_generated(remote), fixed=_FIXED, foreign=lambda text: bool(_PROGRAM.search(text))
        )
        return {**contents, CARD: merged.encode()}

    if predictions:
        _publish_predictions(predictions, repo_id, read, private=private, api=api, wait=wait)
    return publish(
        repo_id,
        "model",
        files,
        owned=_OWNED,
        message="Upload model",
        private=private,
        revision=revision,
        api=api,
        wait=wait,
    )


def add_arguments(command: argparse.ArgumentParser) -> None:
    """The flags of `reflectevo-train push`."""
    command.add_argument("model", metavar="MODEL_DIR", help="a trained model or LoRA adapter")
    command.add_argument("--eval", nargs="+", default=[], metavar="DIR", help="folders of `evaluate`, for the card")
    command.add_argument("--base-model", metavar="ID", help="the base on the Hub, where it was trained from a folder")
    command.add_argument(
        "--benchmark",
        nargs="+",
        default=[],
        metavar="SOURCE=ID[:TASK]",
        help="also write .eval_results for a source that is a registered benchmark, such as gsm8k=openai/gsm8k",
    )
    command.add_argument(
        "--push-predictions", action="store_true", help="the predictions as a dataset, OWNER/NAME-predictions"
    )
    add_repository(command, what="model")


def run(args: argparse.Namespace) -> int:
    """Runs `reflectevo-train push`."""
    benchmarks = {}
    for pair in args.benchmark:
        source, separator, benchmark = pair.partition("=")
        if not separator or "/" not in benchmark:
            raise InputError(f"--benchmark {pair}: expected SOURCE=OWNER/DATASET or SOURCE=OWNER/DATASET:TASK.")
        benchmarks[source] = benchmark
    if args.push_predictions and not args.eval:
        raise InputError("--push-predictions: there are none without --eval. Name the evaluations.")
    done = push_model(
        args.model,
        args.repo_id,
        evaluations=args.eval,
        base_model=args.base_model,
        benchmarks=benchmarks,
        push_predictions=args.push_predictions,
        private=args.private,
        revision=args.revision,
    )
    print(done)  # noqa: T201
    return 0


def push_trained(training_args: Any) -> None:
    """What `push_to_hub: true` in a recipe does when training has ended: the same as the command."""
    folder = Path(training_args.output_dir)
    done = push_model(
        folder, training_args.hub_model_id or folder.absolute().name, private=training_args.hub_private_repo
    )
    print(done.url)  # noqa: T201


def _model_contents(folder: Path, base_model: str | None) -> dict[str, Path | bytes]:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the output folder of a training run.")
    contents: dict[str, Path | bytes] = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and any(fnmatch.fnmatchcase(path.name, pattern) for pattern in MODEL_FILES)
    }
    has_weights = any(name.endswith(".safetensors") for name in contents)
    if not has_weights or not {"config.json", "adapter_config.json"} & contents.keys():
        raise InputError(
            f"{folder}: no model (config.json or adapter_config.json, and *.safetensors). Train one first."
        )
    for name in ("config.json", "adapter_config.json"):
        if name in contents:
            config = read_json(folder / name)
            config.pop("_name_or_path", None)  # often a path
            base = config.get("base_model_name_or_path")
            if base is not None:
                config["base_model_name_or_path"] = base_model or _published_base(folder, str(base))
            contents[name] = (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()
    return contents


def _published_base(folder: Path, base: str) -> str:
    """The adapter's base as the Hub knows it."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base) and not Path(base).is_dir():
        return base
    raise InputError(
        f"{folder}: the adapter's base is a folder ({public_name(base)}), which nobody else has. Give its Hub id as "
        "--base-model."
    )


def _public_manifest(evaluation: Evaluation) -> bytes:
    """The evaluation's manifest; its models are named as they are published already."""
    return orjson.dumps(evaluation.manifest.to_dict(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _publish_predictions(
    repo_id: str,
    model: str,
    evaluations: Mapping[str, Evaluation],
    *,
    private: bool | None,
    api: HfApi | None,
    wait: Callable[[float], None],
) -> Published:
    import datasets
    from datasets.utils.metadata import MetadataConfigs
    from huggingface_hub import DatasetCardData

    from reflectevo_data.schema import features

    contents: dict[str, Path | bytes] = {}
    configs, infos = {}, {}
    for name, evaluation in evaluations.items():
        path = evaluation.folder / PREDICTIONS
        contents[f"{name}/test-00000-of-00001.parquet"] = path
        contents[f"{name}/{REPORT}"] = evaluation.folder / REPORT
        configs[name] = {
            "version": f"1.0.{int(_content_hash(path)[:12], 16)}",
            "data_files": [{"split": "test", "path": f"{name}/test-*"}],
        }
        splits = datasets.SplitDict()
        n, size = evaluation.scores.total.n_problems, path.stat().st_size
        splits.add(datasets.SplitInfo("test", num_bytes=size, num_examples=n))
        infos[name] = datasets.DatasetInfo(
            features=features("raw"), splits=splits, download_size=size, dataset_size=size
        )
    data = DatasetCardData(pretty_name=repo_id.split("/")[-1], tags=["reflectevo", "predictions"])
    MetadataConfigs(configs).to_dataset_card_data(data)
    datasets.info.DatasetInfosDict(infos).to_dataset_card_data(data)
    text = render(
        "predictions_card.md",
        name=repo_id.split("/")[-1],
        repo_id=repo_id,
        model=model,
        configs=[
            {"name": name, "n_rows": e.scores.total.n_problems, "description": shown(name, e)["description"]}
            for name, e in evaluations.items()
        ],
    )
    card = new_card(data.to_yaml(), text)
    contents[MODEL_MANIFEST] = orjson.dumps({"kind": "reflectevo-predictions", "format": 1, "card": data.to_dict()})

    def files(remote: Remote) -> Mapping[str, Path | bytes]:
        theirs = (remote.read(CARD) or b"").decode("utf-8", "replace")
        fixed = ("configs", "dataset_info")
        merged = merge_cards(card, theirs, generated=_generated(remote), fixed=fixed)
        return {**contents, CARD: merged.encode()}

    return publish(
        repo_id,
        "dataset",
        files,
        owned=[f"{name}/*" for name in evaluations],
        message="Upload predictions",
        private=private,
        api=api,
        wait=wait,
    )


def _generated(remote: Remote) -> dict[str, Any]:
    """The metadata that the last push generated."""
    try:
        generated = orjson.loads(remote.read(MODEL_MANIFEST) or b"{}").get("card", {})
    except (orjson.JSONDecodeError, AttributeError):
        return {}
    return generated if isinstance(generated, dict) else {}


def _content_hash(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
