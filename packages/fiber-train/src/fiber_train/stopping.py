"""Signals that ask a run to stop: obeyed at once where nothing would be lost, else after the step or save at hand.

Starting, waiting for data and evaluating lose nothing that a checkpoint does not hold, so that a signal ends them by
`Stopped`. Steps and saves are finished first (`StopRequest.deferred`); a second signal ends them too.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")  # some systems lack some
SIGNALS = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
STATUS = 3  # of a process that was asked to stop
TOGETHER = 1.0  # seconds: a terminal and a launcher may both pass on what is one request
PATIENCE = 5.0  # seconds that a process which waits in foreign code gets to come back


class Stopped(KeyboardInterrupt):
    """A signal asked to stop, and nothing is lost by stopping here."""


class StopRequest:
    """Whether this process was asked to stop; made by `stopping`.

    Attributes:
        asked: Whether it was.
        insisted: Whether it was asked again.
        peers: Ids of processes that are told when this one is asked.
        launched: The same of processes that this one started.
        status: Exit status of a process that has to be ended from the outside.
    """

    def __init__(self) -> None:
        self.asked = self.insisted = False
        self.peers: list[int] = []
        self.launched: list[subprocess.Popen] = []
        self.status = STATUS
        self._process, self._asked_at = os.getpid(), 0.0
        self._deferred = self._leaving = False
        self._old: dict[int, Any] = {}

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """What is inside is not interrupted by a first signal; ask `asked`."""
        yield from self._switch(True)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What is inside is interrupted by a signal, also one that came before.

        Raises:
            Stopped: A signal came.
        """
        yield from self._switch(False)

    def _switch(self, deferred: bool) -> Iterator[None]:
        before, self._deferred = self._deferred, deferred
        try:
            if self.asked and not deferred:
                raise Stopped
            yield
        except Stopped:
            self.leave()
            raise
        finally:
            self._deferred = before

    def leave(self) -> None:
        """Says that the process is on its way out, however long that takes."""
        self._leaving = True

    def install(self) -> None:
        """Takes over the signals. Foreign code may keep Python from handling them, so that a thread looks too."""
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        for number in SIGNALS:
            before = signal.getsignal(number)
            if number == getattr(signal, "SIGHUP", None) and before is signal.SIG_IGN:
                continue  # started by nohup
            self._old[number] = signal.SIG_DFL if before is None else before
            signal.signal(number, self._note)
        self._old_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True, name="stop-request")
        self._thread.start()

    def remove(self) -> None:
        """Gives the signals back."""
        self._leaving = True
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        with suppress(OSError):
            self._writer.send(b"\0")
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process or (self.asked and now - self._asked_at < TOGETHER):
            return
        again, self.asked, self._asked_at = self.asked, True, now
        self.insisted = self.insisted or again
        if again or not self._deferred:
            raise Stopped

    def _watch(self) -> None:
        times, last = 0, 0.0
        while True:
            ready, _, _ = select.select([self._reader], [], [], 0.5 if times else None)
            came = self._reader.recv(64) if ready else b""
            if 0 in came:
                return
            now = time.monotonic()
            if any(number in SIGNALS for number in came) and (not times or now - last > TOGETHER):
                times, last = times + 1, now
                for peer in (*self.peers, *(each.pid for each in self.launched if each.poll() is None)):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(peer, signal.SIGTERM)
            stuck = times and now - last > PATIENCE and not self._leaving
            if stuck and (times > 1 or not self._deferred):
                if self.status:
                    os.write(2, b"stopped while waiting for others; the same command goes on\n")
                os._exit(self.status)


_current: StopRequest | None = None


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Signals ask to stop inside; a block in another gets the outer one's request.

    Outside of the main thread, where Python allows no signal handlers, nothing is noted.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield _current or StopRequest()
        return
    request = _current = StopRequest()
    request.install()
    try:
        yield request
    finally:
        _current = None
        request.remove()


def leave_signals_to_parent(worker: int = 0) -> None:
    """In a loading process: what a terminal or a cluster sends to all processes is the training process's to act on.

    A second SIGTERM ends it, as its parent sends it to a worker that does not end by itself.
    """
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def stop_with_parent() -> None:
    """In a process of `multiprocessing`: ends like a stopped one when its parent is gone, however that ended."""
    from multiprocessing import parent_process

    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def say(text: str) -> None:
    """A line on standard error, if anybody reads that."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
