"""Numbers that are too small are refused by their keys."""

from __future__ import annotations

import pytest

from drivesim.core.limits import check_at_least


def test_only_the_keys_that_are_wrong_are_named() -> None:
    check_at_least(1, a=1, b=None)
    with pytest.raises(ValueError, match=r"^pool\.a=0, pool\.d=nan; must be 1 or more$"):
        check_at_least(1, "pool.", a=0, b=3, c=None, d=float("nan"))
