"""Calls in worker processes that may crash or hang: a broken media file can do both to a decoder, and neither may end
the inspection of a corpus.

`concurrent.futures` is not used here: when a worker dies it fails every call and does not say whose fault it was, and
it cannot end a call that hangs.
"""

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Any, NamedTuple

from datamodules.isolation import Item, Lost, Result, answer


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    """Answer each item with `(result, None)` or `(None, exception)`."""
    # Ctrl-C reaches every process of the terminal; the parent alone deals with it, and ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch  # here and not above: the tools that decode nothing do without

    torch.set_num_threads(1)
    with suppress(EOFError, OSError):  # the parent is gone
        connection.send(None)
        while True:
            connection.send(answer(function, connection.recv()))


class _Call(NamedTuple):
    """An item, the seconds that are left of its time, and whether a process has died over it."""

    item: Any
    seconds_left: float
    is_retry: bool = False


class _Worker:
    """A process, and the call it is at; `deadline` is in seconds of `time.monotonic`."""

    def __init__(self, context: SpawnContext, function: Callable[[Any], Any]) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()  # the end of the process is then the end of the connection
        self.call: _Call | None = None
        self.deadline = float("inf")

    def give(self, call: _Call) -> None:
        self.call, self.deadline = call, time.monotonic() + call.seconds_left
        with suppress(OSError):  # the process has just died: `receive` will find out
            self.connection.send(call.item)

    def receive(self) -> Any:
        """The result of the current call; None when a fresh worker reports for work."""
        try:
            received = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            if self.call is None:
                raise RuntimeError(
                    f"A checking process ended before its first clip, with status {self.process.exitcode}; see its "
                    "message above. If memory is short, lower num_workers."
                ) from None
            return Lost.crashed(self.process.exitcode)
        if received is None:
            return None
        result, error = received
        if error is not None:
            raise error
        return result

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_isolated(
    function: Callable[[Item], Result], items: Sequence[Item], num_workers: int, timeout_seconds: float
) -> Iterator[tuple[Item, Result | Lost]]:
    """Call a function on every item, each in one of several spawned processes.

    Args:
        function: picklable; the work. What it raises is raised here.
        items: picklable.
        num_workers: processes at a time, at least 1.
        timeout_seconds: longest time of one call; its process is then killed and replaced. A call whose process dies is
            tried once more, for what is left of this time.

    Yields:
        Item and result, or item and `Lost`, in the order in which they end. Closing the iterator ends the processes.

    Raises:
        RuntimeError: a process ends before it can work at all.
    """
    pending = deque(_Call(item, timeout_seconds) for item in items)
    context = multiprocessing.get_context("spawn")
    workers: list[_Worker] = []
    try:
        workers += [_Worker(context, function) for _ in range(min(num_workers, len(pending)))]
        while workers:
            left = min(worker.deadline for worker in workers) - time.monotonic()
            ready = wait([worker.connection for worker in workers], max(left, 0) if left < float("inf") else None)
            for position, worker in reversed(list(enumerate(workers))):
                if worker.connection in ready:
                    outcome = worker.receive()
                elif time.monotonic() >= worker.deadline:
                    outcome = Lost.timed_out(timeout_seconds)
                else:
                    continue
                call, is_lost = worker.call, isinstance(outcome, Lost)
                if call is not None and is_lost and outcome.may_pass and not call.is_retry:
                    pending.appendleft(_Call(call.item, max(worker.deadline - time.monotonic(), 0.0), is_retry=True))
                    call = None
                if pending and not is_lost:
                    worker.give(pending.popleft())
                else:
                    worker.stop()
                    workers[position : position + 1] = [_Worker(context, function)] if pending else []
                if call is not None:
                    yield call.item, outcome
    finally:
        for worker in workers:
            worker.stop()
