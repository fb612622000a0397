import copy
import errno
import io
import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import DATA, assert_equal, golden
from image_sets import Images
from torch_utils.errors import UserError
from training import checkpoint, launch, loop, saving
from training.build import build, build_network
from training.config import TrainingConfig

CPU = torch.device('cpu')
GOLDEN = json.loads((DATA / 'training.json').read_text())
PIXELS = golden('training')['images_nhwc_uint8'].transpose(0, 3, 1, 2)
CORNERS = PIXELS[:, :, :4, :4]


def golden_config(case, run_dir, **changes):
    facts = GOLDEN[case]
    run_dir.mkdir(exist_ok=True)
    settings = {key: value for key, value in facts['loop'].items()} | {
        'run_dir': str(run_dir), 'dataset_kwargs': {'cache': True}, 'augment_kwargs': facts['augment'],
        'network_kwargs': {'class_name': f'training.networks.{facts["precond"]}'} | facts['network_kwargs'],
        'loss_kwargs': {'class_name': f'training.loss.{facts["loss"]}'},
        'optimizer_kwargs': {'class_name': 'torch.optim.Adam', 'lr': facts['lr'],
                             'betas': facts['adam_betas'], 'eps': facts['adam_eps']}}
    return TrainingConfig(**settings | changes)


def tiny_config(run_dir, **changes):
    """Three steps a tick; the smallest network."""
    network = GOLDEN['edm-noaug']['network_kwargs'] | {
        'model_channels': 4, 'channel_mult': [1], 'dropout': 0.1}
    settings = {'network_kwargs': {'class_name': 'training.networks.EDMPrecond'} | network,
                'batch_size': 400, 'batch_gpu': 200, 'lr_rampup_kimg': 0, 'state_dump_ticks': 1}
    return golden_config('edm-noaug', run_dir, **settings | changes)


def train(config, images=CORNERS, **start):
    dataset = Images(images)
    loop.train(config, dataset, partial(build_network, config.network_kwargs, dataset), device=CPU, **start)


