"""What the code is held to as it grows: types, imports at the top, and a setting's name in few places."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("arbench", "tokenizers/arbench_tokenizers")
Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.fixture(scope="module")
def modules() -> dict[str, ast.Module]:
    """Every module of the product, by its path."""
    files = sorted(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))
    return {file.relative_to(ROOT).as_posix(): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def functions(module: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(module) if isinstance(node, Function))


def test_few_parameters_are_of_any_type(modules):
    found: Counter[str] = Counter()
    for name, module in modules.items():
        for function in functions(module):
            given = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
            found[name] += sum(isinstance(p.annotation, ast.Name) and p.annotation.id == "Any" for p in given)
    assert found.total() < 15, +found


def test_imports_stand_at_the_top(modules):
    """Outside the commands, which each load what they need; what stays inside is optional or slow."""
    found = {
        (name, ast.unparse(node))
        for name, module in modules.items()
        if not name.startswith("arbench/cli/") and name != "arbench/__init__.py"  # public names are loaded on first use
        for function in functions(module)
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    assert len(found) < 10, found


def test_a_setting_of_one_method_passes_through_few_files(modules):
    held = [name for name in modules if "num_iter" in (ROOT / name).read_text(encoding="utf-8")]
    outside = [name for name in held if not name.startswith("arbench/generators/")]
    assert 0 < len(outside) <= 5, outside


def test_counts_of_all_workers_are_added(monkeypatch):
    monkeypatch.setattr(conftest, "COUNTED", {})
    for sent in ({"chaos": {"full disk": [3, 1]}}, {}, {"chaos": {"full disk": [2, 0], "killed": [1, 0]}}):
        conftest.pytest_testnodedown(SimpleNamespace(workeroutput=sent))
    conftest.pytest_testnodedown(SimpleNamespace())  # one that crashed
    assert conftest.COUNTED == {"full disk": [5, 1], "killed": [1, 0]}
