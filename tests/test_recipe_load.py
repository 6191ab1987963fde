"""Recipe files and `--set`: what is found, what is read, and how every mistake is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from janus_cli import recipe_load
from janus_cli.commands.recipes import explain
from janus_cli.errors import UsageError


def _write(folder: Path, content: str | bytes | dict[str, Any]) -> str:
    file = folder / "mine.yaml"
    content = json.dumps(content) if isinstance(content, dict) else content
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(file)


def _mistakes(name: str, *overrides: str, objective: str | None = None) -> list[str]:
    with pytest.raises(UsageError) as caught:
        recipe_load.load(name, overrides, objective)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    first, *lines = caught.value.message.split("\n  ")
    if lines:
        assert first == f"{len(lines)} mistakes in the recipe"
    return lines or [first]


@pytest.mark.parametrize("name", list(recipe_load.available()))
def test_dump_reads_back_unchanged(tmp_path: Path, name: str) -> None:
    words = [
        "tokenizer.kind=words",
        "tokenizer.joiner=@@",
        "tokenizer.character_coverage=0.5",
    ]  # as an old run may have
    recipe = recipe_load.load(name, ["about='1e-4'", "data.notes=no", *words])
    assert (recipe.about, recipe.data.notes, recipe.tokenizer.joiner) == ("1e-4", "no", "@@")
    text = recipe_load.dump(recipe)
    again = recipe_load.load(_write(tmp_path, text))
    assert again == recipe
    assert recipe_load.dump(again) == text


def test_values_that_plain_yaml_would_spoil(tmp_path: Path) -> None:
    text = """name: no\nabout: off\nseed: 010\ntraining: {learning_rate: 1e-4, epsilon: 5E-9, clip: 1}
