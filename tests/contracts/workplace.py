"""A folder with text, data and a run of every objective, made by the command line alone; and what is pinned of it.

`make_golden.py` writes what the functions here find, the tests compare it with what they find then.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from typing import Any
from unittest.mock import patch

import inside
import numpy as np
import torch
import yaml
from safetensors.numpy import load_file, save_file

from janus_cli.cli import main

GOLDEN = Path(__file__).parent / "golden"
VERBS = (
    "preprocess", "train", "decode", "score", "demo", "recipes", "inspect", "average", "draft-head", "distill",
    "export", "bench", "compare", "report",
)  # fmt: skip
RECIPES = (
    "demo", "dialogsum", "e2e_nlg", "iwslt14", "multi30k", "news_deen", "squad_qg", "tatoeba_deen", "translit_enru",
    "wmt14_ende", "wmt16_enro",
)  # fmt: skip
OBJECTIVES = ("ar", "cmlm", "cmlmc", "cemat", "janus", "xlnet", "mpnet", "prophetnet", "bang")
RUNS = {**{name: (name,) for name in OBJECTIVES}, "query": ("janus", "--set", "objective.ar_stream=query")}

# The learning rate is so small that a run keeps the weights that it begins with.
STILL = """
name: still
data: {synthetic: {train: 300, valid: 6, test: 17}, max_tokens: 18}
tokenizer: {kind: words, vocabulary: 300}
model:
  {width: 16, feedforward: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, dropout: 0, max_length: 20, norm: pre,
   tie: none}
training:
  {updates: 2, batch_tokens: 256, learning_rate: 1e-30, weight_decay: 0, warmup: 0, log_every: 1, valid_sentences: 1,
   precision: float32}
decoding: {max_ratio: 0.7, max_extra: 3}
"""
# As a user would have it: SentencePiece, one table for all, dropout.
TINY = """
name: tiny
data: {synthetic: {train: 120, valid: 6, test: 8}, max_tokens: 60}
tokenizer: {vocabulary: 120}
model:
  {width: 16, feedforward: 32, heads: 2, encoder_layers: 1, decoder_layers: 1, dropout: 0.1, max_length: 62, norm: pre}
training:
  {updates: 6, batch_tokens: 256, learning_rate: 1e-3, warmup: 4, log_every: 1, validate_every: 3, save_every: 2,
   valid_sentences: 2, precision: float32, ema: 0.9}
