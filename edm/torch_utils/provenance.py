"""What made a result: command line, versions, time. Written into every run directory and sample folder."""

import datetime
import platform
import shlex
import subprocess
import sys
from pathlib import Path


def record() -> dict:
    """Command line, versions of Python and the packages that decide numbers, commit and UTC time."""
    import numpy
    import torch
    return {
        'command': shlex.join(sys.argv),
        'python': platform.python_version(),
        'torch': torch.__version__,
        'numpy': numpy.__version__,
        'commit': commit(),
        'time_utc': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def commit() -> str | None:
    """`git describe --always --dirty` of this code, None outside a git checkout."""
    try:
        done = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=Path(__file__).parent,
                              capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
