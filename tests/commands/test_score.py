"""`janus score` through the command line: what it finds by itself, what it prints where, and its exit codes."""

import gzip
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import Janus, Patch, ends, printed

Exact = Callable[..., dict[str, Any]]


@pytest.fixture
def janus(empty_folder: Path, shell: Janus) -> Janus:
    """Runs `janus score` in an empty folder."""
    return partial(shell, "score")


@pytest.fixture
def exact(janus: Janus) -> Exact:
    """Scores with --metrics exact; returns what --json prints, `value` being that of the one metric."""

    def score(*arguments: str, stdin: bytes = b"") -> dict[str, Any]:
        found = json.loads(printed(janus(*arguments, "--json", "--metrics", "exact", stdin=stdin)))
        return {**found, "value": found["scores"][0]["value"]}

    return score


def write(**texts: str) -> None:
    """Writes NAME.txt with these lines, one a word; the lines of `_` are empty."""
    for name, text in texts.items():
        Path(f"{name}.txt").write_text("".join(f"{word.replace('_', '')}\n" for word in text.split()))


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
    rows = {cells[0]: cells[1] for line in out.split("\n") if len(cells := re.findall(r"[^│ ][^│]*[^│ ]", line)) == 2}
    assert rows == {"bleu": "53.73", "chrf": "72.08", "ter (lower is better)": "16.67"}
    assert "\nbleu  nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in out
    assert "\nter   nrefs:1|case:lc|tok:tercom|" in out
    assert err == "scoring h.txt against r.txt\n"


def test_json_on_stdout_and_nothing_else(janus: Janus) -> None:
    Path("h.txt").write_text("a b c d é\n")
    code, out, _ = janus("h.txt", "--reference", "h.txt", "--json", "--metrics", "bleu, rouge ,exact")
    assert (code, out.count("\n")) == (0, 1)
    found: dict[str, Any] = json.loads(out)
    scores = {score["name"]: round(score["value"], 2) for score in found["scores"]}
    assert scores == dict.fromkeys(["bleu", "rouge1", "rouge2", "rougeL", "rougeLsum", "exact"], 100)
    assert all(score["signature"].startswith("nrefs:1|") for score in found["scores"])
    rest = {key: value for key, value in found.items() if key != "scores"}
    assert rest == {
        "hypotheses": "h.txt", "references": ["h.txt"], "sentences": 1, "against": None, "against_scores": [],
        "comparisons": [], "bootstrap": None, "warnings": [],
    }  # fmt: skip


def test_several_reference_files_and_a_ragged_tsv(exact: Exact) -> None:
    write(h="a c", one="x c", two="a y")
    assert exact("h.txt", "--reference", "one.txt", "--reference", "two.txt")["value"] == 100
    for rows, number in (("x\ta\nq\tr\tc\t\n", "nrefs:var"), ("x\ta\t\n\tq\t\tc\n", "nrefs:2")):
        Path("refs.tsv").write_text(rows)
        found = exact("h.txt", "--reference", "refs.tsv")
        assert (found["value"], found["scores"][0]["signature"].split("|")[0]) == (100, number)
    assert exact("h.txt", "--reference", "refs.tsv", "--reference", "one.txt")["value"] == 100
    Path("pairs.tsv").write_text("x\ta\nq\tc\n")
    assert exact("h.txt", "--reference", "pairs.tsv", "--reference-column", "2")["value"] == 100


def test_a_blank_line_beside_another_reference_is_none_in_any_form(exact: Exact) -> None:
    for name, text in {"h.txt": "\nb\n", "one.txt": "a\nb\n", "two.txt": "\nb\n", "refs.tsv": "a\t\nb\tb\n"}.items():
        Path(name).write_text(text)
    in_files = exact("h.txt", "--reference", "one.txt", "--reference", "two.txt")
    assert (in_files["value"], in_files["scores"][0]["signature"].split("|")[0]) == (50, "nrefs:var")
    assert in_files["scores"] == exact("h.txt", "--reference", "refs.tsv")["scores"]


