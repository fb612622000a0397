"""dataset_tool.py, the whole command, on 10,000 files.

- `JPEG`, `PNG`: photos of 178x218 and 128x128 pixels to 64x64 by one process (--workers 1) and by two, pinned
  to two cores, in turns. Their outputs must be the same bytes.
- `CPU time`: the same runs; what sharing costs, also told where other work keeps the cores busy.
- `PNG 32x32`: images so small that starting, and writing the zip, which only one process does, weigh more.
- `memory`: the largest process of the two-process run for 10,000 files, beside that for 1,000.
"""

import hashlib
import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import Row, run_python, side_by_side
from PIL import Image

HERE = Path(__file__).resolve().parent
EDM = HERE.parents[1] / 'edm'
FILES, PICTURES = 10_000, 100  # each picture stands in that many files more
_RUN = '''
import os, resource, sys
cores = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, 'sched_getaffinity') else [0, 0]
if len(cores) == 2 and hasattr(os, 'sched_setaffinity'):
    os.sched_setaffinity(0, cores)
sys.path[:0] = sys.argv[1:3]
import dataset_tool
dataset_tool.main(sys.argv[3:], standalone_mode=False)
from measure import peak_mib
usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(max(peak_mib(), usage[1].ru_maxrss / 1024), sum(use.ru_utime + use.ru_stime for use in usage))
'''


def rows() -> Iterator[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for kind, width, height, side in ('JPEG', 178, 218, 64), ('PNG', 128, 128, 64), ('PNG', 32, 32, 32):
            source = write_pictures(folder / f'{kind}-{width}', kind, width, height)
            yield from _speed(source, folder, kind, side, must=width > 32)
        yield _memory(source, folder)


def write_pictures(folder: Path, kind: str, width: int, height: int, files: int = FILES) -> Path:
    """A folder of smooth random pictures with some noise."""
    folder.mkdir()
    rng = np.random.RandomState(0)
    for i in range(files):
        path = folder / f'{i:05d}.{kind.lower()}'
        if i < PICTURES:
            smooth = Image.fromarray(rng.randint(256, size=(6, 6, 3), dtype=np.uint8))
            pixels = np.asarray(smooth.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = (pixels + rng.randint(-6, 7, size=pixels.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(path)
        else:
            path.write_bytes((folder / f'{i % PICTURES:05d}.{kind.lower()}').read_bytes())
    return folder


def convert(source: Path, dest: Path, side: int, workers: int) -> tuple[float, float]:
    """Run the command; returns the largest process's peak of memory in MiB, and the CPU seconds of all."""
    printed = run_python(_RUN, str(EDM), str(HERE), f'--source={source}', f'--dest={dest}',
                         '--transform=center-crop', f'--resolution={side}x{side}', f'--workers={workers}')
    peak, cpu = printed.split()[-2:]
    return float(peak), float(cpu)


def _speed(source: Path, folder: Path, kind: str, side: int, must: bool) -> Iterator[Row]:
    zips = [folder / 'one.zip', folder / 'two.zip']
    used = [], []  # CPU seconds
    two, one = side_by_side([lambda: used[1].append(convert(source, zips[1], side, 2)[1]),
                             lambda: used[0].append(convert(source, zips[0], side, 1)[1])],
                            repeats=3, warmup=0)
    hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in zips}
    size = Image.open(next(source.iterdir())).size
    yield Row(what=f'{FILES:,} {kind} files of {size[0]}x{size[1]} to {side}x{side}', ours=two, unit='s',
              baseline=one, ratio=one / two, must='>= 1.8 times one; the same bytes' if must else '',
              reached=one / two >= 1.8 and len(hashes) == 1 if must else None,
              note=f'two processes beside one; outputs {"alike" if len(hashes) == 1 else "DIFFER"}; '
                   f'load {os.getloadavg()[0]:.1f}')
    cpu = statistics.median(used[1]), statistics.median(used[0])
    yield Row(what='  the same in CPU time of all processes', ours=cpu[0], unit='s', baseline=cpu[1],
              ratio=cpu[0] / cpu[1], note='2 over this is what 2 cores can gain at most')


def _memory(source: Path, folder: Path) -> Row:
    few = write_pictures(folder / 'few', 'PNG', 32, 32, files=FILES // 10)
    many, baseline = (convert(path, folder / 'memory.zip', 32, 2)[0] for path in (source, few))
    return Row(what=f'memory for {FILES:,} files', ours=many, unit='MiB', baseline=baseline,
               ratio=many / baseline, must='<= 1.25 times that for a tenth',
               reached=many / baseline <= 1.25, note='largest of three processes')
