import numpy as np
import pytest
import torch
from PIL import Image

from torch_utils import images


def test_all_256_pixel_values_make_the_round_trip():
    levels = torch.arange(256, dtype=torch.uint8)
    assert images.from_uint8(levels).min() == -1
    assert images.from_uint8(levels).max() == 1
    assert torch.equal(images.to_uint8(images.from_uint8(levels)), levels)
    assert torch.equal(images.to_uint8(images.from_uint8(levels).double()), levels)


def test_to_uint8_clips_and_truncates():
    x = torch.tensor([-9, -1, -128 / 127.5, 0, 0.9 / 127.5, 126.9 / 127.5, 1, 9], dtype=torch.float64)
    assert images.to_uint8(x).tolist() == [0, 0, 0, 128, 128, 254, 255, 255]


@pytest.mark.parametrize(('channels', 'mode'), [(1, 'L'), (3, 'RGB')])
def test_write_png_keeps_pixels_and_mode(tmp_path, channels, mode):
    pixels = np.random.RandomState(0).randint(256, size=(5, 7, channels), dtype=np.uint8)
    images.write_png(tmp_path / 'a.png', pixels)
    with Image.open(tmp_path / 'a.png') as png:
        assert png.mode == mode
        assert np.array_equal(np.asarray(png).reshape(5, 7, channels), pixels)


def test_write_png_refuses_what_is_no_image_and_leaves_no_file(tmp_path):
    for bad in (np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4), np.uint8)):
        with pytest.raises(ValueError, match='uint8'):
            images.write_png(tmp_path / 'a.png', bad)
    assert list(tmp_path.iterdir()) == []


def test_grid_runs_row_by_row_and_leaves_white_cells():
    cells = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 4)
    sheet = images.make_grid(cells, columns=3)
    assert sheet.shape == (4, 12, 3)
    assert sheet[::2, ::4, 0].tolist() == [[0, 1, 2], [3, 4, 255]]
    assert np.array_equal(sheet, sheet[::2, ::4].repeat(2, axis=0).repeat(4, axis=1))


def test_grid_keeps_each_image_upright():
    image = np.arange(12, dtype=np.uint8).reshape(1, 1, 3, 4)
    assert np.array_equal(images.make_grid(image, columns=1)[:, :, 0], image[0, 0])
