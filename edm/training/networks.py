"""U-Nets and a perceptron, and the preconditioners of Karras et al. 2022 that make denoisers of them.

Images are float [B, C, H, W] with H = W, values in [-1, 1] before noise is added. Noise levels `sigma` are
standard deviations in the images' units. `net` is a preconditioned denoiser, `model` the raw network in it.

The text of this file travels inside snapshots and is executed by other software there, so it stands on
torch and `torch_utils.persistence` alone.
"""

import math
from functools import partial

import torch
from torch.nn.functional import conv2d, conv_transpose2d, dropout, group_norm, linear, silu

from torch_utils import persistence


def weight_init(shape: list[int], mode: str, fan_in: int, fan_out: int) -> torch.Tensor:
    """Random float32 `shape` from torch's default generator (Glorot & Bengio 2010; He et al. 2015)."""
    if mode == 'xavier_uniform':
        return math.sqrt(6 / (fan_in + fan_out)) * (torch.rand(*shape) * 2 - 1)
    if mode == 'xavier_normal':
        return math.sqrt(2 / (fan_in + fan_out)) * torch.randn(*shape)
    if mode == 'kaiming_uniform':
        return math.sqrt(3 / fan_in) * (torch.rand(*shape) * 2 - 1)
    if mode == 'kaiming_normal':
        return math.sqrt(1 / fan_in) * torch.randn(*shape)
    raise ValueError(f'init_mode must be xavier_ or kaiming_, uniform or normal, got {mode!r}')


def _check_choice(argument: str, value: str, choices) -> None:
    if value not in choices:
        raise ValueError(f'{argument} must be one of {", ".join(choices)}, got {value!r}')


def _level_resolutions(img_resolution: int, channel_mult) -> list[int]:
    """Side length of the feature maps at each level of a U-Net, finest first."""
    levels = len(channel_mult)
    if levels == 0:
        raise ValueError('channel_mult must hold at least one number, got an empty list')
    if img_resolution < 1 or img_resolution % 2 ** (levels - 1):
        raise ValueError(f'img_resolution must be a multiple of {2 ** (levels - 1)} for {levels} levels '
                         f'of channel_mult, got {img_resolution}')
    return [img_resolution >> level for level in range(levels)]


# Layers. Parameters are float32 and are cast to the input's type, so that one set of weights serves a
# float32 and a float16 image path.


