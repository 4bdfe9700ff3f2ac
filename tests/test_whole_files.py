"""Files appear whole or not at all, whatever their names."""

from __future__ import annotations

import pytest

from harken.errors import OutputError
from harken.whole_files import whole_file, write_text


@pytest.mark.parametrize("name", ["声" * 84, "a" * 255])
def test_the_longest_names_of_a_file_system_can_be_written(tmp_path, name):
    write_text(tmp_path / name, "all of it")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["all of it"]


def test_what_fails_halfway_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as partial:
        partial.write_text("ne")
        raise KeyboardInterrupt
    assert [found.read_text() for found in tmp_path.iterdir()] == ["old"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(OutputError, match=r"cannot write .* choose a place"):
        write_text(tmp_path / "nowhere" / "a.txt", "text")
