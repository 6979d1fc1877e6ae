"""Images as arrays: one size and kind for all, and changes that only their own random key decides."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from jaxft.data.pixels import cropped, erased, flipped, prepared
from jaxft.errors import DataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (12, 12, 3), np.uint8)
GREY = RNG.integers(0, 256, (12, 12), np.uint8)


def key(number: int) -> np.random.Generator:
    return np.random.default_rng(number)


def test_pixels_are_kept_where_nothing_has_to_change():
    np.testing.assert_array_equal(prepared(RGB, 12, 3, "x"), RGB.transpose(2, 0, 1))
    np.testing.assert_array_equal(prepared(GREY, 12, 1, "x"), GREY[None])
    np.testing.assert_array_equal(prepared(GREY.astype(np.int64), 12, 1, "x"), GREY[None])
    np.testing.assert_array_equal(prepared(GREY / 255, 12, 1, "x"), GREY[None])


def test_colours_become_grey_as_pillow_does_it_and_grey_becomes_three_channels():
    grey = prepared(RGB, 12, 1, "x")[0].astype(int)
    assert np.abs(grey - np.asarray(PIL.Image.fromarray(RGB).convert("L"), int)).max() <= 1
    np.testing.assert_array_equal(prepared(GREY, 12, 3, "x"), np.stack([GREY] * 3))


def test_images_are_resized_as_transformers_resizes_them():
    transformers = pytest.importorskip("transformers")
    wide = RNG.integers(0, 256, (30, 20, 3), np.uint8)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 12, "width": 12}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
    )
    theirs = processor(PIL.Image.fromarray(wide), return_tensors="np")["pixel_values"][0]
    ours = prepared(wide, 12, 3, "x") / 255
    ours = (ours - np.array([0.4, 0.5, 0.6])[:, None, None]) / np.array([0.2, 0.3, 0.4])[:, None, None]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.zeros((3, 4, 5, 3)), r"must have the shape .* found \(3, 4, 5, 3\)"),
        (np.zeros((4, 4, 4)), r"found \(4, 4, 4\)"),
        (np.zeros((0, 4)), r"found \(0, 4, 1\)"),
        (np.full((4, 4), 16.0), "numbers from 0 to 1; found float64 from 16 to 16"),
        (np.full((4, 4), 256), "whole numbers from 0 to 255.*found int64 from 256"),
        (np.full((4, 4), -1), "found int64 from -1"),
        (7, "not an image .a path or an array., found 7"),
        ("", "not an image"),
        (None, "not an image"),
    ],
)
def test_what_is_no_image_is_refused_with_its_place(value, message):
    with pytest.raises(DataError, match=f"a.npz:3.*{message}"):
        prepared(value, 4, 1, "a.npz:3")


def test_half_of_all_images_are_flipped():
    pixels = prepared(RGB, 12, 3, "x")
    found = [flipped(pixels, key(number)) for number in range(200)]
    turned = [np.array_equal(one, pixels[:, :, ::-1]) for one in found]
    assert all(turned[i] or np.array_equal(one, pixels) for i, one in enumerate(found))
    assert 70 < sum(turned) < 130


def test_a_crop_keeps_the_shape_and_the_order_of_what_it_shows():
    ramp = np.tile(np.arange(0, 240, 20, dtype=np.uint8), (1, 12, 1))
    for number in range(50):
        one = cropped(ramp, 0.3, key(number))
        assert one.shape == ramp.shape and one.dtype == np.uint8
        assert (np.diff(one[0].astype(int), axis=1) >= 0).all()
        # It shows a part: no more than the whole, and at least the square root of the smallest share at these ratios.
        assert 0.3**0.5 * 0.8 * 220 - 20 < np.ptp(one) <= 220
    np.testing.assert_array_equal(cropped(ramp, 1.0, _whole()), ramp)


def _whole() -> np.random.Generator:
    """A generator that draws the whole image: the full share, the ratio 1, no offset."""

    class Whole:
        def uniform(self, low, high):
            return {(1.0, 1.0): 1.0}.get((low, high), 0.0 if low < 0 else low)

    return Whole()


def test_erasing_fills_one_rectangle_of_no_more_than_a_third():
    pixels = np.full((2, 20, 20), 200, np.uint8)
    untouched = 0
    for number in range(100):
        one = erased(pixels, 0.5, np.array([7, 9], np.uint8), key(number))
        gone = one[0] == 7
        np.testing.assert_array_equal(gone, one[1] == 9)
        if not gone.any():
            untouched += 1
            continue
        rows, columns = np.flatnonzero(gone.any(1)), np.flatnonzero(gone.any(0))
        assert gone.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) <= 0.4 * 400
    assert 30 < untouched < 70 and (pixels == 200).all()
