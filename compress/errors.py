"""The exceptions that mean: the user's input or machine is at fault, not the program. Commands exit with 2."""

from __future__ import annotations

import errno

REFUSALS = {  # of the system, which no program can do anything about
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EPIPE)
}


MEMORY = {errno.ENOMEM, errno.EAGAIN}  # the latter where no thread can be made
MEMORY_WORDS = ("allocate memory", "out of memory", "bad_alloc", "can't start new thread")  # of torch, C++ and Python


class BadInput(ValueError):
    """Bad input from the user; its message is the one sentence they read."""


class Taken(BadInput):
    """Another process writes the same place, or has written it meanwhile."""


class Unwritable(OSError):
    """The system refuses to write, as on a full disk or in a read-only place; its message is one sentence.

    No BadInput: where that stands for a recipe or a table that is impossible, a full disk does not.
    """


def refusal(error: Exception) -> str:
    """The sentence where an error is bad input, or what the system refuses or has no memory for; empty for a bug."""
    if isinstance(error, BadInput | Unwritable):
        return str(error)
    if isinstance(error, OSError) and error.errno in REFUSALS:
        return f"{error.filename or 'output'}: {error.strerror}"
    if of_memory(error):
        return f"no memory is left ({error}); end other programs, or ask for a smaller batch, fewer frames or workers"
    return ""


def of_memory(error: Exception) -> bool:
    """Whether the system has no memory for what was asked, in anybody's words."""
    if isinstance(error, OSError):
        return error.errno in MEMORY
    words = isinstance(error, RuntimeError) and any(word in str(error).lower() for word in MEMORY_WORDS)
    return words or isinstance(error, MemoryError)
