"""An orderly stop on SIGINT and SIGTERM: from the first moment of a command, and at the end of a sweep's segment."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A sweep stopped by a signal at the end of a segment, with everything it had done committed."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


class StopRequest:
    """The signal that asked for a stop; 0 until one comes."""

    signum = 0


@contextlib.contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying; a second one acts at once. Elsewhere than the main thread: nothing."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {s: signal.getsignal(s) for s in SIGNALS}

    def note(signum: int, _frame: FrameType | None) -> None:
        request.signum = signum
        for s, handler in before.items():
            signal.signal(s, handler)

    for s in before:
        signal.signal(s, note)
    try:
        yield request
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def exit_on_signal() -> None:
    """From now on SIGINT and SIGTERM end the program with one line and exit code 130 or 143.

    Not by an exception: one that is raised while a native library is being imported aborts the process.
    """

    def stop(signum: int, _frame: FrameType | None) -> None:
        show_cursor = b"\x1b[?25h" if os.isatty(2) else b""  # a progress bar hides it
        os.write(2, show_cursor + b"jaxsoft: interrupted\n")
        os._exit(128 + signum)

    for s in SIGNALS:
        signal.signal(s, stop)
