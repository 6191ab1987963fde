"""Tokenizers that janus trained, in a folder for transformers: the ids and the text of janus."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")

import hf_folders

from janus_cli.core.symbols import EOS, UNK
from janus_cli.data.lines import cleaner
from janus_cli.decoding.translate import load
from tests.data import hf_models
from tests.helpers import Janus, ends, read_json

MakeRun = Callable[..., Path]
STEPS = ["strip_tags", "unescape_html", "collapse_spaces", "lowercase", "nfc", "remove_spaces", "mark_sentences"]
NORMALISATIONS = ["nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf", "identity"]
KINDS: dict[str, list[str]] = {
    **{f"unigram {each}": ["algorithm=unigram", f"normalisation={each}", "vocabulary=88"] for each in NORMALISATIONS},
    **{f"bpe {each}": ["algorithm=bpe", f"normalisation={each}"] for each in NORMALISATIONS},
    "bytes": ["algorithm=bpe", "byte_fallback=true", "vocabulary=460"],
    "bytes unigram": ["algorithm=unigram", "byte_fallback=true", "vocabulary=340"],
    "spaces": ["keep_spaces=true", "normalisation=identity"],
    "separate": ["joint=false", "vocabulary=220"],
    "words": ["kind=words"],
    "joiner": ["kind=words", "joiner='@@'"],
    "separate words": ["kind=words", "joint=false"],
}
MORE = [
    "a" * 3000, "the man " * 700, "\u0301" * 50, "e\u0301\u0302\u0323 x", "\x00\x01\x1c\x1d\x1e\x1f\x7f\x85 a",
    "a\x1cb\x1fc\x85d\u2028e\u3000f\u180eg\u200bh\ufeffi", "<pad > </s > <unk >", "<0x0A><0x41>", "@@ a@@ b@@", ">><<",
    "&lt;b&gt; <b>x</b> &amp;&#10;y", "<url>http</url>", "İSTANBUL ΟΔΟΣ ǅ ß", "각 \u1100\u1161\u11a8 カ\u3099 ﾊﾟ",
    "🏳️‍🌈 👨‍👩‍👧‍👦 🇩🇪", "a . <S_SEP> b",
    "\U0010ffff \ue000 \ufdd0",
]  # fmt: skip


def odd_lines() -> list[str]:
    return [*hf_models.odd_lines(990 - len(MORE), seed=7), *MORE, *("".join(MORE) for _ in range(10))]


def words(line: str) -> str:
    """A line as the kinds of words learn it."""
    return re.sub("(...)(?=[a-z])", r"\1@@ ", line)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Recommended")  # sacremoses, which MarianTokenizer loads and does not use
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_those_of_janus(make_run: MakeRun, janus: Janus, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    knobs = [f"tokenizer.{each}" for each in ["vocabulary=230", *KINDS[kind]]]
    tie = ["model.tie=target", "model.norm=post"] if "joint=false" in KINDS[kind] else []
    text = [words(line) for line in hf_models.TEXT] if kind == "joiner" else hf_models.TEXT
    make_run("run", "ar", [*knobs, *tie, "model.max_length=2000"], (text[:150], text[60:]))
    ends(janus("export", "run", "--format", "transformers", "--out", "out"), 0)
    ours, theirs = load("run").tokenizers, transformers.AutoTokenizer.from_pretrained("out")
    lines = odd_lines()
    # A space more keeps MarianTokenizer from taking >>…<< for a language; what it strips at both ends, is said.
    is_pieces = "words" not in kind and kind != "joiner"
    given = [f" {line}" for line in lines] if is_pieces and kind != "spaces" else lines
    usual = [number for number, line in enumerate(lines) if not (kind == "spaces" and line.startswith(">>"))]
    ids = [theirs(line)["input_ids"] for line in given]
    expected = [[*row, EOS] for row in ours.source.encode(lines)]
    assert [ids[number] for number in usual] == [expected[number] for number in usual]
    reader, target = theirs, ours.target.encode(lines)
    if kind == "separate words":
        reader = transformers.PreTrainedTokenizerFast(tokenizer_file="out/target_tokenizer.json")
    found = [reader.decode([2, *row, EOS, 0, 0], skip_special_tokens=True) for row in target]
    if is_pieces:
        texts = [text.strip() for text in ours.target.decode([[each for each in row if each != UNK] for row in target])]
        assert any(UNK in row for row in target) != ("bytes" in kind)
    else:
        texts = ours.target.decode(target)
    assert found == texts
    assert len(set(texts)) > 300


def program(folder: Path) -> str:
    found = re.search(
        r"^--- generate.py\n(.*?)^---\n", (folder / "README.txt").read_text(encoding="utf-8"), re.M | re.S
    )
    assert found is not None
    return found[1]


def generated(folder: Path) -> list[str]:
    """What the program in the folder's README writes."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program(folder)], cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().removesuffix("\n").split("\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        ["data.clean=[lowercase, nfc]"], ["tokenizer.joint=false", "model.tie=target", "tokenizer.vocabulary=50"],
        ["tokenizer.kind=words", "tokenizer.joiner='@@'"],
        ["tokenizer.kind=words", "tokenizer.joint=false", "model.tie=none", "model.norm=post"],
        ["tokenizer.keep_spaces=true", "tokenizer.normalisation=identity", "data.truncate_source=true",
         "data.max_source_tokens=3"],
    ],
)  # fmt: skip
def test_the_program_of_the_readme_generates_what_janus_writes(
    make_run: MakeRun, janus: Janus, changes: list[str]
) -> None:
    pytest.importorskip("transformers")
    limits = ["decoding.max_ratio=0", "decoding.max_extra=20", "decoding.free_end=true", "decoding.unk=ban"]
    make_run("run", "janus", [*changes, *limits])
    assert janus("export", "run", "--format", "transformers", "--out", "out")[0] == 0
    ours = [result.text.strip() for result in load("run").translate(["a line", "another one"], mode="ar")]
    assert generated(Path("out")) == ours
    assert ours[0] != ours[1] or "tokenizer.kind=words" in changes


@pytest.mark.slow
@pytest.mark.parametrize("name", hf_folders.CASES)
def test_the_program_generates_what_an_imported_model_writes(janus: Janus, empty_folder: Path, name: str) -> None:
    pytest.importorskip("transformers")
    Path("model").mkdir()
    hf_folders.unpack(read_json(hf_folders.GOLDEN / f"{name}.json")["files"], Path("model"))
    given = zip(("--source-language", "--target-language"), hf_folders.CASES[name][4], strict=True)
    assert janus("import", "model", *(word for option, code in given if code for word in (option, code)))[0] == 0
    assert janus("export", "model", "--format", "transformers", "--out", "out")[0] == 0
    assert generated(Path("out")) == [result.text for result in load("model").translate(["a line", "another one"])]


@pytest.mark.parametrize("step", STEPS)
def test_the_program_of_the_readme_cleans_as_janus_does(make_run: MakeRun, janus: Janus, step: str) -> None:
    make_run("run", "ar", [f"data.clean=[{step}]"])
    ends(janus("export", "run", "--format", "transformers", "--out", "out"), 0, step)
    lines = program(Path("out")).split("\n")
    text = "\n".join(line for line in lines[: lines.index("    return line") + 1] if "transformers" not in line)
    names: dict[str, Any] = {}
    exec(text, names)
    clean, odd = cleaner([step]), odd_lines()
    assert [names["clean"](line) for line in odd] == [clean(line) for line in odd]
    assert [clean(line) for line in odd] != odd
