"""Nothing that is written down or published names a token, an absolute path, a user or a host."""

from __future__ import annotations

import getpass
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.train.evaluations import unpack_examples


USER = "annalise"
TOKENS = {"HF_TOKEN": "hf_" + "x1Y2" * 9, "OPENAI_API_KEY": "sk-" + "a1B2" * 10, "WANDB_API_KEY": "c0ffee" * 7}
# what the home folder of somebody else would look like in a file, too
PATHS = re.compile(r"(?:/(?:home|root|tmp|Users|work|var|mnt|private)/|[A-Z]:\\\\)[\w.-]+")


def pipeline(folder: Path) -> subprocess.CompletedProcess[str]:
    """generate, judge, build, evaluate and report with a scripted engine, models given by absolute paths."""
    code = f"""
import sys
from contextlib import asynccontextmanager
from reflectevo_data.completers import engine
from reflectevo_data.cli import main
from reflectevo_data.completers.base import RoleCompleters
from reflectevo_data.completers.locate import published_name
from reflectevo_data.completers.scripted import ScriptedCompleter
from reflectevo_train.cli import main as train

def answer(request):
    if request.prompt.endswith("Notes:"):
        return f"A carry was lost in step {{request.seed % 97}}."
    right = "second time" in request.prompt and request.seed % 512 < 400
    return f"Thought: so.\\nAction: Finish[{{'B' if right else 'A'}}]"

@asynccontextmanager
async def open_roles(engine):
    one = ScriptedCompleter(answer, model=published_name(engine.model), score=lambda p, *_: -float(len(p)))
    yield RoleCompleters(one, one, one)

@asynccontextmanager
async def open_completer(engine):
    async with open_roles(engine) as roles:
        yield roles.generator

engine.open_roles, engine.open_completer = open_roles, open_completer
engine.Engine.check = lambda self: []
folder = {str(folder)!r}
questions, model = f"{{folder}}/questions.jsonl", f"{{folder}}/models/tiny"
common = ["--source", questions, "--model", model]
assert main(["generate", *common, "--output", f"{{folder}}/run", "--n-reflections", "3"]) == 0
assert main(["judge", f"{{folder}}/run", "--judge", "self", "--corrector", model]) == 0
assert main(["build", f"{{folder}}/run", "--output", f"{{folder}}/ReflectEvo"]) == 0
assert train(["evaluate", *common, "--output", f"{{folder}}/eval"]) == 0
assert train(["report", f"{{folder}}/eval", "--output", f"{{folder}}/report"]) == 0
"""
    (folder / "models" / "tiny").mkdir(parents=True)
    rows = [{"id": f"q/{i}", "question": f"Question {i}?", "answer": "b", "options": ["no", "yes"]} for i in range(40)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = os.environ | TOKENS | {"LOGNAME": USER, "USER": USER}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def text_of(path: Path) -> str:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return json.dumps([table.to_pylist(), str(table.schema.metadata), str(pq.read_metadata(path))], default=str)
    text = path.read_bytes().decode("utf-8", "replace")
    return unpack_examples(text) if path.suffix == ".html" else text


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("somewhere")
    return folder, pipeline(folder)


def test_manifests_records_datasets_cards_and_reports_are_clean(made):
    folder, done = made
    assert done.returncode == 0, done.stderr
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "questions.jsonl"]
    assert {"manifest.json", "records.jsonl", "README.md", "build.json", "report.json", "report.html"} <= {
        p.name for p in files
    }
    assert any(p.suffix == ".parquet" for p in files)
    names = [USER, *(name for name in (getpass.getuser(), socket.gethostname()) if len(name) > 4)]  # `root` is a word
    for path in files:
        text = text_of(path)
        assert not [variable for variable, token in TOKENS.items() if token in text], path
        assert str(folder) not in text, path
        assert not PATHS.findall(text), path
        assert not [name for name in names if name in text], path


def test_logs_show_no_token_and_no_user_or_host(made):
    """A path that the user typed may be shown to them; a secret may not."""
    _, done = made
    log = done.stdout + done.stderr
    assert "Acc@t1" in log
    assert not [variable for variable, token in TOKENS.items() if token in log]
    assert USER not in log
    assert socket.gethostname() not in log
