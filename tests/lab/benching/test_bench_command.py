"""`janus bench` through the command line, on untrained models; no number that is a time decides anything."""

import json
import re
import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from janus_cli import recipe_load
from janus_cli.cli import main
from janus_cli.core.generate import length_limit
from janus_cli.data.prepare import prepare
from janus_cli.data.tokenizer import load_tokenizers
from janus_cli.errors import JanusError, OutOfMemoryError
from janus_cli.files import copy_files
from janus_cli.lab.benching import child, peers
from janus_cli.lab.benching.contestant import Contestant, Decoded
from janus_cli.lab.benching.modes import wanted
from janus_cli.lab.benching.prepare import _sampled
from janus_cli.runs import Run
from janus_cli.training import checkpoint

Result = tuple[int, str, str]
Janus = Callable[..., Result]
QUICK = ["--sentences", "4", "--repeats", "2", "--batches", "2,3", "--warmup", "1"]
MEMORY = {"before": 10 << 20, "peak": 30 << 20}
CHANGES = [
    "data.synthetic.train=300", "data.synthetic.valid=10", "data.synthetic.test=12", "data.max_tokens=38",
    "tokenizer.vocabulary=250", "model.width=16", "model.feedforward=24", "model.heads=2", "model.encoder_layers=1",
    "model.decoder_layers=1", "model.max_length=40", "model.tie=none", "model.embedding_scale=false",
    "decoding.batch_sentences=8", "decoding.max_ratio=0.5", "decoding.max_extra=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/demo and runs/janus, runs/ar, runs/cmlm, runs/query, as `janus train` leaves them."""
    root = tmp_path_factory.mktemp("bench")
    prepared = root / "data" / "demo"
    prepared.parent.mkdir()
    prepare(recipe_load.load("demo", CHANGES), prepared, workers=1, force=False)
    tokenizers = load_tokenizers(prepared)
    sizes = tokenizers.source.size, tokenizers.target.size
    for name in ("ar", "cmlm", "janus", "query"):
        changes = [*CHANGES, *(["objective.ar_stream=query"] if name == "query" else [])]
        recipe = recipe_load.load("demo", changes, "ar" if name == "query" else name)
        run = root / "runs" / name
        (run / "checkpoints").mkdir(parents=True)
        copy_files([*tokenizers.files, "manifest.json"], prepared, run)
        (run / "recipe.yaml").write_text(recipe_load.dump(recipe), encoding="utf-8")
        torch.manual_seed(1)
        model = checkpoint.build_model(recipe, *sizes).requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn_like(weight))
        folder = checkpoint.save(run / "checkpoints", "step-000007", recipe, sizes, {"step": 7}, model.weights(), None)
        checkpoint.point(run / "checkpoints", "last", folder)
    return root


