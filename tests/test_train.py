import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from data.training_labels import label_vectors
from fixed_noise import FixedNoiseLoss
from helpers import assert_equal, processes, refuse, run
from torch_utils.run_dir import RunLog
from training import build, saving
from training.snapshot import load_snapshot, load_with_settings

TINY = ('--batch=8', '--cbase=4', '--cres=1', '--num_blocks=1', '--attn_resolutions=0', '--dropout=0',
        '--lr_rampup=0', '--tick=1', '--device=cpu')


def write_images(folder, n=6, size=8, channels=3, labels=False):
    folder.mkdir()
    pixels = np.random.RandomState(0).randint(256, size=(n, size, size, channels), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image.squeeze()).save(folder / f'{i}.png')
    if labels:
        (folder / 'dataset.json').write_text(json.dumps({'labels': [[f'{i}.png', i % 3] for i in range(n)]}))
    return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp('data') / 'faces')


@pytest.fixture(scope='module')
def finished(images, tmp_path_factory):
    """The folder of a run of two steps."""
    outdir = tmp_path_factory.mktemp('runs')
    run(train.main, f'--outdir={outdir}', f'--data={images}', '--duration=0.002', '--dump=1', '--seed=3',
        *TINY, '--batch=1000')
    (folder,) = outdir.iterdir()
    return folder


def options(folder):
    return json.loads((folder / 'training_options.json').read_text())


def dry_run(*args):
    return json.loads(run(train.main, *args, '--dry-run').stdout)


def test_a_run_leaves_its_files(finished, images):
    assert finished.name == '00000-faces-uncond-ddpmpp-edm-gpus1-batch1000-fp32'
    assert {path.name for path in finished.iterdir()} == {
        'training_options.json', 'log.txt', 'stats.jsonl', 'network-snapshot-000001.pkl',
        'network-snapshot-000002.pkl', 'training-state-000002.pt'}
    snapshot = load_snapshot(str(finished / 'network-snapshot-000002.pkl'))
    assert snapshot['ema'].img_resolution == 8
    assert snapshot['dataset_kwargs'] == options(finished)['dataset_kwargs'] == {
        'class_name': 'training.dataset.ImageFolderDataset', 'path': str(images), 'use_labels': False,
        'xflip': False, 'cache': True, 'resolution': 8, 'max_size': 6}


def test_options_have_the_references_keys(finished):
    written = options(finished)
    assert {'dataset_kwargs', 'data_loader_kwargs', 'network_kwargs', 'loss_kwargs', 'optimizer_kwargs',
            'augment_kwargs', 'total_kimg', 'ema_halflife_kimg', 'batch_size', 'batch_gpu', 'loss_scaling',
            'cudnn_benchmark', 'kimg_per_tick', 'snapshot_ticks', 'state_dump_ticks', 'seed',
            'run_dir'} <= written.keys()
    assert not {'resume_pkl', 'resume_kimg', 'resume_state_dump'} & written.keys()
    assert (written['seed'], written['total_kimg'], written['run_dir']) == (3, 2, str(finished))
    record = written['made_by']
    assert (record['torch'], record['seed'], record['options']['batch']) == (torch.__version__, 3, 1000)
    assert list(record['inputs']) == [written['dataset_kwargs']['path']]
    assert load_snapshot(str(finished / 'network-snapshot-000002.pkl'))['made_by'] == record


