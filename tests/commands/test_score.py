"""`janus score` through the command line: what it finds by itself, what it prints where, and its exit codes."""

import json
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

Janus = Callable[..., tuple[int, str, str]]


@pytest.fixture
def janus(empty_folder: Path, shell: Janus) -> Janus:
    """Runs `janus score` in an empty folder."""
    return partial(shell, "score")


def values(out: str) -> dict[str, float]:
    return {score["name"]: round(score["value"], 2) for score in json.loads(out)["scores"]}


def make_run(name: str, *splits: tuple[str, str, list[str] | None], order: int = 0) -> Path:
    """A run with decodings (split.label, hypotheses, reference texts), the last the newest."""
    run = Path("runs") / name
    (run / "decode").mkdir(parents=True)
    (run / "recipe.yaml").write_text("name: x\n")
    os.utime(run / "recipe.yaml", (order, order))
    for number, (label, hypotheses, references) in enumerate(splits):
        split = label.split(".")[0]
        names = [f"{split}.reference{k}.txt" for k in range(len(references))] if references is not None else None
        for file, text in zip(names or [], references or [], strict=True):
            (run / "decode" / file).write_text(text)
        (run / "decode" / f"{label}.txt").write_text(hypotheses)
        summary = run / "decode" / f"{label}.json"
        summary.write_text(json.dumps({"split": split, "hypotheses": f"{label}.txt", "references": names}))
        os.utime(summary, (number, number))
    return run


def test_table_on_stdout_with_signatures(janus: Janus) -> None:
    Path("h.txt").write_text("the cat sat on the mat\n")
    Path("r.txt").write_text("the cat sat on a mat\n")
    code, out, err = janus("h.txt", "--reference", "r.txt")
    assert code == 0
    rows = {cells[1]: cells[3] for cells in map(str.split, out.split("\n")) if len(cells) == 5 and cells[0] == "│"}
    assert rows == {"bleu": "53.73", "chrf": "72.08", "ter": "16.67"}
    assert "\nbleu  nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in out
    assert "\nter   nrefs:1|case:lc|tok:tercom|" in out
    assert err == "scoring h.txt against r.txt\n"


