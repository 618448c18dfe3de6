import io
from math import ceil

import numpy as np
import pytest
from PIL import Image, ImageOps

from robustok.data.decoding import center_crop, check, random_crop, read

RED, BLUE = (255, 0, 0), (0, 0, 255)


def pixel(path, x=0, y=0):
    image = read(path)
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tiff"])
def test_rgb_is_kept(tmp_path, suffix):
    image = noise(5, 3)
    image.save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert read(tmp_path / f"a.{suffix}").tobytes() == image.tobytes()


def test_jpeg_is_close(tmp_path):
    Image.new("RGB", (8, 8), (200, 100, 50)).save(tmp_path / "a.jpg", quality=100)
    assert pixel(tmp_path / "a.jpg") == pytest.approx((200, 100, 50), abs=2)  # rounding in YCbCr


@pytest.mark.parametrize(("mode", "value", "gray"), [("1", 1, 255), ("1", 0, 0), ("L", 77, 77)])
def test_gray_is_three_equal_channels(tmp_path, mode, value, gray):
    Image.new(mode, (2, 2), value).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == (gray,) * 3


@pytest.mark.parametrize(
    ("mode", "color", "on_white"),
    [
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
        ("RGBA", (255, 0, 0, 255), RED),
        ("RGBA", (255, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),  # a fifth of red, four fifths of white
    ],
)
def test_transparency_is_laid_on_white(tmp_path, mode, color, on_white):
    Image.new(mode, (2, 2), color).save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png") == on_white


def test_webp_transparency_is_laid_on_white(tmp_path):
    Image.new("RGBA", (2, 2), (255, 0, 0, 51)).save(tmp_path / "a.webp", lossless=True)
    assert pixel(tmp_path / "a.webp") == (255, 204, 204)


@pytest.mark.parametrize("suffix", ["png", "gif"])
@pytest.mark.parametrize(("options", "first"), [({}, RED), ({"transparency": 0}, (255, 255, 255))])
def test_palette_is_looked_up_and_its_transparent_color_is_white(tmp_path, suffix, options, first):
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *BLUE])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / f"a.{suffix}", **options)
    assert (pixel(tmp_path / f"a.{suffix}"), pixel(tmp_path / f"a.{suffix}", 1)) == (first, BLUE)


def test_half_transparent_palette_colors_are_mixed_with_white(tmp_path):
    image = Image.new("P", (1, 1))
    image.putpalette([*RED, *BLUE])
    image.save(tmp_path / "a.png", transparency=bytes([51, 255]))
    assert pixel(tmp_path / "a.png") == (255, 204, 204)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_gray_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16)  # 65535 / 255 = 257
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(np.asarray(read(tmp_path / f"a.{suffix}"))[..., 0], [[0, 100], [200, 255]])


def test_16_bit_gray_keeps_its_transparent_value(tmp_path):
    Image.fromarray(np.array([[0, 257]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=0)
    assert (pixel(tmp_path / "a.png"), pixel(tmp_path / "a.png", 1)) == ((255,) * 3, (1,) * 3)


def test_pixels_without_an_agreed_range_are_refused(tmp_path):
    Image.new("F", (2, 2), 0.5).save(tmp_path / "float.tiff")
    Image.new("I", (2, 2), 70_000).save(tmp_path / "wide.tiff")
    with pytest.raises(ValueError, match="floating-point pixels have no agreed range"):
        read(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match="70000 to 70000, wanted the 16-bit range 0 to 65535"):
        read(tmp_path / "wide.tiff")


@pytest.mark.parametrize("value", [0, 255, 256])
def test_32_bits_that_may_be_8_are_not_taken_for_16(tmp_path, value):
    """Of 255 a picture would come out nearly black; nothing but 0 is black either way, and 256 is not of 8 bits."""
    Image.new("I", (4, 4), value).save(tmp_path / "wide.tiff")
    if value == 255:
        with pytest.raises(
            ValueError, match="values up to 255, which may be of 8 bits or of 16; convert the file to 8"
        ):
            read(tmp_path / "wide.tiff")
    else:
        assert pixel(tmp_path / "wide.tiff") == (round(value / 257),) * 3


@pytest.mark.parametrize("suffix", ["jpg", "tiff"])  # JPEG holds CMYK inverted, as Adobe writes it; TIFF does not
@pytest.mark.parametrize(
    ("ink", "rgb"),
    [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255)), ((0, 102, 0, 51), (204, 122, 204))],
)
def test_cmyk_is_ink_on_white(tmp_path, suffix, ink, rgb):
    Image.new("CMYK", (8, 8), ink).save(tmp_path / f"a.{suffix}", quality=100)
    if suffix == "jpg":
        assert b"Adobe" in (tmp_path / "a.jpg").read_bytes()
    assert pixel(tmp_path / f"a.{suffix}") == pytest.approx(rgb, abs=1)


