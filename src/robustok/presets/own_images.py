"""The demo on one's own images: in color at 64 pixels, of as many as there are."""

from robustok.data.images import ImageSet
from robustok.demo.config import Demo
from robustok.presets.embedded import in_color
from robustok.presets.scales import varied

FEWEST = 100  # images: below, batches and distances are of next to nothing


def of_own_images(gray: Demo, name: str, images: ImageSet) -> Demo:
    """`robustok demo --images FOLDER`: `in_color`, but a fifth of the images score and a tenth choose the decoder.

    Raises ValueError for less than `FEWEST` images.
    """
    count = len(images)
    if count < FEWEST:
        raise ValueError(f"{count} images in {name} are too few to train, choose and score on; give at least {FEWEST}")
    color = in_color(gray)
    reference = min(color.reference, count // 5)
    held_out = min(color.post.held_out, count // 10)
    train = min(color.train_images, count - reference - held_out)
    scored = min(color.scored, reference)
    return varied(
        color,
        generator={"generator": {"classes": len(images.classes)}},
        post={"held_out": held_out, "pairs": min(color.post.pairs, train)},
        images=name,
        train_images=train,
        reference=reference,
        scored=scored,
        pfid_images=min(color.pfid_images, scored),
    )
