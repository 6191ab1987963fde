"""Fetching over loopback: resumed, checked; every failure says what to do by hand."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from janus_cli import recipe_load
from janus_cli.data import download
from janus_cli.data.download import fetch
from janus_cli.errors import DataError
from janus_cli.recipe import Data, Download
from tests.helpers import Janus, ends

BODY = bytes(range(256)) * 40


class Server(ThreadingHTTPServer):
    """Serves `files`; `sends` shortens what is really sent, `ranges` switches resuming off, `hangs` never answers;
    with both `sends` and `hangs` the rest never comes."""

    files: dict[str, bytes]
    asked: list[str | None]
    sends: int | None = None
    ranges = True
    hangs: threading.Event | None = None


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        if self.server.hangs and self.server.sends is None:
            self.server.hangs.wait()
            return
        body = self.server.files.get(self.path.removeprefix("/"))
        if body is None:
            self.send_error(404)
            return
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and self.server.ranges else 0
        if start and start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:][: self.server.sends])
        if self.server.hangs:
            self.wfile.flush()
            self.server.hangs.wait()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as made:
        made.files, made.asked = {"train.src": BODY}, []
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def wanting(server: Server, name: str = "train.src", body: bytes = BODY, **changes: Any) -> Data:
    url = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    item = {"url": url, "sha256": hashlib.sha256(body).hexdigest(), "save_as": name, **changes}
    return Data(downloads=(Download(**item),), notes="Ask the library.")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(data: Data, folder: Path) -> str:
    """The message; the hint must name the manual way."""
    with pytest.raises(DataError) as caught:
        fetch(data, folder)
    for word in ("Ask the library.", data.downloads[0].url, "train.src, train.tgt, valid.src", "--data-dir"):
        assert word in caught.value.hint
    assert caught.value.exit_code == 3
    return caught.value.message


@pytest.mark.parametrize(
    ("name", "there", "ranges", "asked"),
    [
        ("train.src", None, True, [None]),
        ("train.src", BODY, True, []),
        ("train.src", BODY[:-1], True, [None]),  # damaged
        ("train.src.part", BODY[:1000], True, ["bytes=1000-"]),
        ("train.src.part", b"old", False, ["bytes=3-"]),  # the server begins again
        ("train.src.part", BODY, True, [f"bytes={len(BODY)}-"]),  # whole: it only needs its name
    ],
)
def test_what_is_there_is_completed_or_fetched_again(
    server: Server, tmp_path: Path, name: str, there: bytes | None, ranges: bool, asked: list[str | None]
) -> None:
    cache, server.ranges = tmp_path / "cache", ranges
    if there is not None:
        cache.mkdir()
        (cache / name).write_bytes(there)
    assert fetch(wanting(server), cache) == cache
    assert (server.asked, names(cache)) == (asked, ["train.src"])
    assert (cache / "train.src").read_bytes() == BODY


@pytest.mark.parametrize("part", [b"", b"x" * 99, b"x" * len(BODY)])
def test_a_wrong_sha256_is_thrown_away(server: Server, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "train.src.part").write_bytes(part)
    wrong = wanting(server) if part else wanting(server, body=b"other")
    assert re.search("has sha256 [0-9a-f]{64} instead of [0-9a-f]{64}", refused(wrong, tmp_path))
    assert names(tmp_path) == []


def test_addresses_that_give_nothing(server: Server, tmp_path: Path) -> None:
    for name, changes, words in (
        ("gone.gz", {}, "the server says 404"),
        ("train.src", {"url": "http://127.0.0.1:1/train.src"}, "could not be fetched"),  # nobody listens there
        ("train.src", {"url": "file:///etc/passwd"}, "not an http or https address"),
    ):
        assert words in refused(wanting(server, name, **changes), tmp_path)
        assert name not in names(tmp_path)


@pytest.mark.parametrize("sends", [None, 0, 4000])
def test_a_server_that_falls_silent_or_breaks_off(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: int | None
) -> None:
    """What came is kept and continued, and is no data."""
    server.hangs, server.sends = threading.Event(), sends
    try:
        with monkeypatch.context() as patch:
            patch.setattr(download, "TIMEOUT", 1.5)  # the server, a thread beside xdist's workers, must be faster
            assert f"timed out; {sends or 0:,} bytes kept" in refused(wanting(server), tmp_path)
    finally:
        server.hangs.set()
    server.hangs, server.sends = None, 5000
    assert f"broke off after {(sends or 0) + 5000:,} of 10,240 bytes" in refused(wanting(server), tmp_path)
    assert names(tmp_path) == ["train.src.part"]
    server.sends = None
    fetch(wanting(server), tmp_path)
    assert server.asked[1:] == [f"bytes={sends}-" if sends else None, f"bytes={(sends or 0) + 5000}-"]
    assert names(tmp_path) == ["train.src"]


def test_what_another_process_is_fetching_is_left_alone(server: Server, tmp_path: Path) -> None:
    server.sends = 10
    refused(wanting(server), tmp_path)
    with (tmp_path / "train.src.part").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "another process" in refused(wanting(server), tmp_path)
    assert (tmp_path / "train.src.part").read_bytes() == BODY[:10]


@pytest.mark.parametrize("downloads", [0, 1])
def test_without_a_sha256_nothing_is_fetched(server: Server, tmp_path: Path, downloads: int) -> None:
    data = wanting(server, sha256=None)
    data = data if downloads else replace(data, downloads=())
    with pytest.raises(DataError, match="fetched by hand") as caught:
        fetch(data, tmp_path / "cache")
    assert "Ask the library." in caught.value.hint
    assert (data.downloads == ()) or data.downloads[0].url in caught.value.hint
    assert server.asked == []
    assert not (tmp_path / "cache").exists()


# --- shipped recipes, from a local server instead of the public one ---


@pytest.fixture
def local(server: Server, empty_folder: Path, shell: Janus) -> Callable[..., tuple[int, str]]:
    """`janus preprocess` of a shipped recipe whose addresses are those of the server; `files` replace what it has."""

    def run(recipe: str, files: dict[str, bytes], *options: str, true: bool = True) -> tuple[int, str]:
        text = recipe_load.available()[recipe].read_text(encoding="utf-8")
        for item in recipe_load.load(recipe).data.downloads:
            server.files[item.save_as] = files[item.save_as]
            text = text.replace(item.url, f"http://127.0.0.1:{server.server_address[1]}/{item.save_as}")
            if not true:
                text = text.replace(str(item.sha256), hashlib.sha256(files[item.save_as]).hexdigest())
        Path("here.yaml").write_text(text, encoding="utf-8")
        code, _, err = shell("preprocess", "--recipe", "here.yaml", "--workers", "1", *options)
        return code, err

    return run


def test_transliteration_becomes_words(local: Callable[..., tuple[int, str]]) -> None:
    files = {f"{split}.tsv": "Kafka\tК а ф к а\t3\nLem\tЛ е м\t1\n".encode() for split in ("train", "valid", "test")}
    ends(local("translit_enru", files, "--set", "tokenizer.kind=words", true=False), 0)
    for side, text in (("source", "Kafka\nLem\n"), ("target", "Кафка\nЛем\n")):
        assert Path(f"data/translit_enru.en-ru/test.{side}.txt").read_text(encoding="utf-8") == text


def test_other_bytes_than_the_recipe_names_are_refused(local: Callable[..., tuple[int, str]]) -> None:
    files = {
        f"{split}.{side}.gz": gzip.compress(b"a\n") for split in ("train", "valid", "test") for side in ("de", "en")
    }
    err = ends(local("multi30k", files), 3)
    for words in ("train.de.gz has sha256", "instead of 726e39b2", "fetch http://127.0.0.1", "--data-dir"):
        assert words in err
    assert names(Path("data/multi30k.downloads")) == []
    ends(local("multi30k", files, "--set", "tokenizer.kind=words", true=False), 0, "train: 1 of 1 pairs kept")
