"""convert.py adm: networks of guided-diffusion and improved-diffusion compute what they did there."""

import gzip
import itertools
import random

import numpy as np
import pytest
import torch

import convert
from adapters import adm_checkpoint
from adm_reference import ADM
from data.training_labels import label_vectors
from helpers import DATA, golden, refuse, run
from torch_utils.errors import UserError
from training.checkpoint import copy_tensors
from training.networks import iDDPMPrecond
from training.snapshot import load_network, load_with_settings

CPU = torch.device('cpu')
NEEDED = ('--image_size=16', '--noise_schedule=linear', '--num_heads=1')


@pytest.fixture(scope='module')
def released(tmp_path_factory):
    """guided-diffusion's checkpoint that the golden outputs are of."""
    path = tmp_path_factory.mktemp('adm') / 'adm-cond.pt'
    path.write_bytes(gzip.decompress((DATA / 'adm-cond.pt.gz').read_bytes()))
    return path


def checkpoint(folder, **options) -> tuple:
    """A network drawn at random as a file, an input, its step, its classes, and the output there."""
    torch.manual_seed(0)
    adm = ADM(**options)
    x, t = torch.randn(2, 3, adm.image_size, adm.image_size), torch.tensor([3.0, 870.0])
    y = torch.tensor([0, adm.num_classes - 1]) if adm.num_classes else None
    out = adm(x, t, y)
    torch.save(adm.tensors, folder / 'net.pt')
    return folder / 'net.pt', x, t, y, out


def converted(path, *args):
    dest = path.with_suffix('.pkl')
    run(convert.main, 'adm', f'--source={path}', f'--dest={dest}', *args)
    return load_network(str(dest), CPU)


def refuse_file(path, folder, *args, says) -> None:
    """convert.py refuses a file in one line, and writes none."""
    dest = folder / 'refused.pkl'
    refuse(convert.main, 'adm', f'--source={path}', f'--dest={dest}', *NEEDED, *args, status=1, says=says)
    assert not dest.exists()


def one_hot(y, classes):
    return None if y is None else torch.eye(classes)[y]


def test_outputs_are_those_of_guided_diffusion(released):
    net = converted(released, '--image_size=16', '--noise_schedule=cosine', '--num_head_channels=64')
    arrays = {name: torch.from_numpy(array) for name, array in golden('adm-cond').items()}
    out = net.model(arrays['x'], arrays['t'], one_hot(arrays['y'], 7))
    assert torch.allclose(out, arrays['out'], rtol=0, atol=5e-6)
    assert (net.label_dim, net.img_resolution, net.img_channels, net.M) == (7, 16, 3, 1000)


def test_samples_take_classes_without_a_word(released, tmp_path, capsys):
    run(convert.main, 'adm', f'--source={released}', f'--dest={tmp_path / "x.pkl"}', *NEEDED)
    net, recorded = load_with_settings(str(tmp_path / 'x.pkl'), CPU, '--network')
    assert label_vectors(recorded, net.label_dim, '--network') is None
    assert not capsys.readouterr().err


def test_the_second_writing_of_the_network_is_right_too(released):
    arrays = {name: torch.from_numpy(array) for name, array in golden('adm-cond').items()}
    adm = ADM(num_classes=7, tensors=torch.load(released, weights_only=True))
    assert torch.allclose(adm(arrays['x'], arrays['t'], arrays['y']), arrays['out'], rtol=0, atol=5e-6)


FORMS = {
    'old order': (dict(num_heads=4), ('--num_heads=4',)),
    'new order': (dict(num_heads=4, use_new_attention_order=True),
                  ('--num_head_channels=16', '--use_new_attention_order=True', '--attention_resolutions=8')),
    'more levels': (dict(channel_mult=(1, 1, 2), num_res_blocks=2, attention_resolutions=(16, 4),
                         num_heads=2),
                    ('--num_heads=2', '--attention_resolutions=4,16', '--num_res_blocks=2')),
    'one level': (dict(channel_mult=(1,), attention_resolutions=()), ()),
    'a narrow first level': (dict(num_channels=64, channel_mult=(0.5, 1), num_classes=3),
                             ('--channel_mult=0.5,1', '--num_classes=3')),
    'convolutions': (dict(resampling='convolutions', num_heads=4, channel_mult=(1, 2, 2)),
                     ('--num_heads=4', '--resblock_updown=False')),
    'pooling': (dict(resampling='pooling'), ()),
    'added embedding': (dict(use_scale_shift_norm=False, resampling='convolutions'),
                        ('--use_scale_shift_norm=False',)),
    'no variance': (dict(out_channels=3), ('--learn_sigma=False',)),
}


