"""What holds of the tree as a whole; the arrows between its folders are held by `lint-imports`."""

import ast
import importlib
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.reference import ROOT


PACKAGES = ("reflectevo_data", "reflectevo_train")
# the two ends of every command, and what a program begins with
CONVENTIONS = {"add_arguments", "run", "main", "PROGRAM", "logger", "T"}
TRAINING_STACK = ("torch", "transformers", "trl", "peft", "accelerate")


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def public_names(path: Path) -> set[str]:
    """Classes, functions and constants at the top of a file."""
    names: set[str] = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                names.add(node.name)
            case ast.Assign():
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name() as target):
                names.add(target.id)
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_promises_at_its_top_is_there(package):
    module = importlib.import_module(package)
    assert set(module._LAZY) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


def test_a_name_means_one_thing_in_the_whole_tree():
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        for name in public_names(path) - CONVENTIONS:
            places[name].append(str(path.relative_to(ROOT)))
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("package", ["evaluation", "report"])
def test_evaluation_and_report_work_without_the_training_stack(package):
    script = f"""
import importlib, pkgutil, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_STACK}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Refuse())
import reflectevo_train.{package} as package
names = [module.name for module in pkgutil.iter_modules(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 5
