"""JSON files that users hand over: read, and checked value by value, with messages that name the place."""

import json
import math
import os
import sys
from pathlib import Path

from torch_utils.cli import MAX_INT
from torch_utils.errors import UserError

MAX_NUMBER = sys.float_info.max  # JSON and Python have larger integers, with which nothing can be computed


def load_json(path: str | os.PathLike, option: str) -> 'Place':
    """The whole content of a file. Raises UserError naming `option` and the file if it is no JSON file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f'{option} {path}: no such file')
    return parse_json(path.read_bytes(), f'{option} {path}')


def parse_json(text: bytes, where: str) -> 'Place':
    """A JSON text in UTF-8. Raises UserError led by `where` if it is none."""
    try:
        content = json.loads(text.decode('utf-8'))
    except (ValueError, RecursionError) as err:
        raise UserError(f'{where}: not a JSON file') from err
    return Place(content, where)


class Place:
    """A value in a JSON file and its path there, such as scores/0.97/gl/16[2], for messages.

    The methods return what they are named after, or raise UserError that says where something else was found.
    """

    def __init__(self, value, file: str, path: str = ''):
        self.value, self.file, self.path = value, file, path

    def error(self, expected: str) -> UserError:
        shown = json.dumps(self.value)
        shown = shown if len(shown) < 60 else f'{shown[:57]}...'
        return UserError(f'{self.file}: {self.path or "the file"} must be {expected}, found {shown}')

    def mapping(self) -> dict:
        if not isinstance(self.value, dict):
            raise self.error('an object')
        return self.value

    def has(self, key: str) -> bool:
        return self.mapping().get(key) is not None

    def get(self, key: str) -> 'Place':
        path = f'{self.path}/{key}' if self.path else key
        if key not in self.mapping():
            raise UserError(f'{self.file}: {path} is missing')
        return Place(self.value[key], self.file, path)

    def items(self) -> list['Place']:
        if not isinstance(self.value, list) or not self.value:
            raise self.error('a list that is not empty')
        return [Place(item, self.file, f'{self.path}[{i}]') for i, item in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            raise self.error('text')
        return self.value

    def number(self, low: float, high: float = math.inf) -> float:
        ok = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not ok or not low <= self.value <= high or not -MAX_NUMBER <= self.value <= MAX_NUMBER:
            raise self.error(f'a number from {low:g} ' + (f'to {high:g}' if high < math.inf else 'up'))
        return self.value

    def integer(self) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool) or not 0 < self.value <= MAX_INT:
            raise self.error('an integer above 0 that 64 bits hold')
        return self.value
