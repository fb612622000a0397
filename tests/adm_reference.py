"""ADM's U-Net (Dhariwal & Nichol 2021, Nichol & Dhariwal 2021) once more, from a checkpoint's tensors.

Nothing of edm/ stands here, so that it can tell whether a converted network computes the same.
"""

import math
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F


@dataclass(kw_only=True)
class ADM:
    """The network of a checkpoint, by guided-diffusion's options; draws the tensors that are not there.

    resampling: 'blocks', 'convolutions' or 'pooling' without parameters.
    """

    image_size: int = 16
    num_channels: int = 32
    channel_mult: tuple = (1, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple = (8,)
    num_heads: int = 1
    num_classes: int = 0
    out_channels: int = 6
    use_new_attention_order: bool = False
    use_scale_shift_norm: bool = True
    resampling: str = 'blocks'
    tensors: dict = field(default_factory=dict)

    def tensor(self, name, *shape):
        if name not in self.tensors:
            fan_in = math.prod(shape[1:]) if len(shape) > 1 else 9
            self.tensors[name] = torch.randn(shape) / math.sqrt(fan_in)
        return self.tensors[name]

    def conv(self, name, h, width, kernel=3, stride=1):
        run = F.conv1d if h.ndim == 3 else F.conv2d
        weight = self.tensor(f'{name}.weight', width, h.shape[1], *[kernel] * (h.ndim - 2))
        return run(h, weight, self.tensor(f'{name}.bias', width), padding=kernel // 2, stride=stride)

    def linear(self, name, h, width):
        weight = self.tensor(f'{name}.weight', width, h.shape[1])
        return F.linear(h, weight, self.tensor(f'{name}.bias', width))

    def norm(self, name, h):
        width = h.shape[1]
        return F.group_norm(h, 32, self.tensor(f'{name}.weight', width), self.tensor(f'{name}.bias', width))

    def block(self, name, h, emb, width, resample=lambda h: h):
        branch = resample(F.silu(self.norm(f'{name}.in_layers.0', h)))
        branch = self.conv(f'{name}.in_layers.2', branch, width)
        shift = self.linear(f'{name}.emb_layers.1', F.silu(emb), width * (1 + self.use_scale_shift_norm))
        shift = shift[..., None, None]
        if self.use_scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            branch = self.norm(f'{name}.out_layers.0', branch) * (1 + scale) + shift
        else:
            branch = self.norm(f'{name}.out_layers.0', branch + shift)
        h = resample(h)
        skip = h if h.shape[1] == width else self.conv(f'{name}.skip_connection', h, width, kernel=1)
        return skip + self.conv(f'{name}.out_layers.3', F.silu(branch), width)

    def attend(self, name, h):
        (batch, width), flat, heads = h.shape[:2], h.flatten(2), self.num_heads
        qkv = self.conv(f'{name}.qkv', self.norm(f'{name}.norm', flat), 3 * width, kernel=1)
        if self.use_new_attention_order:
            q, k, v = (part.reshape(batch * heads, width // heads, -1) for part in qkv.chunk(3, dim=1))
        else:
            q, k, v = qkv.reshape(batch * heads, 3 * width // heads, -1).chunk(3, dim=1)
        weights = torch.softmax(q.transpose(1, 2) @ k / math.sqrt(width // heads), dim=-1)
        attended = (v @ weights.transpose(1, 2)).reshape(flat.shape)
        return h + self.conv(f'{name}.proj_out', attended, width, kernel=1).reshape(h.shape)

    def resample(self, name, h, emb, down):
        def change(h):
            return F.avg_pool2d(h, 2) if down else F.interpolate(h, scale_factor=2)

        if self.resampling == 'blocks':
            return self.block(name, h, emb, h.shape[1], change)
        if self.resampling == 'pooling':
            return change(h)
        return self.conv(f'{name}.op', h, h.shape[1], stride=2) if down else self.conv(
            f'{name}.conv', change(h), h.shape[1])

    @torch.no_grad()
    def __call__(self, x, t, y=None):
        """The output [N, out_channels, R, R] at steps t [N] and classes y [N]."""
        half, emb = self.num_channels // 2, 4 * self.num_channels
        angles = t[:, None] * torch.exp(-math.log(10000) / half * torch.arange(half))
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        emb = self.linear('time_embed.2', F.silu(self.linear('time_embed.0', waves, emb)), emb)
        if self.num_classes:
            emb = emb + self.tensor('label_emb.weight', self.num_classes, emb.shape[1])[y]
        widths = [int(self.num_channels * factor) for factor in self.channel_mult]
        h = self.conv('input_blocks.0.0', x, widths[0])
        skips, i, side = [h], 0, self.image_size
        for level, width in enumerate(widths):
            if level:
                i, side = i + 1, side // 2
                h = self.resample(f'input_blocks.{i}.0', h, emb, down=True)
                skips.append(h)
            for _ in range(self.num_res_blocks):
                i += 1
                h = self.block(f'input_blocks.{i}.0', h, emb, width)
                if side in self.attention_resolutions:
                    h = self.attend(f'input_blocks.{i}.1', h)
                skips.append(h)
        h = self.attend('middle_block.1', self.block('middle_block.0', h, emb, width))
        h, i = self.block('middle_block.2', h, emb, width), 0
        for level, width in reversed(list(enumerate(widths))):
            for k in range(self.num_res_blocks + 1):
                h = self.block(f'output_blocks.{i}.0', torch.cat([h, skips.pop()], dim=1), emb, width)
                attends = side in self.attention_resolutions
                if attends:
                    h = self.attend(f'output_blocks.{i}.1', h)
                if level and k == self.num_res_blocks:
                    h, side = self.resample(f'output_blocks.{i}.{1 + attends}', h, emb, down=False), 2 * side
                i += 1
        return self.conv('out.2', F.silu(self.norm('out.0', h)), self.out_channels)
