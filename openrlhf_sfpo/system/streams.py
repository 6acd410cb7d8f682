"""Output whose reader may have gone: `train | head -2`, a killed `tee`, a lost connection.

A command's result is its exit status and its files; losing the reader of its output must change neither.
"""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

# The reader is gone for good. (A full disk, by contrast, may have room again.)
_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ENOTCONN, errno.ESTALE}


class BestEffort(io.TextIOBase):
    """A text stream whose writes never raise OSError or ValueError (a closed file).

    Once its reader is gone, it discards everything.

    Args:
        stream: where the text goes; None discards it, as sys.stdout is None in a process without one.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.broken = stream is None

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def isatty(self) -> bool:
        return bool(self._try("isatty"))

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The underlying file descriptor.

        Raises:
            OSError: there is none.
        """
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return getattr(self._stream, "errors", None)

    @property
    def buffer(self) -> Any:
        """The underlying binary stream, as `sys.stdout.buffer`."""
        return self._stream.buffer if self._stream is not None else io.BytesIO()

    def close(self) -> None:
        """Do nothing: its creator closes the stream."""

    def release(self) -> None:
        """Flush for the last time. If that fails, point the file descriptor at /dev/null: Python flushes its standard
        streams again as it exits, and would complain and change the exit status."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def _try(self, method: str, *arguments: Any) -> Any:
        if self.broken:
            return None
        try:
            return getattr(self._stream, method)(*arguments)
        except UnicodeEncodeError as error:
            return getattr(self._stream, method)(_representable(arguments[0], error.encoding))
        except BlockingIOError:  # a full pipe, whose reader may resume
            return None
        except OSError as error:
            self.broken = error.errno in _GONE
            return None
        except ValueError:  # a closed file
            self.broken = True
            return None


def _representable(text: str, encoding: str) -> str:
    """The text with characters that the terminal's encoding lacks as escapes."""
    return text.encode(encoding, errors="backslashreplace").decode(encoding)


@contextmanager
def best_effort_output() -> Iterator[None]:
    """Make sys.stdout and sys.stderr `BestEffort` streams until the block ends. Closed descriptors 0 to 2 are opened on
    /dev/null: otherwise the next opened files would get these numbers, and with them the libraries' output."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    before = sys.stdout, sys.stderr
    ours = BestEffort(sys.stdout), BestEffort(sys.stderr)
    sys.stdout, sys.stderr = ours
    try:
        yield
    finally:
        for stream in ours:
            stream.release()
        if (sys.stdout, sys.stderr) == ours:
            sys.stdout, sys.stderr = before


@contextmanager
def quiet(log: Path, verbose: bool) -> Iterator[Any]:
    """Send everything that this process prints to a file, and yield a stream to the real output that never fails.

    File descriptors are redirected, because much of the noise comes from libraries written in C++.
    """
    if verbose:
        with _never_failing():
            yield sys.stdout
        return
    for ours in (sys.stdout, sys.stderr):
        if ours is not None:
            with suppress(OSError, ValueError):
                ours.flush()
    saved = [os.dup(1), os.dup(2)]
    stream = BestEffort(os.fdopen(os.dup(saved[0]), "w", encoding="utf-8", errors="backslashreplace"))
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield stream
    finally:
        for ours in (sys.stdout, sys.stderr):
            if ours is not None:
                with suppress(OSError, ValueError):
                    ours.flush()
        for target, descriptor in zip((1, 2), saved, strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        stream.release()


@contextmanager
def _never_failing() -> Iterator[None]:
    """Standard streams that tolerate a missing reader; libraries print from the run's threads."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (one if isinstance(one, BestEffort) else BestEffort(one) for one in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
