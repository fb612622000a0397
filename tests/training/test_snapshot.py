import pickle
import pickletools
from pathlib import Path

import numpy as np
import pytest
import torch

from foreign_snapshots import (
    GOLDEN,
    dump_foreign,
    golden_bytes,
    load_foreign,
    module,
    with_old_numpy_names,
    write,
)
from golden_networks import golden_network
from torch_utils.errors import UserError
from training import augment, build, loss, networks, snapshot

CPU = torch.device('cpu')
TINY = {'img_resolution': 4, 'img_channels': 1, 'model_type': 'SongUNet', 'model_channels': 8,
        'channel_mult': [1, 2], 'num_blocks': 1, 'attn_resolutions': [2], 'augment_dim': 9}
PIPE = {'p': 0.12, 'xflip': 1e8, 'yflip': 1, 'scale': 1, 'rotate_frac': 1, 'aniso': 1, 'translate_frac': 1}


@pytest.fixture
def golden_path(tmp_path):
    return write(tmp_path / 'golden.pkl', golden_bytes())


def tiny_net(cls=networks.EDMPrecond, **kwargs):
    torch.manual_seed(1)
    return cls(**TINY | kwargs)


def output(net, arrays):
    inputs = {key: torch.from_numpy(arrays[key]) for key in ('x', 'sigma', 'class_labels', 'augment_labels')
              if key in arrays}
    with torch.no_grad():
        return net(**inputs)


