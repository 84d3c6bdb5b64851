"""Evaluation inside a training: it measures, selects, warns, and leaves no trace in the weights."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig

from reflectevo_data.completers.base import Completer, Sampling
from reflectevo_data.completers.chat import chat_ids
from reflectevo_data.completers.live import LiveCompleter, undisturbed
from reflectevo_data.schema import Problem
from reflectevo_train import sft
from reflectevo_train.hub.training_record import load_record
from reflectevo_train.training.arguments import parse_arguments
from reflectevo_train.training.callbacks import ReflectionEvalCallback, SampleTableCallback, sample_rows


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


def complete(completer: Completer, requests: list[tuple[str, Sampling, int]]) -> list[str]:
    async def gather() -> list[str]:
        done = await asyncio.gather(*(completer.complete(p, sampling=s, seed=seed) for p, s, seed in requests))
        return [completions[0].text for completions in done]

    return asyncio.run(gather())


GREEDY = Sampling(temperature=0.0, max_tokens=12)


def arguments(dataset: Path, model: Path, output: Path, *more: str) -> tuple[Any, Any, Any]:
    return parse_arguments(
        SFTConfig,
        [
            *("--dataset_name", str(dataset), "--dataset_config", "dplus", "--setting", "two_stage_reflect"),
            *("--model_name_or_path", str(model), "--output_dir", str(output), "--prompts", "miniature"),
            *("--max_steps", "2", "--per_device_train_batch_size", "2", "--max_length", "1024"),
            *(
                "--learning_rate",
                "1e-2",
                "--use_cpu",
                "true",
                "--bf16",
                "false",
                "--activation_checkpointing",
                "false",
            ),
            *("--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"),
            *("--logging_steps", "1", "--report_to", "none", "--disable_tqdm", "true"),
            *more,
        ],
    )


EVALUATE = ("--eval_source", "miniature", "--eval_problems", "3", "--eval_max_tokens", "6")


@pytest.fixture(scope="module")
def trained(dataset: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same training without the evaluation and with it; dropout makes every random number count."""
    folder = tmp_path_factory.mktemp("trained")
    lora = ("--use_peft", "true", "--lora_dropout", "0.3", "--lora_target_modules", "q_proj", "v_proj")
    sft.main(*arguments(dataset, tiny_model, folder / "without", *lora))
    more = ("--sample_rows", "1", "--eval_role", "reflector", "--metric_for_best_model", "eval_acc_t2")
    best = ("--load_best_model_at_end", "true", "--greater_is_better", "true", "--early_stopping_patience", "5")
    sft.main(*arguments(dataset, tiny_model, folder / "with", *lora, *EVALUATE, *more, *best))
    return {name: folder / name for name in ("without", "with")}


def test_evaluation_leaves_no_trace(trained: dict[str, Path]):
    weights = {name: load_file(folder / "checkpoint-2/adapter_model.safetensors") for name, folder in trained.items()}
    assert weights["with"].keys() == weights["without"].keys()
    assert any(name.endswith("lora_B.weight") and tensor.any() for name, tensor in weights["with"].items()), (
        "untrained"
    )
    for name, tensor in weights["with"].items():
        assert torch.equal(tensor, weights["without"][name]), name


def test_training_is_recorded(trained: dict[str, Path]):
    record = load_record(trained["with"])
    assert (record["setting"], record["trainer"], record["steps"]) == ("two_stage_reflect", "SFTTrainer", 2)
    assert record["metrics"]["eval_acc_t2"] == 0.0


def test_metrics_are_logged_and_select_the_best_model(trained: dict[str, Path]):
    state = json.loads((trained["with"] / "trainer_state.json").read_text())
    measured = [entry for entry in state["log_history"] if "eval_acc_t2" in entry]
    assert [entry["step"] for entry in measured] == [0, 1, 2]
    assert {"eval_acc_t1", "eval_acc_t2", "eval_delta", "eval_own_acc_t1"} <= measured[0].keys()
    # nothing is ever right, so the first checkpoint stays the best one
    assert (state["best_metric"], state["best_global_step"]) == (0.0, 1)


class _Accelerator:
    process_index, num_processes = 0, 1


