"""TRL's trainers with shared prompts, and without a model card of their own."""

# pyright: reportPrivateImportUsage=false
# trl exports its names lazily, which pyright does not see
from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from .shared_prompts import prepare_sharing, question_sampler


class ReflectionTrainerMixin(Trainer):
    """What both trainers add to TRL's; it stands before them in the list of bases."""

    args: SFTConfig | DPOConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        prepare_sharing(self, self.args.max_length)

    def _get_train_sampler(
        self, train_dataset: torch.utils.data.Dataset | None = None
    ) -> torch.utils.data.Sampler | None:
        """With shared prompts, rows of one question one after the other."""
        return question_sampler(self, train_dataset) or super()._get_train_sampler(train_dataset)

    def create_model_card(self, *_: object, **__: object) -> None:
        """Nothing: the card is made from measured numbers by `reflectevo-train push`, and TRL must not overwrite it."""


class ReflectionSFTTrainer(ReflectionTrainerMixin, SFTTrainer):
    """`SFTTrainer` with a weight for each token's loss."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The mean loss over the trained tokens, each times its weight."""
        inputs.pop("segment_ids", None)
        weights = inputs.pop("loss_weights", None)
        if weights is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        def weighted(**model_inputs: Any) -> Any:
            outputs = model(**model_inputs)
            if outputs.log_probs is not None:  # (B, T - 1): the first token is predicted by none
                outputs.log_probs = outputs.log_probs * weights[:, 1:]
            return outputs

        return super().compute_loss(
            weighted,  # pyright: ignore[reportArgumentType]  # all that is done with a model there is to call it
            inputs,
            return_outputs,
            num_items_in_batch,
        )


class ReflectionDPOTrainer(ReflectionTrainerMixin, DPOTrainer):
    """`DPOTrainer`."""