def test_references_of_equal_sources_are_pooled(exact: Exact) -> None:
    write(h="a c c", b="b c c", one="x a c", two="y _ c", s="p p q")
    files = ("--reference", "one.txt", "--pool-references", "s.txt", "--against", "b.txt")
    found = exact("h.txt", *files)
    assert (found["value"], found["against_scores"][0]["value"], found["sentences"]) == (100, 50, 2)
    assert found["scores"][0]["signature"].startswith("nrefs:var|")
    assert exact("h.txt", *files, "--reference", "two.txt")["sentences"] == 2
    Path("s.jsonl").write_text('{"source": "p"}\n{"source": "p"}\n{"source": "q"}\n')
    assert exact("h.txt", *files[:2], "--pool-references", "s.jsonl")["value"] == 100


def test_stdin_is_read_as_a_file_is(exact: Exact) -> None:
    write(r="a b _")
    assert exact("-", "--reference", "r.txt", stdin="\ufeffa\nb\r\n\n".encode())["value"] == 100
    # As wc -l counts, plus a last line without an end.
    Path("r.txt").write_bytes("a\u2028b\x85\x0b\x0c\x1c\rc\nlast\n".encode())
    found = exact("-", "--reference", "r.txt", stdin="\ufeffa\u2028b\x85\x0b\x0c\x1c\rc\r\nlast".encode())
    assert (found["value"], found["sentences"]) == (100, 2)


def test_references_from_a_pipe(exact: Exact) -> None:
    write(h="a b")
    os.mkfifo("pipe")
    writer = threading.Thread(target=Path("pipe").write_text, args=("\ufeffa\nc\n",), daemon=True)
    writer.start()
    assert exact("h.txt", "--reference", "pipe")["value"] == 50
    writer.join(60)


def test_nothing_named_means_the_newest_decoding_of_any_run(exact: Exact) -> None:
    make_run("old", ("test.ar", "a\n", ["a\n"]), order=1)
    make_run("new", ("test.ar", "a\n", ["a\n"]), ("test.nar4", "b\n", ["a\n"]), order=2)
    found = exact()
    assert (found["hypotheses"], found["value"]) == ("runs/new/decode/test.nar4.txt", 0)
    assert found["references"] == ["runs/new/decode/test.reference0.txt"]
    for words in (["--run", "old"], ["old"], ["runs/old"]):
        assert exact(*words)["hypotheses"] == "runs/old/decode/test.ar.txt"
    os.utime("runs/old/decode/test.ar.json", ns=(2**62, 2**62))  # decoded last, though `new` was trained last
    assert exact()["hypotheses"] == "runs/old/decode/test.ar.txt"
    assert exact("-", stdin=b"a\n")["references"] == ["runs/old/decode/test.reference0.txt"]


def test_references_of_a_decoded_file_come_from_its_summary(exact: Exact) -> None:
    run = make_run("a", ("test.ar", "a\n", ["x\n", "a\n"]), ("valid.ar", "b\n", ["y\n"]))
    (run / "decode/test.ar.jsonl").write_text('{"hypothesis": "a"}\n')
    for name in ("test.ar.txt", "test.ar.jsonl"):
        found = exact(str(run / "decode" / name))
        assert (found["value"], len(found["references"])) == (100, 2)
    write(mine="z", h="y")
    found = exact(str(run / "decode/test.ar.txt"), "--reference", "mine.txt")
    assert (found["value"], found["references"]) == (0, ["mine.txt"])
    assert exact("h.txt", "--run", "runs/a")["value"] == 100, "the newest references"


@pytest.fixture
def good_and_bad(janus: Janus) -> Janus:
    """Scores one output against another."""
    right = "".join(f"the cat number {k} sat on the mat\n" for k in range(30))
    good = right.replace("number 1 ", "one ")
    for name, text in (("r.txt", right), ("good.txt", good), ("bad.txt", good.replace("sat on", "was"))):
        Path(name).write_text(text)
    return partial(janus, "good.txt", "--reference", "r.txt", "--against", "bad.txt")


