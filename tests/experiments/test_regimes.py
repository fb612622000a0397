"""The main experiment's stages name the files that the scripts leave."""

import numpy as np
import pytest

import train
from experiments.regimes import last_snapshot
from helpers import run
from image_sets import write
from torch_utils.errors import UserError


@pytest.mark.parametrize(('args', 'name'), [
    (('--duration', '50'), '050000'),
    (('--duration', '50', '--batch=4096'), '050003'),
    (('--duration', '50', '--batch', '4096', '--batch', '128'), '050000'),
    (('--duration', '0.00001', '--batch', '64'), '000001'),
    (('--batch', '1'), '200000'),
])
def test_the_last_snapshot_is_named_by_whole_batches(args, name):
    assert last_snapshot(args) == f'network-snapshot-{name}.pkl'


@pytest.mark.parametrize('args', [('--duration', 'inf'), ('--batch', '0'), ('--batch', 'many')])
def test_options_that_are_no_numbers_are_refused(args):
    with pytest.raises(UserError, match=f'--duration, --batch in {args[0]}'):
        last_snapshot(args)


def test_train_leaves_the_last_snapshot_under_that_name(tmp_path):
    (tmp_path / 'data').mkdir()
    data = write(tmp_path / 'data', {'a.png': np.zeros((4, 4, 3), np.uint8)})
    args = ('--batch', '1500', '--duration', '0.002')
    run(train.main, f'--outdir={tmp_path / "run"}', '--nosubdir', f'--data={data}', '--cbase=4', '--cres=1',
        '--num_blocks=1', '--attn_resolutions=0', '--device=cpu', *args)
    newest = max(path.name for path in (tmp_path / 'run').glob('*.pkl'))
    assert newest == last_snapshot(args) == 'network-snapshot-000003.pkl'