def test_dry_run_prints_the_defaults_and_writes_nothing(images, tmp_path):
    outdir = tmp_path / 'runs'
    printed = dry_run(f'--outdir={outdir}', f'--data={images}')
    assert not outdir.exists()
    expected = {'total_kimg': 200000, 'ema_halflife_kimg': 500, 'ema_rampup_ratio': 0.05, 'batch_size': 512,
                'batch_gpu': None, 'loss_scaling': 1, 'cudnn_benchmark': True, 'kimg_per_tick': 50,
                'snapshot_ticks': 50, 'state_dump_ticks': 500, 'lr_rampup_kimg': 10000,
                'run_dir': f'{outdir}/00000-faces-uncond-ddpmpp-edm-gpus1-batch512-fp32',
                'loss_kwargs': {'class_name': 'training.loss.EDMLoss'},
                'data_loader_kwargs': {'pin_memory': True, 'num_workers': 1, 'prefetch_factor': 2}}
    assert {key: printed[key] for key in expected} == expected
    assert printed['optimizer_kwargs']['lr'] == 0.001
    assert printed['network_kwargs'] == {
        'class_name': 'training.networks.EDMPrecond', 'model_type': 'SongUNet',
        'embedding_type': 'positional', 'encoder_type': 'standard', 'decoder_type': 'standard',
        'channel_mult_noise': 1,
        'resample_filter': [1, 1], 'model_channels': 128, 'channel_mult': [2, 2, 2], 'augment_dim': 9,
        'dropout': 0.13, 'use_fp16': False}
    assert printed['augment_kwargs'] == {
        'class_name': 'training.augment.AugmentPipe', 'p': 0.12, 'xflip': 1e8, 'yflip': 1, 'scale': 1,
        'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}


def test_options_reach_the_settings(images):
    args = ('--outdir=x', f'--data={images}')
    for arch, expected in {
            'ncsnpp': {'model_type': 'SongUNet', 'embedding_type': 'fourier', 'encoder_type': 'residual',
                       'channel_mult_noise': 2, 'resample_filter': [1, 3, 3, 1], 'model_channels': 128},
            'adm': {'model_type': 'DhariwalUNet', 'model_channels': 192,
                    'channel_mult': [1, 2, 3, 4]}}.items():
        network = dry_run(*args, f'--arch={arch}', '--precond=ve')['network_kwargs']
        assert expected.items() <= network.items()
        assert network['class_name'] == 'training.networks.VEPrecond'
    printed = dry_run(*args, '--model_channels=64', '--cbase=32', '--cres=1,2', '--augment=0',
                      '--P_mean=-0.8', '--duration=0.0001', '--fp16=1', '--desc=x', '--xflip=1',
                      '--precond=edm', '--seed=7')
    network = printed['network_kwargs']
    assert (network['model_channels'], network['channel_mult'], network['use_fp16']) == (32, [1, 2], True)
    assert 'augment_dim' not in network
    assert 'augment_kwargs' not in printed
    assert printed['loss_kwargs'] == {'class_name': 'training.loss.EDMLoss', 'P_mean': -0.8}
    assert (printed['total_kimg'], printed['seed'], printed['dataset_kwargs']['max_size']) == (1, 7, 12)
    assert printed['run_dir'] == 'x/00000-faces-uncond-ddpmpp-edm-gpus1-batch512-fp16-x'
    assert dry_run(*args)['seed'] != dry_run(*args)['seed']


def test_run_folders_are_numbered_on(images, tmp_path):
    for name in ('00004-old', '7', 'notes'):
        (tmp_path / name).mkdir()
    (tmp_path / '00012-file').touch()
    folder = dry_run(f'--outdir={tmp_path}', f'--data={images}')['run_dir']
    assert Path(folder).name.startswith('00008-faces-')
    assert dry_run(f'--outdir={tmp_path}', f'--data={images}', '--nosubdir')['run_dir'] == str(tmp_path)


def test_labels_make_a_conditional_network_and_a_preview(tmp_path):
    data = write_images(tmp_path / 'data', channels=1, labels=True)
    run(train.main, f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', '--cond=1',
        '--duration=0.001', '--preview', *TINY, '--batch=1000')
    snapshot = load_snapshot(str(tmp_path / 'run' / 'network-snapshot-000001.pkl'))
    assert (snapshot['ema'].label_dim, snapshot['ema'].img_channels) == (3, 1)
    assert snapshot['made_by']['labels'] == 'classes'
    with Image.open(tmp_path / 'run' / 'preview-000001.png') as image:
        assert image.mode == 'L'


def test_a_snapshot_says_that_its_labels_were_vectors_and_samples_draw_from_them(tmp_path):
    data = write_images(tmp_path / 'data', n=2)
    (data / 'dataset.json').write_text(json.dumps({'labels': [['0.png', [0.5, -1]], ['1.png', [2, -1]]]}))
    run(train.main, f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', '--cond=1',
        '--duration=0.001', *TINY, '--batch=1000')
    net, recorded = load_with_settings(str(tmp_path / 'run' / 'network-snapshot-000001.pkl'),
                                       torch.device('cpu'))
    assert recorded['made_by']['labels'] == 'vectors'
    assert label_vectors(recorded, net.label_dim, '--network').tolist() == [[0.5, -1], [2, -1]]


def test_resume_goes_on_in_a_new_folder(finished, images):
    args = (f'--outdir={finished.parent}', f'--data={images}', *TINY, '--batch=1000')
    run(train.main, *args, f'--resume={finished}', '--duration=0.003', '--desc=more')
    (folder,) = finished.parent.glob('*-more')
    written = options(folder)
    assert written['resume_state_dump'] == str(finished / 'training-state-000002.pt')
    assert written['resume_pkl'] == str(finished / 'network-snapshot-000002.pkl')
    assert (written['resume_kimg'], written['seed']) == (2, 3)
    assert (folder / 'training-state-000003.pt').is_file()
    resume = f'--resume={finished / "training-state-000002.pt"}'
    refuse(train.main, *args, resume, '--duration=0.003', '--seed=4', status=2, says=('--seed 4', 'had 3'))
    refuse(train.main, *args, resume, '--duration=0.002', status=2, says=('--duration', '0.002'))
    refuse(train.main, *args, resume, '--cbase=8', status=1, says=('--resume', 'training-state-000002.pt'))
    refuse(train.main, *args, resume, '--xflip=1', status=1, says=('6 images', '12', '--xflip'))


def test_transfer_starts_with_the_snapshots_weights(finished, images, tmp_path):
    snapshot = finished / 'network-snapshot-000002.pkl'
    args = (f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={images}', f'--transfer={snapshot}',
            '--duration=0.001', *TINY)
    run(train.main, *args, '--batch=1000')
    old, new = (load_snapshot(str(path))['ema'].state_dict()
                for path in (snapshot, tmp_path / 'run' / 'network-snapshot-000001.pkl'))
    assert all(torch.equal(old[name], new[name]) for name in old)  # the first step has learning rate 0
    written = options(tmp_path / 'run')
    assert (written['resume_pkl'], written['ema_rampup_ratio']) == (str(snapshot), None)
    refuse(train.main, *args, '--cbase=8', f'--outdir={tmp_path / "no"}', status=1,
           says=('--transfer', str(snapshot)))
    assert not (tmp_path / 'no').exists()


def test_transfer_takes_a_runs_newest_snapshot_and_all_but_the_labels_of_other_classes(finished, tmp_path):
    data = write_images(tmp_path / 'data', labels=True)
    done = run(train.main, f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', '--cond=1',
               '--duration=0.001', *TINY, '--batch=1000', f'--transfer={finished}')
    assert f'--transfer {finished}: takes network-snapshot-000002.pkl' in done.stderr
    assert 'not the label embedding, which starts from scratch: no classes there, 3 here' in done.stdout
    new = load_snapshot(str(tmp_path / 'run' / 'network-snapshot-000001.pkl'))['ema'].state_dict()
    old = load_snapshot(str(finished / 'network-snapshot-000002.pkl'))['ema'].state_dict()
    assert all(torch.equal(old[name], new[name]) for name in old)
    (data / 'dataset.json').write_text(json.dumps({'labels': [[f'{i}.png', i % 4] for i in range(6)]}))
    done = run(train.main, f'--outdir={tmp_path / "four"}', '--nosubdir', f'--data={data}', '--cond=1',
               '--duration=0.001', *TINY, '--batch=1000', f'--transfer={tmp_path / "run"}')
    assert '3 classes there, 4 here' in done.stdout


def test_a_run_goes_on_with_other_images_only_if_told_to(finished, tmp_path):
    data = write_images(tmp_path / 'data')
    args = (f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', *TINY, '--batch=1000')
    run(train.main, *args, '--duration=0.001', '--dump=1', '--tick=1', '--batch=500')
    for i in range(6):
        Image.new('RGB', (8, 8), (i, i, i)).save(data / f'{i}.png')
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / 'run').iterdir())
    for resume in (tmp_path / 'run', tmp_path / 'run' / 'training-state-000001.pt'):
        refuse(train.main, *args, '--duration=0.003', f'--resume={resume}', status=1,
               says=('--resume', 'other images', str(data), '--force-data'))
    assert before == sorted((path.name, path.read_bytes()) for path in (tmp_path / 'run').iterdir())
    run(train.main, *args, '--duration=0.003', f'--resume={tmp_path / "run"}', '--force-data')
    assert (tmp_path / 'run' / 'network-snapshot-000003.pkl').is_file()


