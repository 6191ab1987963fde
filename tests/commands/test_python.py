"""`janus_cli.load` in Python: the texts of `janus decode`, lazily or not; probabilities; mistakes as exceptions."""

import io
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from math import isnan
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from untrained import make_run, records, source

import janus_cli
from janus_cli import Score, Translator, system
from janus_cli.data.tokenizer import Tokenizers
from janus_cli.decoding import translate
from janus_cli.decoding.distill import IdLines
from janus_cli.engines.engine import MOST_SESSIONS
from janus_cli.errors import CheckpointError, DataError, JanusError, UsageError
from tests.helpers import Janus, Patch

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def in_ids(objective: str) -> Translator:
    """A translator whose texts are ids, so that what it wrote is what is scored."""
    made = janus_cli.load(f"runs/{objective}", device="cpu")
    both = made.tokenizers
    ids = Tokenizers(IdLines(both.source), IdLines(both.target), both.files)
    return Translator(made.generator, ids, made.plan)


def sources_in_ids(translator: Translator) -> list[str]:
    tokenizer = janus_cli.load("runs/janus").tokenizers.source
    return translator.tokenizers.source.decode(tokenizer.encode(source()))


def test_importing_it_costs_no_torch() -> None:
    code = (
        "import sys, janus_cli; assert janus_cli.JanusError; assert not {'torch', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        attrgetter("lod")(janus_cli)


def test_the_page_is_true(janus: Janus) -> None:
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert len(blocks) == 5
    Path("data/demo.src-tgt").symlink_to("demo")  # where `janus preprocess` writes it
    with redirect_stdout(io.StringIO()) as printed:
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), names)
    mistake = re.search(r"print\(problem.message\)  # (.*)\n.*# (.*)\n", blocks[-1])
    assert mistake
    assert printed.getvalue().endswith(f"{mistake[1]}\n{mistake[2]}\n")


@pytest.mark.parametrize(
    ("objective", "options"),
    [
        ("ar", {}),
        ("janus", {"mode": "ar", "beam": 4, "nbest": 3, "length_penalty": 0.6}),
        ("janus", {"mode": "nar", "iters": 4, "rerank": "ar", "trace": True}),
        ("janus", {"mode": "spec", "redraft": "ar"}),
        ("bang", {"mode": "semi", "block": 2}),
        ("cmlm", {"batch_sentences": 3}),
    ],
)
def test_results_are_those_of_the_command_line(janus: Janus, objective: str, options: dict[str, Any]) -> None:
    translator = janus_cli.load(objective, device="cpu")
    results = translator.translate(source(), **options)
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    words = [*words[:-2], "--trace-lines", "99"] if "trace" in options else words
    out = janus("--run", objective, *words, "--jsonl")[1]
    assert [result.record(full=True, traced=True) for result in results] == records(out)
    first, record = results[0], records(out)[0]
    assert (first.text, first.tokens, first.passes) == (record["hypothesis"], record["tokens"], record["passes"])
    assert [each.text for each in first.nbest] == [h["hypothesis"] for h in record.get("nbest", [record])]
    assert first.score == pytest.approx(record["score"], abs=1e-6)
    assert first.logps == pytest.approx(record["logps"], abs=1e-6)
    assert len(first.trace) == (4 if "trace" in options else 0)
    assert (translator.translate([]), translator.translate(iter([" "]))[0].text) == ([], "")


@pytest.mark.parametrize("options", [{"mode": "ar", "beam": 1}, {"mode": "ar", "beam": 3, "nbest": 2}, {"mode": "nar"}])
@pytest.mark.parametrize("count", [1, 3])
def test_without_scores_no_result_has_one(janus: Janus, options: dict[str, Any], count: int) -> None:
    translator, texts = janus_cli.load("runs/janus"), source()[:count]
    scored, found = (translator.translate(texts, scores=scores, **options) for scores in (True, False))
    assert [result.texts for result in found] == [result.texts for result in scored]
    assert not any(isnan(hypothesis.score) for result in scored for hypothesis in result.nbest)
    assert all(isnan(hypothesis.score) for result in found for hypothesis in result.nbest)
    assert not any(result.logps for result in found)


