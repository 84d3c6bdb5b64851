"""The code sandbox: right answers pass, wrong and hostile ones fail for their reason, nothing gets out."""

from __future__ import annotations

import ast
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from reflectevo_data.errors import InputError
from reflectevo_data.sandbox import asserts, values, walls, worker
from reflectevo_data.sandbox.code_sandbox import CodeResult, CodeSandbox
from reflectevo_data.schema import Problem
from tests.data.sandbox import hostile
from tests.reference import REFERENCE, ROOT


NOBODY = 65534
linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


def code_problem(*tests: str, setup: str = "", answer: str = "") -> Problem:
    return Problem("p", "", answer, "code", test_list=tests, test_setup_code=setup)


@pytest.fixture(scope="module")
def sandbox() -> Any:
    with CodeSandbox(workers=2) as box:
        yield box


def mbpp() -> list[tuple[str, Problem]]:
    path = REFERENCE / "mbpp_sample.jsonl"
    if not path.exists():
        pytest.skip(f"no {path}: set REFLECTEVO_REFERENCE")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (
            row["code"],
            Problem(
                f"mbpp/{row['task_id']}",
                row["text"],
                row["code"],
                "code",
                test_list=(*row["test_list"], *row["challenge_test_list"]),
                test_setup_code=row["test_setup_code"],
            ),
        )
        for row in rows
    ]


# What each tested function returned is changed to something of the same kind
CHANGE = """
def _changed(function):
    def wrong(*args, **kwargs):
        value = function(*args, **kwargs)
        if isinstance(value, bool) or value is None:
            return not value
        if isinstance(value, (int, float, complex)):
            return value + 1
        if isinstance(value, str):
            return value + "x"
        return [value, value]
    return wrong
"""


@linux
def test_mbpp_golds_pass_and_changed_ones_fail(sandbox: CodeSandbox) -> None:
    cases = mbpp()
    assert len(cases) == 150
    changed = []
    for code, problem in cases:
        tested = {ast.parse(call).body[0].value.func.id for call in asserts.plan(problem).calls}  # type: ignore
        changed.append(code + CHANGE + "\n".join(f"{name} = _changed({name})" for name in tested))
    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(sandbox.check, *zip(*cases, strict=True)))
        wrong = list(pool.map(sandbox.check, changed, [problem for _, problem in cases]))
    ids = [problem.id for _, problem in cases]
    assert [(i, result.reason) for i, result in zip(ids, right, strict=True) if not result.passed] == []
    assert [i for i, result in zip(ids, wrong, strict=True) if result.passed] == []
    assert {i for i, result in zip(ids, wrong, strict=True) if " returned " not in result.reason} == set()


