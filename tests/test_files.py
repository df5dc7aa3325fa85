"""Files are written whole or not at all, and checked against the line beside them."""

import hashlib
import os
import re

import pytest

from arbench.machine.files import (
    checksum_line,
    checksum_path,
    file_sha256,
    is_intact,
    remove_partials,
    require_writable,
    whole_file,
    write_whole,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "table.md"
    write_whole(path, "old ↓")  # text goes as UTF-8

    def write_half():
        with whole_file(path) as partial:
            partial.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text(encoding="utf-8") == "old ↓"
    assert os.listdir(tmp_path) == ["table.md"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    write_whole(tmp_path / "000000.npy", b"images")
    (tmp_path / ".000001.npy.123.partial").write_bytes(b"ima")
    remove_partials(tmp_path, idle=60.0)
    assert len(os.listdir(tmp_path)) == 2  # somebody may be writing it
    remove_partials(tmp_path)
    assert os.listdir(tmp_path) == ["000000.npy"]


def test_a_file_is_intact_only_with_its_own_checksum_beside_it(tmp_path):
    path = tmp_path / "shard.npy"
    write_whole(path, b"images")
    assert file_sha256(path) == hashlib.sha256(b"images").hexdigest()
    assert not is_intact(path)
    write_whole(checksum_path(path), checksum_line(path, b"images"))
    assert is_intact(path)
    write_whole(path, b"imagez")
    assert not is_intact(path)


def test_where_nothing_can_be_written_is_told_by_the_folder(tmp_path):
    """Whether the folder is there yet or not; nothing stays of the finding out."""
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "below"):
        with pytest.raises(OSError, match=re.escape(f"'{folder}'")):
            require_writable(folder)
    require_writable(tmp_path)
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == [file]
