"""A problem's asserts as a plan: which calls the checked program sees, and what the trusted side does with the values.

`assert set(f(3)) == {1, 2}` becomes the call `f(3)`, which the program's process evaluates, and `set(_0) == {1, 2}`,
which is evaluated where no model-written code has ever run. The program can send any value it likes for its call; it
cannot learn what is expected of it.
"""

from __future__ import annotations

import ast
import builtins
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Any, Literal

from ..errors import InputError
from ..schema import Problem
from . import values


@dataclass(frozen=True, slots=True)
class Test:
    """One assert.

    Attributes:
        calls: Where its calls are in `CheckPlan.calls`; the trusted expression knows them as `_0`, `_1`, …
        kind: `equals` compares the only call with `expected` in the parent, `true` and `false` ask for its truth
            value, `judge` evaluates `expression` in a process of its own.
        modules: Standard modules that the expression uses and nothing imports.
    """

    calls: range
    kind: Literal["equals", "true", "false", "judge"]
    expected: Any = None
    expected_size: int = 0
    expression: str = ""
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """All asserts of a problem, `calls` in their order; `imports` are for the trusted expressions.

    The calls are compiled here, once a problem: a fresh process takes longer to compile a line than to run it.
    """

    calls: tuple[str, ...]
    compiled: tuple[CodeType, ...]
    tests: tuple[Test, ...]
    imports: str


def plan(problem: Problem) -> CheckPlan:
    """The plan of a code problem's tests.

    Raises:
        InputError: The problem has no test, or one that cannot be judged without showing the program what is expected.
    """
    if problem.answer_type != "code":
        raise InputError(f"{problem.id}: answer_type is {problem.answer_type!r}, expected 'code'. Verify it as such.")
    return _plan(problem.id, problem.test_list, problem.test_setup_code, problem.answer)


