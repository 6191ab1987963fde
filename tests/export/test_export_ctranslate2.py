"""Models converted for CTranslate2 write what ours write. Needs the extra `export`."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("tokenizers")

import hf_folders

import janus_cli
from janus_cli.core.batch import BOS, EOS, MASK, PAD, SPECIAL, pad
from janus_cli.core.generate import generate, length_limit
from janus_cli.core.knobs import Decoding
from janus_cli.core.model import Transformer
from janus_cli.core.search import Output
from janus_cli.core.stream import content
from janus_cli.core.symbols import NAMES
from janus_cli.core.writing import NEVER_WRITTEN
from janus_cli.data.tokenizer import Words
from janus_cli.decoding.translate import load
from janus_cli.export.ctranslate2 import unique_names
from janus_cli.export.export import export
from janus_cli.training.checkpoint import save, verify
from janus_cli.training.model import load_model
from tests.data import hf_models
from tests.helpers import Janus, ends, read_json

ctranslate2 = pytest.importorskip("ctranslate2")

MakeRun = Callable[..., Path]
GREEDY = Decoding(beam=1, max_ratio=1.1, max_extra=3)
PLAIN = {"norm": "post", "activation": "relu", "positions": "learned", "tie": "all", "embedding_scale": "true"}
KNOBS: list[dict[str, object]] = [
    {},
    {"embedding_norm": "true"},
    {"tie": "target"},
    {"tie": "none", "encoder_layers": 3, "decoder_layers": 2},
    {"norm": "pre", "activation": "gelu", "positions": "sinusoidal", "tie": "none", "embedding_scale": "false"},
    {"norm": "pre", "embedding_norm": "true", "heads": 4, "encoder_layers": 1, "decoder_layers": 3},
    {"norm": "pre", "positions": "marian"},  # Pegasus
]


def sources(vocabulary: int, count: int = 40) -> list[list[int]]:
    """Random ids, UNK among them, of all lengths that the models here read."""
    draw = random.Random(3)
    ids = [1, *range(SPECIAL, vocabulary)]
    return [draw.choices(ids, k=1 + index % 29) for index in range(count)]


def vocabulary(folder: Path, side: str) -> list[str]:
    shared = folder / "shared_vocabulary.json"
    names: list[str] = read_json(shared if shared.is_file() else folder / f"{side}_vocabulary.json")
    return names


def translated(folder: Path, rows: list[list[int]], most: list[int]) -> list[tuple[list[int], float]]:
    """Ids and score of the greedy hypotheses; a sentence at a time because the limit is one of the call."""
    translator = ctranslate2.Translator(str(folder), device="cpu", intra_threads=1)
    names = vocabulary(folder, "source")
    ids = {name: index for index, name in enumerate(vocabulary(folder, "target"))}
    found = []
    for row, limit in zip(rows, most, strict=True):
        [result] = translator.translate_batch(
            [[names[index] for index in row]], beam_size=1, max_input_length=0, min_decoding_length=0,
            max_decoding_length=limit, return_scores=True,
        )  # fmt: skip
        found.append(([ids[name] for name in result.hypotheses[0]], result.scores[0]))
    return found


def compared(run: Path, folder: Path) -> list[Output]:
    """Our greedy outputs, after it was checked that CTranslate2's are the same, and so their scores."""
    model = load_model((run / "checkpoints" / "last").resolve())
    rows = sources(model.source_table.num_embeddings)
    batch = pad([[*row, EOS] for row in rows])
    ours = [found[0] for found in generate(model, batch, "ar", GREEDY, "content")]
    limits = length_limit((batch != PAD).sum(1) - 1, model.knobs.max_length, GREEDY)
    most = [limit - 1 for limit in limits.tolist()]  # EOS is not counted there
    theirs = translated(folder, rows, most)
    assert [output.tokens for output in ours] == [tokens for tokens, _ in theirs]
    for output, limit, (_, score) in zip(ours, most, theirs, strict=True):
        # At its limit ours adds the EOS that it must end with; CTranslate2 just stops.
        cut = len(output.tokens) == limit and sum(output.logps[:-1]) / limit
        # Its AVX-512 kernels approximate exp: up to 1.5e-4 nats a token were seen there, 1e-5 on AVX2.
        assert score == pytest.approx(output.score, abs=5e-4) or score == pytest.approx(cut, abs=5e-4)
    return ours


@pytest.mark.parametrize("knobs", KNOBS, ids=lambda knobs: " ".join(map(str, knobs.values())) or "plain")
@pytest.mark.parametrize("objective", ["ar", "janus"])
def test_greedy_output_and_scores_are_ours(make_run: MakeRun, knobs: dict[str, object], objective: str) -> None:
    changes = [f"model.{name}={value}" for name, value in (PLAIN | knobs).items()]
    run = make_run("run", objective, [*changes, f"tokenizer.joint={knobs.get('tie') != 'none'}".lower()])
    ours = compared(run, export(run=run, kind="ctranslate2", out=Path("out")))
    assert len({tuple(output.tokens) for output in ours}) > 15
    if (objective, knobs) == ("ar", {}):  # some end before their limit, and some are empty
        assert {0, 1, 2, 3} & {len(output.tokens) for output in ours} > {0}


