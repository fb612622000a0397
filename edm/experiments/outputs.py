"""Outputs of stages: files, folders of images, and run folders; whether they are whole."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch_utils.run_dir import number_in, snapshot_name


def fault(outputs: Sequence[Path], num_images: int | None) -> str | None:
    """What is wrong with the outputs of a stage, in words; None if they are whole.

    num_images: how many a folder must hold; None for a run folder, whose newest snapshot must be its last.
    """
    for path in outputs:
        if not path.is_dir():
            if not path.exists() or not path.stat().st_size:
                return f'did not leave {path}'
        elif num_images is None:
            if wrong := _fault_of_run(path):
                return wrong
        elif (images := len(list(path.glob('*.png')))) != num_images:
            return f'makes {num_images} images, but {path} holds {images}'
    return None


def _fault_of_run(folder: Path) -> str | None:
    try:
        options = json.loads((folder / 'training_options.json').read_text(encoding='utf-8'))
        steps = -(-1000 * options['total_kimg'] // options['batch_size'])
        last = folder / snapshot_name(steps * options['batch_size'])
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return f'did not leave a whole {folder / "training_options.json"}'
    for path in folder.glob('network-snapshot-*.pkl'):
        if (number_in(path) or 0) > number_in(last):
            return f'ends with {last.name}, but {path} is of a longer run: remove it'
    return None if last.exists() else f'did not leave {last}'


def files(outputs: Sequence[Path]) -> Iterator[Path]:
    """Files, images and snapshots that a stage with other settings must not take for its own."""
    for path in outputs:
        yield from (*path.glob('*.png'), *path.glob('network-snapshot-*.pkl')) if path.is_dir() else [path]