@pytest.mark.parametrize('name', FORMS)
def test_every_form_computes_the_same(name, tmp_path):
    options, args = FORMS[name]
    path, x, t, y, out = checkpoint(tmp_path, **options)
    net = converted(path, *NEEDED[:2], *(args if 'head' in ''.join(args) else ('--num_heads=1', *args)))
    got = net.model(x, t, one_hot(y, net.label_dim))[:, :out.shape[1]]
    assert torch.allclose(got, out, rtol=0, atol=5e-6 * float(out.abs().max()))


def test_the_attention_orders_and_heads_differ(tmp_path):
    path, x, t, _, _ = checkpoint(tmp_path)
    nets = [converted(path, *NEEDED[:2], f'--num_heads={heads}', f'--use_new_attention_order={new}')
            for heads, new in ((1, False), (4, False), (4, True))]
    outputs = [net.model(x, t) for net in nets]
    assert all((a - b).abs().max() > 1e-3 for a, b in itertools.combinations(outputs, 2))


def test_the_noise_levels_are_those_of_the_schedules(tmp_path):
    path, x, *_ = checkpoint(tmp_path)
    # Numbers of guided-diffusion: alpha_bar at steps 0, 500 and 999 of 1000.
    for schedule, alpha_bars in (
            ('linear', {0: 0.9999, 500: 0.07779665836502389, 999: 4.035829765375676e-05}),
            ('cosine', {0: 0.999958715775178, 500: 0.49228517244880304, 999: 2.4287669070348567e-09})):
        net = converted(path, '--image_size=16', '--num_heads=1', f'--noise_schedule={schedule}')
        for step, alpha_bar in alpha_bars.items():
            sigma = (1 / alpha_bar - 1) ** 0.5
            assert float(net.u[999 - step]) == pytest.approx(sigma, rel=1e-7)
            noise = net.model(x / (1 + sigma**2) ** 0.5, torch.full([2], float(step)))[:, :3]
            denoised = net(x, torch.tensor(sigma))
            assert torch.allclose(denoised, x - sigma * noise, rtol=1e-5, atol=1e-5 * sigma)
        assert (net.sigma_min, net.sigma_max) == (float(net.u[-2]), float(net.u[0]))


def test_rescaled_steps_are_parts_of_1000(tmp_path):
    path, x, *_ = checkpoint(tmp_path)
    net = converted(path, *NEEDED, '--diffusion_steps=4000', '--rescale_timesteps=True')
    sigma = net.u[3999 - 1001]
    noise = net.model(x / (1 + sigma**2) ** 0.5, torch.full([2], 250.25))[:, :3]
    assert torch.allclose(net(x, sigma), x - sigma * noise, atol=1e-5)


@pytest.mark.parametrize(('args', 'says'), [
    (('--num_channels=64',), ('--num_channels 64', 'time_embed.0.weight', '[128, 32]')),
    (('--channel_mult=1,4',), ('--channel_mult 1,4', '1,2', 'input_blocks.3.0.out_layers.3.weight')),
    (('--num_res_blocks=2',), ('--num_res_blocks 2', 'output_blocks.3')),
    (('--attention_resolutions=16,8',), ('--attention_resolutions 16,8', 'input_blocks.3.1.qkv.weight')),
    (('--num_classes=10',), ('--num_classes 10', 'label_emb.weight', '[7, 128]')),
    (('--class_cond=False',), ('--class_cond False', 'label_emb.weight')),
    (('--learn_sigma=False',), ('--learn_sigma False', 'out.2.weight', '[6, 32, 3, 3]')),
    (('--resblock_updown=False',), ('--resblock_updown False', 'output_blocks.1.')),
    (('--use_scale_shift_norm=False',), ('--use_scale_shift_norm False', 'emb_layers.1.weight', '[64, 128]')),
    (('--num_heads=3',), ('--num_heads 3', '64 channels', 'qkv.weight')),
    (('--num_head_channels=48',), ('--num_head_channels 48', '64 channels', 'qkv.weight')),
    (('--image_size=15',), ('--image_size 15', '2 levels', 'multiple of 2')),
    (('--preset=64',), ('--preset 64',)),
    (('--diffusion_steps=2',), ('--diffusion_steps 2', '--noise_schedule')),
])
def test_options_that_contradict_the_file_name_a_tensor(args, says, released, tmp_path):
    refuse_file(released, tmp_path, *args, says=says)


def test_training_goes_on_only_with_the_heads_it_has(tmp_path):
    path, *_ = checkpoint(tmp_path)
    net = converted(path, *NEEDED[:2], '--num_heads=2')
    same, other = (
        iDDPMPrecond(16, 3, model_channels=32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8],
                     min_channels_per_group=1, num_heads=heads) for heads in (2, 1))
    copy_tensors(net, same, '--transfer net.pkl')
    assert torch.equal(same.model.out_conv.weight, net.model.out_conv.weight)
    with pytest.raises(UserError, match=r'num_heads of model\.enc\.8x8_block0 is 2 there and 1 here'):
        copy_tensors(net, other, '--transfer net.pkl')


