"""The inception descriptor, with a small stand-in of the published network's interface."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from descriptors import inception
from descriptors.inception import InceptionDescriptor
from scripted import save
from torch_utils.errors import UserError
from torch_utils.files import sha256_file

CPU = torch.device('cpu')


class StandIn(torch.nn.Module):
    """Takes pixels from 0 to 255 of any size, and returns features only if told to."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8
        features = images.float().mean(dim=(2, 3))
        return features if return_features else features.softmax(dim=1)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp('models') / 'inception-2015-12-05.pt', StandIn())


def test_features_are_raw_and_of_pixels_as_they_are(path):
    images = np.random.RandomState(0).randint(256, size=(3, 9, 5, 3), dtype=np.uint8)
    descriptor = InceptionDescriptor(path, CPU)
    batch = np.stack([descriptor.prepare(Image.fromarray(image)) for image in images])
    np.testing.assert_allclose(descriptor.compute(batch), images.mean(axis=(1, 2)), rtol=1e-6)
    assert descriptor.length == 'raw'
    grey = descriptor.prepare(Image.fromarray(images[0, :, :, 0]))
    np.testing.assert_array_equal(grey, np.repeat(images[0, :, :, :1], 3, axis=2))


def test_the_published_network_is_the_default_and_any_other_is_noted(path, monkeypatch, capsys):
    monkeypatch.setenv('SSCD_CACHE', str(path.parent))
    assert inception.URL.endswith('/inception-2015-12-05.pt')
    identity = InceptionDescriptor.make(CPU).identity  # a file that the user has put there
    assert 'not known to be the published Inception network; TorchScript runs code' in capsys.readouterr().err
    assert InceptionDescriptor.make(CPU, model=str(path)).identity == identity
    capsys.readouterr()
    record = {'url': inception.URL, 'size': path.stat().st_size, 'sha256': sha256_file(path)}
    path.with_name(f'{path.name}.json').write_text(json.dumps(record))  # as a download leaves it
    assert record['sha256'] in InceptionDescriptor.make(CPU).identity
    assert not capsys.readouterr().err


def test_a_network_of_another_interface_is_refused(tmp_path):
    path = save(tmp_path / 'm.pt', torch.nn.Flatten())
    with pytest.raises(UserError, match='fails on images'):
        InceptionDescriptor(path, CPU).compute(np.zeros((1, 4, 4, 3), np.uint8))