data: {source: no, target: on, clean: [nfc, lowercase]}
"""
    recipe = recipe_load.load(_write(tmp_path, text))
    assert (recipe.name, recipe.about, recipe.seed) == ("no", "off", 10)
    assert (recipe.training.learning_rate, recipe.training.epsilon, recipe.training.clip) == (1e-4, 5e-9, 1.0)
    assert (recipe.data.source, recipe.data.target, recipe.data.clean) == ("no", "on", ("nfc", "lowercase"))
    assert recipe_load.load(_write(tmp_path, b"\xef\xbb\xbfname: a\r\nseed: 3\r\n")).seed == 3


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        ("model:\n  widht: 3\n", ["3: model.widht: unknown key, did you mean width? Valid here: width, fe"]),
        ("learning_rate: 1\n", ["2: learning_rate: unknown key, did you mean training.learning_rate? "]),
        ("model: {seed: 1}\n", ["2: model.seed: unknown key, did you mean seed? Valid here: width"]),
        ("zzz: 1\n", ["2: zzz: unknown key. Valid here: name, about, seed, data"]),
        ("objective:\n  name: cmlm\n  kl_start: 1\n", ["4: objective.kl_start: unknown key. Valid he"]),
        ("objective: {name: ar, janus: 1}\n", ["2: objective.janus: unknown key"]),
        ("objective:\n  noise:\n    spam: 1\n", ["4: objective.noise.spam: unknown key, did you mean spans?"]),
        ("objective: {name: jnus}\n", ["2: objective.name: no such objective (got jnus; choose from ar, "]),
        ("objective: cmlm\n", ["2: objective: should be a section of `key: value` lines (got \"cmlm\")"]),
        ("data:\n  downloads:\n    - save_as: x\n", ["4: data.downloads.0.url: is missing"]),
        ("model:\n  heads: true\n", ["3: model.heads: should be a valid integer (got true)"]),
        ("model:\n  heads: '5'\n", ["3: model.heads: should be a valid integer (got \"5\")"]),
        ("model:\n  dropout: .nan\n", ["3: model.dropout: should be a finite number (got NaN)"]),
        ("model:\n  dropout: 1e999\n", ["3: model.dropout: should be a finite number (got Infinity)"]),
        ("model:\n  dropout: no\n", ["3: model.dropout: should be a valid number (got \"no\")"]),
        ("model:\n  dropout: 2\n", ["3: model.dropout: should be less than 1 (got 2)"]),
        ("model:\n  tie: al\n", ["3: model.tie: should be 'all', 'target' or 'none' (got \"al\"), did you"]),
        ("training: 3\n", ["2: training: should be a section of `key: value` lines (got 3)"]),
        ("data: {clean: nfc}\n", ["2: data.clean: should be a list (got \"nfc\")"]),
        ("seed: -1\n", ["2: seed: should be greater than or equal to 0 (got -1)"]),
        ("data:\n  dir: !!python/object/apply:os.system [ls]\n", ["3: data.dir: tags are not allowed"]),
        ("a: &a [x, x]\nb: &b [*a, *a]\n", ["2: a: anchors", "2: a: unknown key", "3: b: anchors",
                                            "3: b: unknown key", "3: b.0: aliases", "3: b.1: aliases"]),
        ("model: [1\n", ["3: not YAML"]),
        # Bytes are the whole file:
        (b"seed: 1\n", ["1: name: is missing"]),
        (b"- name\n", ["1: a recipe is a set of `key: value` lines (got ['name'])"]),
        (b"", ["1: a recipe is a set of `key: value` lines (got None)"]),
        (b"name: a\nabout: \xff\n", ["2: not UTF-8 (byte 16)"]),
        # What does not fit together:
        ("model:\n  width: 30\n", ["2: model: width 30 is not a multiple of heads 4"]),
        ("model: {attention: flex, attention_dropout: 0.1}", ["2: model: attention flex has no dropout"]),
        ("model:\n  max_length: 9\n", ["1: data.max_tokens: 175 + BOS + EOS does not fit model.max_length 9"]),
        ("data:\n  max_tokens: 999\n", ["3: data.max_tokens: 999 + BOS + EOS does not fit model.max_len"]),
        ("data: {max_target_tokens: 255}\n", ["2: data.max_target_tokens: 255 + BOS + EOS does not fit model.max_len"]),
        ("data: {max_source_tokens: 256}\n", ["2: data.max_source_tokens: 256 + EOS does not fit model.max_len"]),
        ("data: {max_source_tokens: 255}\nmodel: {source_suffix: 7}\n",
         ["2: data.max_source_tokens: 255 + EOS + source_suffix does not fit model.max_len"]),
        ("data: {max_source_tokens: 0}\n", ["2: data.max_source_tokens: should be greater than or equal to 1 (got 0)"]),
        ("data: {max_ratio: 0.5}\n", ["2: data.max_ratio: should be greater than or equal to 1 (got 0.5)"]),
        ("data: {source: de, target: de}", ["2: data: source and target are both 'de'"]),
        ("data: {valid: train}", ["2: data: train, valid and test need three names"]),
        ("tokenizer: {joint: false}", ["1: model.tie: all needs tokenizer.joint true"]),
        ("tokenizer: {joiner: '@@'}", ["2: tokenizer: joiner '@@' joins parts of words: it needs kind words"]),
        ("tokenizer: {character_coverage: 0.9}", ["2: tokenizer: character_coverage 0.9 is too small"]),
        ("objective: {name: cemat}\ntokenizer: {joint: false}\nmodel: {tie: target}",
         ["2: objective.switched: puts target words into sources: it needs tokenizer.joint true, or 0"]),
        ("objective: {name: cemat, source_least: 0.3}", ["2: objective: source_least 0.3 is more than source_most"]),
        ("objective: {name: cemat, target_most: 0.1}", ["2: objective: target_least 0.2 is more than target_most"]),
        ("objective: {name: cmlm, noise: {}}", ["2: objective.noise: all of uniform, spans, fixed, suffix and full"]),
        ("objective: {noise: {spans: 0.5, span_budget: 0}}", ["2: objective.noise: span_budget is 0: spans would"]),
    ],
)  # fmt: skip
def test_mistakes_in_a_file(tmp_path: Path, text: str | bytes, mistakes: list[str]) -> None:
    file = _write(tmp_path, text if isinstance(text, bytes) else f"name: a\n{text}")
    for line, mistake in zip(_mistakes(file), mistakes, strict=True):
        assert line.startswith(f"{file}:{mistake}")


@pytest.mark.parametrize("value", ["../x", "/etc/x", "a/b", "..", ".x", "", "a\\b", "a b", "x\n"])
@pytest.mark.parametrize("key", ["name", "source", "target", "train", "valid", "test", "save_as"])
def test_names_that_become_paths_stay_inside(tmp_path: Path, key: str, value: str) -> None:
    section: dict[str, Any] = {key: value}
    if key != "name":
        data = {"downloads": [{"url": "http://x", "save_as": value}]} if key == "save_as" else {key: value}
        section = {"name": "x", "data": data}
    (line,) = _mistakes(_write(tmp_path, section))
    assert f"{key}: should be a plain name" in line


@pytest.mark.parametrize(
    ("changes", "mistakes"),
    [
        (["seed"], ["--set seed: expected KEY=VALUE"]),
        (["=3"], ["--set =3: expected KEY=VALUE"]),
        (["model..width=3"], ["--set model..width=3: expected KEY=VALUE"]),
        (["model.widht=3"], ["--set model.widht=3: model.widht: unknown key, did you mean width?"]),
        (["training.lr=3"], ["--set training.lr=3: training.lr: unknown key, did you mean learning_rate?"]),
        (["lr=3"], ["--set lr=3: lr: unknown key, did you mean training.learning_rate?"]),
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
    lines = [line for line in _mistakes("demo", *changes) if line.startswith("--set")]
    for line, mistake in zip(lines, mistakes, strict=True):
        assert line.startswith(mistake)


def test_mistakes_are_reported_together_in_order_and_a_thousand_are_cut(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\nmodel:\n  tie: x\nseed: -1\n")
    places = [line.split(": ")[0] for line in _mistakes(file, "training.updates=0", objective="x")]
    assert places == [f"{file}:3", f"{file}:4", "--objective x", "--set training.updates=0"]
    file = _write(tmp_path, "name: a\n" + "".join(f"x{number}: 1\n" for number in range(1000)))
    with pytest.raises(UsageError) as caught:
        recipe_load.load(file)
    lines = caught.value.message.split("\n  ")
    assert (lines[0], lines[-1], len(lines)) == ("1000 mistakes in the recipe", "... and 960 more", 42)


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


GLGE = ("cnndm", "gigaword", "xsum", "msnews", "squad_qg_glge", "msqg", "coqa", "personachat")
OWN = {  # of a task; all else is common to the eight, so that one pre-trained model and one tokenizer serve them all
    "data": {"notes", "clean"},
    "scoring": {"metric", "task"},
    "decoding": {"beam", "length_penalty", "min_length", "max_extra"},
    "training": {
        "updates", "batch_tokens", "accumulate", "learning_rate", "warmup", "beta2", "weight_decay", "clip",
        "validate_every", "save_every",
    },
}  # fmt: skip


def test_recipes_of_glge_differ_in_their_tasks_only() -> None:
    common = []
    for name in GLGE:
        sections = recipe_load.load(name).plain()
        del sections["name"], sections["about"]
        for section, keys in OWN.items():
            sections[section] = {key: value for key, value in sections[section].items() if key not in keys}
        common.append(sections)
    assert common == common[:1] * len(GLGE)


def test_objective_is_exchanged_and_nothing_else(tmp_path: Path) -> None:
    file = _write(tmp_path, "name: a\nobjective: {kl_start: 7, label_smoothing: 0.3}\nseed: 4\n")  # janus, if unnamed
    kept, changed = recipe_load.load(file, objective="janus"), recipe_load.load(file, objective="cmlm")
    assert kept == recipe_load.load(file)
    assert kept.plain()["objective"]["kl_start"] == 7
    assert changed.plain()["objective"] == recipe_load.load("demo", objective="cmlm").plain()["objective"]
    assert changed.objective.label_smoothing == 0.1
    assert {**changed.plain(), "objective": None} == {**kept.plain(), "objective": None}
    assert recipe_load.load(file, ["objective.label_smoothing=0"], "ar").plain()["objective"] == {
        "name": "ar", "ar_stream": "content", "label_smoothing": 0.0, "rdrop": 0.0
    }  # fmt: skip


def test_a_name_is_guessed_by_its_beginning_too() -> None:
    assert recipe_load.guess("jaen", ["demo-ar", "jaen-janus"]) == ", did you mean jaen-janus?"
    assert recipe_load.guess("zz", ["zz-janus", "demo"]) == ""


def test_names_come_before_files_and_unknown_ones_are_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    (tmp_path / "own").write_text("name: own\n", encoding="utf-8")
    assert recipe_load.load("demo").name == "demo"
    assert recipe_load.load("own").name == "own"
    with pytest.raises(UsageError, match="no recipe named 'iwslt1', did you mean iwslt14") as caught:
        recipe_load.load("iwslt1")
    assert all(name in caught.value.hint for name in recipe_load.available())
    for name, words in (
        ("missing.yaml", "cannot read the recipe missing.yaml: No such file"),
        ("./", "Is a directory"),
        ("/dev/zero", "a pipe or a device"),
        ("a\0/b", "cannot read the recipe"),
    ):
        assert words in _mistakes(name)[0]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("scoring.metric=bleuu", "scoring.metric"), ("training.updates=1e2", "training.updates"),
        ("seed=a", "seed"), ("data.files.train=[1]", "data.files.train"), ("objective.kl_sure=2", "objective.kl_sure"),
        ("data.max_tokens=99", "data.max_tokens"),
    ],
)  # fmt: skip
def test_the_hint_at_a_bad_value_explains_its_knob(change: str, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_load.load("demo", [change])
    assert f"`janus recipes explain {key}`" in caught.value.hint
    assert key in explain([key])


def test_an_unknown_option_of_decoding_is_answered_with_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        recipe_load.change_decoding(recipe_load.load("demo"), {"nbeam": 4})
    assert "`janus recipes explain decoding`" in caught.value.hint


def test_a_limit_that_the_model_is_too_short_for_is_answered_with_one_that_fits() -> None:
    with pytest.raises(UsageError) as caught:
        recipe_load.load("demo", ["data.max_tokens=99"])
    change = caught.value.message.partition("; --set ")[2].split()[0]
    assert recipe_load.load("demo", [change]).data.max_tokens == 62
