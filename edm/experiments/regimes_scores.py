"""From the features of all students to regimes.json, regimes.csv and the example images beside them."""

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np

from data.dataset import ImageDataset
from experiments.regimes import EXAMPLES, REFERENCES, Regimes, student_name
from experiments.stages import Stage
from scores import copy_scores as scores
from scores.features import load_features
from torch_utils import provenance
from torch_utils.errors import UserError
from torch_utils.files import atomic_write, make_output_dir, write_json
from torch_utils.images import write_png


def collect(job: Regimes) -> dict:
    """Score all students; returns what `job.results` holds, the layout of `figures.regimes_results`.

    Writes the file, the same numbers as CSV, and the images that the figure shows. A file that holds these
    very numbers already is left as it is.
    """
    models = [*job.students, *itertools.product(job.sizes, REFERENCES)]
    features = {model: _values(job.features(student_name(*model))) for model in models}
    pool = _values(job.features('pool'))
    if len(pool) <= max(job.sizes):
        raise UserError(f'{job.features("pool")}: {len(pool)} images; {max(job.sizes)} are to train on and '
                        'at least one must be held out')
    similarities = {student: scores.nearest_neighbors(features[student], pool[:student[0]])
                    for student in job.students}
    heldout = {size: scores.nearest_neighbors(pool[max(job.sizes):], pool[:size])[0] for size in job.sizes}
    pairs = list(itertools.combinations(sorted(job.widths, reverse=True), 2))
    results = {
        'data': Path(job.data or job.teacher).stem, 'kimg': job.kimg, 'descriptor': job.descriptor,
        'num_samples': job.num_samples, 'threshold': job.thresholds[0], 'thresholds': list(job.thresholds),
        'sizes': list(job.sizes), 'widths': list(job.widths),
        'scores': {f'{t:g}': _scores_at(t, job, features, similarities, heldout, pairs)
                   for t in job.thresholds},
        'examples': _examples(job, similarities)}
    if not _holds(job.results, results):
        make_output_dir(job.results.parent, '--name')
        _write_examples(job, results['examples'], similarities)
        _write_csv(job.results.with_suffix('.csv'), results)
        write_json(job.results, results | {'record': provenance.record() | {'commands': _commands(job)}})
    return results


def _values(path: Path) -> np.ndarray:
    return load_features(path, '--name').values


def _scores_at(threshold: float, job: Regimes, features, similarities, heldout, pairs) -> dict:
    """The curves of one threshold."""
    def curve(similarities_by_size, new: bool):
        return [_point(size, similarities_by_size[size], threshold, new) for size in job.sizes]

    def rp(pair, shift):
        return {size: scores.pair_similarities(features[size, pair[0]],
                                               np.roll(features[size, pair[1]], shift, axis=0))
                for size in job.sizes}

    return {
        'rp': {f'{a}-{b}': curve(rp((a, b), 0), new=False) for a, b in pairs},
        'gl': {str(width): curve({size: similarities[size, width][0] for size in job.sizes}, new=True)
               for width in job.widths},
        # Sample i of one model beside sample i + 1 of the other: what different noises have in common.
        'chance_rp': {f'{a}-{b}': curve(rp((a, b), -1), new=False) for a, b in pairs},
        'heldout_gl': curve(heldout, new=True),
        **{f'{kind}_rp': {str(width): curve(rp((width, kind), 0), new=False) for width in job.widths}
           for kind in REFERENCES}}


def _point(size: int, similarities: np.ndarray, threshold: float, new: bool) -> dict:
    """The share of similarities above the threshold, or, with `new`, of all others."""
    share = scores.Share.above(similarities, threshold)
    share = share.rest() if new else share
    return {'size': size, 'value': share.value, 'low': share.low, 'high': share.high}


def _examples(job: Regimes, similarities) -> dict:
    """The first samples of the first width, unselected, and the files that show them."""
    width = job.widths[0]
    count = min(EXAMPLES, job.num_samples)
    columns = []
    for size in job.sizes:
        files = [[f'examples/n{size:05d}-{i}-{kind}.png' for i in range(count)]
                 for kind in ('sample', 'nearest')]
        columns.append({'size': size, 'samples': files[0], 'nearest': files[1],
                        'similarity': similarities[size, width][0][:count].tolist()})
    return {'width': width, 'columns': columns}


def _write_examples(job: Regimes, examples: dict, similarities) -> None:
    pool = ImageDataset(job.pool, cache=False)
    make_output_dir(job.results.parent / 'examples', '--name')
    for column in examples['columns']:
        student = column['size'], examples['width']
        samples = ImageDataset(job.samples(*student), cache=False)
        shown = range(len(column['samples']))
        nearest = similarities[student][1][:len(column['nearest'])]
        for files, images in ((column['samples'], samples.images(shown)),
                              (column['nearest'], pool.images(nearest))):
            for file, image in zip(files, images, strict=True):
                write_png(job.results.parent / file, image.transpose(1, 2, 0))


def _holds(path: Path, results: dict) -> bool:
    """Whether these results were written already, and what lies beside them is still there."""
    columns = results['examples']['columns']
    files = [path.parent / file for column in columns for file in (*column['samples'], *column['nearest'])]
    if not all(file.is_file() for file in (path.with_suffix('.csv'), *files)):
        return False
    try:
        written = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return False
    return {key: value for key, value in written.items() if key != 'record'} == results


def _write_csv(path: Path, results: dict) -> None:
    """One line per threshold, curve and size: threshold, score, models, size, value, low, high."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator='\n')
    lines.writerow(['threshold', 'score', 'models', 'size', 'value', 'low', 'high'])
    for threshold, curves in results['scores'].items():
        for score, value in curves.items():
            for models, points in (value.items() if isinstance(value, dict) else [('', value)]):
                lines.writerows([threshold, score, models, *point.values()] for point in points)
    with atomic_write(path, 'w') as file:
        file.write(text.getvalue())


def _commands(job: Regimes) -> list[str]:
    """The command lines that repeat single scores: of the largest size, at the main threshold."""
    size, threshold = max(job.sizes), f'{job.thresholds[0]:g}'
    wide, narrow = (str(job.features(student_name(size, width))) for width in (job.widths[0], job.widths[-1]))
    train = str(job.features('train'))
    calls = [('feature', '--images', str(job.dataset(size)), '--features', train, '--descriptor',
              job.descriptor),
             ('rpscore', '--source', wide, '--target', narrow, '--t', threshold),
             ('mscore', '--source', wide, '--target', train, '--t', threshold)]
    return [Stage(name='', command=('sscd.py', *call), outputs=()).command_line() for call in calls]


def picture_stages(job: Regimes) -> list[Stage]:
    """The calls that draw the figures, as PNG and as PDF."""
    return [Stage(name=f'figure-{path.name.replace(".", "-")}', outputs=(path,), inputs=(job.results,),
                  command=('plot.py', path.stem, '--results', str(job.results), '--out', str(path)))
            for path in job.pictures]


def table(results: dict) -> str:
    """The scores as text: a line per size, columns per score and threshold."""
    columns = [('N', [str(size) for size in results['sizes']])]
    for score, title in (('rp', 'RP'), ('gl', 'GL')):
        for threshold in map('{:g}'.format, results['thresholds']):
            for models, points in results['scores'][threshold][score].items():
                values = [f'{point["value"]:.2f}' for point in points]
                columns.append((f'{title} {models} >{threshold}', values))
    lines = [[title for title, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    return '\n'.join('  '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
                     for line in lines)
