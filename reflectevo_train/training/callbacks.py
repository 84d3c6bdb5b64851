"""What happens beside the optimizer steps: evaluation with the package's own loop, and a table of examples.

`ReflectionEvalCallback` adds `eval_acc_t1, eval_acc_t2, eval_delta` to the metrics of every evaluation, so that
`metric_for_best_model: eval_acc_t2` and early stopping can use them. Training with it and without it gives the same
weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

from accelerate.utils import gather_object
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from reflectevo_data.completers.base import Sampling
from reflectevo_data.completers.live import LiveCompleter, undisturbed
from reflectevo_data.prompts.templates import PromptSet
from reflectevo_data.rollouts.loop import Role, Roles, run_rollouts
from reflectevo_data.rollouts.manifest import Loop, Setting
from reflectevo_data.schema import FailedRollout, Problem, RawRow, raw_row
from reflectevo_data.verifiers.pool import VerifierPool

from ..evaluation.counts import EvalReport, score_rows


if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from peft import PeftModel
    from rich.table import Table

    from .arguments import EvalRole

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Own accuracy that training may cost before it is said aloud: twice the standard error of 500 problems is 4 points.
TOLERATED_FALL = 0.05


class ReflectionEvalCallback(TrainerCallback):
    """Runs the loop on held-out problems, with the model in training, whenever the trainer evaluates.

    Args:
        trainer: The trainer that it is added to.
        problems: The same ones each time; every process takes its share.
        prompts: The prompt set of the loop.
        role: `both`: the model in training solves, reflects and corrects. `reflector`: it reflects, and the base model
            solves and corrects; its own first trials are scored beside that, as `eval_own_acc_t1`.
        setting: `two_stage`, or `one_stage` for a model that reflects and answers in one generation.
        base: The base model, when the role is `reflector` and no adapter can be switched off.
        n_reflections: Reflections on each failed trial.
        temperature: Of the reflections; trials are greedy.
        max_tokens: New tokens of each completion.
        seed: Of the sampling; the same one each time.

    Attributes:
        rows: The last evaluation's `raw` rows; on the main process all of them.
    """

    def __init__(
        self,
        trainer: Trainer,
        problems: Sequence[Problem],
        prompts: PromptSet,
        *,
        role: EvalRole = "both",
        setting: Setting = "two_stage",
        base: PreTrainedModel | None = None,
        n_reflections: int = 1,
        temperature: float = 1.0,
        max_tokens: int = 512,
        seed: int = 0,
    ) -> None:
        self.trainer, self.problems, self.prompts = trainer, list(problems), prompts
        self.role: EvalRole = role
        self.setting: Setting = setting
        self.base = base
        self.n_reflections, self.seed = n_reflections, seed
        self.trial_sampling = Sampling(temperature=0.0, max_tokens=max_tokens)
        self.reflection_sampling = Sampling(temperature=temperature, max_tokens=max_tokens)
        self.rows: list[RawRow] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """Scores the model before its first step: what later evaluations are compared with."""
        if not any("eval_acc_t2" in entry for entry in state.log_history):
            self._evaluate(state)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        measured = self._evaluate(state)
        if metrics is not None:
            metrics.update(measured)

    def _evaluate(self, state: TrainerState) -> dict[str, float]:
        accelerator = self.trainer.accelerator
        share = self.problems[accelerator.process_index :: accelerator.num_processes]
        with whole_model(self.trainer) as model, undisturbed(model):
            rows, own = _run(self._share(model, share))
        # objects are gathered from every process, so that all of them select the same best model
        self.rows, own = gather_object(rows), gather_object(own)
        report = score_rows(self.rows, gate="oracle", n_failed=len(self.problems) - len(self.rows)).total
        metrics = _metrics(report, [row["output"][0]["is_correct"] for row in own])
        self._warn_of_fall(state, metrics)
        self._log(metrics)
        return metrics

    async def _share(
        self, model: PreTrainedModel | PeftModel, problems: list[Problem]
    ) -> tuple[list[RawRow], list[RawRow]]:
        """Raw rows of the loop, and of the model's own first trials where the loop does not have them."""
        live = LiveCompleter(model, self._tokenizer, "model in training")
        solver = self._base_completer(model) if self.role == "reflector" else live
        trial, reflection = Role(solver, self.trial_sampling), Role(live, self.reflection_sampling)
        with VerifierPool(workers=1) as verifier:
            roles = Roles(trial, reflection, trial)
            rows = await self._rows(problems, roles, verifier, self.n_reflections)
            if solver is live:
                return rows, []
            alone = Role(live, self.trial_sampling)
            return rows, await self._rows(problems, Roles(alone, alone, alone), verifier, 0)

    async def _rows(
        self, problems: list[Problem], roles: Roles, verifier: VerifierPool, n_reflections: int
    ) -> list[RawRow]:
        loop = Loop(setting=self.setting, n_reflections=n_reflections, seed=self.seed)
        rollouts = run_rollouts(problems, roles, loop, prompts=self.prompts, verifier=verifier)
        async with aclosing(rollouts):
            done = [rollout async for rollout in rollouts]
        for failure in done:
            if isinstance(failure, FailedRollout):
                logger.warning("%s failed at %s: %s", failure.problem.id, failure.step, failure.error)
        return [raw_row(rollout) for rollout in done if not isinstance(rollout, FailedRollout)]

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return cast("PreTrainedTokenizerBase", self.trainer.processing_class)

    def _base_completer(self, model: PreTrainedModel | PeftModel) -> LiveCompleter:
        if hasattr(model, "disable_adapter"):
            return LiveCompleter(model, self._tokenizer, "base", as_model=cast("PeftModel", model).disable_adapter)
        if self.base is None:
            raise ValueError(
                "role 'reflector' needs the base model: training changes all weights of the only one there is"
            )
        base = self.base.to(model.device)  # pyright: ignore[reportArgumentType]  # its wrapper is untyped
        return LiveCompleter(base.eval(), self._tokenizer, "base")

    def _warn_of_fall(self, state: TrainerState, metrics: dict[str, float]) -> None:
        before = next((entry["eval_own_acc_t1"] for entry in state.log_history if "eval_own_acc_t1" in entry), None)
        now = metrics["eval_own_acc_t1"]
        if before is not None and before - now > TOLERATED_FALL and self.trainer.is_world_process_zero():
            logger.warning(
                "The model's own Acc@t1 fell from %.3f to %.3f: it forgets how to answer. Lower the learning rate, or "
                "add an SFT term to DPO (loss_type: [sigmoid, sft]).",
                before,
                now,
            )

    def _log(self, metrics: dict[str, float]) -> None:
        # TRL's `log` adds the pending training averages, and clears them, while the model is in training mode
        model = cast(PreTrainedModel, self.trainer.model)  # there from the start
        mode, model.training = model.training, False
        try:
            self.trainer.log(dict(metrics))
        finally:
            model.training = mode