def test_two_outputs_are_compared(good_and_bad: Janus) -> None:
    as_json = ("--bootstrap", "99", "--json", "--metrics", "bleu,ter")
    code, out, _ = good_and_bad(*as_json)
    found = json.loads(out)
    assert (code, found["against"], found["bootstrap"]) == (0, "bad.txt", {"samples": 99, "seed": 1})
    for one, other, both in zip(found["scores"], found["against_scores"], found["comparisons"], strict=True):
        assert one["name"] == other["name"] == both["name"]
        assert both["difference"] == pytest.approx(one["value"] - other["value"])
        assert (both["p"], both["wins"]) == (0.01, 1)
    assert found["warnings"] == ["p says little: there are fewer than 100 lines"]
    assert good_and_bad(*as_json)[1] == out  # the same seed
    assert good_and_bad(*as_json, "--seed", "2")[1] != out
    _, out, err = good_and_bad("--bootstrap", "0", "--metrics", "bleu")
    assert ("difference" in out, "bootstrap" in out, "p says little" in err) == (True, False, False)
    out = good_and_bad("--metrics", "exact", "--json")[1]
    assert json.loads(out)["bootstrap"] == {"samples": 1000, "seed": 1}


def test_two_runs_are_compared(exact: Exact, janus: Janus) -> None:
    right = "a\nb\n"
    for number, (name, text) in enumerate({"one": "a\nb\n", "two": "a\nx\n", "three": "x\nx\n"}.items()):
        label = "test.nar" if name == "three" else "test.ar"
        make_run(name, (label, text, [right]), (f"{label}2", "y\ny\n", [right]), order=number)
    scores = {}
    for other in ("two", "runs/three"):  # decoded in the same way, or not
        out = printed(janus("runs/one/decode/test.ar.txt", "--against", other, "--metrics", "exact", "--json"))
        scores[other] = json.loads(out)["against_scores"][0]["value"]
    assert scores == {"two": 50.0, "runs/three": 0.0}
    ends(janus("runs/one/decode/test.ar.txt", "--against", "runs/four"), 3, "runs/four")


@pytest.mark.parametrize("other", ["runs/two", "runs/two/decode/valid.ar.txt"])
def test_outputs_of_different_splits_are_not_compared(janus: Janus, other: str) -> None:
    make_run("one", ("test.ar", "a\nb\n", ["a\nb\n"]))
    make_run("two", ("valid.ar", "a\nx\n", ["a\nx\n"]))
    code, out, err = janus("runs/one", "--against", other)
    assert (code, out) == (2, "")
    assert "test.ar.txt is of the test split, runs/two/decode/valid.ar.txt of the valid split" in err
    assert "janus decode --run runs/two --split test" in err


def test_bootstrap_of_one_output(exact: Exact) -> None:
    write(h="a b c d", r="a b x y")
    interval = exact("h.txt", "--reference", "r.txt", "--bootstrap", "200")["scores"][0]["interval"]
    assert interval == {"low": 0, "high": 100, "mean": pytest.approx(50, abs=5)}


RECORDS = b'{"hypothesis": "a", "score": 1}\n{"hypothesis": "b"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("h.txt", RECORDS), ("h.json", RECORDS), ("h", RECORDS), ("h.jsonl.gz", gzip.compress(RECORDS, mtime=0)),
        ("h.txt.gz", b"a\nb\n"), ("-", RECORDS),
    ],
)  # fmt: skip
def test_what_a_file_holds_is_known_by_its_content(exact: Exact, name: str, content: bytes) -> None:
    write(r="a b")
    if name != "-":
        Path(name).write_bytes(content)
    assert exact(name, "--reference", "r.txt", stdin=content)["value"] == 100


def test_text_that_begins_like_json_is_text(exact: Exact) -> None:
    text = '{"hypothesis": a quotation}\n{"hypothesis": "b"}\n'
    Path("r.txt").write_text(text)
    for name in ("-", "r.txt"):
        assert exact(name, "--reference", "r.txt", stdin=text.encode())["value"] == 100


