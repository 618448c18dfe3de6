"""Numbers and errors in words, for messages of one line."""


def counted(number: int, noun: str) -> str:
    """`1 image`, `20,000 images`."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def reason(error: BaseException) -> str:
    """What an error says, in one line: without the system's number, and never nothing."""
    said = getattr(error, "strerror", None) or str(error)
    lines = said.strip().splitlines()
    return lines[0] if lines else type(error).__name__
