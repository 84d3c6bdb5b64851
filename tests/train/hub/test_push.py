"""A model on a Hub: weights, card and results in one commit, loaded back by transformers, PEFT and datasets."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from reflectevo_data.errors import InputError
from reflectevo_data.hub.cards import BEGIN, END
from reflectevo_data.hub.commit import RETRIED
from reflectevo_train.cli import main
from reflectevo_train.evaluation.evaluate import load_evaluation
from reflectevo_train.hub.card import model_card
from reflectevo_train.hub.push import push_model
from reflectevo_train.hub.training_record import RECORD, record_training
from tests.hub_write import WritableHub
from tests.train.evaluations import make_evaluation


REPO = "owner/reflector"


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    make_evaluation(folder / "ungated", seed=1)
    make_evaluation(folder / "gated", seed=2, gate="oracle")
    return [folder / "ungated", folder / "gated"]


@pytest.fixture
def model(tiny_model, tmp_path):
    """A trained model's output folder, with what does not belong on a Hub."""
    import shutil

    folder = tmp_path / "trained"
    shutil.copytree(tiny_model, folder)
    (folder / "checkpoint-5").mkdir()
    (folder / "checkpoint-5" / "optimizer.pt").write_bytes(b"x")
    (folder / "training_args.bin").write_bytes(b"pickle with /home/ann/data")
    (folder / "trainer_state.json").write_text("{}")
    (folder / "README.md").write_text("# Model Card for Model ID\nby a program\n")
    record(folder)
    return folder


def record(folder: Path, **changes) -> None:
    state = SimpleNamespace(
        log_history=[{"step": 40, "eval_acc_t1": 0.5, "eval_acc_t2": 0.75, "epoch": 1.0}],
        global_step=40,
        best_metric=None,
    )
    training = {
        "world_size": 1,
        "output_dir": str(folder),
        "learning_rate": 3e-4,
        "num_train_epochs": 2.0,
        "max_length": 512,
        "seed": 7,
        "packing": False,
        "bf16": True,
    }
    record_training(
        SimpleNamespace(args=SimpleNamespace(**training), state=state, train_dataset=range(624)),
        SimpleNamespace(
            dataset_name="/home/ann/data/ReflectEvo-460K",
            dataset_config="dplus",
            setting="two_stage_reflect",
            prompts="default",
        ),
        SimpleNamespace(model_name_or_path="Qwen/Qwen3-0.6B", model_revision="main", use_peft=False, **changes),
    )


@pytest.fixture
def hub():
    with WritableHub() as hub:
        yield hub


@pytest.fixture
def api(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=hub.url, token="hf_test")


def push(model, api, **options):
    return push_model(model, REPO, api=api, wait=lambda seconds: None, **options)


def files_of(hub, repo_id=REPO, repo_type="model"):
    return {p: c for p, c in hub.repos[repo_type, repo_id].at("main").files.items() if p != ".gitattributes"}


