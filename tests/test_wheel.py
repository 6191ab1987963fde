"""The built wheel, away from the checkout: recipes travel with it, tests do not."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from janus_cli import recipe_load

_ROOT = Path(__file__).parents[1]
_TARGETS = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]


def _run(arguments: list[str], folder: Path, library: Path | None = None) -> str:
    environment = os.environ | ({"PYTHONPATH": str(library)} if library else {})
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_that_come_with_janus_are_in_the_wheel_and_in_the_sdist() -> None:
    packed = _TARGETS["wheel"]["force-include"]
    models = {folder for folder in packed if folder.startswith("pretrained")}
    assert "pretrained" in _TARGETS["sdist"]["include"]
    for folder in models:
        assert packed[folder] == f"janus_cli/{folder}"
        assert (_ROOT / folder / "recipe.yaml").is_file()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(_ROOT)], folder)
    return next(folder.glob("janus_cli-*.whl"))


@pytest.mark.slow
def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    package = {
        file.relative_to(_ROOT).as_posix()
        for kind in ("py", "pyi", "html", "md", "txt", "typed")
        for file in (_ROOT / "janus_cli").rglob(f"*.{kind}")
    }
    shipped = {
        f"{target}/{file.relative_to(_ROOT / folder).as_posix()}"
        for folder, target in _TARGETS["wheel"]["force-include"].items()
        for file in (_ROOT / folder).rglob("*.*")
    }
    assert {f"janus_cli/recipes/{name}.yaml" for name in recipe_load.available()} <= shipped
    assert {name for name in names if ".dist-info/" not in name} == package | shipped
    assert any(name.endswith("/licenses/LICENSE") for name in names)


@pytest.mark.slow
def test_an_installed_wheel_finds_its_recipes_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    library, elsewhere = tmp_path / "library", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(library)]
    _run([*pip, str(wheel)], elsewhere)
    where = _run([sys.executable, "-c", "import janus_cli; print(janus_cli.__file__)"], elsewhere, library)
    assert Path(where.strip()).is_relative_to(library)
    janus = [sys.executable, str(library / "bin" / "janus")]
    shown = _run([*janus, "recipes", "show", "iwslt14"], elsewhere, library)
    assert shown == recipe_load.dump(recipe_load.load("iwslt14"))
    listed = _run([*janus, "recipes"], elsewhere, library)
    assert [line.split()[0] for line in listed.strip().split("\n")] == list(recipe_load.available())
    assert list(elsewhere.iterdir()) == []
