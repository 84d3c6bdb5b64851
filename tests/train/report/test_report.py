"""The comparison of evaluations: its numbers, its Markdown, and its page in a real browser."""

import json
import re
from contextlib import asynccontextmanager

import pytest

from reflectevo_data.completers import engine
from reflectevo_data.completers.scripted import ScriptedCompleter
from reflectevo_data.errors import InputError
from reflectevo_train.cli import main
from reflectevo_train.evaluation.evaluate import load_evaluation, print_scores
from reflectevo_train.hub.card import model_card
from reflectevo_train.report.error_types import ERROR_TYPES
from reflectevo_train.report.plots import learning_curves
from reflectevo_train.report.reader import examples_data, outcomes
from reflectevo_train.report.report import html, make_report, markdown
from reflectevo_train.report.runs import load_runs
from tests.browser import chromium, console, requests, screenshot, skip_without_chromium, wait_for_examples
from tests.train.evaluations import HOSTILE, make_evaluation, unpack_examples


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluations")
    make_evaluation(folder / "base", seed=1)
    make_evaluation(folder / "sft", seed=2, corrects=0.8)
    make_evaluation(folder / "gated", seed=3, gate="oracle")
    return folder


@pytest.fixture(scope="module")
def runs(folders):
    return load_runs([str(folders / "base"), f"trained={folders / 'sft'}", str(folders / "gated")])


def cells(markdown_row: str) -> list[str]:
    return [cell.strip() for cell in markdown_row.strip().strip("|").split("|")]


def test_the_results_table_has_the_counts_of_the_rows(runs):
    lines = markdown(make_report(runs)).splitlines()
    for run in runs:
        row = cells(next(line for line in lines if line.startswith(f"| {run.name} ")))
        firsts = [r["output"][0]["is_correct"] for r in run.rows]
        lasts = [r["output"][-1]["is_correct"] for r in run.rows]
        assert row[1] == "60"
        assert row[2].startswith(f"{100 * sum(firsts) / 60:.1f} % [")
        gated = sum(first or last for first, last in zip(firsts, lasts, strict=True))
        assert row[3].startswith(f"{100 * gated / 60:.1f} % [")
        assert row[5] == "–" if run.name == "gated" else row[5].startswith(f"{100 * sum(lasts) / 60:.1f} % [")
        assert row[7] == str([*zip(firsts, lasts, strict=True)].count((False, True)))


def test_the_paper_form_has_a_triple_of_columns_for_each_task(runs):
    table = make_report(runs).by_task
    assert table is not None
    assert [title for title, width in table.groups if width == 3] == ["Coding", "Logical Reasoning", "Mathematics"]
    base = runs[0]
    mine = [r for r in base.rows if r["task"] == "Mathematics"]
    first = sum(r["output"][0]["is_correct"] for r in mine)
    either = sum(any(o["is_correct"] for o in r["output"]) for r in mine)
    assert table.rows[0][7:10] == [
        f"{100 * first / 20:.1f}",
        f"{100 * either / 20:.1f}",
        f"{100 * (either - first) / 20:+.1f}",
    ]


def test_every_run_is_tested_against_the_first_where_both_have_the_number(runs):
    table = make_report(runs).tests
    assert table is not None
    assert [row[:2] for row in table.rows] == [
        ("trained − base", "Acc@t1"),
        ("trained − base", "Acc@t2"),
        ("trained − base", "Acc@t2 ungated"),
        ("gated − base", "Acc@t1"),
        ("gated − base", "Acc@t2"),
        ("base", "Acc@t2 ungated − Acc@t1"),
        ("trained", "Acc@t2 ungated − Acc@t1"),
    ]
    base, trained = ({r["id"]: r["output"][-1]["is_correct"] for r in run.rows} for run in runs[:2])
    gained = sum(trained[id] and not base[id] for id in base)
    lost = sum(base[id] and not trained[id] for id in base)
    assert table.rows[2][4:6] == (str(gained), str(lost))
    assert table.rows[2][3].startswith(f"{100 * (gained - lost) / 60:+.1f}".replace("-", "−"))


def test_what_differs_beside_the_models_is_said(runs, folders):
    assert "The runs differ in more than their models: gate, seed." in markdown(make_report(runs))
    assert "The runs differ" not in markdown(make_report(runs[:1]))


def test_what_a_model_gates_itself_is_not_called_ungated(folders, tmp_path, capsys):
    make_evaluation(tmp_path / "own", seed=4, gate="self")
    note = "own: the model decides what it reflects on; what stands as ungated is self-gated."
    assert note in markdown(make_report(load_runs([str(folders / "base"), str(tmp_path / "own")])))
    assert note not in markdown(make_report(load_runs([str(folders / "base")])))
    evaluation = load_evaluation(tmp_path / "own")
    print_scores("own", evaluation.scores)
    table = capsys.readouterr().out
    assert "self-gated" in table
    assert "ungated" not in table
    text, _ = model_card(tmp_path, "owner/reflector", {"own": evaluation})
    assert "name: Acc@t2, self-gated" in text
    assert "name: Δ(t1, t2), self-gated" in text
    assert "ungated" not in text.split("---")[1]