def test_a_model_and_its_results_are_one_commit_and_a_second_push_is_none(hub, api, model, evaluations):
    done = push(model, api, evaluations=evaluations, private=True)
    assert (done.is_new, done.url) == (True, f"{hub.url}/{REPO}")
    files = files_of(hub)
    assert files["model.safetensors"] == (model / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md", "reflectevo.json"} <= files.keys()
    assert not [path for path in files if "checkpoint" in path or path.endswith((".bin", ".pt")) or "trainer" in path]
    assert files["evaluations/gated/report.json"] == (evaluations[1] / "report.json").read_bytes()
    assert hub.commits(REPO, "model") == ["Upload model"]
    assert not push(model, api, evaluations=evaluations).is_new
    assert hub.commits(REPO, "model") == ["Upload model"]


def test_every_measured_number_is_in_the_model_index_and_the_tables(model, evaluations):
    read = {folder.name: load_evaluation(folder) for folder in evaluations}
    text, _ = model_card(model, REPO, read)
    metadata = yaml.safe_load(text.split("---")[1])
    [entry] = metadata["model-index"]
    found = {
        (result["dataset"]["name"], metric["args"]["evaluation"], metric["name"]): metric["value"]
        for result in entry["results"]
        for metric in result["metrics"]
    }
    for name, evaluation in read.items():
        for source, report in evaluation.scores.sources.items():
            assert found.pop((source, name, "Acc@t1")) == round(report.n_correct_t1 / report.n_problems, 6)
            assert found.pop((source, name, "Acc@t2, oracle-gated")) == round(report.acc_t2 or 0, 6)
            assert found.pop((source, name, "Δ(t1, t2), oracle-gated")) == round(report.delta or 0, 6)
            if name == "ungated":
                assert found.pop((source, name, "Acc@t2, ungated")) == round(report.acc_t2_ungated or 0, 6)
                assert found.pop((source, name, "Δ(t1, t2), ungated")) == round(report.delta_ungated or 0, 6)
    assert not found
    total = read["ungated"].scores.total
    low, high = total.acc_t2_ungated_interval or (0, 0)
    assert f"{100 * (total.acc_t2_ungated or 0):.1f} % [{100 * low:.1f}, {100 * high:.1f}]" in text
    assert ModelCard(text).data.to_dict()["base_model"] == "Qwen/Qwen3-0.6B"


def test_the_card_says_how_it_was_trained_and_how_to_run_it(model):
    text, _ = model_card(model, REPO, {})
    for line in (
        "| base model | `Qwen/Qwen3-0.6B` |",
        "| dataset | `ReflectEvo-460K`, config `dplus` |",
        "| setting | `two_stage_reflect` (SimpleNamespace) |",
        "| learning rate | 0.0003 |",
        "| rows | 624 |",
        "Acc@t1 50.0 %, Acc@t2 (oracle-gated) 75.0 % (step 40)",
        'AutoModelForCausalLM.from_pretrained("owner/reflector"',
        "--model Qwen/Qwen3-0.6B --reflector owner/reflector",
        "vllm serve owner/reflector",
        "No evaluation was published",
    ):
        assert line in text
    record = json.loads((model / RECORD).read_text())
    del record["dataset"], record["steps"]
    (model / RECORD).write_text(json.dumps(record))
    with pytest.raises(InputError, match="lacks dataset, steps, which training wrote"):
        model_card(model, REPO, {})
    (model / RECORD).unlink()
    text, _ = model_card(model, REPO, {})
    assert "holds no record of a training" in text
    assert "--model owner/reflector --output" in text


def test_cards_of_programs_give_way_and_words_of_people_stay(hub, api, model, evaluations):
    trl = "---\nbase_model: x/y\ntags:\n- trl\n---\n# Model\nThis model has been trained using [TRL](https://trl).\n"
    hub.commit(
        REPO, {"README.md": trl.encode(), "training_args.bin": b"old"}, title="initial commit", repo_type="model"
    )
    push(model, api, evaluations=evaluations[:1])
    files = files_of(hub)
    assert "TRL" not in files["README.md"].decode().split("---", 2)[2].replace("trl ", "")
    assert "training_args.bin" not in files
    edited = files["README.md"].decode().rstrip() + "\n\n## A person's note\n"
    edited = edited.replace("tags:\n", "license: mit\ntags:\n", 1)
    hub.commit(REPO, {"README.md": edited.encode()}, title="initial commit", repo_type="model")
    push(model, api, evaluations=evaluations)
    merged = files_of(hub)["README.md"].decode()
    assert "## A person's note" in merged
    assert "license: mit" in merged
    assert "### gated" in merged
    assert merged.count(BEGIN) == merged.count(END) == 1
    assert not push(model, api, evaluations=evaluations).is_new


FAULTS = [*sorted(RETRIED), "reset", "lost"]
STORAGE_FAULTS = [kind for kind in FAULTS if kind not in (408, 409, 412)]  # which a storage server does not answer


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [*(("POST", "/commit/", kind) for kind in FAULTS), *(("PUT", "/lfs/", kind) for kind in STORAGE_FAULTS)],
)
def test_whatever_fails_for_a_while_the_model_arrives_exactly_once(hub, api, model, method, path, kind):
    hub.fail(method, path, kind)
    push(model, api)
    assert hub.commits(REPO, "model") == ["Upload model"]
    assert files_of(hub)["model.safetensors"] == (model / "model.safetensors").read_bytes()