"""
AR = {
    "ar.beam1": "--mode ar --beam 1",
    "ar.beam5": "--mode ar --beam 5 --nbest 3",
    "ar.beam3.lp": "--mode ar --beam 3 --length-penalty 0.3",
}
FOUR = "--mode nar --iters 4 --length-beam 3"
NAR = {
    "nar1.lb1": "--mode nar --iters 1 --length-beam 1",
    "nar1.lb3": "--mode nar --iters 1 --length-beam 3",
    "nar4.lb1": "--mode nar --iters 4 --length-beam 1",
    "nar4.lb3": f"{FOUR} --nbest 2",
    "nar4.lb3.all": f"{FOUR} --update all",
    "nar4.lb3.norepeats": f"{FOUR} --remove-repeats",
}
RERANK = {"nar4.lb3.rerank": f"{FOUR} --rerank ar"}
BLOCKS = {
    "nar.eos": "--mode nar",
    "nar.eos.repeats": "--mode nar --keep-repeats",
    "semi2": "--mode semi --block 2",
    "semi4": "--mode semi --block 4 --keep-repeats",
}
SPEC = {
    "spec": "--mode spec",
    "spec.ar": "--mode spec --redraft ar --verify-window 3",
    "spec.short": "--mode spec --draft-iters 2 --draft-length 5",
}
GREEDY = {"ar.beam1": AR["ar.beam1"]}
WAYS = {
    "ar": AR, "cmlm": NAR, "cmlmc": NAR, "cemat": {"nar4.lb3": NAR["nar4.lb3"]}, "janus": AR | NAR | RERANK | SPEC,
    "query": GREEDY | SPEC, "xlnet": AR, "mpnet": AR | NAR | RERANK, "prophetnet": AR, "bang": AR | BLOCKS,
}  # fmt: skip
CASES = [(run, way) for run, ways in WAYS.items() for way in ways]
NOISES = {
    "uniform": {"uniform": 1.0}, "spans": {"spans": 1.0}, "fixed": {"fixed": 1.0, "share": 0.3},
    "suffix": {"suffix": 1.0}, "full": {"full": 1.0},
    "mixture": {"uniform": 0.4, "spans": 0.2, "fixed": 0.1, "suffix": 0.2, "full": 0.1},
}  # fmt: skip
PLANS = {
    **{name: (name, []) for name in OBJECTIVES},
    "ar query": ("ar", ["objective.ar_stream=query"]),
    "cmlm glance": ("cmlm", ["objective.glance=0.5"]),
    "janus query": ("janus", ["objective.ar_stream=query", "objective.correct=0.5", "objective.glance=0.3"]),
    "xlnet sixth": ("xlnet", ["objective.predicted=0.17"]),
    "prophetnet 3": ("prophetnet", ["objective.ngram=3"]),
    "bang 4": ("bang", ["objective.streams=4"]),
}
METRICS = "bleu,bleu-tok,bleu-compound,chrf,ter,rouge,rouge-stem,exact,edit,rouge155,bleu-coco,rougeL-coco,f1,distinct"


def janus(folder: Path, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Runs the command line there: exit code, stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="", write_through=True) for _ in range(2))
    code = 0
    with (
        contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
    ):  # fmt: skip
        try:
            main(list(arguments))
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            torch.set_num_threads(1)
    return (code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def done(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """The stdout of a command that must succeed."""
    code, out, err = janus(folder, *arguments, stdin=stdin)
    assert code == 0, err
    return out


def build(root: Path) -> Path:
    """Data, and a run of every objective with the weights that it begins with."""
    (root / "still.yaml").write_text(STILL)
    (root / "tiny.yaml").write_text(TINY)
    done(root, "preprocess", "--recipe", "still.yaml")
    for name, (objective, *more) in RUNS.items():
        train(root, "still.yaml", f"runs/{name}", "--objective", objective, *more)
        redraw(root / "runs" / name, root / "random" / name)
    (root / "lines.txt").write_text("".join(f"{line}\n" for line in lines(root)))
    return root


def build_tiny(root: Path) -> Path:
    """A run that is trained, averaged and decoded twice."""
    (root / "tiny.yaml").write_text(TINY)
    done(root, "preprocess", "--recipe", "tiny.yaml")
    train(root, "tiny.yaml", "runs/janus", "--objective", "janus")
    done(root, "average", "runs/janus", "--last", "2")
    done(root, "average", "runs/janus", "--ema")
    done(root, "decode", "--run", "janus", "--beam", "1")
    done(root, "decode", "--run", "janus", "--mode", "nar", "--iters", "2", "--checkpoint", "average-last2")
    return root


def train(root: Path, recipe: str, run: str, *more: str) -> str:
    return done(root, "train", "--recipe", recipe, "--run", run, "--device", "cpu", *more)


def lines(root: Path) -> list[str]:
    """Twenty lines to decode: of the test split, an empty one, one of one word, and one that is too long."""
    text = (root / "data/still.src-tgt/test.source.txt").read_text().removesuffix("\n").split("\n")
    return [*text[:9], "", *text[9:], "mako", " ".join(text[:4])]


def redraw(run: Path, copy: Path) -> None:
    """A copy of a run whose weights are large random numbers made of its and their names; sentences end early."""
    shutil.copytree(run, copy, symlinks=True)
    folder = (copy / "checkpoints/last").resolve()
    weights = load_file(folder / "model.safetensors")
    for name, values in weights.items():
        if values.ndim > 1:
            seed = int.from_bytes(hashlib.sha256(f"{run.name} {name}".encode()).digest()[:4], "big")
            size = 1.0 if re.search("cross|output|length", name) else 0.5
            weights[name] = (size * np.random.default_rng(seed).standard_normal(values.shape)).astype(np.float32)
    weights["output_table.weight"][3] *= 1.8  # EOS
    save_file(weights, folder / "model.safetensors")
    sign(folder)


def sign(folder: Path) -> None:
    """Makes a checkpoint's manifest true again after a file was changed by hand."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name, about in manifest["files"].items():
        content = (folder / name).read_bytes()
        about |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def options() -> dict[str, list[str]]:
    """Flags, choices and arguments of every verb, as its help has them."""
    found = {}
    for verb in VERBS:
        text = done(Path(), verb, "--help")
        names = set()
        for flags, rest in re.findall(r"^  ((?:--?[\w-]+(?:, | / )?)+)(.*)$", text, re.MULTILINE):
            own = re.findall(r"--?[\w-]+", flags)
            choices = re.match(r" +<([^<>]*\|[^<>]*)>", rest)
            names |= {*own, *(f"{own[-1]} {choice}" for choice in (choices[1].split("|") if choices else ()))}
        usage = re.sub(r"\s+", " ", text.split("\n\n")[0]).split("[OPTIONS]")[1]
        found[verb] = sorted(names | set(re.findall(r"[^\s\[\]]+", usage.replace("...", ""))))
    return found


