"""The folder of samples: whose images lie there, who may add some, what is refused, replaced and removed."""

import json
from contextlib import ExitStack

import pytest
from PIL import Image

from sampling.generation import RECORD, image_path, sample_folder
from torch_utils.errors import UserError


def make(folder, seeds, num_steps=2, *, subdirs=False, resume=False, overwrite=False):
    """Stand in for generate.py; returns the seeds whose images were made, in black."""
    with sample_folder(folder, {'num_steps': num_steps}, seeds, subdirs=subdirs, resume=resume,
                       overwrite=overwrite) as todo:
        for seed in todo:
            path = image_path(folder, seed, subdirs)
            path.parent.mkdir(exist_ok=True)
            Image.new('L', (8, 8)).save(path)
        return todo


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob('*.png'))


@pytest.mark.parametrize('resume', [False, True])
def test_images_of_other_settings_that_would_stay_are_refused_or_removed(resume, tmp_path, capsys):
    make(tmp_path, range(4), num_steps=2)
    record = (tmp_path / RECORD).read_bytes()
    with pytest.raises(UserError, match=r'--outdir .* has images \([24]\) .*num_steps: 2 there, 3 now'):
        make(tmp_path, range(2), num_steps=3, resume=resume)
    assert (tmp_path / RECORD).read_bytes() == record
    assert len(names(tmp_path)) == 4
    assert make(tmp_path, range(2), num_steps=3, resume=resume, overwrite=True) == [0, 1]
    assert names(tmp_path) == ['000000.png', '000001.png']
    assert '2 further images' in capsys.readouterr().err


def test_images_that_no_record_names_are_not_replaced(tmp_path):
    Image.new('L', (8, 8), 255).save(tmp_path / '000001.png')
    with pytest.raises(UserError, match=r'000001\.png is not in generation\.json'):
        make(tmp_path, range(2))
    make(tmp_path, range(2), overwrite=True)
    with Image.open(tmp_path / '000001.png') as image:
        assert image.getpixel((0, 0)) == 0


def test_seeds_of_the_same_settings_gather_in_one_folder(tmp_path):
    make(tmp_path, range(3))
    assert make(tmp_path, range(2, 5)) == [2, 3, 4]
    assert make(tmp_path, range(6), resume=True) == [5]
    record = json.loads((tmp_path / RECORD).read_text())
    assert [run['seeds'] for run in record['runs']] == ['0-2', '2-4', '0-5']


def test_one_seed_does_not_lie_there_twice_in_folders_of_thousands_and_without(tmp_path):
    make(tmp_path, range(2))
    with pytest.raises(UserError, match=r'000000\.png is not in'):
        make(tmp_path, range(2), subdirs=True)
    make(tmp_path, range(2), subdirs=True, overwrite=True)
    assert names(tmp_path) == ['000000/000000.png', '000000/000001.png']


def test_while_images_are_made_only_those_of_the_same_settings_may_join(tmp_path):
    with ExitStack() as first:
        first.enter_context(sample_folder(tmp_path, {'num_steps': 2}, [0], subdirs=False, resume=False))
        assert make(tmp_path, [1]) == [1]
        for options in ({}, {'resume': True}, {'overwrite': True}):
            with pytest.raises(UserError, match='another process is writing images of other settings there '
                                                r'\(num_steps: 2 there, 3 now\)'):
                make(tmp_path, [2], num_steps=3, **options)
        assert names(tmp_path) == ['000001.png']
    assert make(tmp_path, [2], num_steps=3, overwrite=True) == [2]
    assert names(tmp_path) == ['000002.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['000002.png', RECORD]


def test_the_folder_is_held_until_the_last_has_left(tmp_path):
    with ExitStack() as second:
        with sample_folder(tmp_path, {'num_steps': 2}, [0], subdirs=False, resume=False):
            second.enter_context(sample_folder(tmp_path, {'num_steps': 2}, [1], subdirs=False, resume=False))
        with pytest.raises(UserError, match='another process'):
            make(tmp_path, [2], num_steps=3)


def test_a_run_that_fails_leaves_the_folder_to_others(tmp_path):
    with pytest.raises(RuntimeError), sample_folder(tmp_path, {'num_steps': 2}, [0], subdirs=False,
                                                    resume=False):
        raise RuntimeError
    assert make(tmp_path, [0], num_steps=3) == [0]
