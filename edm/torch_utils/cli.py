"""What the command lines share: option types and how a user's mistake is reported.

Imports no torch, so that `--help` and usage errors answer at once.
"""

import contextlib
import functools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from torch_utils.errors import UserError, printable
from torch_utils.files import check_outputs
from torch_utils.interrupt import end_in_order_on_signals

MAX_LISTED = 10_000_000  # integers in one list; a slip such as 0-9999999999 would fill the memory
MAX_INT = 2**63 - 1  # that arrays hold


class Command(click.Command):
    """A click command whose errors are one line on stderr, without usage text or traceback.

    Exit status: 2 for a usage error, 1 for a `UserError` or an operating-system error, 130 when
    interrupted. Under torchrun a usage error, which all processes see, is printed by rank 0 only.
    """

    def main(self, *args: Any, standalone_mode: bool = True, **kwargs: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **kwargs)
        if not args and not kwargs:  # not called from within another program
            end_in_order_on_signals()
        try:
            sys.exit(super().main(*args, standalone_mode=False, **kwargs))
        except click.exceptions.NoArgsIsHelpError as err:  # a group without its sub-command
            print(err.format_message(), file=sys.stderr)
            sys.exit(2)
        except click.UsageError as err:
            _fail(err.format_message(), status=2, quiet=os.environ.get('RANK', '0') != '0')
        except click.ClickException as err:
            _fail(err.format_message(), status=err.exit_code)
        except UserError as err:
            _fail(str(err), status=1)
        except OSError as err:
            if err.errno is None:  # not from the operating system, so ours to mend
                raise
            _fail(f'{err.filename}: {err.strerror}' if err.filename else err.strerror, status=1)
        except (click.Abort, KeyboardInterrupt):
            _fail('interrupted', status=130)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under the headings that `options` gave them, in the order of their first options."""
        for title, params in option_sections(self, ctx).items():
            records = [record for param in params if (record := param.get_help_record(ctx))]
            with formatter.section(title):
                formatter.write_dl(records)


def options(title: str, *decorators: Callable) -> Callable:
    """Decorator: add click.option decorators to a command, in this order, under one heading of its help."""
    def add(function):
        others = len(getattr(function, '__click_params__', []))
        for decorator in reversed(decorators):
            function = decorator(function)
        for param in function.__click_params__[others:]:
            param.section = title
        return function
    return add


def option_sections(command: click.Command, ctx: click.Context) -> dict[str, list[click.Parameter]]:
    """A command's options by the section of the help in which they stand."""
    sections = {}
    for param in command.get_params(ctx):
        sections.setdefault(getattr(param, 'section', 'Options'), []).append(param)
    return sections


def _fail(message: str, *, status: int, quiet: bool = False) -> None:
    if not quiet:
        print('Error:', printable(' '.join(message.split())), file=sys.stderr)
    sys.exit(status)


command = functools.partial(
    click.command, cls=Command, context_settings={'show_default': True, 'max_content_width': 100})


class Group(click.Group, Command):
    """A command with sub-commands, with the same error lines."""

    command_class = Command


class ListCommand(Command):
    """A command whose repeatable options also take several values at once.

    `--names a b` is `--names a --names b`: all up to the next word with a dash belongs to the option.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        repeatable = {opt for param in self.params if getattr(param, 'multiple', False) for opt in param.opts}
        spread, option, first = [], None, False
        for arg in args:
            if arg.startswith('-') and not _is_number(arg):
                option, first = (arg, True) if arg in repeatable else (None, False)
            elif option is not None and not first:
                spread.append(option)
            else:
                first = False
            spread.append(arg)
        return super().parse_args(ctx, spread)


def _is_number(text: str) -> bool:
    return re.fullmatch(r'-\d+(\.\d*)?', text) is not None


class FiniteRange(click.FloatRange):
    """Like click's, which also takes nan and, without bounds, inf, and describes no bounds as `x<=None`.

    infinite: take inf, too.
    """

    def __init__(self, *args: Any, infinite: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.infinite = infinite

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if math.isnan(number) or (math.isinf(number) and not self.infinite):
            self.fail(f'{value!r} is no finite number', param, ctx)
        return number

    def _describe_range(self) -> str:
        return '' if self.min is None and self.max is None else super()._describe_range()


class IntOrAuto(click.ParamType):
    """An integer of at least 1, or the word `auto`."""

    name = 'int|auto'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        if value == 'auto' or (isinstance(value, int) and value >= 1):
            return value
        if not re.fullmatch(r'0*[1-9][0-9]{0,17}', str(value)):
            self.fail(f'{value!r} is neither auto nor an integer of at least 1', param, ctx)
        return int(value)


class IntList(click.ParamType):
    """Integers and inclusive ranges, comma separated: `1,2,5-10` is [1, 2, 5, 6, 7, 8, 9, 10]."""

    name = 'list'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            return parse_int_list(value)
        except ValueError as err:
            self.fail(str(err), param, ctx)


class FloatList(click.ParamType):
    """Numbers above 0, comma separated."""

    name = 'list'

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        number = FiniteRange(min=0, min_open=True)
        return [number.convert(item, param, ctx) for item in value.split(',')]


def split_label(item: str) -> tuple[str, str]:
    """(label, path) of PATH or PATH=LABEL; without a label, the file's name without its suffix."""
    path, _, label = item.rpartition('=') if '=' in item and not os.path.exists(item) else (item, '', '')
    if path.endswith('#sha256'):  # of a URL with a hash and without a label
        path, label = item, ''
    return label or os.path.splitext(os.path.basename(path.partition('#sha256=')[0].rstrip('/')))[0], path


