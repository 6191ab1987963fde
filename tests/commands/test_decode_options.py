"""Options that forbid, draw or spread hypotheses, through the command line: what they change."""

import re
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from untrained import LINES, lines, records, source

from janus_cli import load
from janus_cli.core.batch import UNK
from janus_cli.core.model import Transformer
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.engines import engine
from janus_cli.recipe_load import dump
from janus_cli.recipe_load import load as load_recipe
from janus_cli.runs import teacher
from tests.faults.processes import relabel
from tests.helpers import Janus, ends, printed, read_json, write_lines

KEPT = Path("runs/janus/decode")
PUBLISHED = Path(__file__).parents[2] / "pretrained" / "translit-enru"
OFF = [
    "--temperature", "0", "--top-k", "0", "--top-p", "1", "--diversity", "0", "--groups", "0", "--min-length", "0",
    "--no-repeat-ngram", "0", "--unk", "keep", "--rewrite-repeats", "0",
    "--allow-repeats",
]  # fmt: skip
WAYS = [
    ("ar", ["--mode", "ar"]), ("ar", ["--beam", "1"]), ("janus", ["--mode", "nar"]), ("janus", ["--mode", "spec"]),
    ("cmlm", []), ("mpnet", ["--mode", "ar"]), ("mpnet", ["--mode", "nar", "--rerank", "ar"]),
    ("bang", ["--mode", "ar"]), ("bang", ["--mode", "nar"]), ("bang", ["--mode", "semi"]), ("xlnet", []),
    ("prophetnet", []),
]  # fmt: skip


