"""Everything that can go wrong, as one tree.

AlignerError
├── UserError                 the input is wrong; the command line prints it on one line and exits with 2
│   ├── ConfigError           a setting is unknown, missing or out of range
│   ├── DataError             a file of rows cannot be read, or a row is not what was expected
│   ├── CheckpointError       a directory or Hub id is not a usable model or corrector
│   ├── PromptError           text cannot be encoded safely, or a format cannot be built
│   ├── RunError              a run directory exists already, is not one, or belongs to another run
│   ├── TrainingError         training cannot go on: the loss is no number any more
│   ├── StorageError          the disk is full or refuses the write
│   └── OutOfMemoryError      the machine or the accelerator has too little memory
├── GenerationError           a model failed on a whole batch (a single failed item is a value, not an error)
├── RequestError              the gateway cannot answer a request; the client gets the status and the message
└── Interrupted               Ctrl-C; the command line exits with 130

Every message says what is wrong, where, and what to do next.
"""

from __future__ import annotations


class AlignerError(Exception):
    """Base of every error this package raises on purpose."""


class UserError(AlignerError):
    """The caller's input is wrong and the caller can put it right."""


class ConfigError(UserError):
    """A setting is unknown, missing or out of range."""


class DataError(UserError):
    """A data file cannot be read, or one of its rows is not what was expected."""


class CheckpointError(UserError):
    """A directory or Hub id does not hold a usable model, tokenizer or corrector."""


class PromptError(UserError):
    """A text cannot be encoded safely, or a prompt format cannot be built from a tokenizer."""


class RunError(UserError):
    """A run directory exists already, is no run directory, or belongs to another run."""


class TrainingError(UserError):
    """Training cannot go on: the loss is no number any more."""


class StorageError(UserError):
    """The disk is full or refuses the write."""


class OutOfMemoryError(UserError):
    """The machine or the accelerator has too little memory for what was asked."""


class GenerationError(AlignerError):
    """A model failed on a whole batch of requests."""


class RequestError(AlignerError):
    """The gateway cannot answer a request: what the client is told, in the shape of an OpenAI error.

    `status` is HTTP's; `code` is a short name that programs can compare; `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, status: int, code: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after


class Interrupted(AlignerError):  # noqa: N818 (it is the user's wish, not an error)
    """The user stopped the run; what was committed is whole."""
