r"""What models write, and what is read from it."""

import pytest

from reflectevo_data.parsing.trial import has_action, parse_trial
from reflectevo_data.schema import Problem


CHOICE = Problem(
    id="c", question="Does it follow?\nOptions:\nA. entailment\nB. no-entailment", answer="b", answer_type="choice"
)
FOUR = Problem(
    id="f",
    question="Who?",
    answer="c",
    answer_type="choice",
    options=("A dog", "No one", "None of the above", "Ann [the cook]"),
)
TWINS = Problem(id="t", question="Which?", answer="a", answer_type="choice", options=("red", "red.", "blue"))
MATH = Problem(id="m", question="How many?", answer="34", answer_type="math")
TEXT = Problem(id="x", question="Where?", answer="Vik", answer_type="text")
CODE = Problem(
    id="p", question="Add.", answer="", answer_type="code", test_list=("assert add(1, 2) == 3", "assert len('a') == 1")
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Thought: so.\nAction: Finish[B]", "B"),
        ("Thought: so.\nAction: \nFinish[B] \n\n", "B"),
        ("Thought: so.\nAction:\n\nFinish[b]", "B"),
        ("Thought: so.\n**Action:** Finish[B]", "B"),
        ("Action: **Finish[B]**", "B"),
        ("Action: `Finish[B]`", "B"),
        ("Action 1: Finish[B]", "B"),
        ("ACTION: FINISH[B]", "B"),
        ("Action: finish [ B ]", "B"),
        ("Action: Finish[[B]]", "B"),
        ("Action: Finish\\[B\\]", "B"),
        ("Action: Finish[(B)]", "B"),
        ("Action: Finish[B.]", "B"),
        ("Action: Finish[b)]", "B"),
        ("Action: Finish[**B**]", "B"),
        ('Action: Finish["B"]', "B"),
        ("Action: Fin\x00ish[B]", "B"),
        ("Action: Finish[Option B]", "B"),
        ("Action: Finish[answer: b]", "B"),
        ("Action: Finish[$\\text{B}$]", "B"),
        ("Action: Finish[\\boxed{B}]", "B"),
        ("Action: Finish[B. no-entailment]", "B"),
        ("Action: Finish[B) No-Entailment.]", "B"),
        ("Action: Finish[B - no-entailment]", "B"),
        ("Action: Finish[B (no-entailment)]", "B"),
        ("Action: Finish[B (entailment)]", None),
        ("Action: Finish[B\nsince the cousin may be adopted]", "B"),
        ("Action: Finish[B: because the cousin may be adopted]", "B"),
        ("Action: Finish[no-entailment]", "B"),
        ("Action: Finish[ No-entailment. ]", "B"),
        ("Action: Finish[entailment]", "A"),
        ("Action: Finish<<<B>>>", "B"),
        ("Action: Finish(B)", "B"),
        ("Action: Finish: B", "B"),
        ("Action: Finish B", "B"),
        ("Action: B", "B"),
        ("Action: [B]", "B"),
        ("Action: (b)", "B"),
        ("Action: B. no-entailment", "B"),
        ("Action: Thought: first I doubt it. Then I see it. Finish[B]", "B"),
        ("It does not follow. Finish[B]", "B"),
        # several actions: the last one, but never one from a sentence behind it or a hallucinated turn
        ("Action: Finish[A]\nWait.\nAction: Finish[B]", "B"),
        ("Action: Finish[B]\nI did not write Finish[A] since it is wrong.", "B"),
        ("Action: Finish[B]\nObservation: Answer is INCORRECT\nThought: hm\nAction: Finish[A]", "B"),
        ("Action: Finish[B]\n**Observation:** no\nAction: Finish[A]", "B"),
        ("Action: Finish[B]\n\nQuestion: Next?\nThought: …\nAction: Finish[A]", "B"),
        ("Action: Finish[B]\n\nExample 3\nQuestion: Next?\nAction: Finish[A]", "B"),
        ("Action: Finish[B]\n\nExample 3\nAction: Finish[A]", "B"),
        ("Thought: I see.\nObservation: cousins share blood.\nAction: Finish[B]", "B"),
        ("Action: Finish[A]\nWait.\nFinish[B]", "B"),
        ("Action: A\nNo.\nAction: B", "B"),
        # text after the answer, brackets missing
        ("Action: Finish[B] because the mother is not a blood relative [of Mary].", "B"),
        ("Action: Finish[B", "B"),
        ("Action: Finish[B. no-entail", "B"),
        ("Action: Finish[B\nThat is all.", "B"),
        ("Action: Finish[\nB\n]", "B"),
        # the prompt's template is no answer, and does not hide one
        ("Action: Finish[<answer>]", None),
        ("Action: Finish[answer]", None),
        ("Action: Finish[your answer]", None),
        ("Action: Finish[X]", None),
        ("Action: Finish[...]", None),
        ("Action: Finish[]", None),
        ("Action: Finish[letter]", None),
        ("Action: Finish[the letter of the correct option]", None),
        ("Action: Finish[A, B]", None),
        ("Action: Finish[A/B]", None),
        ("Action: Finish[B]\nThat is the form Action: Finish[<answer>].", "B"),
        ("I have to write Finish[<answer>]. So:\nAction: Finish[B]", "B"),
        # not parsed rather than guessed
        ("Action: Finish[B. entailment]", None),
        ("Action: Search[cousin]", None),
        ("Action: Lookup[B]", None),
        ("Action: Compare the sentences.", None),
        ("I would say B.", None),
        ("Both B and A are possible", None),
        ("Finish the thought with B.", None),
        ("I will finish (B)", None),
        ("Finishing[B]", None),
        ("", None),
        ("<think>Action: Finish[B]", None),
        ("I see no <think> here.\nAction: Finish[B]", "B"),
        ("<think>Action: Finish[A]</think>\nAction: Finish[B]", "B"),
        # said in so many words in the last line
        ("It does not follow.\nThe answer is (B).", "B"),
        ("So the correct answer is **B**.", "B"),
        ("**Answer:** B", "B"),
        ("\\boxed{B}", "B"),
        ("The answer is B. no-entailment.", "B"),
        ("The answer is no-entailment", "B"),
        ("The answer is B. On second thoughts, it may not be.", None),
        ("The answer is B, unless the cousin is adopted.", None),
        # an answer, though no option
        ("Action: Finish[None of the above]", "None of the above"),
        ("Action: Finish[D]", "D"),
        ("Action: Finish[neither]", "neither"),
    ],
)  # fmt: skip
def test_choice(text, answer):
    assert parse_trial(text, CHOICE).answer == answer


