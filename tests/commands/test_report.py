"""`janus report` on untrained runs: the page, what is missing, and what is not overwritten."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
from untrained import lines

from tests.helpers import Janus, Result, edit_json, ends, read_json

pytest.importorskip("matplotlib")

MODEL = "model.safetensors"
Report = Callable[..., Result]
TERMS = {"ar": ["ce_ar"], "cmlm": ["ce_nar", "length"], "janus": ["ce_ar", "ce_nar", "kl_ar_nar", "length"]}
EMPTY = {"meta", "br", "line", "path", "use", "rect"}


class Page(HTMLParser):
    """A page in pieces: ids, text a section, what is not closed, and everything that it would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.sections: dict[str, str] = {}
        self.at = ""
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        urls = [given.get(name) or "#" for name in ("src", "href", "xlink:href", "action", "data")]
        self.loads += [url for url in urls if not url.startswith("#")] + [tag] * (tag in ("script", "link", "img"))
        if tag == "section":
            self.at = given["id"] or ""
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in EMPTY:
            assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.sections[self.at] = self.sections.get(self.at, "") + data


@pytest.fixture
def report(any_janus: Janus) -> Report:
    """Runs `janus report` where runs/ar, runs/cmlm, runs/janus lie, each with a log that a kill cut short."""
    for name, terms in TERMS.items():
        bleu = {f"bleu_{way}": 30.0 for way in ("ar", "nar") if any(term == f"ce_{way}" for term in terms)}
        values = dict.fromkeys(terms, 2.0)
        speed = {"norm": 1.0, "lr": 1e-3, "tokens_per_second": 900.0, "seconds_per_update": 2.0, "utilisation": 0.4}
        entries = [
            {"kind": "start", "step": 0, "time": 1.0, "parameters": 1234, "device": "cpu"},
            *({"kind": "train", "step": n, "time": 1.0, "loss": 9 / n, "terms": values, **speed} for n in (1, 2, 3)),
            {"kind": "resumed", "step": 2, "time": 1.0, "parameters": 1234, "device": "cpu"},
            {"kind": "skipped", "step": 2, "time": 1.0, "why": "<nan>"},
            {"kind": "valid", "step": 2, "time": 1.0, "loss": 2.0, **values, **bleu, "bleu": 30.0},
            {"kind": "valid", "step": 3, "time": 1.0, "loss": 2.0, **values, **dict.fromkeys(bleu, 20.0), "bleu": 20.0},
        ]
        manifest = Path(f"runs/{name}/manifest.json")
        edit_json(manifest, fingerprint=read_json(manifest)["splits"]["train"]["fingerprint"])
        torn = '{"kind": "train", "st'
        Path(f"runs/{name}/log.jsonl").write_text("\n".join(map(json.dumps, entries)) + "\n" + torn, encoding="utf-8")

    return partial(any_janus, "report")


def page(found: Result, code: int = 0) -> Page:
    assert found[0] == code, found
    made = Page(Path(found[1].removesuffix("\n")))
    assert (made.open, made.loads) == ([], [])
    assert len(made.ids) == len(set(made.ids))
    return made


