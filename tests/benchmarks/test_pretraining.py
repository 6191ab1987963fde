"""The study of pre-training: equal trainings, the right weights to start from, and nothing that is done twice."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from janus_cli.errors import UsageError

Words = list[str]
SCORES = {"scores": [{"name": "bleu", "value": 12.5}], "comparisons": []}
ROW = {
    "system": "s", "label": "ar.beam5", "seeds": [1, 2], "passes": 7.0,
    "repeats": {"words": 0.0, "trigrams": 0.0, "length": 1.0}, "speed": {"sentences_per_second": {"median": 3.0}},
}  # fmt: skip


def option(words: Words, name: str) -> str:
    return words[words.index(name) + 1]


def done(words: Words) -> str:
    """What a command leaves behind when it is through."""
    files: dict[str, Any] = {}
    if words[0] == "preprocess":
        files["manifest.json"] = {}
        out = option(words, "--out")
    elif words[0] == "train":
        (steps,) = [word.removeprefix("training.updates=") for word in words if word.startswith("training.updates=")]
        files["checkpoints/last/state.json"], out = {"step": int(steps)}, option(words, "--run")
    elif words[0] == "compare":
        seeds = [{"seed": int(seed), "failed": {}} for seed in option(words, "--seeds").split(",")]
        settings, out = {"steps": int(option(words, "--steps"))}, option(words, "--out")
        files["comparison.json"] = {"systems": seeds, "rows": [ROW], "settings": settings}
    else:
        return json.dumps(SCORES)
    for name, content in files.items():
        (Path(out) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(out) / name).write_text(json.dumps(content))
    return ""


@pytest.fixture
def calls(scripts: SimpleNamespace, empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Words]:
    """The commands that are run, each of which does what is expected of it at once. Its text is in `texts`."""
    made: list[Words] = []

    def janus(*words: object) -> str:
        made.append([*map(str, words)])
        return done(made[-1])

    monkeypatch.setattr(scripts.pretraining, "janus", janus)
    for name in scripts.pretraining.PLAIN:
        for split, lines in (("train", ["one", "two", name]), ("valid", ["two", "three"])):
            path = Path("texts") / name.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{line}\n" for line in lines))
    return made


def test_trainings_are_equal_start_where_they_say_and_are_not_repeated(
    scripts: SimpleNamespace, calls: list[Words], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--data", "texts", "--out", "out", "--steps", "40", "--tuning-steps", "30", "--seeds", "1,2"]
    scripts.pretraining.main(asked)
    pretrained = [words for words in calls if words[0] == "train"]
    assert sorted(option(words, "--objective") for words in pretrained) == ["ar", "bang", "janus"]
    for same in ("--prepared", "--recipe"):
        assert len({option(words, same) for words in pretrained}) == 1
    assert all("training.updates=40" in words for words in pretrained)
    tuned = [words for words in calls if words[0] == "compare"]
    assert len(tuned) == 12
    for words in tuned:
        objective, start = option(words, "--out").partition("-")[2].split("-from-")
        assert option(words, "--variant").startswith(f"{objective}: {objective}")
        assert option(words, "--steps") == "30"
        if start == "nothing":
            assert "--from" not in words
        else:
            assert option(words, "--from") == f"out/pretrain-{start}/checkpoints/last"
    prepared = [words for words in calls if words[0] == "preprocess"]
    assert sum('tokenizer.reuse="out/text"' in words for words in prepared) == 2
    table = capsys.readouterr().out
    assert table.count("| janus-from-nothing |") == 4
    calls.clear()
    scripts.pretraining.main(asked)
    assert calls == []
    assert capsys.readouterr().out == table


def test_the_text_has_no_line_twice_and_validation_none_of_training(
    scripts: SimpleNamespace, calls: list[Words]
) -> None:
    scripts.pretraining.main(["--data", "texts", "--out", "out", "--only", "pretrain-ar"])
    assert Path("out/plain/train.en").read_text().split("\n") == ["one", "two", *scripts.pretraining.PLAIN, ""]
    assert Path("out/plain/valid.en").read_text() == "three\n"
    assert [option(words, "--objective") for words in calls if words[0] == "train"] == ["ar"]


def test_a_fine_tuning_waits_for_its_pre_training(scripts: SimpleNamespace, calls: list[Words]) -> None:
    asked = ["--data", "texts", "--out", "out", "--only", "e2e_nlg-bang-*"]
    with pytest.raises(UsageError, match="pretrain-bang"):
        scripts.pretraining.main([*asked, "--steps", "40"])
    scripts.pretraining.main(["--data", "texts", "--out", "out", "--only", "pretrain-bang", "--steps", "40"])
    with pytest.raises(UsageError, match="pretrain-bang"):
        scripts.pretraining.main([*asked, "--steps", "50"])
    scripts.pretraining.main([*asked, "--steps", "40"])
    assert [words[0] for words in calls].count("compare") == 1
