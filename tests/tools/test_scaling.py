"""The figures of `make scaling`; no database."""

from typing import Any

import pytest

from tools.scaling import HEADER, Filled, Looked, Measured

MEASURED: dict[str, Any] = {
    "wall_s": 5.0,
    "inserted": 40_000,
    "peak_mb": 60.2,
    "phases_s": {"fill": 0.25, "recount": 0.5},
}


@pytest.mark.parametrize(("buffers", "said"), [(0.5, "0.50"), (None, "")])
def test_a_line_has_the_share_of_the_limit_and_the_parts_of_one_anti_join(buffers: float | None, said: str) -> None:
    looked = Looked(MEASURED, {**MEASURED, "peak_mb": 61.6}, 1.125, buffers)
    line = str(Measured(1_000_000, 16_666, "it is too large", 100 << 20, Filled(10_000.0, MEASURED), looked))
    assert line.count("|") == HEADER.splitlines()[0].count("|")
    assert line == (
        "| 1 M | 16,666 users x 60 days * | 100 MiB | 40,000 | 10,000 | 8,000 | 0.80 | 0.25 s | 0.50 s | 0.25 s | 1.12 "
        f"| {said} | 62 MiB |"
    )
