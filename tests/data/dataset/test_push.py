"""A dataset on a Hub: pushed exactly once whatever fails, read back by `load_dataset`, a person's words kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from reflectevo_data.curation.curate import Curation
from reflectevo_data.dataset.build import build_dataset, load_build, write_dataset_card
from reflectevo_data.dataset.push import push_dataset
from reflectevo_data.errors import InputError
from reflectevo_data.hub.cards import BEGIN, END
from reflectevo_data.hub.commit import ATTEMPTS, RETRIED
from reflectevo_data.rollouts.manifest import Manifest, QuestionSource, RoleModels
from reflectevo_data.rollouts.store import Preferences, RunDirectory
from reflectevo_data.schema import (
    COLUMNS,
    CONFIGS,
    Completion,
    Problem,
    Reflection,
    Rollout,
    SecondTrial,
    Trial,
    Verdict,
    raw_row,
)
from tests.hub_write import WritableHub


REPO = "owner/ReflectEvo-460K"


def make_dataset(folder: Path, *, n: int = 30, answer: str = "B") -> Path:
    """A dataset with rows in all four configs."""

    def trial(text: str, right: bool) -> Trial:
        verdict = Verdict("correct" if right else "incorrect", answer if right else "C", "", float(right))
        return Trial("prompt", "", Completion(text), text, verdict)

    manifest = Manifest(models=RoleModels("tiny"), source=QuestionSource("questions.jsonl"))
    with RunDirectory.open(folder / "run", manifest) as run:
        for i in range(n):
            seconds = tuple(
                SecondTrial(
                    Reflection("1-1-1", "reflect", Completion(f"note {i} {k}: a carry was lost")),
                    trial(f"Thought {i} {k}", k < 2),
                )
                for k in range(3)
            )
            problem = Problem(f"q/{i}", f"Question {i}?", answer.lower(), "choice", options=["yes", "no", "maybe"])
            run.append(raw_row(Rollout(problem, trial(f"Thought {i}", False), seconds, "tiny", "tiny", "tiny", 0)))
    with Preferences(folder / "run") as preferences:
        for i in range(n):
            preferences.append(
                {
                    "id": f"q/{i}",
                    "pair": [1, 2],
                    "chosen": 1,
                    "rejected": 2,
                    "outcome": "first",
                    "positions": [],
                    "judge": "self",
                }
            )
    build_dataset([folder / "run"], folder / "ReflectEvo-460K", curation=Curation(validation_fraction=0.3))
    return folder / "ReflectEvo-460K"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture
def hub():
    with WritableHub() as hub:
        yield hub


@pytest.fixture
def api(hub, tmp_path, monkeypatch):
    import huggingface_hub.utils._http as client

    # the client's own waits between retries of one request
    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=hub.url, token="hf_test")


def push(dataset, api, **options):
    return push_dataset(dataset, REPO, api=api, wait=lambda seconds: None, **options)


def files_of(hub, repo_id=REPO, revision="main"):
    commit = hub.repos["dataset", repo_id].at(revision)
    return {path: content for path, content in commit.files.items() if path != ".gitattributes"}


def assert_published(hub, dataset):
    """All files are there, and one commit made them."""
    expected = {str(p.relative_to(dataset)): p.read_bytes() for p in dataset.rglob("*") if p.is_file()}
    assert files_of(hub) == expected
    assert hub.commits(REPO) == ["Upload dataset"]


def test_four_configs_and_the_card_are_one_commit_and_a_second_push_is_none(hub, api, dataset):
    done = push(dataset, api, private=True)
    assert done.is_new
    assert done.url == f"{hub.url}/datasets/{REPO}"
    assert_published(hub, dataset)
    assert hub.private == {REPO}
    again = push(dataset, api)
    assert (again.is_new, again.commit) == (False, done.commit)
    assert_published(hub, dataset)
    n_sent = sum(request.startswith("PUT") for request in hub.requests)
    assert n_sent == len({p.read_bytes() for p in dataset.rglob("*.parquet")})


def test_files_of_an_earlier_build_go_in_the_same_commit_and_others_stay(hub, api, dataset, tmp_path):
    old = {
        "raw/train-00000-of-00009.parquet": b"old",
        "dpm/notes.txt": b"old",
        "data/mine.txt": b"kept",
        "LICENSE": b"kept",
    }
    hub.commit(REPO, old, title="initial commit")
    push(dataset, api)
    files = files_of(hub)
    assert not {"raw/train-00000-of-00009.parquet", "dpm/notes.txt"} & files.keys()
    assert files["data/mine.txt"] == files["LICENSE"] == b"kept"
    assert hub.commits(REPO) == ["Upload dataset"]


def test_a_branch_is_made_and_main_left_alone(hub, api, dataset):
    push(dataset, api, revision="v2")
    assert "README.md" in files_of(hub, revision="v2")
    assert files_of(hub) == {}


def test_what_a_person_wrote_on_the_hub_survives_and_the_generated_block_is_replaced(hub, api, dataset, tmp_path):
    push(dataset, api)
    card = files_of(hub)["README.md"].decode()
    edited = card.replace(BEGIN, f"A note by a person.\n\n{BEGIN}").replace("# ReflectEvo-460K", "# vandalised")
    edited = edited.replace("pretty_name: ReflectEvo-460K", "pretty_name: Our reflections").rstrip() + "\n\nThe end.\n"
    edited = edited.replace("\ntags:\n", "\nlanguage:\n- en\ntags:\n", 1)
    hub.commit(REPO, {"README.md": edited.encode()}, title="initial commit")
    newer = make_dataset(tmp_path / "newer", n=33)
    push(newer, api)
    merged = files_of(hub)["README.md"].decode()
    assert "A note by a person." in merged
    assert "The end." in merged
    assert "vandalised" not in merged
    assert "pretty_name: Our reflections" in merged
    assert "language:\n- en" in merged
    generated = (newer / "README.md").read_text()
    block = generated[generated.index(BEGIN) : generated.index(END)]
    assert block in merged
    assert load_build(newer)[0].versions["raw"] in merged
    assert load_build(dataset)[0].versions["raw"] not in merged
    assert not push(newer, api).is_new


@pytest.mark.parametrize(
    ("method", "path", "kind", "times"),
    [
        *[("POST", r"/commit/", status, 2) for status in sorted(RETRIED)],
        ("POST", r"/preupload/", 503, 9),
        ("POST", r"/objects/batch", 429, 9),
        ("PUT", r"/lfs/", 500, 9),
        ("PUT", r"/lfs/", "reset", 1),
        ("PUT", r"/lfs/", "reset", 9),
        ("PUT", r"/lfs/", "lost", 1),
        ("POST", r"/lfs/.*/verify", 503, 9),
        ("POST", r"/commit/", "reset", 2),
        ("POST", r"/commit/", "lost", 1),
        ("POST", r"/api/repos/create", 500, 5),
        ("POST", r"/api/repos/create", "lost", 1),
        ("POST", r"/api/validate-yaml", 503, 5),
        ("GET", r"/api/datasets/", 502, 5),
        ("GET", r"/api/datasets/", "reset", 5),
    ],
)
def test_whatever_fails_for_a_while_the_push_arrives_exactly_once(hub, api, dataset, method, path, kind, times):
    hub.fail(method, path, kind, times=times)
    push(dataset, api)
    assert sum(fault.times for fault in hub.injected) == 0 or times == 9
    assert any(" -> " in request for request in hub.requests)
    assert_published(hub, dataset)


def test_the_hub_says_how_long_to_wait(hub, api, dataset):
    hub.fail("POST", "/commit/", 429, Retry_After="17")
    hub.fail("POST", "/commit/", 503)
    hub.fail("POST", "/commit/", 429, Retry_After="86400")
    waits = []
    push_dataset(dataset, REPO, api=api, wait=waits.append)
    assert waits == [17.0, 2.0, 60.0]
    assert_published(hub, dataset)


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("POST", "/commit/", 503),
        ("POST", "/commit/", "reset"),
        ("PUT", "/lfs/", 500),
        ("PUT", "/lfs/", "reset"),
        ("GET", "/api/datasets", 500),
    ],
)
def test_what_keeps_failing_ends_in_one_line_with_nothing_published(hub, api, dataset, method, path, kind):
    hub.fail(method, path, kind, times=10_000)
    waits = []
    with pytest.raises(InputError) as refusal:
        push_dataset(dataset, REPO, api=api, wait=waits.append)
    assert len(waits) == ATTEMPTS - 1
    assert "\n" not in str(refusal.value)
    assert "nothing was published" in str(refusal.value)
    assert hub.commits(REPO) == []
    hub.injected.clear()
    push(dataset, api)
    assert_published(hub, dataset)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/commit/", 403, "the token may not write there"),
        ("POST", "/api/repos/create", 403, "the token may not write there"),
        ("POST", "/api/repos/create", 401, "does not accept the token"),
        ("POST", "/commit/", 401, "does not accept the token"),
        ("POST", "/commit/", 400, "refuses with 400"),
        ("POST", "/objects/batch", 403, "the token may not write there"),
    ],
)
def test_a_refusal_is_one_line_at_once(hub, api, dataset, method, path, status, message):
    hub.fail(method, path, status, times=10_000)
    with pytest.raises(InputError, match=message) as refusal:
        push_dataset(dataset, REPO, api=api, wait=pytest.fail)
    assert "\n" not in str(refusal.value)
    assert "hf_test" not in str(refusal.value)
    assert hub.commits(REPO) == []


def test_a_wrong_token_is_refused(hub, dataset, api):
    hub.token = "hf_right"
    with pytest.raises(InputError, match="does not accept the token"):
        push(dataset, api)
    assert not hub.repos


def test_another_push_in_between_is_not_lost(hub, api, dataset, tmp_path):
    push(dataset, api)
    theirs = files_of(hub)["README.md"].decode().rstrip() + "\n\nWritten meanwhile.\n"

    def interfere(repo):
        head = repo.at("main")
        repo.commit({**head.files, "README.md": theirs.encode()}, revision="main", title="initial commit")

    hub.commit(REPO, {"raw/stray.parquet": b"stray"}, title="initial commit")
    hub.before_commit = interfere
    push(make_dataset(tmp_path / "newer", n=33), api)  # with another card, which would replace theirs
    files = files_of(hub)
    assert "Written meanwhile." in files["README.md"].decode()
    assert "raw/stray.parquet" not in files
    assert hub.commits(REPO) == ["Upload dataset", "Upload dataset"]


def test_two_pushes_at_once_end_with_one_set_of_files(hub, api, dataset):
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: push(dataset, api), range(2)))
    assert len({each.commit for each in done}) == 1
    assert_published(hub, dataset)


def test_large_files_go_up_in_parts_that_are_sent_again(hub, api, dataset):
    hub.part_bytes = 2_000
    hub.fail("PUT", r"/lfs/[0-9a-f]+/2", "reset")
    hub.fail("POST", r"/complete", 503, times=2)
    push(dataset, api)
    assert_published(hub, dataset)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"card": 3}'])
def test_a_strange_build_json_on_the_hub_is_no_obstacle(hub, api, dataset, content):
    hub.commit(REPO, {"build.json": content, "README.md": b"# By hand\n"}, title="initial commit")
    push(dataset, api)
    assert "# By hand" in files_of(hub)["README.md"].decode()
    assert not push(dataset, api).is_new


def test_folders_that_are_no_dataset_are_refused(tmp_path, dataset, api, hub):
    with pytest.raises(InputError, match=r"no build\.json"):
        push(tmp_path, api)
    (tmp_path / "build.json").write_text("{}")
    with pytest.raises(InputError, match="Build the dataset again"):
        push(tmp_path, api)
    for repo_id in ("a/b/c", "-x", "white space/x"):
        with pytest.raises(InputError, match="Expected owner/name"):
            push_dataset(dataset, repo_id, api=api)
    assert not hub.repos


def test_a_token_in_the_card_is_not_published(tmp_path, api, hub):
    dataset = make_dataset(tmp_path)
    with (dataset / "README.md").open("a") as file:
        file.write("\nhf_" + "a1B2" * 9)
    with pytest.raises(InputError, match="holds an access token"):
        push(dataset, api)
    assert not hub.repos


def test_the_card_is_rendered_anew_and_a_person_keeps_their_words(tmp_path):
    dataset = make_dataset(tmp_path)
    card = (dataset / "README.md").read_text()
    (dataset / "README.md").write_text(card.replace("# ReflectEvo-460K", "# spoilt").rstrip() + "\n\nMine.\n")
    assert write_dataset_card(dataset) == dataset / "README.md"
    assert (dataset / "README.md").read_text().rstrip() == card.rstrip() + "\n\nMine."
    (dataset / "README.md").unlink()
    write_dataset_card(dataset)
    assert (dataset / "README.md").read_text() == card


READ_BACK = """
import json, sys
import datasets
datasets.disable_progress_bars()
out = {}
for config in sys.argv[2:]:
    for split in ("train", "validation"):
        plain = datasets.load_dataset(sys.argv[1], config, split=split)
        streamed = datasets.load_dataset(sys.argv[1], config, split=split, streaming=True)
        rows = [dict(row) for row in plain]
        assert [dict(row) for row in streamed] == rows, (config, split)
        out[f"{config}/{split}"] = {"columns": plain.column_names, "rows": rows}
json.dump(out, sys.stdout)
"""


def test_a_fresh_client_reads_back_equal_rows_plain_and_streaming(hub, api, dataset, tmp_path):
    import pyarrow.parquet as pq

    push(dataset, api)
    done = subprocess.run(
        [sys.executable, "-c", READ_BACK, REPO, *CONFIGS],
        env=os.environ | hub.environment(tmp_path / "fresh"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    for config in CONFIGS:
        for split in ("train", "validation"):
            local = [
                r for path in sorted((dataset / config).glob(f"{split}-*")) for r in pq.read_table(path).to_pylist()
            ]
            assert read[f"{config}/{split}"]["columns"] == list(COLUMNS[config])
            assert read[f"{config}/{split}"]["rows"] == json.loads(json.dumps(local))
            assert local
