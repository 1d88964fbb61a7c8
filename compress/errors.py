"""The one exception that means: the user's input is at fault, not the program."""


class BadInput(ValueError):
    """Bad input from the user; its message is the one sentence they read, and the command exits with 2."""
