"""Zips, .npz files and tars whose headers say anything: read as they were, or refused in one line.

Always the same examples: hypothesis is derandomized and keeps no database.
"""

import gzip
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crafted_zips import Member, craft
from data import published_sets
from data.dataset import ImageDataset
from descriptors.features import read_arrays
from image_sets import encode
from torch_utils.errors import UserError

PIXELS = np.random.RandomState(0).randint(256, size=(2, 8, 8, 3), dtype=np.uint8)
PNG = encode(PIXELS[0])
GOOD = b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 8, 8, 3), }\n"

edges = [0, 1, 30, 200, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**33, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
numbers = st.one_of(st.none(), st.sampled_from(edges), st.integers(0, 2**64 - 1), st.integers(0, 400))


def examples(count: int):
    return settings(max_examples=count, derandomize=True, deadline=None, database=None,
                    suppress_health_check=list(HealthCheck))


def read_or_refuse(read, *args):
    """What is read; None if it is refused as it should be."""
    try:
        return read(*args)
    except UserError as err:
        said = str(err)
    assert said.isprintable()
    assert len(said) < 1000
    return None


def zip64(name: str, data: bytes, *, unpacked: int | None = None, packed: int | None = None,
          offset: int | None = None, members: int | None = None, size: int | None = None,
          start: int | None = None, end: int | None = None) -> bytes:
    """A zip of one member with 64-bit records; None stands for what is true.

    unpacked, packed, offset: of the member, as the directory says. members, size, start: of the directory, as
    the record at its end says. end: where that is.
    """
    def told(value, truth):
        return truth if value is None else value

    common = struct.pack('<HHHHHI', 45, 0, 0, 0, 33, zlib.crc32(data))
    lengths = struct.pack('<IIHH', len(data), len(data), len(name), 0)
    local = b'PK\3\4' + common + lengths + name.encode() + data
    extra = struct.pack('<HHQQQ', 1, 24, told(unpacked, len(data)), told(packed, len(data)), told(offset, 0))
    places = 2**32 - 1, 2**32 - 1, len(name), len(extra), 0, 0, 0, 0, 2**32 - 1
    directory = b'PK\1\2\x2d\0' + common + struct.pack('<IIHHHHHII', *places) + name.encode() + extra
    record = b'PK\6\6' + struct.pack('<QHHIIQQQQ', 44, 45, 45, 0, 0, told(members, 1), told(members, 1),
                                     told(size, len(directory)), told(start, len(local)))
    locator = b'PK\6\7' + struct.pack('<IQI', 0, told(end, len(local + directory)), 1)
    return local + directory + record + locator + b'PK\5\6' + struct.pack(
        '<HHHHIIH', 0, 0, 2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1, 0)


def npy(header: bytes, version: tuple[int, int] = (1, 0), length: int | None = None,
        data: bytes = PIXELS.tobytes()) -> bytes:
    """An array with any header; length: of it, as the file says."""
    length = len(header) if length is None else length
    length = struct.pack('<H' if version == (1, 0) else '<I', length)
    return b'\x93NUMPY' + bytes(version) + length + header + data


def tar(members: list[tuple[dict, bytes]]) -> bytes:
    """A tar of headers with any fields, each given as it lies in the file, and their contents."""
    blocks = b''
    for fields, data in members:
        head = struct.pack('100s8s8s8s12s12s8s1s100s8s80x155s12x', fields.get('name', b'x'), b'0', b'0', b'0',
                           fields.get('size', b'%011o' % len(data)), b'0', b' ' * 8, fields.get('kind', b'0'),
                           b'', b'ustar\x0000', fields.get('prefix', b''))
        checksum = fields.get('checksum', b'%06o\0 ' % sum(head))
        blocks += head[:148] + checksum.ljust(8)[:8] + head[156:] + data + bytes(-len(data) % 512)
    return blocks + bytes(1024)


def read_images(path):
    return ImageDataset(path).images()


def read_labels(path):
    return ImageDataset(path, use_labels=True).labels()


def read_samples(path):
    return read_arrays(path, '--source').get('samples')


def test_a_zip_of_64_bit_records_is_read(tmp_path):
    path = tmp_path / 'set.zip'
    path.write_bytes(zip64('0.png', PNG))
    np.testing.assert_array_equal(read_images(path)[0], PIXELS[0].transpose(2, 0, 1))


def test_64_bit_records_may_say_anything(tmp_path):
    whole = npy(GOOD)

    @examples(100)
    @given(st.fixed_dictionaries({key: numbers for key in ('unpacked', 'packed', 'offset')}),
           st.fixed_dictionaries({key: numbers for key in ('members', 'size', 'start', 'end')}),
           st.booleans())
    def check(member, record, only_member):
        says = member if only_member else member | record
        for name, data, place, read, good in (
                ('0.png', PNG, 'set.zip', read_images, PIXELS[:1].transpose(0, 3, 1, 2)),
                ('samples.npy', whole, 'set.npz', read_images, PIXELS.transpose(0, 3, 1, 2)),
                ('samples.npy', whole, 'set.npz', read_samples, PIXELS)):
            (tmp_path / place).write_bytes(zip64(name, data, **says))
            found = read_or_refuse(read, tmp_path / place)
            assert found is None or np.array_equal(found, good)

    check()


def test_members_that_lie_on_each_other_are_refused_before_any_is_read(tmp_path):
    data = bytearray(craft([(f'{i:06d}.png', Member(data=b'')) for i in range(2_000)]))
    directory = struct.unpack_from('<I', data, len(data) - 6)[0]
    data[:30 + 10 + len(PNG)] = craft([('000000.png', Member(data=PNG))])[:30 + 10 + len(PNG)]
    place = directory
    while data[place:place + 4] == b'PK\1\2':  # each of them the first
        data[place + 16:place + 28] = struct.pack('<III', zlib.crc32(PNG), len(PNG), len(PNG))
        data[place + 42:place + 46] = bytes(4)
        place += 46 + 10
    (tmp_path / 'set.zip').write_bytes(data)
    with pytest.raises(UserError, match=r'lies where something else is'):
        read_images(tmp_path / 'set.zip')


odd = st.sampled_from([True, False, None, 'x', 1.0, 2**31, 2**63, 10**30, (2, 8)])
sides = st.one_of(st.integers(-9, 9), odd)
descriptions = st.sampled_from([
    '|u1', '|i1', '<f8', '>f4', '<f2', '|b1', '<c8', '|O', '|V0', '<U0', '|S0', '<U4', '|V24', '<M8[s]', 'x',
    '', 1, None, [('a', '|u1')], [('a', '|u1', (2, 8))], [], ()])


def test_headers_of_arrays_may_say_anything(tmp_path):
    path = tmp_path / 'set.npz'

    @examples(120)
    @given(st.lists(sides, max_size=5), descriptions, st.sampled_from([True, False, 1, None]),
           st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 9)]), st.one_of(st.none(), st.integers(0, 70_000)),
           st.sampled_from(['samples', 'labels', 'features']))
    def check(shape, description, order, version, length, name):
        header = repr({'descr': description, 'fortran_order': order, 'shape': tuple(shape)}).encode() + b'\n'
        length = length if version == (1, 0) and length and length < 2**16 else None
        members = {f'{name}.npy': npy(header, version, length)}
        if name != 'samples':
            members['samples.npy'] = npy(GOOD)
        path.write_bytes(craft([(name, Member(data=data)) for name, data in members.items()]))
        for read in read_images, read_labels, read_samples:
            read_or_refuse(read, path)

    check()


