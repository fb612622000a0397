"""A disk that is full, an outdir that goes away: one clear line, and nothing half-written that looks whole.

The disk is a real one, a tmpfs of 128 KiB, where this process may mount one; else writing fails by injection.
"""

import errno
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

import dataset_tool
import generate
import sscd
import train
from helpers import ROOT, refuse, run
from sampling import generation
from torch_utils import files
from training.networks import EDMPrecond
from training.snapshot import load_snapshot, save_snapshot

FULL = os.strerror(errno.ENOSPC)
TINY = {'model_type': 'SongUNet', 'model_channels': 4, 'channel_mult': [1], 'num_blocks': 1}


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A folder that takes about 128 KiB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', str(folder)]
    if shutil.which('mount') and subprocess.run(mount, check=False, capture_output=True).returncode == 0:
        yield folder
        subprocess.run(['umount', '-l', str(folder)], check=True)
        return
    room, fsync = [1 << 17], os.fsync

    def full(descriptor):
        room[0] -= max(os.fstat(descriptor).st_size, 4096)
        if room[0] < 0:
            raise OSError(errno.ENOSPC, FULL)
        fsync(descriptor)
    monkeypatch.setattr(files.os, 'fsync', full)
    yield folder


@pytest.fixture(scope='module')
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp('network') / 'network-snapshot-000000.pkl'
    torch.manual_seed(0)
    save_snapshot(path, ema=EDMPrecond(32, 3, **TINY))
    return path


def leftovers(folder):
    return [path for path in folder.rglob('*') if '.tmp' in path.name]


def test_generate_says_that_the_disk_is_full_and_leaves_whole_images(network, small_disk):
    outdir = small_disk / 'out'
    refuse(generate.main, f'--network={network}', f'--outdir={outdir}', '--seeds=0-63', '--steps=2',
           '--batch=8', '--device=cpu', status=1, says=(FULL, str(outdir)))
    made = list(outdir.glob('*.png'))
    assert 0 < len(made) < 64
    for path in made:
        with Image.open(path) as image:
            image.load()
    assert not leftovers(small_disk)


def test_dataset_tool_leaves_no_part_of_a_data_set_on_a_full_disk(small_disk):
    digits = ROOT / 'datasets' / 'digits-8x8.zip'
    for dest in ('data.zip', 'folder'):
        refuse(dataset_tool.main, f'--source={digits}', f'--dest={small_disk / dest}', '--workers=1',
               status=1, says=(FULL, str(small_disk / dest)))
        assert not list(small_disk.iterdir())


def test_features_are_not_half_written_on_a_full_disk(small_disk):
    digits = ROOT / 'datasets' / 'digits-8x8.zip'
    refuse(sscd.main, 'feature', f'--images={digits}', f'--features={small_disk / "x.npz"}', '--device=cpu',
           '--descriptor=pixel', status=1, says=(FULL, str(small_disk / 'x.npz')))
    assert not list(small_disk.iterdir())


def test_a_snapshot_appears_whole_or_not_at_all(small_disk):
    torch.manual_seed(0)
    path = small_disk / 'network-snapshot-000000.pkl'
    net = EDMPrecond(4, 1, **TINY)
    save_snapshot(path, ema=net)
    with pytest.raises(OSError, match=f'{FULL}.*{path.name}'):
        save_snapshot(path, ema=EDMPrecond(8, 3, **TINY | {'model_channels': 32}))
    assert load_snapshot(str(path))['ema'].img_resolution == 4
    assert not leftovers(small_disk)


def test_an_outdir_that_goes_away_ends_sampling_in_one_line(network, tmp_path, monkeypatch):
    outdir = tmp_path / 'out'
    sample = generation.sample

    def sample_and_remove(*args, **options):
        shutil.rmtree(outdir)
        return sample(*args, **options)

    monkeypatch.setattr(generation, 'sample', sample_and_remove)
    refuse(generate.main, f'--network={network}', f'--outdir={outdir}', '--seeds=0-3', '--steps=2',
           '--device=cpu', status=1, says=(str(outdir),))


def test_training_goes_on_after_a_snapshot_that_could_not_be_written(small_disk, tmp_path):
    (tmp_path / 'data').mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / 'data' / f'{i}.png')
    done = run(train.main, f'--outdir={small_disk}', '--nosubdir', f'--data={tmp_path / "data"}',
               '--device=cpu', '--batch=500', '--duration=0.002', '--tick=1', '--snap=1', '--cbase=32',
               '--cres=1', '--num_blocks=1', '--augment=0', status=1)
    assert 'tick 1' in done.output
    assert FULL in done.output
    assert str(small_disk) in next(line for line in done.output.splitlines() if FULL in line)
    assert not leftovers(small_disk)