def stats(run_dir):
    return [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('case', GOLDEN)
def test_training_repeats_the_reference(case, tmp_path, monkeypatch):
    losses = []

    def record(kwargs, *args, **more):
        built = build(kwargs, *args, **more)
        if 'loss' not in kwargs['class_name']:
            return built

        def loss_fn(*call):
            loss = built(*call)
            losses.append(loss.mean().item())
            return loss
        return loss_fn

    averaged = []
    monkeypatch.setattr(loop, 'build', record)
    monkeypatch.setattr(saving, 'save_snapshot', lambda path, *, ema, **rest: averaged.append(ema))
    train(golden_config(case, tmp_path), PIXELS)

    expected = {key.removeprefix(f'{case}/'): value for key, value in golden('training').items()
                if key.startswith(case)}
    np.testing.assert_allclose(losses, expected.pop('loss_per_micro_batch'), rtol=1e-5)
    assert_equals_golden(averaged[-1].state_dict(), expected)


def assert_equals_golden(ema, expected):
    assert {f'ema/{name}' for name in ema} == expected.keys()
    for name, tensor in ema.items():
        want = torch.from_numpy(expected[f'ema/{name}'])
        if name.endswith('qkv.bias'):
            # The true gradient of the keys' biases is zero; Adam blows up its rounding noise.
            assert (tensor[1::3] - want[1::3]).abs().max() < 1e-3
            tensor[1::3] = want[1::3]
        assert (tensor - want).norm() <= 5e-5 * want.norm(), name


def test_resuming_equals_never_stopping(tmp_path):
    whole, first, second = (tiny_config(tmp_path / name, total_kimg=3, kimg_per_tick=2, ema_halflife_kimg=0.5)
                            for name in ('whole', 'first', 'second'))
    train(whole)
    train(replace(first, total_kimg=2))  # ends inside the tick that begins at 400 images
    resumed, state = launch.resumed(replace(second, resume_state_dump=first.run_dir))
    assert (state['cur_nimg'], state['tick_start_nimg'], resumed.resume_kimg) == (2000, 400, 2)
    state['elapsed_sec'] = 1e6
    # Reading ahead in threads must not move the place in the data order.
    resumed = replace(resumed, dataset_kwargs={'cache': False}, data_loader_kwargs={'num_workers': 2})
    train(resumed, state=state)

    states = [torch.load(tmp_path / name / 'training-state-000003.pt') for name in ('whole', 'second')]
    assert states[0]['cur_nimg'] == 3200
    assert states[0]['optimizer_state']['state']
    for state in states:
        del state['elapsed_sec']
    assert_equal(*states)
    lines = [stats(tmp_path / name)[-2:] for name in ('whole', 'second')]
    for whole, second in zip(*lines, strict=True):  # the first is of the tick that was interrupted
        for key in ('Loss/loss', 'Gradient/norm', 'Progress/tick', 'Progress/kimg'):
            assert whole[key] == second[key]
    interrupted = lines[1][0]  # 2,000 images, of which the resumed run has timed 400
    assert interrupted['Loss/loss']['num'] == 2000 * 3 * 4 * 4
    assert interrupted['Timing/total_sec']['mean'] > 1e6
    assert interrupted['Timing/sec_per_kimg']['mean'] == pytest.approx(
        interrupted['Timing/sec_per_tick']['mean'] / 0.4)


def test_what_no_option_repeats_comes_from_the_state(tmp_path):
    train(tiny_config(tmp_path, total_kimg=1, seed=7, ema_rampup_ratio=None))
    resumed, _ = launch.resumed(tiny_config(tmp_path / 'more', ema_rampup_ratio=0.05,
                                       resume_state_dump=str(tmp_path)))
    assert (resumed.seed, resumed.ema_rampup_ratio) == (7, None)


def test_other_processes_resume_with_fresh_random_numbers(tmp_path, capsys):
    train(tiny_config(tmp_path, total_kimg=1))
    config = tiny_config(tmp_path / 'more', total_kimg=2, resume_state_dump=str(tmp_path))
    config, state = launch.resumed(config)
    state['random_states'] *= 2
    train(config, state=state)
    assert 'saved by other processes' in capsys.readouterr().out
    later = torch.load(tmp_path / 'more' / 'training-state-000002.pt')
    assert len(later['random_states']) == 1


def test_files_come_at_their_ticks(tmp_path, capsys):
    train(tiny_config(tmp_path, total_kimg=5, snapshot_ticks=2, state_dump_ticks=3))
    # Ticks end after 1, 4, 7, 10 steps of 400 images and, with the run, after 13.
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'training_options.json', 'log.txt', 'stats.jsonl', 'network-snapshot-000000.pkl',
                     'network-snapshot-000002.pkl', 'network-snapshot-000005.pkl',
                     'training-state-000004.pt', 'training-state-000005.pt'}
    lines = stats(tmp_path)
    assert [line['Progress/kimg']['mean'] for line in lines] == [0.4, 1.6, 2.8, 4.0, 5.2]
    assert [line['Loss/loss']['num'] for line in lines] == [n * 400 * 3 * 4 * 4 for n in (1, 3, 3, 3, 3)]
    printed = capsys.readouterr().out
    assert (tmp_path / 'log.txt').read_text() == printed
    assert [line.split()[1] for line in printed.splitlines() if line.startswith('tick')] == list('01234')


def test_no_state_at_tick_0(tmp_path):
    train(tiny_config(tmp_path, total_kimg=1, batch_size=1000, batch_gpu=None))
    assert not list(tmp_path.glob('*.pt'))
    assert (tmp_path / 'network-snapshot-000001.pkl').is_file()


def test_stats_have_the_references_names(tmp_path):
    train(tiny_config(tmp_path, total_kimg=1, batch_size=1000, batch_gpu=None))
    (line,) = stats(tmp_path)
    assert {'Progress/tick', 'Progress/kimg', 'Timing/total_sec', 'Timing/sec_per_tick',
            'Timing/sec_per_kimg', 'Timing/maintenance_sec', 'Resources/cpu_mem_gb',
            'Resources/peak_gpu_mem_gb', 'Resources/peak_gpu_mem_reserved_gb', 'Loss/loss',
            'timestamp'} <= line.keys()
    assert line['Progress/kimg'] == {'num': 1, 'mean': 1.0, 'std': 0.0}
    assert line['Loss/loss'].keys() == {'num', 'mean', 'std'}


def test_first_step_has_learning_rate_zero_also_without_rampup(tmp_path):
    config = tiny_config(tmp_path, total_kimg=1)
    run = prepared(config)
    before = copy.deepcopy(run.net.state_dict())
    loop.train_step(run)
    assert_equal(dict(before), dict(run.net.state_dict()))
    run.cur_nimg = 400
    loop.train_step(run)
    assert run.optimizer.param_groups[0]['lr'] == config.optimizer_kwargs['lr']
    assert not torch.equal(before['model.map_layer0.weight'], run.net.state_dict()['model.map_layer0.weight'])