def recipes() -> dict[str, dict[str, Any]]:
    """Every knob of the recipes and of each objective's demo; of all but the first only what differs from it."""
    first = flat(yaml.safe_load(done(Path(), "recipes", "show", "demo")))
    found: dict[str, dict[str, Any]] = {"demo": first}
    shown = {name: (name,) for name in RECIPES[1:]}
    shown |= {f"demo {name}": ("demo", "--objective", name) for name in OBJECTIVES}
    for name, arguments in shown.items():
        knobs = flat(yaml.safe_load(done(Path(), "recipes", "show", *arguments)))
        found[name] = {key: value for key, value in knobs.items() if first.get(key, ...) != value and key != "about"}
        found[name].pop("data.notes", None)
    return found


def flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, keys joined by dots."""
    found = {}
    for key, value in values.items():
        found |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


def files(root: Path) -> dict[str, Any]:
    """What lies where after `build_tiny`, and which keys the JSON files have. How ids lie on disk may change."""
    run, data = root / "runs/janus", root / "data/tiny.src-tgt"
    ids = re.compile(r".*\.(arrow|npy|npz|bin)|\..*")
    manifest = json.loads((data / "manifest.json").read_bytes())
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [json.loads(path.read_bytes()) for path in sorted((run / "decode").glob("*.json"))]
    texts = sorted((run / "decode").glob("*.jsonl"))
    checkpoint = run / "checkpoints/last"
    shown = {"run": run, "checkpoint": checkpoint, "data": data}
    splits = manifest["splits"]
    return {
        "run": listing(run),
        "data": [name for name in listing(data) if not ids.fullmatch(name.split("/")[-1])],
        "manifest of data": sorted(manifest),
        "manifest of data, files": sorted(name for name in manifest["files"] if not ids.fullmatch(name)),
        "manifest of data, a split": sorted(flat(splits["train"])),
        "manifest of data, counts": {n: [s["in"], s["kept"], s["tokens"]["target"]["sum"]] for n, s in splits.items()},
        "manifest of a run": sorted(json.loads((run / "manifest.json").read_bytes())),
        "recipe of a run": sorted(yaml.safe_load((run / "recipe.yaml").read_text())),
        "manifest of a checkpoint": sorted(flat_names(json.loads((checkpoint / "manifest.json").read_bytes()))),
        "state of a checkpoint": sorted(json.loads((checkpoint / "state.json").read_bytes())),
        "log": {line["kind"]: sorted(line) for line in reversed(log)},
        "log, kinds": [f"{line['kind']} {line['step']}" for line in log],
        "decoded, summaries": [sorted(each) for each in kept],
        "decoded, labels": [each["label"] for each in kept],
        "decoded, a line": [sorted(json.loads(path.read_text().split("\n")[0])) for path in texts],
        "inspect": {name: sorted(json.loads(done(root, "inspect", str(at), "--json"))) for name, at in shown.items()},
    }


def flat_names(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Keys of a manifest, and of what it says of each file."""
    yield from (key for key in manifest if key != "files")
    yield from (f"files {name} {key}" for name, about in manifest["files"].items() for key in about)


