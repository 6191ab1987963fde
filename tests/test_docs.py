"""README and docs: short enough, links that lead somewhere, commands that janus accepts."""

import re
import shlex
from pathlib import Path

import pytest

from janus_cli import recipe_load
from janus_cli.lab import systems
from janus_cli.measures import MEASURES
from tests.helpers import parsed

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What a link can name in a page: its headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short() -> None:
    assert text_of(README).count("\n") < 200


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_the_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:janus_cli|benchmarks|tests|recipes|docs)/[\w/.-]+\.(?:py|yaml|md))`", text_of(page))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_where_is_names_files_of_the_package() -> None:
    table = text_of(README).split("## Where is")[1].split("\n## ")[0]
    rows = [row.split("|")[2] for row in table.split("\n") if row.startswith("| ") and "---" not in row]
    paths = [path for row in rows[1:] for path in re.findall(r"`([\w/]+(?:\.py|/))`", row)]
    assert len(paths) >= 12
    assert [path for path in paths if not any((ROOT / "janus_cli").rglob(path.rstrip("/")))] == []


def commands_of(page: Path) -> list[list[str]]:
    """The words of each line that begins with `janus`, in blocks of code."""
    blocks = re.findall(r"^```(?:sh|bash)?\n(.*?)^```|((?:^    .*\n)+)", text_of(page), re.M | re.S)
    lines = "\n".join(fenced or indented for fenced, indented in blocks).replace("\\\n", "")
    found = re.findall(r"^ *(?:echo [^|]*\| |cat [^|]*\| )?janus ([a-z].*)$", lines, re.M)
    return [shlex.split(re.split(r" [|>] ", line)[0], comments=True) for line in found]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_are_accepted(page: Path, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command reads all of its options and their values, and its recipe takes every --set; none is run."""
    monkeypatch.setenv("paper", "objective.glance=0")
    for verb, *arguments in commands_of(page):
        given = parsed(verb, *arguments)
        if verb in ("train", "compare") and given["recipe"] not in (None, "mine.yaml"):
            recipe_load.load(given["recipe"], given["changes"] or (), given.get("objective"))
        if verb == "compare" and not any("$" in variant for variant in given["variants"] or ()):
            systems.asked(given["objectives"].split(","), given["variants"] or ())


def test_there_are_commands_to_check() -> None:
    assert len(commands_of(README)) >= 9
    assert sum(len(commands_of(page)) for page in PAGES) >= 50


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    text = text_of(ROOT / "docs" / "decoding.md")
    for name, measure in MEASURES.items():
        values = "0 or more" if measure.highest is None else f"0 to {measure.highest:g}"
        values += "" if measure.higher_is_better else ", lower is better"
        assert f"\n| `{name}` | {values} | {measure.about} |\n" in text