def test_a_json_file_beside_hypotheses_that_is_no_summary(exact: Exact) -> None:
    write(h="a b")
    Path("h.json").write_text('{"references": "mine"}')
    make_run("a", ("test.ar", "a\nb\n", ["a\nb\n"]))
    assert exact("h.txt", "--run", "a")["value"] == 100


def test_columns_of_tables(exact: Exact) -> None:
    Path("t.csv").write_text('id,output,human,reference,reference2\n1,"a, b",x,"a, b",c\n2,c,c,,\n')
    files = ("t.csv", "--column", "output", "--reference", "t.csv")
    assert exact(*files)["value"] == 50
    found = exact(*files, "--reference-column", "reference", "--reference-column", "human")
    assert (found["value"], found["scores"][0]["signature"].split("|")[0]) == (100, "nrefs:var")
    Path("REFS.TSV.gz").write_bytes(gzip.compress(b"a, b\tc\nc\n"))
    assert exact(*files[:3], "--reference", "REFS.TSV.gz")["value"] == 100
    Path("plain.txt").write_text("a, b\nx\n")
    against = ("--against", "plain.txt", "--bootstrap", "5")
    assert exact(*files[:3], *against, "--reference", "REFS.TSV.gz")["value"] == 100
    assert (
        exact("-", "--column", "output", "--reference", "REFS.TSV.gz", stdin=Path("t.csv").read_bytes())["value"] == 100
    )


@pytest.mark.parametrize(
    ("text", "better"), [("a b .\n", "bleu-tok"), ("Goethe\nSchiller\n", "chrf,exact,edit")], ids=["tokenised", "short"]
)
def test_metrics_that_suit_the_text_better_are_named(janus: Janus, text: str, better: str) -> None:
    Path("h.txt").write_text(text)
    assert better in janus("h.txt", "--reference", "h.txt")[2]
    assert better not in janus("h.txt", "--reference", "h.txt", "--metrics", better)[2]


REFUSED = [
    ("two.txt --reference three.txt", 3, "two.txt has 2 lines, three.txt has 3"),
    ("two.txt --reference two.txt --reference three.txt", 3, "two.txt has 2 lines, three.txt has 3"),
    ("two.txt --reference two.txt --against three.txt", 3, "two.txt has 2 lines, three.txt has 3"),
    ("- --reference three.txt", 3, "stdin has 0 lines, three.txt has 3"),
    ("two.txt --reference two.txt --pool-references three.txt", 3, "two.txt has 2 lines, three.txt has 3"),
    ("two.txt", 3, "no reference for two.txt"),
    ("none.txt", 3, "none.txt does not exist"),
    ("none.txt --reference two.txt", 3, "none.txt does not exist"),
    ("two.txt --reference none.txt", 3, "none.txt does not exist"),
    ("two.txt --reference two.txt --against none.txt", 3, "none.txt does not exist"),
    ("two.txt --reference .", 3, ". is a folder"),
    ("empty.txt --reference empty.tsv", 3, "no lines to score"),
    ("latin.txt --reference two.txt", 3, "latin.txt:2:3: byte 0xe9 is not UTF-8"),
    ("other.jsonl --reference two.txt", 3, "other.jsonl:2"),
    ("table.csv --reference two.txt", 3, "table.csv (CSV) has no column 'hypothesis'; its columns: 1 'id', 2 'text'"),
    ("two.txt --reference table.csv", 3, "has no column of references; its columns: 1 'id', 2 'text'"),
    ("two.txt --reference table.csv --reference-column txt", 3, "table.csv (CSV) has no column 'txt'"),
    ("two.txt --reference pairs.tsv", 3, "its first column may be the source"),
    ("two.txt --reference prefix.tsv", 3, "its first column may be the source"),
    ("two.txt --reference refs.csv --reference-column a --reference-column ref", 3, "has no column 'ref'"),
    ("two.txt --reference-column text", 2, "--reference-column is of a table"),
    ("two.txt --reference two.txt --column text", 3, "two.txt is no table"),
    ("", 2, "no run under runs/"),
    ("-", 2, "no run under runs/"),
    ("folder", 2, "folder is not a run"),
    ("two.txt --reference two.txt --metrics blue", 2, "did you mean bleu?"),
    ("two.txt --reference two.txt --metrics moverscore", 2, "no metric is called 'moverscore'\n"),
    ("two.txt --reference two.txt --metrics ,", 2, "no metric"),
    ("two.txt --reference two.txt --metrics chrf,ter --tokenize zh", 2, "--tokenize zh would change nothing"),
    ("two.txt --reference two.txt --tokenize latin", 2, "latin"),
]