def test_predictions_become_a_dataset_that_loads(hub, api, model, evaluations, tmp_path):
    push(model, api, evaluations=evaluations, push_predictions=True)
    assert "owner/reflector-predictions" in files_of(hub)["README.md"].decode()
    assert hub.commits(f"{REPO}-predictions") == ["Upload predictions"]
    code = """
import sys, datasets
for name in ("ungated", "gated"):
    plain = datasets.load_dataset("owner/reflector-predictions", name, split="test")
    streamed = datasets.load_dataset("owner/reflector-predictions", name, split="test", streaming=True)
    assert list(streamed) == list(plain)
    print(name, len(plain), sum(row["output"][0]["is_correct"] for row in plain))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | hub.environment(tmp_path / "fresh"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    expected = [(e.name, load_evaluation(e).scores.total) for e in evaluations]
    assert done.stdout.split("\n")[:2] == [f"{name} {r.n_problems} {r.n_correct_t1}" for name, r in expected]
    assert not push(model, api, evaluations=evaluations, push_predictions=True).is_new
    assert hub.commits(f"{REPO}-predictions") == ["Upload predictions"]


def assert_loads_back(environment: dict[str, str], model: Path) -> None:
    """Transformers has the model and the chat template from the Hub as they are in the folder."""
    code = """
import sys, torch, transformers
loaded = transformers.AutoModelForCausalLM.from_pretrained("owner/reflector")
tokenizer = transformers.AutoTokenizer.from_pretrained("owner/reflector")
local = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), local.state_dict().values(), strict=True))
print(tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False))
"""
    done = subprocess.run([sys.executable, "-c", code, str(model)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout


def test_the_command_pushes_and_transformers_loads_it_back(hub, model, evaluations, tmp_path):
    environment = os.environ | hub.environment(tmp_path / "fresh")
    command = [sys.executable, "-c", "import sys; from reflectevo_train.cli import main; sys.exit(main())", "push"]
    flags = [str(model), "--repo-id", REPO, "--eval", str(evaluations[0])]
    done = subprocess.run([*command, *flags], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"/{REPO} (pushed, commit " in done.stdout
    assert_loads_back(environment, model)


def test_a_recipe_with_push_to_hub_does_the_same_at_the_end_of_training(hub, tiny_model, dataset, tmp_path):
    """One commit with our card: no checkpoint, no card of TRL's, no path."""
    options = {
        "dataset_name": dataset,
        "dataset_config": "dplus",
        "setting": "two_stage_reflect",
        "model_name_or_path": tiny_model,
        "output_dir": tmp_path / "out",
        "prompts": "miniature",
        "max_steps": 2,
        "save_steps": 1,
        "max_length": 700,
        "per_device_train_batch_size": 2,
        "bf16": "false",
        "use_cpu": "true",
        "activation_checkpointing": "false",
        "report_to": "none",
        "eval_strategy": "no",
        "push_to_hub": "true",
        "hub_model_id": REPO,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, "-m", "reflectevo_train.sft", *flags],
        env=os.environ | hub.environment(tmp_path / "cache") | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert hub.commits(REPO, "model") == ["Upload model"]
    files = files_of(hub)
    assert files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert not [path for path in files if "checkpoint" in path or path.endswith(".bin")]
    card = files["README.md"].decode()
    assert "| setting | `two_stage_reflect` (SFTTrainer) |" in card
    assert "config `dplus`, version 1.0." in card
    assert not [path for path, content in files.items() if str(tmp_path).encode() in content]
    assert_loads_back(os.environ | hub.environment(tmp_path / "fresh"), tmp_path / "out")