def test_exif_rotation_is_applied(tmp_path):
    image = Image.new("RGB", (16, 8), RED)
    image.paste(BLUE, (8, 0, 16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "a.png", exif=exif)
    upright = read(tmp_path / "a.png")
    assert upright.size == (8, 16)
    assert (upright.getpixel((0, 0)), upright.getpixel((0, 15))) == (RED, BLUE)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (2, 2), color) for color in (RED, BLUE)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "a.gif") == RED


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_truncated_file_raises_in_both_readers(tmp_path, suffix):
    file = io.BytesIO()
    noise(64, 64).save(file, {"jpg": "jpeg"}.get(suffix, suffix))
    (tmp_path / f"a.{suffix}").write_bytes(file.getvalue()[: len(file.getvalue()) // 2])
    for reader in (read, check):
        with pytest.raises(OSError, match=r".+"):
            reader(tmp_path / f"a.{suffix}")


def test_check_tells_the_stored_size(tmp_path):
    noise(40, 24).save(tmp_path / "a.jpg")
    assert check(tmp_path / "a.jpg") == (40, 24)


def test_center_crop_halves_by_averaging_then_takes_the_middle():
    blocks = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    image = Image.fromarray(blocks.repeat(4, axis=0).repeat(4, axis=1))  # 64 x 96: halved twice, nothing to resize
    assert np.array_equal(center_crop(image, 16), blocks[:, 4:20])


def test_center_crop_averages_rather_than_samples():
    checkers = np.indices((32, 32)).sum(0) % 2 * 255
    image = Image.fromarray(np.stack([checkers] * 3, -1).astype(np.uint8))
    assert np.unique(center_crop(image, 16)).tolist() == [128]  # 127.5, rounded up


@pytest.mark.parametrize(("width", "height", "resized"), [(30, 20, (24, 16)), (20, 31, (16, 25)), (10, 8, (20, 16))])
def test_center_crop_is_bicubic_below_twice_the_size(width, height, resized):
    image = noise(width, height)
    left, top = (resized[0] - 16) // 2, (resized[1] - 16) // 2
    whole = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    assert np.array_equal(center_crop(image, 16), whole[top : top + 16, left : left + 16])


def test_random_crop_spans_the_range_of_adm():
    image, size = noise(30, 24), 16
    last = 1 - 2**-53  # the largest number below 1
    assert np.array_equal(random_crop(image, size, (0, 0, 0)), image.resize((20, 16), 3).crop((0, 0, 16, 16)))
    side = ceil(size / 0.8)
    assert side == 20
    whole = image.resize((25, side), Image.Resampling.BICUBIC)
    assert np.array_equal(random_crop(image, size, (last, last, last)), whole.crop((9, 4, 25, 20)))


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_damaged_exif_is_read_as_none(tmp_path, suffix):
    image = Image.new("RGB", (16, 8), (128, 128, 128))
    image.save(tmp_path / f"a.{suffix}", exif=b"Exif\0\0garbage")
    assert read(tmp_path / f"a.{suffix}").size == (16, 8)
    assert check(tmp_path / f"a.{suffix}") == (16, 8)


def test_a_picture_that_is_cut_short_is_broken_with_damaged_exif_too(tmp_path):
    file = io.BytesIO()
    noise(64, 64).save(file, "png", exif=b"Exif\0\0garbage")
    (tmp_path / "a.png").write_bytes(file.getvalue()[:2000])
    for reader in (read, check):
        with pytest.raises(OSError, match=r".+"):
            reader(tmp_path / "a.png")


@pytest.mark.parametrize("orientation", [0, 1, 9, 65535])
def test_an_orientation_that_is_none_is_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(16, 8).save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path / "a.png").tobytes() == noise(16, 8).tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    noise(16, 8).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert read(tmp_path / "a.png").tobytes() == ImageOps.exif_transpose(image).tobytes()