def parse_int_list(text: str) -> list[int]:
    """The integers that `IntList` reads. Raises ValueError for any other text, and for over MAX_LISTED."""
    numbers = []
    for item in text.split(','):
        match = re.fullmatch(r'\s*([0-9]{1,4000})(?:-([0-9]{1,4000}))?\s*', item)
        if match is None or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f'{text!r} is no list of integers and rising ranges such as 1,2,5-10')
        first, last = int(match[1]), int(match[2] or match[1])
        if last > MAX_INT:
            raise ValueError(f'{str(last)[:40]!r} is beyond 64 bits; integers go up to {MAX_INT}')
        if len(numbers) + last - first >= MAX_LISTED:
            raise ValueError(f'{text!r} is a list of more than {MAX_LISTED:,} integers')
        numbers.extend(range(first, last + 1))
    return numbers


def shorten(numbers: Sequence[int]) -> str:
    """Integers as an option takes them, with ranges: [0, 1, 2, 5] is '0-2,5'."""
    parts = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ','.join(f'{first}-{last}' if last > first else str(first) for first, last in parts)


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if not re.fullmatch(r'auto|cpu|cuda(:\d+)?|mps', value):
        raise click.BadParameter(f'{value!r} is none of auto, cpu, cuda, cuda:0, mps')
    return value


device_option = click.option(
    '--device', metavar='auto|cpu|cuda[:i]|mps', default='auto', callback=_device,
    help='Device to compute on; auto: the first available of cuda, mps, cpu.')


def writes(inputs: Sequence[str], *, adds_overwrite: bool = True, **outputs: str | None) -> Callable:
    """Decorator of a command: before it reads anything, `files.check_outputs` looks at its files.

    inputs, outputs: names of parameters that hold paths, outputs with their kinds. adds_overwrite: give the
    command the option --overwrite, of which it need not know.
    """
    def decorate(function):
        @functools.wraps(function)
        def checked(**params):
            named = {param.name: param.opts[0] for param in click.get_current_context().command.params}
            overwrite = params.pop('overwrite') if adds_overwrite else params.get('overwrite', False)
            check_outputs({named[name]: _paths(params[name]) for name in inputs},
                          {named[name]: (params[name], kind) for name, kind in outputs.items()},
                          overwrite=overwrite)
            return function(**params)
        return options('Output', _overwrite_option)(checked) if adds_overwrite else checked
    return decorate


def _paths(value: str | Sequence[str] | None) -> list[str]:
    """The paths of a parameter that takes one or several, labelled or not."""
    given = [value] if isinstance(value, str) else value or []
    return [split_label(path)[1] for path in given]


_overwrite_option = click.option(
    '--overwrite', is_flag=True, help='Replace existing outputs even if they are files of another kind.')


def given(param: str) -> bool:
    """Whether the user has set a parameter of the running command."""
    return click.get_current_context().get_parameter_source(param) is not click.core.ParameterSource.DEFAULT


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """A ValueError of the body, which begins with the name of an option, becomes a usage error."""
    try:
        yield
    except ValueError as err:
        raise click.UsageError(f'--{err}') from err
