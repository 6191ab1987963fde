"""What a folder holds, as plain values; `janus inspect` prints them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from janus_cli import documents, recipe_load, runs
from janus_cli.core.batch import SPECIAL, collate
from janus_cli.data import filters, references, survival
from janus_cli.data.prepare import is_prepared
from janus_cli.data.store import Store
from janus_cli.errors import CheckpointError, DataError
from janus_cli.files import MANIFEST
from janus_cli.measures import measure_of
from janus_cli.recipe import Recipe
from janus_cli.runs import LINKS, Run
from janus_cli.system import followed
from janus_cli.training import checkpoint
from janus_cli.training.best import figure, label, newest_scoring, scoring_in
from janus_cli.training.checkpoint import MODEL, STATE, read_state, tokenizers_of
from janus_cli.training.model import build_model
from janus_cli.training.optimizer import Shares
from janus_cli.training.trainer import plan_of


def describe(what: Path | None) -> dict[str, Any]:
    """A run (its recipe.yaml and log), a checkpoint (its state.json) or prepared data (its manifest.json).

    Raises:
        UsageError: the folder is none of them; the hint names runs that it holds.
        CheckpointError: a checkpoint or a tokenizer is damaged.
        DataError: prepared data is damaged.
    """
    is_run = what is not None and (runs.RUNS / what / "recipe.yaml").is_file()  # a model of this name may lie here
    if what is not None and ((what / STATE).is_file() or ((what / MODEL).is_file() and not is_run)):
        return describe_checkpoint(what)
    if what is not None and is_prepared(what):
        return describe_data(what)
    run = runs.find_run(what)
    return describe_checkpoint(run.path) if run.is_export else describe_run(run)


def describe_run(run: Run) -> dict[str, Any]:
    recipe, manifest, tokenizers = recipe_load.load(str(run.recipe)), run.read_manifest(), tokenizers_of(run)
    links = {link: followed(run.checkpoints / link) for link in reversed(LINKS)}
    named = {path.resolve().name for path in links.values()}
    saved: dict[str, Any] = {}
    judge = _judge_in_words(newest_scoring(run.checkpoints))
    for folder in checkpoint.steps(run.checkpoints):
        try:
            # Those that other commands take by default; to read all of them would take long.
            state = checkpoint.verify(folder).state if folder.name in named else read_state(folder)
            found = {key: round(value, 4) for key, value in state.get("metrics", {}).items()}
            other = _judge_in_words(scoring_in(state))
            saved[folder.name] = found | ({"judged by": other} if found and other != judge else {}) or "not validated"
        except (CheckpointError, DataError) as problem:
            saved[folder.name] = problem.message
    judged = any(isinstance(found, dict) for found in saved.values())
    data: dict[str, Any] = {"prepared": manifest.get("prepared"), "fingerprint": manifest.get("fingerprint")}
    teacher, origin, lost = runs.teacher(manifest), runs.origin(manifest), survival.in_words(manifest)
    data |= ({"targets by": teacher} if teacher else {}) | ({"lost in the tokenizer": lost} if lost else {})
    return {
        "run": str(run.path),
        **_recipe(recipe),
        "arithmetic": arithmetic(recipe, tokenizers.target.size),
        **_fine_tuning(recipe, (tokenizers.source.size, tokenizers.target.size), run),
        "data": data,
        **({"from": origin} if origin else {}),
        **{link: path.resolve().name for link, path in links.items() if path.is_dir()},
        **({"judged by": judge} if judged else {}),
        "checkpoints": saved,
        "averages": sorted(folder.name for folder in run.checkpoints.glob("average-*")),
        "decoded": sorted(file.stem for file in run.decoded.glob("*.json")),
    }


def _judge_in_words(scoring: Mapping[str, Any]) -> str:
    return label(scoring["metric"], scoring)


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    saved = checkpoint.verify(folder)
    model = build_model(saved.recipe, *saved.vocabularies)
    files = documents.read(folder / MANIFEST, documents.CheckpointManifest)["files"]
    modules = {"all": model, "encoder": model.encoder, "decoder": model.decoder}
    return {
        "checkpoint": str(folder),
        **_recipe(saved.recipe),
        "parameters": {name: sum(weight.numel() for weight in part.parameters()) for name, part in modules.items()},
        "arithmetic": arithmetic(saved.recipe, saved.vocabularies[1]),
        **_fine_tuning(saved.recipe, saved.vocabularies, Run(folder.resolve().parent.parent)),
        "vocabulary": dict(zip(("source", "target"), saved.vocabularies, strict=True)),
        "state": {key: value for key, value in saved.state.items() if not key.endswith("_vocabulary")},
        "files": {name: f"{entry['bytes']:,} bytes, sha256 {entry['sha256']}" for name, entry in files.items()},
    }


def describe_data(folder: Path) -> dict[str, Any]:
    manifest = documents.read(folder / MANIFEST, documents.PreparedManifest)
    stores = {}
    for split, about in sorted(manifest["splits"].items()):
        store = Store.open(folder, split)
        source, target = store.tokens
        stores[split] = {
            "pairs": len(store),
            "source tokens": source,
            "target tokens": target,
            "vocabulary": f"{store.source_vocabulary:,} / {store.target_vocabulary:,}",
            "fingerprint": store.fingerprint,
            "dropped": filters.reasons(about.get("dropped", {})) or "none",
            "text": list(dict.fromkeys(text["path"] for text in about.get("text", {}).values() if text.get("path"))),
            **({"references": references.in_words(about["references"])} if about.get("references") else {}),
        }
    lost = survival.in_words(manifest)
    more = {"lost in the tokenizer": lost} if lost else {}
    return {"data": str(folder), "stores": stores, **more, "manifest": manifest}


def arithmetic(recipe: Recipe, vocabulary: int) -> str:
    """FLOPs of a training batch of sentences of 20 tokens, in words (see `Plan.flops`)."""
    length = min(20, recipe.data.source_limit, recipe.data.target_limit)
    count = max(1, recipe.training.batch_tokens // (length + 2))  # with BOS and EOS, as in `data.batching`
    rows = [[SPECIAL] * length] * count
    step = plan_of(collate(rows, rows, range(count)), recipe, 0).flops(recipe.model, vocabulary, length + 1)
    more = f", of which an update has {recipe.training.accumulate}" if recipe.training.accumulate > 1 else ""
    return f"{step / 1e9:,.1f} GFLOP a batch of {count * (length + 1):,} target tokens, sentences of {length}{more}"


def _fine_tuning(recipe: Recipe, vocabularies: tuple[int, int], run: Run) -> dict[str, str]:
    """What is frozen, and the range of learning rates; nothing if everything is trained at one rate.

    run: to which the checkpoint belongs; there is none for an export.
    """
    knobs = recipe.training
    if knobs.layer_decay == 1 and not knobs.freeze:
        return {}
    fresh = runs.fresh(run.read_manifest()) if run.recipe.is_file() and run.manifest.is_file() else ()
    shares = Shares.of(build_model(recipe, *vocabularies), knobs, fresh)
    return {"fine-tuning": shares.in_words(knobs)}


def _recipe(recipe: Recipe) -> dict[str, Any]:
    model = recipe.model
    return {
        "recipe": recipe.name,
        "pair": f"{recipe.data.source}-{recipe.data.target}",
        "objective": asdict(recipe.objective),
        "model": f"{model.encoder_layers}+{model.decoder_layers} layers, {model.width}/{model.feedforward}, "
        f"{model.heads} heads",
        "seed": recipe.seed,
    }


def lines(values: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Indented `key: value` lines."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{'  ' * depth}{key}:"
            yield from lines(value, depth + 1)
        else:
            shown = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value
            if isinstance(value, float):
                shown = figure(key, value) if measure_of(key) else float(f"{value:.6g}")
            yield f"{'  ' * depth}{key}: {', '.join(map(str, shown)) if isinstance(shown, list) else shown}"
