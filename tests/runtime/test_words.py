import pytest
from PIL import UnidentifiedImageError

from robustok.runtime.words import counted, ordinal, reason


def test_counted():
    assert [counted(n, "image") for n in (0, 1, 2, 20_000)] == ["0 images", "1 image", "2 images", "20,000 images"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "x.json"), "No space left on device"),
        (ValueError("\n first line\nsecond"), "first line"),
        (TimeoutError(), "TimeoutError"),
        (EOFError("  "), "EOFError"),
        (UnidentifiedImageError("cannot identify image file <_io.BytesIO object at 0x7f>"), "not an image"),
    ],
)
def test_a_reason_is_one_line_and_never_empty(error: Exception, words: str):
    assert reason(error) == words


def test_ordinals_are_those_of_english():
    wanted = ("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "20th", "21st", "102nd", "111th", "1003rd")
    assert tuple(ordinal(int(text[:-2])) for text in wanted) == wanted
