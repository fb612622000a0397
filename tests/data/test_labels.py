"""Labels: which image they are of, whether they are classes, and what is said of odd ones."""

import json
import unicodedata

import numpy as np
import pytest

import dataset_tool
import train
from data.dataset import ImageDataset
from helpers import refuse, run
from image_sets import write
from torch_utils.errors import UserError

PICTURE = np.random.RandomState(0).randint(256, size=(8, 8, 3), dtype=np.uint8)
ONE, TWO = 'cats/é1.png', 'dogs/é2.png'


def tool(source, *args):
    """(contents of the dataset.json that is made, what is printed on stderr)."""
    dest = source.parent / 'out'
    done = run(dataset_tool.main, '--source', source, '--dest', dest, *args)
    return json.loads((dest / 'dataset.json').read_text()), done.stderr


def classes(source, *args):
    content, _ = tool(source, *args)
    return [label for _, label in content['labels']]


SPELLINGS = {
    'backslashes': lambda name: name.replace('/', '\\'),
    'dot': lambda name: './' + name,
    'dot and backslash': lambda name: '.\\' + name.replace('/', '\\'),
    'two slashes': lambda name: name.replace('/', '//'),
    'leading slash': lambda name: '/' + name,
    'NFC': lambda name: unicodedata.normalize('NFC', name),
    'NFD': lambda name: unicodedata.normalize('NFD', name),
}


@pytest.mark.parametrize('spelling', SPELLINGS)
@pytest.mark.parametrize('place', ['set', 'set.zip'])
@pytest.mark.parametrize('files', ['NFC', 'NFD'])
def test_names_may_be_spelled_otherwise_than_the_files(tmp_path, place, spelling, files):
    names = [unicodedata.normalize(files, name) for name in (ONE, TWO)]
    labels = [[SPELLINGS[spelling](names[0]), 1], [SPELLINGS[spelling](names[1]), 0]]
    path = write(tmp_path / place, dict.fromkeys(names, PICTURE) | {'dataset.json': {'labels': labels}})
    assert ImageDataset(path, use_labels=True).classes.tolist() == [1, 0]
    assert classes(path) == [1, 0]


def test_the_very_name_goes_before_other_spellings(tmp_path):
    names = [unicodedata.normalize(form, 'é.png') for form in ('NFD', 'NFC')]  # as they are sorted
    labels = [[names[1], 1], [names[0], 0], ['./' + names[0], 1]]
    path = write(tmp_path / 'set', dict.fromkeys(names, PICTURE) | {'dataset.json': {'labels': labels}})
    assert ImageDataset(path, use_labels=True).classes.tolist() == [0, 1]


def test_names_that_no_file_can_have_take_no_time_and_little_room(tmp_path):
    name = 'a' + '\u0301' * 50_000 + '\u0327' * 50_000  # minutes of work to normalize
    path = write(tmp_path / 'set', {ONE: PICTURE, 'dataset.json': {'labels': [[name, 0]]}})
    assert f'has no label for {ONE}; 1 of 1' in tool(path)[1]
    path = write(tmp_path / 'other', {ONE: PICTURE, 'dataset.json': {'labels': [[name, 'x']]}})
    assert len(refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'x', status=1)) < 10_000


@pytest.mark.parametrize('first', [ONE, './' + ONE])
def test_two_spellings_of_one_file_have_one_label(tmp_path, first):
    labels = [[TWO, 0], [first, 0], ['.//' + ONE, 1]]
    path = write(tmp_path / 'set', {ONE: PICTURE, TWO: PICTURE, 'dataset.json': {'labels': labels}})
    refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'x', status=1, says=('two labels, 0',))


def test_a_label_of_one_file_is_not_given_to_another_of_nearly_its_name(tmp_path):
    names = [unicodedata.normalize(form, 'é.png') for form in ('NFD', 'NFC')]
    labels = {'labels': [[names[0], 1]]}
    path = write(tmp_path / 'set', dict.fromkeys(names, PICTURE) | {'dataset.json': labels})
    with pytest.raises(UserError, match=r'no label for .*; 1 of 2 images'):
        ImageDataset(path, use_labels=True)


@pytest.mark.parametrize(('labels', 'says'), [
    ([[TWO, 0]], f'dataset.json has no label for {ONE}; 1 of 2 images lack one'),
    ([[f'train/{ONE}', 0], [f'train/{TWO}', 1]],
     f'dataset.json has no label for {ONE}; 2 of 2 images lack one (it names train/{ONE})'),
    ([['É1.png', 0], [ONE.upper(), 1]], f'dataset.json has no label for {ONE}; 2 of 2 images lack one'),
])
@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_images_without_label_are_told(tmp_path, place, labels, says):
    path = write(tmp_path / place, {ONE: PICTURE, TWO: PICTURE, 'dataset.json': {'labels': labels}})
    content, printed = tool(path)
    assert content == {'labels': None}
    assert f'--source {path}: warning: {says}' in printed
    refuse(train.main, '--data', path, '--cond=1', '--outdir', tmp_path, '-n', status=1, says=(says,))