@pytest.mark.parametrize(("words", "code", "said"), REFUSED)
def test_what_is_refused(janus: Janus, words: str, code: int, said: str) -> None:
    write(two="a b", three="a b c", empty="")
    Path("empty.tsv").touch()
    for name in ("pairs.tsv", "prefix.tsv"):
        Path(name).write_text("a\tb\nc\td\n")
    Path("latin.txt").write_bytes(b"a\nab\xe9\n")
    Path("other.jsonl").write_text('{"hypothesis": "a"}\n{"text": "b"}\n')
    Path("table.csv").write_text("id,text\n1,a\n2,b\n")
    Path("refs.csv").write_text("a,ref1\nb,c\nb,c\n")
    Path("folder").mkdir()
    err = ends(janus(*words.split()), code, out="")
    assert said in err.split("error: ")[1]


def test_a_run_without_decodings_or_references_is_refused(janus: Janus) -> None:
    make_run("a")
    make_run("b", ("test.ar", "a\n", None), order=1)
    for run, said in ("a", "nothing was decoded with runs/a yet"), ("b", "test.ar.txt was decoded without a reference"):
        ends(janus("--run", run), 3, said)


@pytest.mark.parametrize(
    "summary",
    [{"references": []}, {"hypotheses": "x.txt", "references": ["../secret.txt"]}, {"hypotheses": "/etc/x"},
     {"hypotheses": "x.txt", "references": "test.reference.txt"}, {"hypotheses": "x.txt", "references": [3]}],
)  # fmt: skip
def test_a_summary_never_leads_out_of_its_folder(janus: Janus, summary: dict[str, object]) -> None:
    run = make_run("a")
    (run / "decode/x.txt").write_text("a\n")
    (run / "secret.txt").write_text("a\n")
    (run / "decode/x.json").write_text(json.dumps(summary))
    ends(janus(), 3, "x.json is damaged", out="")


CHINESE = "两只狗在雪地里跑。\n一个男人在读书。\n"


def names(out: str) -> list[str]:
    return [score["name"] for score in json.loads(out)["scores"]]


def test_text_without_spaces_is_warned_of_and_split_as_asked(janus: Janus) -> None:
    Path("zh.txt").write_text(CHINESE, encoding="utf-8")
    files = ("zh.txt", "--reference", "zh.txt", "--json")
    code, out, err = janus(*files)
    assert (code, names(out)) == (0, ["bleu", "chrf", "ter"])
    assert "warning: BLEU, TER split words at spaces" in err
    assert "--tokenize zh" in err
    assert json.loads(out)["warnings"]
    code, out, err = janus(*files, "--tokenize", "zh", "--metric", "bleu,rouge")
    assert (code, json.loads(out)["warnings"]) == (0, [])
    assert {round(score["value"]) for score in json.loads(out)["scores"]} == {100}
    assert "tok:zh" in json.loads(out)["scores"][0]["signature"]
    assert "warning" not in err


