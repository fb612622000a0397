import errno
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from torch_utils.errors import UserError
from torch_utils.run_dir import RunLog, find_snapshot, make_run_dir, resumed_dir, tick_after


def stats(tick, kimg):
    return {'Progress/tick': {'mean': tick}, 'Progress/kimg': {'mean': kimg}}


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(20) as pool:
        folders = set(pool.map(lambda _: make_run_dir(tmp_path, 'name'), range(20)))
    assert {path.name for path in folders} == {f'{i:05d}-name' for i in range(20)}
    assert all(path.is_dir() for path in folders)


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with RunLog(tmp_path) as log:
        log.print('tick 0 ')
        with pytest.raises(UserError, match=f'--outdir {tmp_path}: another run'):
            RunLog(tmp_path)
        log.print('more')
    assert (tmp_path / 'log.txt').read_text() == 'tick 0 \nmore\n'
    with RunLog(tmp_path):
        pass


def test_reports_of_ticks_to_come_are_taken_back(tmp_path):
    with RunLog(tmp_path) as log:
        log.print('Network: ...')
        for tick in range(4):
            log.print(f'tick {tick}   kimg 1')
            log.stats(stats(tick, tick / 2))
    with open(tmp_path / 'stats.jsonl', 'a') as file:
        file.write('{"Progress/tick": {"me')
    whole = (tmp_path / 'stats.jsonl').read_text()
    other = tmp_path / 'other'
    other.mkdir()
    RunLog(other, history=tmp_path, next_tick=9).__exit__()
    assert (other / 'stats.jsonl').read_text() + '{"Progress/tick": {"me' == whole
    for folder in (other, tmp_path):
        with RunLog(folder, history=tmp_path, next_tick=2) as log:
            log.print('on')
        assert (folder / 'log.txt').read_text() == 'Network: ...\ntick 0   kimg 1\ntick 1   kimg 1\non\n'
        ticks = [json.loads(line)['Progress/tick']['mean'] for line in
                 (folder / 'stats.jsonl').read_text().splitlines()]
        assert ticks == [0, 1]
    assert [tick_after(tmp_path, kimg) for kimg in (-1, 0, 1)] == [0, 2, 2]
    assert tick_after(tmp_path / 'none', 5) == 0


def test_a_new_run_in_an_old_folder_goes_on_with_the_log_and_begins_its_statistics(tmp_path):
    for name in ('log.txt', 'stats.jsonl'):
        (tmp_path / name).write_text('tick 0\n')
    RunLog(tmp_path).__exit__()
    assert (tmp_path / 'log.txt').read_text() == 'tick 0\n'
    assert (tmp_path / 'stats.jsonl').read_text() == ''


def test_lines_that_the_disk_does_not_take_are_kept(tmp_path, capsys):
    class Full:
        def __init__(self, file):
            self.file, self.full = file, False

        def write(self, data):
            if self.full:
                raise OSError(errno.ENOSPC, 'No space left on device')
            return self.file.write(data[:7])  # never all at once

        def close(self):
            self.file.close()

    with RunLog(tmp_path) as log:
        appender = log._files['log.txt']
        appender._file = disk = Full(appender._file)
        log.print('the first line')
        disk.full = True
        log.print('the second line')
        log.print('the third line')
        disk.full = False
        log.print('the fourth line')
    lines = (tmp_path / 'log.txt').read_text().splitlines()
    assert lines == [f'the {n} line' for n in ('first', 'second', 'third', 'fourth')]
    assert capsys.readouterr().err.count('Warning: log.txt takes no lines now (No space left on device)') == 1


def test_a_run_goes_on_in_its_folder_where_it_would_write_anyway(tmp_path):
    folder = tmp_path / '00003-faces-x'
    folder.mkdir()
    (folder / 'state.pt').touch()
    assert resumed_dir(str(folder), str(tmp_path), 'faces-x') == folder
    assert resumed_dir(str(folder), str(tmp_path), 'faces') is None
    assert resumed_dir(str(folder), str(tmp_path / 'other'), 'faces-x') is None
    assert resumed_dir(str(folder / 'state.pt'), str(tmp_path), 'faces-x') is None
    assert resumed_dir(str(folder), str(folder), None) == folder
    assert resumed_dir(str(folder / 'state.pt'), str(folder), None) == folder
    assert resumed_dir(str(folder), str(tmp_path), None) is None


def test_a_runs_folder_stands_for_its_newest_snapshot(tmp_path, capsys):
    with pytest.raises(UserError, match=f'--network {tmp_path}: no network-snapshot'):
        find_snapshot(str(tmp_path))
    for name in ('network-snapshot-000009.pkl', 'network-snapshot-1000000.pkl', 'network-snapshot-x.pkl'):
        (tmp_path / name).touch()
    newest = str(tmp_path / 'network-snapshot-1000000.pkl')
    assert find_snapshot(str(tmp_path)) == newest
    assert f'--network {tmp_path}: takes network-snapshot-1000000.pkl' in capsys.readouterr().err
    for other in (newest, 'https://host/network.pkl', 'missing.pkl'):
        assert find_snapshot(other) == other
