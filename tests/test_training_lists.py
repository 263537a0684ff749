"""Pictures in memory, and several sources as one."""

import numpy as np
import pytest

from kerasdiff.training import Pictures, Several

RED, BLUE = np.full((8, 8, 3), (255, 0, 0), "uint8"), np.full((8, 16, 3), (0, 0, 255), "uint8")


def test_pictures_come_with_their_captions_and_sizes():
    source = Pictures([RED, BLUE], ["red", "blue"])
    assert len(source) == 2 and source.sizes == [(8, 8), (8, 16)] and source.skipped == {}
    picture, caption = source[1]
    assert caption == "blue" and np.array_equal(picture, BLUE)
    assert Pictures(np.stack([RED, RED]))[0][1] == ""


def test_each_picture_needs_a_caption():
    with pytest.raises(ValueError, match="1 captions for 2 pictures"):
        Pictures([RED, BLUE], ["red"])


def test_several_sources_are_one_after_the_other():
    both = Several(Pictures([RED], ["first"]), Pictures([BLUE, RED], ["second", "third"]))
    assert [both[i][1] for i in range(len(both))] == ["first", "second", "third"]
    assert both.sizes == [(8, 8), (8, 16), (8, 8)]
    with pytest.raises(IndexError, match="item 3 of 3"):
        both[3]
    with pytest.raises(IndexError):
        both[-1]


def test_what_was_left_out_is_known_of_each():
    first, second = Pictures([RED]), Pictures([BLUE])
    first.skipped["a.png"] = "broken"
    second.skipped["b.png"] = "empty"
    assert Several(first, second).skipped == {"a.png": "broken", "b.png": "empty"}
