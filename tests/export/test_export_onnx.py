"""The folder for ONNX Runtime: its program writes what `janus decode` writes, without torch, janus and onnx."""

from __future__ import annotations

import os
import random
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from janus_cli.core.symbols import SPECIAL
from janus_cli.data.tokenizer import load_tokenizers
from tests.helpers import Janus, ends, read_json, sets

MakeRun = Callable[..., Path]
ONNX = ("--format", "onnx")
PRETRAINED = Path(__file__).parents[2] / "pretrained" / "translit-enru"
MODES = {
    "ar": ("--mode", "ar"), "greedy": ("--mode", "ar", "--beam", "1"), "nar": ("--mode", "nar"),
    "spec": ("--mode", "spec"),
}  # fmt: skip
LETTERS = random.Random(9)
WORDS = ["".join(LETTERS.choices("abcdefgh", k=LETTERS.randint(1, 5))) for _ in range(40)]
LINES = [" ".join(WORDS[start : start + size]) for size in range(1, 8) for start in range(0, 20, size)]
ODD = [
    "",
    "  ",
    "unknown: Ωß",
    "ab " * 40,
    "A <b>TAG</b> &amp; e\u0301 <s> </s> <mask>",
    "one\u2028line, two\x0bspaces",
]
TEXT = b"\xef\xbb\xbf" + "\n".join([*LINES, *ODD]).encode() + b"\nends in \xff\r\nno end of line"
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(["torch", "janus_cli", "onnx"]))  # importing them fails
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def program(folder: Path, name: str, text: bytes) -> bytes:
    """What the program in a folder makes of a text, in a process that has no more than it may need."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    words = [sys.executable, "-c", ALONE, str(folder.resolve() / "generate.py"), name]
    done = subprocess.run(words, input=text, capture_output=True, env=environment, cwd="/", check=False)
    assert done.stderr == b""
    return done.stdout


def compared(janus: Janus, run: Path, names: Sequence[str], changes: Sequence[str] = (), text: bytes = TEXT) -> None:
    """Checks that a run has exactly these graphs, and that each writes what `janus decode` does."""
    Path("text").write_bytes(text)
    expected = {}
    for name in names:
        words = ("--run", str(run), "--input", "text", "--output", f"{name}.txt", *MODES[name], *sets(*changes))
        assert janus("decode", *words)[0] == 0
        expected[name] = Path(f"{name}.txt").read_bytes()
    assert janus("export", str(run), *ONNX, *sets(*changes), "--out", "made")[0] == 0
    Path("elsewhere").mkdir()
    shutil.move("made", "elsewhere/folder")
    shutil.rmtree("runs", ignore_errors=True)
    folder = Path("elsewhere/folder")
    assert {file.stem for file in folder.glob("*.onnx")} == {*names}
    for name, texts in expected.items():
        assert len({*texts.splitlines()}) > 5
        assert program(folder, name, text) == texts


@pytest.mark.parametrize(
    ("objective", "changes", "names"),
    [
        ("janus", ["decoding.iters=3", "decoding.rerank=ar", "data.clean=[nfc,lowercase]"],
         ["ar", "greedy", "nar", "spec"]),
        ("janus", ["objective.ar_stream=query", "model.embedding=concat", "tokenizer.byte_fallback=true",
                   "tokenizer.vocabulary=330", "tokenizer.normalisation=identity", "decoding.beam=1",
                   "decoding.max_extra=1"],
         ["ar", "nar", "spec"]),
        ("cmlm", ["tokenizer.joint=false", "model.tie=target", "data.clean=[strip_tags,unescape_html]"], ["nar"]),
        ("ar", ["tokenizer.kind=words", "tokenizer.joiner=a", "decoding.beam=3", "decoding.unk=ban",
                "decoding.max_ratio=0.7", "data.truncate_source=true", "data.max_source_tokens=5"],
         ["ar", "greedy"]),
        ("ar", ["decoding.redraft=source", "decoding.max_extra=2", "tokenizer.byte_fallback=true",
                "tokenizer.vocabulary=330"],
         ["ar", "greedy", "spec"]),
    ],
)  # fmt: skip
def test_the_program_writes_what_decode_writes(
    make_run: MakeRun, janus: Janus, objective: str, changes: list[str], names: list[str]
) -> None:
    compared(janus, make_run("run", objective, changes), names)


def test_the_published_model_writes_the_same_without_torch(janus: Janus, empty_folder: Path) -> None:
    """Its weights are stored in bfloat16."""
    lines = (PRETRAINED / "test.source.txt").read_text(encoding="utf-8").splitlines()[:200]
    text = "\n".join([*lines, "", "x" * 100]).encode()
    compared(janus, PRETRAINED, ["ar", "greedy", "nar", "spec"], ["decoding.iters=4", "decoding.rerank=ar"], text)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("marian", []), ("bart", ["no_repeat_ngram=0", "min_length=0", "first_token=0"]), ("mbart", ["min_length=0"])],
)
def test_an_imported_model_writes_the_same_without_torch(
    janus: Janus, empty_folder: Path, name: str, changes: list[str]
) -> None:
    pytest.importorskip("tokenizers")
    import hf_folders

    found = read_json(hf_folders.GOLDEN / f"{name}.json")
    Path("model").mkdir()
    hf_folders.unpack(found["files"], Path("model"))
    given = zip(("--source-language", "--target-language"), hf_folders.CASES[name][4], strict=True)
    assert janus("import", "model", *(word for option, code in given if code for word in (option, code)))[0] == 0
    words = " ".join(found["lines"]).split()
    lines = [" ".join(words[start : start + size]) for size in (1, 3, 6) for start in range(0, len(words), size)]
    text = "\n".join([*found["lines"], *lines, "", " ", ">>fra<< the cook", "<s> x </s> <mask>", "the " * 60]).encode()
    compared(janus, Path("runs/model"), ["ar", "greedy"], [f"decoding.{change}" for change in changes], text)


def test_a_graph_gives_several_hypotheses_and_takes_other_passes(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", ["decoding.nbest=3", "decoding.iters=4", "decoding.rerank=nar"])
    assert janus("export", "run", *ONNX, "--out", "out")[0] == 0
    source = np.array([[7, 8, 9, 3], [10, 3, 0, 0]])
    sessions = {name: onnxruntime.InferenceSession(f"out/{name}.onnx") for name in ("ar", "nar")}
    for session in sessions.values():
        tokens, lengths, scores = session.run(["tokens", "lengths", "scores"], {"source": source})
        assert tokens.shape[:2] == (2, 3)
        assert ((tokens != 0).sum(2) == lengths).all()
        assert (np.diff(scores) <= 0).all()
    given = {"source": source}, {"source": source, "iters": np.array(1)}
    usual, one = (sessions["nar"].run(["passes"], each)[0].tolist() for each in given)
    assert one == [1, 1]
    assert max(usual) > 1


@pytest.mark.parametrize(
    ("objective", "changes", "named"),
    [
        ("bang", [], "bang"),
        ("prophetnet", [], "prophetnet"),
        ("cmlm", ["decoding.avoid_repeats=true"], "--set decoding.avoid_repeats=false"),
        ("ar", ["decoding.temperature=0.5"], "--set decoding.temperature=0.0"),
    ],
)
def test_a_model_without_a_graph_is_refused(
    make_run: MakeRun, janus: Janus, objective: str, changes: list[str], named: str
) -> None:
    make_run("run", objective, changes)
    code, _, err = janus("export", "run", *ONNX, "--out", "out")
    assert (code, named in err, Path("out").exists()) == (2, True, False)
    if named.startswith("--set"):
        assert janus("export", "run", *ONNX, *named.split(), "--out", "out")[0] == 0


def test_a_mode_without_a_graph_is_said_to_be_missing(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", ["decoding.temperature=0.5"])
    code, _, err = janus("export", "run", *ONNX, "--out", "out")
    assert (code, sorted(file.name for file in Path("out").glob("*.onnx"))) == (0, ["nar.onnx", "spec.onnx"])
    for text in (err, Path("out/README.txt").read_text(encoding="utf-8")):
        assert "ar.onnx" in text
        assert "temperature" in text


def test_a_mode_that_does_not_fit_stops_no_other(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", ["decoding.nbest=5", "decoding.length_beam=1"])
    code, _, err = janus("export", "run", *ONNX, "--out", "out")
    assert (code, Path("out/ar.onnx").exists(), Path("out/nar.onnx").exists()) == (0, True, False)
    assert "--nbest 5" in err


def test_options_that_a_graph_does_not_read_are_said(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", ["decoding.min_length=2"])
    _, _, err = janus("export", "run", *ONNX, "--out", "out")
    assert any("spec.onnx" in line and "min_length" in line for line in err.replace("\n  ", " ").split("\n")), err


def test_options_of_decoding_go_into_an_export(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "ar")
    assert janus("export", "run", "--set", "decoding.beam=2", "--out", "out")[0] == 0
    assert read_json("out/config.json")["decoding"]["beam"] == 2
    assert janus("export", "run", "--set", "model.heads=4", "--out", "other")[0] == 2


@pytest.mark.parametrize("name", ["bart", "wordpiece", "mbart", "marian"])
def test_the_tokenizer_of_the_program_is_that_of_janus(
    make_run: MakeRun, janus: Janus, tmp_path: Path, name: str
) -> None:
    pytest.importorskip("tokenizers")
    from tests.data import hf_models

    folder = hf_models.unpack(name, tmp_path / name)
    run = make_run("run", "ar", ["tokenizer.kind=hf", f"tokenizer.reuse={folder}"])
    assert janus("export", "run", *ONNX, "--out", "out")[0] == 0
    ours, theirs = load_tokenizers(run), runpy.run_path("out/generate.py")
    lines = [*hf_models.odd_lines(300), ">>fra<< x", "<mask> </s>", "don't , you ' re .", "[MASK]", ""]
    assert [theirs["encode"](line) for line in lines] == ours.source.encode(lines)
    rows = [random.Random(seed).choices(range(SPECIAL, ours.target.size), k=12) for seed in range(100)]
    rows += ours.target.encode(lines)
    assert [theirs["decode"](row) for row in rows] == ours.target.decode(rows)


def test_what_is_asked_for_and_not_exported_is_said(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", [])
    ends(janus("export", "run", *ONNX, "--set", "decoding.precision=int8", "--out", "out"), 0, "int8")


def test_the_program_says_how_to_call_it(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", [])
    assert janus("export", "run", *ONNX, "--out", "out")[0] == 0
    for mistake in (["--help"], ["semi"], ["ar", "nar"]):
        done = subprocess.run(
            [sys.executable, "out/generate.py", *mistake], capture_output=True, text=True, check=False
        )
        assert (done.returncode, "ar|greedy|nar|spec" in done.stderr, "Traceback" in done.stderr) == (1, True, False)


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="this system has no such signal")
def test_the_program_ends_quietly_if_nobody_reads_its_output(make_run: MakeRun, janus: Janus) -> None:
    make_run("run", "janus", [])
    assert janus("export", "run", *ONNX, "--out", "out")[0] == 0
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        words = [sys.executable, "out/generate.py"]
        done = subprocess.run(words, input=b"a\nb\n", stdout=closed, stderr=subprocess.PIPE, check=False)
    assert b"BrokenPipeError" not in done.stderr, done.stderr