def test_texts_are_read_as_they_are_needed(janus: Janus, monkeypatch: Patch) -> None:
    pulled: list[str] = []

    def typed() -> Iterator[str]:
        for line in source():
            pulled.append(line)
            yield line

    monkeypatch.setattr(translate, "WINDOW_BATCHES", 3)
    translator = janus_cli.load("janus", device="cpu")
    for size, window in ((1, 1), (2, 6)):
        pulled.clear()
        lazily = translator.translate_lazily(typed(), batch_sentences=size)
        assert not pulled
        assert (next(lazily).index, len(pulled)) == (0, window)
        assert [result.index for result in lazily] == list(range(1, 20))


def test_a_list_of_options_may_change_between_calls(janus: Janus) -> None:
    translator, never = janus_cli.load("runs/ar"), list[int]()
    how: dict[str, Any] = {"mode": "ar", "beam": 1, "unwritten": never}
    (first,) = translator.translate(source()[:1], **how)
    never.append(first.outputs[0].tokens[0])
    (second,) = translator.translate(source()[:1], **how)
    assert never[0] not in second.outputs[0].tokens


def test_a_checkpoint_a_precision_and_an_exported_folder(janus: Janus, any_janus: Janus) -> None:
    first = janus_cli.load("janus", checkpoint="step-000001").translate(source())
    assert [result.text for result in first] != [result.text for result in janus_cli.load("janus").translate(source())]
    low = janus_cli.load("janus", precision="bf16")
    assert (low.generator.model.output_weight.dtype.itemsize, low.plan.label) == (2, "ar.beam3.bf16")
    any_janus("export", "janus", "--checkpoint", "step-000001", "--out", "elsewhere")
    again = janus_cli.load(checkpoint="elsewhere").translate(source())
    assert [result.text for result in again] == [result.text for result in first]


@pytest.mark.parametrize(
    ("name", "objective", "options"),
    [
        ("ar", "ar", {"mode": "ar"}),
        ("ar", "janus", {"mode": "ar"}),
        ("ar", "xlnet", {"mode": "ar"}),
        ("ar", "prophetnet", {"mode": "ar"}),
        ("ar", "mpnet", {"mode": "ar"}),
        ("nar", "janus", {"mode": "nar", "iters": 1}),
        ("nar", "cmlmc", {"mode": "nar", "iters": 1}),
        ("nar", "bang", {"mode": "nar", "remove_repeats": False}),
    ],
)
def test_what_was_written_has_the_probability_that_it_was_written_with(
    janus: Janus, name: str, objective: str, options: dict[str, Any]
) -> None:
    translator = in_ids(objective)
    results = translator.translate(sources_in_ids(translator), **options)
    scores = translator.score([result.source for result in results], [result.text for result in results])
    for result, score in zip(results, scores, strict=True):
        count = min(len(result.logps), len(score.logps[name]))  # one of them may not have that of the end
        assert count >= len(result.tokens)
        assert score.logps[name][:count] == pytest.approx(result.logps[:count], abs=1e-4)
        assert score.tokens == result.tokens


def test_of_long_or_unknown_sources_what_is_not_read_is_counted(janus: Janus) -> None:
    changes = ("data.truncate_source=true", "data.max_source_tokens=6")
    make_run(Path(), Path("data/demo"), "janus", *changes, name="cutting")
    translator = in_ids("cutting")
    long = [row for row in sources_in_ids(translator) if len(row.split()) > 6]
    short = [" ".join(row.split()[:6]) for row in long]
    for mode in ("ar", "nar"):
        results, same = (translator.translate(rows, mode=mode) for rows in (long, short))
        assert [result.text for result in results] == [result.text for result in same]
        cut = [len(row.split()) - 6 for row in long]
        assert [(result.read, result.cut) for result in results] == [(6, each) for each in cut]
        assert {(result.read, result.cut, result.unknown) for result in same} == {(6, 0, 0)}
    scores, plain = (translator.score(rows, ["20 21 22"] * len(long)) for rows in (long, short))
    assert [score.ar for score in scores] == pytest.approx([score.ar for score in plain])
    assert [score.cut for score in scores] == cut
    assert [result.unknown for result in translator.translate(["1 7 1", "", "8"])] == [2, 0, 0]