def test_what_has_no_effect_or_is_cut_is_said(images):
    args = ('--outdir=x', f'--data={images}', '-n')
    said = run(train.main, *args, '--duration=0.0018', '--ema=0.0005', '--workers=3').stderr
    assert '--duration 0.0018: cut to whole thousands of images, 1 kimg' in said
    assert '--ema 0.0005: cut to whole thousands of images, 0 kimg' in said
    assert '--workers 3: no effect' in said
    said = run(train.main, *args, '--duration=0.002', '--ema=0.001', '--workers=3', '--cache=0').stderr
    assert said == 'Dry run: nothing was written\n'


@pytest.mark.parametrize(('args', 'says'), [
    (('--nosubdir', '--desc=a'), ('--desc a', '--nosubdir')),
    (('--force-data',), ('--force-data', '--resume')),
    (('--compile=auto',), ('--compile', 'graphs')),
    (('--precond=iddpm',), ('--precond', 'iddpm')),
    (('--batch=10', '--batch-gpu=4'), ('--batch-gpu 4', '--batch 10', 'processes (1)')),
    (('--duration=0',), ('--duration',)),
    (('--lr=nan',), ('--lr',)),
    (('--resume=a', '--transfer=b'), ('--resume', '--transfer')),
    (('--precond=vp', '--P_mean=-1'), ('--P_mean', 'vp')),
    (('--arch=adm', '--model_channels=64'), ('--model_channels 64', '--cbase')),
    (('--transfer=x', '--ema_rampup=0.1'), ('--ema_rampup', '--transfer')),
    (('--desc=a/b',), ('--desc a/b',)),
    (('--cres=1,2,2,2,2',), ('--cres', 'multiple of 16', 'got 8')),
    (('--cbase=1',), ('--cbase', 'channels')),
    (('--arch=resnet',), ('--arch', 'ddpmpp')),
    (('--device=gpu',), ('--device', 'gpu')),
])
def test_usage_errors_name_the_option(args, says, images, tmp_path):
    refuse(train.main, f'--outdir={tmp_path / "run"}', f'--data={images}', *args, status=2, says=says)
    assert not (tmp_path / 'run').exists()