class SampleTableCallback(TrainerCallback):
    """Shows question, failed trial, reflection and second trial of some problems after each evaluation.

    They are the first ones of `evaluation` that were reflected on, so that the same problems can be followed. The table
    goes to the terminal and to the trackers that take tables: trackio and wandb.

    Args:
        evaluation: Where the examples come from; add that callback first.
        n_rows: Examples each time.
        show: Takes the table for the terminal; by default it is printed.
    """

    def __init__(
        self, evaluation: ReflectionEvalCallback, *, n_rows: int = 4, show: Callable[[Table], None] | None = None
    ) -> None:
        self.evaluation, self.n_rows, self.show = evaluation, n_rows, show

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if not state.is_world_process_zero:
            return
        samples = sample_rows(self.evaluation.rows, self.evaluation.problems, self.n_rows)
        title = f"Step {state.global_step}"
        (self.show or _print)(_terminal_table(title, samples))
        _track(args.report_to or [], state.global_step, samples)


SAMPLE_COLUMNS = ("question", "failed trial", "reflection", "second trial", "correct")


def sample_rows(rows: Sequence[RawRow], problems: Sequence[Problem], n: int) -> list[tuple[str, ...]]:
    """The texts of `SAMPLE_COLUMNS` for the first `n` problems that have a second trial."""
    by_id = {row["id"]: row for row in rows}
    reflected = [by_id[p.id] for p in problems if p.id in by_id and len(by_id[p.id]["output"]) > 1]
    return [
        (
            row["question"],
            row["output"][0]["reasoning"],
            row["output"][1]["reflections"][0],
            row["output"][1]["reasoning"],
            "yes" if row["output"][1]["is_correct"] else "no",
        )
        for row in reflected[:n]
    ]