def test_aux_stands_between_ar_and_nar(janus: Janus) -> None:
    """P_AUX of a hidden token is P_NAR of it when those before it are observed; the rest is hidden still."""
    translator = in_ids("janus")
    sources, targets = ["5 6 7 8", "9 10"], ["20 21 22 23 24 25", "30 31 32"]
    hidden = [[1, 2, 4], [0]]
    (aux, one) = translator.score(sources, targets, hidden=hidden)
    for index in range(3):
        (nar,) = translator.score(sources[:1], targets[:1], hidden=[hidden[0][index:]])
        assert aux.logps["aux"][index] == pytest.approx(nar.logps["nar"][0], abs=1e-5)
    assert one.aux == pytest.approx(one.nar)
    assert aux.aux == pytest.approx(sum(aux.logps["aux"]))
    assert aux.aux != pytest.approx(aux.nar, abs=1e-3)
    assert translator.score(sources[1:], targets[1:], hidden=hidden[1:])[0].ar == pytest.approx(one.ar, abs=1e-4)
    (nothing, whole) = translator.score(sources, targets, hidden=[[], [0, 1, 2]])
    assert (nothing.nar, nothing.aux, len(whole.logps["nar"])) == (0, 0, 3)
    assert translator.score([], []) == []


def test_what_an_objective_does_not_have_is_none(janus: Janus) -> None:
    has = {"ar": "ar", "cmlm": "nar", "mpnet": "ar nar", "bang": "ar nar", "janus": "ar nar aux"}
    for objective, names in has.items():
        (score,) = janus_cli.load(objective).score(["ba"], [""])
        assert isinstance(score, Score)
        assert list(score.logps) == names.split()
        assert [score.ar is None, score.nar is None, score.aux is None] == [
            n not in score.logps for n in ("ar", "nar", "aux")
        ]


@pytest.mark.parametrize(
    ("call", "kind", "named"),
    [
        (lambda: janus_cli.load("nowhere"), UsageError, "nowhere"),
        (lambda: janus_cli.load(3), UsageError, "the run is of type int"),
        (lambda: janus_cli.load("janus", checkpoint=3), UsageError, "the checkpoint is of type int"),
        (lambda: janus_cli.load("janus", device=0), UsageError, "0"),
        (lambda: janus_cli.load("janus", device="cuda:99"), UsageError, "cuda:99"),
        (lambda: janus_cli.load("janus", checkpoint="step-9"), CheckpointError, "step-9"),
        (lambda: janus_cli.load("janus").translate(["ba"], itres=3), UsageError, "did you mean iters"),
        (lambda: janus_cli.load("janus").translate(["ba"], mode="nar", iters=0), UsageError, "iters"),
        (lambda: janus_cli.load("janus").translate_lazily(["ba"], mode="nar", beam=3), UsageError, "--beam"),
        (lambda: janus_cli.load("ar").translate(["ba"], mode="nar"), UsageError, "objective ar"),
        (lambda: janus_cli.load("janus").score(["ba"], []), UsageError, "1 source, 0 targets"),
        (lambda: janus_cli.load("janus").score(["ba"], ["du"], hidden=[[9]]), UsageError, "target 0"),
        (lambda: janus_cli.load("janus").score(["ba"], ["du " * 40]), DataError, "target 0 has"),
    ],
)
def test_mistakes_are_exceptions(janus: Janus, call: Any, kind: type[JanusError], named: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert named in caught.value.message
    assert isinstance(caught.value.hint, str)


def test_failures_of_the_system_are_such_exceptions(janus: Janus, monkeypatch: Patch) -> None:
    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "runs/closed/recipe.yaml")

    monkeypatch.setattr(translate, "read_checkpoint", closed)
    with pytest.raises(JanusError, match="Permission denied"):
        janus_cli.load("closed")


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        ("ba du", "are of type str"),
        (b"ba", "are of type bytes"),
        (None, "are None"),
        ({"ba": 1}, "are of type dict"),
        (["ba", 3], "1 is of type int"),
        (["ba", "ba \ud800"], "1 has half of a surrogate pair at character 3"),
    ],
)
def test_what_is_no_text_is_named(janus: Janus, texts: Any, named: str) -> None:
    translator = janus_cli.load("janus", device="cpu")
    calls = {
        "text": lambda: translator.translate(texts),
        "source": lambda: translator.score(texts, ["ba", "ba"]),
        "target": lambda: translator.score(["ba", "ba"], texts),
    }
    for what, call in calls.items():
        with pytest.raises(UsageError, match=f"{what}s? {named}"):
            call()