@pytest.mark.parametrize(
    ("recipe", "text", "options", "expected", "signature"),
    [
        ("", "two dogs run in the snow\n" * 2, (), ["bleu", "chrf", "ter"], "tok:13a"),
        ("", CHINESE, (), ["chrf", "exact", "edit"], "nc:6"),
        ("scoring: {tokenize: char}\n", CHINESE, (), ["bleu", "chrf", "exact", "edit"], "tok:char"),
        ("scoring: {tokenize: char}\n", CHINESE, ("--metrics", "bleu"), ["bleu"], "tok:char"),
        ("scoring: {metric: edit}\n", "a b c d e\nb c d\n", (), ["edit", "chrf", "ter"], "unit:characters"),
        ("training: {best_metric: exact_ar}\n", CHINESE, (), ["exact", "chrf", "edit"], "space:stripped"),
    ],
)
def test_the_recipe_of_the_run_decides_wherever_the_files_are_named_from(
    janus: Janus, recipe: str, text: str, options: tuple[str, ...], expected: list[str], signature: str
) -> None:
    run = make_run("a", ("test.ar", text, [text]))
    (run / "recipe.yaml").write_text(f"name: x\n{recipe}")
    make_run("newest", order=9)
    for words in (("--run", "a"), (str(run / "decode/test.ar.txt"),), ("runs/a",)):
        code, out, _ = janus(*words, "--json", *options)
        assert (code, names(out)) == (0, expected)
        assert signature in json.loads(out)["scores"][0]["signature"]
    code, out, _ = janus("-", "--json", *options, stdin=text.encode())
    assert (code, names(out)) == (0, expected), "the run of the newest decoding"


def test_a_source_as_the_reference_is_said(janus: Janus) -> None:
    run = make_run("a", ("test.ar", "b\n", None))
    (run / "recipe.yaml").write_text("name: x\ndata: {columns: [context, question]}\n")
    Path("t.csv").write_text("context,question\na,b\n")
    for column, said in (("context", True), ("question", False)):
        code, _, err = janus("--run", "a", "--reference", "t.csv", "--reference-column", column)
        assert (code, "that is the source in the recipe of runs/a" in err) == (0, said), err


@pytest.mark.parametrize("width", [20, 60, 80])
def test_no_number_is_cut_however_narrow_the_terminal(good_and_bad: Janus, monkeypatch: Patch, width: int) -> None:
    found = json.loads(good_and_bad("--bootstrap", "50", "--json")[1])
    for name, value in (("COLUMNS", str(width)), ("LINES", "50"), ("TERM", "dumb")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True)
    table, *below = good_and_bad("--bootstrap", "50")[1].split("nrefs")
    assert "50 samples of 30 lines, seed 1" in below[-1]
    assert "…" not in re.sub(r"\d … ", "", table)
    for score, other, each in zip(found["scores"], found["against_scores"], found["comparisons"], strict=True):
        for number in (
            f"{score['value']:.2f}", f"{other['value']:.2f}", f"{each['difference']:+.2f}", f"{each['wins']:.1%}",
            f"{each['interval']['low']:+.2f} … {each['interval']['high']:+.2f}", f"{each['p']:.3f}",
        ):  # fmt: skip
            assert number in table
    longest = max(map(len, table.split("\n")))
    assert longest <= width or width == 20
    assert ("│" in table) == (width >= 80)


def test_empty_references_and_outputs_are_counted(janus: Janus) -> None:
    write(h="one two _ four", r="one _ three _", none="_ _ _ _")
    code, out, err = janus("h.txt", "--reference", "r.txt", "--json")
    assert code == 0, err
    (warning,) = (text for text in json.loads(out)["warnings"] if "empty" in text)
    assert warning.startswith("2 of 4 lines have an empty reference")
    assert f"warning: {warning}" in err
    assert "h.txt: 1 of 4 outputs are empty" in err
    ends(janus("h.txt", "--reference", "none.txt"), 3, "none.txt", out="")
    ends(janus("h.txt", "--reference", "none.txt", "--reference", "r.txt"), 0, "2 of 4 lines have an empty reference")