def test_images_that_are_not_taken_need_no_label(tmp_path):
    path = write(tmp_path / 'set', {ONE: PICTURE, TWO: PICTURE, 'dataset.json': {'labels': [[ONE, 0]]}})
    content, printed = tool(path, '--max-images=1')
    assert content['labels'] == [['00000/img00000000.png', 0]]
    assert 'warning' not in printed


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_a_dataset_json_further_down_is_told(tmp_path, place):
    path = write(tmp_path / place, {f'sub/{ONE}': PICTURE, f'sub/{TWO}': PICTURE, 'sub/dataset.json':
                                    {'labels': [[ONE, 0], [TWO, 1]]}})
    content, printed = tool(path)
    assert content == {'labels': None}
    assert f'sub/dataset.json is not at the root and was not read: 2 of 2 images, the first sub/{ONE}' in (
        printed)
    assert 'all images are in sub/, so its 2 folders are no classes' in printed


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-be', 'utf-32'])
def test_labels_are_read_in_every_unicode_encoding(tmp_path, encoding):
    text = json.dumps({'labels': [[ONE, 1], [TWO, 0]]}, ensure_ascii=False)
    path = write(tmp_path / 'set', {ONE: PICTURE, TWO: PICTURE, 'dataset.json': text.encode(encoding)})
    assert classes(path) == [1, 0]


def test_whole_numbers_are_classes_also_as_floats_and_lists_stay_vectors(tmp_path, capfd):
    images = {'a.png': PICTURE, 'b.png': PICTURE}
    path = write(tmp_path / 'floats', images | {'dataset.json': {'labels': [['a.png', 1.0], ['b.png', 0]]}})
    content, printed = tool(path)
    assert content['labels'] == [['00000/img00000000.png', 1], ['00000/img00000001.png', 0]]
    assert printed.count('dataset.json: whole numbers written as floats are taken as classes') == 1
    path = write(tmp_path / 'lists', images | {'dataset.json': {'labels': [['a.png', [1]], ['b.png', [0]]]}})
    dataset = ImageDataset(path, use_labels=True)
    assert (dataset.classes, dataset.label_dim) == (None, 1)
    assert capfd.readouterr().err == ''


@pytest.mark.parametrize(('labels', 'expected', 'says'), [
    (np.array([2, 0, 1]), [2, 0, 1], None),
    (np.array([[2], [0], [1]], dtype=np.uint8), [2, 0, 1], 'uint8 [3, 1]'),
    (np.array([2, 0, 1], dtype=np.float32), [2, 0, 1], 'float32 [3]'),
    (np.array([[2], [0], [1]], dtype=np.float64), [2, 0, 1], 'float64 [3, 1]'),
    (np.array([[0.5], [0], [1]]), [[0.5], [0], [1]], None),
    (np.array([[-1], [0], [1]]), [[-1], [0], [1]], None),
    (np.array([[0, 1], [1, 0], [1, 1]]), [[0, 1], [1, 0], [1, 1]], None),
])
def test_whole_numbers_in_npz_files_are_classes(tmp_path, labels, expected, says, capfd):
    np.savez(tmp_path / 'set.npz', samples=np.stack([PICTURE] * 3), labels=labels)
    dataset = ImageDataset(tmp_path / 'set.npz', use_labels=True)
    if isinstance(expected[0], int):
        assert dataset.classes.tolist() == expected
    else:
        assert (dataset.classes, dataset.labels().tolist()) == (None, expected)
    printed = capfd.readouterr().err
    assert (f'`labels` is {says}, whole numbers that are taken as classes' in printed) == bool(says)


@pytest.mark.parametrize('labels', [
    np.array([0.5, 1, 2]), np.array([0, np.nan, 1]), np.array([np.inf, 1, 2]), np.array([[np.nan], [0], [1]]),
    np.array([[[0]], [[1]], [[2]]]), np.array([[0, 1, 2]]), np.array(['a', 'b', 'c']), np.zeros((3, 0)),
    np.array([0, 1, 10 ** 6]), np.array([-1, 0, 1]), np.array(0), np.array([0, 1, 2 ** 63], dtype=np.uint64)])
def test_labels_that_are_neither_classes_nor_vectors_are_refused(tmp_path, labels):
    np.savez(tmp_path / 'set.npz', samples=np.stack([PICTURE] * 3), labels=labels)
    with pytest.raises(UserError, match='expected 3 integers from 0 to 999999 or 3 rows'):
        ImageDataset(tmp_path / 'set.npz')


@pytest.mark.parametrize('place', ['gd.npz', 'set', 'set.zip'])
@pytest.mark.parametrize('channels', [1, 3])
def test_npz_files_are_a_source(tmp_path, place, channels):
    images = np.random.RandomState(1).randint(256, size=(5, 8, 8, channels), dtype=np.uint8)
    np.savez(tmp_path / 'gd.npz', images, np.array([3, 1, 0, 2, 4]))
    if place != 'gd.npz':
        write(tmp_path / place, {'a.npz': (tmp_path / 'gd.npz').read_bytes()})
    assert classes(tmp_path / place, '--max-images=4') == [3, 1, 0, 2]
    np.testing.assert_array_equal(ImageDataset(tmp_path / 'out').images(), images[:4].transpose(0, 3, 1, 2))


