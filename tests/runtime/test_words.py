import pytest
from PIL import UnidentifiedImageError

from robustok.runtime.words import counted, listed, reason


def test_counted():
    assert [counted(n, "image") for n in (0, 1, 2, 20_000)] == ["0 images", "1 image", "2 images", "20,000 images"]


def test_listed():
    assert listed({"name": "photos", "count": 5000}) == "name photos, count 5000"


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
