"""SSCD: preprocessing against PIL itself, TorchScript networks, the model's file and its download."""

import http.server
import threading

import click
import numpy as np
import pytest
import torch
from PIL import Image

from descriptors import sscd_model, torchscript
from descriptors.sscd_model import MEAN, SIZE, STD, SscdDescriptor
from descriptors.torchscript import TorchScriptDescriptor
from scripted import pooled, save, save_script
from torch_utils import downloads
from torch_utils.errors import UserError
from torch_utils.files import sha256_file

CPU = torch.device('cpu')


def normalize(batch, device):
    return torchscript.normalize(batch, device, MEAN, STD)


def resize(image):
    return torchscript.resize(image, SIZE)


def find_model(model=None):
    return torchscript.find_network(model or sscd_model.URL)


def images(n=4, size=(32, 32), seed=0):
    pixels = np.random.RandomState(seed).randint(256, size=(n, *size, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


@pytest.mark.parametrize('size', [(32, 32), (17, 50), (320, 320), (411, 333)])
def test_preprocessing_is_pils_resize_and_the_formula_bit_by_bit(size):
    batch = np.stack([resize(image) for image in images(3, size)])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    for image, got in zip(images(3, size), normalize(batch, CPU), strict=True):
        pixels = torch.from_numpy(np.array(image.resize((320, 320), Image.Resampling.BILINEAR)))
        expected = (pixels.permute(2, 0, 1).float() / 255 - mean[:, None, None]) / std[:, None, None]
        assert torch.equal(got, expected)


def test_grey_images_become_rgb():
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    np.testing.assert_array_equal(resize(grey), resize(grey.convert('RGB')))
    assert resize(grey).shape == (320, 320, 3)


def test_descriptors_are_the_networks_brought_to_length_one(tmp_path):
    descriptor = SscdDescriptor(save_script(tmp_path / 'm.pt', pooled), CPU)
    batch = np.stack([descriptor.prepare(image) for image in images()])
    expected = pooled(normalize(batch, CPU)).double()
    expected /= expected.norm(dim=1, keepdim=True)
    got = descriptor.compute(batch)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_descriptors_that_the_network_normalises_stay_bit_by_bit(tmp_path):
    def function(x):
        return torch.nn.functional.normalize(pooled(x))
    descriptor = SscdDescriptor(save_script(tmp_path / 'm.pt', function), CPU)
    batch = np.stack([descriptor.prepare(image) for image in images()])
    np.testing.assert_array_equal(descriptor.compute(batch), function(normalize(batch, CPU)))


def test_a_batch_computes_what_single_images_do(tmp_path):
    descriptor = SscdDescriptor(save_script(tmp_path / 'm.pt', pooled), CPU)
    batch = np.stack([descriptor.prepare(image) for image in images()])
    single = np.concatenate([descriptor.compute(batch[i:i + 1]) for i in range(4)])
    np.testing.assert_allclose(descriptor.compute(batch), single, atol=1e-6)


def test_other_networks_see_what_the_options_say_and_keep_their_lengths(tmp_path):
    path = save(tmp_path / 'm.pt', torch.nn.Flatten(), torch.rand(2, 3, 8, 8))
    given = images(3, (9, 5))
    plain = TorchScriptDescriptor(path, CPU)
    batch = np.stack([plain.prepare(image) for image in given])
    pixels = np.stack([np.array(image) for image in given]).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(plain.compute(batch), pixels.reshape(3, -1), rtol=1e-6)
    own = TorchScriptDescriptor(path, CPU, resolution=4, mean=(0.5,), std=(0.1, 0.2, 0.3))
    batch = np.stack([own.prepare(image) for image in given])
    np.testing.assert_array_equal(batch, [image.resize((4, 4), Image.Resampling.BILINEAR) for image in given])
    seen = (batch.transpose(0, 3, 1, 2) / 255 - 0.5) / np.array([0.1, 0.2, 0.3])[:, None, None]
    np.testing.assert_allclose(own.compute(batch), seen.reshape(3, -1), rtol=1e-5, atol=1e-6)
    unit = TorchScriptDescriptor(path, CPU, unit_length=True)
    assert (plain.length, unit.length, SscdDescriptor.length) == ('raw', 'unit', 'unit')
    assert len({plain.identity, own.identity, unit.identity}) == 3


def test_no_network_is_loaded_that_the_user_has_not_named(capsys, tmp_path):
    with pytest.raises(click.UsageError, match='needs --model'):
        TorchScriptDescriptor.make(CPU)
    path = save_script(tmp_path / 'm.pt', pooled)
    assert TorchScriptDescriptor.make(CPU, model=str(path)).kind == 'torchscript'
    assert f'--model {path}: TorchScript runs code of its own' in capsys.readouterr().err


def test_models_are_told_apart_by_their_contents(tmp_path):
    a, b = save_script(tmp_path / 'a.pt', pooled), save_script(tmp_path / 'b.pt', lambda x: 2 * pooled(x))
    (tmp_path / 'copy.pt').write_bytes(a.read_bytes())
    first, second, copy = (SscdDescriptor(path, CPU).identity for path in (a, b, tmp_path / 'copy.pt'))
    assert first == copy != second


BAD_NETWORKS = {
    'a map': (lambda x: x, r'\[2, 3, 320, 320\] for 2 images'),
    'one row': (lambda x: pooled(x)[:1], r'\[1, 12\] for 2 images'),
    'no columns': (lambda x: pooled(x)[:, :0], r'\[2, 0\]'),
    'a tuple': (lambda x: (pooled(x), pooled(x)), 'a tuple'),
    'not numbers': (lambda x: pooled(x) / 0 * 0, 'not finite'),
    'sparse': (lambda x: pooled(x).to_sparse(), 'torch.sparse_coo .* for 2 images, expected a dense tensor'),
    'integers': (lambda x: pooled(x).long(), r'torch\.strided torch\.int64'),
    'complex numbers': (lambda x: torch.complex(pooled(x), pooled(x)), 'complex64'),
    'other images': (None, 'fails on images'),
}


@pytest.mark.parametrize('kind', BAD_NETWORKS)
def test_networks_that_give_no_descriptors_are_refused(tmp_path, kind):
    function, says = BAD_NETWORKS[kind]
    if function is None:
        save(tmp_path / 'm.pt', torch.nn.Conv2d(5, 1, 1), torch.rand(1, 5, 8, 8))
    else:
        save_script(tmp_path / 'm.pt', function)
    descriptor = SscdDescriptor(tmp_path / 'm.pt', CPU)
    batch = np.stack([descriptor.prepare(image) for image in images(2)])
    with pytest.raises(UserError, match=says) as err:
        descriptor.compute(batch)
    assert str(err.value).startswith(f'--model {tmp_path / "m.pt"}: ')
    assert '\n' not in str(err.value)


@pytest.mark.parametrize('content', [b'', b'text', b'PK\x03\x04 no zip', 'weights'])
def test_files_without_torchscript_are_refused(tmp_path, content):
    if content == 'weights':
        torch.save({'a': torch.ones(2)}, tmp_path / 'm.pt')
    else:
        (tmp_path / 'm.pt').write_bytes(content)
    with pytest.raises(UserError, match='not a TorchScript file') as err:
        SscdDescriptor(tmp_path / 'm.pt', CPU)
    assert str(err.value).startswith(f'--model {tmp_path / "m.pt"}: ')
    assert '\n' not in str(err.value)
    assert (tmp_path / 'm.pt').exists()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at any address; `requests` are the Range headers that came.

    cut: after how many bytes the first answer breaks off.
    """

    def __init__(self, content, cut=None, status=200):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.content, self.cut, self.status, self.requests = content, cut, status, []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}/models/model.torchscript.pt'


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, content = self.server, self.server.content
        server.requests.append(self.headers.get('Range'))
        start = int(self.headers['Range'][6:-1]) if self.headers.get('Range') else 0
        self.send_response(206 if start else server.status)
        self.send_header('ETag', '"1"')
        self.send_header('Content-Length', str(len(content) - start))
        if start:
            self.send_header('Content-Range', f'bytes {start}-{len(content) - 1}/{len(content)}')
        self.end_headers()
        end, server.cut = server.cut or len(content), None
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """A function that starts a server; models are kept in tmp_path/models."""
    monkeypatch.setenv('SSCD_CACHE', str(tmp_path / 'models'))
    monkeypatch.setattr(downloads, 'FIRST_WAIT', 0.01)
    servers = []

    def start(*args, **kwargs):
        servers.append(Server(*args, **kwargs))
        return servers[-1]
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_the_published_model_is_downloaded_once(serve, monkeypatch, tmp_path, capsys):
    content = save_script(tmp_path / 'm.pt', pooled).read_bytes()
    server = serve(content)
    monkeypatch.setattr(sscd_model, 'URL', server.url)
    for _ in range(2):
        path = find_model()
        assert path == tmp_path / 'models' / 'model.torchscript.pt'
        assert path.read_bytes() == content
    assert len(server.requests) == 1
    assert SscdDescriptor.make(CPU).kind == 'sscd'
    assert 'not known to be the published' not in capsys.readouterr().err
    record = torchscript.download_record(path)
    assert (record['size'], record['url']) == (len(content), server.url)


def test_a_download_that_breaks_off_goes_on_where_it_was(serve, tmp_path, capsys):
    content = bytes(range(256)) * 4000
    server = serve(content, cut=300_000)
    assert find_model(server.url).read_bytes() == content
    assert server.requests[0] is None
    assert 0 < int(server.requests[1][6:-1]) <= 300_000


def test_a_file_that_has_changed_is_downloaded_again(serve):
    server = serve(b'content')
    path = find_model(server.url)
    path.write_bytes(b'changed')
    assert find_model(server.url).read_bytes() == b'content'
    assert len(server.requests) == 2


@pytest.mark.parametrize('status', [404, 403])
def test_a_failed_download_says_which_file_to_put_where(serve, tmp_path, status):
    server = serve(b'gone', status=status)
    with pytest.raises(UserError, match=f'{status}') as err:
        find_model(server.url)
    assert f'put it at {tmp_path / "models" / "model.torchscript.pt"}' in str(err.value)
    assert not (tmp_path / 'models' / 'model.torchscript.pt').exists()


def test_a_download_without_torchscript_is_not_kept(serve):
    server = serve(b'another file')
    path = find_model(server.url)
    with pytest.raises(UserError, match='deleted'):
        SscdDescriptor(path, CPU)
    assert not path.exists()


def test_a_file_that_the_user_has_put_there_is_used(serve, tmp_path, monkeypatch):
    server = serve(b'served')
    path = tmp_path / 'models' / 'model.torchscript.pt'
    path.parent.mkdir()
    path.write_bytes(b'by hand')
    monkeypatch.setattr(sscd_model, 'URL', server.url)
    assert find_model() == path
    assert not server.requests


def test_a_path_is_used_as_it_is(tmp_path):
    (tmp_path / 'm.pt').write_bytes(b'any')
    assert find_model(str(tmp_path / 'm.pt')) == tmp_path / 'm.pt'
    with pytest.raises(UserError, match='no such file'):
        find_model(str(tmp_path / 'other.pt'))


def test_any_other_network_is_warned_of_by_name(tmp_path, monkeypatch, capsys):
    path = save_script(tmp_path / 'm.pt', pooled)
    SscdDescriptor.make(CPU, model=str(path))
    warned = capsys.readouterr().err
    assert warned.startswith(f'--model {path}: not known to be the published SSCD network')
    assert 'code of its own' in warned
    monkeypatch.setattr(sscd_model, 'SHA256', sha256_file(path))  # once it is known, by its contents
    SscdDescriptor.make(CPU, model=str(path))
    assert capsys.readouterr().err == ''


def test_models_lie_beside_the_code_unless_the_environment_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv('SSCD_CACHE', raising=False)
    assert torchscript.models_dir().name == 'pretrainedmodels'
    assert (torchscript.models_dir().parent / 'edm').is_dir()
