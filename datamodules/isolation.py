"""Calls in a process of their own: a broken media file can crash a decoder, and a dead mount can hang it for ever, also
where no signal and no thread of the same process gets through. Neither may end, or stop, what needs the clip.

A process that dies may have been killed from outside, as when memory runs out: its call is tried once more.
"""

import mmap
import multiprocessing
import os
import pickle
import signal
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_SHARED_BYTES = 64 << 20  # address space: pages become memory when they are first written to
_START_SECONDS = 60.0  # a forked process is there at once; one that is not has inherited a lock that is held
_END_SECONDS = 1.0


@dataclass(frozen=True)
class Lost:
    """What a call comes to that has no result.

    Args:
        reason: why, e.g. `the decoder crashed (SIGSEGV)`.
        may_pass: another try may have a result.
    """

    reason: str
    may_pass: bool = field(default=False, compare=False)

    @classmethod
    def timed_out(cls, seconds: float) -> "Lost":
        """The call did not end within its limit."""
        return cls(f"timed out after {seconds:g} s")

    @classmethod
    def crashed(cls, code: int | None) -> "Lost":
        """The process ended within the call; `code` is its exit status, or minus the signal."""
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
        return cls(f"the decoder crashed ({name})", may_pass=True)


def answer(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
    """`(result, None)` or `(None, exception)`, to be raised by who asked."""
    try:
        return function(item), None
    except Exception as error:  # noqa: BLE001 (raised in the parent)
        return None, _portable(error)


def _portable(error: Exception) -> Exception:
    """The exception if the other process can unpickle it, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (whatever an exception's own methods raise)
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class IsolatedFunction(Generic[Item, Result]):
    """A function whose calls run, one at a time, in a forked process that is killed when a call takes too long.

    The process starts at the first call and serves until a call is lost; the next call then starts another. It is a
    fork, so that a start takes milliseconds, as in a DataLoader's worker. It is none of `multiprocessing`'s: a
    DataLoader's workers may not have such children, and Python would wait at its exit for one that even SIGKILL does
    not end (a wait inside the kernel, on a dead FUSE mount).

    Arrays of a result travel through shared memory. A copy in another process, forked or unpickled, starts a process of
    its own.

    Args:
        function: the work. Results and exceptions are pickled, items too; what it raises is raised here.
        timeout_seconds: longest time of one call, both tries together.

    Raises:
        ValueError: the limit is not positive.
        OSError: the system cannot fork (Windows).
    """

    def __init__(self, function: Callable[[Item], Result], timeout_seconds: float) -> None:
        if not timeout_seconds > 0:
            raise ValueError(f"timeout_seconds must be above 0, got {timeout_seconds}.")
        if not hasattr(os, "fork"):
            raise OSError("timeout_seconds needs a system that forks processes (Linux, macOS). Set it to null.")
        self.function = function
        self.timeout_seconds = timeout_seconds
        self._process: _ForkedProcess | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_process": None}

    def __call__(self, item: Item) -> Result | Lost:
        """The function's result, or why there is none.

        Raises:
            RuntimeError: the process does not start.
        """
        deadline = time.monotonic() + self.timeout_seconds
        outcome = self._ask(item, deadline)
        if isinstance(outcome, Lost) and outcome.may_pass:
            outcome = self._ask(item, deadline)
        if isinstance(outcome, Lost):
            return outcome
        result, error = outcome
        if error is not None:
            raise error
        return result

    def _ask(self, item: Item, deadline: float) -> tuple[Result, Exception | None] | Lost:
        if self._process is None or self._process.owner != os.getpid():
            self._process = _ForkedProcess(self.function)
            weakref.finalize(self, self._process.end)
        try:
            outcome = self._process.ask(item, deadline)
        except BaseException:  # Ctrl-C: the answer would be taken for that of the next call
            self.close()
            raise
        if outcome is None:
            outcome = Lost.timed_out(self.timeout_seconds)
        if isinstance(outcome, Lost):
            self.close()
        return outcome

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None


class _ForkedProcess:
    """A child of this process that answers calls; `owner` is the id of this process."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.owner = os.getpid()
        self._connection, theirs = multiprocessing.Pipe()
        self._memory = mmap.mmap(-1, _SHARED_BYTES)
        self._ended = False
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                self._connection.close()  # else the child would keep open what tells it of the parent's end
                _serve(function, theirs, self._memory)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        if not self._connection.poll(_START_SECONDS):
            self.end()
            raise RuntimeError(
                f"A decoding process did not start within {_START_SECONDS:g} s. Use num_workers > 0, which forks from "
                "a process with less in it, or set timeout_seconds to null."
            )
        with suppress(EOFError, OSError):  # it has just died: `ask` will find out
            self._connection.recv_bytes()

    def ask(self, item: Any, deadline: float) -> tuple[Any, Exception | None] | Lost | None:
        """What came of the call, or None when the deadline, a time of `time.monotonic`, has passed."""
        try:
            self._connection.send(item)
            if not self._connection.poll(max(deadline - time.monotonic(), 0)):
                return None
            data, sizes = self._connection.recv()
        except (EOFError, OSError):
            return Lost.crashed(self.end())
        return pickle.loads(data, buffers=_read_shared(self._memory, sizes))

    def end(self) -> int | None:
        """Kill the process, unless it has ended; returns its exit status, or None where that cannot be known."""
        if self._ended or self.owner != os.getpid():
            return None
        self._ended = True
        self._connection.close()
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_SECONDS
        with suppress(ChildProcessError):
            while time.monotonic() < deadline:
                pid, status = os.waitpid(self._pid, os.WNOHANG)
                if pid:
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.005)
        return None


def _serve(function: Callable[[Any], Any], connection: Connection, memory: mmap.mmap) -> None:
    # Ctrl-C reaches every process of the terminal; the parent alone deals with it. Its handlers are not this child's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch  # here and not above: the tools that decode nothing do without

    torch.set_num_threads(1)  # the parent's threads are not here
    with suppress(EOFError, OSError):  # the parent is gone
        connection.send_bytes(b"")
        while True:
            connection.send(_pack(answer(function, connection.recv()), memory))


def _pack(value: Any, memory: mmap.mmap) -> tuple[bytes, list[int]]:
    """A value pickled without its arrays, and their sizes in bytes: they lie in the shared memory, end to end."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    if sum(view.nbytes for view in views) > len(memory):
        return pickle.dumps(value, protocol=5), []
    start = 0
    for view in views:
        memory[start : start + view.nbytes] = view
        start += view.nbytes
    return data, [view.nbytes for view in views]


def _read_shared(memory: mmap.mmap, sizes: list[int]) -> list[bytearray]:
    buffers, start = [], 0
    with memoryview(memory) as shared:
        for size in sizes:
            buffers.append(bytearray(shared[start : start + size]))
            start += size
    return buffers
