"""A module built from untrusted constructor arguments as shapes alone, bounded in time and memory."""

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from torch_utils.errors import shown

MAX_INTEGER = 100_000  # among a network's constructor arguments: width, resolution, classes, steps
MAX_ARGUMENTS = 10_000  # values there, in lists of lists counted as often as they stand there

FILLS = {'uniform_', 'normal_', 'fill_', 'zero_', 'kaiming_uniform_'}  # as PyTorch's own layers begin


def sketch(cls: Callable[..., torch.nn.Module], args: tuple, kwargs: dict, modules: int) -> torch.nn.Module:
    """cls(*args, **kwargs) with at most `modules` modules, and tensors on the meta device.

    So arguments of any size cost nothing. Raises ValueError, whatever goes wrong, in one line.
    """
    # Untrusted arguments can make a constructor fail in any way.
    try:
        left = iter(range(MAX_ARGUMENTS))
        args, kwargs = _plain_arguments(args, left), _plain_arguments(kwargs, left)
        with _limited_modules(modules), _ShapesOnly():
            return cls(*args, **kwargs)
    except Exception as err:
        raise ValueError(shown(err, 200)) from err


def _plain_arguments(value, left: Iterator):
    """Recorded constructor arguments as plain values, small enough for the constructor to end soon.

    left: has an item for each value that may still come; lists that share lists could hold billions.
    """
    if isinstance(value, np.ndarray) and value.size <= MAX_ARGUMENTS:
        value = value.tolist()
    if next(left, None) is None:
        raise ValueError(f'more than {MAX_ARGUMENTS} values are beyond any network')
    if isinstance(value, dict):
        return {key: _plain_arguments(item, left) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain_arguments(item, left) for item in value)
    if type(value) is int and abs(value) > MAX_INTEGER:
        raise ValueError(f'{shown(value)} is beyond any network')
    if value is None or type(value) in (int, float, bool, str):
        return value
    raise ValueError(f'an argument is a {type(value).__name__}')


@contextlib.contextmanager
def _limited_modules(count):
    """Fail once the constructors inside have put together more than `count` modules."""
    left = iter(range(count))

    def check(*_):
        if next(left, None) is None:
            raise ValueError('more modules than the file has')

    handle = register_module_module_registration_hook(check)
    try:
        yield
    finally:
        handle.remove()


class _ShapesOnly(TorchFunctionMode):
    """Inside, tensors that constructors draw or fill have a shape and no memory (the meta device).

    Arithmetic with numbers and filling is skipped: for the first one PyTorch would load its compiler, for
    seconds.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in (torch.empty, torch.ones, torch.zeros, torch.rand, torch.randn):
            return func(*args, **kwargs | {'device': kwargs.get('device') or 'meta'})  # layers pass None
        tensors = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, torch.Tensor)]
        if func.__name__ in FILLS and tensors[0].is_meta:
            return tensors[0]
        if func.__name__ in ('mul', 'sub') and len(tensors) == 1 and tensors[0].is_meta:
            return tensors[0]
        return func(*args, **kwargs)
