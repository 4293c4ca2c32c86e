"""Files survive errors and kills: whole or absent, rows never lost with their neighbours."""

import hashlib
from pathlib import Path

import pytest

from drivesim.core.files import append_row, atomic_path, read_json, read_rows, sha256_file, write_json


def test_an_error_while_writing_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(RuntimeError, match="disk gone"), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("disk gone")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_the_new_file_appears_only_at_the_end_with_its_folder(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "video.mp4"
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".mp4"
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "never"):
        pass


def test_a_torn_line_costs_itself_alone(tmp_path: Path) -> None:
    rows_path = tmp_path / "run" / "rows.jsonl"
    append_row(rows_path, {"future": 0, "ok": True})
    with rows_path.open("ab") as file:
        file.write('{"future": 1, "error": "Stra\u00dfe'.encode()[:-1])  # killed inside a character
    assert read_rows(rows_path) == [{"future": 0, "ok": True}]
    append_row(rows_path, {"future": 2, "error": "Stra\u00dfe"})
    assert read_rows(rows_path) == [{"future": 0, "ok": True}, {"future": 2, "error": "Stra\u00dfe"}]


def test_rows_of_a_run_that_never_started_are_none(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "rows.jsonl") == []


def test_checksum_of_a_file_larger_than_a_block(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "weights").write_bytes(data)
    assert sha256_file(tmp_path / "weights") == hashlib.sha256(data).hexdigest()


def test_json_comes_back_and_damaged_json_names_file_and_place(tmp_path: Path) -> None:
    write_json(tmp_path / "card.json", {"name": "h\u00fcgel", "clips": [1, 2]})
    assert read_json(tmp_path / "card.json") == {"name": "h\u00fcgel", "clips": [1, 2]}
    (tmp_path / "card.json").write_text('{"name":\n  oops}')
    with pytest.raises(ValueError, match=r"card\.json:2:3: not JSON"):
        read_json(tmp_path / "card.json")