def test_a_cosine_decay_ends_at_zero_with_the_run(tmp_path):
    """Over half a period: cos^2 of a quarter turn."""
    config = tiny_config(tmp_path, total_kimg=4, lr_decay='cosine')
    run = prepared(config)
    for share in (0.1, 0.5, 0.75, 1):
        run.cur_nimg = int(4000 * share)
        loop.train_step(run)
        expected = config.optimizer_kwargs['lr'] * math.cos(math.pi / 2 * share) ** 2
        assert run.optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-12, abs=1e-18)


def prepared(config):
    dataset = Images(CORNERS)
    return loop.prepare(config, dataset, partial(build_network, config.network_kwargs, dataset), device=CPU,
                        log=None, state=None, source=None)


@pytest.mark.parametrize(('ratio', 'beta'), [(0.05, 0.5 ** (400 / 50)), (None, 0.5 ** (400 / 2000))])
def test_ema_halflife_follows_the_images_seen(tmp_path, ratio, beta):
    run = prepared(tiny_config(tmp_path, ema_halflife_kimg=2, ema_rampup_ratio=ratio))
    run.cur_nimg = 1000
    for parameter in run.net.parameters():
        parameter.data += 1
    pairs = zip(run.net.parameters(), run.ema.parameters(), strict=True)
    expected = [parameter.detach().lerp(average, beta) for parameter, average in pairs]
    loop.update_ema(run)
    assert_equal(expected, [p.data for p in run.ema.parameters()])


def test_nonfinite_values_are_counted_and_kept_from_the_weights(tmp_path, monkeypatch, capsys):
    def spoil(kwargs, *args, **more):
        built = build(kwargs, *args, **more)
        if 'loss' not in kwargs['class_name']:
            return built
        return lambda *call: built(*call) * torch.tensor([np.nan] + [1.0] * 199).reshape(-1, 1, 1, 1)

    monkeypatch.setattr(loop, 'build', spoil)
    monkeypatch.setattr(saving, 'save_snapshot', lambda *args, **kwargs: None)
    train(tiny_config(tmp_path, total_kimg=1))
    state = torch.load(tmp_path / 'training-state-000001.pt')
    assert all(tensor.isfinite().all() for tensor in state['net'].values())
    assert 'NaN or inf' in capsys.readouterr().out
    first = stats(tmp_path)[0]
    assert first['Loss/nonfinite']['mean'] == 2 * 3 * 4 * 4  # an image in each of two micro-batches
    assert first['Loss/loss']['num'] == 398 * 3 * 4 * 4
    assert first['Loss/loss']['mean'] > 0
    assert first['Gradient/nonfinite']['mean'] > 0


def test_a_run_of_nan_losses_stops(tmp_path, monkeypatch, capsys):
    calls = []

    def spoil(kwargs, *args, **more):
        built = build(kwargs, *args, **more)
        if 'loss' not in kwargs['class_name']:
            return built

        def loss_fn(*call):
            calls.append(1)
            return built(*call) * (float('nan') if len(calls) % 4 == 1 else 1)  # in every second step
        return loss_fn

    monkeypatch.setattr(loop, 'build', spoil)
    monkeypatch.setattr(saving, 'save_snapshot', lambda *args, **kwargs: None)
    config = tiny_config(tmp_path, total_kimg=9, max_nan_steps=3, state_dump_ticks=1)
    with pytest.raises(UserError, match=r'--max-nan 3: .* after 2 kimg in'):
        train(config)
    assert len(calls) == 2 * 5  # steps 1, 3 and 5 have them
    assert 'NaN or inf: 9600 in losses' in capsys.readouterr().out
    # The count goes on in a resumed run.
    calls[:] = [1, 1]
    resumed, state = launch.resumed(tiny_config(tmp_path / 'more', total_kimg=9, max_nan_steps=3,
                                                resume_state_dump=str(tmp_path)))
    assert (state['cur_nimg'], state['bad_steps']) == (1600, 2)
    with pytest.raises(UserError, match=r'after 2\.4 kimg'):
        train(resumed, state=state)


class FullDisk:
    """Writes that fail until the disk has room again."""

    def __init__(self, monkeypatch, name, failures):
        self.failures, self.write = failures, getattr(checkpoint if name == 'save_state' else saving, name)
        monkeypatch.setattr(checkpoint if name == 'save_state' else saving, name, self)

    def __call__(self, path, **rest):
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOSPC, 'No space left on device')
        self.write(path, **rest)


