"""Text as bytes."""

import numpy as np
import pytest
import torch

from harken.data.text import TextCrops, read_text, split_text
from harken.errors import InputError


def test_files_and_folders_come_end_to_end_in_the_order_of_their_names(tmp_path):
    (tmp_path / "b.txt").write_bytes(b"two")
    (tmp_path / "a.md").write_bytes(b"one ")
    (tmp_path / "picture.png").write_bytes(b"not text")
    assert read_text([tmp_path]).tobytes() == b"one two"
    assert read_text([tmp_path / "b.txt", tmp_path / "a.md"]).tobytes() == b"twoone "


def test_item_i_is_the_same_in_every_instance():
    text = np.arange(200, dtype=np.uint8)
    one, other = TextCrops(text, 10, items=5, seed=3), TextCrops(text, 10, items=50, seed=3)
    assert all(torch.equal(one[i][0], other[i][0]) for i in range(5))
    assert not torch.equal(one[0][0], one[1][0])
    assert one[0][0].diff().eq(1).all() and one[0][0].shape == (11,)


def test_the_held_out_part_is_not_trained_on():
    train, held = split_text(np.arange(100, dtype=np.uint8))
    assert train.tolist() + held.tolist() == list(range(100))
    assert len(held) == 10


@pytest.mark.parametrize("content", [None, b""])
def test_no_text_is_one_line(tmp_path, content):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"no file or folder|no text in"):
        read_text([path])


def test_too_little_text_is_one_line():
    with pytest.raises(InputError, match="too few"):
        split_text(np.zeros(5, dtype=np.uint8))
    with pytest.raises(InputError, match="fewer than a crop"):
        TextCrops(np.zeros(5, dtype=np.uint8), 5, items=1)
