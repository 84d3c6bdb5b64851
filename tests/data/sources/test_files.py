"""A file of one's own as a source: what is recognised, and what is refused with its place."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.parsing.options import options_in
from reflectevo_data.schema import Problem
from reflectevo_data.sources.files import last_boxed
from reflectevo_data.sources.load import load_problems
from tests.reference import REFERENCE, needs_reference


def write(folder: Path, *rows: object, name: str = "my.jsonl") -> str:
    path = folder / name
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return str(path)


def load_one(folder: Path, row: object) -> Problem:
    (problem,) = load_problems(write(folder, row))
    return problem


@pytest.mark.parametrize(
    ("row", "answer_type", "answer", "options"),
    [
        ({"question": "Capital of Peru?", "answer": "Lima"}, "text", "Lima", ()),
        ({"question": "2+2?", "answer": "4"}, "math", "4", ()),
        ({"question": "2+2?", "answer": 4}, "math", "4", ()),
        ({"question": "Half?", "answer": "1/2"}, "math", "1/2", ()),
        ({"question": "How much?", "answer": "$1,250.50"}, "math", "$1,250.50", ()),
        ({"question": "Half?", "answer": r"\frac{1}{2}"}, "math", r"\frac{1}{2}", ()),
        ({"question": "Which power?", "answer": "x^2"}, "math", "x^2", ()),
        ({"question": "When?", "answer": "April 2008"}, "text", "April 2008", ()),
        ({"question": "Where?", "answer": r"in C:\data"}, "text", r"in C:\data", ()),
        ({"question": "Cost?", "answer": "$5 then $6"}, "text", "$5 then $6", ()),
        ({"question": "Which letter follows A?", "answer": "b"}, "text", "b", ()),
        ({"question": "Sky?\nA. red\nB. blue", "answer": "b"}, "choice", "b", ("red", "blue")),
        ({"question": "Sky?\nA.red\nB.blue", "answer": "B"}, "choice", "B", ("red", "blue")),
        ({"question": "Sky?\n(A) red\n(B) blue", "answer": "(B)"}, "choice", "B", ("red", "blue")),
        ({"question": "Sky?\nA. red\nB. blue", "answer": "blue"}, "text", "blue", ()),
        ({"question": "Sky?", "options": ["red", "blue"], "answer": "B"}, "choice", "B", ("red", "blue")),
        ({"question": "Sky?", "options": ["red", "blue"], "answer": "blue"}, "choice", "B", ("red", "blue")),
        ({"question": "Sky?", "options": ["A. red", "B. blue"], "answer": "a"}, "choice", "a", ("red", "blue")),
        ({"question": "Sky?", "options": {"A": "red", "B": "blue"}, "answer": "a"}, "choice", "a", ("red", "blue")),
        ({"question": "2+2?", "options": [3, 4], "answer": 4}, "choice", "B", ("3", "4")),
        ({"question": "2+2?", "answer": "4", "answer_type": "text"}, "text", "4", ()),
        ({"problem": "1+1?", "solution": r"It is $\boxed{2}$."}, "math", "2", ()),
        ({"question": "Who?", "answers": ["Ann", "Anne"]}, "text", "Ann", ()),
    ],
)
def test_a_row_of_ones_own(tmp_path, row, answer_type, answer, options):
    problem = load_one(tmp_path, row)
    assert (problem.answer_type, problem.answer, problem.options) == (answer_type, answer, options)
    assert problem.source == "my"
    assert problem.id.startswith("my/")


def test_every_field_of_a_row_is_kept(tmp_path):
    row = {
        "id": "own-1",
        "question": "Write f.",
        "answer": "def f(): return 1",
        "test_list": ["assert f() == 1"],
        "test_setup_code": "import math",
        "answers": ["def f(): return 2 - 1"],
        "task": "coding",
        "source": "exam",
        "license": "mit",
        "group": "week 1",
    }
    assert load_one(tmp_path, row) == Problem(
        id="own-1",
        question="Write f.",
        answer="def f(): return 1",
        answer_type="code",
        test_list=("assert f() == 1",),
        test_setup_code="import math",
        answers=("def f(): return 2 - 1",),
        task="coding",
        source="exam",
        license="mit",
        group="week 1",
    )


def test_mbpp_rows_are_recognised(tmp_path):
    row = {"text": "Write f.", "code": "def f(): return 1", "task_id": 11, "test_list": ["assert f() == 1"]}
    problem = load_one(tmp_path, row)
    assert (problem.id, problem.question, problem.answer) == ("my/11", "Write f.", "def f(): return 1")
    assert (problem.answer_type, problem.test_list) == ("code", ("assert f() == 1",))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[1]", "found list [1], expected a JSON object"),
        ('"text"', "found str 'text', expected a JSON object"),
        ('{"question": "a", "answer": "b"', "found no JSON"),
        ('{"question": "a"}', "found no `answer`, expected the gold answer as a text"),
        ('{"question": "a", "answer": ""}', "found an empty `answer`"),
        ('{"question": "a", "answer": null}', "found no `answer`"),
        ('{"question": "a", "answer": {"x": 1}}', "found answer dict"),
        ('{"question": "a", "answer": true}', "found answer bool True, expected a text"),
        ('{"question": " ", "answer": "b"}', "found question str ' ', expected a text"),
        ('{"question": 7, "answer": "b"}', "found question int 7, expected a text"),
        ('{"prompt": "a", "answer": "b"}', "found prompt, answer, expected `question` and `answer`"),
        ('{"question": "a", "answer": "C", "options": ["x", "y"]}', "found answer 'C', expected a letter from A to B"),
        ('{"question": "a", "answer": "z", "options": ["x", "y"]}', "or one option's text"),
        ('{"question": "a", "answer": "x", "options": ["x"]}', "found 1 options, expected 2 to 26"),
        ('{"question": "a", "answer": "x", "options": "x"}', "found options str 'x', expected a list of texts"),
        (
            '{"question": "a", "answer": "x", "answer_type": "essay"}',
            "found answer_type 'essay', expected choice, math",
        ),
        ('{"question": "a", "answer": "x", "answer_type": "code"}', "without tests, expected `test_list`"),
        (
            '{"question": "a", "answer": "x", "test_list": "assert 1"}',
            "found test_list str 'assert 1', expected a list",
        ),
        ('{"question": "a", "answer": "x", "id": 1.5}', "found id float 1.5, expected a text or a whole number"),
        ('{"question": "a", "answer": "x", "id": "a\\nb"}', "expected printable characters"),
        ('{"question": "a\\ud83d", "answer": "x"}', "found a lone surrogate at character 2 of question"),
        ('{"problem": "a", "solution": "it is 4"}', "found no \\boxed{…} in `solution`"),
    ],
)
def test_a_bad_line_is_refused_with_its_place(tmp_path, line, reason):
    path = write(tmp_path, {"question": "fine", "answer": "yes"}, "", line)
    with pytest.raises(InputError) as refused:
        load_problems(path)
    assert str(refused.value).startswith(f"{path}:3: found")
    assert reason in str(refused.value)
    assert str(refused.value).endswith(". Correct the line.")
    assert "\n" not in str(refused.value)


def test_the_first_bad_lines_are_shown_and_all_are_counted(tmp_path):
    path = write(tmp_path, *({"question": f"q{i}"} for i in range(9)))
    with pytest.raises(InputError) as refused:
        load_problems(path)
    lines = str(refused.value).splitlines()
    assert [line.split(":")[1] for line in lines[:5]] == ["1", "2", "3", "4", "5"]
    assert lines[5:] == ["and 4 more bad lines", "Correct the lines (9 in all)."]


def test_an_id_or_a_question_that_comes_twice_is_refused(tmp_path):
    row = {"question": "a", "answer": "b"}
    with pytest.raises(InputError, match=r"my\.jsonl:2: found the same question and answer of line 1 again"):
        load_problems(write(tmp_path, row, row))
    with pytest.raises(InputError, match=r"my\.jsonl:2: found the id 'my/7' of line 1 again"):
        load_problems(write(tmp_path, row | {"id": 7}, {"question": "c", "answer": "d", "id": "7"}))


def test_ids_depend_on_the_content_alone(tmp_path):
    rows = [{"question": f"q{i}", "answer": "b"} for i in range(3)]
    first = {p.question: p.id for p in load_problems(write(tmp_path, *rows))}
    assert {p.question: p.id for p in load_problems(write(tmp_path, *reversed(rows)))} == first
    assert len(set(first.values())) == 3


@pytest.mark.parametrize("content", ["", "\n \n", "[]"])
def test_a_file_without_problems_is_refused(tmp_path, content):
    with pytest.raises(InputError, match=r"my\.jsonl: found no problems, expected a JSON object"):
        load_problems(write(tmp_path, content))


def test_other_formats(tmp_path):
    rows = [
        {"question": "a", "answer": "4", "options": None},
        {"question": "b", "answer": "y", "options": ["x", "y"]},
    ]
    (tmp_path / "array.json").write_text(json.dumps(rows), "utf-8")
    (tmp_path / "pretty.json").write_text("\n".join(json.dumps(row, indent=2) for row in rows), "utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    (tmp_path / "sheet.csv").write_text('question,answer,options\na,4,\nb,y,"[""x"", ""y""]"\n', "utf-8")
    for name in ("array.json", "pretty.json", "table.parquet", "sheet.csv"):
        problems = load_problems(str(tmp_path / name))
        assert [(p.question, p.answer, p.options) for p in problems] == [("a", "4", ()), ("b", "B", ("x", "y"))], name


def test_a_limit_takes_the_first_rows_and_looks_at_no_others(tmp_path):
    path = write(tmp_path, {"question": "a", "answer": "b"}, {"question": "c", "answer": "d"}, "broken")
    assert [p.question for p in load_problems(path, limit=2)] == ["a", "c"]
    with pytest.raises(InputError, match=":3: found"):
        load_problems(path, limit=3)
    with pytest.raises(InputError, match="--limit 0"):
        load_problems(path, limit=0)


@pytest.mark.parametrize(
    ("question", "options"),
    [
        ("Which?\nA. x\nB. y", ("x", "y")),
        ("Which?\nA. x\nC. z\nB. y", ("x", "y", "z")),
        ("A. Smith asks: which?\nA. x\nB. y", ("x", "y")),
        ("Which?\nA. x\nC. z", ()),
        ("Which?\nB. x\nC. z", ()),
        ("Which?\nA. x", ()),
        ("No options", ()),
    ],
)
def test_options_in_a_question(question, options):
    assert options_in(question) == options


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\boxed 4$", "4"),
        (r"\fbox{3}", "3"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{unclosed", None),
        ("none", None),
    ],
)
def test_last_boxed(solution, gold):
    assert last_boxed(solution) == gold


@needs_reference
@pytest.mark.parametrize(
    ("name", "types"),
    [
        ("logiqa", {("choice", 4): 150}),
        ("math", {("math", 0): 150}),
        ("mbpp", {("code", 0): 150}),
        ("bigbench", {("choice", 3): 96, ("choice", 2): 5, ("text", 0): 49}),
    ],
)
def test_the_usual_test_files_load(name, types):
    problems = load_problems(str(REFERENCE / f"{name}_sample.jsonl"))
    found: dict[tuple[str, int], int] = {}
    for problem in problems:
        key = (problem.answer_type, len(problem.options))
        found[key] = found.get(key, 0) + 1
    assert found == types
    assert len({p.id for p in problems}) == 150
    assert all(len(p.test_list) == 3 for p in problems if p.answer_type == "code")
    assert all(p.answer in "abcd" for p in problems if p.answer_type == "choice")
