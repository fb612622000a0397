"""Augmentation that the network is told about (Karras et al. 2022, App. F.2; Karras et al. 2020, App. B).

Each image is flipped, warped and recoloured at random, and the parameters go to the network as labels. All
labels are 0 for an image as it is, which is what sampling asks for: augmentations do not leak into samples.

The text of this file travels inside snapshots and is executed by other software there.
"""

import functools
import math

import torch
from torch.nn.functional import affine_grid, conv2d, grid_sample, pad

from torch_utils import persistence

# Low-pass filter of the symmetric wavelet "sym6" (Daubechies 1992), 12 taps.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)
MARGIN = len(SYM6) // 4  # pixels that the filter reaches beyond the image


@persistence.persistent_class
class AugmentPipe:
    """pipe(images float32 [N, C, H, W]) -> (augmented images, labels float32 [N, columns]).

    p: probability of each augmentation, times its own multiplier; a multiplier of 0 leaves it out, with its
    label columns. In the order in which they are drawn and labelled, columns in brackets:

    xflip, yflip: mirror [1 each]. Half of the images that are chosen change: 1e8 flips half of all.
    rotate_int: turn by a multiple of 90 degrees [2]; square images only.
    translate_int: shift by whole pixels, up to translate_int_max of the size, with mirrored borders [2].
    scale: enlarge by 2 to a normal number times scale_std [1].
    rotate_frac: turn by an angle uniform in rotate_frac_max times +-180 degrees [2].
    aniso: stretch along an axis by 2 to a normal number times aniso_std, and shrink across it; the axis is
        turned with probability aniso_rotate_prob [2].
    translate_frac: shift by a normal number times translate_frac_std of the size [2].
    brightness: add a normal number times brightness_std [1].
    contrast: multiply by 2 to a normal number times contrast_std [1].
    lumaflip: reverse the sign of a colour's grey part [1]. Half of the images that are chosen change.
    hue: turn colours around the grey axis by an angle uniform in hue_max times +-180 degrees [2].
    saturation: scale the distance to the grey axis by 2 to a normal number times saturation_std [1].

    Draws from torch's default generator, on the images' device. Raises ValueError for images of other than
    one or three channels if colours change, and for ones that are not square if rotate_int does.
    """

    def __init__(self, p: float = 1, xflip: float = 0, yflip: float = 0, rotate_int: float = 0,
                 translate_int: float = 0, translate_int_max: float = 0.125, scale: float = 0,
                 rotate_frac: float = 0, aniso: float = 0, translate_frac: float = 0, scale_std: float = 0.2,
                 rotate_frac_max: float = 1, aniso_std: float = 0.2, aniso_rotate_prob: float = 0.5,
                 translate_frac_std: float = 0.125, brightness: float = 0, contrast: float = 0,
                 lumaflip: float = 0, hue: float = 0, saturation: float = 0, brightness_std: float = 0.2,
                 contrast_std: float = 0.5, hue_max: float = 1, saturation_std: float = 1):
        for name, value in [*locals().items()]:
            if name != 'self':
                setattr(self, name, float(value))

    def __call__(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        recolours = max(self.brightness, self.contrast, self.lumaflip, self.hue, self.saturation) > 0
        if recolours and images.shape[1] not in (1, 3):
            raise ValueError(f'colours can be changed in images of 1 or 3 channels, not {images.shape[1]}')
        if self.rotate_int > 0 and images.shape[2] != images.shape[3]:
            raise ValueError(f'rotate_int needs square images, got {images.shape[2]}x{images.shape[3]}')
        labels = [torch.zeros([images.shape[0], 0], device=images.device)]
        images = self._move_pixels(images, labels)
        if max(self.scale, self.rotate_frac, self.aniso, self.translate_frac) > 0:
            images = _warp(images, self._draw_warp(images, labels))
        if recolours:
            images = _recolour(images, self._draw_colours(images, labels))
        labels = [column.to(torch.float32).reshape(images.shape[0], -1) for column in labels]
        return images, torch.cat(labels, dim=1)

    def _gate(self, value, multiplier, shape=None):
        """The drawn value where the augmentation is applied, else 0; one draw for each entry of `shape`."""
        gate = torch.rand(value.shape if shape is None else shape, device=value.device)
        return torch.where(gate < multiplier * self.p, value, torch.zeros_like(value))

    def _move_pixels(self, images, labels):
        """The augmentations that need no interpolation, applied one after the other."""
        n, device = images.shape[0], images.device
        for multiplier, axis in (self.xflip, 3), (self.yflip, 2):
            if multiplier > 0:
                w = self._gate(torch.randint(2, [n, 1, 1, 1], device=device), multiplier)
                images = torch.where(w == 1, images.flip(axis), images)
                labels += [w]
        if self.rotate_int > 0:
            w = self._gate(torch.randint(4, [n, 1, 1, 1], device=device), self.rotate_int)
            mirror_x, mirror_y = (w == 1) | (w == 2), (w == 2) | (w == 3)
            images = torch.where(mirror_x, images.flip(3), images)
            images = torch.where(mirror_y, images.flip(2), images)
            images = torch.where((w == 1) | (w == 3), images.transpose(2, 3), images)
            labels += [mirror_x, mirror_y]
        if self.translate_int > 0:
            raw = torch.rand([2, n, 1, 1, 1], device=device) * 2 - 1
            w = self._gate(raw, self.translate_int, [1, n, 1, 1, 1])
            height, width = images.shape[2:]
            tx = (w[0] * width * self.translate_int_max).round().to(torch.int64)
            ty = (w[1] * height * self.translate_int_max).round().to(torch.int64)
            images = _shift(images, tx, ty)
            labels += [tx / (width * self.translate_int_max), ty / (height * self.translate_int_max)]
        return images

    def _draw_warp(self, images, labels):
        """[N, 3, 3]: from an augmented image's pixel coordinates (x, y, 1), relative to its centre, to the
        original's."""
        n, height, width, device = images.shape[0], *images.shape[2:], images.device
        warp = torch.eye(3, device=device)
        if self.scale > 0:
            w = self._gate(torch.randn([n], device=device), self.scale)
            shrink = 1 / w.mul(self.scale_std).exp2()
            warp = warp @ _scaling(shrink, shrink)
            labels += [w]
        if self.rotate_frac > 0:
            raw = (torch.rand([n], device=device) * 2 - 1) * (math.pi * self.rotate_frac_max)
            w = self._gate(raw, self.rotate_frac)
            warp = warp @ _rotation(w)
            labels += [w.cos() - 1, w.sin()]
        if self.aniso > 0:
            w = torch.randn([n], device=device)
            r = (torch.rand([n], device=device) * 2 - 1) * math.pi
            w = self._gate(w, self.aniso)
            turned = torch.rand([n], device=device) < self.aniso_rotate_prob
            r = torch.where(turned, r, torch.zeros_like(r))
            shrink = 1 / w.mul(self.aniso_std).exp2()
            warp = warp @ _rotation(-r) @ _scaling(shrink, 1 / shrink) @ _rotation(r)
            labels += [w * r.cos(), w * r.sin()]
        if self.translate_frac > 0:
            w = self._gate(torch.randn([2, n], device=device), self.translate_frac, [1, n])
            tx, ty = w[0] * width * self.translate_frac_std, w[1] * height * self.translate_frac_std
            warp = warp @ _matrix([1, 0, -tx], [0, 1, -ty], [0, 0, 1])
            labels += [w[0], w[1]]
        return warp

    def _draw_colours(self, images, labels):
        """[N, 4, 4]: from a colour (r, g, b, 1) to the augmented one."""
        n, device = images.shape[0], images.device
        eye = torch.eye(4, device=device)
        grey = torch.outer(*[_constant((1., 1., 1., 0.), images) / math.sqrt(3)] * 2)
        colours = eye
        if self.brightness > 0:
            w = self._gate(torch.randn([n], device=device), self.brightness)
            b = w * self.brightness_std
            colours = _matrix([1, 0, 0, b], [0, 1, 0, b], [0, 0, 1, b], [0, 0, 0, 1]) @ colours
            labels += [w]
        if self.contrast > 0:
            w = self._gate(torch.randn([n], device=device), self.contrast)
            c = w.mul(self.contrast_std).exp2()
            colours = _matrix([c, 0, 0, 0], [0, c, 0, 0], [0, 0, c, 0], [0, 0, 0, 1]) @ colours
            labels += [w]
        if self.lumaflip > 0:
            w = self._gate(torch.randint(2, [n, 1, 1], device=device), self.lumaflip)
            colours = (eye - 2 * grey * w) @ colours
            labels += [w]
        if self.hue > 0:
            raw = (torch.rand([n], device=device) * 2 - 1) * (math.pi * self.hue_max)
            w = self._gate(raw, self.hue)
            colours = _hue_rotation(w) @ colours
            labels += [w.cos() - 1, w.sin()]
        if self.saturation > 0:
            w = self._gate(torch.randn([n, 1, 1], device=device), self.saturation)
            colours = (grey + (eye - grey) * w.mul(self.saturation_std).exp2()) @ colours
            labels += [w]
        return colours.expand(n, 4, 4)


def _constant(values, like):
    """A tensor of the type and on the device of another; kept there, as a GPU is waited for to bring it."""
    return _kept(values, like.dtype, like.device)


@functools.lru_cache(maxsize=64)
def _kept(values, dtype, device):
    return torch.tensor(values, dtype=dtype, device=device)


def _matrix(*rows):
    """[N, k, k] of rows of numbers and tensors [N], or [k, k] where these are scalars; not all numbers."""
    entries = [entry for row in rows for entry in row]
    like = next(entry for entry in entries if isinstance(entry, torch.Tensor))
    tensors = [e if isinstance(e, torch.Tensor) else torch.full_like(like, e) for e in entries]
    return torch.stack(tensors, dim=-1).reshape(*like.shape, len(rows), -1)


def _scaling(x, y):
    return _matrix([x, 0, 0], [0, y, 0], [0, 0, 1])


def _rotation(angle):
    return _matrix([angle.cos(), -angle.sin(), 0], [angle.sin(), angle.cos(), 0], [0, 0, 1])


def _hue_rotation(angle):
    """Rotation around (1, 1, 1), by Rodrigues' formula."""
    cos, sin = angle.cos(), angle.sin() / math.sqrt(3)
    third = (1 - cos) / 3
    a, b, c = third + cos, third - sin, third + sin
    return _matrix([a, b, c, 0], [c, a, b, 0], [b, c, a, 0], [0, 0, 0, 1])


def _shift(images, tx, ty):
    """Move each image tx pixels to the right and ty up; int64 [N, 1, 1, 1]. Borders are mirrored."""
    n, channels, height, width = images.shape
    device = images.device
    x = _mirror(torch.arange(width, device=device).reshape(1, 1, 1, -1) - tx, width)
    y = _mirror(torch.arange(height, device=device).reshape(1, 1, -1, 1) + ty, height)
    image = torch.arange(n, device=device).reshape(-1, 1, 1, 1)
    channel = torch.arange(channels, device=device).reshape(1, -1, 1, 1)
    return images[image, channel, y, x]


def _mirror(index, size):
    """Fold indices back into 0..size-1; the border pixels themselves are not repeated."""
    return size - 1 - (size - 1 - index % max(2 * size - 2, 1)).abs()


def _warp(images, warp):
    """Resample images at the places that `warp` [N, 3, 3] gives. Borders are mirrored.

    Bilinear interpolation at twice the resolution, between two low-pass filters, hardly blurs or aliases.
    """
    height, width = images.shape[2:]
    # Elsewhere than on a CPU, to ask how much is needed takes longer than to pad by the most.
    on_cpu = warp.device.type == 'cpu'
    left, top, right, bottom = _margins(warp, height, width) if on_cpu else [width - 1, height - 1] * 2
    images = pad(images, [left, right, top, bottom], mode='reflect')

    def affine(scale_x, scale_y, x=0, y=0):
        return _constant(((scale_x, 0, x), (0, scale_y, y), (0, 0, 1)), warp)

    warp = affine(1, 1, (left - right) / 2, (top - bottom) / 2) @ warp
    images = _double(_double(images, axis=3), axis=2)
    warp = affine(2, 2) @ warp @ affine(0.5, 0.5)
    warp = affine(1, 1, -0.5, -0.5) @ warp @ affine(1, 1, 0.5, 0.5)
    # affine_grid's coordinates run from -1 to 1 over the image.
    to_height, to_width = 2 * (height + 2 * MARGIN), 2 * (width + 2 * MARGIN)
    warp = affine(2 / images.shape[3], 2 / images.shape[2]) @ warp @ affine(to_width / 2, to_height / 2)
    grid = affine_grid(warp[:, :2], [*images.shape[:2], to_height, to_width], align_corners=False)
    images = grid_sample(images, grid, mode='bilinear', padding_mode='zeros', align_corners=False)
    return _halve(_halve(images, axis=3), axis=2)


def _margins(warp, height, width):
    """How many pixels the warped images reach beyond the originals, the farthest one of the batch deciding.

    Returns left, top, right, bottom, each smaller than the image, since mirroring yields no more.
    """
    cx, cy = (width - 1) / 2, (height - 1) / 2
    corners = warp.new_tensor([[-cx, -cy, 1], [cx, -cy, 1], [cx, cy, 1], [-cx, cy, 1]])
    reached = (warp @ corners.T)[:, :2].transpose(0, 1).flatten(1)
    reach = torch.cat([-reached, reached]).amax(dim=1)
    margins = reach + reach.new_tensor([2 * MARGIN - cx, 2 * MARGIN - cy] * 2)
    largest = reach.new_tensor([width - 1, height - 1] * 2)
    return [int(margin) for margin in margins.clamp(min=0).minimum(largest).ceil().tolist()]


def _filter(images, taps, axis, stride, padding):
    """Correlate along axis 2 or 3 with `taps`."""
    shape, steps, pads = [1, 1, 1, 1], [1, 1], [0, 0]
    shape[axis], steps[axis - 2], pads[axis - 2] = len(taps), stride, padding
    kernels = _constant(taps, images).reshape(shape).expand(images.shape[1], -1, -1, -1)
    return conv2d(images, kernels, groups=images.shape[1], stride=steps, padding=pads)


def _double(images, axis):
    """Twice the samples along an axis: zeros in between, then the low-pass filter."""
    spread = torch.stack([images, torch.zeros_like(images)], dim=axis + 1).flatten(axis, axis + 1)
    spread = spread.narrow(axis, 0, spread.shape[axis] - 1)
    return _filter(spread, SYM6[::-1], axis, stride=1, padding=len(SYM6) // 2)


def _halve(images, axis):
    """Half the samples along an axis, without the margins."""
    images = _filter(images, SYM6, axis, stride=2, padding=len(SYM6) // 2 - 1)
    return images.narrow(axis, MARGIN, images.shape[axis] - 2 * MARGIN)


def _recolour(images, colours):
    """Apply `colours` [N, 4, 4] to each pixel; grey images take the mean of what the three channels do."""
    if images.shape[1] == 3:
        pixels = colours[:, :3, :3] @ images.flatten(2) + colours[:, :3, 3:]
        return pixels.reshape(images.shape)
    gain = colours[:, :3].mean(dim=1)[:, :, None, None]
    return images * gain[:, :3].sum(dim=1, keepdim=True) + gain[:, 3:]
