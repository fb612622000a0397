"""Bounds on untrusted pickles: no more bytes than the file has, no more work than a snapshot needs."""

import functools
import io
import pickle
import typing

# What reading one file may take: NVIDIA's largest network needs 60,000 opcodes and 7,000 calls.
MAX_OPCODES, MAX_CALLS = 500_000, 50_000


class Bounded:
    """A file that reads no more than it holds: a pickle may claim any length for what follows."""

    def __init__(self, file: typing.BinaryIO):
        self._file = file
        start = file.tell()
        self.size = file.seek(0, io.SEEK_END)
        file.seek(start)
        self.readline = functools.partial(file.readline, 1000)  # longer than any name

    def read(self, size: int) -> bytes:
        if size > 1 << 16 and size > self.size - self._file.tell():
            raise EOFError
        return self._file.read(size)


class Budget:
    """What reading one file may still cost: a pickle can request the same thing without end.

    opcodes: pickle opcodes, and the entries of lists and dicts that calls walk through. bytes: of text and
    data passed to calls, counted for each call; a snapshot passes each to one call, or to two in a row.
    """

    def __init__(self, size: int):
        self.left = {'opcodes': MAX_OPCODES, 'calls': MAX_CALLS, 'bytes': 2 * size + (1 << 20)}

    def spend(self, what: str, number: int = 1) -> None:
        self.left[what] -= number
        if self.left[what] < 0:
            raise pickle.UnpicklingError(f'it asks for more {what} than any snapshot needs')

    def spend_call(self, args: tuple) -> None:
        self.spend('calls')
        for arg in args:
            if type(arg) in (bytes, str):
                self.spend('bytes', len(arg))
            elif type(arg) in (list, tuple, dict):
                self.spend('opcodes', len(arg))
