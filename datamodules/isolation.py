"""Calls in processes of their own: a broken media file can crash a decoder, and a dead mount can hang it for ever, also
where no signal and no thread of the same process gets through. Neither may end, or stop, what needs the clip.

A process that dies may have been killed from outside, as when memory runs out: its call is tried once more.

The processes are forks, so that a start takes milliseconds, as in a DataLoader's worker. They are none of
`multiprocessing`'s, nor of a pool that stands on it (`concurrent.futures`, `pebble`): a DataLoader's workers may not
have such children, and Python would wait at its exit for one that even SIGKILL does not end (a wait inside the kernel,
on a dead FUSE mount).
"""

import mmap
import multiprocessing
import os
import pickle
import signal
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
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


class IsolatedFunction(Generic[Item, Result]):
    """A function whose calls run, one at a time, in a forked process that is killed when a call takes too long.

    The process starts at the first call and serves until a call is lost; the next call then starts another.

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
            raise OSError(
                "timeout_seconds needs a system that forks processes (Linux, macOS). Training does without: set it to "
                "null."
            )
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
        return next(_outcomes([self], [item]))[1]

    def begin(self, item: Item) -> None:
        """Send the process an item; its answer is read with `end`.

        Raises:
            RuntimeError: the process does not start.
        """
        if self._process is None or self._process.owner != os.getpid():
            self._process = _ForkedProcess(self.function)
            weakref.finalize(self, self._process.end)
        with suppress(OSError):  # it has just died: `end` will find out
            self.connection.send(item)

    @property
    def connection(self) -> Connection:
        """Where the answer to an item will be, or the end of the process."""
        assert self._process is not None
        return self._process.connection

    def end(self) -> tuple[Result, Exception | None] | Lost:
        """What came of an item: result and exception, one of them None, or why there is neither."""
        assert self._process is not None
        outcome = self._process.receive() if self.connection.poll() else Lost.timed_out(self.timeout_seconds)
        if isinstance(outcome, Lost):
            self.close()
        return outcome

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.end()
            self._process = None


def run_isolated(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int, timeout_seconds: float
) -> Iterator[tuple[Item, Result | Lost]]:
    """Call a function on every item, each in one of several processes as of `IsolatedFunction`.

    Args:
        function: the work. What it raises is raised here.
        items: picklable.
        num_workers: processes at a time, at least 1.
        timeout_seconds: longest time of one call, both tries together.

    Yields:
        Item and result, or item and `Lost`, in the order in which they end. Closing the iterator ends the processes.

    Raises:
        RuntimeError: a process does not start.
        OSError: the system cannot fork (Windows).
    """
    functions = [IsolatedFunction(function, timeout_seconds) for _ in range(min(num_workers, len(items)))]
    try:
        yield from _outcomes(functions, items)
    finally:
        for own in functions:
            own.close()


def _outcomes(
    functions: Sequence[IsolatedFunction[Item, Result]], items: Sequence[Item]
) -> Iterator[tuple[Item, Result | Lost]]:
    """Give each item to an idle function, once more where its process dies. Functions still busy at the end close."""
    # With each item its deadline, a time of `time.monotonic`: None before the first try.
    pending: deque[tuple[Item, float | None]] = deque((item, None) for item in items)
    idle = list(functions)
    busy: dict[IsolatedFunction[Item, Result], tuple[Item, float, bool]] = {}
    try:
        while pending or busy:
            while pending and idle:
                own, (item, deadline) = idle.pop(), pending.popleft()
                own.begin(item)
                busy[own] = item, deadline or time.monotonic() + own.timeout_seconds, deadline is None
            left = min(deadline for _, deadline, _ in busy.values()) - time.monotonic()
            ready = wait([own.connection for own in busy], max(left, 0.0))
            for own, (item, deadline, is_first) in list(busy.items()):
                if own.connection not in ready and time.monotonic() < deadline:
                    continue
                outcome = own.end()
                del busy[own]
                idle.append(own)
                if not isinstance(outcome, Lost):
                    result, error = outcome
                    if error is not None:
                        raise error
                    yield item, result
                elif outcome.may_pass and is_first:
                    pending.appendleft((item, deadline))
                else:
                    yield item, outcome
    finally:
        for own in functions:
            if own not in idle:  # Ctrl-C: the answer would be taken for that of the next call
                own.close()


class _ForkedProcess:
    """A child of this process that answers calls; `owner` is the id of this process."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        import torch  # here and not above: the tools that decode nothing do without

        self.owner = os.getpid()
        self.connection, theirs = multiprocessing.Pipe()
        self._memory = mmap.mmap(-1, _SHARED_BYTES)
        self._ended = False
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                self.connection.close()  # else the child would keep open what tells it of the parent's end
                torch.set_num_threads(1)  # the parent's threads are not here
                _serve(function, theirs, self._memory)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        if not self.connection.poll(_START_SECONDS):
            self.end()
            raise RuntimeError(
                f"A decoding process did not start within {_START_SECONDS:g} s. In training, use num_workers > 0, "
                "which forks from a process with less in it, or set timeout_seconds to null."
            )
        with suppress(EOFError, OSError):  # it has just died: `receive` will find out
            self.connection.recv_bytes()

    def receive(self) -> tuple[Any, Exception | None] | Lost:
        """What came of an item."""
        try:
            data, sizes = self.connection.recv()
        except (EOFError, OSError):
            return Lost.crashed(self.end())
        return pickle.loads(data, buffers=_read_shared(self._memory, sizes))

    def end(self) -> int | None:
        """Kill the process, unless it has ended; returns its exit status, or None where that cannot be known."""
        if self._ended or self.owner != os.getpid():
            return None
        self._ended = True
        self.connection.close()
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
    # A thread of the parent's, such as a progress bar's, may have held the locks of its streams, for ever in this copy.
    own = open(2, "w", closefd=False)  # noqa: SIM115 - for as long as the process lives
    with redirect_stdout(own), redirect_stderr(own), suppress(EOFError, OSError):  # the parent is gone
        connection.send_bytes(b"")
        while True:
            connection.send(_pack(_answer(function, connection.recv()), memory))


def _answer(function: Callable[[Any], Any], item: Any) -> tuple[Any, Exception | None]:
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
