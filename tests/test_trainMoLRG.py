"""trainMoLRG.py: its options, its folders, every --arch, going on."""

import json
from pathlib import Path

import pytest
import torch

import trainMoLRG
from data.molrg_data import MoLRG, MoLRGShape
from helpers import processes, refuse, run
from training.snapshot import load_snapshot

DATA = ('--img_res=4', '--class_num=2', '--per_class_dim=6', '--sample_per_class=50')
SHAPE = MoLRGShape(resolution=4, class_num=2, per_class_dim=6, sample_per_class=50)
FOLDER = 'MoLRG_dataset_resolution4_classnum2_perclassdim6_sample50'
TINY = ('--batch=100', '--duration=0.001', '--tick=1', '--device=cpu', '--seed=1')


def train(tmp_path, *args, **kwargs):
    return run(trainMoLRG.main, f'--path={tmp_path / "data"}', f'--outdir={tmp_path / "runs"}', *DATA, *TINY,
               *args, **kwargs)


def dry_run(tmp_path, *args):
    return json.loads(train(tmp_path, '--dry-run', *args).stdout)


def last_snapshot(tmp_path):
    return load_snapshot(str(max((tmp_path / 'runs').rglob('network-snapshot-*.pkl'))))


def test_a_run_leaves_its_files_in_a_folder_named_by_the_data(tmp_path):
    train(tmp_path, '--embed_channels=8', '--num_blocks=1', '--dump=1', '--duration=0.002')
    (folder,) = (tmp_path / 'runs' / FOLDER).iterdir()
    assert folder.name == '00000-MoLRG-uncond-ddpmpp-edm-gpus1-batch100-fp32'
    assert {path.name for path in folder.iterdir()} == {
        'training_options.json', 'log.txt', 'stats.jsonl', 'network-snapshot-000000.pkl',
        'network-snapshot-000002.pkl', 'training-state-000001.pt', 'training-state-000002.pt'}
    assert 'loss ' in (folder / 'log.txt').read_text()
    snapshot = last_snapshot(tmp_path)
    assert (snapshot['ema'].label_dim, snapshot['ema'].model.map_augment) == (0, None)
    assert snapshot['dataset_kwargs'] == {
        'class_name': 'training.molrg.MoLRG', 'path': str(tmp_path / 'data' / f'{FOLDER}.pt'),
        'resolution': 4, 'class_num': 2, 'per_class_dim': 6, 'sample_per_class': 50, 'use_labels': False}


def test_defaults_suit_the_data(tmp_path):
    printed = json.loads(run(trainMoLRG.main, f'--path={tmp_path}', '--dry-run').stdout)
    assert not list(tmp_path.iterdir())
    assert printed['run_dir'] == ('training/MoLRG_dataset_resolution32_classnum10_perclassdim100_sample5000/'
                                  '00000-MoLRG-uncond-ddpmpp-edm-gpus1-batch512-fp32')
    assert 'augment_kwargs' not in printed
    assert (printed['total_kimg'], printed['snapshot_ticks'], printed['state_dump_ticks']) == (6000, 10, 500)
    assert printed['optimizer_kwargs']['lr'] == 0.001
    assert (printed['lr_rampup_kimg'], printed['lr_decay']) == (600, 'none')
    assert printed['network_kwargs']['model_channels'] == 1024


