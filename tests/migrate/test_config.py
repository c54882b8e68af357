"""The options of the migrations as Alembic's command line gives them; no database."""

import pytest

from momentum.errors import ConfigurationError
from momentum.migrate.config import read_options


@pytest.mark.parametrize("name", ["attempts", "deadline"])
@pytest.mark.parametrize("number", [1, 300, 999_999])
def test_a_number_is_read_as_it_is_written(name: str, number: int) -> None:
    assert getattr(read_options({name: str(number)}), name) == number


@pytest.mark.parametrize("name", ["attempts", "deadline"])
@pytest.mark.parametrize("text", ["0", "1000000", "-1", "1.5", "", "٣"])
def test_a_text_that_is_no_number_or_too_large_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=f"^The option {name}= takes a whole number"):
        read_options({name: text})
