"""Folders with tiny tokenizers, as those of Hugging Face models look, and odd lines; what transformers makes of them.

`python -m tests.data.hf_models FOLDER [NAME…]` writes golden_hf/ again, which needs transformers.
"""

from __future__ import annotations

import io
import json
import random
import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

GOLDEN = Path(__file__).parent / "golden_hf"
TEXT = [
    f"the {who} sees {number} big dogs, and doesn't care; it's fine. Über Straße naïve café"
    for who in ("man", "boy", "cook", "woman", "child")
    for number in range(40)
]
TEXT += [
    "日本語 の テスト です",
    "Привет, мир! Как дела?",
    "x = {'a': 1}  # code",
    "emoji 😀 👩‍👩‍👧",
    "ﬁne ½",
    "a\tb  c",
] * 5
WORDS = [
    *("the", "man", "sees", "doesn't", "it's", "fine", ".", ",", "!", "?", "'", "n't", "'m", "<s>", "</s>", "<pad>"),
    *("<unk>", "<mask>", "en_XX", ">>fr<<", "▁", "⁇", "Ġ", "Ċ", "[MASK]", "[CLS]", "##", "##ing", "Straße", "日本語"),
    *(
        "Привет",
        "😀",
        "👩\u200d👩\u200d👧",
        "ﬁ",
        "½",
        "e\u0301",
        "\u2028",
        "\u200b",
        "\r",
        "\0",
        "\x1f",
        "１２",
        "ﷺ",
        "İ",
    ),
]
SPACES = ["", " ", "  ", "   ", "\t", "\u00a0", "\u3000"]
BLOCKS = [
    (0, 9),
    (11, 126),
    (160, 0x36F),
    (0x400, 0x4FF),
    (0x600, 0x6FF),
    (0x3000, 0x30FF),
    (0x4E00, 0x9FFF),
    (0x1F300, 0x1F6FF),
]


def odd_lines(count: int, seed: int = 1) -> list[str]:
    draw = random.Random(seed)
    kinds: list[Callable[[], str]] = [
        lambda: "".join(draw.choice(WORDS) + draw.choice(SPACES) for _ in range(draw.randint(0, 15))),
        lambda: draw.choice(SPACES) + " ".join(draw.choices(WORDS, k=draw.randint(1, 12))) + draw.choice(SPACES),
        lambda: "".join(chr(draw.randint(*draw.choice(BLOCKS))) for _ in range(draw.randint(0, 30))),
        lambda: draw.choice(TEXT)[draw.randint(0, 20) : draw.randint(5, 80)],
        lambda: draw.choice([">>fr<< ", ">>de<<", ">>x", "<s>", "</s> "]) + draw.choice(TEXT),
    ]
    return [kinds[number % len(kinds)]() for number in range(count)]


