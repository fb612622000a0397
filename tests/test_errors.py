"""Wrong invocations of every script: exit status, one line that names option or file, nothing on the disk.

How a script treats its own special cases is tested beside the script; this is the table of what users type.
"""

import importlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import ROOT, refuse, run
from torch_utils import downloads
from training.networks import EDMPrecond
from training.snapshot import save_snapshot

DIGITS = str(ROOT / 'datasets' / 'digits-8x8.zip')
TRAIN = f'train --outdir=new --data={DIGITS} --device=cpu'
GENERATE = 'generate --network=net.pkl --outdir=new --device=cpu'
OPTIMAL = f'generate --optimal_denoiser --dataset={DIGITS} --outdir=new --device=cpu'
JACOBIAN = 'jacobian --network_pkl=net.pkl --out=new.npz --device=cpu'
MOLRG = 'trainMoLRG --outdir=new --path=new --img_res=4 --class_num=2 --per_class_dim=6 --device=cpu'
DENOISE = 'denoise error --network=optimal:images --data=images --out=new.csv --device=cpu'
TOOL = 'dataset_tool --dest=new.zip'
FEATURE = 'sscd feature --features=new.npz --device=cpu --descriptor=pixel'
REGIMES = 'reproduce regimes --name=new'

# (command line, exit status, what the line must hold)
USAGE = [
    ('generate --outdir=new', '--network'),
    ('generate --network=net.pkl', '--outdir'),
    (f'{GENERATE} --steps=1', '--steps'),
    (f'{GENERATE} --steps=many', '--steps'),
    (f'{GENERATE} --seeds=', '--seeds'),
    (f'{GENERATE} --seeds=1,,2', '--seeds'),
    (f'{GENERATE} --seeds=9-3', '--seeds'),
    (f'{GENERATE} --seeds=1.5', '--seeds'),
    (f'{GENERATE} --seeds=4,4', '--seeds'),
    (f'{GENERATE} --seeds=0-9999999999', 'more than 10,000,000'),
    (f'{GENERATE} --batch=0', '--batch'),
    (f'{GENERATE} --class=0', '--class'),
    (f'{GENERATE} --class=cat', '--class'),
    (f'{GENERATE} --sigma_min=0', '--sigma_min'),
    (f'{GENERATE} --sigma_min=9 --sigma_max=3', '--sigma_min'),
    (f'{GENERATE} --sigma_max=inf', '--sigma_max'),
    (f'{GENERATE} --rho=-1', '--rho'),
    (f'{GENERATE} --S_churn=-1', '--S_churn'),
    (f'{GENERATE} --S_noise=nan', '--S_noise'),
    (f'{GENERATE} --solver=rk4', '--solver'),
    (f'{GENERATE} --disc=cosine', '--disc'),
    (f'{GENERATE} --schedule=cosine', '--schedule'),
    (f'{GENERATE} --scaling=ve', '--scaling'),
    (f'{GENERATE} --grid=new.jpg', '--grid'),
    (f'{GENERATE} --trajectory=new', '--trajectory'),
    (f'{GENERATE} --device=tpu', '--device'),
    (f'{GENERATE} --stepz=3', '--stepz'),
    (f'{GENERATE} --dataset={DIGITS}', '--dataset'),
    ('generate --optimal_denoiser --outdir=new', '--dataset'),
    (f'{OPTIMAL} --gaussian_denoiser', '--gaussian_denoiser'),
    (f'{OPTIMAL} --cache_gb=-1', '--cache_gb'),
    ('train --outdir=new', '--data'),
    (f'train --data={DIGITS}', '--outdir'),
    (f'{TRAIN} --arch=unet', '--arch'),
    (f'{TRAIN} --precond=ddpm', '--precond'),
    (f'{TRAIN} --cond=perhaps', '--cond'),
    (f'{TRAIN} --batch=10 --batch-gpu=3', '--batch-gpu'),
    (f'{TRAIN} --batch=0', '--batch'),
    (f'{TRAIN} --batch=9999999999999999999 --dry-run', '--batch'),
    (f'{TRAIN} --duration=0', '--duration'),
    (f'{TRAIN} --duration=nan', '--duration'),
    (f'{TRAIN} --lr=-1', '--lr'),
    (f'{TRAIN} --ema=-1', '--ema'),
    (f'{TRAIN} --dropout=2', '--dropout'),
    (f'{TRAIN} --augment=1.5', '--augment'),
    (f'{TRAIN} --cres=1,2,2,2,2', '--cres'),
    (f'{TRAIN} --cres=a', '--cres'),
    (f'{TRAIN} --num_blocks=0', '--num_blocks'),
    (f'{TRAIN} --workers=0', '--workers'),
    (f'{TRAIN} --tick=0', '--tick'),
    (f'{TRAIN} --seed=-1', '--seed'),
    (f'{TRAIN} --precond=vp --P_std=1', '--P_std'),
    (f'{TRAIN} --arch=adm --model_channels=8', '--model_channels'),
    (f'{TRAIN} --transfer=net.pkl --resume=state.pt', '--transfer'),
    (f'{TRAIN} --desc=a/b', '--desc'),
    (f'{TRAIN} --outdir=. --nosubdir --transfer=net.pkl', '--transfer'),
    (f'{TRAIN} --outdir=run --nosubdir', '--outdir run'),
    ('dataset_tool --source=images', '--dest'),
    (TOOL, '--source'),
    ('dataset_tool --source=images --dest=images', '--dest'),
    ('convert adm --source=net.pt', '--dest'),
    ('convert adm --source=net.pt --dest=new.pkl --num_heads=1 --noise_schedule=cosine', '--image_size'),
    ('convert adm --source=net.pt --dest=new.pkl --preset=32', '--preset'),
    ('convert adm --source=net.pt --dest=new.pkl --preset=64 --channel_mult=a', '--channel_mult'),
    (f'{TOOL} --source=images --max-images=0', '--max-images'),
    (f'{TOOL} --source=images --resolution=32', '--resolution'),
    (f'{TOOL} --source=images --resolution=32x16', '--resolution'),
    (f'{TOOL} --source=images --resolution=30x30', '--resolution'),
    (f'{TOOL} --source=images --transform=center-crop', '--resolution'),
    (f'{TOOL} --source=images --transform=crop --resolution=8x8', '--transform'),
    (f'sscd feature --images={DIGITS}', '--features'),
    (f'sscd feature --images={DIGITS} --features=new', '--features'),
    (f'{FEATURE} --images={DIGITS} --batch=0', '--batch'),
    (f'{DENOISE} --seeds=1', '--seeds'),
    (f'{DENOISE} --sigmas=0', '--sigmas'),
    (f'denoise error --network=optimal:{DIGITS} --out=new.csv', '--data'),
    (f'denoise error --network=optimal:{DIGITS} --data={DIGITS} --out=new.txt', '--out'),
    ('denoise distance net.pkl --out=new.csv', 'at least two'),
    ('sscd rpscore --source=a.npz', '--target'),
    ('sscd rpscore --source=a.npz --target=a.npz --t=x', '--t'),
    ('sscd mscore --source=a.npz --target=a.npz --t=nan', '--t'),
    ('sscd nothing', 'nothing'),
    ('plot regimes --table=scores.csv', '--out'),
    ('plot nothing', 'nothing'),
    ('jacobian --out=new.npz', '--network_pkl'),
    (f'{JACOBIAN} --class=0', '--class'),
    (f'{JACOBIAN} --eta=1', '--eta'),
    (f'{JACOBIAN} --eta=0', '--eta'),
    (f'{JACOBIAN} --method=svd', '--method'),
    (f'{JACOBIAN} --steps=1', '--steps'),
    (f'{JACOBIAN} --seeds=a', '--seeds'),
    (f'{JACOBIAN} --sigmas=0', '--sigmas'),
    (f'{JACOBIAN} --batch=0', '--batch'),
    (f'{JACOBIAN} --figure=new.txt', '--figure'),
    (f'{JACOBIAN} --method=exact --tolerance=0.1', '--tolerance'),
    (f'{JACOBIAN} --S_min=5 --S_max=1', '--S_min 5'),
    (f'{JACOBIAN} --S_max=nan', '--S_max'),
    (f'{JACOBIAN} --rho=1e-9', '--rho 1e-09'),
    (f'{JACOBIAN} --seeds=99999999999999999999', '64 bits'),
    ('trainMoLRG --outdir=new', '--path'),
    (f'{MOLRG} --class_num=0', '--class_num'),
    (f'{MOLRG} --sample_per_class=0', '--sample_per_class'),
    (f'{MOLRG} --class_num=20 --per_class_dim=6', '--per_class_dim'),
    (f'{MOLRG} --arch=unet', '--arch'),
    (f'{MOLRG} --arch=param-mlp --embed_channels=8', '--embed_channels'),
    (f'{MOLRG} --optimizer=lion', '--optimizer'),
    (f'{MOLRG} --data_seed=-1', '--data_seed'),
    (f'{REGIMES} --preset=large', '--preset'),
    (f'{REGIMES} --sizes=0', '--sizes'),
    (f'{REGIMES} --sizes=2-9000', '--sizes'),
    (f'{REGIMES} --widths=8', '--widths'),
    (f'{REGIMES} --kimg=0', '--kimg'),
    (f'{REGIMES} --thresholds=2', '--thresholds'),
    (f'{REGIMES} --samples=1', '--samples'),
    (f'{REGIMES} --teacher=net.pkl --teacher-training=--lr=1', '--teacher'),
]
DATA = [
    ('generate --network=missing.pkl --outdir=new', 'missing.pkl'),
    ('generate --network=text.txt --outdir=new', 'text.txt'),
    ('generate --network=state.pt --outdir=new', 'state.pt'),
    ('generate --network=images --outdir=new', 'images'),
    ('generate --network=net.pkl --outdir=text.txt --device=cpu', 'text.txt'),
    ('generate --network=http://127.0.0.1:9/net.pkl --outdir=new', 'http://127.0.0.1:9/net.pkl'),
    ('generate --network=net.pkl --outdir=new --device=cuda:7', 'cuda:7'),
    ('generate --optimal_denoiser --dataset=missing.zip --outdir=new', 'missing.zip'),
    ('generate --optimal_denoiser --dataset=empty --outdir=new', 'empty'),
    ('generate --optimal_denoiser --dataset=mixed --outdir=new --device=cpu', 'mixed'),
    (f'{OPTIMAL} --class=10', '--class'),
    ('jacobian --network_pkl=missing.pkl --out=new.npz', 'missing.pkl'),
    ('jacobian --network_pkl=text.txt --out=new.npz', 'text.txt'),
    (f'{JACOBIAN} --data=missing.zip', 'missing.zip'),
    ('train --outdir=new --data=missing.zip', 'missing.zip'),
    ('train --outdir=new --data=empty', 'empty'),
    ('train --outdir=new --data=text.txt', 'text.txt'),
    ('train --outdir=new --data=mixed --device=cpu --batch=4 --cres=1', 'mixed'),
    ('train --outdir=new --data=images --cond=1', '--cond'),
    ('train --outdir=text.txt --data=images --device=cpu --cres=1', 'text.txt'),
    (f'{TRAIN} --cres=1 --transfer=missing.pkl', 'missing.pkl'),
    (f'{TRAIN} --cres=1 --transfer=text.txt', 'text.txt'),
    (f'{TRAIN} --cres=1 --resume=missing.pt', 'missing.pt'),
    (f'{TRAIN} --cres=1 --resume=text.txt', 'text.txt'),
    (f'{TRAIN} --cres=1 --resume=empty', 'empty'),
    (f'{TOOL} --source=missing', 'missing'),
    (f'{TOOL} --source=empty', 'empty'),
    (f'{TOOL} --source=text.txt', 'text.txt'),
    (f'{TOOL} --source=mixed', '2.png'),
    ('dataset_tool --source=images --dest=new.tar', '--dest'),
    (f'{DENOISE} --heldout=missing', 'missing'),
    ('denoise error --network=text.txt --data=images --out=new.csv --device=cpu', 'text.txt'),
    ('denoise error --network=optimal:mixed --data=images --out=new.csv --device=cpu', 'mixed'),
    ('plot denoising --table=text.txt --out=new.png', 'text.txt'),
    (f'{FEATURE} --images=missing', 'missing'),
    (f'{FEATURE} --images=empty', 'empty'),
    (f'{FEATURE} --images=mixed', 'mixed'),
    (f'sscd feature --images={DIGITS} --features=new.npz --model=missing.pt', 'missing.pt'),
    (f'sscd feature --images={DIGITS} --features=new.npz --model=text.txt', 'text.txt'),
    ('sscd rpscore --source=missing.npz --target=a.npz', 'missing.npz'),
    ('sscd rpscore --source=a.npz --target=b.npz', 'b.npz'),
    ('sscd mscore --source=a.npz --target=text.npz', 'text.npz'),
    ('sscd mscore --source=nan.npz --target=a.npz', 'nan.npz'),
    ('sscd mscore --source=objects.npz --target=a.npz', 'objects.npz'),
    ('plot regimes --table=missing.json --out=new.png', 'missing.json'),
    ('plot regimes --table=text.txt --out=new.png', 'text.txt'),
    ('plot regimes --table=other.json --out=new.png', 'other.json'),
    ('plot training missing --out=new.png', 'missing'),
    (f'{REGIMES} --data=missing.zip', 'missing.zip'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """What the command lines speak of: good and bad files."""
    path = tmp_path_factory.mktemp('errors')
    torch.manual_seed(0)
    save_snapshot(path / 'net.pkl', ema=EDMPrecond(8, 1, model_type='SongUNet', model_channels=4,
                                                   channel_mult=[1], num_blocks=1))
    (path / 'run').mkdir()
    shutil.copy(path / 'net.pkl', path / 'run' / 'network-snapshot-000000.pkl')
    torch.save({'net': {}}, path / 'state.pt')
    for name in ('text.txt', 'text.npz'):
        (path / name).write_text('no such thing')
    (path / 'other.json').write_text(json.dumps({'data': 1}))
    for name in ('images', 'empty', 'mixed'):
        (path / name).mkdir()
    for i, size in enumerate((8, 8, 16)):
        Image.new('L', (8, 8), i).save(path / 'images' / f'{i}.png')
        Image.new('L', (size, size), i).save(path / 'mixed' / f'{i}.png')
    np.savez(path / 'a.npz', features=np.eye(3, dtype=np.float32))
    np.savez(path / 'b.npz', features=np.eye(4, dtype=np.float32))
    np.savez(path / 'nan.npz', features=np.full((3, 3), np.nan, np.float32))
    np.savez(path / 'objects.npz', features=np.array([None, {}], dtype=object))
    return path


@pytest.mark.parametrize(('line', 'status', 'says'), [
    *((line, 2, says) for line, says in USAGE), *((line, 1, says) for line, says in DATA)],
    ids=lambda value: value.replace(DIGITS, 'digits') if isinstance(value, str) else str(value))
def test_a_wrong_invocation_is_refused_and_leaves_nothing(line, status, says, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(folder / 'cache'))
    monkeypatch.setattr(downloads, 'FIRST_WAIT', 0.001)
    before = files(folder)
    script, *args = line.split()
    refuse(importlib.import_module(script).main, *args, status=status, says=(says,))
    assert files(folder) == before


# Command line without the options at its end: one of them names an input, the other an output.
WRITES = [
    ('dataset_tool', '--source', '--dest', 'x.zip'),
    ('generate --outdir=new', '--network', '--grid', 'x.png'),
    ('generate --outdir=new', '--network', '--trajectory', 'x.npz'),
    ('generate --optimal_denoiser --outdir=new', '--dataset', '--trajectory', 'x.npz'),
    ('generate --optimal_denoiser', '--dataset', '--outdir', 'images'),
    ('sscd feature', '--images', '--features', 'x.npz'),
    ('sscd feature --images=a.npz', '--model', '--features', 'x.npz'),
    *((f'sscd {command}', option, '--json', 'x.npz') for option in ('--source --target', '--target --source')
      for command in ('rpscore', 'mscore', 'maescore')),
    ('sscd mscore --target=a.npz', '--source', '--neighbors', 'x.npz'),
    ('sscd matrix --names a b --features a.npz', '--features', '--table', 'x.npz'),
    ('sscd matrix --names a b --images a.npz', '--images', '--table', 'x.npz'),
    ('sscd rpscore --width 8 16 --target=a.npz', '--source', '--table', 'x.npz'),
    *((f'plot {command}', option, '--out', 'x.png') for command, option in (
        ('regimes', '--table'), ('regimes --table=a.csv', '--neighbors'), ('denoisers', '--table'),
        ('neighbors', '--neighbors'), ('neighbors --neighbors=a.npz', '--samples'), ('jacobian', '--ranks'),
        ('similarity', '--table'), ('phase-transition', '--results'))),
    ('denoise error --network=net.pkl', '--data', '--out', 'x.csv'),
    ('jacobian', '--network_pkl', '--out', 'x.npz'),
    ('jacobian --network_pkl=net.pkl', '--data', '--out', 'x.npz'),
    ('jacobian', '--network_pkl', '--figure', 'x.png'),
]


@pytest.mark.parametrize(('line', 'source', 'target', 'name'), WRITES, ids=str)
def test_an_output_that_is_an_input_is_refused_before_it_is_read(line, source, target, name, folder, tmp_path,
                                                                 monkeypatch):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if not path.exists():
        path.write_bytes(b'nothing that could be read')
    before = files(tmp_path)
    script, *args = line.split()
    for option in source.split():  # of two the second is another file
        args += [option, name if option == source.split()[0] else 'a.npz']
    refuse(importlib.import_module(script).main, *args, target, f'./{name}', status=2,
           says=(f'{target} ./{name}: is {source.split()[0]} as well',))
    assert files(tmp_path) == before


ALIEN = [
    ('dataset_tool --source=images', '--dest', 'x.zip'),
    ('generate --network=net.pkl --outdir=new', '--grid', 'x.png'),
    ('generate --network=net.pkl --outdir=new', '--trajectory', 'x.npz'),
    ('denoise error --network=net.pkl --data=images', '--out', 'x.csv'),
    ('sscd feature --images=images', '--features', 'x.npz'),
    ('sscd rpscore --source=a.npz --target=a.npz', '--json', 'x'),
    ('sscd mscore --source=a.npz --target=a.npz', '--json', 'x'),
    ('sscd mscore --source=a.npz --target=a.npz', '--neighbors', 'x.npz'),
    ('sscd maescore --source=images --target=images', '--json', 'x'),
    ('plot training images', '--out', 'x.pdf'),
    ('jacobian --network_pkl=net.pkl', '--figure', 'x.png'),
    ('reproduce phase-transition', '--out', 'x'),
    ('reproduce report images', '--out', 'x.html'),
]


@pytest.mark.parametrize(('line', 'target', 'name'), ALIEN, ids=str)
def test_a_file_of_someone_else_is_not_replaced_unasked(line, target, name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / name).write_bytes(b'PK, {, %PDF: no file that these scripts wrote')
    before = files(folder)
    script, *args = line.split()
    refuse(importlib.import_module(script).main, *args, target, name, status=2,
           says=(f'{target} {name}: exists, and is no', '--overwrite'))
    assert files(folder) == before
    (folder / name).unlink()


def test_outputs_of_the_scripts_are_known_as_such(folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = set(folder.iterdir())
    for line in (
            'dataset_tool --source=images --dest=o.zip',
            'generate --network=net.pkl --outdir=o --seeds=0-3 --steps=2 --grid=o.png --trajectory=o.npz '
            '--device=cpu',
            'denoise error --network=net.pkl --data=images --out=d.csv --seeds=0,1 --sigmas=1 --device=cpu',
            'sscd feature --images=o.zip --features=f.npz --descriptor=pixel',
            'sscd rpscore --source=f.npz --target=f.npz --t=.9 --json=rp.json',
            'sscd mscore --source=f.npz --target=f.npz --t=.9 --json=gl.json --neighbors=n.npz',
            'sscd maescore --source=images --target=images --json=mae.json',
            'sscd matrix --names a b --images images images --table=m.csv',
            'plot similarity --table=m.csv --out=m.png', 'plot similarity --table=m.csv --out=m.pdf',
            'reproduce phase-transition --dims=1 --ratios=1 --trials=1 --restarts=1 --steps=1 --img_res=1 '
            '--out=p.json --device=cpu'):
        script, *args = line.split()
        for _ in range(2):  # the second time over the first one's files
            run(importlib.import_module(script).main, *args)
    for path in set(folder.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def files(folder):
    """All files and folders but the cache of downloads, with sizes."""
    return {(os.path.relpath(path, folder), path.stat().st_size if path.is_file() else None)
            for path in folder.rglob('*') if 'cache' not in path.relative_to(folder).parts[:1]}


def test_the_table_covers_the_scripts():
    scripts = {path.stem for path in (ROOT / 'edm').glob('*.py')}
    assert {line.split()[0] for line, _ in USAGE + DATA} == scripts
