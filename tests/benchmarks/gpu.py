"""Check and time this software on a GPU: `make gpu`. The table goes to tests/benchmarks/gpu.md.

Without a GPU nothing is timed, and tests run that stand in: on PyTorch's meta device, where tensors of two
devices don't mix and no number can be read. With --device=cpu checks and small timings run on the CPU.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / 'edm')]

import gpu_checks  # noqa: E402, found through the line above
import gpu_speed  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from table import summary  # noqa: E402

from torch_utils import provenance  # noqa: E402

SMALL = {'width': 16, 'batch': 4, 'num_images': 1000, 'repeats': 1}


def main() -> int:
    """Returns the exit status: 1 if a check fails or a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', help='default: cuda')
    device = parser.parse_args().device
    if device is None and not torch.cuda.is_available():
        print('PyTorch finds no CUDA device: nothing is timed; the tests on the meta device run instead.')
        return pytest.main(['-q', str(HERE.parent / 'test_devices.py')])
    device = torch.device(device or 'cuda')
    results = {'checks': [], 'speed': []}
    for name, rows in (('checks', gpu_checks.rows(device)),
                       ('speed', gpu_speed.rows(device, **SMALL if device.type == 'cpu' else {}))):
        for row in rows:
            results[name].append(row)
            print(f'{name}: {row.what}: {row.ours:.4g} {row.unit}', flush=True)
    table = f'{about(device)}\n\n{summary(results)}'
    print('\n' + table)
    (HERE / 'gpu.md').write_text(f'```\n{table}\n```\n', encoding='utf-8')
    return int(any(row.reached is False for rows in results.values() for row in rows))


def about(device: torch.device) -> str:
    """Device, driver, versions and commit in a line."""
    record = provenance.record()
    parts = [f'Python {record["python"]}', f'torch {record["torch"]}', f'commit {record["commit"]}']
    if device.type == 'cuda':
        properties = torch.cuda.get_device_properties(device)
        driver = Path('/proc/driver/nvidia/version')
        memory = f'{properties.total_memory / 2**30:.0f} GiB'
        parts = [f'{torch.cuda.device_count()} x {properties.name}, {memory}',
                 driver.read_text().splitlines()[0] if driver.exists() else 'driver unknown',
                 f'CUDA {torch.version.cuda}', f'cuDNN {torch.backends.cudnn.version()}', *parts]
    return '; '.join(parts)


if __name__ == '__main__':
    sys.exit(main())