@pytest.fixture
def unk_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models write <unk> often."""
    plain = Transformer.logits

    def logits(self: Transformer, states: Tensor) -> Tensor:
        found = plain(self, states).clone()
        found[..., UNK] = found[..., 40:60].amax(-1)
        return found

    monkeypatch.setattr(Transformer, "logits", logits)
    monkeypatch.setattr(engine, "without_graph", lambda *_, **__: "graphs do not call it")


def decoded(janus: Janus, *arguments: str) -> list[dict[str, Any]]:
    return records(printed(janus(*arguments, "--jsonl")))


def every(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for record in found for each in record.get("nbest", [record])]


def options_said(err: str) -> str:
    said = re.search(r"^decoding .*", err, re.MULTILINE)
    assert said
    return said[0]


@pytest.mark.parametrize(("run", "mode"), WAYS)
def test_what_is_off_changes_nothing_in_any_mode(janus: Janus, run: str, mode: list[str]) -> None:
    expected = janus("--run", run, *mode)
    found = janus("--run", run, *mode, *OFF)
    assert found[:2] == expected[:2]
    assert len({file.stem for file in Path(f"runs/{run}/decode").iterdir()}) == 2, "the same names, and the reference"
    assert options_said(found[2]) == options_said(expected[2])
    assert run == "bang" or janus("--run", run, *mode, "--keep-repeats")[:2] == expected[:2]  # on in its recipe


def test_reranking_one_length_is_said(janus: Janus) -> None:
    said = {count: janus("--mode", "nar", "--rerank", "ar", "--length-beam", count)[2] for count in ("1", "5")}
    assert "warning: --rerank ar" in said["1"]
    assert "warning: --rerank" not in said["5"]


def in_recipe(changes: list[str]) -> None:
    """Changes the decoding section of the recipe that the checkpoint has."""
    folder = Path("runs/janus/checkpoints/last").resolve()
    recipe = folder / "recipe.yaml"
    recipe.write_text(dump(load_recipe(str(recipe), changes)), encoding="utf-8")
    relabel(folder)


def test_what_the_recipe_turns_on_for_another_mode_is_said(janus: Janus) -> None:
    plain = janus("--mode", "nar")
    in_recipe(["decoding.temperature=0.7", "decoding.min_length=2", "decoding.top_k=5"])
    code, out, err = janus("--mode", "nar")
    assert (code, out) == plain[:2]
    assert "warning: decoding.temperature 0.7, from the recipe, is not used: this decodes with --mode nar" in err
    assert "warning: decoding.min_length 2, from the recipe, is not used" in err
    assert "top_k" not in err
    off = re.findall(r"(--set) (decoding\.\w+=\w+) turns it off", " ".join(err.split()))
    assert "is not used" not in janus("--mode", "nar", *chain(*off))[2]
    ends(janus("--mode", "nar", "--nbest", "9", "--length-beam", "5"), 2, "--nbest 9 is more than --length-beam 5")
    in_recipe(["decoding.temperature=0", "decoding.min_length=0", "decoding.top_k=0",
               "decoding.avoid_repeats=true", "decoding.rewrite_repeats=1"])  # fmt: skip
    assert "is not used" not in janus("--mode", "ar")[2], "left to right has no need of that"


def test_diversity_in_a_recipe_spreads_nbest_and_is_off_without(janus: Janus) -> None:
    plain = janus()
    in_recipe(["decoding.diversity=0.5", "decoding.groups=3"])
    code, out, err = janus()
    assert (code, out) == plain[:2]
    said = "warning: decoding.diversity 0.5, from the recipe, is not used: --nbest is 1; "
    assert said in err
    assert "groups" not in err
    assert "is not used" not in janus("--diversity", "0")[2]
    assert janus("--nbest", "3", "--dry-run")[2].count("diversity 0.5, groups 3") == 1
    _, _, err = janus("--nbest", "3", "--set", "decoding.temperature=0.8")
    assert "decoding.diversity 0.5, from the recipe, is not used: --temperature is on" in err
    assert "groups" not in options_said(err) + " ".join(file.name for file in KEPT.iterdir())


@pytest.mark.parametrize(
    ("mode", "change"),
    [
        ("nar", "length_penalty=2.0"), ("nar", "beam=7"), ("spec", "nbest=5"), ("ar", "iters=3"), ("ar", "top_k=5"),
        ("ar", "remove_repeats=true"), ("nar", "early_stopping=never"),
    ],
)  # fmt: skip
def test_what_set_changes_in_vain_is_said(janus: Janus, mode: str, change: str) -> None:
    code, out, err = janus("--mode", mode, "--set", f"decoding.{change}")
    assert (code, out) == janus("--mode", mode)[:2]
    assert f"warning: --set decoding.{change.partition('=')[0]}=" in err
    assert "is not used" in err


@pytest.mark.parametrize("engine", ["onnx", "torch"])
@pytest.mark.parametrize("change", ["first_token=4000", "unwritten=[5, 4000]"])
def test_ids_that_the_vocabulary_lacks_are_refused(janus: Janus, change: str, engine: str) -> None:
    found = janus("--set", f"decoding.{change}", "--engine", engine)
    ends(found, 2, f"{change.partition('=')[0]} 4000", out="")


@pytest.mark.parametrize("mode", ["nar", "semi", "ar"])
def test_a_minimum_in_the_recipe_raises_the_limit_only_where_it_holds(janus: Janus, mode: str) -> None:
    minimum = ("--set", "decoding.min_length=20", "--set", "decoding.max_ratio=0", "--set", "decoding.max_extra=3")
    found = decoded(janus, "--run", "bang", "--mode", mode, *minimum)
    sizes = {len(record["ids"]) for record in found}
    assert sizes <= ({*range(20, 24)} if mode == "ar" else {*range(4)})
    assert mode != "ar" or max(sizes) > 20, "there is room beyond the minimum"


def test_what_is_said_of_the_limit_includes_the_minimum(janus: Janus) -> None:
    """Outputs are not forced to the minimum, and may be longer than the limit without it."""
    words = ["--run", "ar", "--set", "decoding.max_ratio=0", "--set", "decoding.max_extra=3"]
    _, out, err = janus(*words, "--min-length", "20", "--jsonl")
    assert {len(record["ids"]) for record in records(out)} - {0} <= {20, 21, 22, 23}
    assert "cuda_graphs" not in err, "no CUDA is used"
    assert "(0 × source + 3 tokens, or 20 + 3 if that is more)" in err
    assert "(0 × source + 3 tokens)" in janus(*words)[2]


def test_null_is_the_limit_of_the_checkpoint(janus: Janus) -> None:
    expected = janus()[:2]
    code, out, err = janus("--set", "decoding.max_ratio=null", "--set", "decoding.max_extra=null")
    assert (code, out) == expected
    assert "max_ratio 0.5, max_extra 2" in err
    assert {file.name for file in KEPT.glob("*.json")} == {"test.ar.beam3.json"}


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        (["--beam", "2", "--length-penalty", "0.6"], "ar.beam2.lp0.6"),
        (["--mode", "nar", "--length-beam", "2", "--rerank", "ar", "--update", "all"], "nar3.lb2.all.rerank"),
        (["--mode", "nar", "--iters", "4", "--remove-repeats", "--checkpoint", "step-000001"],
         "nar4.lb3.norepeats.step-000001"),
        (["--mode", "spec", "--redraft", "ar", "--precision", "bf16"], "spec.redraft-ar.bf16"),
        (["--split", "valid", "--set", "decoding.max_extra=2"], "ar.beam3"),
        (["--mode", "nar", "--nbest", "2", "--unk", "ban"], "nar3.lb3.unkban.nbest2"),
        (["--temperature", "1", "--top-k", "9", "--top-p", "0.25", "--seed", "3", "--nbest", "2"],
         "ar.sample.t1.k9.p0.25.seed3.nbest2"),
        (["--diversity", "0.5", "--nbest", "3"], "ar.beam3.diversity0.5.nbest3"),
        (["--diversity", "2", "--groups", "2", "--beam", "4", "--nbest", "2"],
         "ar.beam4.diversity2.groups2.nbest2"),
        (["--no-repeat-ngram", "2", "--min-length", "4"], "ar.beam3.ngram2.min4"),
        (["--mode", "nar", "--rewrite-repeats", "2", "--no-repeat-ngram", "3"], "nar3.lb3.ngram3.rewrite2"),
        (["--mode", "nar", "--avoid-repeats", "--remove-repeats"], "nar3.lb3.avoid.norepeats"),
        (["--set", "decoding.max_extra=3", "--set", "decoding.max_ratio=1"], "ar.beam3.ratio1.extra3"),
        (["--set", "decoding.max_ratio=0.5", "--unk", "ban", "--precision", "bf16"], "ar.beam3.unkban.bf16"),
        (["--set", "decoding.early_stopping=never", "--set", "decoding.first_token=9"], "ar.beam3.stopnever.first9"),
    ],
)  # fmt: skip
def test_two_settings_that_write_different_texts_have_files_of_their_own_which_are_replaced(
    janus: Janus, arguments: list[str], label: str
) -> None:
    code, out, err = janus(*arguments)
    assert (code, "replacing" in err) == (0, False)
    split = "valid" if "valid" in arguments else "test"
    expected = {f"{split}.{label}.{suffix}" for suffix in ("txt", "jsonl", "json")} | {f"{split}.reference.txt"}
    assert {file.name for file in KEPT.iterdir()} == expected
    assert read_json(KEPT / f"{split}.{label}.json")["label"] == label.removesuffix(".step-000001")
    ends(janus(*arguments), 0, "replacing", out=out)
    assert {file.name for file in KEPT.iterdir()} == expected


@pytest.mark.parametrize(
    ("options", "drafted", "verified"),
    [([], 16, 16), (["--verify-window", "3"], 16, 3), (["--redraft", "ar"], 64, 64)],
)
def test_as_many_drafted_tokens_are_told_as_the_engine_takes(
    janus: Janus, options: list[str], drafted: int, verified: int
) -> None:
    err = janus("--run", "janus", "--mode", "spec", "--dry-run", *options)[2]
    assert f"draft_length {drafted}, verify_window {verified}," in err


EVERY_SEARCH = [
    ("ar", ["--beam", "1"]), ("janus", ["--beam", "5", "--nbest", "5"]), ("mpnet", ["--mode", "ar"]),
    ("cmlm", []), ("mpnet", ["--mode", "nar"]), ("bang", ["--mode", "nar"]),
    ("janus", ["--mode", "nar", "--rerank", "ar", "--update", "all", "--remove-repeats"]),
    ("janus", ["--mode", "nar", "--unk", "ban", "--rerank", "ar"]), ("bang", ["--mode", "semi", "--unk", "ban"]),
    ("janus", ["--mode", "spec"]), ("janus", ["--mode", "spec", "--redraft", "ar", "--verify-window", "3"]),
    ("ar", ["--temperature", "0.8", "--nbest", "5"]), ("xlnet", ["--temperature", "1", "--top-p", "0.9"]),
    ("prophetnet", ["--temperature", "0.5", "--top-k", "20"]), ("mpnet", ["--mode", "ar", "--temperature", "1"]),
    ("mpnet", ["--mode", "ar", "--beam", "4", "--groups", "2", "--diversity", "0.8", "--nbest", "4"]),
    ("janus", ["--no-repeat-ngram", "1"]), ("ar", ["--beam", "1", "--min-length", "8"]),
    ("janus", ["--mode", "nar", "--rewrite-repeats", "2", "--no-repeat-ngram", "3", "--rerank", "ar"]),
    ("bang", ["--mode", "semi", "--no-repeat-ngram", "2"]),
]  # fmt: skip


@pytest.mark.parametrize(("run", "options"), EVERY_SEARCH)
def test_batch_size_order_and_threads_change_no_hypothesis(
    janus: Janus, unk_everywhere: None, run: str, options: list[str]
) -> None:
    write_lines("text", source())
    write_lines("reversed", reversed(source()))

    def hypotheses(*arguments: str) -> list[list[str]]:
        found = decoded(janus, "--run", run, *options, *arguments)
        return [[each["hypothesis"] for each in record.get("nbest", [record])] for record in found]

    expected = hypotheses("--input", "text", "--batch-sentences", "64")
    assert len({tuple(each) for each in expected}) > LINES / 2
    assert hypotheses("--input", "text", "--batch-sentences", "1", "--threads", "2") == expected
    assert hypotheses("--input", "reversed", "--batch-sentences", "7") == expected[::-1]


def test_another_seed_draws_others_the_same_draws_the_same_and_samples_are_sorted(janus: Janus) -> None:
    sampling = ("--temperature", "1", "--nbest", "4", "--input", "-")
    text = "\n".join([*source()[:3], source()[0]]).encode()
    (first, again, other) = (
        records(janus(*sampling, "--seed", seed, "--jsonl", stdin=text)[1]) for seed in ("1", "1", "2")
    )
    assert first == again
    assert first[0]["nbest"] == first[3]["nbest"], "the same text"
    assert [record["nbest"] for record in first] != [record["nbest"] for record in other]
    for record in first:
        scores = [each["score"] for each in record["nbest"]]
        assert scores == sorted(scores, reverse=True)
        for each in record["nbest"]:
            assert each["score"] == pytest.approx(sum(each["logps"]) / each["length"], abs=1e-5)
    assert len({each["hypothesis"] for each in every(first)}) > 8


def test_rules_hold_in_every_hypothesis(janus: Janus) -> None:
    roomy = ("--set", "decoding.max_extra=20", "--beam", "3", "--nbest", "3")
    free = every(decoded(janus, *roomy))
    ruled = every(decoded(janus, *roomy, "--no-repeat-ngram", "2", "--min-length", "5"))
    assert any(len({*pairwise(each["ids"])}) < len(each["ids"]) - 1 for each in free)
    for each in ruled:
        assert len({*pairwise(each["ids"])}) == max(0, len(each["ids"]) - 1)
        assert len(each["ids"]) >= 5


@pytest.mark.parametrize(
    ("run", "mode"),
    [("cmlm", ["--nbest", "3"]), ("janus", ["--mode", "nar", "--rerank", "ar"]), ("bang", ["--mode", "nar"]),
     ("bang", ["--mode", "semi"])],
)  # fmt: skip
def test_no_ngram_comes_twice_where_several_tokens_are_written_in_a_pass(
    janus: Janus, run: str, mode: list[str]
) -> None:
    """And an output in which none did is the same to the last digit."""
    words = ("--run", run, *mode, "--keep-repeats", "--engine", "torch")
    free, ruled = (every(decoded(janus, *words, *rule)) for rule in ((), ("--no-repeat-ngram", "2")))
    repeats = [len({*pairwise(each["ids"])}) < len(each["ids"]) - 1 for each in free]
    assert {*repeats} == {True, False}
    assert all(len({*pairwise(each["ids"])}) == max(0, len(each["ids"]) - 1) for each in ruled)
    assert [each for each, again in zip(ruled, repeats, strict=True) if not again] == [
        each for each, again in zip(free, repeats, strict=True) if not again
    ]


def test_diverse_hypotheses_differ_more_than_those_of_a_beam(janus: Janus) -> None:
    def starts(*arguments: str) -> float:
        found = decoded(janus, "--beam", "4", "--nbest", "4", *arguments)
        return sum(len({each["ids"][:1][0] for each in record["nbest"] if each["ids"]}) for record in found) / LINES

    assert starts("--diversity", "50") > starts() + 0.5


def test_fewer_hypotheses_than_asked_for_are_said(janus: Janus) -> None:
    code, out, err = janus("--nbest", "3", "--set", "decoding.max_ratio=0", "--set", "decoding.max_extra=0")
    assert code == 0
    assert lines(out) == [f"{index}\t{line.split(chr(9))[1]}\t" for index, line in enumerate(lines(out))]
    assert "20 lines with fewer than 3 hypotheses" in err
    assert "fewer than" not in janus("--nbest", "3")[2]
    assert "at most" in " ".join(janus("--help")[1].split()).split("--nbest")[1]


def test_unks_are_counted_and_can_be_banned(janus: Janus, unk_everywhere: None) -> None:
    for mode, label in (("ar", "ar.beam3"), ("nar", "nar3.lb3"), ("spec", "spec")):
        code, out, err = janus("--mode", mode, "--jsonl")
        having = sum(UNK in record["ids"] for record in records(out))
        assert (code, having > 0) == (0, True)
        assert f"outputs that contain <unk>: {having}; --unk ban never writes it" in err
        assert read_json(KEPT / f"test.{label}.json")["counts"]["unk"] == having
        code, out, err = janus("--mode", mode, "--jsonl", "--unk", "ban")
        assert (code, "<unk>" in err) == (0, False)
        assert not any(UNK in record["ids"] for record in records(out))


def test_outputs_that_the_limit_has_shaped_are_said_with_the_knob(janus: Janus) -> None:
    """That of the untrained run is half the source and two tokens."""
    code, _, err = janus()
    said = re.search(r"(\d+) outputs may be cut by the length limit \(0.5 × source \+ 2 tokens\); raise it with", err)
    assert code == 0
    assert said
    counts = read_json(KEPT / "test.ar.beam3.json")["counts"]
    assert counts["limit"] == int(said[1]) > 0
    assert "--set decoding.max_extra=N" in err
    code, _, err = janus("--set", "decoding.max_extra=99")
    assert (code, "may be cut by model.max_length 40" in err, "decoding.max_extra=N" in err) == (0, True, False)
    assert "may be cut" not in janus("--mode", "nar")[2]


@pytest.mark.parametrize("mode", ["ar", "nar"])
def test_predicted_lengths_above_the_limit_are_said(janus: Janus, mode: str) -> None:
    """A length head that nobody trained may write long lines."""
    code, out, err = janus("--run", "mpnet", "--mode", mode, "--jsonl")
    long = sum(
        len(r["ids"]) > len(load_tokenizers(Path("runs/mpnet")).source.encode([r["source"]])[0]) // 2 + 2
        for r in records(out)
    )
    assert code == 0
    assert f"{long} outputs of predicted length above the limit of left-to-right outputs (0.5 × source" in err
    assert "above the limit" not in janus("--run", "mpnet", "--mode", mode, "--set", "decoding.max_extra=99")[2]
    assert "above the limit" not in janus()[2]


def test_counts_include_what_an_earlier_process_decoded(janus: Janus, halted: Janus, unk_everywhere: None) -> None:
    assert janus("--nbest", "3")[0] == 0
    file = KEPT / "test.ar.beam3.nbest3.json"
    whole, read = (read_json(file)[name] for name in ("counts", "source_tokens"))
    assert {"unk", "limit"} <= whole.keys()
    assert halted(1, "--nbest", "3")[0] == 130
    ends(janus("--nbest", "3", "--resume"), 0, "resuming after 16 finished lines")
    about = read_json(file)
    assert about["counts"] == whole
    assert [about[name] for name in ("source_tokens", "unknown_source_tokens", "sources_cut")] == [read, 0, 0]


def test_what_was_kept_belongs_to_its_seed(janus: Janus, halted: Janus) -> None:
    assert halted(1, "--temperature", "1")[0] == 130
    assert janus("--temperature", "1", "--seed", "2")[0] == 0, "another seed, another file"
    assert (KEPT / ".test.ar.sample.t1.jsonl.partial").exists()


def test_a_teacher_counts_and_bans_unks(any_janus: Janus, unk_everywhere: None) -> None:
    code, _, err = any_janus("distill", "ar", "--out", "data/kept")
    kept = read_json("data/kept/manifest.json")["distilled"]
    assert (code, kept["unk"] > 0) == (0, True)
    assert f"outputs that contain <unk>: {kept['unk']}; --unk ban" in err
    code, _, err = any_janus("distill", "ar", "--out", "data/banned", "--unk", "ban")
    banned = read_json("data/banned/manifest.json")["distilled"]
    assert (code, banned["unk"], banned["options"]["unk"], "<unk>" in err) == (0, 0, "ban", False)
    assert "--unk ban" in banned["command"]
    for change in ("decoding.diversity=1", "decoding.temperature=1"):
        ends(any_janus("distill", "ar", "--out", "data/x", "--set", change), 2, "a teacher writes one output")
    for recipe in (Path("runs/ar/recipe.yaml"), *Path("runs/ar/checkpoints").glob("step-*/recipe.yaml")):
        text = recipe.read_text(encoding="utf-8")
        recipe.write_text(text.replace("temperature: 0.0", "temperature: 0.8"), encoding="utf-8")
        assert text != recipe.read_text(encoding="utf-8")
    for folder in Path("runs/ar/checkpoints").glob("step-*"):
        relabel(folder)
    assert any_janus("distill", "ar", "--out", "data/found")[0] == 0
    about = read_json("data/found/manifest.json")
    assert str(teacher(about)).endswith("beam 3")


def test_python_has_the_same_options(janus: Janus) -> None:
    translator = load("runs/ar")
    (result,) = translator.translate([source()[0]], temperature=0.9, nbest=3, seed=5)
    again = translator.translate([source()[1], source()[0]], temperature=0.9, nbest=3, seed=5)[1]
    assert [each.text for each in result.nbest] == [each.text for each in again.nbest]


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_texts_that_are_equal_without_their_repeats_are_one_hypothesis(engine: str) -> None:
    names = (PUBLISHED / "test.source.txt").read_text(encoding="utf-8").splitlines()[:40]
    how: dict[str, Any] = {"mode": "nar", "iters": 1, "length_beam": 5, "nbest": 3, "engine": engine}
    counts = set()
    for result in load(PUBLISHED).translate(names, remove_repeats=True, **how):
        texts = [each.text for each in result.nbest]
        assert len(texts) == len({*texts})
        assert [each.score for each in result.nbest] == sorted((each.score for each in result.nbest), reverse=True)
        counts.add(len(texts))
    assert min(counts) < 3


def test_more_passes_than_tokens_are_warned_of(janus: Janus) -> None:
    """Of the 40 positions of the model, two are for what stands around a text."""
    for passes, warned in ((38, False), (39, True)):
        code, _, err = janus("--mode", "nar", "--iters", str(passes), "--dry-run")
        assert (code, any("warning:" in line and "--iters" in line for line in err.split("\n"))) == (0, warned)