def same_tensors(net, other) -> bool:
    ours, theirs = net.state_dict(), other.state_dict()
    return list(ours) == list(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def refuse(path, *words) -> str:
    with pytest.raises(UserError) as caught:
        snapshot.load_snapshot(str(path))
    message = str(caught.value)
    assert '\n' not in message
    for word in ('--network', str(path), *words):
        assert word in message, message
    return message


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_snapshots_hold_the_golden_networks(name, tmp_path, capsys):
    net = snapshot.load_network(str(write(tmp_path / 'net.pkl', golden_bytes(name))), CPU)
    reference, arrays = golden_network(GOLDEN[name])
    assert same_tensors(net, reference)
    # The outputs are those of the same class with the same weights, which test_networks compares with the
    # reference's numbers.
    assert torch.equal(output(net, arrays), output(reference, arrays))
    assert {p.dtype for p in net.state_dict().values()} == {torch.float32}
    assert not net.training
    assert not any(p.requires_grad for p in net.parameters())
    assert capsys.readouterr().err == ''


def test_the_other_keys_of_a_snapshot(golden_path):
    contents = snapshot.load_snapshot(str(golden_path))
    assert list(contents) == ['ema', 'loss_fn', 'augment_pipe', 'dataset_kwargs']
    assert contents['loss_fn'].class_name == 'EDMLoss'
    assert contents['augment_pipe'].class_name == 'AugmentPipe'
    assert contents['augment_pipe'].state['p'] == 0.12
    assert type(contents['dataset_kwargs']) is dict
    assert contents['dataset_kwargs']['max_size'] == 100


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('numpy_names', ['numpy.core', 'numpy._core'])
def test_snapshots_of_other_pickle_protocols_and_numpy_versions(protocol, numpy_names, tmp_path):
    data = dump_foreign(load_foreign(golden_bytes()), protocol)
    if numpy_names == 'numpy.core':
        data = with_old_numpy_names(data)
    net = snapshot.load_network(str(write(tmp_path / 'net.pkl', data)), CPU)
    assert same_tensors(net, golden_network('edm-ddpmpp')[0])


def test_numpy_arrays_among_the_arguments(tmp_path):
    for protocol in 2, 4:
        contents = load_foreign(golden_bytes())
        contents['ema'].state['_init_kwargs']['resample_filter'] = np.array([1, 1], dtype='>i4')
        data = with_old_numpy_names(dump_foreign(contents, protocol))
        net = snapshot.load_network(str(write(tmp_path / 'net.pkl', data)), CPU)
        assert same_tensors(net, golden_network('edm-ddpmpp')[0])


def test_snapshots_without_keys_or_attributes_that_came_later(tmp_path):
    contents = load_foreign(golden_bytes())
    del contents['ema'].state['sigma_data'], contents['ema'].state['_backward_pre_hooks']
    path = write(tmp_path / 'net.pkl', dump_foreign({'ema': contents['ema']}))
    contents = snapshot.load_snapshot(str(path))
    assert list(contents) == ['ema']
    reference, arrays = golden_network('edm-ddpmpp')
    assert torch.equal(output(contents['ema'], arrays), output(reference, arrays))


def test_half_precision_tensors_become_float32(tmp_path):
    contents = load_foreign(golden_bytes())
    layer0 = contents['ema'].state['_modules']['model'].state['_modules']['map_layer0']
    weight = layer0.state['_parameters']['weight']
    half = weight.detach().to(torch.bfloat16).t().contiguous().t()
    layer0.state['_parameters']['weight'] = torch.nn.Parameter(half)
    net = snapshot.load_network(str(write(tmp_path / 'net.pkl', dump_foreign(contents))), CPU)
    assert same_tensors(net, golden_network('edm-ddpmpp')[0])  # the golden weights are exact in bfloat16
    assert net.model.map_layer0.weight.is_contiguous()


def test_loading_draws_no_random_numbers(golden_path):
    torch.manual_seed(3)
    snapshot.load_network(str(golden_path), CPU)
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def test_a_network_of_unknown_source_text_is_noted_in_one_line(tmp_path, capsys):
    contents = load_foreign(golden_bytes())
    contents['ema'].state['_modules']['model'].meta['module_src'] = 'import other'
    path = write(tmp_path / 'fork.pkl', dump_foreign(contents))
    snapshot.load_network(str(path), CPU)
    noted = capsys.readouterr().err
    assert noted.startswith('note: ')
    assert noted.count('\n') == 1
    assert str(path) in noted


def edited(tmp_path, edit) -> Path:
    contents = load_foreign(golden_bytes())
    edit(contents['ema'])
    return write(tmp_path / 'edited.pkl', dump_foreign(contents))


def layer(ema):
    return ema.state['_modules']['model'].state['_modules']['map_layer1']


def test_tensors_that_do_not_fit_are_named(tmp_path):
    def wider(ema):
        layer(ema).state['_parameters']['bias'] = torch.zeros(65)

    def integers(ema):
        layer(ema).state['_parameters']['bias'] = torch.zeros(64, dtype=torch.int64)

    refuse(edited(tmp_path, wider), 'model.map_layer1.bias', '[65]', '[64]')
    refuse(edited(tmp_path, integers), 'model.map_layer1.bias', 'int64')
    refuse(edited(tmp_path, lambda ema: layer(ema).state['_parameters'].pop('bias')),
           'model.map_layer1.bias', 'is nothing')
    refuse(edited(tmp_path, lambda ema: layer(ema).state['_buffers'].update(more=torch.zeros(2))),
           'model.map_layer1.more')


def test_classes_and_arguments_that_we_lack_are_named(tmp_path):
    refuse(edited(tmp_path, lambda ema: ema.meta.update(class_name='FlowPrecond')), 'FlowPrecond', 'EDM')
    refuse(edited(tmp_path, lambda ema: ema.meta.update(class_name='Linear')), 'Linear')
    refuse(edited(tmp_path, lambda ema: ema.meta.update(class_name='Precond')), 'EDM2', 'not read')
    refuse(edited(tmp_path, lambda ema: ema.meta.update(version=7)), 'version')
    refuse(edited(tmp_path, lambda ema: ema.state['_init_kwargs'].update(rotary=True)), 'rotary')


def test_an_unknown_loss_does_not_keep_the_network_from_being_used(tmp_path):
    contents = load_foreign(golden_bytes())
    contents['loss_fn'].meta['class_name'] = 'FlowLoss'
    path = write(tmp_path / 'net.pkl', dump_foreign(contents))
    contents = snapshot.load_snapshot(str(path))
    assert contents['loss_fn'].class_name == 'FlowLoss'
    assert same_tensors(contents['ema'], golden_network('edm-ddpmpp')[0])


@pytest.mark.parametrize(('name', 'value'), [
    ('img_resolution', 2**40), ('model_channels', 2**31), ('label_dim', 10**12), ('num_blocks', 100_000),
    ('channel_mult', [1] * 10**6), ('model_channels', 100_000), ('channel_mult', [2**62, 2]),
    ('resample_filter', [1.0] * 100_000), ('num_blocks', 1e300)])
def test_arguments_of_any_size_are_refused_soon(name, value, tmp_path):
    refuse(edited(tmp_path, lambda ema: ema.state['_init_kwargs'].update({name: value})))


def test_modules_without_end_are_refused(tmp_path):
    itself = torch.nn.ModuleDict()
    itself._modules['again'] = itself
    refuse(write(tmp_path / 'net.pkl', dump_foreign({'ema': module('EDMPrecond', _modules={'a': itself})})),
           'than it claims')
    doubling = module('Linear')
    for _ in range(60):  # 2^60 paths in a small file
        doubling = module('Linear', _modules={'a': doubling, 'b': doubling})
    refuse(write(tmp_path / 'net.pkl', dump_foreign({'ema': doubling})), 'than it claims')
    shared = torch.zeros(10_000)
    many = module('EDMPrecond', _buffers={f'b{i}': shared for i in range(1000)})
    refuse(write(tmp_path / 'net.pkl', dump_foreign({'ema': many})), 'than it claims')


def test_files_of_other_kinds_are_named(tmp_path):
    torch.save({'step': 1}, tmp_path / 'training-state-000001.pt')
    refuse(tmp_path / 'training-state-000001.pt', 'training-state', 'network-snapshot-*.pkl')
    torch.save({'step': 1}, tmp_path / 'old.pt', _use_new_zipfile_serialization=False)
    refuse(tmp_path / 'old.pt', 'training-state')
    refuse(write(tmp_path / 'a.gz', b'\x1f\x8b\x08'), 'gzip')
    refuse(write(tmp_path / 'a.html', b'<!DOCTYPE html><html>'), 'web page')
    refuse(write(tmp_path / 'empty', b''), 'empty')
    refuse(write(tmp_path / 'text', b'hello\n' * 1000), 'no pickle')
    refuse(write(tmp_path / 'a.pkl', pickle.dumps({'G_ema': 1})), 'ema', 'G_ema')
    refuse(write(tmp_path / 'a.pkl', pickle.dumps({'ema': {'weight': 1}})), 'ema is a plain dict')
    refuse(write(tmp_path / 'a.pkl', pickle.dumps([1, 2])), 'no dict')
    with pytest.raises(UserError, match=r'--teacher .*no such file'):
        snapshot.load_network(str(tmp_path / 'missing.pkl'), CPU, option='--teacher')


def write_tiny(path, cls=networks.EDMPrecond, **kwargs):
    net = tiny_net(cls, **kwargs)
    snapshot.save_snapshot(path, ema=net, loss_fn=loss.EDMLoss(sigma_data=np.float64(0.25)),
                           augment_pipe=augment.AugmentPipe(**PIPE),
                           dataset_kwargs={'path': 'data.zip', 'resolution': np.int64(4), 'max_size': None})
    return net


@pytest.mark.parametrize('cls', build.PRECONDS.values())
def test_what_is_written_is_read_back_exactly(cls, tmp_path, capsys):
    net = write_tiny(tmp_path / 'net.pkl', cls, label_dim=3, resample_filter=[1, 3, 3, 1])
    contents = snapshot.load_snapshot(str(tmp_path / 'net.pkl'))
    assert same_tensors(contents['ema'], net)
    assert contents['ema']._init_kwargs == net._init_kwargs
    assert contents['loss_fn'].state['sigma_data'] == 0.25
    assert contents['augment_pipe'].state['xflip'] == 1e8
    assert contents['dataset_kwargs'] == {'path': 'data.zip', 'resolution': 4, 'max_size': None}
    assert net.training  # the caller's network stays as it was
    assert capsys.readouterr().err == ''


def names_in(data: bytes) -> set[str]:
    """The globals that a pickle names."""
    texts, memo, names = [], [], set()
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == 'MEMOIZE':
            memo.append(texts[-1] if texts else None)
        elif opcode.name in ('BINGET', 'LONG_BINGET'):
            texts.append(memo[argument])
        elif opcode.name == 'STACK_GLOBAL':
            names.add('.'.join(texts[-2:]))
            texts.append(None)
        else:
            assert opcode.name != 'GLOBAL'
            texts.append(argument if isinstance(argument, str) else None)
    return names


def test_written_files_name_only_what_every_reader_knows(tmp_path):
    write_tiny(tmp_path / 'net.pkl', resample_filter=[1, 3, 3, 1])
    data = (tmp_path / 'net.pkl').read_bytes()
    assert max(opcode.proto for opcode, _, _ in pickletools.genops(data)) <= 4
    assert names_in(data) == {
        'torch_utils.persistence._reconstruct_persistent_obj', 'collections.OrderedDict',
        'torch._utils._rebuild_parameter', 'torch._utils._rebuild_tensor_v2',
        'torch.storage._load_from_bytes', 'torch.nn.modules.container.ModuleDict'}
    assert data.count(b'class EDMPrecond(') == 1  # the source text is there, and once
    assert data.count(b'class AugmentPipe') == 1


def test_written_tensors_are_contiguous_and_their_own(tmp_path):
    net = tiny_net().to(memory_format=torch.channels_last)
    flat = torch.zeros(1_000_000)
    net.model.map_layer0.bias.data = flat[:net.model.map_layer0.bias.numel()]
    snapshot.save_snapshot(tmp_path / 'net.pkl', ema=net)
    assert (tmp_path / 'net.pkl').stat().st_size < 1_000_000
    ema = pickle.loads((tmp_path / 'net.pkl').read_bytes())['ema']
    assert all(tensor.is_contiguous() for tensor in ema.state_dict().values())
    assert same_tensors(ema, net)


def test_a_compiled_network_is_written_without_its_code(tmp_path):
    compiled = tiny_net()
    compiled._compiled_call_impl = refuse  # as compiled.compile() does
    snapshot.save_snapshot(tmp_path / 'net.pkl', ema=compiled)
    assert same_tensors(snapshot.load_network(str(tmp_path / 'net.pkl'), CPU), compiled)


def test_what_others_cannot_read_is_not_written(tmp_path):
    path = tmp_path / 'net.pkl'
    hooked, inner = tiny_net(), tiny_net()
    hooked.register_forward_hook(refuse)
    inner.model.map_layer0 = torch.nn.Linear(8, 32)
    for ema in hooked, inner:
        with pytest.raises(TypeError, match='snapshot can\'t hold'):
            snapshot.save_snapshot(path, ema=ema)
    with pytest.raises(TypeError, match='Linear'):
        snapshot.save_snapshot(path, ema=torch.nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r'PosixPath|WindowsPath'):
        snapshot.save_snapshot(path, ema=tiny_net(), dataset_kwargs={'path': tmp_path})
    assert list(tmp_path.iterdir()) == []
