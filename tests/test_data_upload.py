"""Pictures from strangers: what is accepted gives the same slice, what is not gets one sentence."""

import io
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from oasisvq.data.examples import examples
from oasisvq.data.slices import normalise
from oasisvq.data.upload import MAX_BYTES, read_image
from oasisvq.errors import OasisVQError


def slice8() -> np.ndarray:
    image = np.zeros((256, 256), np.uint8)
    image[60:200, 70:190] = np.kron(
        np.random.default_rng(0).integers(60, 250, (14, 12), dtype=np.uint8), np.ones((10, 10), np.uint8)
    )
    return image


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "tolerance"),
    [
        (encode(Image.fromarray(slice8()), "PNG"), 1e-6),
        (encode(Image.fromarray(slice8()), "TIFF"), 1e-6),
        (encode(Image.fromarray(slice8()), "TIFF", compression="tiff_lzw"), 1e-6),
        (encode(Image.fromarray(slice8().astype(np.uint16) * 150), "PNG"), 1e-6),
        (encode(Image.fromarray(slice8().astype(np.uint16) * 150), "TIFF"), 1e-6),
        (encode(Image.fromarray(slice8().astype(np.float32) / 9), "TIFF"), 1e-6),
        (encode(Image.fromarray(slice8()).convert("RGB"), "PNG"), 1e-6),
        (encode(Image.fromarray(slice8()), "JPEG", quality=95), 0.1),
        (encode(Image.fromarray(slice8()).convert("RGB"), "JPEG", quality=95), 0.1),
    ],
)
def test_accepted_kinds_give_the_same_slice(data, tolerance):
    out = read_image(data, "slice")
    assert out.shape == (256, 256)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, normalise(slice8()), atol=tolerance)


def test_it_is_centred_on_a_square():
    out = read_image(encode(Image.fromarray(slice8()[24:232, 40:216]), "PNG"), "slice")
    np.testing.assert_allclose(out, normalise(slice8()), atol=1e-6)


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


PAGES = encode(Image.fromarray(slice8()), "TIFF", save_all=True, append_images=[Image.fromarray(slice8())])
COLOURED = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a readable"),
        (b"%PDF-1.4 something", "not a readable"),
        (encode(Image.fromarray(slice8()), "GIF"), "not a readable"),
        (encode(Image.fromarray(slice8()), "PNG")[:500], "not a readable"),
        (bomb(), "too many pixels"),
        (b"\0" * (MAX_BYTES + 1), "MB"),
        (encode(Image.fromarray(np.zeros((5000, 40), np.uint8)), "PNG"), "pixels"),
        (encode(Image.fromarray(np.zeros((8, 8), np.uint8)), "PNG"), "pixels"),
        (encode(COLOURED, "PNG"), "colour"),
        (PAGES, "several"),
        (encode(Image.fromarray(np.zeros((64, 64), np.uint8)), "PNG"), "equally bright"),
        (encode(Image.fromarray(np.full((256, 256), 9, np.uint8)), "PNG"), "equally bright"),
    ],
)
def test_refused_in_one_sentence(data, said):
    started = time.perf_counter()
    with pytest.raises(OasisVQError) as caught:
        read_image(data, "theirs.png")
    assert time.perf_counter() - started < 1
    assert str(caught.value).startswith("theirs.png: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bundled_examples():
    shipped = examples()
    assert len(shipped) == 9
    assert next(iter(shipped)).startswith("Colin 27")
    for name, image in shipped.items():
        assert image.shape == (256, 256), name
        assert image.dtype == np.float32
        assert 0.8 < image.max() <= 1
        assert 0.2 < (image > 0.02).mean() < 0.4
