"""The picture at the top of the README, from the folder of a demo.

python docs/make_picture.py runs/demo docs/images/demo.png
python docs/make_picture.py runs/demo-fluent docs/images/color.png
"""

import json
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

GRIDS = {
    "real": "real",
    "reconstructed": "reconstructed",
    "perturbed": "reconstructed from perturbed tokens",
    "generated_before": "generated, decoder of main training",
    "generated_after": "the same tokens, post-trained decoder",
}
SCALE, HEIGHT, CAPTION = 2, 128, 30  # of a pixel; of each grid, as many rows as fit in it; of a caption


def main(run: Path, target: Path) -> None:
    """Stack the first rows of each grid under its caption, two of small images and one of large ones."""
    strips = [Image.open(run / "images" / f"{name}.png").convert("RGB") for name in GRIDS]
    cell = json.loads((run / "images" / "images.json").read_text())["grids"][0]["cell"]
    visible = max(1, HEIGHT // (SCALE * cell)) * cell
    width, height = strips[0].width * SCALE, visible * SCALE
    picture = Image.new("RGB", (width, len(strips) * (height + CAPTION)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for number, (strip, caption) in enumerate(zip(strips, GRIDS.values(), strict=True)):
        top = number * (height + CAPTION)
        draw.text((2, top + 6), caption, fill="black", font=font)
        rows = strip.crop((0, 0, strip.width, visible))
        picture.paste(rows.resize((width, height), Image.Resampling.NEAREST), (0, top + CAPTION))
    target.parent.mkdir(parents=True, exist_ok=True)
    picture.save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
