"""Cached moments are of the pictures and captions that are asked for, or say that they are not."""

import os
import shutil
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from training_cases import networks, write_pictures

from kerasdiff.training import Moments, PictureFolder, Pictures, Several, Shards, cache_moments
from kerasdiff.training.data import cached
from kerasdiff.training.data.shards import write_shards
from kerasdiff.training.data.sources import items_digest

OTHER = "is of other pictures or captions: remove it, or name another folder"


@pytest.fixture(scope="module")
def encoder():
    return networks()[2]


@pytest.fixture
def cache(tmp_path, encoder, monkeypatch):
    """A function of a source or of a folder's path that caches its moments, three a shard."""
    monkeypatch.setattr(cached, "SHARD", 3)

    def cache(source):
        source = PictureFolder(source, size=16) if isinstance(source, os.PathLike) else source
        return cache_moments(source, encoder, tmp_path / "moments")

    return cache


def never(*given):
    raise AssertionError("a picture was encoded")


def test_a_copied_folder_is_the_same_pictures(tmp_path, cache, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", 4)
    files = cache(pictures)
    assert [Moments([path]).captions[0] for path in files] == ["picture 0", "picture 3"]
    copy = shutil.copytree(pictures, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    os.utime(copy / "0.png", (0, 0))
    monkeypatch.setattr(cached, "_encode", never)
    assert cache(copy) == files


def test_another_caption_is_refused(tmp_path, cache):
    pictures = write_pictures(tmp_path / "pictures", 4)
    cache(pictures)
    (pictures / "3.txt").write_text("corrected")
    with pytest.raises(ValueError, match=f"moments-00000003-00000004.npz: {OTHER}"):
        cache(pictures)


def test_another_picture_of_the_same_caption_is_refused(tmp_path, cache):
    pictures = write_pictures(tmp_path / "pictures", 4)
    cache(pictures)
    Image.fromarray(np.zeros((16, 16, 3), "uint8")).save(pictures / "0.png")
    with pytest.raises(ValueError, match=f"moments-00000000-00000003.npz: {OTHER}"):
        cache(pictures)


def test_a_picture_more_in_front_is_refused_before_the_rest_is_encoded(
    tmp_path, cache, monkeypatch
):
    pictures = write_pictures(tmp_path / "pictures", 4)
    cache(pictures)
    shutil.copy(pictures / "3.png", pictures / "+.png")  # sorted first
    (pictures / "+.txt").write_text("new")
    monkeypatch.setattr(cached, "_encode", never)
    with pytest.raises(ValueError, match=OTHER):
        cache(pictures)
    (tmp_path / "moments/moments-00000000-00000003.npz").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(cached, "SHARD", 3)
    files = cache(pictures)
    assert Moments(files).captions == ["new", *(f"picture {i}" for i in range(4))]


def test_a_picture_more_at_the_end_keeps_the_whole_shards(tmp_path, cache, monkeypatch):
    pictures = write_pictures(tmp_path / "pictures", 4)
    cache(pictures)
    shutil.copy(pictures / "3.png", pictures / "9.png")
    (pictures / "9.txt").write_text("new")
    encode, counts = cached._encode, []
    monkeypatch.setattr(
        cached, "_encode", lambda *given: counts.append(len(given[1])) or encode(*given)
    )
    assert Moments(cache(pictures)).captions[3:] == ["picture 3", "new"]
    assert counts == [2]


def test_moments_that_do_not_say_of_what_they_are_are_refused(tmp_path, cache):
    (path,) = cache(write_pictures(tmp_path / "pictures", 1))
    with np.load(path) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays if name != "items"})
    with pytest.raises(ValueError, match="does not say which pictures it is of: remove it"):
        cache(tmp_path / "pictures")


def test_pictures_in_memory_are_known_by_their_pixels(cache):
    first, second = np.zeros((16, 16, 3), "uint8"), np.full((16, 16, 3), 9, "uint8")
    files = cache([(first, "a")])
    assert cache(Pictures([first.copy()], ["a"])) == files
    for item in ((second, "a"), (first, "b")):
        with pytest.raises(ValueError, match=OTHER):
            cache([item])


def test_pictures_are_read_a_batch_at_a_time(tmp_path, monkeypatch, encoder):
    source, steps = PictureFolder(write_pictures(tmp_path / "pictures", 5), size=16), []
    read, encode = PictureFolder.__getitem__, cached._encode
    monkeypatch.setattr(
        PictureFolder, "__getitem__", lambda self, i: steps.append(i) or read(self, i)
    )
    monkeypatch.setattr(cached, "_encode", lambda *given: steps.append("encoded") or encode(*given))
    moments = Moments(cache_moments(source, encoder, tmp_path / "moments", batch_size=2))
    assert steps == [0, 1, "encoded", 2, 3, "encoded", 4, "encoded"]
    assert moments.captions == [f"picture {i}" for i in range(5)]


def test_moments_are_held_once_while_they_are_read(tmp_path):
    files, parts = [tmp_path / f"{i}.npz" for i in range(4)], np.zeros((4, 8, 256, 256), "float16")
    for i, path in enumerate(files):
        np.savez(path, moments=parts[i, ..., None] + i, captions=[f"{i}"] * 8)
    tracemalloc.start()
    try:
        moments = Moments(files)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * moments.moments.nbytes
    assert [(float(moments[i][0].max()), moments[i][1]) for i in (7, 8)] == [(0, "0"), (1, "1")]


def test_shards_are_known_by_what_they_hold_and_not_where(tmp_path):
    source = PictureFolder(write_pictures(tmp_path / "pictures", 4), size=16)
    write_shards(source, tmp_path / "one", items_per_shard=4)
    write_shards(source, tmp_path / "two", items_per_shard=3)
    Image.fromarray(np.zeros((16, 16, 3), "uint8")).save(tmp_path / "pictures/2.png")
    write_shards(source, tmp_path / "three")

    def digest(name, **options):
        return items_digest(Shards(tmp_path / name, **options), range(4))

    assert digest("one") == digest("two") != digest("three")
    assert digest("one") != digest("one", size=8)


def test_items_of_several_sources_are_those_of_each(tmp_path):
    source = PictureFolder(write_pictures(tmp_path / "pictures", 2), size=16)
    memory = Pictures([source[0][0]], ["in memory"])
    both = Several(source, memory)
    assert [both.identity(i) for i in (0, 1)] == [source.identity(i) for i in (0, 1)]
    assert items_digest(both, [2]) == items_digest(memory, [0]) != items_digest(both, [0])