@pytest.fixture
def janus(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Janus:
    """Runs `janus bench` where a copy of `made` lies; memory is not measured but `MEMORY`."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, symlinks=True)
    monkeypatch.chdir(tmp_path)
    for manifest in Path("runs").glob("*/manifest.json"):
        about = {**json.loads(manifest.read_bytes()), "prepared": str(tmp_path / "data" / "demo")}
        manifest.write_text(json.dumps(about), encoding="utf-8")
    monkeypatch.setattr(child, "peak_memory", lambda asked: MEMORY)

    def run(*arguments: str) -> Result:
        with pytest.raises(SystemExit) as stopped:
            main(["bench", *arguments])
        torch.set_num_threads(1)
        assert isinstance(stopped.value.code, int)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return stopped.value.code, captured.out, captured.err

    return run


def kept(run: str) -> dict[str, Any]:
    (file,) = Path(f"runs/{run}/bench").iterdir()
    return json.loads(file.read_bytes())


def shown(out: str) -> list[str]:
    """The labels of the first table."""
    table = next(part for part in out.split("\n\n") if part.startswith("|"))
    return [line.split("|")[1].strip() for line in table.split("\n")[2:]]


@pytest.mark.parametrize("run", ["janus", "ar", "cmlm"])
def test_every_row_that_a_run_can_do_is_in_the_table_and_in_the_file(janus: Janus, run: str) -> None:
    code, out, err = janus(run, *QUICK)
    assert code == 0
    about = kept(run)
    labels = [row["label"] for row in about["rows"]]
    assert shown(out) == labels
    assert set(labels) | set(about["left_out"]) == set(wanted())
    assert {
        "janus": set(about["left_out"]) == {"nar.eos", "semi2", "semi4"},
        "ar": labels == ["ar.beam1", "ar.beam5"],
    }.get(run, True)
    for label, why in about["left_out"].items():
        assert f"left out: {label}: {why}" in err
        assert why in out
    for row in about["rows"]:
        must_hold_together(row)
        assert ("ar.beam1" in row["ratios"]) == (run != "cmlm")
    assert (about["run"], about["checkpoint"], about["step"]) == (f"runs/{run}", "step-000007", 7)
    assert about["work"]["sentences"] == about["work"]["lines"] == about["work"]["singles"] == 4
    assert about["machine"]["cpu"] in out
    assert f"runs/{run}/bench/" in err
    passes = {row["label"]: row["passes"] for row in about["rows"]}
    assert passes.get("nar4.lb1", 4) == 4
    assert passes.get("nar10.lb5.rerank", 11) == 11


def must_hold_together(row: dict[str, Any]) -> None:
    latency, through = row["latency"], row["throughput"]
    assert [len(taken) for taken in latency["seconds"]] == [4, 4]
    middles = [sorted(taken)[1] for taken in latency["seconds"]]
    assert latency["p50"] == {
        "median": statistics.median(middles), "lowest": min(middles), "highest": max(middles)
    }  # fmt: skip
    assert set(through["trials"]) == {"2", "3"}
    assert through["batch"] == int(min(through["trials"], key=through["trials"].__getitem__))
    assert through["sentences_per_second"]["highest"] == 4 / min(through["seconds"])
    assert len(through["seconds"]) == 2
    assert row["memory"] == MEMORY
    assert "tok:13a" in row["quality"]["signature"]
    assert row["quality"]["value"] >= 0
    assert row["passes"] >= 1


def test_sampled_lines_keep_their_references(janus: Janus) -> None:
    run = Run(Path("runs/janus"))
    lines, references = _sampled(run, recipe_load.load(str(run.recipe)), 5)
    sides = (
        Path(f"data/demo/test.{side}.txt").read_text(encoding="utf-8").split("\n") for side in ("source", "target")
    )
    pairs = list(zip(*sides, strict=True))
    assert references is not None
    chosen = list(zip(lines, references, strict=True))
    assert len(set(chosen)) == 5
    assert chosen == [pair for pair in pairs if pair in chosen]
    assert chosen != pairs[:5]


@pytest.mark.parametrize("max_ratio", [0.0, 1.16, 1.2])
def test_peers_may_write_as_much_as_we_do(made: Path, tmp_path: Path, max_ratio: float) -> None:
    run = Run(made / "runs" / "janus")
    recipe = recipe_load.load(str(run.recipe), [f"decoding.max_ratio={max_ratio}"])
    tokenizers = load_tokenizers(run.path)
    setting = peers.Setting("ctranslate2", recipe, tokenizers, torch.device("cpu"), {}, "x", tmp_path)
    lengths = torch.arange(1, 60)
    ours = length_limit(lengths, recipe.model.max_length, recipe.decoding) - 1  # EOS
    assert setting.most([[7] * length for length in lengths.tolist()]) == ours.tolist()


def test_bleu_is_that_of_decode_and_score_on_the_whole_split(janus: Janus, capsys: pytest.CaptureFixture[str]) -> None:
    assert janus("janus", "--mode", "nar4.lb1", "--repeats", "1", "--batches", "4")[0] == 0
    about = kept("janus")
    assert about["work"]["sentences"] == 12
    for arguments in (
        ["decode", "--run", "janus", "--mode", "nar", "--iters", "4", "--length-beam", "1", "--output", "out.txt"],
        ["score", "out.txt", "--reference", "data/demo/test.target.txt", "--metrics", "bleu", "--json"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        text = capsys.readouterr().out
    assert about["rows"][0]["quality"]["value"] == json.loads(text)["scores"][0]["value"]


def test_the_same_sentences_every_time_and_each_run_of_it_has_a_file(
    janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(child, "peak_memory", lambda wish: asked.append(wish["lines"]) or MEMORY)
    for _ in range(2):
        assert janus("janus", "--mode", "nar1.lb1", *QUICK)[0] == 0
    source = Path("data/demo/test.source.txt").read_text(encoding="utf-8").split("\n")
    assert asked[0] == asked[1]
    places = [source.index(line) for line in asked[0]]
    assert places == sorted(places) != [0, 1, 2, 3]
    assert len(list(Path("runs/janus/bench").iterdir())) == 2


def test_files_are_written_once_and_replaced_with_force(janus: Janus) -> None:
    quick = ["janus", "--mode", "nar1.lb1", *QUICK, "--json", "found.json"]
    assert janus(*quick)[0] == 0
    assert json.loads(Path("found.json").read_bytes()) == kept("janus")
    Path("found.json").write_text("mine", encoding="utf-8")
    code, _, err = janus(*quick)
    assert (code, "--force" in err) == (2, True)
    assert Path("found.json").read_text(encoding="utf-8") == "mine"
    assert janus(*quick, "--force")[0] == 0
    assert json.loads(Path("found.json").read_bytes())["rows"]


def test_a_plot_is_written(janus: Janus) -> None:
    pytest.importorskip("matplotlib")
    assert janus("janus", "--mode", "ar", *QUICK, "--plot", "plot.svg")[0] == 0
    text = Path("plot.svg").read_text(encoding="utf-8")
    assert text.count("ar.beam") == 2


def test_a_dry_run_measures_nothing_and_writes_nothing(janus: Janus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "peak_memory", lambda asked: pytest.fail("started a process"))
    before = sorted(Path().rglob("*"))
    code, out, err = janus("ar", *QUICK, "--dry-run")
    assert (code, out) == (0, "")
    assert "would measure runs/ar" in err
    assert "left out: spec" in err
    # Of 2 rows: quality and memory 2 x 4, 2 batch sizes and 2 repeats 4 x 4, one by one 2 x 4, warm-up 3.
    assert re.search(r"70 translations: at most \d+ s", err)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere is no run"),
        (["janus", "--mode", "nar7"], "--mode nar7: there is no such row"),
        (["cmlm", "--mode", "ar"], "can do none of ar.beam1, ar.beam5"),
        (["janus", "--batches", "16,x"], "16,x"),
        (["janus", "--batches", "0"], "no list of numbers above 0"),
        (["janus", "--repeats", "0"], "--repeats"),
        (["janus", "--sentences", "0"], "--sentences"),
        (["janus", "--against", "fairseq"], "no such peer"),
        (["janus", "--set", "model.width=8"], "only decoding.… can be changed"),
        (["janus", "--set", "decoding.beam=3"], "--set decoding.beam=3: each row says this itself"),
        (["janus", "--json", "no/such/file.json"], "no folder no/such"),
        (["janus", "--checkpoint", "step-9"], "no checkpoint step-9"),
        (["janus", "--device", "abacus"], "abacus"),
    ],
)
def test_mistakes_are_named_before_anything_is_measured(janus: Janus, arguments: list[str], words: str) -> None:
    code, out, err = janus(*arguments)
    assert (code, out) == (4 if "step-9" in arguments else 2, "")
    assert words in err
    assert "hint:" in err
    assert not list(Path("runs").glob("*/bench"))


@pytest.mark.parametrize(
    ("module", "arguments", "extra"),
    [
        ("matplotlib", ["--plot", "a.svg"], "bench"),
        ("ctranslate2", ["--against", "ctranslate2"], "peers"),
        ("transformers", ["--against", "transformers"], "peers"),
    ],
)
def test_a_missing_extra_is_one_hint(
    janus: Janus, monkeypatch: pytest.MonkeyPatch, module: str, arguments: list[str], extra: str
) -> None:
    import importlib

    real = importlib.import_module

    def import_module(name: str) -> Any:
        if name.split(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", import_module)
    code, out, err = janus("janus", *arguments)
    assert (code, out) == (2, "")
    assert f"{module} is not installed" in err
    assert f"pip install 'janus-cli[{extra}]'" in err


def test_memory_is_measured_in_a_process_of_its_own(made: Path) -> None:
    run, cpu = made / "runs" / "janus", torch.device("cpu")
    asked = child.asked_of(run, (run / "checkpoints" / "last").resolve(), (), cpu, ["a b", ""])
    found = child.peak_memory({**asked, "label": "nar1.lb1", "batch": 2})
    assert 0 < found["before"] < found["peak"] < 1 << 40
    with pytest.raises(JanusError, match="nowhere"):
        child.peak_memory({**asked, "run": "nowhere", "label": "nar1.lb1", "batch": 2})


def test_a_run_that_takes_no_file_costs_the_file_and_not_the_bench(janus: Janus) -> None:
    Path("runs/ar/bench").touch()
    code, out, err = janus("ar", *QUICK, "--json", "mine.json")
    assert code == 0, err
    assert "runs/ar/bench cannot be written" in err
    assert "ar.beam5" in out
    about = json.loads(Path("mine.json").read_text(encoding="utf-8"))
    assert [row["label"] for row in about["rows"]] == ["ar.beam1", "ar.beam5"]
    assert about["checkpoint"] == "step-000007"


@pytest.mark.parametrize(
    "problem", [MemoryError(), RuntimeError("CUDA out of memory"), OutOfMemoryError("too much memory")]
)
def test_what_does_not_fit_into_the_memory_of_a_process_is_told(
    problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def translate(lines: Sequence[str], batch: int) -> Decoded:
        if batch > 1:
            raise problem
        return Decoded(list(lines), [1])

    row, cpu = Contestant("a", "peer", translate), torch.device("cpu")
    answers = [child.answer(row, {"lines": ["a"], "batch": batch}, cpu) for batch in (2, 1)]
    monkeypatch.setattr(child.Worker, "_ask", lambda *_: answers.pop(0))
    worker = child.Worker.__new__(child.Worker)
    with pytest.raises(OutOfMemoryError, match="memory"):
        worker.translate(["a"], 2)
    assert worker.translate(["a"], 1).texts == ["a"]


def test_other_mistakes_of_a_process_stay_what_they_are() -> None:
    def translate(lines: Sequence[str], batch: int) -> Decoded:
        raise RuntimeError("a tensor has the wrong shape")

    with pytest.raises(RuntimeError, match="wrong shape"):
        child.answer(Contestant("a", "peer", translate), {"lines": ["a"], "batch": 2}, torch.device("cpu"))


def test_memory_that_cannot_be_measured_costs_its_number_and_not_the_bench(
    janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peak_memory(asked: dict[str, Any]) -> dict[str, int]:
        assert asked["lines"]
        if asked["label"] == "ar.beam5":
            raise JanusError("killed")
        return MEMORY

    monkeypatch.setattr(child, "peak_memory", peak_memory)
    code, out, err = janus("ar", *QUICK)
    assert code == 0
    assert [row["memory"] for row in kept("ar")["rows"]] == [MEMORY, None]
    for text in (out, err):
        assert "ar.beam5: its memory could not be measured: killed" in text


@pytest.mark.filterwarnings("default")  # of a library that is not ours
def test_transformers_beside_it_writes_as_much_as_we_do(janus: Janus) -> None:
    pytest.importorskip("transformers")
    code, _, _ = janus("ar", "--mode", "ar.beam1", *QUICK, "--against", "transformers")
    assert code == 0
    ours, *others = kept("ar")["rows"]
    assert [row["label"] for row in others] == ["transformers.beam1", "transformers.beam5"]
    assert all(row["quality"] is None and "as ar.beam1 does" in row["note"] for row in others)
    assert set(ours["ratios"]) == {"ar.beam1", "transformers.beam1", "transformers.beam5"}


@pytest.mark.parametrize("peer", ["ctranslate2", "transformers"])
@pytest.mark.filterwarnings("default")
def test_random_weights_write_the_length_that_is_asked_for(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: peers.Peer
) -> None:
    transformers, steps = pytest.importorskip(peer), list[int]()
    run = Run(made / "runs" / "query")
    recipe, tokenizers = recipe_load.load(str(run.recipe)), load_tokenizers(run.path)
    lines = (made / "data" / "demo" / "test.source.txt").read_text(encoding="utf-8").split("\n")[:3]
    wanted_lengths = dict(zip(lines, (3, 9, 6), strict=True))
    model = checkpoint.load_model(run.checkpoints / "last")
    exported = tmp_path / "model"
    if peer == "ctranslate2":
        assert not peers.export(recipe, model, tokenizers, run, exported)
    else:
        generate = transformers.MarianMTModel.generate

        def counted(*arguments: Any, **options: Any) -> torch.Tensor:
            found: torch.Tensor = generate(*arguments, **options)
            steps.append(found.shape[1])
            return found

        monkeypatch.setattr(transformers.MarianMTModel, "generate", counted)
    setting = peers.Setting(peer, recipe, tokenizers, torch.device("cpu"), wanted_lengths, "x", exported)
    for row in peers.contestants(setting):
        assert row.label in peers.labels(peer, torch.device("cpu"))
        # One more token than asked for, because EOS takes a step too; transformers may write specials, left out here.
        singles = [row.translate([line], 1).sizes[0] for line in lines]
        together = row.translate([*lines, ""], 3).sizes
        if peer == "ctranslate2":
            assert (singles, together) == ([4, 10, 7], [7, 7, 7, 0])
        else:
            assert steps == [1 + length for length in (4, 10, 7, 7)], "BOS and as many steps"
            steps.clear()
        assert all(size <= 1 + length for size, length in zip(singles, (3, 9, 6), strict=True))
        assert max(together) <= 7


@pytest.mark.parametrize(("run", "own"), [("janus", True), ("ar", True), ("query", False), ("cmlm", False)])
def test_ctranslate2_beside_it(janus: Janus, run: str, own: bool) -> None:
    pytest.importorskip("ctranslate2")
    code, out, _ = janus(run, "--mode", "nar1.lb1" if run == "cmlm" else "ar.beam1", *QUICK, "--against", "ctranslate2")
    assert code == 0
    ours, *others = kept(run)["rows"]
    assert [row["label"] for row in others] == [
        f"ctranslate2.{kind}.beam{beam}" for kind in ("float32", "int8") for beam in (1, 5)
    ]
    for row in others:
        assert (row["quality"] is None) != own
        assert ("random weights" in row["note"]) != own
        assert set(ours["ratios"]) >= {row["label"]}
    if own:
        assert others[0]["quality"]["value"] == pytest.approx(ours["quality"]["value"])
    assert "| speed relative to | ctranslate2.float32.beam1 |" in re.sub(" +", " ", out)
