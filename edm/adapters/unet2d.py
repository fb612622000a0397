"""The U-Net `UNet2DModel` of diffusers, for networks that were trained there.

Its modules are named as in those files: a tensor `down_blocks.0.resnets.1.conv1.weight` there is one here.
Built from what config.json says, filled by `adapters.diffusers_network`.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch.nn.functional import avg_pool2d, interpolate, pad, scaled_dot_product_attention

# By the names in config.json.
ACTIVATIONS = {'silu': torch.nn.SiLU, 'swish': torch.nn.SiLU, 'mish': torch.nn.Mish, 'gelu': torch.nn.GELU,
               'relu': torch.nn.ReLU}
TIME_EMBEDDINGS = ('positional', 'fourier', 'learned')
TIME_SHIFTS = ('default', 'scale_shift')
SAMPLINGS = ('conv', 'resnet')
DOWN_BLOCKS = {'DownBlock2D': (False, 'conv'), 'ResnetDownsampleBlock2D': (False, 'resnet'),
               'AttnDownBlock2D': (True, None)}  # with attention; how it samples, None for config.json's word
UP_BLOCKS = {'UpBlock2D': (False, 'conv'), 'ResnetUpsampleBlock2D': (False, 'resnet'),
             'AttnUpBlock2D': (True, None)}


def halve(x: torch.Tensor) -> torch.Tensor:
    """Means of 2 x 2 pixels."""
    return avg_pool2d(x, 2)


def double(x: torch.Tensor) -> torch.Tensor:
    """Each pixel twice along both axes."""
    return interpolate(x, scale_factor=2.0, mode='nearest')


class ResnetBlock(torch.nn.Module):
    """Two convolutions beside an identity, [B, in, H, W] -> [B, out, H', W'].

    time_channels: length of the time embedding, which shifts the features between them or, with
    `time_shift` 'scale_shift', scales and shifts what the second norm leaves of them.
    resample: `halve` or `double`, before the first convolution and on the identity.
    output_scale: the sum of both paths is divided by it.
    """

    def __init__(self, in_channels: int, out_channels: int, time_channels: int, *, groups: int, eps: float,
                 act_fn: str, time_shift: str, dropout: float, resample: Callable | None = None,
                 output_scale: float = 1.0):
        super().__init__()
        self.norm1 = torch.nn.GroupNorm(groups, in_channels, eps)
        self.conv1 = torch.nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.adaptive_scale = time_shift == 'scale_shift'
        self.time_emb_proj = torch.nn.Linear(time_channels, out_channels * (1 + self.adaptive_scale))
        self.norm2 = torch.nn.GroupNorm(groups, out_channels, eps)
        self.dropout = torch.nn.Dropout(dropout)
        self.conv2 = torch.nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = ACTIVATIONS[act_fn]()
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = torch.nn.Conv2d(in_channels, out_channels, 1)
        self.resample, self.output_scale = resample, output_scale

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.nonlinearity(self.norm1(x))
        if self.resample is not None:
            x, h = self.resample(x), self.resample(h)
        h = self.conv1(h)
        emb = self.time_emb_proj(self.nonlinearity(emb))[:, :, None, None]
        if self.adaptive_scale:
            scale, shift = emb.chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + emb)
        h = self.conv2(self.dropout(self.nonlinearity(h)))
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return (x + h) / self.output_scale


class Attention(torch.nn.Module):
    """Self-attention over all pixels, beside an identity, [B, C, H, W].

    head_dim: channels of a head; C // head_dim heads. groups: of the norm before it, None for none.
    """

    def __init__(self, channels: int, head_dim: int, *, groups: int | None, eps: float,
                 output_scale: float = 1.0):
        super().__init__()
        self.heads = channels // head_dim
        inner = self.heads * head_dim
        if inner < 1:
            raise ValueError(f'attention of {channels} channels has no room for a head of {head_dim}')
        self.group_norm = None if groups is None else torch.nn.GroupNorm(groups, channels, eps)
        self.to_q, self.to_k, self.to_v = (torch.nn.Linear(channels, inner) for _ in range(3))
        self.to_out = torch.nn.ModuleList([torch.nn.Linear(inner, channels)])
        self.output_scale = output_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = x.flatten(2)
        h = (h if self.group_norm is None else self.group_norm(h)).transpose(1, 2)
        q, k, v = (part(h).unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for part in (self.to_q, self.to_k, self.to_v))
        h = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = self.to_out[0](h).transpose(1, 2).reshape(x.shape)
        return (h + x) / self.output_scale  # in h's memory format, as there


class Downsample(torch.nn.Module):
    """Halve the resolution by a convolution; without padding, zeros are added at the right and below."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return self.conv(x if self.conv.padding[0] else pad(x, (0, 1, 0, 1)))