@pytest.mark.parametrize(('shape', 'says'), [
    ((2, -8, -8, 3), 'is of shape'), ((-2, 8, -8, 3), 'is of shape'), ((2, 8, 8, True), 'is of shape'),
    ((0, 8, 8, 3), 'holds objects, or not as many'), ((2, 8, 8, 2**60), 'holds objects, or not as many')])
def test_shapes_that_are_none_are_refused(tmp_path, shape, says):
    header = repr({'descr': '|u1', 'fortran_order': False, 'shape': shape}).encode() + b'\n'
    (tmp_path / 'set.npz').write_bytes(craft([('samples.npy', Member(data=npy(header)))]))
    with pytest.raises(UserError, match=says):
        read_images(tmp_path / 'set.npz')


def test_a_member_that_is_no_array_is_none(tmp_path):
    (tmp_path / 'set.npz').write_bytes(craft([('samples', Member(data=b'raw bytes'))]))
    with pytest.raises(UserError, match='expected an array `samples`, found nothing'):
        read_images(tmp_path / 'set.npz')


def test_a_picture_too_large_for_a_file_is_too_large_for_an_npz(tmp_path):
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 30000, 30000, 3), }\n"
    with open(tmp_path / 'set.npz', 'wb') as file:  # of holes, which take no place
        whole = npy(header, data=b'')
        size = len(whole) + 30_000 * 30_000 * 3
        data = craft([('samples.npy', Member(data=whole, size=size))])
        directory = data.index(b'PK\1\2')
        file.write(data[:directory])
        file.seek(size - len(whole), io.SEEK_CUR)
        start = file.tell()
        entry = data[directory:-22]
        file.write(entry[:20] + struct.pack('<I', size) + entry[24:])
        file.write(data[-22:-6] + struct.pack('<I', start) + data[-2:])
    with pytest.raises(UserError, match='with more than 89,478,485 pixels an image'):
        read_images(tmp_path / 'set.npz')


