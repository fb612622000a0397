"""Networks and preconditioners: the reference's numbers, closed forms, derivatives, refusals."""

import gzip
import json
import math

import numpy as np
import pytest
import torch

from golden_networks import golden_network, network_specs
from helpers import DATA
from training import build, networks
from training.config import ARCHITECTURES, TRAINABLE, network_kwargs

NAMES = ['edm-ddpmpp', 'vp-ddpmpp-augment', 've-ncsnpp', 'edm-ncsnpp-cond', 'edm-skip', 'edm-adm-cond',
         'iddpm-adm']
TINY = {'img_resolution': 4, 'img_channels': 1, 'model_channels': 8, 'channel_mult': [1, 2], 'num_blocks': 1,
        'attn_resolutions': [2], 'dropout': 0}
SONG = TINY | {'model_type': 'SongUNet'}
# Wide enough at the coarse level for one attention head of 64 channels.
DHARIWAL = TINY | {'model_type': 'DhariwalUNet', 'channel_mult': [1, 8]}


def tensors(arrays, *names):
    return [torch.from_numpy(arrays[name]) if name in arrays else None for name in names]


def relative_error(actual, expected):
    return float(((actual - expected).abs().max() / expected.abs().max()).detach())


def perturbed(net, scale=0.3):
    """The network with noise on its weights: fresh ones have layers of (almost) only zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data += scale * noise / parameter[0].numel()**0.5
    return net.eval()


@pytest.mark.parametrize('name', NAMES)
def test_denoised_images_match_the_reference(name):
    net, arrays = golden_network(name)
    x, sigma, class_labels, augment_labels = tensors(arrays, 'x', 'sigma', 'class_labels', 'augment_labels')
    with torch.no_grad():
        out = net(x, sigma, class_labels, augment_labels=augment_labels)
        out_without_labels = net(x, sigma)
    # Float32 rounding through 30 layers; 1.5e-6 was seen with one and two threads.
    assert relative_error(out, torch.from_numpy(arrays['out'])) < 5e-6
    assert relative_error(out_without_labels, torch.from_numpy(arrays['out_without_labels'])) < 5e-6
    rounded = net.round_sigma(torch.from_numpy(arrays['round_sigma_in']))
    assert torch.equal(rounded, torch.from_numpy(arrays['round_sigma_out']))


# iDDPM's noise levels go through a float32 sine, whose last digit depends on the CPU's maths library.
SINE_ERROR = 1e-6


@pytest.mark.parametrize('name', NAMES)
def test_initial_weights_match_the_reference_under_its_seed(name):
    spec = network_specs()[name]
    torch.manual_seed(spec['init_seed'])
    net = getattr(networks, spec['precond'])(**spec['kwargs'])
    state = net.state_dict()
    assert list(state) == list(spec['init'])
    for key, (shape, total, squares) in spec['init'].items():
        assert list(state[key].shape) == shape, key
        tensor = state[key].double()
        # The sums are float64, so that only their order can differ: 1e-16 of the terms, a million of them.
        assert float(tensor.sum()) == pytest.approx(total, rel=0, abs=1e-10 * (1 + squares)), key
        error = SINE_ERROR if key == 'u' else 1e-10
        assert float(tensor.square().sum()) == pytest.approx(squares, rel=error, abs=0), key
    assert sum(parameter.numel() for parameter in net.parameters()) == spec['num_parameters']
    limits, error = (spec['sigma_min'], spec['sigma_max']), SINE_ERROR if 'u' in state else 0
    assert (net.sigma_min, net.sigma_max) == pytest.approx(limits, rel=error, abs=0)


def test_paper_size_networks_have_the_released_names_and_shapes():
    for name, spec in json.loads(gzip.decompress((DATA / 'paper-size-shapes.json.gz').read_bytes())).items():
        with torch.device('meta'):
            net = getattr(networks, spec['precond'])(**spec['kwargs'])
        shapes = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
        assert list(shapes.items()) == list(spec['state'].items()), name
        assert sum(parameter.numel() for parameter in net.parameters()) == spec['num_parameters'], name


def test_layers_without_attention_heads_are_not_built():
    narrow = networks.DhariwalUNet(4, 1, 1, model_channels=32, channel_mult=[1], num_blocks=1,
                                   attn_resolutions=[4])
    assert not any('qkv' in name for name in narrow.state_dict())
    wide = networks.UNetBlock(96, 96, 8, attention=True)
    assert wide.num_heads == 1


@pytest.mark.parametrize('resample_filter', [[1, 1], [1, 3, 3, 1]])
def test_fused_resampling_does_both_steps_with_other_borders(resample_filter):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 16, 16)
    conv = networks.Conv2d(3, 4, 3, init_bias=1)
    for direction, size in ({'up': True}, 32), ({'down': True}, 8):
        fused = networks.Conv2d(3, 4, 3, resample_filter=resample_filter, fused_resample=True, **direction)
        fused.load_state_dict(conv.state_dict(), strict=False)
        resample = networks.Conv2d(3, 3, 0, resample_filter=resample_filter, **direction)
        expected = conv(resample(x)) if 'up' in direction else resample(conv(x))
        out = fused(x)
        assert out.shape == expected.shape == (2, 4, size, size)
        inside = (..., slice(3, -3), slice(3, -3))
        assert relative_error(out[inside], expected[inside]) < 1e-5


def test_resampling_keeps_a_flat_image():
    for m in [1, 1], [1, 3, 3, 1]:
        for direction in {'up': True}, {'down': True}:
            out = networks.Conv2d(2, 2, 0, resample_filter=m, **direction)(torch.full([1, 2, 8, 8], 3.))
            assert torch.allclose(out[..., 1:-1, 1:-1], torch.tensor(3.))


@pytest.mark.parametrize('mode', ['xavier_uniform', 'xavier_normal', 'kaiming_uniform', 'kaiming_normal'])
def test_initial_weights_have_the_spread_of_their_mode(mode):
    torch.manual_seed(0)
    weight = networks.weight_init([400, 100], mode, fan_in=100, fan_out=400)
    variance = 2 / 500 if mode.startswith('xavier') else 1 / 100
    # The variance of 40,000 samples is known to sqrt(2 / 40000) = 0.7 %.
    assert float(weight.var()) == pytest.approx(variance, rel=0.03)
    assert (float(weight.abs().max()) <= math.sqrt(3 * variance)) == mode.endswith('uniform')


def test_a_layer_draws_its_bias_even_where_it_is_zero():
    torch.manual_seed(0)
    layer = networks.Linear(3, 5)
    following = torch.rand(1)
    torch.manual_seed(0)
    torch.randn(5, 3), torch.randn(5)
    assert torch.equal(following, torch.rand(1))
    assert not layer.bias.any()


def test_a_perfect_model_gives_the_denoiser_of_a_gaussian():
    # For data N(0, s^2) and sigma_data = s the best prediction of the network is 0 at every noise level.
    net = networks.EDMPrecond(**SONG, sigma_data=0.7)
    torch.nn.init.zeros_(net.model.dec['4x4_aux_conv'].weight)
    x = torch.randn(3, 1, 4, 4)
    sigma = torch.tensor([0.01, 0.7, 40])
    expected = x * (0.49 / (0.49 + sigma**2)).reshape(-1, 1, 1, 1)
    with torch.no_grad():
        assert torch.allclose(net(x, sigma), expected, rtol=1e-6)


def test_vp_times_and_noise_levels_are_inverse():
    net = networks.VPPrecond(**SONG)
    t = torch.linspace(1e-2, 1, 50, dtype=torch.float64)
    assert torch.allclose(net.sigma_inv(net.sigma(t)), t, rtol=1e-9)
    assert net.sigma_max == pytest.approx(math.sqrt(math.exp(10.05) - 1), rel=1e-6)
    assert net.sigma(1.).dtype == torch.float32


def test_iddpm_rounds_to_its_own_noise_levels_and_keeps_shape_and_type():
    net = networks.iDDPMPrecond(**DHARIWAL)
    levels = net.u[:-1]
    assert torch.equal(net.round_sigma(levels.reshape(10, 100)), levels.reshape(10, 100))
    assert (net.sigma_min, net.sigma_max) == (float(levels[-1]), float(levels[0]))
    for sigma in torch.tensor(0.5, dtype=torch.float64), torch.rand(2, 3), torch.rand(4, dtype=torch.float64):
        rounded = net.round_sigma(sigma)
        assert (rounded.shape, rounded.dtype) == (sigma.shape, sigma.dtype)
        distances = (sigma.reshape(-1, 1) - net.u).abs()
        nearest = net.u[distances.argmin(1)].reshape(sigma.shape).to(sigma.dtype)
        assert torch.equal(rounded, nearest)
    assert torch.equal(net.round_sigma(0.0), torch.tensor(0.))


def test_other_preconditioners_leave_noise_levels_alone():
    sigma = torch.rand(3, dtype=torch.float64)
    for name in 'vp', 've', 'edm':
        assert torch.equal(build.PRECONDS[name](**SONG).round_sigma(sigma), sigma)


@pytest.mark.parametrize('precond', build.PRECONDS)
@pytest.mark.parametrize('kwargs', [SONG, DHARIWAL], ids=['song', 'dhariwal'])
def test_an_image_does_not_depend_on_its_batch(precond, kwargs):
    torch.manual_seed(0)
    net = perturbed(build.PRECONDS[precond](**kwargs, label_dim=3))
    x, sigma, labels = torch.randn(4, 1, 4, 4), torch.tensor([0.1, 0.3, 1, 10]), torch.eye(3)[[0, 1, 2, 0]]
    with torch.no_grad():
        together = net(x, sigma, labels)
        alone = torch.cat([net(x[i:i + 1], sigma[i], labels[i]) for i in range(4)])
    assert together.dtype == torch.float32
    assert relative_error(alone, together) < 1e-5


@pytest.mark.parametrize('kwargs', [SONG, DHARIWAL], ids=['song', 'dhariwal'])
def test_labels_change_the_image_and_missing_ones_are_zeros(kwargs):
    torch.manual_seed(0)
    net = perturbed(networks.EDMPrecond(**kwargs, label_dim=3, augment_dim=2))
    x, sigma = torch.randn(2, 1, 4, 4), torch.ones([])
    with torch.no_grad():
        plain = net(x, sigma)
        zeros = net(x, sigma, torch.zeros(2, 3), augment_labels=torch.zeros(2, 2))
        assert relative_error(zeros, plain) < 1e-6
        for changed in (net(x, sigma, torch.eye(3)[:2]), net(x, sigma, augment_labels=torch.ones(2, 2))):
            assert relative_error(changed, plain) > 1e-3


def test_a_network_without_classes_ignores_labels():
    net = perturbed(networks.EDMPrecond(**SONG))
    x = torch.randn(2, 1, 4, 4)
    with torch.no_grad():
        assert torch.equal(net(x, torch.ones(2)), net(x, torch.ones(2), torch.ones(2, 5)))


@pytest.mark.parametrize('kwargs', [SONG, DHARIWAL], ids=['song', 'dhariwal'])
def test_dropped_labels_are_zeros_and_are_drawn_first(kwargs):
    net = perturbed(networks.EDMPrecond(**kwargs, label_dim=3, label_dropout=0.5)).train()
    x, sigma, labels = torch.randn(6, 1, 4, 4), torch.ones(6), torch.eye(3).repeat(2, 1)
    with torch.no_grad():
        torch.manual_seed(1)
        dropped = net(x, sigma, labels)
        torch.manual_seed(1)
        kept = torch.rand([6, 1]) >= 0.5
        assert kept.any()
        assert not kept.all()
        assert torch.equal(dropped, net.eval()(x, sigma, labels * kept))


@pytest.mark.parametrize('kwargs', [
    SONG,
    SONG | {'encoder_type': 'residual', 'embedding_type': 'fourier', 'resample_filter': [1, 3, 3, 1]},
    SONG | {'encoder_type': 'skip', 'decoder_type': 'skip', 'channel_mult_noise': 2},
    DHARIWAL,
], ids=['ddpmpp', 'ncsnpp', 'skip', 'adm'])
def test_every_parameter_gets_a_gradient(kwargs):
    torch.manual_seed(0)
    net = perturbed(networks.EDMPrecond(**kwargs, label_dim=2, augment_dim=3)).train()
    x, labels = torch.randn(2, 1, 4, 4), torch.eye(2)
    net(x, torch.tensor([0.5, 2]), labels, augment_labels=torch.randn(2, 3)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


# PyTorch's own forward-mode rules go through its deprecated script compiler.
@pytest.mark.filterwarnings('ignore:`torch.jit.script` is deprecated:DeprecationWarning')
@pytest.mark.parametrize('name', ['edm-ncsnpp-cond', 'edm-adm-cond'])
def test_forward_and_reverse_derivatives_are_adjoint_and_can_be_mapped(name):
    net, arrays = golden_network(name)
    x, sigma, labels = tensors(arrays, 'x', 'sigma', 'class_labels')
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn([2, *x.shape], generator=generator)

    def denoise(x):
        return net(x, sigma, labels)

    out, jv = torch.func.jvp(denoise, (x,), (v,))
    vjp = torch.func.vjp(denoise, x)[1]
    # Two sums of 768 float32 products.
    forward, reverse = (u * jv).sum().detach(), (vjp(u)[0] * v).sum().detach()
    assert float(forward) == pytest.approx(float(reverse), rel=1e-4, abs=1e-3)

    one_by_one = torch.func.vmap(lambda x, sigma, labels: net(x[None], sigma, labels)[0])(x, sigma, labels)
    assert relative_error(one_by_one, out) < 1e-5
    directions = torch.stack([v, u])
    columns = torch.func.vmap(lambda v: torch.func.jvp(denoise, (x,), (v,))[1])(directions)
    assert relative_error(columns[0], jv) < 1e-5
    rows = torch.func.vmap(vjp)(directions)[0]
    assert relative_error(rows[1], vjp(u)[0]) < 1e-5


def test_the_network_compiles_as_one_graph():
    net = perturbed(networks.EDMPrecond(**SONG))
    x, sigma = torch.randn(2, 1, 4, 4), torch.ones(2)
    with torch.no_grad():
        assert torch.equal(torch.compile(net, backend='eager', fullgraph=True)(x, sigma), net(x, sigma))


def test_a_float16_image_path_keeps_the_noise_level_and_the_labels_in_float32():
    net, arrays = golden_network('edm-adm-cond')
    seen = {}
    for name, layer in net.model.named_modules():
        if isinstance(layer, networks.Linear | networks.Conv2d):
            layer.register_forward_hook(lambda _, args, out, name=name: seen.update({name: args[0].dtype}))
    x, labels = tensors(arrays, 'x', 'class_labels')
    noise_labels = torch.from_numpy(arrays['sigma']).log() / 4
    with torch.no_grad():
        exact = net.model(x, noise_labels, labels)
        out = net.model(x.half(), noise_labels, labels)
    assert out.dtype == torch.float16
    assert relative_error(out.float(), exact) < 0.01
    assert {name for name, dtype in seen.items() if dtype == torch.float32} == {
        name for name in seen if name.startswith('map_') or name.endswith('.affine')}


def test_attention_stays_finite_where_float16_products_overflow():
    q = torch.full([1, 64, 3], 100., dtype=torch.float16)  # 64 * 100 * 100 is above 65504
    weights = networks.attention_weights(q, q)
    assert weights.dtype == torch.float16
    assert torch.allclose(weights.float(), torch.tensor(1 / 3), rtol=1e-3)


def test_float16_is_used_on_cuda_only():
    net = perturbed(networks.EDMPrecond(**SONG, use_fp16=True))
    reference = perturbed(networks.EDMPrecond(**SONG))
    reference.load_state_dict(net.state_dict())
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        assert torch.equal(net(x, torch.ones(2)), reference(x.float(), torch.ones(2), force_fp32=True))


@pytest.mark.parametrize(('kwargs', 'says'), [
    ({'model_type': 'SongUnet'}, ('model_type', 'SongUNet, DhariwalUNet', "'SongUnet'")),
    ({'model_type': 'SongUNet', 'embedding_type': 'none'}, ('embedding_type', 'positional, fourier')),
    ({'model_type': 'SongUNet', 'encoder_type': 'none'}, ('encoder_type', 'standard, skip, residual')),
    ({'model_type': 'SongUNet', 'decoder_type': 'residual'}, ('decoder_type', 'standard, skip')),
    ({'img_resolution': 6, 'channel_mult': [1, 1, 1]}, ('img_resolution', 'multiple of 4', '6')),
    ({'img_resolution': 1}, ('img_resolution', 'multiple of 2', '1')),
    ({'img_resolution': 0}, ('img_resolution', '0')),
    ({'channel_mult': []}, ('channel_mult', 'empty')),
    ({'model_channels': 130}, ('130 channels', '32 groups')),
    ({'model_channels': 2}, ('2 channels',)),
    ({'model_channels': 7}, ('even', '7')),
])
def test_impossible_networks_are_refused_at_construction(kwargs, says):
    with pytest.raises(ValueError, match=r'.+') as error:
        networks.EDMPrecond(**TINY | {'model_type': 'DhariwalUNet'} | kwargs)
    for words in says:
        assert words in str(error.value)


def test_layers_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match='up or down'):
        networks.Conv2d(1, 1, 3, up=True, down=True)
    with pytest.raises(ValueError, match='init_mode'):
        networks.Linear(1, 1, init_mode='normal')
    with pytest.raises(ValueError, match='3 attention heads'):
        networks.UNetBlock(8, 8, 4, attention=True, num_heads=3)


@pytest.mark.parametrize('model_type', ['SongUNet', 'DhariwalUNet'])
def test_a_single_pixel_is_a_valid_level(model_type):
    for resolution, mult in (1, [1]), (2, [1, 2]):
        kwargs = TINY | {'model_type': model_type, 'img_resolution': resolution, 'channel_mult': mult}
        net = perturbed(networks.EDMPrecond(**kwargs))
        with torch.no_grad():
            out = net(torch.randn(2, 1, resolution, resolution), torch.ones(2))
        assert torch.isfinite(out).all()


def test_the_perceptron_sees_noise_level_classes_and_augmentation_labels():
    kwargs = {'model_type': 'MLP', 'img_resolution': 2, 'img_channels': 3, 'model_channels': 16}
    net = perturbed(networks.EDMPrecond(**kwargs, label_dim=2, augment_dim=4))
    x, sigma, labels, augment_labels = torch.randn(2, 3, 2, 2), torch.ones(2), torch.eye(2), torch.ones(2, 4)
    out = net(x, sigma, labels, augment_labels=augment_labels)
    assert out.shape == x.shape
    for other in (net(x + 1, sigma, labels, augment_labels=augment_labels),
                  net(x, 2 * sigma, labels, augment_labels=augment_labels),
                  net(x, sigma, labels.flip(0), augment_labels=augment_labels), net(x, sigma, labels)):
        assert relative_error(other, out) > 1e-3
    alone = [net(x[i:i + 1], 1.0, labels[i:i + 1], augment_labels=augment_labels[i:i + 1]) for i in range(2)]
    torch.testing.assert_close(torch.cat(alone), out)
    with pytest.raises(ValueError, match='even'):
        networks.EDMPrecond(**kwargs | {'model_channels': 3})


def test_module_attributes_are_plain_python_values():
    for kwargs in SONG, DHARIWAL:
        for module in networks.VPPrecond(**kwargs, label_dim=2).modules():
            for name, value in vars(module).items():
                assert not isinstance(value, np.generic | np.ndarray), name


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_every_parameter_of_every_architecture_gets_a_gradient(arch):
    """Which processes that share gradients wait for."""
    for precond in TRAINABLE:
        opts = {'arch': arch, 'precond': precond, 'model_channels': 8, 'num_blocks': 1, 'augment': 0.1,
                'cbase': 64 if arch == 'adm' else None}
        settings, labelled = network_kwargs(opts, 8), 'class_name' not in ARCHITECTURES[arch]
        net = build.build(settings, img_resolution=8, img_channels=3, label_dim=2 if labelled else 0).train()
        labels, augmentation = (torch.ones(2, 2), torch.ones(2, 9)) if labelled else (None, None)
        net(torch.randn(2, 3, 8, 8), torch.ones(2), labels, augment_labels=augmentation).sum().backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