@pytest.mark.parametrize(('args', 'class_name', 'kwargs'), [
    (('--arch=ddpmpp', '--embed_channels=8'), 'EDMPrecond', {'channel_mult': [2, 2, 2], 'model_channels': 8}),
    (('--arch=ncsnpp', '--embed_channels=8', '--precond=ve'), 'VEPrecond', {'encoder_type': 'residual'}),
    (('--arch=adm', '--cbase=16'), 'EDMPrecond', {'channel_mult': [1, 2, 3], 'model_channels': 16}),
    (('--arch=mlp', '--embed_channels=24', '--precond=vp'), 'VPPrecond', {'model_channels': 24}),
    (('--arch=mlp', '--embed_channels=8', '--cond=1', '--augment=0.1'), 'EDMPrecond', {'augment_dim': 9}),
    (('--arch=param-mlp',), 'LowRankDenoiser', {'class_num': 2, 'per_class_dim': 6}),
    (('--arch=param-mlp', '--optimizer=sgd', '--precond=vp'), 'LowRankDenoiser', {}),
])
def test_every_arch_trains_at_4x4(args, class_name, kwargs, tmp_path):
    train(tmp_path, *args, '--batch=1000')
    net = last_snapshot(tmp_path)['ema']
    assert type(net).__name__ == class_name
    assert kwargs.items() <= net._init_kwargs.items()
    assert net.label_dim == (2 if '--cond=1' in args else 0)
    labels = torch.eye(2) if net.label_dim else None
    assert net(torch.randn(2, 3, 4, 4), 1.0, labels).isfinite().all()
    (options,) = (tmp_path / 'runs').rglob('training_options.json')
    optimizer = json.loads(options.read_text())['optimizer_kwargs']['class_name']
    assert optimizer == ('torch.optim.SGD' if '--optimizer=sgd' in args else 'torch.optim.Adam')


@pytest.mark.parametrize('seed', [0, 1])
def test_the_low_rank_model_finds_the_subspaces(seed, tmp_path):
    """A tenth of the images that the recipe asks for is enough for an angle of a few degrees."""
    printed = train(tmp_path, '--arch=param-mlp', '--sample_per_class=350', '--duration=0.05', '--batch=128',
                    f'--seed={seed}', f'--data_seed={seed}', '--tick=50').stdout
    truth = MoLRG(tmp_path / 'data', MoLRGShape(
        resolution=4, class_num=2, per_class_dim=6, sample_per_class=350)).bases()
    found = last_snapshot(tmp_path)['ema'].orthonormal_bases()
    cosines = torch.linalg.svdvals(found[:, None].mT @ truth[None]).square().mean(dim=2).sqrt()
    assert torch.equal(cosines.argmax(dim=1).sort().values, torch.arange(2))
    assert cosines.amax(dim=1).min() > 0.99
    errors = printed.split('Recovery error: ')[1].split(' (')[0]
    sines = (1 - cosines.amax(dim=0)**2).sqrt()
    torch.testing.assert_close(torch.tensor([*map(float, errors.split(', '))]), sines, rtol=0.1, atol=0.001)


def test_runs_go_on(tmp_path):
    """--resume takes the newest run with a state, whatever its options; --resumedir writes into its own."""
    small = ('--arch=mlp', '--embed_channels=8')
    refuse(trainMoLRG.main, f'--path={tmp_path}', f'--outdir={tmp_path}', *DATA, '--resume=1', status=1,
           says=('--resume', FOLDER))
    train(tmp_path, *small, '--dump=1', '--desc=first')
    train(tmp_path, *small, '--desc=second')
    data = tmp_path / 'runs' / FOLDER
    (state,) = data.glob('00001-*-second/training-state-*.pt')
    state.unlink()
    train(tmp_path, *small, '--resume=1', '--duration=0.002', '--desc=third', '--lr=0.002')
    first = data / '00000-MoLRG-uncond-mlp-edm-gpus1-batch100-fp32-first'
    (third,) = data.glob('*-third')
    resumed = json.loads((third / 'training_options.json').read_text())
    assert (Path(resumed['resume_state_dump']).parent, resumed['resume_kimg']) == (first, 1)
    train(tmp_path, *small, f'--resumedir={third}', '--duration=0.003')
    assert (third / 'network-snapshot-000003.pkl').is_file()
    assert (third / 'log.txt').read_text().endswith(f'Done: {third / "network-snapshot-000003.pkl"}\n')
    state = first / 'training-state-000001.pt'
    train(tmp_path, *small, f'--resume={state}', '--duration=0.002', '--desc=fourth')
    assert len(list(data.glob('*-fourth'))) == 1
    none = tmp_path / 'none'
    refuse(trainMoLRG.main, f'--path={tmp_path / "data"}', *DATA, f'--resumedir={none}', status=1,
           says=('--resumedir', str(none)))


