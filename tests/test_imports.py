"""The house stands: imports point down, never in circles; the core stands alone; files and functions stay short."""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import janus_cli

_PACKAGE = Path(janus_cli.__file__).parent
_FILES = sorted(_PACKAGE.rglob("*.py"))
_IDS = [file.relative_to(_PACKAGE).as_posix() for file in _FILES]

# What stands further down may be imported, what stands on the same line or further up may not.
_FLOORS = [
    ["__main__"],
    ["cli"],
    ["commands"],
    ["lab"],
    ["export"],
    ["decoding"],
    ["training"],
    ["scoring"],
    ["data"],
    ["engines"],
    ["core"],
    ["world"],
    ["device", "runs"],
    ["recipe_load", "files"],
    ["recipe", "yaml_core", "console", "documents"],
    ["core.knobs", "errors"],
    ["measures", "system", "terminal"],
]
_HEIGHT = {name: -depth for depth, names in enumerate(_FLOORS) for name in names}
_HOMES = {
    "rich": {"console"},
    "pydantic": {"documents", "recipe", "recipe_load"},
    "yaml": {"yaml_core"},
    "typer": {"cli", "commands"},
}


def _module(file: Path) -> str:
    parts = ("janus_cli", *file.relative_to(_PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


_MODULES = {_module(file): file for file in _FILES}


def _imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every import, in functions and for types alone too; `from a import b` names a.b."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def _part(module: str) -> str:
    """What has a floor: a module or package right below janus_cli; the knobs, because recipes are made of them."""
    return "core.knobs" if module.startswith("janus_cli.core.knob") else module.split(".")[1]


def _modules_behind(name: str) -> set[str]:
    """The module of ours that an imported name is or comes from, if any."""
    while name and name not in _MODULES:
        name = name.rpartition(".")[0]
    return {name} - {"", "janus_cli"}


@pytest.mark.parametrize("file", _FILES, ids=_IDS)
def test_imports_point_down(file: Path) -> None:
    own = _part(f"{_module(file)}.")
    for line, name in _imports(file):
        assert not name.startswith("tests"), f"line {line}"
        for module in _modules_behind(name) if own else ():
            assert own == _part(module) or _HEIGHT[_part(module)] < _HEIGHT[own], f"line {line}: {own} imports {name}"


def test_no_imports_go_in_circles() -> None:
    graph = {
        module: {found for _, name in _imports(file) for found in _modules_behind(name)} - {module}
        for module, file in _MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as problem:
        pytest.fail(" <- ".join(problem.args[1]))


@pytest.mark.parametrize("file", sorted((_PACKAGE / "core").rglob("*.py")), ids=lambda file: file.name)
def test_core_imports_torch_the_standard_library_and_itself(file: Path) -> None:
    for line, name in _imports(file):
        top = name.split(".")[0]
        inside = name.startswith("janus_cli.core.") or top == "torch" or top in sys.stdlib_module_names
        assert inside, f"line {line}: the core imports {name}"


@pytest.mark.parametrize("file", _FILES, ids=_IDS)
def test_some_libraries_have_one_home(file: Path) -> None:
    for line, name in _imports(file):
        home = _HOMES.get(name.split(".")[0])
        assert home is None or _part(_module(file)) in home, f"line {line}: imports {name}"


@pytest.mark.parametrize("file", _FILES, ids=_IDS)
def test_files_and_functions_stay_short(file: Path) -> None:
    text = file.read_bytes()
    assert text.count(b"\n") < 500
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert _length(node, file) < 60, node.name


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef, file: Path) -> int:
    """Lines of a function; of a command only the body, because its signature is the table of its options."""
    end = node.end_lineno or node.lineno
    return end - (node.body[0].lineno if "commands" in file.parts else node.lineno) + 1


def test_every_module_imports() -> None:
    found = {module.name for module in pkgutil.walk_packages(janus_cli.__path__, "janus_cli.")} - {"janus_cli.__main__"}
    assert _MODULES.keys() - {"janus_cli", "janus_cli.__main__"} == found
    for name in sorted(found):
        importlib.import_module(name)
