"""Decoding: every mode that Pillow opens, orientation, scaling, and refusals."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from bench.data.decode import Frame, Unreadable, cover, decode, header, quiet

GRAY, COLOUR = Frame(1, 2, 3), Frame(3, 2, 3)
RAMP = np.array([[0, 50, 100], [150, 200, 255]], dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(*columns):
    """A 2 × 3 picture of three columns of one colour each."""
    return Image.fromarray(np.array([columns, columns], dtype=np.uint8))


RED, GREEN, BLUE, WHITE, BLACK = (
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (255, 255, 255),
    (0, 0, 0),
)


def columns(pixels):
    """The colours of the columns, if both rows agree."""
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels[:, 0], pixels[:, 1])
    return [tuple(int(v) for v in pixels[:, 0, x]) for x in range(pixels.shape[2])]


def test_gray_stays_gray_and_is_repeated_in_colour_sets():
    raw = encoded(Image.fromarray(RAMP))
    assert header(raw) == (3, 2, True)
    assert np.array_equal(decode(raw, GRAY), RAMP[None])
    assert np.array_equal(decode(raw, COLOUR), np.stack([RAMP] * 3))


def test_rgb_keeps_channel_order():
    raw = encoded(rgb(RED, GREEN, (10, 20, 30)))
    assert header(raw) == (3, 2, False)
    assert columns(decode(raw, COLOUR)) == [RED, GREEN, (10, 20, 30)]


def test_bilevel_is_black_and_white():
    image = Image.fromarray(RAMP).point(lambda v: 255 * (v > 120)).convert("1")
    raw = encoded(image)
    assert Image.open(io.BytesIO(raw)).mode == "1"
    assert header(raw).gray
    assert decode(raw, GRAY).tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_transparent_pixels_become_white():
    picture = rgb(RED, GREEN, BLACK).convert("RGBA")
    alpha = np.array([[255, 0, 128]] * 2, dtype=np.uint8)
    picture.putalpha(Image.fromarray(alpha))
    got = columns(decode(encoded(picture), COLOUR))
    assert got[:2] == [RED, WHITE]
    assert got[2] == (127, 127, 127)


def test_gray_with_alpha_is_gray_on_white():
    picture = Image.merge(
        "LA", [Image.fromarray(RAMP), Image.fromarray(np.uint8(255) * (RAMP > 120))]
    )
    raw = encoded(picture)
    assert Image.open(io.BytesIO(raw)).mode == "LA"
    assert header(raw).gray
    assert decode(raw, GRAY).tolist() == [[[255, 255, 255], [150, 200, 255]]]


def test_palettes_with_and_without_transparency():
    palette = Image.fromarray(np.array([[0, 1, 2]] * 2, dtype=np.uint8), "P")
    palette.putpalette([*RED, *GREEN, *BLUE])
    raw = encoded(palette)
    assert Image.open(io.BytesIO(raw)).mode == "P"
    assert not header(raw).gray
    assert columns(decode(raw, COLOUR)) == [RED, GREEN, BLUE]
    assert columns(decode(encoded(palette, transparency=1), COLOUR)) == [RED, WHITE, BLUE]
    assert columns(decode(encoded(palette, "GIF", transparency=2), COLOUR)) == [RED, GREEN, WHITE]


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_a_transparent_colour_becomes_white(mode):
    clear = (0, 0, 0) if mode == "RGB" else 0
    image = rgb(BLACK, WHITE, BLACK).convert(mode)
    raw = encoded(image, transparency=clear)
    frame = COLOUR if mode == "RGB" else GRAY
    assert (decode(raw, frame) == 255).all()


def test_cmyk_is_converted():
    image = Image.new("CMYK", (3, 2), (0, 255, 255, 0))
    raw = encoded(image, "TIFF")
    assert Image.open(io.BytesIO(raw)).mode == "CMYK"
    assert columns(decode(raw, COLOUR)) == [RED] * 3


WIDE = np.array([[0, 257, 1000], [32768, 65278, 65535]], dtype=np.uint16)
NARROW = [[[0, 1, 4], [128, 254, 255]]]  # round(v / 257)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_rounded(kind):
    raw = encoded(Image.fromarray(WIDE), kind)
    assert Image.open(io.BytesIO(raw)).mode.startswith("I")
    assert header(raw).gray
    assert decode(raw, GRAY).tolist() == NARROW
    assert decode(raw, COLOUR)[1].tolist() == NARROW[0]


def test_big_endian_sixteen_bits():
    raw = encoded(Image.frombytes("I;16B", (3, 2), WIDE.astype(">u2").tobytes()), "TIFF")
    assert decode(raw, GRAY).tolist() == NARROW


def test_every_sixteen_bit_value_is_the_nearest():
    wide = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = decode(encoded(Image.fromarray(wide)), Frame(1, 256, 256))
    assert np.array_equal(got[0], np.rint(wide / 257).astype(np.uint8))


def test_integers_count_as_sixteen_bit_and_nothing_else():
    raw = encoded(Image.fromarray(WIDE.astype(np.int32)), "TIFF")
    assert Image.open(io.BytesIO(raw)).mode == "I"
    assert decode(raw, GRAY).tolist() == NARROW
    for wrong in (-1, 65536):
        image = Image.fromarray(np.full((2, 3), wrong, dtype=np.int32))
        with pytest.raises(Unreadable, match=r"outside 0\.\.65535"):
            decode(encoded(image, "TIFF"), GRAY)


def test_floats_are_unit_range_or_byte_range():
    unit = np.array([[0, 0.25, 0.5], [0.75, 0.9, 1]], dtype=np.float32)
    expected = [[[0, 64, 128], [191, 230, 255]]]
    assert decode(encoded(Image.fromarray(unit), "TIFF"), GRAY).tolist() == expected
    bytes_ = RAMP.astype(np.float32) + 0.25
    bytes_[1, 2] = 255
    assert decode(encoded(Image.fromarray(bytes_), "TIFF"), GRAY).tolist() == [RAMP.tolist()]
    for wrong in (-0.5, 300.0, np.nan):
        image = Image.fromarray(np.full((2, 3), wrong, dtype=np.float32))
        with pytest.raises(Unreadable, match=r"outside 0\.\.255"):
            decode(encoded(image, "TIFF"), GRAY)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation, kind):
    """Against Pillow's own transposition, on an image that no symmetry leaves alone."""
    image = Image.fromarray(np.kron(RAMP, np.ones((8, 8), np.uint8))).convert("RGB")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    raw = encoded(image, kind, exif=exif.tobytes(), **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(raw)))
    assert header(raw)[:2] == upright.size == ((24, 16) if orientation < 5 else (16, 24))
    got = decode(raw, Frame(3, upright.height, upright.width))
    assert np.array_equal(got.transpose(1, 2, 0), np.asarray(upright))