@pytest.mark.parametrize('name', ['save_snapshot', 'save_state'])
def test_a_failed_write_is_tried_again_at_the_next_tick(name, tmp_path, monkeypatch, capsys):
    FullDisk(monkeypatch, name, failures=2)
    train(tiny_config(tmp_path, total_kimg=5, snapshot_ticks=100, state_dump_ticks=2))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('Warning')]
    assert len(lines) == 2
    assert 'No space left on device' in lines[0]
    left = sorted(path.name for path in tmp_path.glob('*-0*'))  # first due at tick 0, or 2
    expected = {'save_snapshot': [f'network-snapshot-{n:06d}.pkl' for n in (2, 5)],
                'save_state': ['training-state-000005.pt']}[name]
    assert [file for file in left if file.startswith(expected[0][:8])] == expected


def test_a_run_whose_last_file_fails_says_so(tmp_path, monkeypatch):
    FullDisk(monkeypatch, 'save_snapshot', failures=9)
    with pytest.raises(UserError, match=r'network-snapshot-000001\.pkl could not be written'):
        train(tiny_config(tmp_path, total_kimg=1))
    assert (tmp_path / 'training-state-000001.pt').is_file()


def test_a_state_that_the_disk_does_not_take_is_an_oserror(tmp_path, monkeypatch):
    # PyTorch's writer turns what the file raises into an error of its own.
    run = prepared(tiny_config(tmp_path, total_kimg=1))
    pieces = {'net': run.net, 'ema': run.ema, 'optimizer': run.optimizer}
    values = dict.fromkeys(checkpoint.SCHEMA.keys() - pieces.keys() - {'optimizer_state'})
    real = torch.save

    class Full(io.BytesIO):
        def write(self, data):
            if self.tell() + len(data) > 3000:
                raise OSError(errno.ENOSPC, 'No space left on device')
            return super().write(data)

    monkeypatch.setattr(torch, 'save', lambda state, file: real(state, Full()))
    with pytest.raises(OSError, match='No space left'):
        checkpoint.save_state(tmp_path / 'state.pt', **pieces, **values)
    assert not list(tmp_path.glob('*state*'))


def test_old_states_are_pruned(tmp_path):
    (tmp_path / 'training-state-000099.pt').touch()  # of something else: it is not older
    (tmp_path / 'training-state-000000.pt').touch()
    train(tiny_config(tmp_path, total_kimg=5, states_kept=2))
    names = sorted(path.name for path in tmp_path.glob('*.pt'))
    assert names == [f'training-state-{n:06d}.pt' for n in (4, 5, 99)]


def test_gradients_are_cleaned_and_counted():
    gradients = [torch.full((2, 3), 6.), torch.tensor([np.nan, np.inf, -np.inf, 2])]
    norm, nonfinite = loop.clean(gradients)
    assert nonfinite == 3
    assert [gradient.tolist() for gradient in gradients] == [[[6] * 3] * 2, [0, 1e5, -1e5, 2]]
    assert norm == torch.cat([gradient.flatten() for gradient in gradients]).norm()
    assert loop.clean(gradients) == (norm, 0)


def test_loss_scaling_does_not_reach_the_weights(tmp_path):
    for scaling in (1, 1024):  # a power of two: no rounding
        train(tiny_config(tmp_path / str(scaling), total_kimg=1, loss_scaling=scaling))
    plain, scaled = (torch.load(tmp_path / name / 'training-state-000001.pt') for name in ('1', '1024'))
    assert_equal(plain['net'], scaled['net'])


def test_preview_shows_samples_and_changes_nothing(tmp_path):
    for preview in (False, True):
        train(tiny_config(tmp_path / str(preview), total_kimg=1, preview=preview))
    states = [torch.load(tmp_path / name / 'training-state-000001.pt') for name in ('False', 'True')]
    for part in ('net', 'ema', 'random_states'):
        assert_equal(states[0][part], states[1][part])
    with Image.open(tmp_path / 'True' / 'preview-000001.png') as image:
        assert image.size == (16, 16)
    assert not list((tmp_path / 'False').glob('*.png'))


def test_float_images_on_the_pixel_scale_train_like_pixels(tmp_path):
    for name, images in (('pixels', CORNERS), ('float', CORNERS.astype(np.float32))):
        train(tiny_config(tmp_path / name, total_kimg=1), images)
    states = [torch.load(tmp_path / name / 'training-state-000001.pt') for name in ('pixels', 'float')]
    assert_equal(states[0]['net'], states[1]['net'])