def bart(folder: Path) -> None:
    """Byte-level BPE in the old files, as BART has it: the mask is the last id."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special, alphabet = ["<s>", "<pad>", "</s>", "<unk>"], pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(TEXT, trainer)
    engine.model.save(str(folder))
    vocabulary = json.loads((folder / "vocab.json").read_bytes())
    write(folder, "vocab.json", {**vocabulary, "<mask>": len(vocabulary)})
    write(folder, "config.json", {"model_type": "bart", "vocab_size": len(vocabulary) + 4})
    write(folder, "tokenizer_config.json", {"clean_up_tokenization_spaces": True, "name_or_path": "/home/me/bart"})


def wordpiece(folder: Path) -> None:
    engine = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    engine.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    engine.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    engine.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    more = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": True}
    write(folder, "tokenizer_config.json", names | more)
    write(folder, "config.json", {"model_type": "bart"})


def mbart(folder: Path) -> None:
    """Unigram pieces, languages and mask, in a tokenizer.json."""
    model = sentencepiece.SentencePieceProcessor(model_proto=pieces(TEXT, 300))
    scores = [(model.id_to_piece(index), model.get_score(index)) for index in range(3, model.get_piece_size())]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    ends = ["ar_AR", "de_DE", "en_XX", "fr_XX", "<mask>"]
    engine = tokenizers.Tokenizer(
        models.Unigram([*((name, 0.0) for name in special), *scores, *((name, 0.0) for name in ends)], unk_id=3)
    )
    engine.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")])
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.Metaspace()
    engine.add_special_tokens([*special, *ends])
    engine.save(str(folder / "tokenizer.json"))
    names = {
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "mask_token": "<mask>",
    }
    write(folder, "tokenizer_config.json", names | {"tokenizer_class": "PreTrainedTokenizerFast"})


def marian(folder: Path) -> None:
    """Two SentencePiece models and one vocabulary in another order, without a few of their pieces."""
    sides = {"source": pieces(TEXT[:150], 200), "target": pieces(TEXT[100:], 300)}
    names: dict[str, None] = {}
    for side, data in sides.items():
        (folder / f"{side}.spm").write_bytes(data)
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        names |= dict.fromkeys(model.id_to_piece(index) for index in range(3, model.get_piece_size()))
    shuffled = random.Random(0).sample([*names], len(names) - 10)
    ids = {name: index for index, name in enumerate(["</s>", "<unk>", *shuffled, ">>fr<<", "<pad>"])}
    write(folder, "vocab.json", ids)
    write(folder, "config.json", {"model_type": "marian", "vocab_size": len(ids)})
    write(
        folder,
        "tokenizer_config.json",
        {"tokenizer_class": "MarianTokenizer", "source_lang": "en", "target_lang": "fr"},
    )


def pegasus(folder: Path) -> None:
    """Unigram pieces behind <pad>, the end, two masks and unused tokens (101 in the real ones), of which <unk> is last.

    The parts are those that PegasusTokenizer of transformers makes of a vocabulary.
    """
    model, unused = sentencepiece.SentencePieceProcessor(model_proto=pieces(TEXT, 300)), 11
    special = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{index + 2}>" for index in range(unused)), "<unk>"]
    scores = [(model.id_to_piece(index), model.get_score(index)) for index in range(3, model.get_piece_size())]
    engine = tokenizers.Tokenizer(
        models.Unigram([*((name, 0.0) for name in special), *scores], unk_id=special.index("<unk>"))
    )
    spaces = [normalizers.Replace(tokenizers.Regex(pattern), " ") for pattern in ("\n", " {2,}")]
    engine.normalizer = normalizers.Sequence(spaces)
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.decoder = decoders.Metaspace()
    engine.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    engine.add_special_tokens(special)
    engine.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask_2>"}
    more = {"tokenizer_class": "PegasusTokenizer", "mask_token_sent": "<mask_1>", "offset": unused + 2}
    write(folder, "tokenizer_config.json", names | more)
    write(folder, "config.json", {"model_type": "pegasus", "vocab_size": len(special) + len(scores)})


MODELS: dict[str, Callable[[Path], None]] = {
    "bart": bart, "wordpiece": wordpiece, "mbart": mbart, "marian": marian, "pegasus": pegasus,
}  # fmt: skip


def pieces(text: Sequence[str], size: int, **knobs: Any) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text), model_writer=model, vocab_size=size, minloglevel=2, hard_vocab_limit=False,
        normalization_rule_name="identity", num_threads=1, **knobs,
    )  # fmt: skip
    return model.getvalue()


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def transformers_says(folder: Path, side: str, lines: Sequence[str]) -> dict[str, Any]:
    """Ids of the lines, and the text of these ids and of random ones, by AutoTokenizer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    key = "text_target" if side == "target" else "text"
    ids = [tokenizer(**{key: line}, add_special_tokens=False, split_special_tokens=True)["input_ids"] for line in lines]
    draw = random.Random(2)
    rows = [*ids, *([draw.randrange(len(tokenizer)) for _ in range(draw.randint(0, 20))] for _ in lines)]
    return {
        "lines": list(lines),
        "ids": ids,
        "rows": rows,
        "texts": [tokenizer.decode(row, skip_special_tokens=True) for row in rows],
    }


def packed(folder: Path) -> dict[str, str]:
    return {file.name: b64encode(file.read_bytes()).decode() for file in sorted(folder.iterdir())}


def golden(name: str) -> dict[str, Any]:
    return dict(json.loads((GOLDEN / f"{name}.json").read_bytes()))


def unpack(name: str, folder: Path) -> Path:
    """Makes the folder of a golden model."""
    folder.mkdir(exist_ok=True)
    for file, data in golden(name)["files"].items():
        (folder / file).write_bytes(b64decode(data))
    return folder


def main(place: Path, names: Sequence[str]) -> None:
    for name in names or MODELS:
        folder = place / name
        folder.mkdir()
        MODELS[name](folder)
        files = packed(folder)
        sides = {
            side: transformers_says(folder, side, odd_lines(60))
            for side in ("source", "target")[: 1 + (name == "marian")]
        }
        write(GOLDEN, f"{name}.json", {"files": files, "sides": sides})


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
