"""Pictures from people: what is taken, what is refused and in which words, crop and resize."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from drivesim.core.picture import crop_to_aspect, load_picture, resize_area, save_png


def _picture(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_saved_png_comes_back_exactly(tmp_path: Path) -> None:
    picture = _picture(20, 30)
    save_png(tmp_path / "a.png", picture)
    assert np.array_equal(load_picture(tmp_path / "a.png", min_size_hw=(20, 30)), picture)


def test_a_grey_jpeg_becomes_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 90, np.uint8)).save(tmp_path / "grey.jpg")
    picture = load_picture(tmp_path / "grey.jpg")
    assert picture.shape == (16, 16, 3)
    assert np.abs(picture.astype(int) - 90).max() <= 2


def test_a_photo_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn 90 degrees clockwise to show
    Image.fromarray(_picture(16, 32)).save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(load_picture(tmp_path / "phone.png"), np.rot90(_picture(16, 32), k=-1))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_an_alpha_channel_is_refused(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (64, 32)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: has an alpha channel"):
        load_picture(tmp_path / "a.png")


def test_a_palette_with_transparency_is_refused(tmp_path: Path) -> None:
    Image.new("P", (64, 32)).save(tmp_path / "a.png", transparency=0)
    with pytest.raises(ValueError, match="has an alpha channel"):
        load_picture(tmp_path / "a.png")


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((16, 16), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match="8 bits a channel"):
        load_picture(tmp_path / "deep.png")


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_in_colour_are_refused(tmp_path: Path, suffix: str) -> None:
    cv2.imwrite(str(tmp_path / f"deep.{suffix}"), np.full((16, 16, 3), 30000, np.uint16))
    with pytest.raises(ValueError, match="deep.*16 bits a channel; expected 8"):
        load_picture(tmp_path / f"deep.{suffix}")


def test_a_file_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"notes\.jpg: not a picture"):
        load_picture(tmp_path / "notes.jpg")
    with pytest.raises(ValueError, match="not a picture"):
        load_picture(tmp_path)


def test_a_truncated_picture_is_refused(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", _picture(64, 64))
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="picture cannot be read"):
        load_picture(tmp_path / "half.png")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.png: no such file"):
        load_picture(tmp_path / "none.png")


def test_a_small_picture_is_refused_with_both_sizes(tmp_path: Path) -> None:
    save_png(tmp_path / "a.png", _picture(63, 200))
    with pytest.raises(ValueError, match="200 x 63 pixels is too small; at least 128 x 64"):
        load_picture(tmp_path / "a.png", min_size_hw=(64, 128))


@pytest.mark.parametrize(
    ("size_hw", "cropped_hw", "corner"),
    [((100, 300), (100, 200), (0, 50)), ((100, 100), (50, 100), (25, 0)), ((64, 128), (64, 128), (0, 0))],
)
def test_the_crop_is_the_largest_centred_two_to_one(
    size_hw: tuple[int, int], cropped_hw: tuple[int, int], corner: tuple[int, int]
) -> None:
    picture = _picture(*size_hw)
    part, (top, left) = crop_to_aspect(picture)
    assert (part.shape[:2], (top, left)) == (cropped_hw, corner)
    assert np.array_equal(part, picture[top : top + cropped_hw[0], left : left + cropped_hw[1]])


def test_a_clip_is_cropped_like_its_frames() -> None:
    clip = np.stack([_picture(50, 40)] * 3)
    part, corner = crop_to_aspect(clip)
    frame_part, frame_corner = crop_to_aspect(clip[0])
    assert corner == frame_corner
    assert np.array_equal(part[1], frame_part)


def test_shrinking_by_a_whole_factor_is_the_block_average() -> None:
    clip = np.stack([_picture(8, 16), _picture(8, 16)[::-1]])
    blocks = clip.reshape(2, 4, 2, 8, 2, 3).mean(axis=(2, 4))
    assert np.abs(resize_area(clip, (4, 8)).astype(float) - blocks).max() <= 0.5 + 1e-9


def test_growing_keeps_a_flat_picture_flat_and_its_own_size_keeps_every_bit() -> None:
    flat = np.full((4, 8, 3), 77, np.uint8)
    assert (resize_area(flat, (16, 32)) == 77).all()
    assert np.array_equal(resize_area(_picture(8, 16), (8, 16)), _picture(8, 16))
