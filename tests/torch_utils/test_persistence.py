import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch

from foreign_snapshots import dump_foreign, module
from training import augment, loss, networks, snapshot

TINY = {'img_resolution': 4, 'img_channels': 1, 'model_type': 'SongUNet', 'model_channels': 8,
        'channel_mult': [1, 2], 'num_blocks': 1, 'attn_resolutions': [2], 'augment_dim': 9}
PIPE = {'p': 0.12, 'xflip': 1e8, 'yflip': 1, 'scale': 1, 'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}


def tiny_net(**kwargs):
    torch.manual_seed(1)
    return networks.EDMPrecond(**TINY | kwargs)


def test_source_text_is_not_run_by_plain_pickle_load_either(tmp_path):
    mark = tmp_path / 'mark'
    layer = networks.Linear(2, 3)
    function, (meta,) = layer.__reduce__()
    assert 'class Linear' in meta['module_src']
    other = function(meta | {'module_src': f'open({str(mark)!r}, "w")'})
    assert torch.equal(other(torch.ones(1, 2)), layer(torch.ones(1, 2)))
    assert not mark.exists()


def test_unknown_classes_are_refused_by_plain_pickle_load_too():
    with pytest.raises(pickle.UnpicklingError, match='FlowPrecond'):
        pickle.loads(dump_foreign(module('FlowPrecond')))


def test_constructor_arguments_are_recorded_as_given():
    layer = networks.Conv2d(4, 8, kernel=3, up=True)
    assert layer._init_args == (4, 8)
    assert layer._init_kwargs == {'kernel': 3, 'up': True}


def test_a_class_derived_from_a_persistent_one_is_not_pickled_as_its_parent():
    class Wider(networks.Linear):
        pass

    with pytest.raises(TypeError, match='Wider'):
        pickle.dumps(Wider(2, 3))


def test_a_copy_of_a_network_keeps_its_arguments():
    net = tiny_net(num_blocks=2)
    other = copy.deepcopy(net)
    assert type(other) is type(net)
    assert other._init_kwargs == net._init_kwargs
    assert other.model.enc['4x4_conv']._init_args == net.model.enc['4x4_conv']._init_args
    assert all(torch.equal(*pair) for pair in zip(other.parameters(), net.parameters(), strict=True))
    other.model.map_layer0.weight.data.zero_()
    assert net.model.map_layer0.weight.any()


# Other software's reader, in our words: it runs the text in the file and fills objects with the state.
READER = '''
import types

def persistent_class(base):
    class Persistent(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._init_args, self._init_kwargs = args, kwargs
    Persistent.__name__ = base.__name__
    return Persistent

modules = {}

def _reconstruct_persistent_obj(meta):
    text = meta['module_src']
    if text not in modules:
        modules[text] = types.ModuleType(f'from_snapshot_{len(modules)}')
        exec(compile(text, modules[text].__name__, 'exec'), vars(modules[text]))
    cls = getattr(modules[text], meta['class_name'])
    obj = cls.__new__(cls)
    getattr(obj, '__setstate__', obj.__dict__.update)(meta['state'])
    return obj
'''

USE = '''
import pickle, sys, torch
torch.set_num_threads(1)
with open('net.pkl', 'rb') as file:
    contents = pickle.load(file)
inputs = torch.load('inputs.pt')
with torch.no_grad():
    out = contents['ema'](**inputs)
    torch.manual_seed(4)
    loss = contents['loss_fn'](contents['ema'], inputs['x'], None, contents['augment_pipe'])
torch.save({'out': out, 'loss': loss, 'ours': 'training.networks' in sys.modules}, 'out.pt')
'''

def run_python(folder, script, path):
    env = os.environ | {'PYTHONPATH': str(path), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', script], cwd=folder, env=env, text=True, check=False,
                          capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize('reader', ['other', 'ours'])
def test_plain_pickle_load_gives_a_working_network(reader, tmp_path, monkeypatch):
    net = tiny_net(label_dim=3, resample_filter=[1, 3, 3, 1]).eval()
    loss_fn, pipe = loss.EDMLoss(sigma_data=0.25), augment.AugmentPipe(**PIPE)
    snapshot.save_snapshot(tmp_path / 'net.pkl', ema=net, loss_fn=loss_fn, augment_pipe=pipe)
    inputs = {'x': torch.randn(2, 1, 4, 4), 'sigma': torch.tensor([0.3, 5]), 'class_labels': torch.eye(3)[:2],
              'augment_labels': torch.randn(2, 9)}
    torch.save(inputs, tmp_path / 'inputs.pt')
    if reader == 'other':
        package = tmp_path / 'other' / 'torch_utils'
        package.mkdir(parents=True)
        (package / '__init__.py').touch()
        (package / 'misc.py').touch()
        (package / 'persistence.py').write_text(READER)
        run_python(tmp_path, USE, tmp_path / 'other')
    else:
        monkeypatch.chdir(tmp_path)
        exec(USE, {})
    results = torch.load(tmp_path / 'out.pt')
    assert results['ours'] == (reader == 'ours')
    with torch.no_grad():
        assert torch.equal(results['out'], net(**inputs))
        torch.manual_seed(4)
        expected = loss_fn(net, inputs['x'], None, pipe)
    assert torch.equal(results['loss'], expected)
