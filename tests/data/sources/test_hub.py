"""The named sources: replicas of the 17 published datasets, read by the real `load_dataset` from a loopback Hub."""

import io
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.schema import Problem
from reflectevo_data.sources.load import load_problems, source_names, sources_table
from reflectevo_data.sources.table import GROUPS, PARQUET_BRANCH, SOURCES
from tests.hub import Hub


STRING, STRINGS, NUMBERS = pa.string(), pa.list_(pa.string()), pa.list_(pa.int32())
SCHEMAS = {
    "logiqa": {"context": STRING, "query": STRING, "options": STRINGS, "correct_option": pa.int32()},
    "math": {"problem": STRING, "level": STRING, "type": STRING, "solution": STRING},
    "mbpp": {
        "task_id": pa.int32(),
        "text": STRING,
        "code": STRING,
        "test_list": STRINGS,
        "test_setup_code": STRING,
        "challenge_test_list": STRINGS,
    },
    "coqa": {
        "source": STRING,
        "story": STRING,
        "questions": STRINGS,
        "answers": pa.struct({"input_text": STRINGS, "answer_start": NUMBERS, "answer_end": NUMBERS}),
    },
    "squadshifts": {
        "id": STRING,
        "title": STRING,
        "context": STRING,
        "question": STRING,
        "answers": pa.struct({"text": STRINGS, "answer_start": NUMBERS}),
    },
    "bigbench": {
        "inputs": STRING,
        "targets": STRINGS,
        "multiple_choice_targets": STRINGS,
        "multiple_choice_scores": NUMBERS,
        "idx": pa.int32(),
    },
}
COQA_FEATURES = """dataset_info:
  features:
  - name: source
    dtype: string
  - name: story
    dtype: string
  - name: questions
    sequence: string
  - name: answers
    sequence:
    - name: input_text
      dtype: string
    - name: answer_start
      dtype: int32
    - name: answer_end
      dtype: int32
"""


def schema_of(name: str) -> pa.Schema:
    return pa.schema(SCHEMAS.get(name, SCHEMAS["bigbench"]))


def rows_of(name: str, config: str, split: str, n: int = 6) -> list[dict]:
    """Rows of ours in the published form; each says which split it is from."""
    tag = f"{config} {split}"
    if name == "logiqa":
        return [
            {
                "context": f"Fact {i} of {tag}.",
                "query": "What follows?",
                "options": list("wxyz"),
                "correct_option": i % 4,
            }
            for i in range(n)
        ]
    if name == "math":
        return [
            {"problem": f"{tag}: {i}+1?", "level": "Level 1", "type": config, "solution": rf"So $\boxed{{{i + 1}}}$."}
            for i in range(n)
        ]
    if name == "mbpp":
        return [
            {"task_id": 100 * len(split) + i, "text": f"Write f{i} ({tag}).", "code": f"def f{i}():\r\n    return {i}"}
            | {"test_list": [f"assert f{i}() == {i}"], "test_setup_code": "import math", "challenge_test_list": []}
            for i in range(n)
        ]
    if name == "coqa":
        stories = [f"Story {i} of {tag}." for i in range(n)] + ["A story that is in both splits."]
        golds = {"input_text": ["Ann", " Bo "], "answer_start": [0, 1], "answer_end": [2, 3]}
        return [
            {"source": "mctest", "story": story, "questions": ["Who came?", "And then?"], "answers": golds}
            for story in stories
        ]
    if name == "squadshifts":
        return [
            {"id": f"{config}-{i}", "title": "t", "context": f"Passage {i // 2} of {tag}.", "question": f"Who is {i}?"}
            | {"answers": {"text": ["Ann", "Anne", "Ann"], "answer_start": [0, 0, 0]}}
            for i in range(10 * n)
        ]
    if name == "qa_wikidata":
        return [
            {"inputs": f"The {i}th letter ({tag}) is", "targets": ["x", "X", "ex"], "multiple_choice_targets": []}
            | {"multiple_choice_scores": [], "idx": i}
            for i in range(n)
        ]
    rows = [
        {"inputs": f"Q: Is {i} even ({tag})?\n  choice: Yes\n  choice: No\nA:", "targets": ["Yes"]}
        | {"multiple_choice_targets": ["Yes", "No"], "multiple_choice_scores": [1 - i % 2, i % 2], "idx": i}
        for i in range(n)
    ]
    nothing_scores = {"multiple_choice_targets": ["Yes", "No"], "multiple_choice_scores": [0, 0], "idx": n}
    return [*rows, {"inputs": f"Q: bad ({tag})?", "targets": []} | nothing_scores, rows[0]]