def test_correction_is_counted_by_length_and_by_instruction(runs):
    report = make_report(runs[:1])
    failed = [r for r in runs[0].rows if not r["output"][0]["is_correct"]]
    titles = [plot.title for plot in report.plots if plot.kind == "correction"]
    assert titles == [
        "base: corrected, by length of the reflection",
        "base: corrected, by way through the attempt",
        "base: corrected, by what is checked",
        "base: corrected, by level of the plan",
    ]
    for plot in (plot for plot in report.plots if plot.kind == "correction"):
        counts = [int(row.value.rsplit(" of ", 1)[1]) for row in plot.rows]
        assert sum(counts) == len(failed), plot.title
    [checked] = [plot for plot in report.plots if plot.title.endswith("what is checked")]
    calculation = [r["output"][1]["is_correct"] for r in failed if r["output"][1]["instruction"][2] == "1"]
    assert checked.rows[0].label == "1 calculation"
    assert checked.rows[0].value == f"{100 * sum(calculation) / len(calculation):.1f} % of {len(calculation)}"


def test_learning_curves_come_from_the_trainer_state(tmp_path):
    with pytest.raises(InputError, match=r"no trainer_state\.json"):
        learning_curves({"run": tmp_path})
    for step, last in ((9, 0.1), (10, 0.8)):
        state = {"log_history": [{"step": 0, "eval_acc_t2": 0.5}, {"step": step, "eval_acc_t2": last, "loss": 1.0}]}
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    [curve] = learning_curves({"run": tmp_path})
    assert [(s.name, s.start, s.end, s.points) for s in curve.series] == [
        ("eval_acc_t2", "0.500", "0.800", "0.00,100.00 100.00,0.00")
    ]
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(InputError, match="no trainer state that can be read"):
        learning_curves({"run": tmp_path})


def test_examples_are_the_same_problems_of_every_run(runs):
    data = examples_data([(run.name, run.rows) for run in runs], max_examples=30)
    assert len(data["problems"]) == 10
    assert len(data["examples"]) == 30
    for number in range(3):
        assert {e["problem"] for e in data["examples"] if e["run"] == number} == set(range(10))
    everything = examples_data([(run.name, run.rows) for run in runs], max_examples=5_000)
    assert len(everything["examples"]) == 180
    for example in everything["examples"]:
        row = next(r for r in runs[example["run"]].rows if r["id"] == everything["problems"][example["problem"]]["id"])
        assert example["outcomes"] == outcomes(row)
        assert [t["text"] for t in example["trials"]] == [o["reasoning"] for o in row["output"]]


@pytest.mark.parametrize(
    ("answers", "leaks", "expected"),
    [
        ("AA", False, ["right"]),
        ("AB", False, ["lost"]),
        ("BA", False, ["corrected"]),
        ("BB", False, ["wrong"]),
        ("BAB", False, ["wrong"]),
        ("B-", False, ["wrong", "unparsed"]),
        ("-A", True, ["corrected", "leaks"]),
        ("A", False, ["right", "not_reflected"]),
        ("-", False, ["wrong", "unparsed", "not_reflected"]),
    ],
)
def test_what_became_of_a_problem(answers, leaks, expected):
    output = [
        {
            "trial": number,
            "generated_answer": answer,
            "is_correct": answer == "A",
            "status": "unparsed" if answer == "-" else "correct" if answer == "A" else "incorrect",
            "leaks_answer": leaks and number > 1,
        }
        for number, answer in enumerate(answers, 1)
    ]
    assert outcomes({"answer_type": "choice", "output": output}) == expected