fields = st.fixed_dictionaries({}, optional={
    'name': st.sampled_from([b'cifar-10-batches-py/data_batch_1', b'cifar-10-batches-py/data_batch_5', b'',
                             b'/x', b'\xff' * 100]),
    'size': st.one_of(st.binary(max_size=12),
                      st.sampled_from([b'-1', b'77777777777', b'\x80' + b'\xff' * 11, b'9'])),
    'kind': st.sampled_from([bytes([kind]) for kind in b'01234567LKSDVMNXxgA\0']),
    'prefix': st.binary(max_size=155), 'checksum': st.binary(max_size=8)})
contents = st.one_of(st.binary(max_size=600), st.sampled_from([
    b'30 GNU.sparse.size=99999999999\n', b'22 GNU.sparse.major=1\n', b'18 GNU.sparse.map=x\n',
    b'12 size=-1\n', b'29 size=99999999999999999999\n', b'x size=1\n', b'999999999999 a=b\n', b'0 =\n']))


def test_headers_in_a_tar_may_say_anything(tmp_path):
    path = tmp_path / published_sets.CIFAR10

    @examples(120)
    @given(st.lists(st.tuples(fields, contents), max_size=6))
    def check(members):
        path.write_bytes(gzip.compress(tar(members), 1))
        assert read_or_refuse(published_sets.read_cifar10, path, '--source') is None

    check()


def test_a_tar_says_what_is_wrong_with_it(tmp_path):
    path = tmp_path / published_sets.CIFAR10
    first = {'name': b'cifar-10-batches-py/data_batch_1'}
    for members, says in (
            ([(first | {'kind': b'S'}, b'x')], 'data_batch_1 is missing'),
            ([(first | {'kind': b'2'}, b'')], 'data_batch_1 is missing'),
            ([(first | {'checksum': b'1'}, b'x')], 'not a readable .tar.gz archive'),
            ([(first | {'size': b'9'}, b'x')], 'not a readable .tar.gz archive'),
            ([({'kind': b'L', 'size': b'77777777777'}, b'x')], 'unpacks from'),
            ([({'kind': b'x'}, b'20 size=99999999999\n'), (first, b'x')], 'unpacks from'),
            ([(first, b'N.')] * 2, 'data_batch_2 is missing')):
        path.write_bytes(gzip.compress(tar(members)))
        with pytest.raises(UserError, match=says):
            published_sets.read_cifar10(path, '--source')