@pytest.mark.parametrize(
    ("content", "answer"),
    [
        ("A dog", "A"),
        ("a DOG", "A"),
        ("A", "A"),
        ("A.", "A"),
        ("A cat", "A cat"),  # an article, not an option
        ("No one", "B"),
        ("None of the above", "C"),
        ("C. None of the above", "C"),
        ("Ann [the cook]", "D"),
        ("D. Ann [the cook]", "D"),
        ("C and D", "C and D"),
        ("B, C", "B, C"),
        ("E", "E"),
    ],
)
def test_choice_with_options_of_its_own(content, answer):
    assert parse_trial(f"Action: Finish[{content}]", FOUR).answer == answer


def test_x_is_an_option_where_there_are_as_many():
    many = Problem(id="x", question="Which?", answer="x", answer_type="choice", options=tuple(map(str, range(24))))
    assert parse_trial("Action: Finish[X]", many).answer == "X"


def test_the_text_of_two_options_is_not_parsed():
    assert parse_trial("Action: Finish[red]", TWINS).answer is None
    assert parse_trial("Action: Finish[B. red]", TWINS).answer == "B"
    assert parse_trial("Action: Finish[blue]", TWINS).answer == "C"


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which?\nA.one\nB.two", "B"),
        ("Which?\n(A) one\n(B) two", "B"),
        ("Which?\n A) one\n B) two", "B"),
        ("Which? (A) one (B) two (C) three", "B"),
        ("A. B. Smith wrote it.\nWhich?\nA. one\nB. two", "B"),
        ("Read:\nA. two\nB. one\nWhich?\nA. one\nB. two", "B"),  # the last list is asked about
        ("Which?\nA. one\nC. two\nB. three\nD. four", "C"),  # two columns, as LogiQA has them
        ("Which?", "two"),
        ("Read:\nC. two\nB. ten\nWhich?\nA. one\nB. six", "two"),
        ("Is it (A) two?", "two"),  # one letter is no list
        ("Which?\nA. two", "two"),
        ("Is it (A) two, (B) six?", "A"),
    ],
)
def test_options_in_the_question(question, answer):
    problem = Problem(id="q", question=question, answer="a", answer_type="choice")
    assert parse_trial("Action: Finish[two]", problem).answer == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"Action: Finish<<<\frac34>>>", r"\frac34"),
        (r"Action: Finish<<< $\frac34$ >>>", r"\frac34"),
        (r"Action: Finish<<<\boxed{\frac{3}{4}}>>>", r"\frac{3}{4}"),
        ("Action:\nFinish<<<34>>> Done.", "34"),
        ("Action: Finish<<<x > 5>>>", "x > 5"),
        ("Action: Finish<<<34>>", "34"),
        ("Action: Finish<<34>>", "34"),
        ("Action: Finish<34>", "34"),
        ("Action: Finish<<<34", "34"),
        ("Action: Finish<<<34\nObservation: …", "34"),
        ("Action: Finish[34]", "34"),
        ("Action: Finish[[0,1)]", "[0,1)"),
        ("Action: Finish(0,1)", "(0,1)"),
        (f"The answer is {'1+' * 250}1", None),
        (f"The answer is {'1+' * 150}1", "1+" * 150 + "1"),
        ("Action: Finish[(0,1]]", "(0,1]"),
        ("Action: Finish<<<\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}>>>", "\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}"),
        (r"So it is \boxed{34}.", "34"),
        (r"First \boxed{12}, then $\boxed{\frac{3}{4}}$.", r"\frac{3}{4}"),
        (r"So $x$ is \boxed{1} or \boxed{-3}.", "1, -3"),
        (r"\boxed 34", "34"),
        (r"It is \boxed{\frac{1}{2}", r"\frac{1}{2}"),
        (r"\boxed{12}" + "\nAction: Finish<<<34>>>", "34"),
        ("Action: $34$", "34"),
        ("Action: 1,000", "1,000"),
        ("The final answer is $34$.", "34"),
        ("Action: Finish<<<X>>>", None),
        ("Action: Finish<<<answer>>>", None),
        ("Action: Finish<<<your answer>>>", None),
        ("Action: Finish<<<expression>>>", None),
        ("Action: Finish<<<>>>", None),
        ("Action: Finish<<<x>>>", "x"),
        ("Action: think again", None),
        ("so 34", None),
    ],
)
def test_math(text, answer):
    assert parse_trial(text, MATH).answer == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Action: Finish[Vik]", "Vik"),
        ("Action: Finish[the town (Vik)]", "the town (Vik)"),
        ("Action: Finish[a [very] long way]", "a [very] long way"),
        ("Action: Finish[Vik] and [not] Sund", "Vik"),
        ("Action: Finish[New\nYork]", "New York"),
        (f"Action: Finish[{'so ' * 2000}long]", "so " * 2000 + "long"),
        ("Action: Finish[New York", "New York"),
        ('Action: Finish["Vik"]', "Vik"),
        ("Action: Finish<<<Vik>>>", "Vik"),
        ("Action: [Vik]", "Vik"),
        ("Answer: Vik", "Vik"),
        ("The answer is that it does not stop", None),
        ("Action: Finish[a letter]", "a letter"),
        ("Action: Finish[<answer>]", None),
        ("Action: go on", None),
        ("Vik", None),
    ],
)
def test_text(text, answer):
    assert parse_trial(text, TEXT).answer == answer