def test_bad_arguments_are_refused_in_one_line(folders, tmp_path, capsys):
    base = str(folders / "base")
    for arguments, message in (
        ([base, base], "there is a run named base already"),
        ([str(tmp_path)], "no report.json"),
        ([base, "--training", str(tmp_path)], "no trainer_state.json"),
    ):
        assert main(["report", *arguments, "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_error_types_are_labelled_once_and_tabled(folders, tmp_path, monkeypatch, capsys):
    make_evaluation(tmp_path / "run", seed=5)
    completer = ScriptedCompleter(
        lambda request: "No idea." if "Question 3:" in request.prompt else "It adds up wrongly.\nKind: calculation"
    )

    @asynccontextmanager
    async def open_completer(engine):
        yield completer

    monkeypatch.setattr(engine, "open_completer", open_completer)
    command = ["report", str(tmp_path / "run"), "--error-types", "labeller", "--output", str(tmp_path / "out")]
    assert main([*command, "--error-types-limit", "10"]) == 0
    assert len(completer.requests) == 10
    assert all(kind in completer.requests[0].prompt for kind in ERROR_TYPES)
    assert main(command) == 0
    rows = load_runs([str(tmp_path / "run")])[0].rows
    failed = [r for r in rows if not r["output"][0]["is_correct"]]
    assert len(completer.requests) == len(failed)
    text = (tmp_path / "out.md").read_text()
    readable = [r for r in failed if r["id"] != "q/00003"]
    row = next(cells(line) for line in text.splitlines() if line.startswith("| calculation "))
    assert row[1].startswith(f"{len(readable)} (")
    corrected = sum(r["output"][1]["is_correct"] for r in readable)
    assert row[2].startswith(f"{100 * corrected / len(readable):.1f} % [")


def test_the_page_escapes_what_models_write_and_asks_for_nothing(runs):
    page = html(make_report(runs, title="<b>A & B</b>"))
    assert "<title>&lt;b&gt;A &amp; B&lt;/b&gt;</title>" in page
    assert page.count("<script") == page.count("</script>") == 2
    assert unpack_examples(page).count(json.dumps(HOSTILE)[1:-1]) == 60  # as the model wrote it, and out of the markup
    assert "default-src 'none'" in page
    assert not re.findall(r"(?:src|href)=[\"'](?!#|data:,)", page)
    assert not re.findall(r"url\(|@import", page)


@pytest.fixture(scope="module")
def page(runs, folders, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    (folder / "training").mkdir()
    history = [{"step": s, "eval_acc_t1": 0.5, "eval_acc_t2": 0.5 + s / 40} for s in range(10)]
    (folder / "training" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    report = make_report(runs, training={"run": folder / "training"})
    (folder / "report.html").write_text(html(report), "utf-8")
    return folder / "report.html"


def test_the_page_in_a_browser(page, runs, tmp_path):
    skip_without_chromium()
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select, WebDriverWait

    with chromium() as browser:
        browser.get(page.as_uri())
        wait_for_examples(browser)

        def text(id: str) -> str:
            return browser.find_element(By.ID, id).text

        def choose(id: str, name: str) -> None:
            Select(browser.find_element(By.ID, id)).select_by_visible_text(name)

        body = browser.find_element(By.TAG_NAME, "body")
        assert browser.title == "ReflectEvo evaluation"  # what a model wrote did not run
        assert text("count") == "1 of 180"
        assert "</script><script>document.title" in text("example")

        body.send_keys("jjk")
        assert text("count") == "2 of 180"
        assert browser.current_url.endswith("#example-1")
        browser.find_element(By.ID, "next").click()
        assert text("count") == "3 of 180"
        listed = browser.find_element(By.ID, "list")
        listed.send_keys(Keys.END)
        assert text("count") == "180 of 180"
        listed.send_keys(Keys.HOME, Keys.ARROW_DOWN)
        assert text("count") == "2 of 180"

        choose("run", "trained")
        choose("task", "Mathematics")
        choose("outcome", "wrong → right")
        mine = [r for r in runs[1].rows if r["task"] == "Mathematics" and outcomes(r)[0] == "corrected"]
        assert text("count") == f"1 of {len(mine)}"
        assert "FIRST TRIAL" in text("example").upper()
        assert any(r["output"][1]["reflections"][0] in text("example") for r in mine)

        for id, name in (("run", "all runs"), ("task", "all tasks"), ("outcome", "all outcomes")):
            choose(id, name)
        body.send_keys("/")
        browser.switch_to.active_element.send_keys("question 17:")
        WebDriverWait(browser, 10).until(lambda _: text("count") == "1 of 3")
        browser.switch_to.active_element.send_keys("zzz")
        WebDriverWait(browser, 10).until(lambda _: text("count") == "none fits")
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        assert browser.switch_to.active_element.get_attribute("id") == "list"

        browser.get("about:blank")
        browser.get(f"{page.as_uri()}#example-5")
        wait_for_examples(browser)
        assert text("count") == "6 of 180"
        [other, *_] = browser.find_elements(By.CSS_SELECTOR, "#example button")
        other.click()
        assert text("count") != "6 of 180"

        assert console(browser) == []
        asked = [address for address in requests(browser) if not address.startswith(("about:", "data:"))]
        assert {address.split("#")[0] for address in asked} == {page.as_uri()}
        screenshot(browser, tmp_path / "wide.png")


@pytest.mark.parametrize("dark", [False, True])
def test_the_page_on_a_phone(page, dark):
    skip_without_chromium()
    from selenium.webdriver.common.by import By

    with chromium(width=390, height=844, dark=dark) as browser:
        browser.get(page.as_uri())
        wait_for_examples(browser)
        width, view = browser.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= view == 390
        first, second = browser.find_elements(By.CSS_SELECTOR, ".texts .text")[:2]
        assert first.rect["x"] == second.rect["x"]  # below each other, not side by side
        assert min(e.rect["height"] for e in browser.find_elements(By.CSS_SELECTOR, "#filters button")) >= 40
        color = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (color == "rgb(255, 255, 255)") != dark
        assert console(browser) == []
