"""Recipe files and `--set`: what is found, what is read, and how every mistake is named."""

from pathlib import Path

import pytest

from janus_cli import recipe_load
from janus_cli.errors import UsageError


def _write(folder: Path, text: str | bytes) -> str:
    file = folder / "mine.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(file)


def _message(name: str, *overrides: str, objective: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        recipe_load.load(name, overrides, objective)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    return caught.value.message


@pytest.mark.parametrize("name", list(recipe_load.available()))
def test_dump_reads_back_unchanged(tmp_path: Path, name: str) -> None:
    recipe = recipe_load.load(name, ["about='1e-4'", "data.notes=no", "tokenizer.kind=words", "tokenizer.joiner=@@"])
    assert (recipe.about, recipe.data.notes, recipe.tokenizer.joiner) == ("1e-4", "no", "@@")
    text = recipe_load.dump(recipe)
    again = recipe_load.load(_write(tmp_path, text))
    assert again == recipe
    assert recipe_load.dump(again) == text


def test_values_that_plain_yaml_would_spoil(tmp_path: Path) -> None:
    recipe = recipe_load.load(
        _write(
            tmp_path,
            "name: no\nabout: off\nseed: 010\ntraining: {learning_rate: 1e-4, epsilon: 5E-9, clip: 1}\n"
            "data: {source: no, target: on, clean: [nfc, lowercase]}\n",
        )
    )
    assert (recipe.name, recipe.about, recipe.seed) == ("no", "off", 10)
    assert (recipe.training.learning_rate, recipe.training.epsilon, recipe.training.clip) == (1e-4, 5e-9, 1.0)
    assert (recipe.data.source, recipe.data.target, recipe.data.clean) == ("no", "on", ("nfc", "lowercase"))


def test_byte_order_mark_and_line_ends(tmp_path: Path) -> None:
    assert recipe_load.load(_write(tmp_path, b"\xef\xbb\xbfname: a\r\nseed: 3\r\n")).seed == 3


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("name: a\nmodel:\n  widht: 3\n", ["3: model.widht: unknown key, did you mean width? Valid here: width, fe"]),
        ("name: a\nlearning_rate: 1\n", ["2: learning_rate: unknown key, did you mean training.learning_rate? "]),
        ("name: a\nzzz: 1\n", ["2: zzz: unknown key. Valid here: name, about, seed, data"]),
        ("name: a\nobjective:\n  name: cmlm\n  kl_start: 1\n", ["4: objective.kl_start: unknown key. Valid he"]),
        ("name: a\nobjective: {name: ar, janus: 1}\n", ["2: objective.janus: unknown key"]),
        ("name: a\nobjective:\n  noise:\n    spam: 1\n", ["4: objective.noise.spam: unknown key, did you mean spans?"]),
        ("name: a\nobjective: {name: jnus}\n", ["2: objective.name: no such objective (got jnus; choose from ar, "]),
        ("name: a\nobjective: cmlm\n", ["2: objective: should be a section of `key: value` lines (got \"cmlm\")"]),
        ("seed: 1\n", [" name: is missing"]),
        ("name: a\ndata:\n  downloads:\n    - save_as: x\n", ["4: data.downloads.0.url: is missing"]),
        ("name: a\nmodel:\n  heads: true\n", ["3: model.heads: should be a valid integer (got true)"]),
        ("name: a\nmodel:\n  dropout: .nan\n", ["3: model.dropout: should be a finite number (got NaN)"]),
        ("name: a\nmodel:\n  dropout: 1e999\n", ["3: model.dropout: should be a finite number (got Infinity)"]),
        ("name: a\nmodel:\n  dropout: no\n", ["3: model.dropout: should be a valid number (got \"no\")"]),
        ("name: a\nmodel:\n  dropout: 2\n", ["3: model.dropout: should be less than or equal to 1 (got 2)"]),
        ("name: a\nmodel:\n  tie: al\n", ["3: model.tie: should be 'all', 'target' or 'none' (got \"al\"), did you"]),
        ("name: a\ntraining: 3\n", ["2: training: should be a section of `key: value` lines (got 3)"]),
        ("name: a\ndata: {clean: nfc}\n", ["2: data.clean: should be a list (got \"nfc\")"]),
        ("name: a\nmodel:\n  width: 30\n", ["2: model: width 30 is not a multiple of heads 4"]),
        ("name: a\ndata:\n  max_tokens: 999\n", ["3: data.max_tokens: 999 + BOS + EOS does not fit model.max_len"]),
        ("name: a\nseed: 1\nseed: 2\n", ["3: seed: stands here again, first in line 2"]),
        ("name: a\nseed: *x\n", ["2: seed: aliases are not allowed"]),
        ("name: a\nseed: !!python/object/apply:os.system [ls]\n", ["2: seed: tags are not allowed"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\nname: c\n", ["1: a: anchors", "1: a: unknown key", "2: b: anchors",
                                                     "2: b: unknown key", "2: b.0: aliases", "2: b.1: aliases"]),
        ("name: a\nmodel: [1\n", ["3: not YAML"]),
        ("- name\n", ["1: a recipe is a set of `key: value` lines"]),
        ("", ["1: a recipe is a set of `key: value` lines (got None)"]),
        ("name: ../a\n", ["1: name: should be a plain name"]),
        ("name: a\ndata: {train: /etc/passwd}\n", ["2: data.train: should be a plain name"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(tmp_path: Path, text: str, mistakes: list[str]) -> None:
    file = _write(tmp_path, text)
    lines = _message(file).split("\n  ")
    if len(mistakes) > 1:
        assert lines.pop(0) == f"{len(mistakes)} mistakes in the recipe"
    assert len(lines) == len(mistakes)
    for line, mistake in zip(lines, mistakes, strict=True):
        assert mistake in line
        assert line.startswith(f"{file}:")


@pytest.mark.parametrize(
    ("changes", "mistakes"),
    [
        (["seed"], ["--set seed: expected KEY=VALUE"]),
        (["=3"], ["--set =3: expected KEY=VALUE"]),
        (["model..width=3"], ["--set model..width=3: expected KEY=VALUE"]),
        (["model.widht=3"], ["--set model.widht=3: model.widht: unknown key, did you mean width?"]),
        (["modell.width=3"], ["--set modell.width=3: modell: unknown key, did you mean model?"]),
        (["seed.x=3"], ["--set seed.x=3: seed: should be a valid integer"]),
        (["model.width=1e2"], ["--set model.width=1e2: model.width: should be a valid integer"]),
        (["model.dropout=nan"], ["--set model.dropout=nan: model.dropout: should be a valid number (got \"nan\")"]),
        (["data.clean=[nfc"], ["--set data.clean=[nfc: data.clean: not YAML"]),
        (["data.clean=[nfx]"], ["--set data.clean=[nfx]: data.clean.0: should be"]),
        (["model={width: x}"], ["--set model={width: x}: model.width: should be a valid integer"]),
        (["objective.aux=1", "objective.name=ar"], ["--set objective.aux=1: objective.aux: unknown key"]),
        (["seed=x", "model.heads=y"], ["--set seed=x: seed", "--set model.heads=y: model.heads"]),
    ],
)  # fmt: skip
def test_mistakes_in_set(changes: list[str], mistakes: list[str]) -> None:
    lines = [line for line in _message("demo", *changes).split("\n  ") if line.startswith("--set")]
    assert len(lines) == len(mistakes)
    for line, mistake in zip(lines, mistakes, strict=True):
        assert line.startswith(mistake)


def test_file_and_set_are_reported_together_in_order(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\nmodel:\n  tie: x\nseed: -1\n")
    lines = _message(file, "training.updates=0", objective="x").split("\n  ")
    places = [line.split(": ")[0] for line in lines[1:]]
    assert places == [f"{file}:3", f"{file}:4", "--objective x", "--set training.updates=0"]


def test_set_is_applied_last_and_in_order(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\nseed: x\nmodel: {width: 64, heads: 2}\n")
    recipe = recipe_load.load(
        file, ["seed=1", "seed=2", "model.width=32", "data.dir=a=b", "data.synthetic.train=10", "objective.kl_start=5"]
    )
    assert (recipe.seed, recipe.model.width, recipe.model.heads, recipe.data.dir) == (2, 32, 2, "a=b")
    assert recipe.data.synthetic is not None
    assert recipe.data.synthetic.train == 10
    assert recipe.plain()["objective"]["kl_start"] == 5
    assert recipe_load.load(file, ["seed=1", "model={heads: 8}"]).model.width == 512
    assert recipe_load.load("demo", ["data.dir=x", "data.dir="]).data.dir is None


def test_objective_is_exchanged_and_nothing_else(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\nobjective: {name: janus, kl_start: 7, label_smoothing: 0.3}\nseed: 4\n")
    kept, changed = recipe_load.load(file, objective="janus"), recipe_load.load(file, objective="cmlm")
    assert kept == recipe_load.load(file)
    assert changed.plain()["objective"] == {**recipe_load.load("demo", objective="cmlm").plain()["objective"]}
    assert changed.objective.label_smoothing == 0.1
    assert {**changed.plain(), "objective": None} == {**kept.plain(), "objective": None}
    assert recipe_load.load(file, ["objective.label_smoothing=0"], "ar").plain()["objective"] == {
        "name": "ar", "ar_stream": "content", "label_smoothing": 0.0
    }  # fmt: skip


def test_objective_without_a_name_is_the_default_one(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\nobjective: {kl_start: 7}\n")
    assert recipe_load.load(file, objective="janus").plain()["objective"]["kl_start"] == 7


def test_names_come_before_files_and_unknown_ones_are_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "own").write_text("name: own\n", encoding="utf-8")
    assert recipe_load.load("demo").name == "demo"
    assert recipe_load.load("own").name == "own"
    with pytest.raises(UsageError, match="no recipe named 'iwslt1', did you mean iwslt14") as caught:
        recipe_load.load("iwslt1")
    assert all(name in caught.value.hint for name in recipe_load.available())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.yaml", "cannot read the recipe missing.yaml: No such file"),
        ("./", "Is a directory"),
        ("/dev/zero", "larger than 1,000,000 bytes"),
        ("a\0/b", "cannot read the recipe"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert words in _message(name)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = _write(tmp_path, b"name: a\nabout: \xff\n")
    assert _message(file) == f"{file}:2: not UTF-8 (byte 16)"


def test_a_thousand_mistakes_are_cut(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\n" + "".join(f"x{number}: 1\n" for number in range(1000)))
    lines = _message(file).split("\n  ")
    assert (lines[0], lines[-1], len(lines)) == ("1000 mistakes in the recipe", "... and 960 more", 42)
