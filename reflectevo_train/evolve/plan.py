"""What a demo trains and evaluates: the rows of its table, and how much data they get."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypedDict

from reflectevo_data.rollouts.manifest import Setting


BASE = "miniature"


class Training(NamedTuple):
    """A model to be trained: its name, the script and the recipe."""

    name: str
    script: Literal["sft", "dpo"]
    recipe: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the results table.

    Attributes:
        name: Also the folder of its evaluation.
        trainings: What it needs.
        setting: How the loop is run.
        model, reflector, corrector: Who solves, reflects and corrects: names of trainings, or the bundled model. A
            trained model also makes the first trials, so that Acc@t1 shows what training cost.
    """

    name: str
    title: str
    trainings: tuple[Training, ...] = ()
    setting: Setting = "two_stage"
    model: str = BASE
    reflector: str | None = None
    corrector: str | None = None


REFLECT = Training("two_stage_reflect", "sft", "sft/config_two_stage_reflect_full.yaml")
CORRECT = Training("two_stage_correct", "sft", "sft/config_two_stage_correct_full.yaml")
RETRY = Entry("retry", "prompting, no reflection", setting="retry")
PROMPTING = Entry("prompting", "prompting, untrained reflector")
ONE_STAGE = Entry(
    "one_stage",
    "one-stage SFT",
    (Training("one_stage", "sft", "sft/config_one_stage_full.yaml"),),
    setting="one_stage",
    model="one_stage",
)
TWO_STAGE = Entry("two_stage", "two-stage SFT", (REFLECT, CORRECT), model=REFLECT.name, corrector=CORRECT.name)
QA = Entry("qa", "SFT on answers", (Training("qa", "sft", "sft/config_qa_full.yaml"),), model="qa")
DPO_ENTRIES = tuple(
    Entry(
        f"dpo_{config}",
        f"DPO on {title}",
        (Training(f"dpo_{config}", "dpo", f"dpo/config_{config}_full.yaml"),),
        model=f"dpo_{config}",
        corrector=BASE,
    )
    for config, title in (("dpm", "D±"), ("dpref", "Dpref"))
)
FULL = (RETRY, PROMPTING, QA, ONE_STAGE, TWO_STAGE, *DPO_ENTRIES)
# one model to train: what a first look has the time for
REFLECTOR = Entry("reflector", "SFT of the reflector", (REFLECT,), model=REFLECT.name, corrector=BASE)
QUICK = (PROMPTING, REFLECTOR)


class PlanManifest(TypedDict):
    """What `demo.json` says; another number of seeds or rounds goes on in the same folder."""

    entries: list[str]
    problems: int
    reflections: int
    test_problems: int
    split: str
    dataset: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demo does; kept in `demo.json`, and refused when the folder was made with another one.

    Attributes:
        dataset: A dataset that is there already, in the place of the first round's own.
    """

    entries: tuple[Entry, ...]
    seeds: int
    rounds: int
    problems: int
    reflections: int
    test_problems: int
    split: str = "test"
    dataset: Path | None = None

    @property
    def goes_on(self) -> Entry:
        """The entry that a second round trains again: the one whose reflector can make the data."""
        return next(entry for entry in self.entries if REFLECT in entry.trainings)

    @property
    def n_steps(self) -> int:
        """How many steps `demo` has: one for each dataset and each entry."""
        return self.seeds * (1 + len(self.entries) + 2 * (self.rounds == 2))

    def manifest(self) -> PlanManifest:
        return {
            "entries": [entry.name for entry in self.entries],
            "problems": self.problems,
            "reflections": self.reflections,
            "test_problems": self.test_problems,
            "split": self.split,
            "dataset": "" if self.dataset is None else self.dataset.name,
        }