ADD = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    "text",
    [
        f"Thought: sum.\nAction: [BEGIN]\n{ADD}\n[END]",
        f"Action: [BEGIN]{ADD}[END] It adds.",
        f"Action: [BEGIN]\r\n{ADD}\r\n[END]".replace("\n    ", "\r\n    "),
        f"Action: [begin]\n{ADD}\n[/end]",
        f"[BEGIN]\n{ADD}\n[DONE]",
        f"Action: [BEGIN]\n```python\n{ADD}\n```\n[END]",
        f"Action: [BEGIN]\nHere it is:\n```python\n{ADD}\n```\nIt adds.\n[END]",
        f"Action: [BEGIN]\n```python\n{ADD}\n",
        f"Action: [BEGIN]\n{ADD}",
        f"Action: [BEGIN]\n{ADD}\nObservation: passed\nAction: [BEGIN]\ndef add(): pass\n[END]",
        f"Action:\n```python\n{ADD}\n```",
        f"Action:\n```\n{ADD}\n```\nFor example:\n```python\nprint(add(1, 2))\n```\nprints\n```\n3\n```",
        f"Action:\n~~~py\n{ADD}\n~~~",
        f"First try:\n```python\ndef add(a, b):\n    return a\n```\nBetter:\n```python\n{ADD}\n```",
        f"```python\n{ADD}\n```\nand a helper\n```python\ndef helper():\n    return 1\n```",
        f"```bash\npip install x\n```\n```python\n{ADD}\n```",
        f"Action:\n{ADD}\n\nThis adds the two.",
        f"Action:\n{ADD}\nObservation: passed\nAction: once more",
        f"```python\n{ADD}\n[END]\n```",
        f"[BEGIN]\n{ADD}\n[BEGIN]\ndef helper():\n    return 1\n[END]",
        f"```python\nimport math\n```python\n{ADD}\n```",
        f"```python\n{ADD}\n```\nand a helper\n```python\ndef size(items):\n    return len(items)\n```",
        f"Action: [BEGIN]\nX\n[END]\nthat is:\nAction: [BEGIN]\n{ADD}\n[END]",
        f"I write it between [BEGIN] and [END].\nAction: [BEGIN]\n{ADD}\n[END]",
        "Action: [BEGIN]\n" + "\n".join("    " + line for line in ADD.split("\n")) + "\n[END]",
    ],
)
def test_code(text):
    assert parse_trial(text, CODE).answer == ADD


