"""hf://OWNER/NAME: files come from a server, here one on this machine, once, and are checked."""

import hashlib
import http.server
import shutil
import threading
from functools import partial

import pytest
import torch

from denoisers.open_network import open_network
from diffusers_folders import WEIGHTS, change_json, unpack
from torch_utils.errors import UserError

CPU = torch.device('cpu')


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        self.server.asked.append(self.path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A server of the folder `root`, with repositories at OWNER/NAME/resolve/REVISION, and its requests."""
    root = tmp_path / 'hub'
    root.mkdir()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(_Handler, directory=str(root)))
    server.daemon_threads, server.asked, server.root = True, [], root
    monkeypatch.setenv('HF_ENDPOINT', f'http://127.0.0.1:{server.server_port}/')
    monkeypatch.setenv('DNNLIB_CACHE_DIR', str(tmp_path / 'cache'))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def opened(address):
    return open_network(address, CPU).net.state_dict()


def same(a, b) -> bool:
    return all(map(torch.equal, a.values(), b.values()))


def test_a_network_is_downloaded_once_and_opens_without_the_server(hub):
    folder = unpack('eps-variance', hub.root / 'owner' / 'net' / 'resolve' / 'main')
    expected = opened(str(folder))
    assert same(opened('hf://owner/net'), expected)
    asked = len(hub.asked)
    network = open_network('hf://owner/net', CPU)
    assert len(hub.asked) == asked
    hub.shutdown()
    assert same(network.net.state_dict(), expected)
    assert [file.rpartition('/main/')[2] for file in network.files] == [
        'unet/config.json', WEIGHTS, 'scheduler/scheduler_config.json']
    assert len(network.sha256()) == 64


def test_repositories_of_the_network_alone_folders_and_revisions(hub):
    folder = unpack('eps-variance', hub.root / 'o' / 'n' / 'resolve' / 'v1' / 'deep')
    expected = opened(str(folder))
    assert same(opened('hf://o/n/deep@v1'), expected)
    assert same(opened('hf://o/n/deep/unet@v1'), expected)
    shutil.copytree(folder, hub.root / 'o' / 'n' / 'resolve' / 'refs' / 'pr' / '1')
    assert same(opened('hf://o/n@refs/pr/1'), expected)
    assert '/o/n/resolve/refs%2Fpr%2F1/unet/config.json' in hub.asked
    alone = hub.root / 'o' / 'unet-alone' / 'resolve' / 'main'
    shutil.copytree(folder / 'unet', alone)
    torch.save(expected_tensors(alone), alone / 'diffusion_pytorch_model.bin')
    (alone / 'diffusion_pytorch_model.safetensors').unlink()
    shutil.copy(folder / 'scheduler' / 'scheduler_config.json', alone)
    assert same(opened('hf://o/unet-alone'), expected)


def expected_tensors(folder):
    return open_network(str(folder), CPU, scheduler=str(
        folder.parents[2] / 'n' / 'resolve' / 'v1' / 'deep' / 'scheduler' / 'scheduler_config.json',
    )).net.model.state_dict()


def test_the_url_of_weights_has_the_rest_beside_it(hub):
    folder = unpack('eps-variance', hub.root / 'any')
    url = f'http://127.0.0.1:{hub.server_port}/any/{WEIGHTS}'
    assert same(opened(url), opened(str(folder)))


def test_the_hash_of_the_weights_is_checked(hub):
    folder = unpack('eps-variance', hub.root / 'owner' / 'net' / 'resolve' / 'main')
    right = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    with pytest.raises(UserError, match='expected 0000'):
        opened(f'hf://owner/net#sha256={"0" * 64}')
    assert same(opened(f'hf://owner/net#sha256={right}'), opened(str(folder)))


def test_what_is_not_there_is_named(hub):
    with pytest.raises(UserError, match=r'--network hf://owner/net: no config\.json there'):
        opened('hf://owner/net')
    for address in ('hf://owner', 'hf://owner/..', 'hf://owner/net/../../x', 'hf://owner/net@', 'hf:///net',
                    'hf://owner/net?x=1', 'hf://owner/net#sha256=1'):
        with pytest.raises(UserError, match='expected hf://OWNER/NAME'):
            opened(address)


def test_a_latent_pipeline_on_the_hub_is_refused_before_its_weights_are_downloaded(hub):
    folder = unpack('eps-variance', hub.root / 'owner' / 'ldm' / 'resolve' / 'main')
    (folder / 'model_index.json').write_text('{}')
    change_json(folder / 'model_index.json', _class_name='LDMPipeline', vqvae=['diffusers', 'VQModel'])
    with pytest.raises(UserError, match='latent diffusion'):
        opened('hf://owner/ldm')
    assert not any(path.endswith('.safetensors') for path in hub.asked)


def test_sharded_weights_are_named(hub):
    folder = unpack('eps-variance', hub.root / 'owner' / 'net' / 'resolve' / 'main')
    (folder / WEIGHTS).rename(folder / f'{WEIGHTS}.index.json')
    with pytest.raises(UserError, match=r'safetensors\.index\.json.* sharded weights'):
        opened('hf://owner/net')


def test_damaged_weights_are_forgotten(hub):
    folder = unpack('eps-variance', hub.root / 'owner' / 'net' / 'resolve' / 'main')
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-8])
    with pytest.raises(UserError, match='no weights that can be read'):
        opened('hf://owner/net')
    (folder / WEIGHTS).write_bytes(whole)
    opened('hf://owner/net')
