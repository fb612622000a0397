"""50,000 tiny images from files to training batches: what must not grow with their number.

- `dataset_tool.py`: a folder of 50,000 images of 8x8 pixels to a .zip, by two processes; the peak of the
  largest process beside that for 5,000. What may grow are names, labels and the zip's directory: the ratio is
  bytes for each image more.
- `loader, decoded at every access`: 400 batches of 64 out of that zip with --cache=0, by two threads; the
  same.
- `loader, kept`: the same with the images kept as one array; beside the bytes of that array.
- `open files`: the most that the loader held open.
- `sscd.py feature`: pixel descriptors of that zip; the peak of the process, as for dataset_tool.py.
- `generate.py --optimal_denoiser`: two samples of that zip's optimal denoiser, likewise; the data set itself,
  192 bytes an image, stays in memory.
mscore at 10,000 x 50,000 is a row of bench_scores.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from bench_dataset_tool import convert
from measure import Row, run_python
from PIL import Image

HERE = Path(__file__).resolve().parent
EDM = HERE.parents[1] / 'edm'
MANY, FEW, SIDE = 50_000, 5_000, 8
_LOADER = '''
import os, sys
sys.path[:0] = sys.argv[1:3]
import torch
from measure import peak_mib
from data.batches import Batches
from data.dataset import ImageDataset
before = peak_mib()
dataset = ImageDataset(sys.argv[3], cache=sys.argv[4] == 'kept')
workers = 0 if sys.argv[4] == 'kept' else 2
batches = Batches(dataset, size=64, seed=0, device=torch.device('cpu'), workers=workers)
files = 0
for _ in range(400):
    images, labels = next(batches)
    files = max(files, len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else 0)
batches.close()
print(peak_mib() - before, files)
'''


def rows() -> Iterator[Row]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        many, few = (write_images(Path(folder) / str(count), count) for count in (MANY, FEW))
        peaks = [convert(path, path.with_suffix('.zip'), SIDE, workers=2)[0] for path in (many, few)]
        yield _growth(f'dataset_tool.py, {MANY:,} images', *peaks, note='largest of three processes')
        peaks = [load(path.with_suffix('.zip'), 'anew') for path in (many, few)]
        yield _growth(f'loader, decoded at every access, {MANY:,} images', peaks[0][0], peaks[1][0],
                      note='beyond the imports')
        array = MANY * SIDE * SIDE * 3 / 2 ** 20
        kept = load(many.with_suffix('.zip'), 'kept')
        yield Row(what=f'loader, kept, {MANY:,} images', ours=kept[0], unit='MiB', baseline=array,
                  ratio=(kept[0] - peaks[0][0]) / array, must='at most 2 arrays more than without keeping',
                  reached=kept[0] - peaks[0][0] <= 2 * array)
        yield Row(what='open files', ours=peaks[0][1], unit='files', baseline=peaks[1][1],
                  must='as many as for a tenth, up to 4', reached=abs(peaks[0][1] - peaks[1][1]) <= 4)

        calls = {'sscd.py feature': ('sscd.py', 'feature', '--descriptor=pixel', '--features={out}.npz',
                                     '--images={data}', '--device=cpu'),
                 'generate.py --optimal_denoiser': (
                     'generate.py', '--optimal_denoiser', '--dataset={data}', '--outdir={out}', '--seeds=0-1',
                     '--device=cpu')}
        for what, call in calls.items():
            peaks = [peak_of(*(arg.format(data=path.with_suffix('.zip'), out=path.with_suffix('.out'))
                               for arg in call)) for path in (many, few)]
            yield _growth(f'{what}, {MANY:,} images', *peaks, note='whole process')


def peak_of(script: str, *args: str) -> float:
    """Peak of memory in MiB of a call of a script."""
    code = ('import resource, subprocess, sys\n'
            'subprocess.run([sys.executable, *sys.argv[1:]], check=True, capture_output=True)\n'
            'print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)')
    return float(run_python(code, str(EDM / script), *args))


def _growth(what: str, many: float, few: float, note: str) -> Row:
    grown = (many - few) * 2 ** 20 / (MANY - FEW)
    return Row(what=what, ours=many, unit='MiB', baseline=few, ratio=grown,
               must='<= 1500 bytes for each image more', reached=grown <= 1500, note=note)


def write_images(folder: Path, count: int) -> Path:
    """A folder of `count` images, a hundred different ones, in sub-folders of a thousand."""
    rng = np.random.RandomState(0)
    encoded = []
    for _ in range(100):
        path = folder.with_suffix('.png')
        Image.fromarray(rng.randint(256, size=(SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        encoded.append(path.read_bytes())
    for number in range(count):
        place = folder / f'{number // 1000:03d}' / f'{number:06d}.png'
        if number % 1000 == 0:
            place.parent.mkdir(parents=True)
        place.write_bytes(encoded[number % 100])
    return folder


def load(path: Path, how: str) -> tuple[float, int]:
    """Peak of memory in MiB beyond the imports, and the most open files."""
    peak, files = run_python(_LOADER, str(EDM), str(HERE), str(path), how).split()
    return float(peak), int(files)