def test_an_adapter_names_its_base_on_the_hub_and_loads_with_peft(hub, tiny_model, tmp_path):
    import peft
    import transformers

    base = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    folder = tmp_path / "adapter"
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    peft.get_peft_model(base, config).save_pretrained(str(folder))
    api = HfApi(endpoint=hub.url, token="hf_test")
    with pytest.raises(InputError, match="Give its Hub id as --base-model"):
        push_model(folder, REPO, api=api)
    assert not hub.repos
    environment = os.environ | hub.environment(tmp_path / "fresh")
    code = """
import sys, torch, peft, transformers
from reflectevo_train.cli import main
assert main(["push", sys.argv[1], "--repo-id", "owner/tiny"]) == 0
assert main(["push", sys.argv[2], "--repo-id", "owner/reflector", "--base-model", "owner/tiny"]) == 0
loaded = peft.AutoPeftModelForCausalLM.from_pretrained("owner/reflector")
local = peft.PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2])
ids = torch.arange(1, 9)[None]
assert torch.equal(loaded(ids).logits, local(ids).logits)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny_model), str(folder)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    files = files_of(hub)
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "owner/tiny"
    card = files["README.md"].decode()
    assert "base_model: owner/tiny" in card
    assert "base_model_relation: adapter" in card
    assert "--max-lora-rank 4 --lora-modules reflector=owner/reflector" in card


def test_benchmark_results_hold_what_a_user_sees(hub, api, model, evaluations):
    push(model, api, evaluations=evaluations, benchmarks={"s1": "org/bench:main"})
    [ungated, gated] = yaml.safe_load(files_of(hub)[".eval_results/s1.yaml"])
    scores = [load_evaluation(e).scores.sources["s1"] for e in evaluations]
    assert ungated["dataset"] == {"id": "org/bench", "task_id": "main"}
    assert ungated["value"] == round(100 * (scores[0].acc_t2_ungated or 0), 2)
    assert gated["value"] == round(100 * (scores[1].acc_t1 or 0), 2)  # never the oracle's number
    assert "without reflection" in gated["notes"]
    with pytest.raises(InputError, match="no evaluation has problems of the source nowhere"):
        push(model, api, evaluations=evaluations, benchmarks={"nowhere": "org/bench"})


def test_bad_input_is_one_line_before_anything_is_sent(tmp_path, tiny_model, capsys):
    for arguments, message in (
        ([str(tmp_path / "nowhere")], "no such folder"),
        ([str(tmp_path)], "no model (config.json or adapter_config.json, and *.safetensors)"),
        ([str(tiny_model), "--eval", str(tmp_path)], "no report.json"),
        ([str(tiny_model), "--benchmark", "logiqa"], "expected SOURCE=OWNER/DATASET"),
        ([str(tiny_model), "--push-predictions"], "there are none without --eval"),
    ):
        assert main(["push", *arguments, "--repo-id", REPO]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_nothing_published_names_a_token_a_path_a_user_or_a_host(hub, api, model, evaluations, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "secretsecret" * 3)
    names = [name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4]  # `root` is a word
    monkeypatch.setenv("LOGNAME", "annalise")
    record(model)
    push(model, api, evaluations=evaluations, push_predictions=True)
    for repo_id, repo_type in ((REPO, "model"), (f"{REPO}-predictions", "dataset")):
        for path, content in files_of(hub, repo_id, repo_type).items():
            text = content.decode("utf-8", "replace") if not path.endswith(".parquet") else _parquet_text(content)
            assert "hf_secret" not in text, path
            assert not re.findall(r"/(?:home|root|tmp|Users|work|var|mnt)/[\w.-]+", text), path
            assert not [name for name in ("annalise", *names) if name in text], path


def _parquet_text(content: bytes) -> str:
    import io

    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content))
    return json.dumps([table.to_pylist(), str(table.schema.metadata)])
