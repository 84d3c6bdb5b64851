"""Evaluations and a training record -> a model's card and results; every number comes from their JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from reflectevo_data.console import markdown_table
from reflectevo_data.errors import InputError
from reflectevo_data.hub.cards import new_card, public_name, render
from reflectevo_data.rollouts.manifest import Loop, RunSampling

from ..evaluation.counts import EvalReport
from ..evaluation.evaluate import Evaluation
from ..evaluation.tables import GATE_MEANINGS, group_columns, group_rows
from .training_record import TrainingRecord, load_record, record_rows


_USES = {
    "one_stage": (
        "one_stage",
        "A language model that reflects on a failed answer and answers again, in one generation.",
    ),
    "two_stage_reflect": ("reflector", "A reflector: a language model that says what is wrong with a failed answer."),
    "dpo": ("reflector", "A reflector: a language model that says what is wrong with a failed answer."),
    "two_stage_correct": ("corrector", "A corrector: a language model that answers again with a reflection in hand."),
    "qa": ("generator", "A language model fine-tuned on first correct answers, the baseline without reflection."),
}


def model_card(
    folder: str | Path,
    repo_id: str,
    evaluations: Mapping[str, Evaluation],
    *,
    base_model: str | None = None,
    predictions: str = "",
) -> tuple[str, dict[str, Any]]:
    """The card, and its metadata."""
    from huggingface_hub import EvalResult, ModelCardData

    folder = Path(folder)
    record = load_record(folder)
    adapter = read_json(folder / "adapter_config.json")
    trained_from = record["base_model"] if record else ""
    base = base_model or trained_from or public_name(str(adapter.get("base_model_name_or_path") or ""))
    use, what_it_is = _USES.get(record["setting"] if record else "", ("generator", "A language model."))
    dataset = record["dataset"]["name"] if record else ""
    name = repo_id.split("/")[-1]
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=source or evaluation.manifest.source.name or name,
            dataset_name=source or evaluation.manifest.source.name or name,
            dataset_split=evaluation.manifest.source.split or None,
            metric_type=kind,
            metric_name=title,
            metric_value=round(value, 6),
            metric_args={"gate": report.gate, "n_problems": report.n_problems, "evaluation": folder_name},
        )
        for folder_name, evaluation in evaluations.items()
        for source, report in (evaluation.scores.sources or {"": evaluation.scores.total}).items()
        for kind, title, value in _numbers(report)
    ]
    data = ModelCardData(
        base_model=base if "/" in base else None,
        base_model_relation=("adapter" if adapter else "finetune") if "/" in base else None,
        library_name="peft" if adapter else "transformers",
        pipeline_tag="text-generation",
        datasets=[dataset] if "/" in dataset else None,
        tags=["reflectevo", "self-reflection", *(["lora"] if adapter else [])],
        model_name=name,
        eval_results=results or None,
    )
    text = render(
        "model_card.md",
        name=name,
        repo_id=repo_id,
        what_it_is=what_it_is,
        use=use,
        base_model=base,
        is_adapter=bool(adapter),
        lora_rank=adapter.get("r", 16),
        evaluations=[shown(name, evaluation) for name, evaluation in evaluations.items()],
        predictions=predictions,
        training=record_rows(record),
        training_metrics=_training_metrics(record),
    )
    return new_card(data.to_yaml(), text), data.to_dict()


def benchmark_results(evaluations: Mapping[str, Evaluation], benchmarks: Mapping[str, str]) -> dict[str, bytes]:
    """`.eval_results/*.yaml`: what a user would see, never the oracle-gated number."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    contents = {}
    for source, benchmark in benchmarks.items():
        entries = []
        for evaluation in evaluations.values():
            report = evaluation.scores.sources.get(source)
            if report is None:
                continue
            dataset_id, _, task_id = benchmark.partition(":")
            ungated = report.acc_t2_ungated is not None
            value = report.acc_t2_ungated if ungated else report.acc_t1
            notes = GATE_MEANINGS[report.gate] if ungated else "the first trial, without reflection"
            entries.append(
                EvalResultEntry(
                    dataset_id=dataset_id,
                    task_id=task_id or "default",
                    value=round(100 * (value or 0), 2),
                    notes=notes,
                )
            )
        if not entries:
            raise InputError(f"--benchmark {source}={benchmark}: no evaluation has problems of the source {source}.")
        content = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
        contents[f".eval_results/{source}.yaml"] = content.encode()
    return contents


def shown(name: str, evaluation: Evaluation) -> dict[str, str]:
    """An evaluation as a card shows it: title, description and table."""
    manifest, report = evaluation.manifest, evaluation.scores.total
    source, loop = manifest.source, manifest.loop or Loop()
    models = {} if manifest.models is None else manifest.models.by_role()
    parts = [
        f"{report.n_problems:,} problems of `{public_name(source.name)}`"
        + (f", split `{source.split}`" if source.split else ""),
        ", ".join(f"{role} `{public_name(model)}`" for role, model in models.items()),
        f"setting `{loop.setting}`",
        f"gate `{report.gate}` ({GATE_MEANINGS[report.gate]})",
        f"{loop.rounds} round(s), {loop.n_reflections} second trial(s) each",
        f"temperature {_temperatures(manifest.sampling or RunSampling())}",
        f"seed {loop.seed}",
    ]
    if report.n_failed:
        parts.append(f"{report.n_failed:,} problems whose requests failed are not counted")
    rows = group_rows(evaluation.scores)
    return {
        "title": name,
        "description": f"{'; '.join(part for part in parts if part)}.",
        "table": markdown_table(group_columns(evaluation.scores), rows),
    }


def _temperatures(sampling: RunSampling) -> str:
    of_reflections = sampling.reflection_temperature
    return f"{sampling.temperature:g}" + ("" if of_reflections is None else f", of reflections {of_reflections:g}")


def read_json(path: Path) -> dict[str, Any]:
    """What a configuration file of a saved model says; empty without the file."""
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}). Save the model again.") from None


def _numbers(report: EvalReport) -> list[tuple[str, str, float]]:
    """Every number that was measured: metric type, name, value."""
    delivered = "self-gated" if report.gate == "self" else "ungated"
    numbers = [
        ("accuracy", "Acc@t1", report.acc_t1),
        ("accuracy", "Acc@t2, oracle-gated", report.acc_t2),
        ("accuracy", f"Acc@t2, {delivered}", report.acc_t2_ungated),
        ("delta", "Δ(t1, t2), oracle-gated", report.delta),
        ("delta", f"Δ(t1, t2), {delivered}", report.delta_ungated),
        ("exact_match", "EM@t1", report.em_t1),
        ("exact_match", "EM@t2, oracle-gated", report.em_t2),
        ("exact_match", f"EM@t2, {delivered}", report.em_t2_ungated),
        ("f1", "F1@t1", report.f1_t1),
        ("f1", "F1@t2, oracle-gated", report.f1_t2),
        ("f1", f"F1@t2, {delivered}", report.f1_t2_ungated),
    ]
    return [(kind, name, value) for kind, name, value in numbers if value is not None]


def _training_metrics(record: TrainingRecord | None) -> str:
    metrics = record.get("metrics", {}) if record else {}
    names = {"eval_acc_t1": "Acc@t1", "eval_acc_t2": "Acc@t2 (oracle-gated)", "eval_own_acc_t1": "its own Acc@t1"}
    shown = [f"{title} {100 * metrics[key]:.1f} %" for key, title in names.items() if key in metrics]
    return ", ".join(shown) + (f" (step {metrics['step']:,})" if shown and "step" in metrics else "")