def test_texts_are_checked_as_they_are_read(janus: Janus) -> None:
    translator = janus_cli.load("janus", device="cpu")
    with pytest.raises(UsageError, match="the texts are None"):
        translator.translate_lazily(None)  # before anything is read
    results = translator.translate_lazily(iter(["ba", None]), batch_sentences=1)
    assert next(results).source == "ba"
    with pytest.raises(UsageError, match="text 1 is None"):
        next(results)


def test_results_go_to_other_processes_without_their_tokenizer_and_translators_do_not(janus: Janus) -> None:
    translator = janus_cli.load("runs/janus", device="cpu")
    options: dict[str, Any] = {"mode": "nar", "iters": 2, "length_beam": 2, "nbest": 2, "trace": True}
    results = translator.translate(source()[:2], **options)
    stored = pickle.dumps(results)
    assert len(stored) < 9000
    for before, after in zip(results, pickle.loads(stored), strict=True):
        assert (after, after.tokens, after.text) == (before, before.tokens, before.text)
        assert after.record(full=True, traced=True) == before.record(full=True, traced=True)
    with pytest.raises(JanusError, match="cannot be pickled"):
        pickle.dumps(translator)


@pytest.mark.parametrize(("loaded", "asked"), [("float32", "bf16"), ("int8", "bf16"), ("bf16", "float32")])
def test_a_precision_that_was_not_loaded_is_refused(janus: Janus, loaded: Any, asked: Any) -> None:
    translator = janus_cli.load("runs/janus", device="cpu", precision=loaded)
    with pytest.raises(UsageError, match="was loaded in"):
        translator.translate(["ba du"], precision=asked)


def test_threads_share_a_few_graphs_and_batch_sizes_make_none(janus: Janus) -> None:
    translator = janus_cli.load("runs/janus", device="cpu")
    engine, texts = translator.generator, source()[:2]
    expected = [[result.text for result in translator.translate(texts, mode="nar", iters=n)] for n in (1, 2)]
    for size in range(1, 30):
        for n in (1, 2):
            found = translator.translate(texts, mode="nar", iters=n, batch_sentences=size)
            assert [result.text for result in found] == expected[n - 1]
    assert len(engine._sessions) <= 2, "single sentences, and several"

    def translate(number: int) -> str:
        return translator.translate(["ba du"], mode="ar", beam=1, max_extra=40 + number)[0].text

    with ThreadPoolExecutor(4) as pool:
        assert len({*pool.map(translate, range(40))}) == 1
    assert len(engine._sessions) <= MOST_SESSIONS


def test_making_a_model_takes_no_random_numbers_of_the_program(janus: Janus) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    assert janus_cli.load("runs/janus", device="cpu").score(["ba du"], ["du ba"])
    assert torch.rand(1) == expected


def test_while_another_thread_imports_torch_there_are_as_many_threads_as_before(
    monkeypatch: Patch,
) -> None:
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))  # nothing is in it yet
    assert system.threads() >= 1