def test_json_on_stdout_and_nothing_else(janus: Janus) -> None:
    Path("h.txt").write_text("a b c d é\n")
    Path("r.txt").write_text("a b c d é\n")
    code, out, _ = janus("h.txt", "--reference", "r.txt", "--json", "--metrics", "bleu, rouge ,exact")
    assert code == 0
    assert out.count("\n") == 1
    found: dict[str, Any] = json.loads(out)
    assert found["hypotheses"] == "h.txt"
    assert found["references"] == ["r.txt"]
    assert found["sentences"] == 1
    assert values(out) == dict.fromkeys(["bleu", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact"], 100)
    assert all(score["signature"].startswith("nrefs:1|") for score in found["scores"])
    assert found["against"] is None
    assert found["bootstrap"] is None


def test_several_reference_files_and_a_ragged_tsv(janus: Janus) -> None:
    Path("h.txt").write_text("a b\nc\n\n")
    Path("one.txt").write_text("x\nc\n\n")
    Path("two.txt").write_text("a b\ny\nz\n")
    Path("refs.tsv").write_text("x\ta b\nq\tr\tc\t\n\n")
    for arguments in (["--reference", "one.txt", "--reference", "two.txt"], ["--reference", "refs.tsv"]):
        code, out, _ = janus("h.txt", *arguments, "--json", "--metrics", "exact,bleu,chrf,ter,rouge")
        assert code == 0
        assert values(out)["exact"] == 100
    assert json.loads(out)["scores"][0]["signature"].startswith("nrefs:var|")
    # A .tsv and a plain file together.
    code, out, _ = janus("h.txt", "--reference", "refs.tsv", "--reference", "one.txt", "--json", "--metrics", "exact")
    assert (code, values(out)) == (0, {"exact": 100})


def test_json_lines_of_decode(janus: Janus) -> None:
    lines = b'{"hypothesis": "a b", "scores": [1]}\n{"hypothesis": ""}\n'
    Path("h.jsonl").write_bytes(lines)
    Path("r.txt").write_text("a b\n\n")
    for name, stdin in (("h.jsonl", b""), ("-", lines)):
        code, out, _ = janus(name, "--reference", "r.txt", "--json", "--metrics", "exact", stdin=stdin)
        assert (code, values(out)) == (0, {"exact": 100})


def test_lines_end_at_newline_only(janus: Janus) -> None:
    # As wc -l counts, plus a last line without an end; \r\n is stripped, a BOM is not text.
    Path("h.txt").write_bytes("\ufeffa\u2028b\x85\x0b\x0c\x1c\rc\r\nlast".encode())
    Path("r.txt").write_bytes("a\u2028b\x85\x0b\x0c\x1c\rc\nlast\n".encode())
    for name, stdin in (("h.txt", b""), ("-", Path("h.txt").read_bytes())):
        code, out, _ = janus(name, "--reference", "r.txt", "--json", "--metrics", "exact", stdin=stdin)
        assert (code, values(out), json.loads(out)["sentences"]) == (0, {"exact": 100}, 2)


def test_references_from_a_pipe(janus: Janus) -> None:
    Path("h.txt").write_text("a\nb\n")
    os.mkfifo("pipe")
    for start in ("", "\ufeff"):
        writer = threading.Thread(target=Path("pipe").write_text, args=(f"{start}a\nc\n",), daemon=True)
        writer.start()
        code, out, _ = janus("h.txt", "--reference", "pipe", "--json", "--metrics", "exact")
        writer.join(60)
        assert (code, values(out)) == (0, {"exact": 50})


def test_nothing_named_means_the_newest_decoding_of_any_run(janus: Janus) -> None:
    make_run("old", ("test.ar", "a\n", ["a\n"]), order=1)
    make_run("new", ("test.ar", "a\n", ["a\n"]), ("test.nar4", "b\n", ["a\n"]), order=2)
    code, out, err = janus("--json", "--metrics", "exact")
    assert (code, values(out)) == (0, {"exact": 0})
    assert json.loads(out)["hypotheses"] == "runs/new/decode/test.nar4.txt"
    assert "runs/new/decode/test.nar4.txt against runs/new/decode/test.reference0.txt" in err
    code, out, _ = janus("--json", "--metrics", "exact", "--run", "old")
    assert (code, json.loads(out)["hypotheses"]) == (0, "runs/old/decode/test.ar.txt")
    summary = Path("runs/old/decode/test.ar.json")
    os.utime(summary, ns=(2**62, 2**62))  # decoded last, though `new` was trained last
    code, out, _ = janus("--json", "--metrics", "exact")
    assert (code, json.loads(out)["hypotheses"]) == (0, "runs/old/decode/test.ar.txt")
    code, _, err = janus("-", "--json", "--metrics", "exact", stdin=b"a\n")
    assert (code, "runs/old/decode/test.reference0.txt" in err) == (0, True)


def test_references_of_a_decoded_file_come_from_its_summary(janus: Janus) -> None:
    run = make_run("a", ("test.ar", "a\n", ["x\n", "a\n"]), ("valid.ar", "b\n", ["y\n"]))
    (run / "decode" / "test.ar.jsonl").write_text('{"hypothesis": "a"}\n')
    for name in ("test.ar.txt", "test.ar.jsonl"):
        code, out, _ = janus(str(run / "decode" / name), "--json", "--metrics", "exact")
        assert (code, values(out), len(json.loads(out)["references"])) == (0, {"exact": 100}, 2)
    # A reference named by the user wins.
    Path("mine.txt").write_text("z\n")
    code, out, _ = janus(str(run / "decode" / "test.ar.txt"), "--reference", "mine.txt", "--json", "--metrics", "exact")
    assert (code, values(out)) == (0, {"exact": 0})


def test_stdin_and_a_named_run_take_the_newest_references(janus: Janus) -> None:
    make_run("a", ("test.ar", "x\n", ["a b\n"]))
    code, out, err = janus("-", "--json", "--metrics", "exact", stdin=b"a b\n")
    assert (code, values(out)) == (0, {"exact": 100})
    assert "scoring stdin against runs/a/decode/test.reference0.txt" in err
    Path("h.txt").write_text("a b\n")
    code, out, _ = janus("h.txt", "--run", "runs/a", "--json", "--metrics", "exact")
    assert (code, values(out)) == (0, {"exact": 100})


def test_two_outputs_are_compared(janus: Janus) -> None:
    right = "".join(f"the cat number {k} sat on the mat\n" for k in range(30))
    Path("r.txt").write_text(right)
    Path("good.txt").write_text(right.replace("number 1 ", "one "))
    Path("bad.txt").write_text(right.replace("sat on", "was").replace("number 1 ", "one "))
    arguments = ["good.txt", "--reference", "r.txt", "--against", "bad.txt", "--bootstrap", "99"]
    code, out, _ = janus(*arguments, "--json", "--metrics", "bleu,ter")
    found = json.loads(out)
    assert code == 0
    assert found["against"] == "bad.txt"
    assert found["bootstrap"] == {"samples": 99, "seed": 1}
    for one, other, both in zip(found["scores"], found["against_scores"], found["comparisons"], strict=True):
        assert one["name"] == other["name"] == both["name"]
        assert both["difference"] == pytest.approx(one["value"] - other["value"])
        assert (both["p"], both["wins"]) == (0.01, 1)
        low, high = both["interval"]["low"], both["interval"]["high"]
        assert low <= both["difference"] + 1e-9
        assert both["difference"] <= high + 1e-9
        assert low > 0 or high < 0
    assert janus(*arguments, "--json", "--metrics", "bleu,ter")[1] == out  # the same seed
    assert janus(*arguments, "--json", "--metrics", "bleu,ter", "--seed", "2")[1] != out
    code, out, _ = janus(*arguments, "--metrics", "bleu")
    (row,) = (line for line in out.split("\n") if line.startswith("│ bleu"))
    first, second, difference = row.replace("│", " ").split()[1:4]
    assert float(difference) == pytest.approx(float(first) - float(second), abs=0.011)
    assert "100.0%" in row
    assert "0.010" in row
    assert "paired bootstrap: 99 samples of 30 lines, seed 1" in out
    code, out, _ = janus(
        "good.txt", "--reference", "r.txt", "--against", "bad.txt", "--bootstrap", "0", "--metrics", "bleu"
    )
    assert code == 0
    assert "bootstrap" not in out
    assert "difference" in out
    code, out, _ = janus(*arguments[:-2], "--metrics", "exact", "--json")
    assert json.loads(out)["bootstrap"] == {"samples": 1000, "seed": 1}


def test_bootstrap_of_one_output(janus: Janus) -> None:
    Path("h.txt").write_text("a\nb\nc\nd\n")
    Path("r.txt").write_text("a\nb\nx\ny\n")
    code, out, _ = janus("h.txt", "--reference", "r.txt", "--bootstrap", "200", "--metrics", "exact", "--json")
    (score,) = json.loads(out)["scores"]
    assert code == 0
    assert score["interval"]["low"] == 0
    assert score["interval"]["high"] == 100
    assert score["interval"]["mean"] == pytest.approx(50, abs=5)
    code, out, _ = janus("h.txt", "--reference", "r.txt", "--bootstrap", "200", "--metrics", "exact")
    assert "0.00 … 100.00" in out


def test_tokenised_text_is_remarked(janus: Janus) -> None:
    Path("h.txt").write_text("a b .\n")
    assert "bleu-tok" in janus("h.txt", "--reference", "h.txt")[2]
    assert "bleu-tok" not in janus("h.txt", "--reference", "h.txt", "--metrics", "bleu-tok")[2]


TWO = "two.txt has 2 lines"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["two.txt", "--reference", "three.txt"], 3, [TWO, "three.txt has 3"]),
        (["two.txt", "--reference", "two.txt", "--reference", "three.txt"], 3, [TWO, "three.txt has 3"]),
        (["two.txt", "--reference", "two.txt", "--against", "three.txt"], 3, [TWO, "three.txt has 3"]),
        (["-", "--reference", "three.txt"], 3, ["stdin has 0 lines", "three.txt has 3"]),
        (["two.txt"], 3, ["no reference for two.txt", "--reference FILE"]),
        (["none.txt", "--reference", "two.txt"], 3, ["none.txt does not exist"]),
        (["two.txt", "--reference", "none.txt"], 3, ["none.txt does not exist"]),
        (["two.txt", "--reference", "two.txt", "--against", "none.txt"], 3, ["none.txt does not exist"]),
        (["two.txt", "--reference", "."], 3, [". cannot be read: Is a directory"]),
        (["empty.txt", "--reference", "empty.txt"], 3, ["no lines to score"]),
        (["empty.txt", "--reference", "empty.tsv"], 3, ["no lines to score"]),
        (["latin.txt", "--reference", "two.txt"], 3, ["latin.txt:2:3: byte 0xe9 is not UTF-8"]),
        (["bad.jsonl", "--reference", "two.txt"], 3, ["bad.jsonl:2 is no JSON"]),
        (["other.jsonl", "--reference", "two.txt"], 3, ['other.jsonl:2 has no text under "hypothesis"']),
        (["damaged.txt.gz", "--reference", "two.txt"], 3, ["damaged.txt.gz cannot be read"]),
        ([], 2, ["no run under runs/"]),
        (["-"], 2, ["no run under runs/"]),
        (["two.txt", "--run", "gone"], 2, ["gone is no run"]),
        (["two.txt", "--reference", "two.txt", "--metrics", "blue"], 2, ["did you mean 'bleu'", "rougeLsum"]),
        (["two.txt", "--reference", "two.txt", "--metrics", ","], 2, ["no metric was named"]),
        (["two.txt", "--reference", "two.txt", "--bootstrap", "-1"], 2, ["--bootstrap"]),
    ],
)  # fmt: skip
def test_what_is_refused(janus: Janus, arguments: list[str], code: int, words: list[str]) -> None:
    Path("two.txt").write_text("a\nb\n")
    Path("three.txt").write_text("a\nb\nc\n")
    Path("empty.txt").write_text("")
    Path("empty.tsv").write_text("")
    Path("latin.txt").write_bytes(b"a\nab\xe9\n")
    Path("bad.jsonl").write_text('{"hypothesis": "a"}\n{\n')
    Path("other.jsonl").write_text('{"hypothesis": "a"}\n{"text": "b"}\n')
    Path("damaged.txt.gz").write_text("no gzip")
    found, out, err = janus(*arguments)
    assert (found, out) == (code, "")
    assert err.split("error: ")[-1].count("\n") >= 1
    for word in words:
        assert word in err


def test_a_run_without_decodings_or_references_is_refused(janus: Janus) -> None:
    make_run("a")
    code, _, err = janus()
    assert code == 3
    assert "nothing was decoded with runs/a yet" in err
    make_run("b", ("test.ar", "a\n", None), order=1)
    code, _, err = janus("--run", "b")
    assert code == 3
    assert "runs/b/decode/test.ar.txt was decoded without a reference" in err


@pytest.mark.parametrize(
    "summary",
    [{"references": []}, {"hypotheses": "x.txt", "references": ["../secret.txt"]}, {"hypotheses": "/etc/x"},
     {"hypotheses": "x.txt", "references": "test.reference.txt"}, {"hypotheses": "x.txt", "references": [3]}],
)  # fmt: skip
def test_a_summary_never_leads_out_of_its_folder(janus: Janus, summary: dict[str, object]) -> None:
    run = make_run("a")
    (run / "decode" / "x.txt").write_text("a\n")
    (run / "secret.txt").write_text("a\n")
    (run / "decode" / "x.json").write_text(json.dumps(summary))
    code, out, err = janus()
    assert (code, out) == (3, "")
    assert "x.json is damaged" in err
