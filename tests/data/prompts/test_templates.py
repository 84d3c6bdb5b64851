"""Prompt sets: what is bundled holds what it promises, and no template can see a gold answer."""

import itertools

import pytest

from reflectevo_data import Problem
from reflectevo_data.errors import InputError
from reflectevo_data.prompts.instructions import choose_instructions
from reflectevo_data.prompts.templates import TEMPLATES, load_prompts


SECRET = "SECRET-GOLD"


@pytest.fixture(params=["default", "miniature"])
def prompts(request):
    return load_prompts(request.param)


def rendered(prompts, problem):
    key = next(iter(prompts.pool))
    return {
        "solve": prompts.solve(problem),
        "retry": prompts.retry(problem, "TRIAL"),
        "reflect": prompts.reflect(problem, "TRIAL", key),
        "correct": prompts.correct(problem, "TRIAL", "REFLECTION"),
        "one_stage": prompts.one_stage(problem, "TRIAL"),
        "judge": prompts.judge(problem, "TRIAL", "REFLECTION A", "REFLECTION B"),
        "self_check": prompts.self_check(problem, "TRIAL"),
        **{f"{name}_open": text for name, text in after_a_trial(prompts.open(), problem, key).items()},
    }


def after_a_trial(prompts, problem, key):
    return {
        "retry": prompts.retry(problem, "TRIAL"),
        "reflect": prompts.reflect(problem, "TRIAL", key),
        "correct": prompts.correct(problem, "TRIAL", "REFLECTION"),
        "one_stage": prompts.one_stage(problem, "TRIAL"),
    }


@pytest.mark.parametrize("answer_type", ["choice", "math", "code", "text"])
def test_prompts_show_what_is_known_and_never_the_gold(prompts, answer_type):
    problem = Problem(
        "x",
        "QUESTION?",
        SECRET,
        answer_type,
        options=["OPTION-1", "OPTION-2"] if answer_type == "choice" else (),
        test_list=["assert f(1) == 2", f"assert f(2) == '{SECRET}'"] if answer_type == "code" else (),
        answers=[SECRET],
    )
    texts = rendered(prompts, problem)
    assert texts.keys() == set(TEMPLATES)
    for name, text in texts.items():
        assert "QUESTION?" in text, name
        assert SECRET not in text, name
        assert ("TRIAL" in text) == (name != "solve"), name
        assert ("REFLECTION" in text) == (name in ("correct", "correct_open", "judge")), name
        if prompts.name == "default" and answer_type == "choice":
            assert "A. OPTION-1\nB. OPTION-2" in text, name


def test_open_prompts_do_not_claim_that_the_answer_is_wrong(prompts):
    claims = ("is wrong", "failed", "error", "correctly this time")
    unjudged = prompts.open()
    problem = Problem("x", "QUESTION?", "a", "choice", options=["yes", "no"])
    assert unjudged.pool.keys() == prompts.pool.keys()
    for key in unjudged.pool:
        texts = after_a_trial(unjudged, problem, key)
        texts["self_check"] = unjudged.self_check(problem, "TRIAL")
        for name, text in texts.items():
            own = text[text.rindex("QUESTION?") :] + text.split("Example")[0]  # without the worked examples
            assert not [claim for claim in claims if claim in own], (name, key)
    if prompts.name == "default":
        for name, text in after_a_trial(prompts, problem, "1-1-1").items():
            assert "is wrong" in text, name
        assert "failed solution" in prompts.pool["1-1-1"]
    else:  # its prompts never claimed anything, and it was trained on these
        assert after_a_trial(unjudged, problem, "reflect") == after_a_trial(prompts, problem, "reflect")


def test_default_pool_has_three_axes():
    pool = load_prompts("default").pool
    assert list(pool) == [f"{i}-{j}-{k}" for i, j, k in itertools.product((1, 2), range(1, 9), (1, 2))]
    assert len(set(pool.values())) == 32
    assert pool["1-3-2"].startswith(pool["1-1-1"].split(" Look above all")[0])


