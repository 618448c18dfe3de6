"""From names to images: the sets that are in the package are known by theirs."""

import pytest

from robustok.cli.arguments import View
from robustok.cli.images import SIZES, images_of, own_size, scored_images
from robustok.data.fluent import EMBEDDED


@pytest.mark.parametrize(("name", "size"), [("fashion-mnist", 32), ("fluent", 64)])
def test_embedded_sets_have_their_own_size_and_parts(name: str, size: int):
    assert own_size(name) == SIZES[name] == size
    trained, scored = images_of(name, size), scored_images(name, None, View())
    assert isinstance(trained, EMBEDDED[name])
    assert (trained.describe()["name"], trained.describe()["split"]) == (name, "train")
    assert (scored.describe()["name"], scored.describe()["split"]) == (name, "validation")
    assert scored.size == size


def test_every_embedded_set_is_among_the_cases():
    assert set(EMBEDDED) == {"fashion-mnist", "fluent"}