def parquet(rows: list[dict], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def publish_replicas(hub: Hub) -> None:
    """Every repository of the table with its published layout, columns and types."""
    cards: dict[str, str] = {}
    files: dict[str, dict[str, bytes]] = {}
    for name, source in SOURCES.items():
        of_repo = files.setdefault(source.hub_id, {})
        splits = [source.published_split] if source.published_split else list(source.splits.values())
        for config in source.configs:
            contents = {split: parquet(rows_of(name, config, split), schema_of(name)) for split in splits}
            if source.revision == PARQUET_BRANCH:
                of_repo |= {f"{config}/{split}/0000.parquet": content for split, content in contents.items()}
                continue
            folder = "data" if config == "default" else config
            of_repo |= {f"{folder}/{split}-00000-of-00001.parquet": content for split, content in contents.items()}
            card = cards.setdefault(source.hub_id, COQA_FEATURES * (name == "coqa") + "configs:\n")
            paths = "".join(f"  - split: {split}\n    path: {folder}/{split}-*\n" for split in splits)
            cards[source.hub_id] = f"{card}- config_name: {config}\n  data_files:\n{paths}"
    for source in SOURCES.values():
        if source.hub_id not in files:
            continue
        content = files.pop(source.hub_id)
        if source.revision == PARQUET_BRANCH:  # main has a loading script only, which must not be run
            script = f"open({str(Path.cwd())!r} + '/script-ran', 'w')\nraise SystemExit('script ran')\n"
            hub.commit(
                source.hub_id, {f"{source.hub_id.split('/')[1]}.py": script.encode(), "README.md": b"---\n---\n"}
            )
            hub.commit(source.hub_id, content, revision=source.revision)
        else:
            card = f"---\n{cards[source.hub_id]}---\n"
            oid = source.revision if source.is_pinned else None
            hub.commit(source.hub_id, content | {"README.md": card.encode()}, oid=oid)


CLIENT = """
import dataclasses, json, sys
from reflectevo_data.errors import InputError
from reflectevo_data.sources.load import load_problems
found = []
for asked in json.loads(sys.stdin.read()):
    try:
        found.append([dataclasses.asdict(problem) for problem in load_problems(**asked)])
    except InputError as error:
        found.append(str(error))
print("RESULT" + json.dumps(found))
"""


def client(environment: dict[str, str], asked: list[dict]) -> tuple[list, str]:
    """What `load_problems` gives in a process of its own, and its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(asked),
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.split("RESULT")[1]), done.stderr


ASKED = [{"source": name, "split": split} for name, source in SOURCES.items() for split in source.splits]
FURTHER = [
    {"source": "bigbench", "split": "train", "limit": 15},
    {"source": "bigbench-free", "split": "test"},
    {"source": "winowhy", "split": "test", "limit": 3},
    {"source": "winowhy", "split": "test", "limit": 3, "seed": 1},
]


@pytest.fixture(scope="module")
def replicas(tmp_path_factory) -> dict:
    """All splits of all sources as the real clients read them: online, and offline from the cache alone."""
    cache = tmp_path_factory.mktemp("hf")
    with Hub() as hub:
        hub.token = "hf_of_the_test"
        publish_replicas(hub)
        online, stderr = client(hub.environment(cache), ASKED + FURTHER)
        n_requests = len(hub.requests)
        offline, _ = client(hub.environment(cache, offline=True), ASKED)
        assert len(hub.requests) == n_requests
        requests = hub.requests
    by_split = {(a["source"], a["split"]): rows for a, rows in zip(ASKED, online, strict=False)}
    return {"online": by_split, "all": online, "offline": offline, "requests": requests, "stderr": stderr}


def test_the_table_has_17_sources_in_10_tasks():
    assert len(SOURCES) == 17
    assert len({source.task for source in SOURCES.values()}) == 10
    columns, rows = sources_table()
    assert columns == ("name", "task", "answer type", "Hub id", "revision", "licence", "splits")
    assert [row[0] for row in rows] == ["miniature", *SOURCES]
    assert all(len(row) == len(columns) for row in rows)
    assert ("coqa", "stanfordnlp/coqa", "9df4273a2757", "train, test (validation)") in [
        (row[0], row[3], row[4], row[6]) for row in rows
    ]
    assert {"bigbench", "bigbench-free", "miniature"} <= set(source_names())
    assert set(GROUPS["bigbench"]) | set(GROUPS["bigbench-free"]) | {"logiqa", "math", "mbpp"} == set(SOURCES)


def test_every_source_gives_problems_of_every_split(replicas):
    assert all(isinstance(rows, list) and rows for rows in replicas["all"]), [r for r in replicas["all"] if not r[0]]
    for (name, _), rows in replicas["online"].items():
        for row in rows:
            problem = Problem(**row)
            assert problem.id.startswith(f"{name}/")
            assert (problem.source, problem.task, problem.answer_type) == (
                name,
                SOURCES[name].task,
                SOURCES[name].answer_type,
            )
            assert problem.license == SOURCES[name].license
            assert problem.question.strip() == problem.question
            if problem.answer_type == "choice":
                assert ord(problem.answer) - 97 in range(len(problem.options))
                assert all(f"\n{chr(65 + i)}. {o}" in problem.question for i, o in enumerate(problem.options))
        assert len({row["id"] for row in rows}) == len(rows)


def test_no_split_leaks_into_another(replicas):
    for name, source in SOURCES.items():
        splits = [replicas["online"][name, split] for split in source.splits]
        for key in ("id", "question"):
            seen = [{row[key] for row in rows} for rows in splits]
            assert sum(map(len, seen)) == len(set().union(*seen)), (name, key)
        groups = [{row["group"] for row in rows} - {""} for rows in splits]
        assert sum(map(len, groups)) == len(set().union(*groups)), name
    assert all(row["group"] for name in ("coqa", "squadshifts") for row in replicas["online"][name, "train"])


def test_a_story_of_both_coqa_splits_stays_in_the_test_split(replicas):
    def stories(split: str) -> list[str]:
        return [row["question"] for row in replicas["online"]["coqa", split] if "both splits" in row["question"]]

    assert len(stories("test")) == 2
    assert stories("train") == []


def test_hashed_splits_share_no_passage_and_lose_none(replicas):
    train, test = (replicas["online"]["squadshifts", split] for split in ("train", "test"))
    assert len(train) + len(test) == 4 * 60
    assert 0.02 < len(test) / 240 < 0.25


def first(replicas: dict, name: str, split: str) -> dict:
    return replicas["online"][name, split][0]


def test_logiqa(replicas):
    problem = first(replicas, "logiqa", "validation")
    assert problem["question"] == "Fact 0 of default validation.\nWhat follows?\nA. w\nB. x\nC. y\nD. z"
    assert [row["answer"] for row in replicas["online"]["logiqa", "test"]] == list("abcdab")


def test_math(replicas):
    rows = replicas["online"]["math", "test"]
    assert len(rows) == 7 * 6
    assert (rows[0]["question"], rows[0]["answer"]) == ("algebra test: 0+1?", "1")


def test_mbpp(replicas):
    problem = first(replicas, "mbpp", "test")
    assert (problem["id"], problem["question"]) == ("mbpp/400", "Write f0 (full test).")
    assert (problem["test_list"], problem["test_setup_code"]) == (["assert f0() == 0"], "import math")


def test_coqa_has_one_problem_a_turn_with_the_turns_before(replicas):
    opening, following = replicas["online"]["coqa", "test"][:2]
    assert opening["question"] == "Story 0 of default validation.\n\nQuestion: Who came?"
    assert following["question"].endswith("\n\nQuestion: Who came?\nAnswer: Ann\nQuestion: And then?")
    assert (opening["answer"], following["answer"]) == ("Ann", "Bo")
    assert opening["group"] == following["group"]
    assert following["id"] == opening["id"][:-1] + "2"


def test_squadshifts_and_wikidata_have_several_golds(replicas):
    problem = first(replicas, "squadshifts", "train")
    assert (problem["answer"], problem["answers"]) == ("Ann", ["Anne"])
    assert problem["question"].endswith(".\n\nQuestion: Who is 0?")
    problem = first(replicas, "qa_wikidata", "train")
    assert (problem["question"], problem["answer"]) == ("The 0th letter (qa_wikidata train) is", "x")
    assert problem["answers"] == ["X", "ex"]


def test_bigbench_choices_become_lettered_lines(replicas):
    rows = replicas["online"]["timedial", "test"]
    assert rows[0]["question"] == "Is 0 even (timedial validation)?\nOptions:\nA. Yes\nB. No"
    assert [row["answer"] for row in rows] == list(
        "ababab"
    )  # the copy is one problem, the row that scores none is out
    assert "timedial: 1 of 8 rows left out (first: found 2 choices with scores [0, 0]" in replicas["stderr"]


def test_groups_take_their_sources_in_turn(replicas):
    bigbench, free, some, others = replicas["all"][len(ASKED) :]
    assert [row["source"] for row in bigbench[:11]] == list(GROUPS["bigbench"])
    assert len(bigbench) == 15
    assert {row["source"] for row in free} == set(GROUPS["bigbench-free"])
    assert len(some) == len(others) == 3
    assert some != others  # drawn with the seed


def test_the_second_read_needs_no_network(replicas):
    assert replicas["offline"] == list(replicas["online"].values())


def test_the_stated_revision_is_asked_for_and_no_script_is_run(replicas):
    asked = "\n".join(replicas["requests"])
    assert "/datasets/EleutherAI/hendrycks_math/resolve/21a5633873b6a120296cce3e2df9d5550074f4a3/" in asked
    assert "/api/datasets/ludwigschmidt/squadshifts/revision/refs%2Fconvert%2Fparquet" in asked
    assert "squadshifts/resolve/main" not in asked
    assert not (Path.cwd() / "script-ran").exists()


def test_what_the_user_can_mend_is_one_line(tmp_path):
    with Hub() as hub:
        hub.commit("stanfordnlp/coqa", {"data/train-0.parquet": parquet([{"a": 1}], pa.schema([("a", pa.int32())]))})
        coqa = hub.repo("stanfordnlp/coqa")
        coqa.commits[SOURCES["coqa"].revision] = coqa.commits[coqa.refs["main"]]
        script = {"mbpp.py": b"raise SystemExit"}
        hub.commit("google-research-datasets/mbpp", script, oid=SOURCES["mbpp"].revision)
        asked = [
            {"source": "math"},
            {"source": "coqa", "split": "train"},
            {"source": "mbpp"},
            {"source": "logiqa", "split": "dev"},
        ]
        errors, _ = client(hub.environment(tmp_path), asked)
        (offline,), _ = client(hub.environment(tmp_path, offline=True), asked[:1])
    assert "--source math: EleutherAI/hendrycks_math (config algebra, split train, revision 21a563" in errors[0]
    assert "Check the network, HF_ENDPOINT and HF_TOKEN, or give --source-file FILE with the columns" in errors[0]
    assert "--source coqa: stanfordnlp/coqa" in errors[1]
    assert "--source mbpp: google-research-datasets/mbpp" in errors[2]
    assert errors[3] == "--split dev: logiqa has no such split. Expected one of train, validation, test."
    assert "offline" in offline.lower()
    assert all("\n" not in error for error in [*errors, offline])


def test_a_source_file_with_the_published_columns(tmp_path):
    rng = random.Random(0)
    for name in SOURCES:
        rows = rows_of(name, SOURCES[name].configs[0], "test")
        rows = [row for row in rows if row.get("targets", True)]  # a row that gives no problem is refused in a file
        rng.shuffle(rows)
        path = tmp_path / f"{name}.parquet"
        path.write_bytes(parquet(rows, schema_of(name)))
        from_parquet = load_problems(name, split="test", source_file=str(path))
        lines = tmp_path / f"{name}.jsonl"
        lines.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
        assert load_problems(name, split="test", source_file=str(lines)) == from_parquet
        assert from_parquet
        assert all(problem.source == name and problem.id.startswith(f"{name}/") for problem in from_parquet)
    with pytest.raises(
        InputError, match=r"logiqa.jsonl:1: found no problem, level, type, solution, expected the columns"
    ):
        load_problems("math", source_file=str(tmp_path / "logiqa.jsonl"))
    with pytest.raises(InputError, match="goes with a named source"):
        load_problems("bigbench", source_file=str(tmp_path / "logiqa.jsonl"))
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"problem": "1?", "level": "", "type": "", "solution": 7}', "utf-8")
    with pytest.raises(InputError, match=r"wrong\.jsonl:1: found a column of another type"):
        load_problems("math", source_file=str(wrong))


def test_the_miniature_and_unknown_names():
    problems = load_problems("miniature", split="test", limit=3, seed=1)
    assert len(problems) == 3
    assert problems == load_problems("miniature", split="test", limit=3, seed=1)
    assert problems != load_problems("miniature", split="test", limit=3, seed=2)
    with pytest.raises(InputError, match="--split dev: miniature has no such split"):
        load_problems("miniature", split="dev")
    with pytest.raises(InputError, match=r"--source mbbp: no such source\. Did you mean mbpp"):
        load_problems("mbbp")