def test_one_run_by_default_the_newest_into_its_folder(report: Report) -> None:
    found = report("--sentences", "6")
    assert found[1] == "runs/janus/report.html\n"
    made = page(found)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", made.text)
    assert captions == [
        "loss", "ce_ar", "ce_nar", "kl_ar_nar", "length", "learning rate", "gradient norm", "bleu", "bleu_ar",
        "bleu_nar", "target tokens a second", "utilisation",
        "Lengths in the training split: source (grey), target (line)",
        "Predicted less real length", "janus: predicted and real", "ar", "nar", "aux",
    ]  # fmt: skip
    overview = made.sections["overview"]
    assert "1,234" in overview
    assert "resumed at update 2" in overview
    assert "skipped updates: 1 (<nan>)" in overview
    assert "left out: 1" in overview
    assert "damaged lines of the log: 1" in overview
    assert "bleu_ar (13a) 30.00 at update 2" in overview
    bleu = r"<tr><th>janus, bleu_ar</th><td>30\.00</td><td>2</td><td>20\.00</td><td>3</td>"
    assert re.search(bleu, made.text), "best and last"
    assert "6 of 10" in made.sections["calibration"]
    assert "<tr><th>train, source</th><td>300</td>" in made.text
    assert "lost in the tokenizer, valid" in made.sections["data"]
    assert "pass 1 of" in made.sections["decodes"]
    assert "sure" in made.sections["decodes"]
    reference = lines(Path("data/demo/valid.target.txt").read_text(encoding="utf-8"))
    number = int(re.findall(r"Validation sentence (\d+)", made.sections["decodes"])[0])
    assert reference[number - 1] in made.sections["decodes"]
    assert 'class="missing"' not in made.text


def test_what_was_decoded_is_scored_by_the_metric_of_the_run(report: Report) -> None:
    output = Path("runs/janus/decode/test.ar.txt")
    wanted = Path("data/demo/test.target.txt").read_text(encoding="utf-8")
    reference = output.with_name("test.reference.txt")
    for file in (output, reference):
        file.parent.mkdir(exist_ok=True)
        file.write_text(wanted, encoding="utf-8")
    summary = {"hypotheses": output.name, "references": [reference.name], "split": "test", "label": "ar"}
    output.with_suffix(".json").write_text(json.dumps(summary), encoding="utf-8")
    made = page(report("runs/janus", "--sentences", "2"))
    assert ">BLEU<" in made.text
    row = re.search(r"<tr><th>janus, test, ar</th>(.*?)</tr>", made.text)
    assert row
    assert "<td>100.00</td>" in row[1]
    reference.unlink()
    made = page(report("runs/janus", "--sentences", "2"))
    assert re.search(r"<tr><th>janus, test, ar</th>", made.text), "the rest is shown without a score"


def test_a_run_that_writes_blocks_has_no_length_head(report: Report) -> None:
    made = page(report("runs/bang", "--sentences", "2"))
    assert "bang has no length head: its objective writes until EOS" in made.sections["lengths"]
    assert "bang, ar.beam3" in made.sections["decodes"]


def test_several_runs_side_by_side(report: Report) -> None:
    found = report("ar", "runs/cmlm", "janus", "runs/ar", "--sentences", "4")
    assert found[1] == "report.html\n"
    made = page(found)
    sections = made.sections
    assert "Data of ar, cmlm, janus" in sections["data"]
    assert made.text.count("<figcaption>ce_ar</figcaption>") == 1
    for name in ("ar, ar.beam3", "cmlm, nar3", "janus, ar.beam3", "janus, nar3"):
        assert name in sections["decodes"]
    assert "ar has no length head" in sections["lengths"]
    assert sections["decodes"].count("Validation sentence") == 3


def test_names_terms_and_reasons_that_are_html(report: Report) -> None:
    run = Path('runs/<b>&"$x$')
    Path("runs/ar").rename(run)
    with (run / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"kind": "train", "step": 4, "terms": {"<script>": 1.0}}\n')
        file.write('{"kind": "skipped", "step": 4, "why": "\\u0000<i>"}\n')
    made = page(report(run.name, "janus", "--sentences", "2"))
    assert "&lt;b&gt;&amp;&#34;$x$" in made.text
    assert "<figcaption>&lt;script&gt;</figcaption>" in made.text
    assert "\\x00&lt;i&gt;" in made.text