def test_a_block_that_defines_something_comes_before_one_that_only_runs():
    defines, runs = "def plus(a, b):\n    return a + b", "print(1)"
    assert parse_trial(f"```python\n{defines}\n```\nso\n```python\n{runs}\n```", CODE).answer == defines
    assert parse_trial(f"```python\nprint(0)\n```\nso\n```python\n{runs}\n```", CODE).answer == runs


def test_code_keeps_what_belongs_to_the_program():
    program = f"from re import sub\n\nFENCE = '```'  # [1]\n\n\n@cache\n{ADD}\n\n\nassert add(1, 2) == 3"
    assert parse_trial(f"Action: [BEGIN]\n{program}\n[END]", CODE).answer == program
    assert parse_trial(f"```python\n{program}\n```", CODE).answer == program
    assert parse_trial(f"Action:\n{program}\nThat is it.", CODE).answer == program


@pytest.mark.parametrize(
    "text", ["", "Thought: hm", "Action: [BEGIN]\nX\n[END]", "Action: [BEGIN]\n<your code>\n[END]", "Action: [BEGIN]"]
)
def test_no_code(text):
    assert parse_trial(text, CODE).answer is None


@pytest.mark.parametrize(
    ("problem", "text", "reasoning"),
    [
        (CHOICE, "\n\nThought: so.\nAction: Finish[B] \n\nObservation: Answer is CORRECT", "Thought: so.\nAction: Finish[B]"),
        (CHOICE, "Thought: so.\nAction: Finish[B] as asked [A]", "Thought: so.\nAction: Finish[B]"),
        (CHOICE, "Thought: so.\nAction: Finish[B", "Thought: so.\nAction: Finish[B"),
        (CHOICE, "Thought: so.\nAction: Search[it]\nObservation: it is", "Thought: so.\nAction: Search[it]"),
        (CHOICE, "<think>\nhm\n</think>\n\nThought: so.\nAction: Finish[B]", "Thought: so.\nAction: Finish[B]"),
        (CHOICE, " Thought: I do not know ", "Thought: I do not know"),
        (MATH, "Thought: so.\nAction: Finish<<<3>>>.\n\nQuestion: 4?", "Thought: so.\nAction: Finish<<<3>>>"),
        (MATH, r"So \boxed{3}. Good.", r"So \boxed{3}"),
        (CODE, f"Action: [BEGIN]\n{ADD}\n[END]\nIt adds.", f"Action: [BEGIN]\n{ADD}\n[END]"),
        (CODE, f"Action:\n```\n{ADD}\n```\nIt adds.", f"Action:\n```\n{ADD}\n```"),
        (CODE, f"Action:\n{ADD}\n\n\nIt adds.", f"Action:\n{ADD}"),
    ],
)  # fmt: skip
def test_reasoning_ends_with_the_answer(problem, text, reasoning):
    assert parse_trial(text, problem).reasoning == reasoning


@pytest.mark.parametrize(
    ("text", "answer_type", "acts"),
    [
        ("Thought: B", "choice", False),
        ("Thought: B\nThe answer is B.", "choice", False),
        ("Thought: B\nAction:", "choice", True),
        ("Finish[B]", "choice", True),
        ("Finish it", "choice", False),
        ("I take action", "choice", False),
        (r"\boxed{3}", "math", True),
        (r"\boxed{3}", "text", False),
        ("```python\ndef f(): pass\n```", "code", True),
        ("[BEGIN]\nx", "code", True),
        ("```\nadd, then carry\n```", "code", False),
        ("", "code", False),
        (None, "text", False),
        ("<think>Action: Finish[B]", "choice", False),
    ],
)
def test_has_action(text, answer_type, acts):
    assert has_action(text, answer_type) is acts