@lru_cache(maxsize=4096)  # one problem is checked many times
def _plan(problem_id: str, test_list: tuple[str, ...], setup: str, solution: str) -> CheckPlan:
    if not test_list:
        raise InputError(
            f"{problem_id}: test_list is empty, expected `assert …` statements. Add some or drop the row."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "\\d" in somebody's test is no matter of ours
        defined, imports = _bindings(setup, solution)
        calls: list[str] = []
        compiled: list[CodeType] = []
        tests = []
        for number, text in enumerate(test_list, 1):
            where = f"{problem_id}: test {number}"
            for statement in _parse(text, where):
                if not isinstance(statement, ast.Assert):
                    raise InputError(
                        f"{where} holds {ast.unparse(statement)[:80]!r}, expected only `assert …` statements. "
                        "Move the rest to test_setup_code."
                    )
                tests.append(_test(statement.test, calls, defined, set(imports), where))
                compiled += [_compile(call, where) for call in calls[len(compiled) :]]
    return CheckPlan(tuple(calls), tuple(compiled), tuple(tests), "\n".join(imports.values()))


def _parse(text: str, where: str) -> list[ast.stmt]:
    try:
        statements = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{where} is not Python ({message}): {text[:80]!r}. Correct or drop the row.") from error
    if not statements:
        raise InputError(f"{where} is empty, expected an `assert …` statement. Correct or drop the row.")
    return statements


def _compile(call: str, where: str) -> CodeType:
    try:
        return compile(call, "<test>", "eval", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        message = " ".join(str(error).split())
        raise InputError(f"{where} cannot be compiled ({message}): {call[:80]!r}. Correct or drop the row.") from error


def _bindings(setup: str, solution: str) -> tuple[set[str], dict[str, str]]:
    """The names that the setup or the reference solution defines, and its imports: name -> import statement."""
    defined: set[str] = set()
    imports: dict[str, str] = {}
    for source in (solution, setup):
        try:
            statements = ast.parse(source).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue  # a reference that is no Python tells nothing; a broken setup fails in the run
        for node in statements:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                defined.add(node.name)
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
                if (module or "").partition(".")[0] in sys.stdlib_module_names and node.names[0].name != "*":
                    text = ast.unparse(node)
                    imports.update({(alias.asname or alias.name).partition(".")[0]: text for alias in node.names})
            else:
                defined.update(
                    name.id
                    for name in ast.walk(node)
                    if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
                )
    return defined, {name: text for name, text in imports.items() if name not in defined}


def _test(expression: ast.expr, calls: list[str], defined: set[str], imported: set[str], where: str) -> Test:
    start = len(calls)
    trusted = (set(dir(builtins)) | imported) - defined
    holes = _Holes(trusted, where)
    modules = {
        node.value.id
        for node in ast.walk(expression)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    } & (sys.stdlib_module_names - trusted - defined)
    holes.trusted |= modules  # `math.isclose(f(1), 0.3)` where the solution is what imports math
    expression = holes.visit(expression)
    if not holes.calls:  # the function under test has a builtin's name, and no reference says so
        expression = _leftmost_call(expression, holes, where)
    calls += holes.calls
    span = range(start, len(calls))
    match expression:
        case ast.Name(id="_0"):
            return Test(span, "true")
        case ast.UnaryOp(op=ast.Not(), operand=ast.Name(id="_0")):
            return Test(span, "false")
        case (
            ast.Compare(left=ast.Name(id="_0"), ops=[ast.Eq()], comparators=[other])
            | ast.Compare(left=other, ops=[ast.Eq()], comparators=[ast.Name(id="_0")])
        ) if len(span) == 1:
            try:
                expected = ast.literal_eval(other)
                return Test(span, "equals", expected, values.size(values.encode(expected)))
            except (ValueError, TypeError, values.TooLarge, RecursionError, MemoryError):
                pass  # not a plain literal: the judge evaluates it
    text = ast.unparse(ast.fix_missing_locations(expression))
    return Test(span, "judge", expression=text, modules=tuple(sorted(modules)))


class _Holes(ast.NodeTransformer):
    """Takes each largest `name.attribute[index](arguments)…` with an untrusted name at its root out of an expression."""

    def __init__(self, trusted: set[str], where: str) -> None:
        self.trusted = trusted
        self.where = where
        self.bound: set[str] = set()
        self.calls: list[str] = []

    def take(self, node: ast.expr) -> ast.expr:
        names = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        if names & self.bound:
            raise InputError(
                f"{self.where} calls the solution inside a comprehension, lambda or `:=` ({ast.unparse(node)[:80]!r}), "
                "expected calls whose arguments stand in the test. Write one assert for each call."
            )
        self.calls.append(ast.unparse(node))
        return ast.Name(id=f"_{len(self.calls) - 1}", ctx=ast.Load())

    def visit(self, node: ast.AST) -> Any:
        root = node
        while isinstance(root, (ast.Attribute, ast.Subscript, ast.Call)):
            root = root.func if isinstance(root, ast.Call) else root.value
        if isinstance(root, ast.Name) and root.id not in self.trusted and root.id not in self.bound:
            return self.take(node)  # type: ignore[arg-type]  # a chain that ends in a name is an expression
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda, ast.NamedExpr)):
            outer = self.bound
            self.bound = outer | {
                name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
            }
            if isinstance(node, ast.Lambda):
                self.bound |= {argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}
            node = self.generic_visit(node)
            if not isinstance(node, ast.NamedExpr):
                self.bound = outer
            return node
        return self.generic_visit(node)


def _leftmost_call(expression: ast.expr, holes: _Holes, where: str) -> ast.expr:
    """The expression with its leftmost call, negations passed over, made a call of the program."""
    match expression:
        case ast.Call():
            return holes.take(expression)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ast.UnaryOp(op=ast.Not(), operand=_leftmost_call(operand, holes, where))
        case ast.Compare(left=ast.Call() as left):
            return ast.Compare(left=holes.take(left), ops=expression.ops, comparators=expression.comparators)
    raise InputError(
        f"{where} calls nothing that a solution could define: {ast.unparse(expression)[:80]!r}. Correct or drop the row."
    )
