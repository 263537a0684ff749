"""Downloads resume, are checked, and land whole or not at all; tested against a local server."""

import hashlib
import http.server
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlparse

import pytest

from kerasdiff.checkpoints import presets
from kerasdiff.checkpoints.presets import DownloadError, Preset, download, find
from kerasdiff.checkpoints.tensors import CheckpointError
from kerasdiff.files import cache_folder

BODY = bytes(range(256)) * 4096


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves BODY under several paths, each with a fault of its own."""

    def do_GET(self):  # noqa: N802 (the name is http.server's)
        path, span = urlparse(self.path).path, self.headers.get("Range")
        self.server.seen.append((path, span))
        if path == "/missing":
            return self.send_error(404)
        begin = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        if path == "/no-range":
            begin, span = 0, None
        body = b"x" * len(BODY) if path == "/wrong" else BODY
        if path == "/short":
            body = body[:-1]
        self.send_response(206 if span else 200)
        self.send_header("Content-Length", str(len(body) - begin))
        if span:
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        if path == "/slow":
            time.sleep(0.3)
        cut = len(body) // 2 if path == "/cut" and not span else len(body)
        self.wfile.write(body[begin:cut])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.seen = []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture
def preset(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERASDIFF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    server.seen.clear()

    def at(*paths, **changes):
        urls = tuple(f"http://127.0.0.1:{server.server_port}{path}" for path in paths)
        digest = hashlib.sha256(BODY).hexdigest()
        made = Preset("p", "checkpoint", "", "p.bin", urls, "MIT", len(BODY), digest)
        return replace(made, **changes)

    return at


def test_a_download_lands_in_the_cache_once(preset, server, tmp_path):
    path = download(preset("/good"))
    assert path == tmp_path / "home" / "p.bin" and path.read_bytes() == BODY
    assert [each for each in path.parent.iterdir() if each.suffix != ".lock"] == [path]
    assert download(preset("/good")) == path
    assert server.seen == [("/good", None)]


def test_a_download_is_on_the_disk_before_it_takes_its_name(preset, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda number: seen.append(os.fstat(number)))
    path = download(preset("/good"))
    assert [(status.st_ino, status.st_size) for status in seen] == [(path.stat().st_ino, len(BODY))]


@pytest.mark.parametrize("body", (b"", BODY[:-1], BODY + b"x"))
def test_a_file_of_another_size_is_not_taken_for_a_preset_s(preset, server, tmp_path, body):
    path = tmp_path / "home" / "p.bin"
    path.parent.mkdir()
    path.write_bytes(body)
    with pytest.raises(DownloadError) as error:
        download(preset("/good"))
    assert str(error.value) == (
        f"{path} has {len(body)} bytes, not the {len(BODY)} of the preset 'p': "
        "remove it to have it downloaded, or give its path in place of the preset's name"
    )
    assert path.read_bytes() == body and server.seen == []
    assert download(preset("/good", size=None)) == path  # of a size that nobody knows


def test_two_at_once_download_once(preset, server, tmp_path):
    asked = preset("/slow")
    with ThreadPoolExecutor(2) as threads:
        paths = list(threads.map(download, [asked] * 2))
    assert [path.read_bytes() for path in paths] == [BODY] * 2
    assert server.seen == [("/slow", None)] and not list(tmp_path.rglob("*.part"))


def test_a_download_is_watched_on_a_terminal(preset, monkeypatch, capsys):
    monkeypatch.setattr(presets.progress, "is_watched", lambda: True)
    download(preset("/good"))
    shown = capsys.readouterr().err
    assert "100%" in shown and "B/s" in shown


def test_a_download_that_was_cut_goes_on_where_it_stopped(preset, server, tmp_path):
    with pytest.raises(DownloadError, match="broke off after 524288 of 1048576 bytes"):
        download(preset("/cut"))
    assert not (tmp_path / "home" / "p.bin").exists()
    assert download(preset("/cut")).read_bytes() == BODY
    assert server.seen == [("/cut", None), ("/cut", "bytes=524288-")]


def test_another_address_goes_on_where_the_first_broke_off(preset, server):
    assert download(preset("/cut", "/good")).read_bytes() == BODY
    assert server.seen[1] == ("/good", "bytes=524288-")


def test_a_server_that_ignores_ranges_starts_anew(preset):
    assert download(preset("/cut", "/no-range")).read_bytes() == BODY


def test_a_vanished_address_is_passed_over(preset):
    assert download(preset("/missing", "/good")).read_bytes() == BODY


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("/missing", "404"),
        ("/wrong", "SHA-256"),
        ("/short", "offers 1048575 bytes, expected 1048576"),
    ],
)
def test_a_bad_download_is_named_and_leaves_nothing(preset, tmp_path, path, complaint):
    with pytest.raises(DownloadError) as error:
        download(preset(path))
    message = str(error.value)
    assert complaint in message and "by hand" in message
    assert str(tmp_path / "home" / "p.bin") in message
    assert {each.suffix for each in (tmp_path / "home").iterdir()} <= {".lock"}


def test_a_damaged_part_is_thrown_away_and_fetched_again(preset, tmp_path):
    part = tmp_path / "home" / "p.bin.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    assert download(preset("/good", "/good")).read_bytes() == BODY
    part.write_bytes(b"x" * (len(BODY) + 1))
    (tmp_path / "home" / "p.bin").unlink()
    assert download(preset("/good", "/good")).read_bytes() == BODY


def test_without_size_and_hash_the_length_is_still_checked(preset):
    unknown = {"size": None, "sha256": None}
    with pytest.raises(DownloadError, match="broke off"):
        download(preset("/cut", **unknown))
    assert download(preset("/cut", **unknown)).read_bytes() == BODY


def test_with_no_network_the_error_says_what_to_do(preset, tmp_path):
    nowhere = preset(urls=("http://127.0.0.1:9/model",))
    with pytest.raises(DownloadError) as error:
        download(nowhere)
    assert "Download http://127.0.0.1:9/model by hand" in str(error.value)
    assert f"put it at {tmp_path / 'home' / 'p.bin'}" in str(error.value)


def test_an_unwritable_cache_is_named(preset, tmp_path):
    (tmp_path / "home").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match="home"):
        download(preset("/good"))


def test_find_takes_paths_and_names_and_lists_the_names(preset, tmp_path, monkeypatch):
    known = {"p": preset("/good")}
    monkeypatch.setattr(presets, "presets", lambda: known)
    assert find("p").read_bytes() == BODY
    assert find(tmp_path) == tmp_path
    with pytest.raises(CheckpointError, match=r"'sd-v9' is neither .* presets: p"):
        find("sd-v9")


@pytest.mark.parametrize("nothing", ("", None, 3, ["sd-v1-5"], b"sd-v1-5"))
def test_what_is_neither_a_name_nor_a_path_is_refused(nothing):
    with pytest.raises(CheckpointError, match="must be a preset's name, a file or a folder, not "):
        find(nothing)


def test_the_cache_folder_is_in_the_home_unless_moved(monkeypatch):
    monkeypatch.delenv("KERASDIFF_HOME", raising=False)
    assert cache_folder().parts[-2:] == (".cache", "kerasdiff")


def test_the_manifest_is_complete_and_certain():
    known = presets.presets()
    assert list(known) == [
        "demo", "sd-v1-4", "sd-v1-5", "sd-v1-5-inpainting", "sd-v2-1-base", "sd-v2-1", "sdxl-base",
        "sd-vae-ft-mse",
    ]  # fmt: skip
    shipped = known.pop("demo")
    assert shipped.kind == "shipped" and not shipped.urls and shipped.licence
    for preset in known.values():
        assert preset.kind in ("checkpoint", "vae") and preset.licence and preset.description
        assert len(preset.urls) > 1 and all(url.startswith("https://") for url in preset.urls)
        assert preset.sha256 is None or len(bytes.fromhex(preset.sha256)) == 32
        assert preset.size is None or preset.size > 10**8
    assert len({preset.file for preset in known.values()}) == len(known)
