"""The one exception for mistakes that the user can mend, and how its message quotes a file."""


class UserError(ValueError):
    """A mistake in what the user gave: a file, an option's value, a combination.

    The message is one line that says what was given, what is expected and, where one is to blame,
    which option. `torch_utils.cli.Command` prints it without a traceback and exits with status 1.
    """


def shown(text: object, limit: int = 100) -> str:
    """`text` from a file as one quoted, printable line of bounded length."""
    text = str(text)
    return ascii(text if len(text) <= limit else text[:limit - 3] + '...')
