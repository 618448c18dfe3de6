import pytest

from robustok.evaluation.wording import counted, ordinal


@pytest.mark.parametrize(("count", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (21, "21 images")])
def test_one_is_singular(count, text):
    assert counted(count, "image") == text


def test_ordinals_are_those_of_english():
    wanted = ("1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "20th", "21st", "102nd", "111th", "1003rd")
    assert tuple(ordinal(int(text[:-2])) for text in wanted) == wanted