def test_outputs_that_are_one_text_are_said(janus: Janus) -> None:
    write(h="? " * 6 + "a b c d", half="? " * 5 + "a b c d e", r="a b c d e f g h i j")
    said = "6 of 10 outputs are one text: '?'"
    assert said in json.loads(janus("h.txt", "--reference", "r.txt", "--json")[1])["warnings"]
    assert "one text" not in janus("half.txt", "--reference", "r.txt")[2]
    assert "one text" not in janus("h.txt", "--reference", "h.txt")[2], "as in the references"


def test_of_an_n_best_list_the_best_hypothesis_is_judged(janus: Janus, exact: Exact) -> None:
    Path("r.txt").write_text("a\n\nc\n")
    several = "0\t-0.500000\ta\n0\t-1.000000\tb\n1\t0.000000\t\n2\t-0.250000\tc\n2\t-inf\td\n"
    records = "".join(
        json.dumps({"hypothesis": text, "nbest": [{"hypothesis": text}, {"hypothesis": "b"}]}) + "\n"
        for text in ("a", "", "c")
    )
    Path("h.txt").write_text(several)
    Path("h.jsonl").write_text(records)
    for name, stdin in (("h.txt", b""), ("h.jsonl", b""), ("-", several.encode()), ("-", records.encode())):
        assert exact(name, "--reference", "r.txt", stdin=stdin)["value"] == 100
        assert "only the best hypothesis of each line is judged" in janus(name, "--reference", "r.txt", stdin=stdin)[2]
    Path("test.ar.nbest2.txt").write_text("a\n\nc\n")
    assert "only the best hypothesis of each line is judged" in janus("test.ar.nbest2.txt", "--reference", "r.txt")[2]
    Path("h.txt").write_text("0\ta\n1\t\n2\tc\n")
    assert exact("h.txt", "--reference", "r.txt")["value"] == 0, "text with tabs is text"
    Path("h.jsonl").write_text('{"hypothesis": "a", "source": "b", "nbest": []}\n')
    Path("one.txt").write_text("b\n")
    assert "only the best" not in janus("h.jsonl", "--column", "source", "--reference", "one.txt")[2]


def test_a_task_of_glge(janus: Janus) -> None:
    write(out="what_is_it who_is_it what", ref="what_was_it who_is_it where", src="x X y")
    Path("out.txt").write_text("what is it ?\nwho is it ?\nwhat\n")
    Path("ref.txt").write_text("what was it ?\nwho is it ?\nwhere\n")
    given = ("out.txt", "--reference", "ref.txt", "--task", "squad_qg", "--json")
    ends(janus(*given, "--pool-references", "src.txt", "--metrics", "exact,bleu1-coco"), 0)
    # Sources in lower case are two: "who is it ?" is right for the first, nothing for the second.
    out = janus(*given, "--pool-references", "src.txt", "--metrics", "exact")[1]
    found = json.loads(out)
    assert (found["task"], found["sentences"], found["scores"][0]["value"]) == ("squad_qg", 2, 50)
    ends(janus(*given), 2, "--pool-references")
    assert janus(*given, "--task", "none")[0] == 2


def test_a_task_of_glge_finds_the_sources_of_a_run(janus: Janus) -> None:
    run = make_run("x", ("test.ar", "a\nb\nc\n", ["a\nx\nb\n"]))
    lines = [json.dumps({"source": source, "hypothesis": "", "index": n}) for n, source in enumerate("sts")]
    (run / "decode" / "test.ar.jsonl").write_text("".join(f"{line}\n" for line in lines))
    out = printed(janus("--task", "msqg", "--metrics", "exact", "--json"))
    assert [json.loads(out)[key] for key in ("sentences", "task")] == [2, "msqg"]
    assert json.loads(out)["scores"][0]["value"] == 0  # of the source s, the last output, c, is none of its references
    code, out, err = janus("--task", "msqg", "--json")
    assert code == 0, err
    names = [each["name"] for each in json.loads(out)["scores"]]
    assert names[:2] == ["rougeL-coco", "bleu4-coco"]
    assert ("meteor" in names) != ("METEOR is left out" in err)