def listing(folder: Path) -> list[str]:
    """Every file and link below a folder; a link with where it points."""
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found.append(f"{name} -> {path.readlink()}")
        elif path.is_file() and ".partial" not in name:
            found.append(name)
    return found


def formats(root: Path, tiny: Path) -> dict[str, Any]:
    """Every tensor of every objective's checkpoint: type and shape; and of one optimiser's file."""

    def tensors(file: Path) -> dict[str, str]:
        return {name: f"{values.dtype} {list(values.shape)}" for name, values in sorted(load_file(file).items())}

    found = {name: tensors(root / f"runs/{name}/checkpoints/last/model.safetensors") for name in OBJECTIVES}
    found["tied"] = tensors(tiny / "runs/janus/checkpoints/last/model.safetensors")
    found["optimizer"] = tensors(tiny / "runs/janus/checkpoints/last/optimizer.safetensors")
    first = found["ar"]
    rest = {
        k: v if k in ("optimizer", "ar") else {n: s for n, s in v.items() if first.get(n) != s}
        for k, v in found.items()
    }
    absent = {k: sorted(first.keys() - v.keys()) for k, v in found.items() if k != "optimizer"}
    return {"beyond those of ar": rest, "lacking of ar": absent}


def beginnings(root: Path) -> dict[str, Any]:
    """Of every run's first weights a few sums, and the losses of its first updates: seeds, batches, noise, terms."""
    found = {}
    for name in RUNS:
        run = root / "runs" / name
        weights = load_file(run / "checkpoints/last/model.safetensors")
        sums = {key: sketch(values) for key, values in sorted(weights.items()) if values.ndim > 1}
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        updates = [
            {"loss": line["loss"], "norm": line["norm"], **line["terms"]} for line in log if line["kind"] == "train"
        ]
        valid = [
            {key: value for key, value in line.items() if key != "time"} for line in log if line["kind"] == "valid"
        ]
        shapes = [key for key, values in weights.items() if values.ndim == 1 and not is_plain(key, values)]
        found[name] = {"weights": sums, "not one or zero": shapes, "updates": updates, "valid": valid}
    return found


def sketch(values: np.ndarray) -> float:
    """A number that hardly another tensor has."""
    return round(float((values.ravel().astype(np.float64) * np.cos(np.arange(1, values.size + 1))).sum()), 6)


def is_plain(name: str, values: np.ndarray) -> bool:
    return bool((abs(values - (1.0 if name.endswith("norm.weight") else 0.0)) < 1e-12).all())


def text(root: Path, run: str, way: str) -> dict[str, Any]:
    """What a run with random weights makes of twenty lines, and in how many passes: from --jsonl."""
    arguments = WAYS[run][way].split()
    out = done(root, "decode", "--run", f"random/{run}", "--input", "lines.txt", "--jsonl", *arguments)
    records = [json.loads(line) for line in out.removesuffix("\n").split("\n")]
    nbest = [[each["hypothesis"] for each in record.get("nbest", [record])] for record in records]
    scores = [record["score"] for record in records[:4] if "score" in record]
    return {"text": ["\t".join(each) for each in nbest], "scores": scores, "passes": [r["passes"] for r in records]}