def test_sixteen_bit_images_are_turned_too():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    raw = encoded(Image.fromarray(WIDE), exif=exif.tobytes())
    assert decode(raw, GRAY)[0].tolist() == [row[::-1] for row in NARROW[0][::-1]]


@pytest.mark.parametrize(
    "size", [(40, 30), (30, 40), (37, 23), (100, 7), (8, 8), (5, 9), (16, 16)]
)
def test_cover_equals_resizing_everything_and_cropping(size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, side = Image.fromarray(noise), 16
    scale = side / min(size)
    whole = image.resize((round(size[0] * scale), round(size[1] * scale)), Image.BICUBIC)
    left, top = (whole.width - side) // 2, (whole.height - side) // 2
    expected = np.asarray(whole.crop((left, top, left + side, top + side)))
    got = np.asarray(cover(image, Frame(3, side, side)))
    # Coordinates differ in the last bits of a float, which may turn a rounding by one.
    assert np.abs(got.astype(int) - expected).max() <= 1
    assert (got == expected).mean() > 0.99


def test_cover_leaves_a_fitting_image_alone():
    image = Image.fromarray(RAMP)
    assert cover(image, GRAY) is image


def test_a_sliver_does_not_blow_up():
    got = decode(encoded(Image.new("L", (1, 20000), 77)), Frame(1, 64, 64))
    assert (got == 77).all()


def test_arrays_pass_through_and_resize():
    assert np.array_equal(decode(RAMP[None], GRAY), RAMP[None])
    picture = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]])
    assert np.array_equal(decode(picture, COLOUR), picture)
    assert decode(picture, Frame(3, 8, 8)).shape == (3, 8, 8)
    assert header(picture) == (3, 2, False)


def test_large_images_are_refused_and_not_warned_about(monkeypatch):
    raw = encoded(Image.new("L", (30, 20)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    for limit in (500, 200):  # Pillow only warns up to twice its limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for attempt in (header, lambda raw: decode(raw, GRAY)):
            with quiet(), pytest.raises(Unreadable, match="600 pixels"):
                attempt(raw)


@pytest.mark.parametrize(
    "content", [b"", b"text", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9"]
)
def test_what_is_no_image_is_said_to_be_none(content):
    for attempt in (header, lambda raw: decode(raw, GRAY)):
        with pytest.raises(Unreadable, match="not an image"):
            attempt(content)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_truncated_images_are_refused(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    raw = encoded(Image.fromarray(noise), kind)
    with quiet(), pytest.raises(Unreadable) as caught:
        decode(raw[: len(raw) // 2], Frame(3, 64, 64))
    assert str(caught.value)
    assert ". " not in str(caught.value)


def test_a_broken_exif_block_does_not_lose_the_image():
    raw = encoded(rgb(RED, RED, RED), "JPEG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x7f")
    with quiet():
        assert decode(raw, COLOUR).shape == (3, 2, 3)
