"""The wording of numbers in messages."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which gets an s unless there is exactly one."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