def plain(root: Path, run: str, way: str, batch: int) -> list[str]:
    """The same without --jsonl and from stdin; hypotheses of one line are joined by tabs."""
    arguments = (*WAYS[run][way].split(), "--batch-sentences", str(batch))
    stdin = (root / "lines.txt").read_bytes()
    out = done(root, "decode", "--run", f"random/{run}", "--input", "-", *arguments, stdin=stdin)
    found = out.removesuffix("\n").split("\n")
    if "--nbest" not in arguments:
        return found
    texts: dict[str, list[str]] = {}
    for line in found:
        number, _, hypothesis = line.split("\t")
        texts.setdefault(number, []).append(hypothesis)
    return ["\t".join(each) for each in texts.values()]


def draws(root: Path) -> dict[str, Any]:
    """The batches of epochs, what each kind of noise hides, and what each objective makes of it."""
    store = inside.store(root / "still.yaml", root / "data/still.src-tgt")
    rows = {f"seed {s} epoch {e}": inside.epoch_rows(store, 256, s, e) for s, e in ((1, 0), (1, 1), (2, 0))}
    with inside.small_blocks():
        rows["several blocks"] = inside.epoch_rows(store, 256, 1, 0)
    ranks = {f"epoch {e}": inside.random_ranks(1, e) for e in (0, 1)}
    return {
        "batches": {name: {"first": found[:2], "all": number(found)} for name, found in rows.items()},
        "hidden": {n: [inside.hidden(kind, s, e) for s, e in ((1, 0), (1, 1), (2, 0))] for n, kind in NOISES.items()},
        "random order": ranks,
        "plans": {name: inside.plan_of(changes, objective, 1, 2) for name, (objective, changes) in PLANS.items()},
    }


def number(rows: list[list[int]]) -> str:
    """The start of the sha256 of all batches as int64, each behind its size."""
    return hashlib.sha256(np.array([n for r in rows for n in (len(r), *r)], np.int64).tobytes()).hexdigest()[:16]


CORPUS = [
    ("der hund schläft", "the dog sleeps"),
    ("der hund schläft", "the dog sleeps"),
    ("", "nothing here"),
    ("die katze\u2028trinkt milch", "the cat\u2028drinks milk"),
    ("ein\x0bvogel\x0c singt\x85 laut", "a\x0bbird\x0c sings\x85 loud"),
    ("Straße &amp; Brücke", "street &amp; bridge"),
    ("   zwei   leere   stellen ", "two  empty   places"),
    ("viel " * 45, "much " * 45),
    ("kurz", "this one is far too long for its short source line"),
    ("zwei worte", "six words are still all right"),
    ("sieben worte", "here are seven words in this line"),
    ("der alte mann geht langsam nach hause", "the old man goes home slowly"),
    ("日本語 テスト", "japanese test ☃ 🙂"),
    ("\x1c", "a separator is no word"),
    ("die katze schläft", "the cat sleeps"),
]