@persistence.persistent_class
class Linear(torch.nn.Module):
    """Fully connected layer, [..., in_features] -> [..., out_features].

    The initial weight is drawn in `init_mode` and multiplied by `init_weight`; then the bias likewise. The
    bias is drawn also if `init_bias` is 0: which numbers the next layer gets depends on it.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True,
                 init_mode: str = 'kaiming_normal', init_weight: float = 1, init_bias: float = 0):
        super().__init__()
        self.in_features = in_features
        init = {'mode': init_mode, 'fan_in': in_features, 'fan_out': out_features}
        self.weight = torch.nn.Parameter(weight_init([out_features, in_features], **init) * init_weight)
        self.bias = torch.nn.Parameter(weight_init([out_features], **init) * init_bias) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


@persistence.persistent_class
class Conv2d(torch.nn.Module):
    """Convolution with optional up- or downsampling by two, [B, in, H, W] -> [B, out, H', W'].

    kernel: odd side length k of the weights [out, in, k, k]; 0 means resampling alone, without parameters.
    resample_filter: the low-pass filter along one axis; the buffer of this name holds its outer product with
    itself, [1, 1, m, m] of sum 1, where the layer resamples.
    fused_resample: trim the borders once for both steps, with the convolution on the smaller side.
    Initial weights as in `Linear`.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, bias: bool = True, up: bool = False,
                 down: bool = False, resample_filter: tuple[int, ...] = (1, 1), fused_resample: bool = False,
                 init_mode: str = 'kaiming_normal', init_weight: float = 1, init_bias: float = 0):
        super().__init__()
        if up and down:
            raise ValueError('a convolution can sample up or down, not both')
        self.up = up
        self.down = down
        self.fused_resample = fused_resample
        init = {'mode': init_mode, 'fan_in': in_channels * kernel**2, 'fan_out': out_channels * kernel**2}
        self.weight = self.bias = None
        if kernel:
            weight = weight_init([out_channels, in_channels, kernel, kernel], **init) * init_weight
            self.weight = torch.nn.Parameter(weight)
        if kernel and bias:
            self.bias = torch.nn.Parameter(weight_init([out_channels], **init) * init_bias)
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        low_pass = torch.outer(taps, taps)[None, None] / taps.sum().square()
        self.register_buffer('resample_filter', low_pass if up or down else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        pad = 0 if weight is None else weight.shape[-1] // 2
        if not (self.up or self.down):
            return x if weight is None else conv2d(x, weight, bias, padding=pad)

        low_pass = self.resample_filter.to(x.dtype)
        filter_pad = (low_pass.shape[-1] - 1) // 2
        if weight is None:
            return self._resample(x, low_pass, filter_pad)
        if not self.fused_resample:
            return conv2d(self._resample(x, low_pass, filter_pad), weight, bias, padding=pad)
        if self.up:
            x = self._resample(x, low_pass, max(filter_pad - pad, 0))
            return conv2d(x, weight, bias, padding=max(pad - filter_pad, 0))
        # The filter sums to one, so a bias passes through it unchanged and can be added before.
        return self._resample(conv2d(x, weight, bias, padding=pad + filter_pad), low_pass, 0)

    def _resample(self, x, low_pass, padding):
        """Filter each channel and halve, or double, the resolution."""
        channels = x.shape[1]
        if self.up:
            kernels = (4 * low_pass).expand(channels, 1, -1, -1)
            return conv_transpose2d(x, kernels, groups=channels, stride=2, padding=padding)
        return conv2d(x, low_pass.expand(channels, 1, -1, -1), groups=channels, stride=2, padding=padding)


@persistence.persistent_class
class GroupNorm(torch.nn.Module):
    """Group normalisation (Wu & He 2018) in up to 32 groups of at least `min_channels_per_group` channels."""

    def __init__(self, num_channels: int, eps: float = 1e-5, min_channels_per_group: int = 4):
        super().__init__()
        self.num_groups = min(32, num_channels // min_channels_per_group)
        self.eps = eps
        if self.num_groups == 0 or num_channels % self.num_groups:
            raise ValueError(f'{num_channels} channels cannot be normalised in {self.num_groups} groups of '
                             f'equal size and at least {min_channels_per_group} channels')
        self.weight = torch.nn.Parameter(torch.ones(num_channels))
        self.bias = torch.nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


def attention_weights(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """How much each query looks at each key (Vaswani et al. 2017, Eq. 1); rows sum to 1.

    q, k: [N, C, queries] and [N, C, keys]. Returns [N, queries, keys] of q's type, computed in float32:
    float16 would overflow in the products.
    """
    q, k, dtype = q.to(torch.float32), k.to(torch.float32), q.dtype
    return ((q / math.sqrt(q.shape[1])).transpose(1, 2) @ k).softmax(dim=2).to(dtype)


@persistence.persistent_class
class UNetBlock(torch.nn.Module):
    """Residual block with optional resampling and self-attention, [B, in, H, W] -> [B, out, H', W'].

    The one block of both U-Nets: with `adaptive_scale` the embedding scales and shifts the features after
    their normalisation (Dhariwal & Nichol 2021), without it is added before (Song et al. 2021).

    num_heads: attention heads; None means one per `channels_per_head`, and so none in a narrower block.
    skip_scale: factor after each of the two residual sums.
    min_channels_per_group: see `GroupNorm`.
    init, init_zero, init_attn: `init_*` arguments of the layers, of those that end a residual branch, and of
    the query-key-value projection (None: as `init`).
    """

    def __init__(self, in_channels: int, out_channels: int, emb_channels: int, up: bool = False,
                 down: bool = False, attention: bool = False, num_heads: int | None = None,
                 channels_per_head: int = 64, dropout: float = 0, skip_scale: float = 1, eps: float = 1e-5,
                 resample_filter: tuple[int, ...] = (1, 1), resample_proj: bool = False,
                 adaptive_scale: bool = True, init: dict | None = None, init_zero: dict | None = None,
                 init_attn: dict | None = None, min_channels_per_group: int = 4):
        super().__init__()
        init = init or {}
        init_zero = {'init_weight': 0} if init_zero is None else init_zero
        if num_heads is None:
            num_heads = out_channels // channels_per_head
        self.num_heads = num_heads if attention else 0
        if self.num_heads and out_channels % self.num_heads:
            raise ValueError(f'{out_channels} channels cannot be shared by {num_heads} attention heads')
        self.dropout = dropout
        self.skip_scale = skip_scale
        self.adaptive_scale = adaptive_scale

        resample = {'up': up, 'down': down, 'resample_filter': resample_filter}
        norm = {'eps': eps, 'min_channels_per_group': min_channels_per_group}
        self.norm0 = GroupNorm(in_channels, **norm)
        self.conv0 = Conv2d(in_channels, out_channels, kernel=3, **resample, **init)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1), **init)
        self.norm1 = GroupNorm(out_channels, **norm)
        self.conv1 = Conv2d(out_channels, out_channels, kernel=3, **init_zero)
        self.skip = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel=kernel, **resample, **init)
        if self.num_heads:
            self.norm2 = GroupNorm(out_channels, **norm)
            self.qkv = Conv2d(out_channels, 3 * out_channels, kernel=1, **(init_attn or init))
            self.proj = Conv2d(out_channels, out_channels, kernel=1, **init_zero)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = self.conv0(silu(self.norm0(x)))
        affine = self.affine(emb)[:, :, None, None].to(x.dtype)
        if self.adaptive_scale:
            scale, shift = affine.chunk(2, dim=1)
            h = silu(torch.addcmul(shift, self.norm1(h), 1 + scale))
        else:
            h = silu(self.norm1(h + affine))
        h = self.conv1(dropout(h, p=self.dropout, training=self.training))
        h = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        return (h + self._attend(h)) * self.skip_scale if self.num_heads else h

    def _attend(self, h):
        """Self-attention over the pixels; `qkv` interleaves them: channel 3 c + 0, 1, 2 is q, k, v of c."""
        batch, channels, height, width = h.shape
        qkv = self.qkv(self.norm2(h))
        q, k, v = qkv.reshape(batch * self.num_heads, channels // self.num_heads, 3, height * width).unbind(2)
        attended = attention_weights(q, k) @ v.transpose(1, 2)
        return self.proj(attended.transpose(1, 2).reshape(h.shape))


# Embeddings of the noise level: [B] -> [B, num_channels], cosines first, then sines.


@persistence.persistent_class
class PositionalEmbedding(torch.nn.Module):
    """Frequencies from 1 down to 1 / max_positions in geometric steps (Vaswani et al. 2017, Sec. 3.5).

    endpoint: whether the last frequency is 1 / max_positions itself, or stops one step short of it.
    """

    def __init__(self, num_channels: int, max_positions: int = 10000, endpoint: bool = False):
        super().__init__()
        if num_channels % 2:
            raise ValueError(f'an embedding needs an even number of channels, got {num_channels}')
        self.num_channels = num_channels
        self.max_positions = max_positions
        self.endpoint = endpoint

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = self.num_channels // 2
        steps = torch.arange(half, dtype=torch.float32, device=x.device) / (half - int(self.endpoint))
        angles = torch.outer(x, ((1 / self.max_positions) ** steps).to(x.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


@persistence.persistent_class
class FourierEmbedding(torch.nn.Module):
    """Random frequencies, normal with standard deviation `scale` (Tancik et al. 2020)."""

    def __init__(self, num_channels: int, scale: float = 16):
        super().__init__()
        if num_channels % 2:
            raise ValueError(f'an embedding needs an even number of channels, got {num_channels}')
        self.register_buffer('freqs', torch.randn(num_channels // 2) * scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        angles = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([angles.cos(), angles.sin()], dim=1)


def _add_labels(net, emb, class_labels):
    """Add `net.map_label` of the labels; training drops an image's with probability `label_dropout`."""
    if net.map_label is None:
        return emb
    if net.training and net.label_dropout:
        keep = torch.rand([class_labels.shape[0], 1], device=class_labels.device) >= net.label_dropout
        class_labels = class_labels * keep.to(class_labels.dtype)
    return emb + net.map_label(class_labels)


def _add_augmentation(net, emb, augment_labels):
    return emb if net.map_augment is None or augment_labels is None else emb + net.map_augment(augment_labels)


# U-Nets: model(x [B, in_channels, R, R], noise_labels [B], class_labels [B, label_dim] or None,
# augment_labels [B, augment_dim] or None) -> [B, out_channels, R, R] of x's type; labels stay in float32.
# Modules of the encoder `enc` and the decoder `dec` are named after their resolution, as '16x16_block0'.


class _UNet(torch.nn.Module):
    """What both U-Nets share; a subclass makes the embedding, and a last layer unless its decoder has one."""

    encoder_type, decoder_type = 'standard', None
    attends_in_all_blocks = True  # of the decoder, or in the last one of a resolution only
    resblock_updown = True  # whether blocks sample down and up, or convolutions

    def _build_encoder(self, in_channels, width, widths, attn_resolutions, block):
        """Fill `enc`; returns the widths of the outputs that the decoder takes up again."""
        init, resample_filter = block['init'], block.get('resample_filter')
        self.enc = torch.nn.ModuleDict()
        aux_width, skips = in_channels, []
        for level, res in enumerate(self.resolutions):
            name = f'{res}x{res}'
            if level == 0:
                self.enc[f'{name}_conv'] = Conv2d(in_channels, width, kernel=3, **init)
            else:
                self.enc[f'{name}_down'] = UNetBlock(width, width, down=True, **block)
                if not self.resblock_updown:  # a filter of one tap makes a stride of two
                    self.enc[f'{name}_down'] = Conv2d(width, width, kernel=3, down=True, resample_filter=(1,),
                                                      fused_resample=True, **init)
                if self.encoder_type == 'skip':
                    self.enc[f'{name}_aux_down'] = Conv2d(aux_width, aux_width, kernel=0, down=True,
                                                          resample_filter=resample_filter)
                    self.enc[f'{name}_aux_skip'] = Conv2d(aux_width, width, kernel=1, **init)
                if self.encoder_type == 'residual':
                    self.enc[f'{name}_aux_residual'] = Conv2d(aux_width, width, kernel=3, down=True,
                                                              resample_filter=resample_filter,
                                                              fused_resample=True, **init)
                    aux_width = width
            skips.append(width)
            for i in range(self.num_blocks):
                attention = res in attn_resolutions
                self.enc[f'{name}_block{i}'] = UNetBlock(width, widths[level], attention=attention, **block)
                width = widths[level]
                skips.append(width)
        return skips

    def _build_decoder(self, out_channels, widths, skips, attn_resolutions, block):
        """Fill `dec`, from the coarsest level to the finest; uses up `skips`."""
        self.dec = torch.nn.ModuleDict()
        width, coarsest = skips[-1], len(self.resolutions) - 1
        for level, res in reversed(list(enumerate(self.resolutions))):
            name = f'{res}x{res}'
            if level == coarsest:
                self.dec[f'{name}_in0'] = UNetBlock(width, width, attention=True, **block)
                self.dec[f'{name}_in1'] = UNetBlock(width, width, **block)
            else:
                self.dec[f'{name}_up'] = UNetBlock(width, width, up=True, **block)
                if not self.resblock_updown:
                    self.dec[f'{name}_up'] = Conv2d(width, width, kernel=3, up=True, **block['init'])
            for i in range(self.num_blocks + 1):
                attention = res in attn_resolutions and (i == self.num_blocks or self.attends_in_all_blocks)
                self.dec[f'{name}_block{i}'] = UNetBlock(width + skips.pop(), widths[level],
                                                         attention=attention, **block)
                width = widths[level]
            if self.decoder_type == 'skip' or (self.decoder_type and level == 0):
                if self.decoder_type == 'skip' and level < coarsest:
                    self.dec[f'{name}_aux_up'] = Conv2d(out_channels, out_channels, kernel=0, up=True,
                                                        resample_filter=block['resample_filter'])
                self.dec[f'{name}_aux_norm'] = GroupNorm(width, eps=block['eps'])
                self.dec[f'{name}_aux_conv'] = Conv2d(width, out_channels, kernel=3, **block['init_zero'])

    def forward(self, x: torch.Tensor, noise_labels: torch.Tensor, class_labels: torch.Tensor | None = None,
                augment_labels: torch.Tensor | None = None) -> torch.Tensor:
        emb = self._embed(noise_labels, class_labels, augment_labels)
        aux, skips = x, []
        for name, layer in self.enc.items():
            if name.endswith('_aux_down'):
                aux = layer(aux)
            elif name.endswith('_aux_skip'):
                x = skips[-1] = x + layer(aux)
            elif name.endswith('_aux_residual'):
                x = skips[-1] = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x) if isinstance(layer, Conv2d) else layer(x, emb)
                skips.append(x)
        out = None
        for name, layer in self.dec.items():
            if name.endswith('_aux_up'):
                out = layer(out)
            elif name.endswith('_aux_norm'):
                normed = silu(layer(x))
            elif name.endswith('_aux_conv'):
                out = layer(normed) if out is None else layer(normed) + out
            elif isinstance(layer, Conv2d):
                x = layer(x)
            else:
                x = layer(torch.cat([x, skips.pop()], dim=1) if '_block' in name else x, emb)
        return out if self.decoder_type else self.out_conv(silu(self.out_norm(x)))


@persistence.persistent_class
class SongUNet(_UNet):
    """DDPM++ and NCSN++ (Song et al. 2021), in the form of Karras et al. 2022, App. F.

    label_dim, augment_dim: lengths of the class and augmentation labels, 0 for none.
    model_channels, channel_mult: width of level i is model_channels * channel_mult[i]; each level halves the
    resolution.
    attn_resolutions: side lengths of the feature maps that get self-attention.
    dropout, label_dropout: probabilities, in training, that a feature or an image's class labels become zero.
    embedding_type: 'positional' (DDPM++) or 'fourier' (NCSN++).
    encoder_type: how the resampled image joins: 'standard' not at all, 'skip' through 1x1 projections,
    'residual' through strided convolutions (NCSN++).
    decoder_type: 'standard' reads the finest level out, 'skip' sums outputs of all levels.
    Raises ValueError if an argument is none of its choices or img_resolution cannot be halved often enough.
    """

    attends_in_all_blocks = False

    def __init__(self, img_resolution: int, in_channels: int, out_channels: int, label_dim: int = 0,
                 augment_dim: int = 0, model_channels: int = 128,
                 channel_mult: tuple[int, ...] = (1, 2, 2, 2), channel_mult_emb: int = 4, num_blocks: int = 4,
                 attn_resolutions: tuple[int, ...] = (16,), dropout: float = 0.10, label_dropout: float = 0,
                 embedding_type: str = 'positional', channel_mult_noise: int = 1,
                 encoder_type: str = 'standard', decoder_type: str = 'standard',
                 resample_filter: tuple[int, ...] = (1, 1)):
        super().__init__()
        _check_choice('embedding_type', embedding_type, NOISE_EMBEDDINGS)
        _check_choice('encoder_type', encoder_type, ('standard', 'skip', 'residual'))
        _check_choice('decoder_type', decoder_type, ('standard', 'skip'))
        self.resolutions = _level_resolutions(img_resolution, channel_mult)
        self.num_blocks = num_blocks
        self.label_dropout = label_dropout
        self.encoder_type = encoder_type
        self.decoder_type = decoder_type

        emb_channels = model_channels * channel_mult_emb
        noise_channels = model_channels * channel_mult_noise
        init = {'init_mode': 'xavier_uniform'}
        self.map_noise = NOISE_EMBEDDINGS[embedding_type](noise_channels)
        self.map_label = Linear(label_dim, noise_channels, **init) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False, **init) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)

        widths = [model_channels * mult for mult in channel_mult]
        block = {
            'emb_channels': emb_channels, 'num_heads': 1, 'dropout': dropout, 'eps': 1e-6,
            'skip_scale': math.sqrt(0.5), 'resample_filter': resample_filter, 'resample_proj': True,
            'adaptive_scale': False,
            'init': init, 'init_zero': init | {'init_weight': 1e-5},
            'init_attn': init | {'init_weight': math.sqrt(0.2)},
        }
        skips = self._build_encoder(in_channels, model_channels, widths, attn_resolutions, block)
        self._build_decoder(out_channels, widths, skips, attn_resolutions, block)

    def _embed(self, noise_labels, class_labels, augment_labels):
        cos, sin = self.map_noise(noise_labels).chunk(2, dim=1)
        if self.map_label is not None:
            class_labels = class_labels * math.sqrt(self.map_label.in_features)
        emb = _add_labels(self, torch.cat([sin, cos], dim=1), class_labels)
        emb = _add_augmentation(self, emb, augment_labels)
        return silu(self.map_layer1(silu(self.map_layer0(emb))))


NOISE_EMBEDDINGS = {'positional': partial(PositionalEmbedding, endpoint=True), 'fourier': FourierEmbedding}


@persistence.persistent_class
class DhariwalUNet(_UNet):
    """ADM (Dhariwal & Nichol 2021), in the form of Karras et al. 2022, App. F. Arguments as in `SongUNet`.

    resblock_updown: sample down and up in residual blocks, or in convolutions, as Nichol & Dhariwal 2021.
    block_kwargs: what differs from App. F in all blocks: num_heads, channels_per_head, adaptive_scale and
    min_channels_per_group of `UNetBlock`.
    """

    def __init__(self, img_resolution: int, in_channels: int, out_channels: int, label_dim: int = 0,
                 augment_dim: int = 0, model_channels: int = 192,
                 channel_mult: tuple[int, ...] = (1, 2, 3, 4), channel_mult_emb: int = 4, num_blocks: int = 3,
                 attn_resolutions: tuple[int, ...] = (32, 16, 8), dropout: float = 0.10,
                 label_dropout: float = 0, resblock_updown: bool = True, **block_kwargs):
        super().__init__()
        self.resolutions = _level_resolutions(img_resolution, channel_mult)
        self.num_blocks = num_blocks
        self.label_dropout = label_dropout
        self.resblock_updown = resblock_updown

        emb_channels = model_channels * channel_mult_emb
        third = math.sqrt(1 / 3)
        init = {'init_mode': 'kaiming_uniform', 'init_weight': third, 'init_bias': third}
        init_zero = {'init_mode': 'kaiming_uniform', 'init_weight': 0, 'init_bias': 0}
        init_label = {'init_mode': 'kaiming_normal', 'init_weight': math.sqrt(label_dim)}
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = None
        if augment_dim:
            self.map_augment = Linear(augment_dim, model_channels, bias=False, **init_zero)
        self.map_layer0 = Linear(model_channels, emb_channels, **init)
        self.map_layer1 = Linear(emb_channels, emb_channels, **init)
        self.map_label = Linear(label_dim, emb_channels, bias=False, **init_label) if label_dim else None

        widths = [int(model_channels * mult) for mult in channel_mult]
        block = {'emb_channels': emb_channels, 'dropout': dropout, 'init': init, 'init_zero': init_zero,
                 **block_kwargs}
        skips = self._build_encoder(in_channels, widths[0], widths, attn_resolutions, block)
        self._build_decoder(out_channels, widths, skips, attn_resolutions, block)
        self.out_norm = GroupNorm(widths[0], min_channels_per_group=block.get('min_channels_per_group', 4))
        self.out_conv = Conv2d(widths[0], out_channels, kernel=3, **init_zero)

    def _embed(self, noise_labels, class_labels, augment_labels):
        emb = _add_augmentation(self, self.map_noise(noise_labels), augment_labels)
        emb = self.map_layer1(silu(self.map_layer0(emb)))
        return silu(_add_labels(self, emb, class_labels))


@persistence.persistent_class
class MLPBlock(torch.nn.Module):
    """Residual block of two fully connected layers, [B, channels] -> [B, channels]."""

    def __init__(self, channels: int, emb_channels: int, dropout: float, init: dict, init_zero: dict):
        super().__init__()
        self.dropout = dropout
        self.layer0 = Linear(channels, channels, **init)
        self.affine = Linear(emb_channels, channels, **init)
        self.layer1 = Linear(channels, channels, **init_zero)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        h = silu(self.layer0(silu(x)) + self.affine(emb).to(x.dtype))
        return x + self.layer1(dropout(h, p=self.dropout, training=self.training))


@persistence.persistent_class
class MLP(torch.nn.Module):
    """Multilayer perceptron on the image as one vector; it does not know which pixels are neighbours.

    Takes and gives what the U-Nets do. model_channels: width of all layers. num_blocks: of two layers each.
    """

    def __init__(self, img_resolution: int, in_channels: int, out_channels: int, label_dim: int = 0,
                 augment_dim: int = 0, model_channels: int = 1024, num_blocks: int = 3, dropout: float = 0.10,
                 label_dropout: float = 0):
        super().__init__()
        self.out_shape = (out_channels, img_resolution, img_resolution)
        self.label_dropout = label_dropout

        width, pixels = model_channels, img_resolution**2
        init = {'init_mode': 'xavier_uniform'}
        init_zero = {'init_mode': 'xavier_uniform', 'init_weight': 1e-5}
        self.map_noise = PositionalEmbedding(width, endpoint=True)
        self.map_label = Linear(label_dim, width, **init) if label_dim else None
        self.map_augment = Linear(augment_dim, width, bias=False, **init) if augment_dim else None
        self.map_layer0 = Linear(width, width, **init)
        self.map_layer1 = Linear(width, width, **init)
        self.layer_in = Linear(in_channels * pixels, width, **init)
        self.blocks = torch.nn.ModuleDict(
            {f'block{i}': MLPBlock(width, width, dropout, init, init_zero) for i in range(num_blocks)})
        self.layer_out = Linear(width, out_channels * pixels, **init_zero)

    def forward(self, x: torch.Tensor, noise_labels: torch.Tensor, class_labels: torch.Tensor | None = None,
                augment_labels: torch.Tensor | None = None) -> torch.Tensor:
        emb = _add_labels(self, self.map_noise(noise_labels), class_labels)
        emb = _add_augmentation(self, emb, augment_labels)
        emb = silu(self.map_layer1(silu(self.map_layer0(emb))))
        h = self.layer_in(x.flatten(1))
        for block in self.blocks.values():
            h = block(h, emb)
        return self.layer_out(silu(h)).reshape(x.shape[0], *self.out_shape)


MODELS = {'SongUNet': SongUNet, 'DhariwalUNet': DhariwalUNet, 'MLP': MLP}


def _as_tensor(x):
    """A number or list as a tensor; a tensor stays where it is, whatever the default device."""
    return x if isinstance(x, torch.Tensor) else torch.as_tensor(x)


class _Precond(torch.nn.Module):
    """Denoiser D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) around a network F, the attribute `model`.

    A subclass has `coefficients`, which gives (c_skip, c_out, c_in, c_noise) for float32 noise levels
    [B, 1, 1, 1] (Karras et al. 2022, Eq. 7 and Table 1), and sets sigma_min and sigma_max, the range of noise
    levels it is made for. Further arguments go to the network. Raises ValueError for an unknown model_type.
    """

    half_type = torch.float16  # of the network's features with use_fp16; whoever wants bfloat16 replaces it
    half_devices = ('cuda',)  # where use_fp16 counts; a sampler adds others that compute in half_type

    def __init__(self, img_resolution: int, img_channels: int, label_dim: int, use_fp16: bool,
                 model_type: str, out_channels: int | None = None, **model_kwargs):
        super().__init__()
        _check_choice('model_type', model_type, MODELS)
        self.img_resolution = img_resolution
        self.img_channels = img_channels
        self.label_dim = label_dim
        self.use_fp16 = use_fp16
        self.model = MODELS[model_type](img_resolution=img_resolution, in_channels=img_channels,
                                        out_channels=out_channels or img_channels, label_dim=label_dim,
                                        **model_kwargs)

    def round_sigma(self, sigma: torch.Tensor) -> torch.Tensor:
        """The nearest noise levels that the network knows; here all."""
        return _as_tensor(sigma)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor | float, class_labels: torch.Tensor | None = None,
                force_fp32: bool = False, augment_labels: torch.Tensor | None = None) -> torch.Tensor:
        """Estimate the clean images in `x`.

        x: noisy images [B, C, H, W]. sigma: their noise levels, a scalar or [B].
        class_labels: [B, label_dim] or None for zeros; ignored by a network without classes.
        augment_labels: [B, augment_dim] from `AugmentPipe`, or None for images as they are.
        Returns float32 [B, C, H, W].
        """
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        if self.label_dim == 0:
            class_labels = None
        elif class_labels is None:
            class_labels = torch.zeros([1, self.label_dim], device=x.device)
        else:
            class_labels = class_labels.to(torch.float32).reshape(-1, self.label_dim)
        half = self.use_fp16 and not force_fp32 and x.device.type in self.half_devices
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        model_in = (c_in * x).to(self.half_type if half else torch.float32)
        model_out = self.model(model_in, c_noise.flatten(), class_labels, augment_labels=augment_labels)
        return c_skip * x + c_out * model_out[:, :self.img_channels].to(torch.float32)


@persistence.persistent_class
class VPPrecond(_Precond):
    """Variance preserving (Song et al. 2021; DDPM): sigma follows from a time t in [epsilon_t, 1]."""

    def __init__(self, img_resolution: int, img_channels: int, label_dim: int = 0, use_fp16: bool = False,
                 beta_d: float = 19.9, beta_min: float = 0.1, M: int = 1000, epsilon_t: float = 1e-5,
                 model_type: str = 'SongUNet', **model_kwargs):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.beta_d = beta_d
        self.beta_min = beta_min
        self.M = M
        self.epsilon_t = epsilon_t
        limits = torch.tensor([epsilon_t, 1], dtype=torch.float32, device='cpu')
        self.sigma_min, self.sigma_max = self.sigma(limits).tolist()

    def sigma(self, t: torch.Tensor) -> torch.Tensor:
        """Noise level at time t. exp(..) - 1, not expm1: networks were trained with its rounding."""
        t = _as_tensor(t)
        return ((0.5 * self.beta_d * t**2 + self.beta_min * t).exp() - 1).sqrt()

    def sigma_inv(self, sigma: torch.Tensor) -> torch.Tensor:
        """The time t at which the noise level is sigma."""
        growth = 2 * self.beta_d * (1 + _as_tensor(sigma)**2).log()
        return ((self.beta_min**2 + growth).sqrt() - self.beta_min) / self.beta_d

    def coefficients(self, sigma: torch.Tensor) -> tuple:
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma)


