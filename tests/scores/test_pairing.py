"""Which rows belong together: names tell, or the one number in them, or nothing does."""

import pytest

from scores.pairing import comparable_name, numbers_in, pair_rows


def test_names_of_one_noise_are_alike_in_all_layouts():
    assert comparable_name('000012.png') == comparable_name('000000/000012.jpg') == '000012'
    assert comparable_name('a.npz[12]') == comparable_name('x/b.npz[12]') == '[12]'
    assert comparable_name('a.npz') == 'a'


def paired(first, second, **options):
    found = pair_rows(first, second, **options)
    return found and [second[place] for place in found[0]]


PADDED, PLAIN = [f'{i:06d}.png' for i in range(12)], sorted(f'sample_{i}.png' for i in range(12))


def test_rows_of_equal_names_stay_as_they_are():
    assert paired(['x/0.png', '1.png'], ['0.jpg', 'y/1.jpg']) == ['0.jpg', 'y/1.jpg']
    assert paired(['a/0.png', 'b/0.png'], ['a/0.png', 'b/0.png']) == ['a/0.png', 'b/0.png']  # not by name


def test_names_in_another_order_are_paired_by_name():
    assert paired(['a.png', 'b.png', 'c.png'], ['c.jpg', 'a.jpg', 'b.jpg']) == ['a.jpg', 'b.jpg', 'c.jpg']


@pytest.mark.parametrize('force', [False, True])
def test_unpadded_numbers_are_paired_as_numbers(force):
    assert paired(PADDED, PLAIN, force=force) == [f'sample_{i}.png' for i in range(12)]
    assert paired(PLAIN, PADDED, force=force) == [f'{int(name[7:-4]):06d}.png' for name in PLAIN]
    archive = [f'samples.npz[{i}]' for i in range(12)]
    assert paired(archive, PLAIN, force=force) == [f'sample_{i}.png' for i in range(12)]


def test_numbers_that_all_names_share_do_not_count():
    assert numbers_in(['edm2_0010.png', 'edm2_0009.png']) == [10, 9]
    assert numbers_in(['only-3.png']) == [3]


AMBIGUOUS = {
    'two numbers differ': [f'{i}-{7 * i % 12}.png' for i in range(12)],
    'words differ': [f'{"cat" if i % 2 else "dog"}{i}.png' for i in range(12)],
    'one number twice': [f'{i % 11}.png' for i in range(12)],
    'other numbers': [f'{i + 1}.png' for i in range(12)],
    'no numbers': [f'{chr(97 + i)}.png' for i in range(12)],
}


@pytest.mark.parametrize('kind', AMBIGUOUS)
def test_names_that_do_not_tell_are_not_paired(kind):
    assert pair_rows(PADDED, AMBIGUOUS[kind]) is None


def test_other_numbers_are_paired_in_their_order_if_forced():
    other = sorted(f'{i}.png' for i in range(5, 17))
    assert paired(PADDED, other, force=True) == [f'{i}.png' for i in range(5, 17)]
    assert paired(['2.png', '0.png', '1.png'], ['11.png', '12.png', '10.png'], force=True) == [
        '12.png', '10.png', '11.png']
    assert paired(PADDED, AMBIGUOUS['words differ'], force=True) == AMBIGUOUS['words differ']
