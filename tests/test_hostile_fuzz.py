"""Good files with bytes flipped, cut off and spliced in: read as they were, or refused in one line.

Always the same examples: hypothesis is derandomized and keeps no database.
"""

import contextlib
import functools
import io
import pickle
import tempfile
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from adapters.diffusers_network import read_weights
from adapters.safetensors_file import write_safetensors
from data.dataset import ImageDataset
from data.image_decoding import decode_image
from descriptors.features import read_arrays
from hostile_files import CALL, TWO_FLOATS, call, name, tensor, value, whole
from image_sets import encode
from torch_utils import persistence, safe_pickle
from torch_utils.errors import UserError
from training import checkpoint, networks, snapshot

PIXELS = np.random.RandomState(0).randint(256, size=(3, 8, 8, 3), dtype=np.uint8)
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'WEBP', 'TIFF', 'PPM', 'TGA', 'ICO')


@functools.cache
def snapshot_file() -> bytes:
    torch.manual_seed(0)
    net = networks.EDMPrecond(4, 1, model_type='SongUNet', model_channels=8, channel_mult=[1], num_blocks=1,
                              attn_resolutions=[])
    file = io.BytesIO()
    persistence.dump({'ema': net.eval().requires_grad_(False)}, file)
    return file.getvalue()


@functools.cache
def state_file() -> bytes:
    file = io.BytesIO()
    torch.save({'net': {'a': torch.arange(100.)}, 'optimizer_state': {'state': {}}}, file)
    return file.getvalue()


@functools.cache
def weights_file() -> bytes:
    with tempfile.NamedTemporaryFile(suffix='.safetensors') as file:
        write_safetensors(file.name, {f'a.{i}': torch.arange(50.) for i in range(4)})
        with open(file.name, 'rb') as written:
            return written.read()


@functools.cache
def npz_file(compressed: bool = True) -> bytes:
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, samples=PIXELS, labels=np.arange(3))
    return file.getvalue()