def test_a_resumed_low_rank_run_ends_with_the_same_bits(tmp_path):
    """Its learning rate falls over the whole run, and the start drawn from the data plays no part."""
    args = ('--arch=param-mlp', '--duration=0.002', '--dump=1')
    train(tmp_path, *args, '--desc=whole')
    (whole,) = (tmp_path / 'runs' / FOLDER).glob('*-whole')
    train(tmp_path, *args, '--desc=more', f'--resume={whole / "training-state-000001.pt"}')
    (more,) = (tmp_path / 'runs' / FOLDER).glob('*-more')
    states = [torch.load(folder / 'training-state-000002.pt') for folder in (whole, more)]
    for part in ('net', 'ema'):
        assert torch.equal(states[0][part]['bases'], states[1][part]['bases'])


def test_two_processes_share_data_and_training(tmp_path):
    processes(2, 'trainMoLRG.py', f'--path={tmp_path / "data"}', f'--outdir={tmp_path / "runs"}', *DATA,
              *TINY, '--arch=param-mlp')
    (folder,) = (tmp_path / 'runs' / FOLDER).iterdir()
    assert folder.name == '00000-MoLRG-uncond-param-mlp-edm-gpus2-batch100-fp32'


@pytest.mark.parametrize(('args', 'says'), [
    (('--class_num=9',), ('--class_num 9', '--per_class_dim 6', '54', '48')),
    (('--sample_per_class=0',), ('--sample_per_class', '0')),
    (('--class_num=0',), ('--class_num', '0')),
    (('--img_res=0',), ('--img_res', '0')),
    (('--data_seed=-1',), ('--data_seed', '-1')),
    (('--arch=resnet',), ('--arch', 'param-mlp')),
    (('--arch=param-mlp', '--cond=1'), ('--cond', 'param-mlp')),
    (('--arch=param-mlp', '--augment=0.5'), ('--augment 0.5', 'param-mlp')),
    (('--arch=param-mlp', '--embed_channels=9'), ('--embed_channels 9', 'param-mlp')),
    (('--arch=mlp', '--cres=1,2'), ('--cres 1,2', 'mlp')),
    (('--arch=mlp', '--embed_channels=7'), ('--arch mlp', 'even')),
    (('--arch=adm', '--embed_channels=64'), ('--embed_channels 64', 'adm')),
    (('--cres=1,2,2,2', '--embed_channels=8'), ('--img_res 4', 'multiple of 8')),
    (('--resume=maybe',), ('--resume', 'maybe')),
    (('--resume=1', '--resumedir=x'), ('--resume', '--resumedir')),
    (('--resume=1', '--transfer=x'), ('--transfer', '--resume')),
    (('--optimizer=lion',), ('--optimizer', 'lion')),
])
def test_usage_errors_name_the_option(args, says, tmp_path):
    refuse(trainMoLRG.main, f'--path={tmp_path / "data"}', f'--outdir={tmp_path / "runs"}', *DATA, *TINY,
           *args, status=2, says=says)
    assert not (tmp_path / 'runs').exists()


def test_an_existing_file_must_fit(tmp_path):
    MoLRG(tmp_path, SHAPE, seed=2)
    refuse(trainMoLRG.main, f'--path={tmp_path}', f'--outdir={tmp_path / "runs"}', *DATA, '--data_seed=3',
           status=1, says=(f'--path {tmp_path / FOLDER}.pt', 'its seed is 2', '--data_seed 3'))
    file = tmp_path / 'file'
    file.touch()
    refuse(trainMoLRG.main, f'--path={file}', *DATA, status=1, says=('--path', str(file)))
