"""The command line: what it answers at once, and what it says of bad input."""

import json
import subprocess
import sys

import pytest

from reflectevo_data.cli import PROGRAM, main


HEAVY = ("torch", "transformers", "trl", "vllm", "datasets", "pyarrow", "sympy")
COMMANDS = [command.name for command in PROGRAM.commands]


def loaded_after(code: str) -> list[str]:
    script = (
        f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1].replace("'", '"'))


def test_import_and_help_load_nothing_heavy():
    assert loaded_after("import reflectevo_data; reflectevo_data.verify; reflectevo_data.VerifierPool") == []
    assert loaded_after("from reflectevo_data.cli import main; main(['--help'])") == []
    assert loaded_after("from reflectevo_data.cli import main; main(['generate', '--help'])") == []
    assert loaded_after("import torch") == ["torch"]  # the check can fail


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"  reflectevo-data {command}" in text[text.index("example") :]


@pytest.fixture
def questions(tmp_path):
    file = tmp_path / "my.jsonl"
    file.write_text('{"question": "2+2?", "answer": "4"}\n{"question": "Is it?\\nA. yes\\nB. no", "answer": "b"}\n')
    return file


GENERATE = ("generate", "--model", "miniature", "--output", "run")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*GENERATE, "--source", "logiq"), "--source logiq: no such source. Did you mean logiqa?"),
        ((*GENERATE, "--source", "nowhere.jsonl"), "nowhere.jsonl: no such file"),
        ((*GENERATE, "--source", "bad.jsonl"), "bad.jsonl:2: found"),
        ((*GENERATE, "--source", "my.jsonl", "--instruction", "9-9-9"), "--instruction 9-9-9: not in the pool"),
        ((*GENERATE, "--source", "my.jsonl", "--prompts", "nowhere"), "--prompts nowhere: neither default"),
        ((*GENERATE, "--source", "my.jsonl", "--engine", "openai"), "--engine openai: no server. Give --base-url"),
        ((*GENERATE[:-1], "my.jsonl", "--source", "my.jsonl"), "my.jsonl: a file, expected a folder"),
        (
            ("generate", "--source", "my.jsonl", "--model", "./gone", "--output", "run"),
            "--model ./gone: no such folder",
        ),
        (("generate", "--source", "my.jsonl", "--model", ".", "--output", "run"), "found neither config.json"),
        (("judge", "nowhere"), "nowhere: no run directory (no manifest.json)"),
        (("build", "nowhere", "--output", "DS"), "nowhere: no run"),
        (("stats", "nowhere"), "nowhere: has no raw"),
        (("show", "nowhere"), "nowhere: no dataset (no build.json)"),
        (("sources", "logiq"), "Did you mean logiqa?"),
    ],
    ids=lambda value: " ".join(value)[-60:] if isinstance(value, tuple) else "",
)
def test_bad_input_ends_in_one_line_and_code_2(arguments, message, questions, monkeypatch, capsys):
    monkeypatch.chdir(questions.parent)
    (questions.parent / "bad.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n{"question": "2+3?"}\n')
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert not (questions.parent / "run").exists()


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--shard", "8/8", "expected I/N with I from 0 to N-1"),
        ("--limit", "0", "expected a whole number from 1 on"),
        ("--n-reflections", "two", "expected a whole number from 1 on"),
        ("--temperature", "-1", "expected a number from 0 to 10"),
        ("--top-p", "nan", "expected a number from 0 to 1"),
    ],
)
def test_bad_flags_say_what_is_expected(flag, value, expected, capsys):
    with pytest.raises(SystemExit) as end:
        main([*GENERATE, "--source", "miniature", f"{flag}={value}"])
    assert end.value.code == 2
    assert expected in capsys.readouterr().err


def test_sources_previews_a_file(questions, capsys):
    assert main(["sources", str(questions), "--preview", "1"]) == 0
    out = capsys.readouterr().out
    assert "2+2?" in out
    assert "Is it?" not in out


def test_sources_lists_the_17_in_10_tasks(capsys):
    from reflectevo_data.sources.table import SOURCES

    assert main(["sources"]) == 0
    out = capsys.readouterr().out
    assert len(SOURCES) == 17
    assert len({source.task for source in SOURCES.values()}) == 10
    for name, source in SOURCES.items():
        assert name in out
        assert source.hub_id in out