@pytest.mark.parametrize(
    ("code", "test", "reason"),
    [
        ("def f(n): return n", "assert f(2) == 2", ""),
        ("def f(n): return 2.0", "assert f(2) == 2", ""),
        ("def f(n): return 1", "assert f(2) == True", ""),
        ("def f(n): return n", "assert 2 == f(2), 'a message'", ""),
        ("def f(n): return (n, [n])", "assert f(2) == (2, [2])", ""),
        ("def f(n): return [n, [n]]", "assert f(2) == (2, [2])", "f(2) returned [2, [2]]"),
        ("def f(n): return {1: {'a'}, 'b': frozenset()}", "assert f(2) == {'b': set(), 1: {'a'}}", ""),
        ("def f(n): return b'ab' + bytearray(b'c')", "assert f(2) == b'abc'", ""),
        ("def f(n): return 2j", "assert f(2) == 2j", ""),
        ("def f(n): return None", "assert f(2) == None", ""),
        ("def f(n): return None", "assert f(2) is None", ""),
        ("def f(n): return -0.0", "assert f(2) == 0", ""),
        ("def f(n): return float('inf')", "assert f(2) == float('inf')", ""),
        ("def f(n): return float('nan')", "assert f(2) == float('nan')", "f(2) returned nan"),
        ("def f(n): return 2 ** 20000", "assert f(2) == 2 ** 20000", ""),
        ("def f(n): return '\\ud800é\\n'", "assert f(2) == '\\ud800é\\n'", ""),
        ("def f(n): return 'é'", "assert f(2) != 'e'", ""),
        ("def f(n): return 'e'", "assert f(2) != 'e'", "f(2) returned 'e'"),
        ("from collections import *\ndef f(n): return Counter('aab')", "assert f(2) == {'a': 2, 'b': 1}", ""),
        ("from collections import *\ndef f(n): return OrderedDict(b=1, a=2)", "assert f(2) == {'a': 2, 'b': 1}", ""),
        ("from collections import *\ndef f(n): return namedtuple('P', 'x y')(1, 2)", "assert f(2) == (1, 2)", ""),
        (
            "from collections import *\ndef f(n):\n d = defaultdict(list)\n d[1]\n return d",
            "assert f(2) == {1: []}",
            "",
        ),
        ("from collections import *\ndef f(n): return deque([1])", "assert f(2) == [1]", "f(2) returned deque([1])"),
        ("from fractions import *\ndef f(n): return Fraction(1, n)", "assert f(2) == 0.5", ""),
        ("from decimal import *\ndef f(n): return Decimal('0.5')", "assert f(2) == 0.5", ""),
        ("import datetime as d\ndef f(n): return d.date(2020, 1, n)", "import datetime\nassert 1", "InputError"),
        ("from enum import *\nclass E(IntEnum):\n A = 2\ndef f(n): return E.A", "assert f(2) == 2", ""),
        ("def f(n): return {2: 1}.keys()", "assert f(2) == {2}", ""),
        ("def f(n): return {2: 1}.keys()", "assert list(f(2)) == [2]", ""),
        ("def f(n): return {2: 1}.values()", "assert list(f(2)) == [1]", ""),
        ("def f(n): return {2: 1}.items()", "assert dict(f(2)) == {2: 1}", ""),
        ("def f(n): return range(n)", "assert f(2) == range(0, 2)", ""),
        ("def f(n): return range(n)", "assert f(2) == [0, 1]", "f(2) returned range(0, 2)"),
        ("def f(n):\n yield from range(n)", "assert list(f(2)) == [0, 1]", ""),
        ("def f(n): return map(str, range(n))", "assert f(2) == ['0', '1']", "f(2) returned <iterator>"),
        ("def f(n): return [3, 1, 2]", "assert sorted(f(2)) == [1, 2, 3]", ""),
        ("def f(n): return [3, 1, 1]", "assert sorted(f(2)) == [1, 2, 3]", "f(2) returned [3, 1, 1]"),
        ("def f(n): return [3, 1, 3]", "assert set(f(2)) == {1, 3}", ""),
        ("def f(n): return 3.14159", "assert math.isclose(f(2), 3.1416, rel_tol=0.001)", ""),
        ("def f(n): return 3.14159", "assert math.isclose(f(2), 3.2, rel_tol=0.001)", "f(2) returned 3.14159"),
        ("def f(n): return 3.14159", "assert abs(f(2) - 3.1416) < 1e-3", ""),
        ("def f(n): return '3'", "assert abs(f(2) - 3.1416) < 1e-3", "f(2) returned '3'; judging it raised TypeError"),
        ("def f(n): return n", "assert 1 < f(2) <= 2", ""),
        ("def f(n): return n", "assert f(2) in (1, 2)", ""),
        ("def f(n): return n", "assert f(2) == f(3) - 1", ""),
        ("def f(n): return n", "assert f(2) == f(3)", "f(2) returned 2, f(3) returned 3"),
        ("def f(n): return n", "assert f(2)", ""),
        ("def f(n): return n", "assert not f(0)", ""),
        ("def f(n): return []", "assert f(2)", "f(2) returned []"),
        ("def f(n): return [0]", "assert not f(2)", "f(2) returned [0]"),
        ("import re\ndef f(n): return re.match('a', n)", "assert f('a')", ""),
        ("import re\ndef f(n): return re.match('a', n)", "assert not f('a')", "f('a') returned <Match object>"),
        ("def f(n): return True", "assert f(2) is True", ""),
        ("def f(n): return 1", "assert f(2) is True", "f(2) returned 1"),
        ("def f(n): return [n, n]", "assert f(2)[1] == 2 and len(f(3)) == 2", ""),
        ("def f(n): return n", "assert all(f(2) == x for x in [2, 2])", ""),
        ("def f(n): return n", "assert [f(2)] == [2]\nassert f(3) == 3", ""),
        ("class A:\n def __init__(self, n): self.n = n", "assert A(2).n == 2", ""),
        ("class A:\n pass\ndef f(n): return A()", "assert f(2) == 2", "f(2) returned <A object>"),
        ("def sum(a, b): return a + b", "assert sum(1, 2) == 3", ""),
        ("def sum(a, b): return a - b", "assert sum(1, 2) == 3", "sum(1, 2) returned -1"),
        ("def f(n)\n return n", "assert f(2) == 2", "the code raised SyntaxError: expected ':' (<code>, line 1)"),
        ("def f(n): return g(n)", "assert f(2) == 2", "f(2) raised NameError: name 'g' is not defined"),
        ("", "assert f(2) == 2", "f(2) raised NameError: name 'f' is not defined"),
        (
            "import numpy\ndef f(n): return n",
            "assert f(2) == 2",
            "the code raised ModuleNotFoundError: No module named 'numpy'",
        ),
        ("import dataclasses, asyncio, csv, sqlite3.dump\ndef f(n): return n", "assert f(2) == 2", None),
        (
            "from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n x: int\ndef f(n): return A(n).x",
            "assert f(2) == 2",
            "",
        ),
        ("def f(n):\n import zlib\n return zlib.crc32(b'x') % n", "assert f(2) == 1", ""),
        (
            "def f(n):\n try:\n  import hashlib, statistics\n except ImportError:\n  return 0\n return n",
            "assert f(2) == 2",
            "",
        ),
        ("def f(n): return n", "assert f(2) == __import__('binascii').crc32(b'') + 2", ""),
        ("if __name__ == '__main__':\n    print(input())\ndef f(n): return n", "assert f(2) == 2", ""),
        (
            "import threading\ndef f(n):\n out = []\n t = threading.Thread(target=out.append, args=(n,))\n t.start(); t.join()\n return out",
            "assert f(2) == [2]",
            "",
        ),
        (
            "from datetime import *\ndef f(n): return datetime.strptime('2020-01-02', '%Y-%m-%d').date()",
            "assert f(2).day == 2",
            "",
        ),
        ("import time\ndef f(n):\n time.sleep(0.01)\n time.localtime()\n return n", "assert f(2) == 2", ""),
        ("def f(n):\r\n    return n\r\n", "assert f(2) == 2", ""),
    ],
)
@linux
def test_forms_of_asserts(sandbox: CodeSandbox, code: str, test: str, reason: str | None) -> None:
    problem = code_problem(test)
    if reason == "InputError":
        with pytest.raises(InputError, match="p: test 1 holds 'import datetime', expected only"):
            sandbox.check(code, problem)
        return
    result = sandbox.check(code, problem)
    if reason is None:  # a module that needs files or sockets may or may not load, but never hangs
        assert result.passed or "Error" in result.reason
        return
    prefix = "" if reason.startswith("the code") else f"test 1 of {len(asserts.plan(problem).tests)}: "
    assert result == CodeResult(not reason, prefix + reason if reason else "")


