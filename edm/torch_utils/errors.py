"""Messages to the user: the exception for mistakes that they can correct, notes, and quotes from files."""

import os
import re

import click

UNPRINTABLE = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')  # other than spaces of any kind


class UserError(ValueError):
    """A mistake in what the user gave: a file, an option's value, a combination.

    The message is one line that says what was given, what is expected and, where one is to blame,
    which option. `torch_utils.cli.Command` prints it without a traceback and exits with status 1.
    """


def shown(text: object, limit: int = 100) -> str:
    """`text` from a file as one quoted, printable line of bounded length."""
    text = str(text)
    return ascii(text if len(text) <= limit else text[:limit - 3] + '...')


def printable(line: str, limit: int = 5000) -> str:
    """The line, cut at `limit`, with escapes for what terminals obey or can't show, as in names of files."""
    line = line if len(line) <= limit else f'{line[:limit - 3]}...'
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], line)


def note(line: str) -> None:
    """Print a line on stderr for the user to know: once in a command, and by the first process alone."""
    context = click.get_current_context(silent=True)
    said = context.meta.setdefault('torch_utils.errors.note', set()) if context else set()
    if line not in said and os.environ.get('RANK', '0') == '0':
        said.add(line)
        click.echo(printable(line), err=True)
