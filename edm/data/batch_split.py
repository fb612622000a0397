"""How processes and rounds share the batch of a step. Imports no torch."""

from typing import NamedTuple


class BatchSplit(NamedTuple):
    """How one step's batch is shared: each process takes `rounds` micro-batches of `micro_batch` images."""

    per_process: int
    micro_batch: int
    rounds: int


def split_batch(batch_size: int, batch_gpu: int | None, num_processes: int) -> BatchSplit:
    """Share `batch_size` images among processes, then in equal micro-batches of at most `batch_gpu`.

    Raises ValueError, in terms of the options --batch and --batch-gpu, if the numbers do not divide.
    """
    per_process, rest = divmod(batch_size, num_processes)
    if rest or per_process == 0:
        raise ValueError(f'--batch {batch_size} can\'t be shared equally among {num_processes} processes')
    micro_batch = min(batch_gpu or per_process, per_process)
    if per_process % micro_batch:
        raise ValueError(f'--batch-gpu {batch_gpu} does not divide the {per_process} images that each of the '
                         f'processes ({num_processes}) gets of --batch {batch_size}')
    return BatchSplit(per_process, micro_batch, rounds=per_process // micro_batch)