@linux
def test_order_is_code_setup_tests(sandbox: CodeSandbox) -> None:
    problem = code_problem("assert total(root) == 6", setup="root = Node(1, Node(2, Node(3)))\nclass Node: pass")
    code = (
        "class Node:\n    def __init__(self, value, rest=None):\n        self.value, self.rest = value, rest\n"
        "def total(node):\n    return node.value + total(node.rest) if node else 0\n"
    )
    assert sandbox.check(code, problem).passed
    assert (
        sandbox.check("def total(node): return 6", problem).reason
        == "the code raised NameError: name 'Node' is not defined"
    )


@linux
def test_verdicts_repeat(sandbox: CodeSandbox) -> None:
    code = "import random\ndef f(): return [random.random(), list({'a', 'b', 'c', 'd'}), hash('x')]"
    reasons = {sandbox.check(code, code_problem("assert f() == 0")).reason for _ in range(4)}
    with CodeSandbox(workers=1) as other:
        reasons.add(other.check(code, code_problem("assert f() == 0")).reason)
    assert len(reasons) == 1
    assert "f() returned [0.8444218515250481, [" in reasons.pop()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (Problem("p", "", "x", "text"), r"p: answer_type is 'text', expected 'code'\."),
        (code_problem(), r"p: test_list is empty, expected"),
        (code_problem("assert f(1) == 1", "assert"), r"p: test 2 is not Python \(invalid syntax"),
        (code_problem("  "), r"p: test 1 is empty"),
        (code_problem("x = 1\nassert f(x) == 1"), r"p: test 1 holds 'x = 1', expected only `assert"),
        (code_problem("assert 1 == 1"), r"p: test 1 calls nothing that a solution could define: '1 == 1'"),
        (
            code_problem("assert all(f(x) == x for x in [1])"),
            r"p: test 1 calls the solution inside a comprehension.*'f\(x\)'",
        ),
        (
            code_problem("assert (lambda y: f(y))(1) == 1"),
            r"p: test 1 calls the solution inside a comprehension.*'f\(y\)'",
        ),
        (code_problem("assert f(1) == " + "(" * 300), r"p: test 1 is not Python"),
    ],
)
def test_tests_that_cannot_be_judged(problem: Problem, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asserts.plan(problem)


@pytest.mark.parametrize(
    ("test", "calls", "rest"),
    [
        ("assert f(g(1), [2]) == 3", ["f(g(1), [2])"], "equals"),
        ("assert set(f(1)) == {3}", ["f(1)"], "set(_0) == {3}"),
        ("assert math.isclose(f(1), 3.5)", ["f(1)"], "math.isclose(_0, 3.5)"),
        ("assert isclose(f(1), 3.5)", ["f(1)"], "isclose(_0, 3.5)"),
        ("assert f(1).next.value == 3", ["f(1).next.value"], "equals"),
        ("assert f(1) == sum([1, 2])", ["f(1)", "sum([1, 2])"], "_0 == _1"),
        ("assert 'a'.join(f(1)) == 'xay'", ["f(1)"], "'a'.join(_0) == 'xay'"),
        ("assert sorted(f(1), key=lambda p: p[0]) == [3]", ["f(1)"], "sorted(_0, key=lambda p: p[0]) == [3]"),
        ("assert not f(1)", ["f(1)"], "false"),
        ("assert f(1)", ["f(1)"], "true"),
    ],
)
def test_programs_see_calls_and_never_what_is_expected(test: str, calls: list[str], rest: str) -> None:
    solution = "from math import isclose\ndef sum(numbers): pass"
    plan = asserts.plan(code_problem(test, answer=solution))
    assert list(plan.calls) == calls
    assert rest in (plan.tests[0].kind, plan.tests[0].expression)


def test_a_builtin_under_test_is_found_without_a_reference() -> None:
    assert asserts.plan(code_problem("assert sum(1, 2) == 3")).calls == ("sum(1, 2)",)


def test_there_are_enough_hostile_programs() -> None:
    assert len({attack.name for attack in hostile.ATTACKS}) == len(hostile.ATTACKS) >= 50
    assert len({attack.code for attack in hostile.ATTACKS}) == len(hostile.ATTACKS)


@linux
@pytest.mark.parametrize(
    "mode", ["default", *(pytest.param(mode, marks=pytest.mark.slow) for mode in hostile.MODES if mode != "default")]
)
def test_hostile_programs(mode: str) -> None:
    if "bubblewrap" in mode and not worker.find_bubblewrap():
        pytest.skip("bubblewrap is not installed")
    before, children = set(_descriptors()), _children()  # of the sandbox that other tests share
    with hostile.outside() as target, hostile.Boxes(mode) as boxes, ThreadPoolExecutor(2) as pool:
        found = pool.map(lambda attack: hostile.complaints(boxes, attack, target), hostile.ATTACKS)
        complaints = {attack.name: text for attack, text in zip(hostile.ATTACKS, found, strict=True) if text}
        assert complaints == {}
        assert target.touched() == []
    assert set(_descriptors()) <= before
    assert _children() == children


@linux
@pytest.mark.slow
@pytest.mark.parametrize("mode", hostile.MODES)
def test_hostile_programs_as_an_ordinary_user(mode: str) -> None:
    if os.getuid() != 0:
        pytest.skip("runs as an ordinary user already")
    if "bubblewrap" in mode and not worker.find_bubblewrap():
        pytest.skip("bubblewrap is not installed")
    python = next(filter(_runs_as_nobody, (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")), None)
    if python is None:
        pytest.skip("no Python that user 65534 may run")
    process = subprocess.run(
        [python, "-m", "tests.data.sandbox.hostile", mode],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=600,
    )
    *complaints, summary = map(json.loads, process.stdout.splitlines())
    assert complaints == [], process.stderr
    assert (summary["uid"], summary["failed"], summary["touched"]) == (NOBODY, 0, [])


def _runs_as_nobody(python: str) -> bool:
    try:
        command = [python, "-c", "import sys; sys.path.insert(0, '.'); import tests.data.sandbox.hostile"]
        directory = ROOT
        return subprocess.run(command, user=NOBODY, group=NOBODY, cwd=directory, capture_output=True).returncode == 0
    except OSError:
        return False


def _descriptors() -> list[str]:
    return [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


def _children() -> list[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return [
        pid
        for pid in (children.read_text().split() if children.exists() else [])
        if b"zygote.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@linux
def test_the_attacks_are_real() -> None:
    """Without walls they reach what they are after: so the walls are what holds them."""
    box = CodeSandbox(1, cpu_s=1)
    for wall in ("seccomp", "landlock", "namespaces"):
        box._options[wall] = False
    reached = {}
    with hostile.outside() as target, pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker.tempfile, "TemporaryDirectory", _TheRealRoot)
        patch.setenv("HF_ALLOW_CODE_EVAL", "1")
        box._allow_unsandboxed = True
        with box:
            for attack in hostile.ATTACKS:
                if attack.name in (
                    "read the answers",
                    "stat tells",
                    "import the answers",
                    "subprocess",
                    "UDP",
                    "Unix socket",
                ):
                    reached[attack.name] = hostile.run(box, attack, target)
        assert reached["read the answers"].passed
        assert reached["stat tells"].passed
        assert reached["import the answers"].passed
        assert "48611" in reached["subprocess"].reason
        assert {"UDP", "the Unix socket"} <= set(target.touched())


class _TheRealRoot:
    def __init__(self, prefix: str) -> None:
        pass

    def __enter__(self) -> str:
        return "/"

    def __exit__(self, *exception: object) -> None:
        pass


@linux
def test_a_killed_worker_is_replaced() -> None:
    with CodeSandbox(workers=1) as box:
        good = code_problem("assert f(1) == 1")
        assert box.check("def f(n): return n", good).passed
        for _ in range(2):
            current = box._common._workers.get()
            assert current is not None
            current._process.kill()
            current._process.wait()
            box._common._workers.put(current)
            assert box.check("def f(n): return n", good) == CodeResult(True)


@linux
def test_nothing_outlives_its_parent() -> None:
    script = (
        "import os, signal, threading, time\n"
        "from reflectevo_data.sandbox.code_sandbox import CodeSandbox\nfrom reflectevo_data.schema import Problem\n"
        "box = CodeSandbox(1)\nbox.preflight()\n"
        "p = Problem('p', '', '', 'code', test_list=('assert f(1) == 1',))\n"
        "box.check('def f(n): return n', p)\n"
        "threading.Thread(target=box.check, args=('import time\\ntime.sleep(1000)', p), daemon=True).start()\n"
        "time.sleep(0.5)\nprint(os.getpid(), open(f'/proc/self/task/{os.getpid()}/children').read(), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    pids = process.stdout.split()[1:]
    assert pids, process.stderr
    for _ in range(100):
        if not any(
            Path(f"/proc/{pid}").exists() and "zygote" in Path(f"/proc/{pid}/cmdline").read_text() for pid in pids
        ):
            break
        time.sleep(0.1)
    assert not [
        pid for pid in pids if Path(f"/proc/{pid}").exists() and "zygote" in Path(f"/proc/{pid}/cmdline").read_text()
    ]


@linux
def test_preflight_names_the_walls() -> None:
    info = CodeSandbox().preflight()
    assert info.isolated
    assert "seccomp" in info.layers


@linux
def test_preflight_refuses_without_a_second_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    def outside_layers(self: worker.Worker, options: dict[str, Any], bubblewrap: str = "") -> None:
        original(self, {**options, "landlock": False, "namespaces": False}, bubblewrap)
        self.layers = tuple(name for name in self.layers if name != "empty root")

    original = worker.Worker.__init__
    monkeypatch.setattr(worker.Worker, "__init__", outside_layers)
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    for allowed in (False, True):  # the flag alone is not enough
        with pytest.raises(InputError, match="the kernel gives neither Landlock nor namespaces, expected"):
            CodeSandbox(bubblewrap=False, allow_unsandboxed=allowed).preflight()
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    with pytest.raises(InputError, match="neither"):  # nor is the variable
        CodeSandbox(bubblewrap=False).preflight()
    with CodeSandbox(1, bubblewrap=False, allow_unsandboxed=True) as box:
        assert not box.preflight().isolated
        assert box.check("def f(n): return n", code_problem("assert f(1) == 1")).passed


@linux
def test_preflight_refuses_walls_that_do_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(walls.ALLOWED, "mkdir", (83, 34))  # not seen by the sandbox's process
    box = CodeSandbox(1)
    box._options["seccomp"] = False
    with pytest.raises(InputError, match="there is no seccomp filter"):
        box.preflight()


def test_preflight_without_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_python", lambda: "/bin/false")
    with pytest.raises(InputError, match="the sandbox's process does not start"):
        CodeSandbox(bubblewrap=False).preflight()


def test_bubblewrap_asked_for_and_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no `bwrap`"):
        CodeSandbox(bubblewrap=True).preflight()


def run_filter(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = ()) -> int:
    """What the kernel would answer: a BPF machine of the five operations used."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *(arguments + (0,) * 6)[:6])
    code = [struct.unpack_from("=HBBI", program, i) for i in range(0, len(program), 8)]
    accumulator = position = 0
    while True:
        op, if_true, if_false, value = code[position]
        position += 1
        if op == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif op == 0x15:
            position += if_true if accumulator == value else if_false
        elif op == 0x45:
            position += if_true if accumulator & value else if_false
        elif op == 0x06:
            return value
        else:
            raise AssertionError(op)


@pytest.mark.parametrize("arch", [0, 1])
def test_the_filter_allows_what_is_listed_and_nothing_else(arch: int) -> None:
    program, machine = walls.seccomp_filter(arch), walls.AUDIT_ARCH[arch]
    listed = {numbers[arch] for numbers in walls.ALLOWED.values()} - {None}
    allow, eperm = 0x7FFF0000, 0x00050001
    special = {walls.CLONE[arch], walls.PRLIMIT64[arch], walls.CLONE3[arch], walls.IOCTL[arch]}
    for number in range(1024):
        if number not in special:
            assert run_filter(program, machine, number) == (allow if number in listed else eperm), number
    assert not listed & special
    assert run_filter(program, machine, walls.CLONE[arch], (0x3D0F00,)) == allow  # as the C library starts a thread
    assert run_filter(program, machine, walls.CLONE[arch], (0x1200011,)) == eperm  # as it forks
    assert run_filter(program, machine, walls.PRLIMIT64[arch], (0, 7, 0, 1)) == allow
    assert run_filter(program, machine, walls.PRLIMIT64[arch], (0, 7, 1)) == eperm
    assert run_filter(program, machine, walls.PRLIMIT64[arch], (0, 7, 1 << 40)) == eperm
    assert run_filter(program, machine, walls.CLONE3[arch]) == 0x00050026
    assert run_filter(program, machine, walls.IOCTL[arch]) == 0x00050019
    assert run_filter(program, machine, 0x40000000) == eperm
    assert run_filter(program, walls.AUDIT_ARCH[1 - arch], 0) == 0x80000000


@pytest.mark.parametrize(
    "tree",
    [
        [],
        ["?"],
        [1],
        [None, 1],
        ["i", "x"],
        ["i", 5],
        ["i", "1" * 20_000],
        ["d", 1],
        ["d", ["l"], 1],
        ["s", ["l"]],
        ["b", "0"],
        ["c", 1.0],
        ["r", 1, 2, 0],
        ["f", 1, 0],
        ["D", "sNaN"],
        ["D", "1" * 2000],
        ["D", "x"],
        ["date", "yesterday"],
        ["delta", 10**12, 0, 0],
        ["o", 5, True],
        {"a": 1},
        ["l", {"a": 1}],
        eval("['l'," * 60 + "]" * 60),
    ],
)
def test_forged_trees_are_refused(tree: Any) -> None:
    with pytest.raises(ValueError, match="malformed result"):
        values.decode(tree)
    assert values.show(tree)


def test_collisions_cost_no_more_than_the_expected_value_allows() -> None:
    forged = ["s", *(i * (2**61 - 1) for i in range(200_000))]  # to build this set takes minutes
    assert not values.equals(forged, {1, 2}, values.size(values.encode({1, 2})))
    assert values.show(forged) == "a set of 200000 values"