@pytest.mark.parametrize(
    ("spoil", "key", "why"),
    [
        (lambda run: (run / "log.jsonl").unlink(), "terms", "log.jsonl does not exist"),
        (lambda run: (run / "log.jsonl").write_text(""), "scores", "has no validation line yet"),
        (lambda run: shutil.rmtree(run / "checkpoints"), "calibration", "has no checkpoint yet"),
        (lambda run: Path("data/demo/valid.source.npy").unlink(), "decodes", "the data of this run is gone"),
        (lambda run: Path("data/demo/train.target.npy").write_bytes(b"x"), "data", "was changed since the run began"),
        (lambda run: (run / "manifest.json").write_text("{}"), "lengths", "manifest.json is damaged"),
        (lambda run: (run / "recipe.yaml").write_text("name: 3"), "overview", "name"),
        (lambda run: (run / "tokenizer.model").unlink(), "calibration", "tokenizer.model"),
        (lambda run: (run / "checkpoints/last" / MODEL).write_bytes(b"x"), "calibration", MODEL),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(
    report: Report, spoil: Callable[[Path], object], key: str, why: str
) -> None:
    spoil(Path("runs/cmlm"))
    found = report("cmlm", "--sentences", "4")
    made = page(found, 4 if why in (MODEL, "tokenizer.model", "manifest.json is damaged") else 0)
    assert why in made.sections[key]
    assert why in found[2] or "yet" in why
    assert len(made.sections) >= 8
    assert "Traceback" not in found[2]


def test_mistakes(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Path("runs/ar/report.html")
    mine.write_text("<html>mine</html>", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for arguments, words in (
        (["ar", "--out", "no/such/folder.html"], "no/such"),
        (["ar", "--out", "runs"], "runs is a folder"),
        (["ar"], "runs/ar/report.html"),
        (["cmlm"], "[report]"),
    ):
        ends(report(*arguments), 2, words, out="")
    assert mine.read_text(encoding="utf-8") == "<html>mine</html>"
    assert not Path("runs/cmlm/report.html").exists()


def test_it_replaces_its_own_page_only_and_twice_it_is_the_same_but_for_its_date(report: Report) -> None:
    Path("runs/ar/report.html").write_text("<html>mine</html>", encoding="utf-8")
    pages = [page(report("ar", "--sentences", "2", *force)).text for force in (["--force"], [])]
    first, second = (re.sub(r"on \d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text) for text in pages)
    assert first == second


def test_judges_share_no_curve_and_no_name_and_the_lower_edit_distance_is_best(report: Report) -> None:
    judges = {"bleu": {"metric": "bleu", "tokenize": "zh"}, "edit": {"metric": "edit"}}
    with Path("runs/ar/log.jsonl").open("a", encoding="utf-8") as file:
        for step, (name, value) in enumerate((("bleu", 90.0), ("edit", 5.0), ("edit", 4.0), ("edit", 4.0)), 4):
            entry = {"kind": "valid", "step": step, "time": 1.0, "loss": 2.0, "scoring": judges[name]}
            file.write("\n" + json.dumps({**entry, f"{name}_ar": value, name: value}))
    log = Path("runs/janus/log.jsonl")
    text = log.read_text(encoding="utf-8")
    log.write_text(text.replace('"valid"', f'"valid", "scoring": {json.dumps(judges["bleu"])}'), encoding="utf-8")
    made = page(report("ar", "janus", "--sentences", "2"))
    captions = re.findall(r"<figcaption>(bleu.*?)</figcaption>", made.text)
    assert captions == ["bleu", "bleu_ar (13a)", "bleu_ar (zh)", "bleu_nar"]
    for run, title, best, at in (
        ("ar", "edit_ar", 4, 7), ("ar", "bleu_ar (13a)", 30, 2), ("ar", "bleu_ar (zh)", 90, 4),
        ("janus", "bleu_ar (zh)", 30, 2),
    ):  # fmt: skip
        assert f"<tr><th>{run}, {title}</th><td>{best:.2f}</td><td>{at}</td>" in made.text, title
    for newest in ("edit_ar 4.00 at update 7", "bleu_ar (zh) 30.00 at update 2"):
        assert newest in made.sections["overview"]
    assert "edit distance (lower is better)" in made.text