def test_tokens_that_we_never_write_are_not_written(make_run: MakeRun) -> None:
    run = make_run("run", "ar", ["model.tie=none", "model.norm=pre"])
    checkpoints = run / "checkpoints"
    folder = (checkpoints / "last").resolve()
    found = verify(folder)
    model = load_model(folder).requires_grad_(False)
    weights = model.weights()
    table = weights["output_table.weight"]
    table[list(NEVER_WRITTEN.shared)] = 20 * table[SPECIAL : SPECIAL + 3]
    shutil.rmtree(folder)
    save(checkpoints / folder.name, found.recipe, found.vocabularies, found.state, weights)
    compared(run, export(run=run, kind="ctranslate2", out=Path("out")))
    translator = ctranslate2.Translator("out", device="cpu")
    names = vocabulary(Path("out"), "source")
    results = translator.translate_batch(
        [[names[index] for index in row] for row in sources(len(names))], beam_size=4, max_decoding_length=20
    )
    written = {name for result in results for hypothesis in result.hypotheses for name in hypothesis}
    assert len(written) > 3
    assert written.isdisjoint(NAMES[index] for index in (PAD, BOS, EOS, MASK))


@pytest.mark.parametrize("quantization", ["int8", "float16", "bfloat16", "int16"])
def test_quantised_models_load_and_are_smaller(make_run: MakeRun, janus: Janus, quantization: str) -> None:
    make_run("run")
    sizes = []
    for kind in ("float32", quantization):
        options = ("run", "--format", "ctranslate2", "--quantization", kind)
        assert janus("export", *options)[0] == 0
        place = Path("runs/run/export/step-000007.ctranslate2" + ("" if kind == "float32" else f".{kind}"))
        assert read_json(place / "provenance.json")["quantization"] == kind
        translator = ctranslate2.Translator(str(place), device="cpu", compute_type="float32")
        assert translator.translate_batch([["<unk>"]], max_decoding_length=20)[0].hypotheses[0]
        sizes.append((place / "model.bin").stat().st_size)
    assert sizes[1] < 0.75 * sizes[0]


def program(folder: Path, text: bytes) -> bytes:
    """What the program in the folder's README makes of a text."""
    found = re.search(
        r"^--- translate.py\n(.*?)^---\n", (folder / "README.txt").read_text(encoding="utf-8"), re.M | re.S
    )
    assert found is not None
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", found[1], str(folder)], input=text, capture_output=True, env=environment, check=False
    )
    assert done.stderr == b""
    return done.stdout


LETTERS = random.Random(9)
TEXTS = [
    *("".join(LETTERS.choices("abcdefgh  ", k=index)).strip() for index in range(30)),
    "a " * 25,  # in float32, 1.16 times as many are 29; in float64 they are fewer
    "",
    "  ",
    "<s> </s> <mask> <pad> <unk>",
    "a b zz Ä \u2028 \x0b x",
    "abc de " * 40,
    "#5 @@ a@@ b",
    "A &#98; &lt;b&gt;",
]


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["tokenizer.joint=false", "model.tie=target"],
        ["tokenizer.kind=words", "tokenizer.joiner='@@'"],
        ["tokenizer.kind=words", "tokenizer.joint=false", "model.tie=none", "data.clean=[unescape_html, lowercase]"],
        ["tokenizer.kind=hf", "tokenizer.reuse=marian"],
    ],
    ids=["pieces", "separate pieces", "words", "separate words", "hf"],
)
def test_the_program_in_the_readme_writes_what_decode_writes(
    make_run: MakeRun, janus: Janus, changes: list[str]
) -> None:
    hf_models.unpack("marian", Path("marian"))
    make_run("run", "janus", [*changes, "decoding.max_ratio=1.16", "model.max_length=60"])
    Path("text").write_bytes("".join(f"{line}\n" for line in TEXTS).encode())
    janus("decode", "--mode", "ar", "--beam", "1", "--input", "text", "--output", "ours")
    ends(janus("export", "run", "--format", "ctranslate2", "--output", "out"), 0, "out/README.txt", out="")
    shutil.move("out", "elsewhere")
    ours = Path("ours").read_bytes()
    assert program(Path("elsewhere"), Path("text").read_bytes()) == ours
    assert len(set(ours.split(b"\n"))) > 10


@pytest.mark.parametrize("name", hf_folders.CASES)
def test_imported_models_write_what_ours_write(janus: Janus, empty_folder: Path, name: str) -> None:
    compared = hypotheses_are_ours(imported(janus, name))
    assert compared > 5 or name == "mbart"  # whose outputs never end, or at once


