"""The house stands: imports point down only, the core is liftable, files and functions stay short."""

import ast
import importlib
import pkgutil
import sys
from collections.abc import Iterator
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
    ["core"],
    ["device"],
    ["recipe_load", "runs"],
    ["files"],
    ["recipe", "yaml_core", "console"],
    ["core.knobs", "errors"],
]
_HEIGHT = {name: -depth for depth, names in enumerate(_FLOORS) for name in names}


def _module(file: Path) -> str:
    parts = ("janus_cli", *file.relative_to(_PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module: str) -> str:
    """The floor's name; `core.knobs` has its own, because the recipe is made of it."""
    parts = module.split(".")
    return "core.knobs" if parts[1:3] == ["core", "knobs"] else parts[1]


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and full name of what is imported at run time; `from a import b` names a.b, `if TYPE_CHECKING:` nothing."""
    if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
        for child in node.orelse:
            yield from _imports(child)
        return
    if isinstance(node, ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imports(child)


@pytest.mark.parametrize("file", _FILES, ids=_IDS)
def test_imports_point_down(file: Path) -> None:
    module = _module(file)
    if module == "janus_cli":
        assert not any(name.startswith("janus_cli") for _, name in _imports(ast.parse(file.read_bytes())))
        return
    own = _part(module)
    for line, name in _imports(ast.parse(file.read_bytes())):
        if name.startswith("janus_cli.") and name != "janus_cli.__version__" and _part(name) != own:
            assert _HEIGHT[_part(name)] < _HEIGHT[own], f"line {line}: {own} imports {name}"
        assert not name.startswith("tests"), f"line {line}"


@pytest.mark.parametrize("file", sorted((_PACKAGE / "core").rglob("*.py")), ids=lambda file: file.name)
def test_core_imports_torch_and_nothing_above(file: Path) -> None:
    for line, name in _imports(ast.parse(file.read_bytes())):
        top = name.split(".")[0]
        inside = name.startswith("janus_cli.core.") or top == "torch" or top in sys.stdlib_module_names
        assert inside, f"line {line}: the core imports {name}"


@pytest.mark.parametrize("file", _FILES, ids=_IDS)
def test_only_the_console_knows_rich_and_only_the_recipe_knows_pydantic(file: Path) -> None:
    homes = {
        "rich": {"console"},
        "pydantic": {"recipe", "recipe_load"},
        "yaml": {"yaml_core"},
        "typer": {"cli", "commands"},
    }
    for line, name in _imports(ast.parse(file.read_bytes())):
        home = homes.get(name.split(".")[0])
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
    assert {_module(file) for file in _FILES} - {"janus_cli", "janus_cli.__main__"} == found
    for name in sorted(found):
        importlib.import_module(name)