def prepare(root: Path, kind: str) -> tuple[Path, Path]:
    """Odd text, prepared by the command line: the recipe and the folder."""
    text = root / "text"
    text.mkdir(exist_ok=True)
    for split, some in (("train", CORPUS), ("valid", CORPUS[4:7]), ("test", CORPUS[:4])):
        for side, suffix in enumerate(("de", "en")):
            ends = "\r\n" if split == "valid" else "\n"
            content = "".join(f"{pair[side]}{ends}" for pair in some).encode()
            packed = split == "test" and suffix == "de"
            (text / f"{split}.{suffix}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    recipe = root / f"{kind}.yaml"
    recipe.write_text(
        f"name: {kind}\ndata: {{source: de, target: en, max_tokens: 40, deduplicate: true, clean: [unescape_html]}}\n"
        f"tokenizer: {{kind: {kind}, vocabulary: 100, byte_fallback: false}}\nmodel: {{max_length: 64}}\n"
    )
    done(root, "preprocess", "--recipe", recipe.name, "--data-dir", "text")
    recipe.write_text(recipe.read_text().replace("data: {", "data: {dir: text, "))
    return recipe, root / f"data/{kind}.de-en"


def prepared(root: Path) -> dict[str, Any]:
    """Counts, first ids and texts of the odd text, with words and with SentencePiece."""
    found: dict[str, Any] = {}
    for kind in ("words", "sentencepiece"):
        with contextlib.chdir(root):
            recipe, folder = prepare(root, kind)
            manifest = json.loads((folder / "manifest.json").read_bytes())
            ids = {split: inside.pairs(inside.store(recipe, folder, split), 3) for split in ("train", "valid", "test")}
        counts = {n: {k: s[k] for k in ("in", "kept", "dropped", "tokens")} for n, s in manifest["splits"].items()}
        texts = {path.name: path.read_text(encoding="utf-8").split("\n") for path in sorted(folder.glob("*.txt"))}
        back = {split: inside.decoded(folder, [target for _, target in rows]) for split, rows in ids.items()}
        found[kind] = {
            "vocabulary": manifest["vocabulary"], "counts": counts, "ids": ids, "texts": texts, "decoded": back,
            "text files": {name: {side: [f["lines"], f["sha256"][:16]] for side, f in split["text"].items()}
                           for name, split in manifest["splits"].items() if name != "test"},
        }  # fmt: skip
    return found


def scored(root: Path) -> dict[str, Any]:
    """Every metric, of one output and of two, with a bootstrap."""
    english = [pair[1].replace("\u2028", " ") for pair in CORPUS if pair[1]][:10]
    (root / "reference.en").write_text("".join(f"{line}\n" for line in english))
    (root / "other.en").write_text("".join(f"{line.replace('the', 'this')} .\n" for line in english))
    (root / "first.en").write_text(
        "".join(f"{' '.join(line.split()[: 1 + k % 5])}\n" for k, line in enumerate(english))
    )
    (root / "second.en").write_text("".join(f"{line.replace('o', 'u')}\n" for line in english))
    base = ("score", "first.en", "--reference", "reference.en", "--json")
    several = (*base, "--reference", "other.en", "--metrics", "bleu,chrf,ter,exact")
    two = (*base, "--against", "second.en", "--bootstrap", "100", "--seed", "3")
    every = (*base, "--metrics", METRICS)
    found = {name: done(root, *way) for name, way in (("all", every), ("several", several), ("two", two))}
    # The versions of other people's packages are theirs.
    return {name: json.loads(re.sub(r"version:[\w.+-]+", "version:", out)) for name, out in found.items()}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))


def differences(pinned: Any, found: Any, at: str = "") -> list[str]:
    """Where `found` is not what was pinned; floats up to rounding. Keys that came later are no difference."""
    if isinstance(pinned, dict) and isinstance(found, dict):
        lost = [f"{at}.{key} is gone" for key in pinned if key not in found]
        both = (differences(value, found[key], f"{at}.{key}") for key, value in pinned.items() if key in found)
        return lost + [line for some in both for line in some]
    if isinstance(pinned, list) and isinstance(found, list):
        if len(pinned) != len(found):
            return [f"{at} has {len(found)} entries, pinned {len(pinned)}: {found!r:.300}, pinned {pinned!r:.300}"]
        pairs = enumerate(zip(pinned, found, strict=True))
        return [line for index, (one, other) in pairs for line in differences(one, other, f"{at}[{index}]")]
    if isinstance(pinned, float) and isinstance(found, int | float):
        same = isclose(pinned, found, rel_tol=1e-4, abs_tol=2e-5)
    else:
        same = type(pinned) is type(found) and pinned == found
    return [] if same else [f"{at} is {found!r}, pinned {pinned!r}"]


def vanished(pinned: Any, found: Any, at: str = "") -> list[str]:
    """As `differences`, for lists of names that may grow: what was pinned and is gone."""
    if isinstance(pinned, dict):
        return [line for key, value in pinned.items() for line in vanished(value, found.get(key, []), f"{at}.{key}")]
    return [f"{at}: {name} is gone" for name in pinned if name not in found]
