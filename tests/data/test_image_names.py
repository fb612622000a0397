"""Which files count as images, in folders and zips, and what is said of those that don't."""

import itertools

import numpy as np
import pytest
from PIL import Image

import dataset_tool
import sscd
from data.dataset import ImageDataset
from helpers import run
from image_sets import encode, write

PICTURE = np.random.RandomState(0).randint(256, size=(8, 8, 3), dtype=np.uint8)
SEEN = {'cats/a.png': PICTURE, 'dogs/b.png': PICTURE}

HIDDEN = {
    '.ipynb_checkpoints/a-checkpoint.png': '.ipynb_checkpoints/',
    'cats/.ipynb_checkpoints/a-checkpoint.png': 'cats/.ipynb_checkpoints/',
    'cats/._a.png': 'cats/._a.png',
    '__MACOSX/cats/._a.png': '__MACOSX/',
    'cats/@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg': 'cats/@eaDir/',
    '.@__thumb/s100a.png': '.@__thumb/',
    '#recycle/old.png': '#recycle/',
    '$Recycle.Bin/old.png': '$Recycle.Bin/',
    '.cache.npz': None,
    'Icon\r': None,
    'cats/Thumbs.db': None,
    '.DS_Store': None,
}


@pytest.mark.parametrize('place', ['set', 'set.zip'])
@pytest.mark.parametrize('name', HIDDEN)
def test_hidden_and_system_files_are_no_images_and_no_classes(tmp_path, place, name):
    path = write(tmp_path / place, SEEN | {name: b'no image' if '._' in name else PICTURE})
    assert ImageDataset(path).file_names == list(SEEN)
    done = run(dataset_tool.main, '--source', path, '--dest', tmp_path / 'out')
    assert 'class 1: folder dogs, 1 images' in done.stderr
    assert 'class 2' not in done.stderr
    features = run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'f.npz',
                   '--descriptor=pixel', '--device=cpu')
    for printed in done.stderr, features.stderr:
        says = HIDDEN[name] and f'{path}: skipped files: 1 hidden or system ({HIDDEN[name]})\n'
        assert says in printed if says else 'skipped' not in printed


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_formats_that_are_no_images_are_counted_and_skipped(tmp_path, place, capfd):
    others = ['a.pdf', 'birds/b.h5', 'birds/c.MPG', 'd.grib', 'x.txt', 'dataset.json.bak']
    path = write(tmp_path / place, SEEN | dict.fromkeys(others, b'something else'))
    assert ImageDataset(path).file_names == list(SEEN)
    assert '4 of no image format (a.pdf, birds/b.h5, birds/c.MPG, d.grib)\n' in capfd.readouterr().err


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_pictures_of_formats_that_can_not_be_read_are_named(tmp_path, place, capfd):
    others = ['1.HEIC', '2.heif', '3.jxl', '4.dng', '5.CR3', '6.arw', '7.svg', '8.eps', 'cats/9.nef', 'z.exr',
              'zz.wmf', 'zzz.psb']
    path = write(tmp_path / place, SEEN | dict.fromkeys(others, b'something else'))
    assert ImageDataset(path).file_names == list(SEEN)
    assert f'12 of image formats that can\'t be read here ({", ".join(others[:10])}, 2 more)' in (
        capfd.readouterr().err)


def test_all_formats_that_pil_can_read_and_write_are_images(tmp_path):
    Image.init()
    kinds = [extension for extension, kind in Image.registered_extensions().items()
             if kind in Image.OPEN and kind in Image.SAVE and kind not in
             ('EPS', 'BUFR', 'GRIB', 'HDF5', 'WMF')]  # which other programs must do for it
    assert {'.png', '.jpg', '.jpeg', '.tif', '.webp', '.bmp', '.gif', '.ppm', '.tga'} <= set(kinds)
    path = write(tmp_path / 'set', {f'a{kind.upper()}': encode(PICTURE) for kind in kinds})
    write(path, {'b.mpo': encode(PICTURE, format='JPEG')})
    assert len(ImageDataset(path)) == len(kinds) + 1


def test_the_line_comes_once_in_a_command(tmp_path):
    path = write(tmp_path / 'set', SEEN | {'.x/a.png': PICTURE})
    done = run(sscd.main, 'feature', '--images', path, '--features', tmp_path / 'f.npz', '--descriptor=pixel',
               '--device=cpu')
    assert done.stderr.count('skipped files') == 1


SPACES = ['\xa0', '\u1680', '\u2009', '\u202f', '\u205f', '\u3000']
OTHERS = ['\u200b', '\u200e', '\u200d', '\ufeff', '\uf022', 'e\u0301', '\U0001f468\u200d\U0001f469']


@pytest.mark.parametrize('text', SPACES + OTHERS)
def test_zips_may_have_names_with_any_space_or_letter(tmp_path, text):
    name = f'Screenshot at 10.00.00{text}AM.png'
    for place in 'set', 'set.zip':
        path = write(tmp_path / place, {name: PICTURE, 'dataset.json': {'labels': [[name, 0]]}})
        assert ImageDataset(path, use_labels=True).file_names == [name]


def test_file_names_that_are_no_utf8_are_read(tmp_path):
    (tmp_path / 'set').mkdir()
    with open(bytes(tmp_path / 'set') + b'/caf\xe9.png', 'wb') as file:
        file.write(encode(PICTURE))
    run(dataset_tool.main, '--source', tmp_path / 'set', '--dest', tmp_path / 'out.zip')
    assert len(ImageDataset(tmp_path / 'set')) == len(ImageDataset(tmp_path / 'out.zip')) == 1


def test_folders_of_links_count_once_however_the_links_lead(tmp_path, capfd):
    folders = [f'{i:02d}' for i in range(16)]  # with a link in each to each: some 10^13 paths
    write(tmp_path / 'set', {f'{folder}/x.png': PICTURE for folder in folders})
    for one, other in itertools.permutations(folders, 2):
        (tmp_path / 'set' / one / f'to-{other}').symlink_to(tmp_path / 'set' / other)
    write(tmp_path / 'elsewhere', {'y.png': PICTURE})
    (tmp_path / 'elsewhere' / 'back').symlink_to(tmp_path / 'set')
    (tmp_path / 'set' / 'also').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'set' / 'itself').symlink_to('itself')
    assert ImageDataset(tmp_path / 'set').file_names == [*(f'{i}/x.png' for i in folders), 'also/y.png']
    assert '241 linked twice (00/to-01/, ' in capfd.readouterr().err