class Upsample(torch.nn.Module):
    """Double the resolution, then convolve."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = torch.nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return self.conv(double(x))


class DownBlock(torch.nn.Module):
    """One level of the encoder. sampler: builds what halves the resolution; None at the last level."""

    def __init__(self, in_channels: int, out_channels: int, layers: int, *, resnet: Callable,
                 attention: Callable | None, sampler: Callable | None):
        super().__init__()
        self.resnets = torch.nn.ModuleList(
            resnet(out_channels if i else in_channels, out_channels) for i in range(layers))
        self.attentions = attention and torch.nn.ModuleList(attention(out_channels) for _ in range(layers))
        self.downsamplers = sampler and torch.nn.ModuleList([sampler(out_channels)])

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> list[torch.Tensor]:
        """All features that the decoder gets; the last is this level's output."""
        features = []
        for i, block in enumerate(self.resnets):
            x = block(x, emb)
            if self.attentions is not None:
                x = self.attentions[i](x)
            features.append(x)
        if self.downsamplers is not None:
            features.append(self.downsamplers[0](x, emb))
        return features


class UpBlock(torch.nn.Module):
    """One level of the decoder. skips: channels of the encoder's features that its layers get, in order."""

    def __init__(self, in_channels: int, out_channels: int, skips: list[int], *, resnet: Callable,
                 attention: Callable | None, sampler: Callable | None):
        super().__init__()
        self.resnets = torch.nn.ModuleList(
            resnet((out_channels if i else in_channels) + skip, out_channels) for i, skip in enumerate(skips))
        self.attentions = attention and torch.nn.ModuleList(attention(out_channels) for _ in skips)
        self.upsamplers = sampler and torch.nn.ModuleList([sampler(out_channels)])

    def forward(self, x: torch.Tensor, features: list[torch.Tensor], emb: torch.Tensor) -> torch.Tensor:
        for i, block in enumerate(self.resnets):
            x = block(torch.cat([x, features.pop()], dim=1), emb)
            if self.attentions is not None:
                x = self.attentions[i](x)
        return x if self.upsamplers is None else self.upsamplers[0](x, emb)


class MidBlock(torch.nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, channels: int, *, resnet: Callable, attention: Callable | None):
        super().__init__()
        self.resnets = torch.nn.ModuleList(resnet(channels, channels) for _ in range(2))
        self.attentions = attention and torch.nn.ModuleList([attention(channels)])

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        x = self.resnets[0](x, emb)
        if self.attentions is not None:
            x = self.attentions[0](x)
        return self.resnets[1](x, emb)


class TimeFeatures(torch.nn.Module):
    """Sines and cosines of a time step, [B] -> [B, channels]; with `flip`, cosines first.

    freq_shift: subtracted from the number of frequencies where their ratio is formed.
    """

    def __init__(self, channels: int, flip: bool, freq_shift: float):
        super().__init__()
        self.channels, self.flip, self.freq_shift = channels, flip, freq_shift

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        half = self.channels // 2
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device)
        angles = t.to(torch.float32)[:, None] * (exponent / (half - self.freq_shift)).exp()
        parts = (angles.cos(), angles.sin()) if self.flip else (angles.sin(), angles.cos())
        return pad(torch.cat(parts, dim=1), (0, self.channels % 2))