def test_default_prefix_is_shared_so_that_it_can_be_cached():
    prompts = load_prompts("default")
    texts = rendered(prompts, Problem("x", "QUESTION?", "a", "choice", options=["yes", "no"]))
    prefix = texts["solve"][: texts["solve"].index("Your turn")]
    assert len(prefix.split()) > 200
    assert texts["correct"].startswith(prefix)
    assert texts["retry"].startswith(prefix)


def test_options_are_listed_once():
    prompts = load_prompts("default")
    problem = Problem("x", "Which?\nA. red\nB. blue", "a", "choice", options=["red", "blue"])
    assert prompts.solve(problem).count("A. red") == 1
    assert prompts.solve(Problem("x", "Which?", "a", "choice", options=["red", "blue"])).count("A. red") == 1


def test_code_shows_one_test():
    text = load_prompts("default").solve(
        Problem("x", "Write f.", "", "code", test_list=["assert f(1) == 2", "assert f(2) == 3"])
    )
    assert "assert f(1) == 2" in text
    assert "assert f(2) == 3" not in text


def test_fingerprint_changes_with_any_file(tmp_path):
    assert load_prompts("default").fingerprint == load_prompts("default").fingerprint
    (tmp_path / "solve.jinja").write_text("{{ question }} now!")
    own = load_prompts(str(tmp_path))
    assert own.solve(Problem("x", "Why?", "a")) == "Why? now!"
    assert own.correct(Problem("x", "Why?", "a"), "T", "R") == load_prompts("default").correct(
        Problem("x", "Why?", "a"), "T", "R"
    )
    first = own.fingerprint
    assert first != load_prompts("default").fingerprint
    (tmp_path / "_task.jinja").write_text("Short.")
    assert load_prompts(str(tmp_path)).fingerprint != first


def test_own_instructions_join_the_pool(tmp_path):
    file = tmp_path / "pool.yaml"
    file.write_text("kind: Be kind to yourself.\n")
    prompts = load_prompts("default", instruction_file=str(file))
    assert len(prompts.pool) == 33
    assert "Be kind to yourself." in prompts.reflect(Problem("x", "Why?", "a"), "TRIAL", "kind")
    assert prompts.fingerprint != load_prompts("default").fingerprint


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pool.yaml", "- a\n- b\n", r"pool\.yaml: found a list, expected a mapping"),
        ("pool.yaml", "a: [1", r"pool\.yaml: not YAML"),
        ("pool.yaml", "a: 3", r"instruction 'a' is not a text"),
        ("solve.jinja", "{% if %}", r"solve\.jinja:1: "),
    ],
)
def test_a_broken_file_is_named(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(InputError, match=message):
        load_prompts(str(tmp_path))


def test_missing_prompts_and_instruction_files_are_named():
    with pytest.raises(InputError, match="neither default, miniature nor a folder"):
        load_prompts("nowhere")
    with pytest.raises(InputError, match="no such file"):
        load_prompts("default", instruction_file="nowhere.yaml")


POOL = [f"k{i}" for i in range(5)]


def choose(requested, n, problem_id="p", seed=0):
    return choose_instructions(POOL, requested, n_reflections=n, problem_id=problem_id, seed=seed)


def test_instructions_are_deterministic_and_distinct_while_the_pool_lasts():
    for requested in (["random"], ["all"], POOL):
        assert choose(requested, 5) == choose(requested, 5)
        assert sorted(choose(requested, 5)) == POOL
        assert len(choose(requested, 7)) == 7
    assert choose(["k3"], 2) == ["k3", "k3"]
    assert set(choose(["k1", "k2"], 2)) == {"k1", "k2"}
    assert len({tuple(choose(["random"], 3, f"p{i}")) for i in range(50)}) > 20
    assert choose(["random"], 3, seed=1) != choose(["random"], 3, seed=2)


def test_all_uses_each_instruction_about_equally_often():
    used = [key for i in range(2000) for key in choose(["all"], 2, f"p{i}")]
    assert all(700 < used.count(key) < 900 for key in POOL)


def test_an_unknown_instruction_is_refused():
    with pytest.raises(InputError, match="--instruction 9-9-9: not in the pool"):
        choose(["k1", "9-9-9"], 2)