def test_batch_must_be_shared_among_processes(images, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '3')
    refuse(train.main, '--outdir=x', f'--data={images}', '--batch=8', status=2,
           says=('--batch 8', '3 processes'))


def test_data_errors_name_option_and_file(images, tmp_path):
    def no(*args, says):
        refuse(train.main, f'--outdir={tmp_path / "run"}', *args, *TINY, status=1, says=says)
        assert not (tmp_path / 'run').exists()

    no(f'--data={tmp_path / "missing"}', says=('--data', 'missing'))
    (tmp_path / 'empty').mkdir()
    no(f'--data={tmp_path / "empty"}', says=('--data', 'empty'))
    no(f'--data={images}', '--cond=1', says=('--cond', 'labels'))
    broken = write_images(tmp_path / 'broken')
    (broken / '3.png').write_bytes((broken / '3.png').read_bytes()[:60])
    no(f'--data={broken}', says=('--data', '3.png'))
    Image.new('L', (8, 4)).save(tmp_path / 'empty' / 'wide.png')
    no(f'--data={tmp_path / "empty"}', says=('8x4', 'square'))


def test_states_and_snapshots_that_are_none_are_refused(images, tmp_path):
    def no(option, file, says):
        refuse(train.main, f'--outdir={tmp_path / "run"}', f'--data={images}', f'{option}={file}', *TINY,
               status=1, says=(option, str(file), says))
        assert not (tmp_path / 'run').exists()

    torch.save({'net': torch.nn.Linear(2, 2), 'optimizer_state': {}}, tmp_path / 'reference.pt')
    torch.save({'net': {}}, tmp_path / 'other.pt')
    (tmp_path / 'garbage.pt').write_bytes(b'garbage')
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'reference.pt').read_bytes()[:200])
    (tmp_path / 'plain.pkl').write_bytes(pickle.dumps({'net': 1}))
    no('--resume', tmp_path / 'missing.pt', 'no such')
    no('--resume', tmp_path / 'reference.pt', 'Linear')
    no('--resume', tmp_path / 'other.pt', 'lacks')
    no('--resume', tmp_path / 'garbage.pt', 'state')
    no('--resume', tmp_path / 'cut.pt', 'state')
    no('--resume', images, 'no training-state')
    no('--transfer', tmp_path / 'plain.pkl', 'ema')


def test_an_outdir_that_takes_no_files_is_refused(images, tmp_path):
    (tmp_path / 'file').touch()
    refuse(train.main, f'--outdir={tmp_path / "file"}', f'--data={images}', *TINY, status=1,
           says=('--outdir', str(tmp_path / 'file')))