class _Trainer:
    """What the callback uses of a trainer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.accelerator, self.model, self.processing_class = _Accelerator(), model, tokenizer
        self.logged: list[dict[str, float]] = []

    def log(self, logs: dict[str, float]) -> None:
        assert not self.model.training
        self.logged.append(logs)

    def is_world_process_zero(self) -> bool:
        return True


class _State:
    is_world_process_zero, global_step = True, 7

    def __init__(self, *log_history: dict[str, float]) -> None:
        self.log_history = list(log_history)


def test_fall_of_own_accuracy_is_said(model: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture):
    from reflectevo_data.prompts.templates import load_prompts

    callback = ReflectionEvalCallback(_Trainer(model, tokenizer), [], load_prompts("miniature"))  # pyright: ignore
    for now, expected in [(0.48, 0), (0.45, 0), (0.30, 1)]:
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            callback._warn_of_fall(_State({"eval_own_acc_t1": 0.49}), {"eval_own_acc_t1": now})
        assert len(caplog.records) == expected, now
    assert "own Acc@t1 fell from 0.490 to 0.300" in caplog.text


def output(correct: bool, trial: int = 2) -> dict[str, Any]:
    return {
        "trial": trial,
        "is_correct": correct,
        "reasoning": f"trial {trial}",
        "reflections": ["hm [b]"] * (trial - 1),
    }


ROWS = [
    {"id": "b", "question": "B?", "output": [output(False, 1), output(True)]},
    {"id": "a", "question": "A?", "output": [output(True, 1)]},
    {"id": "c", "question": "C?", "output": [output(False, 1), output(False)]},
]


def test_sample_table_shows_reflected_problems_in_their_order():
    problems = [Problem(name, "", "") for name in "abcd"]
    assert sample_rows(ROWS, problems, 1) == [("B?", "trial 1", "hm [b]", "trial 2", "yes")]
    assert [sample[0] for sample in sample_rows(ROWS, problems[::-1], 5)] == ["C?", "B?"]


def test_sample_table_is_shown_on_the_first_process_alone(model: Any, tokenizer: Any):
    from rich.console import Console

    shown = []
    callback = ReflectionEvalCallback(_Trainer(model, tokenizer), [Problem("b", "", "")], None)  # pyright: ignore
    callback.rows = ROWS
    table = SampleTableCallback(callback, show=shown.append)
    args = type("Args", (), {"report_to": []})
    table.on_evaluate(args, _State(), None)
    other = _State()
    other.is_world_process_zero = False
    table.on_evaluate(args, other, None)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    [console.print(one) for one in shown]
    text = console.export_text()
    assert len(shown) == 1
    assert "Step 7" in text
    assert "hm [b]" in text  # brackets are no markup


def fsdp_process(rank: int, folder: str, model_folder: str) -> None:
    """One of two processes with a sharded model: it generates on its own, twice as often as the other, and trains on."""
    import os

    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    from reflectevo_train.training.callbacks import unsharded

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1"}
    init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    ids = torch.tensor([chat_ids(tokenizer, "Start with 5.")])
    model(input_ids=ids, labels=ids).loss.backward()

    texts = []
    with unsharded(model), undisturbed(model):
        completer = LiveCompleter(model, tokenizer, "m", slots=1)
        for _ in range(1 + rank):
            texts += complete(completer, [("Add 7.", GREEDY, 0), ("Add 8.", GREEDY, 0)])
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    shard = next(model.model.layers[0].parameters())
    result = {"texts": texts, "loss": loss.item(), "local": shard.to_local().numel(), "whole": shard.numel()}
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    destroy_process_group()


@pytest.mark.slow
def test_fsdp2_processes_generate_on_their_own(tiny_model: Path, tmp_path: Path, model: Any, tokenizer: Any):
    torch.multiprocessing.spawn(fsdp_process, (str(tmp_path), str(tiny_model)), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    expected = complete(LiveCompleter(model, tokenizer, "m"), [("Add 7.", GREEDY, 0), ("Add 8.", GREEDY, 0)])
    assert [result["texts"] for result in found] == [expected, expected * 2]
    ids = torch.tensor([chat_ids(tokenizer, "Start with 5.")])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    for result in found:
        assert result["loss"] == pytest.approx(loss, rel=1e-5)
        assert result["local"] * 2 == result["whole"]  # sharded again
