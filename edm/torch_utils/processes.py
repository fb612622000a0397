"""A function applied to many items by several processes or threads, with results in the items' order."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from torch_utils.errors import UserError

Item, Result = TypeVar('Item'), TypeVar('Result')


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def map_in_processes(function: Callable, items: Iterable, workers: int) -> Iterator[tuple]:
    """(item, function(item)) of each item, in order, by `workers` processes; at most 2 * workers are ahead.

    function, items, results: picklable. An exception in a process is raised here.
    Raises UserError if a process dies. All end with the iterator (close it), or when this process is killed.
    """
    # A forked process starts at once and shares memory. Forking is unsafe while other threads run, which may
    # hold locks, and with macOS's libraries.
    fork = sys.platform == 'linux' and threading.active_count() == 1
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context('fork' if fork else 'spawn'),
                               initializer=_begin, initargs=(function,))
    try:
        yield from _in_order(pool, _call, items, 2 * workers - 1)
    except BrokenProcessPool as err:
        raise UserError('a worker process died, perhaps out of memory; fewer --workers need less') from err


def _in_order(pool: Executor, function: Callable, items: Iterable, ahead: int) -> Iterator[tuple]:
    """(item, function(item)) in order, computed at most `ahead` items in front; ends the pool."""
    pending = deque()

    def first():
        item, future = pending.popleft()
        return item, future.result()

    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > ahead:
                yield first()
        while pending:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(function: Callable) -> None:
    """Called in each new process. It keeps `function` there, so that it is sent once, not with each item."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _call(item):
    return _function(item)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def default_workers() -> int:
    """Threads that decode images: as many as there are cores for each process of this machine, at most 8."""
    return max(1, min(8, usable_cores() // int(os.environ.get('LOCAL_WORLD_SIZE', 1))))


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int,
              ahead: int) -> Iterator[Result]:
    """function(item) in order of the items, by `workers` threads that are at most `ahead` items in front."""
    return (result for _, result in _in_order(ThreadPoolExecutor(workers), function, items, ahead))