def test_two_processes_train_one_network_as_one_process_does(finished, images, tmp_path, monkeypatch):
    checks = Path(__file__).parent / 'training' / 'check_processes.py'
    args = (f'--data={images}', '--duration=0.001', *TINY, '--batch=400', '--batch-gpu=100', '--augment=0',
            '--dump=1', '--seed=3', f'--transfer={finished / "network-snapshot-000002.pkl"}')
    printed = processes(2, checks, f'--outdir={tmp_path / "two"}', *args)
    assert printed.count('rank 0: all checks passed') == printed.count('rank 1: all checks passed') == 1
    (folder,) = (tmp_path / 'two').iterdir()
    assert folder.name == '00000-faces-uncond-ddpmpp-edm-gpus2-batch400-fp32'
    assert 'Batch: 400 = 2 x 2 x 100 (processes' in (folder / 'log.txt').read_text()
    two = torch.load(folder / 'training-state-000001.pt')
    assert len(two['random_states']) == 2
    assert not torch.equal(two['random_states'][0]['cpu'], two['random_states'][1]['cpu'])
    first = json.loads((folder / 'stats.jsonl').read_text().splitlines()[0])
    assert first['Loss/loss']['num'] == 400 * 3 * 8 * 8

    monkeypatch.setitem(build._CLASSES, 'training.loss.EDMLoss', FixedNoiseLoss)
    monkeypatch.setattr(saving, 'save_snapshot', lambda *args, **kwargs: None)
    run(train.main, f'--outdir={tmp_path / "one"}', '--nosubdir', *args)
    one = torch.load(tmp_path / 'one' / 'training-state-000001.pt')
    start = load_snapshot(str(finished / 'network-snapshot-000002.pkl'))['ema'].state_dict()
    for name, weights in two['net'].items():
        if 'weight' in name:  # the biases of the keys have no gradient but rounding noise
            moved = (one['net'][name] - start[name]).norm()
            assert (weights - one['net'][name]).norm() <= 1e-3 * moved, name
            assert moved > 0


def test_two_machines_that_share_a_folder_train_as_one_with_two_processes(images, tmp_path):
    args = (f'--data={images}', '--nosubdir', '--duration=0.001', '--dump=1', '--seed=3', *TINY,
            '--batch=250')
    for machines, name in ((1, 'one'), (2, 'two')):
        printed = processes(2, 'train.py', f'--outdir={tmp_path / name}', *args, machines=machines)
    assert printed.count('Batch: 250 = 2 x 1 x 125') == 1, printed
    states = [torch.load(tmp_path / name / 'training-state-000001.pt') for name in ('one', 'two')]
    for state in states:
        del state['elapsed_sec'], state['run_id']
    assert_equal(*states)
    one, two = ({path.name for path in (tmp_path / name).iterdir()} for name in ('one', 'two'))
    assert one == two


def test_one_image_is_enough(tmp_path):
    data = write_images(tmp_path / 'data', n=1)
    run(train.main, f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', '--duration=0.001', *TINY,
        '--batch=500')
    assert (tmp_path / 'run' / 'network-snapshot-000001.pkl').is_file()


def test_resuming_a_folder_goes_on_in_it(finished, images, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / finished.name))
    args = (f'--outdir={tmp_path}', f'--data={images}', *TINY, '--batch=1000', f'--resume={folder}')
    assert dry_run(*args)['run_dir'] == str(folder)
    run(train.main, *args, '--duration=0.003', '--dump=1', '--keep=1')
    assert list(tmp_path.iterdir()) == [folder]
    assert [path.name for path in folder.glob('*.pt')] == ['training-state-000003.pt']
    ticks = [json.loads(line)['Progress/tick']['mean'] for line in
             (folder / 'stats.jsonl').read_text().splitlines()]
    assert ticks == [0, 1, 2]
    assert options(folder)['made_by']['run_id'] == options(finished)['made_by']['run_id']


def test_a_folder_in_use_is_refused(images, tmp_path):
    with RunLog(tmp_path):
        refuse(train.main, f'--outdir={tmp_path}', '--nosubdir', f'--data={images}', *TINY, status=1,
               says=('--outdir', 'another run'))


def test_a_dry_run_needs_neither_a_gpu_nor_other_processes(images, tmp_path, monkeypatch):
    args = (f'--outdir={tmp_path / "run"}', f'--data={images}', '--dry-run')
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '0')
    assert dry_run(*args, '--device=cuda:7')['run_dir'].endswith('-gpus2-batch512-fp32')
    refuse(train.main, *args, '--cres=1,2,2,2,2', status=2, says=('--cres',))
    monkeypatch.setenv('RANK', '1')
    assert run(train.main, *args).output == ''
    assert not torch.distributed.is_initialized()
    assert not (tmp_path / 'run').exists()