class FourierFeatures(torch.nn.Module):
    """Sines and cosines of the logarithm of a time step at random frequencies, [B] -> [B, 2 * channels]."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(channels) * 16)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        angles = t.to(torch.float32).log()[:, None] * self.weight[None] * (2 * math.pi)
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class LearnedFeatures(torch.nn.Embedding):
    """A learned vector for each time step, interpolated linearly in between, [B] -> [B, channels]."""

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        low = t.floor().clamp(0, self.num_embeddings - 1)
        share = (t - low).clamp(0, 1).to(torch.float32)[:, None]
        high = (low + 1).clamp(max=self.num_embeddings - 1)
        return (1 - share) * self.weight[low.long()] + share * self.weight[high.long()]


class TimeMlp(torch.nn.Module):
    """Two layers from time features to the time embedding, [B, in] -> [B, out]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.linear_1 = torch.nn.Linear(in_channels, out_channels)
        self.linear_2 = torch.nn.Linear(out_channels, out_channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(torch.nn.functional.silu(self.linear_1(features)))


class UNet2D(torch.nn.Module):
    """F(x, t, class_labels); arguments by the names in config.json, with diffusers' defaults.

    x: [B, in_channels, H, W]. t: time steps, [B], of any fraction. class_labels: one-hot
    [B, num_class_embeds]; None or zeros for no class. Returns [B, out_channels, H, W].
    """

    def __init__(self, *, in_channels: int = 3, out_channels: int = 3, center_input_sample: bool = False,
                 time_embedding_type: str = 'positional', time_embedding_dim: int | None = None,
                 freq_shift: int = 0, flip_sin_to_cos: bool = True,
                 down_block_types: list = ('DownBlock2D', *('AttnDownBlock2D',) * 3),
                 up_block_types: list = (*('AttnUpBlock2D',) * 3, 'UpBlock2D'),
                 mid_block_type: str | None = 'UNetMidBlock2D',
                 block_out_channels: list = (224, 448, 672, 896), layers_per_block: int = 2,
                 mid_block_scale_factor: float = 1, downsample_padding: int = 1,
                 downsample_type: str | None = 'conv', upsample_type: str | None = 'conv',
                 dropout: float = 0.0,
                 act_fn: str = 'silu', attention_head_dim: int | None = 8, norm_num_groups: int = 32,
                 attn_norm_num_groups: int | None = None, norm_eps: float = 1e-5,
                 resnet_time_scale_shift: str = 'default', add_attention: bool = True,
                 num_class_embeds: int | None = None, num_train_timesteps: int | None = None):
        super().__init__()
        widths, last = list(block_out_channels), len(block_out_channels) - 1
        emb_channels = time_embedding_dim or widths[0] * 4
        self.center_input_sample = center_input_sample
        self.divides_by_time = time_embedding_type == 'fourier'

        self.conv_in = torch.nn.Conv2d(in_channels, widths[0], 3, padding=1)
        time_channels = widths[0] * (1 + self.divides_by_time)
        self.time_proj = {
            'positional': lambda: TimeFeatures(widths[0], flip_sin_to_cos, freq_shift),
            'fourier': lambda: FourierFeatures(widths[0]),
            'learned': lambda: LearnedFeatures(num_train_timesteps, widths[0])}[time_embedding_type]()
        self.time_embedding = TimeMlp(time_channels, emb_channels)
        self.class_embedding = None
        if num_class_embeds:
            self.class_embedding = torch.nn.Embedding(num_class_embeds, emb_channels)

        def resnet(inner, outer, resample=None, scale=1.0):
            return ResnetBlock(inner, outer, emb_channels, groups=norm_num_groups, eps=norm_eps,
                               act_fn=act_fn, time_shift=resnet_time_scale_shift, dropout=dropout,
                               resample=resample, output_scale=scale)

        def attention(channels, groups=norm_num_groups, scale=1.0):
            head_dim = attention_head_dim if attention_head_dim is not None else channels
            return Attention(channels, head_dim, groups=groups, eps=norm_eps, output_scale=scale)

        def sampler(how, resample, conv):  # None is conv
            return (lambda channels: resnet(channels, channels, resample)) if how == 'resnet' else conv

        self.down_blocks = torch.nn.ModuleList()
        for i, kind in enumerate(down_block_types):
            attends, how = DOWN_BLOCKS[kind]
            halving = sampler(how or downsample_type, halve, partial(Downsample, padding=downsample_padding))
            self.down_blocks.append(DownBlock(
                widths[max(i - 1, 0)], widths[i], layers_per_block, resnet=resnet,
                attention=attention if attends else None, sampler=halving if i < last else None))

        self.mid_block = None
        if mid_block_type is not None:
            groups = norm_num_groups if resnet_time_scale_shift == 'default' else None
            attends = partial(attention, groups=attn_norm_num_groups or groups, scale=mid_block_scale_factor)
            self.mid_block = MidBlock(widths[-1], resnet=partial(resnet, scale=mid_block_scale_factor),
                                      attention=attends if add_attention else None)

        self.up_blocks = torch.nn.ModuleList()
        for i, kind in enumerate(up_block_types):
            attends, how = UP_BLOCKS[kind]
            level = last - i
            skips = [widths[level]] * layers_per_block + [widths[max(level - 1, 0)]]
            self.up_blocks.append(UpBlock(
                widths[min(level + 1, last)], widths[level], skips, resnet=resnet,
                attention=attention if attends else None,
                sampler=sampler(how or upsample_type, double, Upsample) if i < last else None))

        self.conv_norm_out = torch.nn.GroupNorm(norm_num_groups, widths[0], norm_eps)
        self.conv_out = torch.nn.Conv2d(widths[0], out_channels, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor | None = None,
                ) -> torch.Tensor:
        if self.center_input_sample:
            x = 2 * x - 1
        emb = self.time_embedding(self.time_proj(t))
        if self.class_embedding is not None and class_labels is not None:
            emb = emb + class_labels @ self.class_embedding.weight
        x = self.conv_in(x)
        features = [x]
        for block in self.down_blocks:
            features += block(features[-1], emb)
        x = features[-1]
        if self.mid_block is not None:
            x = self.mid_block(x, emb)
        for block in self.up_blocks:
            x = block(x, features, emb)
        x = self.conv_out(torch.nn.functional.silu(self.conv_norm_out(x)))
        return x / t[:, None, None, None] if self.divides_by_time else x
