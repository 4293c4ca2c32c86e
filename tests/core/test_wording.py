"""Numbers and their nouns agree."""

from __future__ import annotations

from drivesim.core.wording import number_of


def test_one_is_one_and_all_else_are_several() -> None:
    assert [number_of(num, "start frame") for num in (0, 1, 2, 1000)] == [
        "0 start frames",
        "1 start frame",
        "2 start frames",
        "1,000 start frames",
    ]
    assert [number_of(num, "copy", "copies") for num in (1, 2)] == ["1 copy", "2 copies"]