@persistence.persistent_class
class VEPrecond(_Precond):
    """Variance exploding (Song et al. 2021; SMLD)."""

    def __init__(self, img_resolution: int, img_channels: int, label_dim: int = 0, use_fp16: bool = False,
                 sigma_min: float = 0.02, sigma_max: float = 100, model_type: str = 'SongUNet',
                 **model_kwargs):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)

    def coefficients(self, sigma: torch.Tensor) -> tuple:
        return 1, sigma, 1, (0.5 * sigma).log()


@persistence.persistent_class
class iDDPMPrecond(_Precond):
    """Improved DDPM (Nichol & Dhariwal 2021): M discrete noise levels.

    The buffer `u`, float32 [M + 1], holds them from high to low and ends with 0. The network also predicts a
    variance, the second half of its output channels, which the denoiser leaves out.

    noise_schedule: 'cosine' (with C_1 and C_2) or 'linear' (Ho et al. 2020), computed in float64; None is the
    cosine one as Karras et al. 2022 compute it.
    rescale_timesteps: the network knows the steps as parts of 1000, whatever M.
    """

    def __init__(self, img_resolution: int, img_channels: int, label_dim: int = 0, use_fp16: bool = False,
                 C_1: float = 0.001, C_2: float = 0.008, M: int = 1000, model_type: str = 'DhariwalUNet',
                 noise_schedule: str | None = None, rescale_timesteps: bool = False, **model_kwargs):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type,
                         out_channels=2 * img_channels, **model_kwargs)
        _check_choice('noise_schedule', noise_schedule or 'cosine', ('cosine', 'linear'))
        self.noise_schedule = noise_schedule
        self.C_1 = C_1
        self.C_2 = C_2
        self.M = M
        self.step_scale = 1000 / M if rescale_timesteps else 1
        u = self.noise_levels()
        self.register_buffer('u', torch.empty(M + 1).copy_(u))
        self.sigma_min, self.sigma_max = float(u[-2]), float(u[0])

    def noise_levels(self) -> torch.Tensor:
        """The noise levels of the schedule from high to low, then 0: float32 [M + 1] on the CPU."""
        if self.noise_schedule:
            exact = {'dtype': torch.float64, 'device': 'cpu'}
            alpha_bar = self.alpha_bar(torch.arange(self.M, -1, -1, **exact))
            ratio = (alpha_bar[1:] / alpha_bar[:-1]).clip(min=self.C_1)
            if self.noise_schedule == 'linear':
                ratio = 1 - torch.linspace(0.1 / self.M, 20 / self.M, self.M, **exact)
            variance = 1 / ratio.cumprod(dim=0) - 1
            return torch.cat([variance.sqrt().flip(0), variance.new_zeros(1)]).to(torch.float32)
        # In float32 step by step: networks trained so know these numbers.
        alpha_bar = self.alpha_bar(torch.arange(self.M + 1, device='cpu'))
        u = [torch.zeros([], device='cpu')]
        for ratio in reversed((alpha_bar[:-1] / alpha_bar[1:]).clip(min=self.C_1)):
            u.append(((u[-1]**2 + 1) / ratio - 1).sqrt())
        return torch.stack(u[::-1])

    def alpha_bar(self, j: torch.Tensor) -> torch.Tensor:
        """The share of the signal's variance that is left, over steps counted from the noisy end."""
        return (0.5 * math.pi * _as_tensor(j) / self.M / (self.C_2 + 1)).sin()**2

    def round_sigma(self, sigma: torch.Tensor, return_index: bool = False) -> torch.Tensor:
        """The nearest of the noise levels `u`, or its index, in the shape of sigma (levels: and its type)."""
        sigma = _as_tensor(sigma)
        distance = (sigma.to(self.u.device, torch.float32).reshape(-1, 1) - self.u).abs()
        index = distance.argmin(dim=1)
        nearest = index if return_index else self.u[index].to(sigma.dtype)
        return nearest.reshape(sigma.shape).to(sigma.device)

    def coefficients(self, sigma: torch.Tensor) -> tuple:
        step = self.M - 1 - self.round_sigma(sigma, return_index=True).to(torch.float32)
        return 1, -sigma, 1 / (sigma**2 + 1).sqrt(), step * self.step_scale


@persistence.persistent_class
class EDMPrecond(_Precond):
    """The paper's own choice: unit variance at the network's input and target (Karras et al. 2022, Eq. 7).

    sigma_data: standard deviation of the images' values.
    """

    def __init__(self, img_resolution: int, img_channels: int, label_dim: int = 0, use_fp16: bool = False,
                 sigma_min: float = 0, sigma_max: float = float('inf'), sigma_data: float = 0.5,
                 model_type: str = 'DhariwalUNet', **model_kwargs):
        super().__init__(img_resolution, img_channels, label_dim, use_fp16, model_type, **model_kwargs)
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        self.sigma_data = sigma_data

    def coefficients(self, sigma: torch.Tensor) -> tuple:
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data / variance.sqrt()
        return c_skip, c_out, 1 / variance.sqrt(), sigma.log() / 4
