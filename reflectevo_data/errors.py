"""What the user can mend, told apart from a bug."""


class InputError(ValueError):
    """Bad input. The message is one line: where, what was found, what was expected, what to do.

    The command lines print it without a traceback and exit with code 2.
    """


def one_line(error: object) -> str:
    """What an error of another library says, on one line of 300 characters at most, for an `InputError`'s message."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]
