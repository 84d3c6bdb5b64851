"""Real launches: `accelerate launch` with the shipped configs, several processes, killed and gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import reflectevo_train
from reflectevo_data.errors import InputError
from reflectevo_train.training.checkpoints import is_whole, newest_whole_checkpoint, resume_point
from tests.reference import ROOT


CONFIGS = Path(reflectevo_train.__file__).parent / "recipes" / "accelerate_configs"
SETTINGS = {
    "single": ["--use_cpu", "true"],
    "ddp": ["--use_cpu", "true"],
    "zero2": ["--use_cpu", "false", "--ddp_backend", "gloo"],
    "zero3": ["--use_cpu", "false", "--ddp_backend", "gloo"],
}
# says how many processes trained, in the place of a launch that silently starts one
PROBE = """
import json, os, runpy, sys
from transformers import TrainerCallback, Trainer
class Probe(TrainerCallback):
    def on_train_end(self, args, state, control, model=None, **kwargs):
        out = os.path.join(args.output_dir, f"world-{args.process_index}.json")
        deepspeed = type(kwargs.get("optimizer")).__name__
        json.dump({"world_size": args.world_size, "optimizer": deepspeed}, open(out, "w"))
init = Trainer.__init__
def with_probe(self, *args, **kwargs):
    init(self, *args, **kwargs)
    self.add_callback(Probe())
    if os.environ.get("KILL_IN_CHECKPOINT"):
        step = int(os.environ["KILL_IN_CHECKPOINT"])
        save = self._save_optimizer_and_scheduler
        def dies(folder):
            if folder.endswith(f"-{step}"):
                os.kill(os.getpid(), 9)
            save(folder)
        self._save_optimizer_and_scheduler = dies
    if os.environ.get("KILL_AFTER_STEP"):
        class Kill(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if state.global_step == int(os.environ["KILL_AFTER_STEP"]):
                    os.kill(os.getpid(), 9)
        self.add_callback(Kill())
Trainer.__init__ = with_probe
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def command(script: str, model: Path, dataset: Path, output: Path, *more: str) -> list[str]:
    config = "dpm" if script == "dpo" else "dplus"
    setting = "dpo" if script == "dpo" else "one_stage"
    return [
        *(
            f"reflectevo_train.{script}",
            "--dataset_name",
            str(dataset),
            "--dataset_config",
            config,
            "--setting",
            setting,
        ),
        *("--model_name_or_path", str(model), "--output_dir", str(output), "--prompts", "miniature"),
        *("--max_steps", "4", "--max_length", "700", "--learning_rate", "1e-3", "--lr_scheduler_type", "constant"),
        *("--bf16", "false", "--activation_checkpointing", "false", "--logging_steps", "1", "--report_to", "none"),
        *("--eval_strategy", "no", "--save_strategy", "steps", "--save_steps", "2", "--disable_tqdm", "true"),
        *more,
    ]


def launch(
    backend: str, arguments: Sequence[str], probe: Path, *, env: dict[str, str] | None = None, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    config = ["--config_file", str(CONFIGS / f"{backend}_cpu.yaml"), "--main_process_port", "0"]
    batch = "2" if processes == 2 else "4"  # the same four rows a step
    run = [
        *(sys.executable, "-m", "accelerate.commands.launch", *config, str(probe), *arguments, *SETTINGS[backend]),
        *("--per_device_train_batch_size", batch),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | (env or {})
    # DeepSpeed's operators are built here: in the user's cache, a build that was once killed leaves a lock that all wait for
    environment["TORCH_EXTENSIONS_DIR"] = str(probe.with_name("torch_extensions"))
    return subprocess.run(run, capture_output=True, text=True, env=environment, timeout=580, cwd=ROOT)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("probe") / "probe.py"
    path.write_text(PROBE)
    return path


def losses(output: Path) -> list[float]:
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def worlds(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(output.glob("world-*.json"))]


EVALUATE = ("--eval_strategy", "steps", "--eval_steps", "2", "--eval_source", "miniature", "--eval_problems", "3")
EVALUATE += ("--eval_max_tokens", "6")


@pytest.mark.slow
@pytest.mark.parametrize("script", ["sft", "dpo"])
def test_backends_train_alike(script: str, dataset: Path, tiny_model: Path, probe: Path, tmp_path: Path):
    found: dict[str, list[float]] = {}
    backends = {"single": 1, "ddp": 2, "zero2": 2, "zero3": 2}
    for backend, processes in backends.items():
        output = tmp_path / backend
        # an odd number of problems, so that processes generate unequally often
        evaluate = EVALUATE if script == "sft" and backend in ("ddp", "zero3") else ()
        more = (*evaluate, "--share_prompts", "true")
        done = launch(backend, command(script, tiny_model, dataset, output, *more), probe, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        assert [world["world_size"] for world in worlds(output)] == [processes] * processes
        assert ("DeepSpeed" in worlds(output)[0]["optimizer"]) == backend.startswith("zero")
        assert list(output.glob("model*.safetensors"))
        assert not (output / "README.md").exists()  # the card is made from measured numbers, elsewhere
        found[backend] = losses(output)
        log = json.loads((output / "trainer_state.json").read_text())["log_history"]
        assert [entry["step"] for entry in log if "eval_acc_t2" in entry] == ([0, 2, 4] if evaluate else [])
    assert len(found["ddp"]) == 4
    assert len(set(found["ddp"])) == 4
    for backend in ("zero2", "zero3"):
        assert found[backend] == pytest.approx(found["ddp"], rel=1e-4), found
    if script == "sft":  # the loss is over the tokens of all processes; DPO's mean is over each process's pairs
        assert found["ddp"][0] == pytest.approx(found["single"][0], rel=1e-4), found


LORA = (
    "--use_peft",
    "true",
    "--lora_r",
    "8",
    "--lora_alpha",
    "32",
    "--lora_target_modules",
    "q_proj",
    "k_proj",
    "v_proj",
)


@pytest.mark.slow
def test_lora_then_dpo_on_the_adapter(dataset: Path, tiny_model: Path, probe: Path, tmp_path: Path):
    """SFT of an adapter on two processes, then DPO that goes on with it and compares with its frozen copy."""
    adapter, chained = tmp_path / "sft", tmp_path / "dpo"
    assert launch("ddp", command("sft", tiny_model, dataset, adapter, *LORA), probe).returncode == 0
    assert [world["world_size"] for world in worlds(adapter)] == [2, 2]
    assert not (adapter / "model.safetensors").exists()

    more = ("--loss_type", "sigmoid", "sft", "--learning_rate", "1e-4", "--share_prompts", "true")
    done = launch("single", command("dpo", adapter, dataset, chained, *more), probe, processes=1)
    assert done.returncode == 0, done.stderr[-3000:]
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, chained))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert not (chained / "ref").exists()
    log = json.loads((chained / "trainer_state.json").read_text())["log_history"]
    # at the first step policy and reference are the same adapter, which an adapter switched off would not be
    assert log[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-5)
    assert log[-2]["rewards/margins"] > 0


@pytest.mark.slow
def test_qlora(dataset: Path, tiny_model: Path, probe: Path, tmp_path: Path):
    pytest.importorskip("bitsandbytes", reason="QLoRA needs bitsandbytes")
    arguments = command(
        "sft", tiny_model, dataset, tmp_path / "q", *LORA, "--load_in_4bit", "true", "--dtype", "bfloat16"
    )
    done = launch("single", [*arguments, "--bnb_4bit_quant_type", "nf4"], probe, processes=1)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = load_file(tmp_path / "q" / "adapter_model.safetensors")
    # B starts at zero: what is not zero was trained
    trained = [bool(tensor.any()) for name, tensor in weights.items() if "lora_B" in name]
    assert trained == [True] * 6  # three modules in two layers
    assert losses(tmp_path / "q")[-1] < losses(tmp_path / "q")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("kill", "share"), [("KILL_AFTER_STEP", "true"), ("KILL_IN_CHECKPOINT", "false")])
def test_killed_and_gone_on_with(kill: str, share: str, dataset: Path, tiny_model: Path, probe: Path, tmp_path: Path):
    """Equal weights to a training that was never killed; a half-written checkpoint is passed over."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = lambda output: command("sft", tiny_model, dataset, output, "--share_prompts", share)  # noqa: E731
    assert launch("ddp", arguments(whole), probe).returncode == 0
    died = launch("ddp", arguments(killed), probe, env={kill: "3" if kill == "KILL_AFTER_STEP" else "4"})
    assert died.returncode != 0
    assert not (killed / "trainer_state.json").exists()
    assert newest_whole_checkpoint(killed, world_size=2) == str(killed / "checkpoint-2")
    assert (killed / "checkpoint-4").exists() == (kill == "KILL_IN_CHECKPOINT")

    assert launch("ddp", arguments(killed), probe).returncode == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (whole, killed))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert losses(killed) == losses(whole)


@pytest.mark.slow
def test_killed_from_outside(dataset: Path, tiny_model: Path, probe: Path, tmp_path: Path):
    """SIGKILL at some moment, as an out-of-memory killer does it, until the training is through."""
    arguments = command("sft", tiny_model, dataset, tmp_path / "out", "--max_steps", "30", "--save_total_limit", "2")
    run = [sys.executable, str(probe), *arguments, "--use_cpu", "true", "--per_device_train_batch_size", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    started = 0
    while not (tmp_path / "out" / "trainer_state.json").exists():
        started += 1
        assert started < 8, "it does not get on"
        process = subprocess.Popen(
            run, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seen = newest_whole_checkpoint(tmp_path / "out")
        while process.poll() is None:  # killed once it has got a few checkpoints on
            time.sleep(0.05)
            newest = newest_whole_checkpoint(tmp_path / "out")
            steps = [int(path.rpartition("-")[2]) for path in (seen or "-0", newest or "-0")]
            if started <= 2 and steps[1] - steps[0] >= 6:
                process.send_signal(signal.SIGKILL)
                process.wait()
        assert started <= 2 or process.returncode == 0
    assert started == 3
    assert [
        entry["step"] for entry in json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    ][:30] == list(range(1, 31))


def write_checkpoint(folder: Path, *, without: str = "", world_size: int = 1) -> Path:
    folder.mkdir(parents=True)
    ranks = ["rng_state.pth"] if world_size == 1 else [f"rng_state_{rank}.pth" for rank in range(world_size)]
    for name in {"model.safetensors", "optimizer.pt", "scheduler.pt", *ranks} - {without}:
        (folder / name).write_bytes(b"0")
    if without != "trainer_state.json":
        (folder / "trainer_state.json").write_text('{"global_step": 1}')
    return folder


@pytest.mark.parametrize("missing", ["trainer_state.json", "model.safetensors", "optimizer.pt", "rng_state_1.pth"])
def test_half_written_checkpoint_is_passed_over(missing: str, tmp_path: Path):
    for step in (2, 10):
        write_checkpoint(tmp_path / f"checkpoint-{step}", world_size=2)
    write_checkpoint(tmp_path / "checkpoint-100", without=missing, world_size=2)
    write_checkpoint(tmp_path / "checkpoint-best", world_size=2)
    assert newest_whole_checkpoint(tmp_path, world_size=2) == str(tmp_path / "checkpoint-10")


def test_other_kinds_of_checkpoints(tmp_path: Path):
    cut = write_checkpoint(tmp_path / "cut")
    (cut / "trainer_state.json").write_text('{"global_st')
    assert not is_whole(cut)

    deepspeed = write_checkpoint(tmp_path / "deepspeed", without="optimizer.pt")
    (deepspeed / "latest").write_text("global_step2\n")
    assert not is_whole(deepspeed)
    (deepspeed / "global_step2").mkdir()
    assert is_whole(deepspeed)

    sharded = write_checkpoint(tmp_path / "sharded", without="model.safetensors")
    (sharded / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}'
    )
    (sharded / "1.safetensors").write_bytes(b"")
    assert not is_whole(sharded)
    (sharded / "2.safetensors").write_bytes(b"")
    assert is_whole(sharded)

    adapter = write_checkpoint(tmp_path / "adapter", without="model.safetensors")
    assert not is_whole(adapter)
    (adapter / "adapter_model.safetensors").write_bytes(b"")
    assert is_whole(adapter)

    fsdp = write_checkpoint(tmp_path / "fsdp", without="model.safetensors")
    (fsdp / "optimizer.pt").unlink()
    (fsdp / "pytorch_model_fsdp_0").mkdir()
    assert not is_whole(fsdp)
    (fsdp / "optimizer_0").mkdir()
    assert is_whole(fsdp)


def test_where_training_goes_on(tmp_path: Path):
    arguments = SimpleNamespace(output_dir=str(tmp_path), world_size=1, resume_from_checkpoint=None)
    whole = str(write_checkpoint(tmp_path / "checkpoint-3"))
    write_checkpoint(tmp_path / "checkpoint-5", without="optimizer.pt")
    for asked, expected in [(None, whole), ("true", whole), ("false", None), (whole, whole)]:
        arguments.resume_from_checkpoint = asked
        assert resume_point(arguments) == expected
    arguments.resume_from_checkpoint = str(tmp_path / "checkpoint-5")
    with pytest.raises(InputError, match="checkpoint-5 is not a whole checkpoint"):
        resume_point(arguments)
    arguments.world_size, arguments.resume_from_checkpoint = 2, None  # the checkpoint is of one process
    assert resume_point(arguments) is None
    arguments.resume_from_checkpoint = whole
    with pytest.raises(InputError, match="checkpoint-3 is not a whole checkpoint"):
        resume_point(arguments)
