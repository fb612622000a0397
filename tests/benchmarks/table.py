"""Run the benchmarks and end in their table: `make bench`, or this file with the names of some of them.

The exit status is 1 if a row misses what it must reach, or a benchmark fails.

Each bench_NAME.py beside this file has a docstring that explains its rows and a function `rows()` that yields
them, in a process of its own: what one sets up does not help another, nor its baseline. The rows also go to
tests/benchmarks/results.md and results.json.
"""

import importlib
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / 'edm')]

from measure import Row  # noqa: E402, found through the line above

from torch_utils import provenance  # noqa: E402


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; returns the exit status."""
    known = sorted(path.stem.removeprefix('bench_') for path in HERE.glob('bench_*.py'))
    unknown = set(names) - set(known)
    if unknown:
        sys.exit(f'Error: no benchmark {", ".join(sorted(unknown))}; there are {", ".join(known)}')
    results = {}
    for name in names or known:
        start = time.perf_counter()
        results[name] = []
        for row in _rows(name):
            results[name].append(row)
            print(f'{name}: {row.what}: {_cells(row)}', flush=True)
        print(f'{name}: {time.perf_counter() - start:.0f} s', flush=True)
    record = provenance.record()
    (HERE / 'results.md').write_text(_markdown(results, record), encoding='utf-8')
    as_json = {name: [asdict(row) for row in rows] for name, rows in results.items()}
    (HERE / 'results.json').write_text(json.dumps({'record': record, 'rows': as_json}, indent=2) + '\n')
    print('\n' + summary(results))
    return int(any(row.reached is False for rows in results.values() for row in rows))


def summary(results: dict[str, list[Row]]) -> str:
    """All rows, a line each, with the target and whether it is met; then how many are."""
    cells = [(name, row.what, f'{row.ours:.4g} {row.unit}', '' if row.ratio is None else f'{row.ratio:.3g}',
              row.must, {None: '', True: 'met', False: 'MISSED'}[row.reached])
             for name, rows in results.items() for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ['  '.join(f'{cell:{width}}' for cell, width in zip(line, widths, strict=True)).rstrip()
             for line in cells]
    verdicts = [line[-1] for line in cells]
    return '\n'.join([*lines, f'{verdicts.count("met")} targets met, {verdicts.count("MISSED")} missed, '
                              f'{verdicts.count("")} rows without one'])


def _rows(name: str) -> Iterator[Row]:
    """The rows of a benchmark, each as soon as it is known; if its process fails, a last one that says so."""
    spawn = multiprocessing.get_context('spawn')
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_measure, args=(name, theirs))
    process.start()
    theirs.close()
    while (row := _received(ours)) is not None:
        yield row
    process.join()
    if process.exitcode != 0:
        yield Row(what='the benchmark itself', ours=process.exitcode, unit='exit status', must='0',
                  reached=False)


def _measure(name: str, connection) -> None:
    for row in importlib.import_module(f'bench_{name}').rows():
        connection.send(row)


def _received(connection) -> Row | None:
    try:
        return connection.recv()
    except EOFError:
        return None


def _cells(row: Row) -> str:
    baseline = '' if row.baseline is None else f'{row.baseline:.4g}'
    ratio = '' if row.ratio is None else f'{row.ratio:.3g}'
    reached = {None: '', True: 'yes', False: '**no**'}[row.reached]
    return f'{row.ours:.4g} {row.unit} | {baseline} | {ratio} | {row.must} | {reached} | {row.note}'


def _markdown(results: dict[str, list[Row]], record: dict) -> str:
    lines = ['# Benchmarks', '', f'Python {record["python"]}, torch {record["torch"]}, {record["time_utc"]}, '
             f'commit {record["commit"]}. Ratios are taken in one run.']
    for name, rows in results.items():
        lines += ['', f'## {name}', '', '| | ours | baseline | ratio | must be | reached | |',
                  '|---|---|---|---|---|---|---|']
        lines += [f'| {row.what} | {_cells(row)} |' for row in rows]
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
