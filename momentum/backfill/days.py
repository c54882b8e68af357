"""Ranges of UTC days."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from momentum.errors import ConfigurationError

ONE_DAY = datetime.timedelta(days=1)
DEFAULT_LENGTH = 30


@dataclass(frozen=True)
class DayRange:
    """The UTC days from the first to the last, both included.

    Raises:
        ConfigurationError: The first day is after the last.
    """

    first: datetime.date
    last: datetime.date

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ConfigurationError(f"The range ends on {self.last}, before it begins on {self.first}.")

    def __len__(self) -> int:
        return (self.last - self.first).days + 1

    def __iter__(self) -> Iterator[datetime.date]:
        return (self.first + ONE_DAY * number for number in range(len(self)))

    def __str__(self) -> str:
        return f"{self.first} to {self.last}"

    @classmethod
    def choose(
        cls, first: datetime.date | None, last: datetime.date | None, days: int | None, current: datetime.date
    ) -> "DayRange":
        """Return the range that an operator has asked for.

        Args:
            first: Its first day, if given.
            last: Its last day; yesterday by default.
            days: Its length; 30 days by default, unless the first day is given.
            current: The current UTC day, by the server's clock.

        Raises:
            ConfigurationError: The range is contradictory, ends before it begins or reaches into the future.
        """
        if first is not None and days is not None:
            raise ConfigurationError("Give --days or --from, not both: each says where the range begins.")
        last = last or current - ONE_DAY
        if last > current:
            raise ConfigurationError(f"--to {last} is in the future; the current UTC day is {current}.")
        try:
            return cls(first or last - ONE_DAY * ((days or DEFAULT_LENGTH) - 1), last)
        except OverflowError:
            raise ConfigurationError(f"--days {days or DEFAULT_LENGTH} reaches back beyond the calendar.") from None