def imported(janus: Janus, name: str) -> Path:
    """The run of a committed model of transformers."""
    golden = read_json(hf_folders.GOLDEN / f"{name}.json")
    Path("model").mkdir()
    hf_folders.unpack(golden["files"], Path("model"))
    given = zip(("--source-language", "--target-language"), hf_folders.CASES[name][4], strict=True)
    assert janus("import", "model", *(word for option, code in given if code for word in (option, code)))[0] == 0
    return Path("runs/model")


def hypotheses_are_ours(run: Path) -> int:
    """Checks greedy outputs with the options of the recipe, and all hypotheses of the beams that are searched alike.

    Returns how many beams these are: none of whose hypotheses ends at once, or reaches the limit.
    """
    folder, ours = export(run=run, kind="ctranslate2", out=Path("out")), load(run)
    Path("text").write_bytes("".join(f"{line}\n" for line in [*hf_folders.LINES, ""]).encode())
    assert program(folder, Path("text").read_bytes()).decode().split("\n")[:-1] == [
        result.text for result in ours.translate([*hf_folders.LINES, ""], beam=1)
    ]
    knobs, first = ours.generator.model.knobs, ours.plan.options.first_token
    rows = [row for row in ours.tokenizers.source.encode(hf_models.odd_lines(60)) if 0 < len(row) < 40]
    names, written = vocabulary(folder, "source"), vocabulary(folder, "target")
    ending = [names[EOS], names[knobs.source_suffix]] if knobs.source_suffix else []
    translator = ctranslate2.Translator(str(folder), device="cpu", intra_threads=1)
    compared = 0
    for beam, penalty in ((2, 1.0), (4, 2.0), (3, 0.5)):
        free = {"min_length": 0, "no_repeat_ngram": 0, "early_stopping": "full", "max_extra": 30, "nbest": beam}
        options = replace(ours.plan.options, beam=beam, length_penalty=penalty, **free)
        results = translator.translate_batch(
            [[names[index] for index in row] + ending for row in rows], beam_size=beam, length_penalty=penalty,
            target_prefix=[[written[first]]] * len(rows) if first else None, num_hypotheses=beam,
            max_decoding_length=30, max_input_length=0,
        )  # fmt: skip
        source = pad([[*row, EOS] for row in rows])
        found, going = (
            ours.generator(source, "ar", options, "content"),
            goes_on(ours.generator.model, source, first, beam),
        )
        for result, outputs, long in zip(results, found, going, strict=True):
            theirs = [[written.index(name) for name in each] for each in result.hypotheses]
            tokens = [output.tokens for output in outputs]
            if long and max(map(len, [*tokens, *theirs])) < 30:
                assert theirs == tokens
                compared += 1
    return compared


def goes_on(model: Transformer, source: Tensor, first: int, beam: int) -> list[bool]:
    """Whether no hypothesis of a beam ends at once, or right behind the first token that it must have."""
    begun = [BOS, first] if first else [BOS]
    with torch.inference_mode():
        stream = content(pad([[*begun, EOS]] * len(source)))
        logits = model.logits(model.decode(stream, model.encode(source, source != PAD)))[:, len(begun) - 1]
        logits[:, list(NEVER_WRITTEN.shared)] = -torch.inf
    return ((logits > logits[:, [EOS]]).sum(1) >= beam).tolist()


@pytest.mark.parametrize("objective", ["ar", "janus"])
def test_a_trained_run_through_the_command_line(tiny_recipe: Path, janus: Janus, objective: str) -> None:
    assert janus("train", "--recipe", "tiny.yaml", "--objective", objective)[0] == 0
    ends(janus("export", "--format", "ctranslate2", "--output", "new/out"), 0)
    janus("decode", "--mode", "ar", "--beam", "1", "--output", "ours")
    source = next(Path("data").glob("*/test.source.txt")).read_bytes()
    assert program(Path("new/out"), source) == Path("ours").read_bytes()
    about = read_json("new/out/provenance.json")
    [run] = Path("runs").iterdir()
    best = (run / "checkpoints" / "best").resolve()
    weights = hashlib.sha256((best / "model.safetensors").read_bytes()).hexdigest()
    assert about == {
        "format": "ctranslate2", "quantization": "float32", "run": run.name, "checkpoint": best.name,
        "step": int(best.name[5:]), "objective": objective, "sha256": weights, "janus": janus_cli.__version__,
        "ctranslate2": ctranslate2.__version__,
    }  # fmt: skip


@given(st.lists(st.sampled_from(["a", "b#6", "b", "<s>", "<s>#5", "<s>#5#5", "<pad>", "</s>#6", "</s>"]), unique=True))
def test_every_id_has_a_name_of_its_own(words: list[str]) -> None:
    names = unique_names(Words(words))
    assert len(set(names)) == len(names) == SPECIAL + len(words)
    assert names[:SPECIAL] == list(NAMES)
    for word, name in zip(words, names[SPECIAL:], strict=True):
        assert name == word or (word in NAMES and name.startswith(word))
