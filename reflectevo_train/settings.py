"""The settings in which a model is trained, and the setting of the loop in which each is evaluated.

A training names what a row teaches; the loop (`Loop.setting`) names who reflects and who answers again. Each two-stage
training makes one of the two models of a two-stage loop.
"""

from __future__ import annotations

from typing import Literal, get_args

from reflectevo_data.rollouts.manifest import SETTINGS, Setting


SFTSetting = Literal["one_stage", "two_stage_reflect", "two_stage_correct", "qa"]
SFT_SETTINGS: tuple[SFTSetting, ...] = get_args(SFTSetting)
TrainSetting = Literal[SFTSetting, "dpo"]

_TRAINED: dict[TrainSetting, Setting] = {
    "one_stage": "one_stage",
    "two_stage_reflect": "two_stage",
    "two_stage_correct": "two_stage",
    "qa": "two_stage",
    "dpo": "two_stage",
}
LOOP_SETTINGS: dict[str, Setting] = {**{setting: setting for setting in SETTINGS}, **_TRAINED}
"""The loop's setting by its own name, or by the training's of a model in it."""
