"""The three kinds of error, and nothing else is raised on purpose.

    RatchetError
    ├── Invalid      the input is wrong: dead-letter it or answer 4xx, never retry
    ├── Transient    the world is not ready: retry with backoff, answer 503
    └── Permanent    going on would do harm: stop loudly
"""


class RatchetError(Exception):
    """The root of Ratchet's own errors. The message says what, which one, and what to do."""


class Invalid(RatchetError):
    """The input is wrong and will stay wrong.

    Attributes:
        code: A stable reason code in snake_case, for example ``missing_field``.
        path: The dotted path of the offending field (``batch.3.userId``); empty when it is the whole input.
    """

    def __init__(self, message: str, *, code: str = "invalid", path: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.path = path


class Transient(RatchetError):
    """Something outside is away or busy; the same call may succeed later.

    Attributes:
        retry_after_s: How long the caller should wait before it tries again, in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Permanent(RatchetError):
    """Going on would lose or corrupt something; the process must stop and a person must look."""