@pytest.mark.parametrize('place', ['set', 'set.zip'])
def test_classes_that_are_folders_are_printed_and_recorded(tmp_path, place):
    path = write(tmp_path / place, {'dogs/a.png': PICTURE, 'cats/a.png': PICTURE, 'cats/x/b.png': PICTURE,
                                    'top.png': PICTURE})
    content, printed = tool(path)
    assert content['classes'] == {'': 0, 'cats': 1, 'dogs': 2}
    assert sorted(label for _, label in content['labels']) == [0, 1, 1, 2]
    assert 'class 1: folder cats, 2 images\nclass 2: folder dogs, 1 images\n' in printed
    (tmp_path / 'out').rename(tmp_path / 'again')
    assert tool(tmp_path / 'again')[0] == content  # the names of the classes go with the images


@pytest.mark.parametrize(('folders', 'order', 'expected'), [
    (['10', '2', '1'], 'names', {'1': 0, '10': 1, '2': 2}),
    (['10', '2', '1'], 'natural', {'1': 0, '2': 1, '10': 2}),
    (['c10', 'c2'], 'natural', {'c2': 0, 'c10': 1}),
    (['-1', '1', '0.5'], 'natural', {'-1': 0, '0.5': 1, '1': 2}),
    (['02', '01', '10'], 'names', {'01': 0, '02': 1, '10': 2}),
    (['b', 'a'], 'natural', {'a': 0, 'b': 1}),
    (['9' * 5000, 'c' + '9' * 5000], 'natural', {'9' * 5000: 0, 'c' + '9' * 5000: 1}),
])
def test_numbered_folders_keep_the_order_of_texts_unless_the_other_is_asked_for(tmp_path, folders, order,
                                                                                 expected):
    path = write(tmp_path / 'set.zip', {f'{folder}/a.png': PICTURE for folder in folders})
    content, printed = tool(path, f'--class-order={order}')
    assert content['classes'] == expected
    assert ('folder 2 is class 2; --class-order=natural puts 2 before 10' in printed) == (
        expected == {'1': 0, '10': 1, '2': 2})


def test_odd_names_of_folders_are_shown_on_one_line(tmp_path):
    names = ['\x1b[31mred\n', 'blau\u202fgrün', 'caf\udce9']
    path = write(tmp_path / 'set', {f'{name}/a.png': PICTURE for name in names})
    content, printed = tool(path)
    assert list(content['classes']) == names
    for number, name in enumerate(['\\x1b[31mred\\n', 'blau\u202fgrün', 'caf\\udce9']):
        assert f'class {number}: folder {name}, 1 images\n' in printed


@pytest.mark.parametrize('labels', [None, [['a/a.png', 0], ['b.png', 1]]])
def test_an_order_of_folders_needs_labels_from_folders(tmp_path, labels):
    images = dict.fromkeys(['a/a.png', 'b.png'] if labels else ['b.png'], PICTURE)
    path = write(tmp_path / 'set', images | {'dataset.json': {'labels': labels}})
    refuse(dataset_tool.main, '--source', path, '--dest', tmp_path / 'out', '--class-order=natural', status=1,
           says=('--class-order=natural', 'not from the names of folders'))


def labelled(path, labels):
    return write(path, {f'{i}.png': PICTURE for i in range(len(labels))} | {
        'dataset.json': {'labels': [[f'{i}.png', label] for i, label in enumerate(labels)]}})


def test_classes_without_images_are_told(tmp_path):
    path = labelled(tmp_path / 'set', [1, 2, 4, 1, 2, 4])
    says = 'warning: of the classes 0 to 4, no images are of 0, 3'
    assert says in tool(path)[1]
    args = ['--data', path, '--outdir', tmp_path, '-n']
    assert says in run(train.main, *args, '--cond=1').stderr
    assert 'warning' not in run(train.main, *args, '--cond=0').stderr
    assert 'warning' not in run(train.main, '--data', labelled(tmp_path / 'good', [0, 1]), '--cond=1',
                                *args[2:]).stderr


def test_classes_that_max_images_leaves_without_images_are_told(tmp_path):
    path = write(tmp_path / 'set', {f'{folder}/x.png': PICTURE for folder in 'abc'})
    content, printed = tool(path, '--max-images=1')
    assert content['classes'] == {'a': 0, 'b': 1, 'c': 2}
    assert 'class 2: folder c, 0 images\nwarning: of the classes 0 to 2, no images are of 1, 2\n' in printed


def test_more_classes_than_images_are_refused_where_a_network_would_have_them(tmp_path):
    path = labelled(tmp_path / 'set', [0, 999_999, *[1] * 6])
    refuse(train.main, '--data', path, '--cond=1', '--outdir', tmp_path, '-n', status=1, says=(
        f'--data {path}: its largest label is 999999, so that there are 1,000,000 classes, more than its 8',))
    run(train.main, '--data', path, '--cond=0', '--outdir', tmp_path, '-n')
