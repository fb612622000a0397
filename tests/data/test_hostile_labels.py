"""Any dataset.json, label array and name of a file: read, or refused in one line.

Always the same examples: hypothesis is derandomized and keeps no database.
"""

import json
import zipfile

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from data.dataset import ImageDataset
from data.image_sources import open_source
from data.labels import MAX_CLASSES, check_array
from image_sets import encode, write
from torch_utils.errors import UserError, printable

PICTURE = encode(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
NAMES = ('cats/a.png', 'dogs/b.png')

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))
small = st.integers(-1, 3)
numbers = small | st.floats() | st.integers() | st.lists(small | st.floats(), max_size=3)
names = st.sampled_from([*NAMES, './cats/a.png', 'dogs\\b.png', '..\\dogs/b.png', '', '/', '\ud800'])
entries = st.lists(st.tuples(names, numbers) | values, max_size=4)
contents = st.fixed_dictionaries({'labels': entries | values}, optional={'classes': values}) | values

fuzz = settings(max_examples=40, derandomize=True, deadline=None, database=None,
                suppress_health_check=list(HealthCheck))


def read_or_refuse(read):
    try:
        return read()
    except UserError as err:
        said = str(err)
    assert '\n' not in printable(said)
    return None


def test_any_dataset_json_gives_labels_or_one_line(tmp_path):
    path = write(tmp_path / 'set', dict.fromkeys(NAMES, PICTURE))

    @fuzz
    @given(contents)
    def check(content):
        (path / 'dataset.json').write_text(json.dumps(content))
        source = read_or_refuse(lambda: open_source(path))
        dataset = read_or_refuse(lambda: ImageDataset(path, use_labels=None))
        if source is not None:
            found = [image.label for image in source.images]
            json.dumps({'labels': found, 'classes': source.labels.folders}, allow_nan=False)
            if dataset is not None and dataset.classes is not None:
                assert dataset.classes.tolist() == found
            if dataset is not None and dataset.label_dim and dataset.classes is None:
                np.testing.assert_array_equal(dataset.labels(), np.array(found, np.float32))
    check()


def test_any_array_gives_classes_vectors_or_one_line():
    kinds = st.one_of(arrays.boolean_dtypes(), arrays.integer_dtypes(), arrays.unsigned_integer_dtypes(),
                      arrays.floating_dtypes(sizes=(16, 32, 64)), arrays.complex_number_dtypes(),
                      arrays.unicode_string_dtypes(), arrays.byte_string_dtypes(), arrays.datetime64_dtypes())
    shapes = st.sampled_from([(3,), (3, 1), (3, 2), (2,), (1, 3), (3, 0), (), (3, 1, 1)])

    @fuzz
    @given(st.tuples(kinds, shapes).flatmap(lambda form: arrays.arrays(*form)))
    def check(labels):
        found = read_or_refuse(lambda: check_array(labels, 3, '`labels`'))
        if found is None:
            return
        np.testing.assert_array_equal(found.reshape(labels.shape), labels.astype(found.dtype))
        if found.ndim == 1:
            assert found.dtype == np.int64
            assert 0 <= found.min() <= found.max() < MAX_CLASSES
        else:
            assert np.isfinite(found.astype(np.float32)).all()
    check()


def test_any_names_in_a_zip_are_read_or_refused_in_one_line(tmp_path):
    known = ['a', '.', '..', '.x', '', '__MACOSX', '@eaDir', ' ', '\u202f', 'Icon\r', '9' * 400, 'C:',
             'dataset.json']
    parts = st.sampled_from(known) | st.text(st.characters(exclude_categories=['Cs']), max_size=4)
    paths = st.lists(parts, min_size=1, max_size=4).flatmap(
        lambda names: st.sampled_from(['/', '\\']).map(lambda separator: separator.join(names)))

    @fuzz
    @given(st.lists(paths, min_size=1, max_size=4))
    def check(names):
        with zipfile.ZipFile(tmp_path / 'set.zip', 'w') as archive:
            for name in {f'{name}.png' for name in names} | {'z/z.png'}:
                archive.writestr(name.replace('\0', ''), PICTURE)
        for order in 'names', 'natural':
            source = read_or_refuse(lambda order=order: open_source(tmp_path / 'set.zip', class_order=order))
            if source is not None:
                images = list(source.images)
                assert len(images) == source.total
                assert {source.load(image).size for image in images} == {(8, 8)}
    check()