@functools.cache
def zip_file(compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for i, image in enumerate(PIXELS):
            archive.writestr(f'{i}.png', encode(image))
        archive.writestr('dataset.json', '{"labels": [["0.png", 0], ["1.png", 1], ["2.png", 2]]}')
    return file.getvalue()


def read_snapshot(path):
    net = snapshot.load_snapshot(str(path))['ema']
    return {name: tensor.numpy() for name, tensor in net.state_dict().items()}


def read_state(path):
    return checkpoint.load_state(path)['net']


def read_safetensors(path):
    tensors = read_weights(str(path), '--network', '--network')
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def read_data_set(path):
    dataset = ImageDataset(path, use_labels=True)
    return {'images': dataset.images(), 'labels': dataset.labels()}


KINDS = {  # what is damaged, the name it gets, how it is read
    'snapshot': (snapshot_file, 'net.pkl', read_snapshot),
    'state': (state_file, 'training-state-000001.pt', read_state),
    'weights': (weights_file, 'net.safetensors', read_safetensors),
    'npz': (npz_file, 'set.npz', read_data_set),
    'npz, stored': (functools.partial(npz_file, False), 'set.npz', read_data_set),
    'features': (npz_file, 'set.npz', lambda path: read_arrays(path, '--source')),
    'zip': (zip_file, 'set.zip', read_data_set),
    'zip, deflated': (functools.partial(zip_file, zipfile.ZIP_DEFLATED), 'set.zip', read_data_set),
}

places = st.integers(0, 1 << 30)  # modulo the length
flips = st.lists(st.tuples(places, st.integers(1, 255)), min_size=1, max_size=4)
splices = st.tuples(places, places, st.integers(1, 400), places, st.booleans())


def fuzz(examples: int):
    return settings(max_examples=examples, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


def flipped(data: bytes, changes) -> bytes:
    data = bytearray(data)
    for place, bits in changes:
        data[place % len(data)] ^= bits
    return bytes(data)


def spliced(data: bytes, change) -> bytes:
    """A piece of the file copied to another place, over what was there or in between."""
    source, target, length, _, over = change
    source, target = source % len(data), target % len(data)
    piece = data[source:source + length]
    return data[:target] + piece + data[target + (len(piece) if over else 0):]


def read_or_refuse(read, path):
    """What is read; None if it is refused as it should be."""
    try:
        return read(path)
    except UserError as err:
        said = str(err)
    assert said.isprintable()
    assert len(said) < 1000
    return None


def same(a, b) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize('kind', KINDS)
def test_flips_and_splices_end_in_values_or_in_one_line(kind, tmp_path):
    make, name, read = KINDS[kind]
    path = tmp_path / name
    path.write_bytes(make())
    good = read(path)

    @fuzz(60)
    @given(flips, splices)
    def check(changes, splice):
        for damaged in flipped(make(), changes), spliced(make(), splice):
            path.write_bytes(damaged)
            found = read_or_refuse(read, path)
            # Checksums guard all contents but those of pickles, which have none.
            if found is not None and kind != 'snapshot' and 'images' in found:
                assert same(found, good) or len(found['images']) != len(good['images'])

    check()


@pytest.mark.parametrize('kind', KINDS)
def test_files_that_are_cut_short_are_never_taken(kind, tmp_path):
    make, name, read = KINDS[kind]
    data, path = make(), tmp_path / name

    @fuzz(40)
    @given(st.one_of(places, st.integers(-64, -1)))
    def check(end):
        path.write_bytes(data[:end % len(data)])
        assert read_or_refuse(read, path) is None

    check()


@pytest.mark.parametrize('form', FORMATS)
def test_damaged_images_are_refused_or_read_and_cut_ones_never_differ(form):
    data = encode(PIXELS[0], format=form)
    whole = np.asarray(decode_image(data, 'x.img'))

    @fuzz(60)
    @given(flips, splices, places)
    def check(changes, splice, end):
        for damaged in flipped(data, changes), spliced(data, splice):
            read_or_refuse(lambda data: decode_image(data, 'x.img'), damaged)
        cut = read_or_refuse(lambda data: decode_image(data, 'x.img'), data[:end % len(data)])
        # Only formats without an end of their own can lose something that is no pixel.
        assert cut is None or (form not in ('PNG', 'JPEG') and np.array_equal(np.asarray(cut), whole))

    check()


# Opcodes, and calls of what a snapshot may call, to be put together in any order and number.
PIECES = [
    *(getattr(pickle, code) for code in (
        'EMPTY_LIST EMPTY_DICT EMPTY_TUPLE EMPTY_SET MARK POP POP_MARK NONE NEWTRUE TUPLE TUPLE1 TUPLE2 '
        'TUPLE3 APPEND APPENDS ADDITEMS SETITEM SETITEMS REDUCE NEWOBJ BUILD MEMOIZE STACK_GLOBAL').split()),
    *(opcode + bytes([place]) for place in (1, 2, 255) for opcode in (pickle.BINPUT, pickle.BINGET)),
    *(value(each) for each in ('class', 'EDMPrecond', 'latin1', '_modules', 6, 2**70, 1.5, 'f4', b'x' * 300)),
    *(name(each) for each in safe_pickle._GLOBALS), tensor(TWO_FLOATS), call(CALL, value({})),
    call('numpy.dtype', value('f4'), value(False), value(True))]


@fuzz(100)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 4)), max_size=30), st.integers(1, 40))
def test_any_opcodes_end_in_a_value_or_in_one_line(pieces, times):
    body = b''.join(piece * count for piece, count in pieces)
    with contextlib.suppress(pickle.UnpicklingError):
        safe_pickle.safe_load(io.BytesIO(whole(body * times)))
    snapshot_of = value({}) + value('ema') + body * times + pickle.SETITEM
    for data in whole(snapshot_of), whole(value({}) + value('ema') + call(CALL, body) + pickle.SETITEM):
        with tempfile.NamedTemporaryFile(suffix='.pkl') as file:
            file.write(data)
            file.flush()
            assert read_or_refuse(read_snapshot, file.name) is None


def test_a_png_is_guarded_by_its_checksums():
    data = encode(PIXELS[0])
    for place in range(8, len(data)):
        with pytest.raises(UserError, match='not a readable image'):
            decode_image(flipped(data, [(place, 16)]), 'x.png')


def test_every_cut_of_a_png_and_a_jpeg_is_refused():
    for form in 'PNG', 'JPEG':
        data = encode(PIXELS[0], format=form)
        assert Image.open(io.BytesIO(data)).format == form
        for end in range(len(data)):
            with pytest.raises(UserError, match=r'x\.img: not a readable image'):
                decode_image(data[:end], 'x.img')


def test_the_snapshot_that_is_damaged_is_a_good_one():
    assert pickle.loads(snapshot_file()).keys() == {'ema'}