@pytest.mark.parametrize('missing', NEEDED)
def test_what_a_file_does_not_tell_must_be_given(missing, released, tmp_path):
    refuse(convert.main, 'adm', f'--source={released}', f'--dest={tmp_path / "x.pkl"}',
           *(arg for arg in NEEDED if arg != missing), status=2, says=(missing.split('=')[0], '--preset'))


def edit(tensors: dict, what: str) -> None:
    if what == 'wider':
        tensors['input_blocks.1.0.out_layers.0.bias'] = torch.zeros(33)
    elif what == 'labels':
        tensors['label_emb.weight'] = torch.zeros(7, 5)
    elif what == 'less':
        del tensors['middle_block.1.norm.bias']
    elif what == 'more':
        tensors['transformer.resblocks.0.weight'] = torch.zeros(2)
    elif what == 'classifier':
        for name in [name for name in tensors if name.startswith('output_blocks')]:
            del tensors[name]
    elif what == 'upsampler':
        tensors['input_blocks.0.0.weight'] = torch.zeros(32, 6, 3, 3)
    elif what == 'other':
        tensors.clear()
        tensors['conv.weight'] = torch.zeros(2)
    elif what == 'numbers':
        tensors['step'] = 5
    elif what == 'endless':
        tensors['time_embed.0.weight'] = torch.zeros(1, 1).expand(128, 100_000)
    elif what == 'integers':
        tensors['out.2.bias'] = torch.zeros(6, dtype=torch.int64)
    elif what == 'gap':
        for name in [name for name in tensors if name.startswith('output_blocks.2')]:
            del tensors[name]


@pytest.mark.parametrize(('what', 'says'), [
    ('wider', ('input_blocks.1.0.out_layers.0.bias', '[33]', '[32]', '--channel_mult')),
    ('labels', ('label_emb.weight', '[7, 5]', '[7, 128]', '--num_classes')),
    ('less', ('middle_block.1.norm.bias', 'nothing')),
    ('more', ('transformer.resblocks.0.weight', 'no place')),
    ('classifier', ('output_blocks', 'classifier')),
    ('upsampler', ('input_blocks.0.0.weight', 'upsamplers')),
    ('other', ('no ADM network', 'time_embed.0.weight')),
    ('numbers', ('nothing but tensors',)),
    ('endless', ('fewer numbers',)),
    ('integers', ('out.2.bias', 'int64')),
    ('gap', ('output_blocks',)),
])
def test_files_of_other_networks_are_refused_by_what_they_are(what, says, tmp_path):
    path, *_ = checkpoint(tmp_path)
    tensors = torch.load(path, weights_only=True)
    edit(tensors, what)
    torch.save(tensors, path)
    refuse_file(path, tmp_path, says=says)


def test_files_that_are_no_checkpoints_are_refused(released, tmp_path):
    whole = released.read_bytes()
    for name, data in {'cut': whole[:100_000], 'pickle': b'\x80\x04N.', 'empty': b'',
                       'zip': b'PK\x05\x06' + bytes(18),
                       'altered': whole.replace(b'_rebuild_tensor_v2', b'_rebuild_tensor_v9')}.items():
        path = tmp_path / f'{name}.pt'
        path.write_bytes(data)
        refuse_file(path, tmp_path, says=('--source', path.name))
    np.savez(tmp_path / 'a.npz', a=np.zeros(2))
    refuse_file(tmp_path / 'a.npz', tmp_path, says=('--source',))


def test_altered_tensors_are_taken_or_refused_in_one_line(tmp_path):
    path, *_ = checkpoint(tmp_path, channel_mult=(1, 1), num_classes=3)
    whole = torch.load(path, weights_only=True)
    draw, said = random.Random(0), []
    for _ in range(40):
        tensors = dict(whole)
        for name in draw.sample(list(whole), 2):
            tensor = tensors.pop(name)
            tensors |= draw.choice([
                {}, {name: tensor[:0]}, {name: tensor.mT if tensor.ndim > 1 else torch.tensor(1.0)},
                {name: tensor.to(torch.int64)}, {name: torch.zeros(1).expand(10**4, 10**4, 10)},
                {name: torch.zeros(draw.sample([0, 1, 2, 3, 32, 96], 3))},
                {f'output_blocks.{draw.randrange(9)}.1.conv.weight': tensor}, {'input_blocks.9.0.x': tensor}])
        try:
            adm_checkpoint.convert(tensors, {'image_size': 16, 'noise_schedule': 'linear', 'num_heads': 2})
        except UserError as err:
            said.append(str(err))
    assert len(said) > 30
    assert not any('\n' in line for line in said)
