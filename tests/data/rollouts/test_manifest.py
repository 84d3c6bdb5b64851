"""The manifest: what is written is read back, what version 0.1 wrote is read too, and a run goes on only as it began."""

import json
from dataclasses import replace

import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.rollouts.manifest import (
    MANIFEST,
    Decontamination,
    Loop,
    Manifest,
    PromptSource,
    QuestionSource,
    RoleModels,
    RunSampling,
    load_manifest,
)


WHOLE = Manifest(
    kind="evaluate",
    source=QuestionSource(
        "logiqa", "test", "main", shard="1/4", decontaminated={"test.jsonl": Decontamination(3, True)}, n_problems=150
    ),
    engine="vllm",
    models=RoleModels("Qwen/Qwen3-0.6B", "reflector", "Qwen/Qwen3-0.6B"),
    sampling=RunSampling(0.0, 0.95, 256, reflection_temperature=1.0),
    loop=Loop(
        "none", "two_stage", rounds=2, instructions=("1-1-1", "2-8-2"), n_reflections=4, n_second_trials=2, seed=7
    ),
    prompts=PromptSource("default", "0123456789abcdef"),
    versions={"python": "3.11.9"},
    git_revision="0123456789ab",
)
# as version 0.1 wrote them
OLD_EVALUATION = {
    "format": 1,
    "kind": "evaluate",
    "source": {"name": "logiqa", "split": "test", "revision": "main", "n_problems": 150},
    "engine": "transformers",
    "models": {"generator": "a", "reflector": "b", "corrector": "a"},
    "setting": "one_stage",
    "gate": "none",
    "rounds": 2,
    "vote": 3,
    "sampling": {"temperature": 0.0, "reflection_temperature": 1.0, "top_p": 1.0, "max_tokens": 512},
    "instructions": ["random"],
    "prompts": {"name": "default", "fingerprint": "0123"},
    "seed": 5,
    "versions": {"python": "3.11.9"},
    "git_revision": "",
}


def write(folder, tree) -> None:
    (folder / MANIFEST).write_text(json.dumps(tree))


def test_what_is_written_is_read_back(tmp_path):
    for manifest in (
        WHOLE,
        Manifest("import", QuestionSource("raw.json", label="logiqa"), verified=False),
        Manifest(),
    ):
        write(tmp_path, manifest.to_dict())
        assert load_manifest(tmp_path) == manifest


def test_a_manifest_of_version_0_1_is_read(tmp_path):
    write(tmp_path, OLD_EVALUATION)
    found = load_manifest(tmp_path)
    assert found.loop == Loop("none", "one_stage", rounds=2, n_reflections=3, seed=5)
    assert found.sampling == RunSampling(0.0, 1.0, 512, reflection_temperature=1.0)
    assert (found.source.name, found.source.n_problems, found.models) == ("logiqa", 150, RoleModels("a", "b", "a"))
    generated = {
        key: value for key, value in OLD_EVALUATION.items() if key not in ("gate", "setting", "rounds", "vote")
    }
    write(tmp_path, generated | {"kind": "generate", "n_reflections": 6})
    assert load_manifest(tmp_path).loop == Loop(n_reflections=6, seed=5)  # the defaults are what generate did
    write(tmp_path, {"format": 1, "kind": "import", "source": {"name": "raw.json", "label": ""}, "verified": True})
    assert load_manifest(tmp_path) == Manifest("import", QuestionSource("raw.json"), verified=True)


def test_what_a_later_version_added_is_passed_over(tmp_path):
    write(tmp_path, WHOLE.to_dict() | {"arms": ["placebo"], "loop": {"seed": 3, "of_a_later_version": 2}})
    assert load_manifest(tmp_path).loop == Loop(seed=3)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ([], "not a manifest of format 2 or 1"),
        ({"format": 3}, "not a manifest of format 2 or 1"),
        ({"format": 2, "source": 5}, r"Expected `object`, got `int` - at `\$\.source`"),
        ({"format": 2, "loop": {"gate": "open"}}, r"Invalid enum value 'open' - at `\$\.loop\.gate`"),
        ({"format": 1, "seed": "7"}, r"Expected `int`, got `str` - at `\$\.loop\.seed`"),
    ],
)
def test_what_is_no_manifest_is_refused_in_one_line(tmp_path, tree, message):
    write(tmp_path, tree)
    with pytest.raises(InputError, match=message) as refusal:
        load_manifest(tmp_path)
    assert "\n" not in str(refusal.value)


def test_only_time_place_and_number_of_problems_may_change():
    later = replace(WHOLE, versions={}, git_revision="f", format=1, source=replace(WHOLE.source, n_problems=9))
    assert WHOLE.differences(later) == []
    found = replace(WHOLE.source, decontaminated={"test.jsonl": Decontamination(4, True)})
    assert WHOLE.differences(replace(WHOLE, source=found)) == []
    kept = replace(WHOLE.source, decontaminated={"test.jsonl": Decontamination(3, False)})
    assert WHOLE.differences(replace(WHOLE, source=kept)) == [
        "source.decontaminated.test.jsonl.dropped: True there, False now"
    ]
    changed = replace(WHOLE, loop=replace(WHOLE.loop, n_reflections=2), models=None)
    assert WHOLE.differences(changed) == [
        "models.corrector: 'Qwen/Qwen3-0.6B' there, None now",
        "models.generator: 'Qwen/Qwen3-0.6B' there, None now",
        "models.reflector: 'reflector' there, None now",
        "vote: 4 there, 2 now",
    ]
