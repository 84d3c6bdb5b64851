"""Naming and checking models before anything is loaded; the scripted completer."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from reflectevo_data.completers.base import Completer, CompletionFailed, Sampling
from reflectevo_data.completers.chat import chat_text, cut_at_stop
from reflectevo_data.completers.engine import Engine, open_roles
from reflectevo_data.completers.locate import LocatedModel, locate_models, published_name
from reflectevo_data.completers.scripted import ScriptedCompleter, rules
from reflectevo_data.errors import InputError


def _model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def _adapter(folder: Path, base: str | None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 16}))
    return folder


def test_a_folder_is_published_by_its_last_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _model(tmp_path / "runs" / "my-model")
    assert locate_models([("--model", str(folder))]) == [LocatedModel("my-model", str(folder))]
    monkeypatch.chdir(folder)
    assert published_name(".") == "my-model"
    assert published_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert published_name("miniature") == "miniature"
    assert published_name("/nowhere/secret/place") == "place"


def test_an_adapter_goes_on_the_model_it_was_trained_on(tmp_path: Path) -> None:
    base = _model(tmp_path / "here" / "base-model")
    # trained elsewhere: the last name of the path decides
    adapter = _adapter(tmp_path / "lora", "/cluster/home/base-model")
    model, reflector = locate_models([("--model", str(base)), ("--reflector", str(adapter))])
    assert model == LocatedModel("base-model", str(base))
    assert reflector == LocatedModel("lora", str(base), str(adapter), 16)


def test_an_adapter_alone_brings_the_base_it_names(tmp_path: Path) -> None:
    base = _model(tmp_path / "base-model")
    adapter = _adapter(tmp_path / "lora", str(base))
    assert locate_models([("--model", str(adapter))]) == [LocatedModel("lora", str(base), str(adapter), 16)]


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: folder / "absent", r"--model .*absent: no such folder"),
        (lambda folder: folder, "neither config.json nor adapter_config.json"),
        (lambda folder: _adapter(folder / "lora", None), "names no base model"),
        (
            lambda folder: _adapter(folder / "lora", str(_adapter(folder / "lora-0", "x"))),
            "adapter on another adapter",
        ),
    ],
)
def test_what_cannot_be_loaded_is_refused_in_one_line(tmp_path: Path, make, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as raised:
        locate_models([("--model", str(make(tmp_path)))])
    assert "\n" not in str(raised.value)


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    base, adapter = _model(tmp_path / "qwen"), _adapter(tmp_path / "lora", "meta/llama")
    with pytest.raises(InputError, match=r"--reflector .*lora: a LoRA adapter trained on meta/llama, not on qwen"):
        locate_models([("--model", str(base)), ("--reflector", str(adapter))])


def test_a_broken_adapter_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(InputError, match=r"adapter_config\.json is not JSON"):
        locate_models([("--model", str(tmp_path))])


def test_a_hub_id_that_is_not_cached_is_refused_offline(tmp_path: Path) -> None:
    """In a process of its own: the Hub library reads its environment when it is imported."""
    code = (
        "from reflectevo_data.completers.locate import locate_models\n"
        "try: locate_models([('--model', 'nobody/nothing')])\n"
        "except ValueError as error: print(type(error).__name__, error)\n"
    )
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("InputError --model nobody/nothing: ")
    assert "not in the local cache" in done.stdout


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (Engine("tensorflow", "x"), "--engine tensorflow: expected one of transformers, vllm, openai"),
        (Engine("openai", "x"), "Give --base-url"),
        (Engine("transformers", "x", base_urls=("http://127.0.0.1:1/v1",)), "--base-url is for --engine openai"),
    ],
)
def test_engine_flags_are_checked(engine: Engine, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        engine.check()


def test_names_by_role(tmp_path: Path) -> None:
    engine = Engine("transformers", str(_model(tmp_path / "m")), reflector=str(_model(tmp_path / "r")))
    assert engine.names() == {"generator": "m", "reflector": "r", "corrector": "m"}
    served = Engine("openai", "org/model", reflector="refl", base_urls=("http://127.0.0.1:1/v1",))
    assert served.names() == {"generator": "org/model", "reflector": "refl", "corrector": "org/model"}


def test_checking_loads_neither_torch_nor_an_engine(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m")
    code = (
        "import sys; from reflectevo_data.completers.engine import Engine\n"
        f"Engine('transformers', {str(folder)!r}).check()\n"
        "print({'torch', 'transformers', 'vllm', 'openai'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


async def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'reflectevo\[transformers\]'"):
        async with open_roles(Engine("transformers", str(_model(tmp_path / "m")))):
            pass


async def test_scripted_answers_by_rule_and_seed() -> None:
    completer = ScriptedCompleter(rules([("2 + 2", ["Finish[4]", "Finish[5] Observation: no"]), ("", "anything")]))
    assert isinstance(completer, Completer)
    sampling = Sampling(stop=("Observation:",))
    first, second = await completer.complete("What is 2 + 2?", sampling=sampling, seed=4, n=2)
    assert (first.text, second.text) == ("Finish[4]", "Finish[5] ")
    [other] = await completer.complete("else", sampling=sampling, seed=4)
    assert other.text == "anything"
    assert [request.seed for request in completer.requests] == [4, 5, 4]


async def test_scripted_fails_as_told() -> None:
    completer = ScriptedCompleter(
        rules([("refused", CompletionFailed("context is 512")), ("broken", ZeroDivisionError("bug"))])
    )
    [completion] = await completer.complete("refused", sampling=Sampling(), seed=0)
    assert (completion.finish_reason, completion.error, completion.text) == ("error", "context is 512", "")
    with pytest.raises(ZeroDivisionError):
        await completer.complete("broken", sampling=Sampling(), seed=0)
    with pytest.raises(LookupError, match="no rule fits"):
        await completer.complete("unknown", sampling=Sampling(), seed=0)


async def test_scripted_counts_words_and_open_requests() -> None:
    completer = ScriptedCompleter(lambda request: "one two three", delay=0.01)
    several = [completer.complete("x", sampling=Sampling(max_tokens=2), seed=i) for i in range(5)]
    completions = [completion for [completion] in await asyncio.gather(*several)]
    assert {(c.text, c.finish_reason, c.n_completion_tokens) for c in completions} == {("one two", "length", 2)}
    assert completer.n_at_once == 5
    assert completer.n_calls == 5
    assert (await completer.logprob("x", "a b c")).mean == -1.0


def test_the_earliest_stop_string_cuts() -> None:
    assert cut_at_stop("a STOP b END", ("END", "STOP")) == ("a ", True)
    assert cut_at_stop("nothing", ("END",)) == ("nothing", False)


def test_templates_that_think_are_asked_not_to() -> None:
    class Tokenizer:
        chat_template = "{% if enable_thinking is false %}"

        def apply_chat_template(self, conversation, **kwargs) -> str:
            assert kwargs["enable_thinking"] is False
            return f"<{conversation[0]['role']}>{conversation[0]['content']}<assistant>"

    assert chat_text(Tokenizer(), "Q", "Action:") == "<user>Q<assistant>Action:"  # pyright: ignore
