"""A function on many items by several processes, the results in the items' order."""

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
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
    with contextlib.ExitStack() as stack:
        free = queue.SimpleQueue()  # processes that wait for work
        started = []
        for _ in range(workers):  # all before the first thread: a process is best forked without any
            process, connection = _start(function, started)
            stack.callback(process.join)
            stack.callback(connection.close)
            started.append(connection)
            free.put(connection)
        pool = ThreadPoolExecutor(workers)  # each thread waits for one process
        stack.callback(pool.shutdown, cancel_futures=True)
        pending = deque()
        for item in items:
            pending.append((item, pool.submit(_ask, free, item)))
            if len(pending) >= 2 * workers:
                yield _result(*pending.popleft())
        while pending:
            yield _result(*pending.popleft())


def _result(item, future: Future) -> tuple:
    return item, future.result()


def _start(function: Callable, started: list[Connection]) -> tuple[multiprocessing.Process, Connection]:
    # A forked process starts at once and shares what is in memory. It may not be forked from among threads,
    # which could hold locks, and macOS's libraries don't bear it.
    fork = sys.platform == 'linux' and threading.active_count() == 1
    context = multiprocessing.get_context('fork' if fork else 'spawn')
    ours, theirs = context.Pipe()
    inherited = [*started, ours] if fork else []
    process = context.Process(target=_work, args=(function, theirs, inherited), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def _work(function: Callable, connection: Connection, inherited: list[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:  # else it would stay open in here when the parent is gone
        other.close()
    with contextlib.suppress(EOFError, OSError):  # the parent closed its end, or is gone
        while True:
            item = connection.recv()
            try:
                answer = True, function(item)
            except Exception as err:
                answer = False, err
            connection.send(answer)


def _ask(free: queue.SimpleQueue, item):
    connection = free.get()
    try:
        connection.send(item)
        good, result = connection.recv()
    except (EOFError, OSError) as err:
        raise UserError('a worker process died, maybe for want of memory; fewer --workers need less') from err
    finally:
        free.put(connection)  # also of a dead one: no thread may wait for ever
    if not good:
        raise result
    return result


def default_workers() -> int:
    """Threads that decode images: as many as there are cores for each process of this machine, at most 8."""
    return max(1, min(8, usable_cores() // int(os.environ.get('LOCAL_WORLD_SIZE', 1))))


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int,
              ahead: int) -> Iterator[Result]:
    """function(item) in order of the items, by `workers` threads that are at most `ahead` items in front."""
    pool, pending = ThreadPoolExecutor(workers), deque()
    with contextlib.ExitStack() as stack:
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
