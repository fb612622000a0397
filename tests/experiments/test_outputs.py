"""The outputs of stages count as whole if later stages would take the right ones."""

import json

import numpy as np
import pytest

import train
from experiments.outputs import fault, files
from helpers import run
from image_sets import write


@pytest.mark.parametrize(('total_kimg', 'batch', 'name'), [
    (50000, 512, '050000'), (50000, 4096, '050003'), (50000, 128, '050000'), (1, 64, '000001')])
def test_a_run_is_whole_with_the_snapshot_of_its_last_batch(total_kimg, batch, name, tmp_path):
    options = {'total_kimg': total_kimg, 'batch_size': batch}
    (tmp_path / 'training_options.json').write_text(json.dumps(options))
    (tmp_path / 'network-snapshot-000000.pkl').touch()
    assert f'did not leave {tmp_path}/network-snapshot-{name}.pkl' in fault([tmp_path], None)
    (tmp_path / f'network-snapshot-{name}.pkl').touch()
    assert fault([tmp_path], None) is None


def test_a_snapshot_of_a_longer_run_is_a_fault_as_scripts_would_take_it(tmp_path):
    (tmp_path / 'training_options.json').write_text('{"total_kimg": 20, "batch_size": 100}')
    for name in '000020', '000040':
        (tmp_path / f'network-snapshot-{name}.pkl').touch()
    assert 'network-snapshot-000040.pkl is of a longer run: remove it' in fault([tmp_path], None)
    assert {path.name[17:23] for path in files([tmp_path])} == {'000020', '000040'}


@pytest.mark.parametrize('text', ['', '[]', '{"total_kimg": 1}', '{"total_kimg": "x", "batch_size": 0}',
                                  'null', '{"total_kimg": 1, "batch_size": 0}'])
def test_a_run_with_damaged_settings_is_not_whole(text, tmp_path):
    (tmp_path / 'training_options.json').write_text(text)
    assert 'did not leave a whole' in fault([tmp_path], None)


def test_train_leaves_a_whole_run(tmp_path):
    (tmp_path / 'data').mkdir()
    data = write(tmp_path / 'data', {'a.png': np.zeros((4, 4, 3), np.uint8)})
    run(train.main, f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', '--cbase=4', '--cres=1',
        '--num_blocks=1', '--attn_resolutions=0', '--device=cpu', '--batch', '1500', '--duration', '0.002')
    assert (tmp_path / 'run' / 'network-snapshot-000003.pkl').exists()
    assert fault([tmp_path / 'run'], None) is None
