"""Augmentation: the reference's numbers, and each transformation against its plain meaning."""

import inspect
import math

import pytest
import torch

from helpers import golden
from training import augment as augment_module
from training.augment import AugmentPipe

GEOMETRY = {'xflip': 1e8, 'yflip': 1, 'scale': 1, 'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}
PIPES = {
    'train-default': {'p': 0.12, **GEOMETRY},
    'always': {'p': 1, **GEOMETRY},
    'blit': {'p': 1, 'xflip': 1, 'yflip': 1, 'rotate_int': 1, 'translate_int': 1},
    'color': {'p': 1, 'brightness': 1, 'contrast': 1, 'lumaflip': 1, 'hue': 1, 'saturation': 1},
}
COLUMNS = {'xflip': 1, 'yflip': 1, 'rotate_int': 2, 'translate_int': 2, 'scale': 1, 'rotate_frac': 2,
           'aniso': 2, 'translate_frac': 2, 'brightness': 1, 'contrast': 1, 'lumaflip': 1, 'hue': 2,
           'saturation': 1}


def smooth_images(n, size=32, channels=3):
    """Coloured blobs off the centre, so that flips, shifts, turns and colours all show."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing='ij')
    blob = torch.exp(-((x - 0.3)**2 + (y + 0.2)**2) * 12)
    strength = torch.tensor([1, 0.6, 0.3])[:channels].reshape(1, -1, 1, 1)
    return (blob * strength).repeat(n, 1, 1, 1)


def augment(images, seed=0, **kwargs):
    torch.manual_seed(seed)
    return AugmentPipe(**kwargs)(images)


def pad_by_the_most(warp, height, width):
    """What is done elsewhere than on a CPU."""
    return [width - 1, height - 1] * 2


@pytest.mark.parametrize(('name', 'margins'), [*((name, augment_module._margins) for name in PIPES),
                                               ('always', pad_by_the_most)])
def test_augmented_images_and_labels_match_the_reference(name, margins, monkeypatch):
    monkeypatch.setattr(augment_module, '_margins', margins)
    arrays = golden('augment')
    images, labels = augment(torch.from_numpy(arrays['images']), seed=9, **PIPES[name])
    # Coordinates are rounded to about 1e-6 pixels, and neighbouring pixels differ by up to 2.
    assert torch.allclose(images, torch.from_numpy(arrays[f'{name}/images']), rtol=0, atol=1e-5)
    assert torch.allclose(labels, torch.from_numpy(arrays[f'{name}/labels']), rtol=0, atol=1e-6)


@pytest.mark.parametrize('item', COLUMNS)
def test_each_item_has_its_label_columns_and_zero_means_untouched(item):
    # The low-pass filters of the warp alone change these smooth images by less than 0.02.
    images = smooth_images(40, size=16)
    done, labels = augment(images, p=0.5, **{item: 1})
    assert labels.shape == (40, COLUMNS[item])
    assert labels.dtype == torch.float32
    touched = labels.abs().sum(dim=1) > 0
    assert 4 < int(touched.sum()) < 36
    difference = (done - images).abs().amax(dim=[1, 2, 3])
    assert float(difference[~touched].max()) < 0.02
    assert float(difference[touched].max()) > 0.1


def test_a_pipe_of_nothing_returns_the_images_without_labels():
    images = smooth_images(3)
    done, labels = AugmentPipe()(images)
    assert torch.equal(done, images)
    assert labels.shape == (3, 0)


def test_xflip_of_1e8_mirrors_half_of_all_images_whatever_p():
    _, labels = augment(torch.zeros(2000, 1, 1, 1), p=1e-3, xflip=1e8)
    assert float(labels.mean()) == pytest.approx(0.5, abs=0.045)  # 4 standard errors


def test_flips_and_quarter_turns_follow_their_labels():
    images = torch.randn(60, 2, 5, 5)
    done, labels = augment(images, xflip=1, yflip=1)
    for before, after, (x, y) in zip(images, done, labels.tolist(), strict=True):
        axes = [axis for axis, flip in ((2, x), (1, y)) if flip]
        assert torch.equal(after, before.flip(axes))
    done, labels = augment(images, rotate_int=1)
    for before, after, label in zip(images, done, labels.tolist(), strict=True):
        turns = {(0, 0): 0, (1, 0): 1, (1, 1): 2, (0, 1): 3}[tuple(label)]
        assert torch.equal(after, torch.rot90(before, turns, dims=(1, 2)))


def test_whole_pixel_shifts_follow_their_labels_and_mirror_the_borders():
    images = torch.randn(30, 2, 6, 8)
    done, labels = augment(images, translate_int=1, translate_int_max=0.5)
    assert labels.any()
    for before, after, label in zip(images, done, labels, strict=True):
        tx, ty = round(float(label[0]) * 4), round(float(label[1]) * 3)
        padded = torch.nn.functional.pad(before[None], [4, 4, 3, 3], mode='reflect')[0]
        assert torch.equal(after, padded[:, 3 + ty:9 + ty, 4 - tx:12 - tx])


def test_a_turned_blob_is_where_its_label_says():
    images = smooth_images(20, size=64, channels=1)
    done, labels = augment(images, rotate_frac=1)
    for image, (cos_less_1, sin) in zip(done[:, 0], labels.tolist(), strict=True):
        y, x = divmod(int(image.argmax()), 64)
        found = torch.tensor([x - 31.5, y - 31.5]) / 31.5
        cos = cos_less_1 + 1
        # The inverse matrix is the rotation by w, so the image turns by -w.
        expected = torch.tensor([0.3 * cos - 0.2 * sin, -0.2 * cos - 0.3 * sin])
        assert float((found - expected).abs().max()) < 2 / 31.5  # two pixels


def test_fractional_shift_and_scaling_move_a_blob_as_labelled():
    images = smooth_images(20, size=64, channels=1)
    done, labels = augment(images, scale=1, translate_frac=1, scale_std=0.3, translate_frac_std=0.05)
    for image, (w, u, v) in zip(done[:, 0], labels.tolist(), strict=True):
        y, x = divmod(int(image.argmax()), 64)
        s = 2**(0.3 * w)
        expected = [(0.3 * 31.5) * s + 64 * 0.05 * u, (-0.2 * 31.5) * s + 64 * 0.05 * v]
        assert max(abs(x - 31.5 - expected[0]), abs(y - 31.5 - expected[1])) < 2


def test_images_that_are_not_square_move_by_shares_of_their_own_sides():
    ramps = torch.stack(torch.meshgrid(*[torch.arange(n) / 1.0 for n in (24, 64)], indexing='ij'))
    done, labels = augment(ramps.expand(20, -1, -1, -1), translate_frac=1, translate_frac_std=0.05)
    centre = done[:, :, 12, 32] - ramps[:, 12, 32]  # the ramps are y and x
    assert torch.allclose(centre, -labels[:, [1, 0]] * 0.05 * torch.tensor([24, 64]), atol=0.05)


def test_what_moves_in_over_any_border_is_a_mirror_image():
    for size in (16, 40), (40, 16):
        done, _ = augment(torch.ones(20, 1, *size), translate_frac=1, translate_frac_std=0.05)
        assert torch.allclose(done, torch.ones_like(done), atol=1e-3)


def test_colours_follow_their_labels():
    images = torch.rand(30, 3, 4, 4)
    done, labels = augment(images, brightness=1, brightness_std=0.3)
    assert torch.allclose(done, images + 0.3 * labels.reshape(-1, 1, 1, 1), atol=1e-6)
    done, labels = augment(images, contrast=1)
    assert torch.allclose(done, images * 2**(0.5 * labels.reshape(-1, 1, 1, 1)), rtol=1e-5)
    grey = images.mean(dim=1, keepdim=True)
    done, labels = augment(images, lumaflip=1)
    flipped = labels.reshape(-1, 1, 1, 1) == 1
    assert torch.allclose(done, torch.where(flipped, images - 2 * grey, images), atol=1e-6)
    done, labels = augment(images, saturation=1)
    factor = 2**labels.reshape(-1, 1, 1, 1)
    assert torch.allclose(done, grey + (images - grey) * factor, atol=1e-5)
    done, labels = augment(images, hue=1)
    assert torch.allclose(done.mean(dim=1, keepdim=True), grey, atol=1e-6)
    angle = torch.atan2(labels[:, 1], labels[:, 0] + 1)
    before, after = (images - grey)[:, :, 0, 0], (done - grey)[:, :, 0, 0]
    cosine = (before * after).sum(1) / before.square().sum(1)
    assert torch.allclose(cosine, angle.cos(), atol=1e-4)


def test_grey_images_keep_their_channel():
    images = torch.rand(6, 1, 4, 4)
    done, labels = augment(images, brightness=1, contrast=1, lumaflip=1, hue=1, saturation=1)
    assert done.shape == images.shape
    in_colour, same_labels = augment(images.repeat(1, 3, 1, 1), brightness=1, contrast=1, lumaflip=1, hue=1,
                                     saturation=1)
    assert torch.equal(labels, same_labels)
    assert torch.allclose(done, in_colour.mean(dim=1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize('shape', [(3, 1, 1, 1), (3, 2, 4, 4), (3, 3, 6, 9)])
def test_warps_keep_any_size_and_number_of_channels(shape):
    done, labels = augment(torch.rand(shape), **PIPES['always'], translate_int=1)
    assert done.shape == shape
    assert torch.isfinite(done).all()
    assert labels.shape == (3, 11)


def test_images_that_cannot_be_recoloured_or_turned_are_refused():
    with pytest.raises(ValueError, match='1 or 3 channels, not 2'):
        AugmentPipe(hue=1)(torch.zeros(1, 2, 4, 4))
    with pytest.raises(ValueError, match='square images, got 4x6'):
        AugmentPipe(rotate_int=1)(torch.zeros(1, 3, 4, 6))


def test_everything_is_off_by_default_and_stds_are_the_published_ones():
    parameters = inspect.signature(AugmentPipe).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    assert defaults == {'p': 1} | dict.fromkeys(COLUMNS, 0) | {
        'translate_int_max': 0.125, 'scale_std': 0.2, 'rotate_frac_max': 1, 'aniso_std': 0.2,
        'aniso_rotate_prob': 0.5, 'translate_frac_std': 0.125, 'brightness_std': 0.2, 'contrast_std': 0.5,
        'hue_max': 1, 'saturation_std': 1}
    _, labels = augment(torch.zeros(200, 1, 4, 4), rotate_frac=1, rotate_frac_max=0.25)
    assert float(labels[:, 1].abs().max()) <= math.sin(math.pi / 4) + 1e-6