@contextmanager
def whole_model(trainer: Trainer) -> Iterator[PreTrainedModel | PeftModel]:
    """The model with all its weights on this process, ready to generate without the other processes.

    DDP and ZeRO-2 have them anyway; ZeRO-3 gathers them, and so does FSDP2, for as long as the context lasts: it takes
    the memory of the unsharded model.
    """
    from trl.models.utils import unwrap_model_for_generation

    accelerator = trainer.accelerator
    wrapped = trainer.model_wrapped if trainer.model_wrapped is not None else trainer.model
    checkpointing = cast("dict | None", trainer.args.activation_checkpointing_kwargs)  # a text was parsed
    with unwrap_model_for_generation(
        wrapped,  # pyright: ignore[reportArgumentType]  # it takes models that nothing wraps as well
        accelerator,
        gradient_checkpointing_kwargs=checkpointing,
    ) as unwrapped:
        model = cast("PreTrainedModel | PeftModel", unwrapped)
        with unsharded(model, reshard_after_forward=_reshards_after_forward(accelerator)):
            yield model


@contextmanager
def unsharded(model: torch.nn.Module, *, reshard_after_forward: bool = True) -> Iterator[None]:
    """All FSDP2 parts of the model gathered, and kept so by forward passes; nothing for any other model."""
    from torch.distributed.fsdp import FSDPModule

    parts = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(reshard_after_forward, recurse=False)


def _reshards_after_forward(accelerator: Accelerator) -> bool:
    plugin = getattr(accelerator.state, "fsdp_plugin", None)
    return bool(getattr(plugin, "reshard_after_forward", True))


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, also where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def _metrics(report: EvalReport, own_trials: list[bool]) -> dict[str, float]:
    acc_t1, acc_t2 = report.acc_t1 or 0.0, report.acc_t2 or 0.0
    own = sum(own_trials) / len(own_trials) if own_trials else acc_t1
    return {
        "eval_acc_t1": acc_t1,
        "eval_acc_t2": acc_t2,
        "eval_delta": acc_t2 - acc_t1,
        "eval_own_acc_t1": own,
        "eval_n_failed": float(report.n_failed),
    }


def _terminal_table(title: str, samples: list[tuple[str, ...]]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_lines=True)
    for column in SAMPLE_COLUMNS:
        table.add_column(column, overflow="fold")
    for sample in samples:
        table.add_row(*(Text(text) for text in sample))  # brackets in a text are no markup
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)


def _track(report_to: Sequence[str], step: int, samples: list[tuple[str, ...]]) -> None:
    """Sends the table to the trackers that are in use and take one."""
    if "wandb" in report_to:
        import wandb

        if wandb.run is not None:
            wandb.log(
                {"samples": wandb.Table(columns=list(SAMPLE_COLUMNS), data=[list(s) for s in samples])}, commit=False
            )
    if "trackio" in report_to:
        import pandas
        import trackio

        trackio.log(
            {"samples": trackio.Table(dataframe=pandas.DataFrame(samples, columns=list(SAMPLE_COLUMNS)))}, step=step
        )
