"""Processes that end together: the failure of one is told once, and none waits for one that is gone.

A process that raises ends by itself, but those that wait for it in a collective operation do not, for half an hour, or
end with many lines about broken connections. So every process keeps a connection to the first one. What fails says so
there before it ends; of what is killed, the operating system closes the connection. Either is told by the first
process, or, if it is that one, by the second, and the others end without a word.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

from lightning_fabric import Fabric

from fiber_train.console import TRACEBACK, sentence
from fiber_train.stopping import Stopped, StopRequest, say

GRACE = 3.0  # seconds in which a failure that another process caused is followed by that one's own words
_CONNECTING = 20.0  # seconds
_GONE = (
    "gone; it was killed, perhaps for lack of memory, or its host is down. The same command goes on from a checkpoint"
)


@contextmanager
def ending_together(fabric: Fabric, stop: StopRequest) -> Iterator[None]:
    """What is inside ends on all processes when it fails on one, within seconds, with one message.

    A process that fails, but the first, leaves by `SystemExit`, and its error is told by the first one.
    """
    if fabric.world_size == 1:
        yield
        return
    peers = _Peers(fabric, stop)
    try:
        yield
    except Stopped:
        peers.leave("stopped")
        raise
    except Exception as error:
        peers.fail(error)
        raise
    except BaseException:
        peers.leave("done")
        raise
    else:
        peers.leave("done")


class _Peers:
    """The connections of one process."""

    def __init__(self, fabric: Fabric, stop: StopRequest) -> None:
        self._rank, self._stop = fabric.global_rank, stop
        # Fabric kills the process that started the others when one ends badly; it stops looking if it has none.
        if started := getattr(getattr(fabric.strategy, "launcher", None), "procs", []):
            stop.launched = list(started)
            started.clear()
        self._lock, self._over = threading.Lock(), False
        self._ends: dict[int, socket.socket] = {}
        self._listener: socket.socket | None = None
        host = fabric.strategy.cluster_environment.main_address  # type: ignore[attr-defined]
        one_host = getattr(fabric.strategy, "num_nodes", 1) == 1
        if self._rank == 0:
            self._listener = socket.create_server(("127.0.0.1" if one_host else "", 0), backlog=fabric.world_size)
        address = (self._listener.getsockname()[1], secrets.token_hex(16)) if self._listener else None
        port, token = cast(tuple[int, str], fabric.broadcast(address))
        if self._rank:
            try:
                end = socket.create_connection(("127.0.0.1" if one_host else host, port), timeout=_CONNECTING)
            except OSError as error:  # a firewall; the launcher has to notice failures
                say(f"process {self._rank} cannot tell {host} of failures (port {port}: {error}); the run goes on")
                return
            end.settimeout(None)
            self._ends[0] = end
            self._send(0, rank=self._rank, token=token)
        os.register_at_fork(after_in_child=self._drop)
        threading.Thread(target=self._watch, args=(token,), daemon=True, name="peers").start()

    def leave(self, kind: str) -> None:
        """Says that this process is about to end as it should."""
        with self._lock:
            self._over = True
        self._tell_all(kind=kind)
        for end in (*self._ends.values(), *([self._listener] if self._listener else [])):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # which the thread notices

    def _drop(self) -> None:
        """In a loading process, which would keep the connections of a killed one open."""
        for end in self._ends.values():
            end.close()

    def fail(self, error: Exception) -> None:
        """Says that this process failed, for the first one to tell, unless it failed because another one did.

        Raises:
            SystemExit: In all processes but the first, which is to raise the error.
        """
        if isinstance(error, RuntimeError):  # as what waits for others raises when one is gone
            time.sleep(GRACE)
        with self._lock:
            self._over = True
        text = None if os.environ.get(TRACEBACK) else sentence(error)
        text = text or "".join(traceback.format_exception(error)).rstrip()
        told = self._tell_all(kind="failed", text=text if self._rank else "")
        if self._rank and told:
            time.sleep(0.1)  # for the first one to read before the connection breaks
            raise SystemExit(1) from None

    def _tell_all(self, **message: Any) -> bool:
        """Whether anybody heard."""
        heard = [self._send(to, **message) for to in list(self._ends)]
        return any(heard)

    def _send(self, to: int, **message: Any) -> bool:
        with suppress(OSError):
            self._ends[to].sendall(json.dumps(message).encode() + b"\n")
            return True
        return False

    def _watch(self, token: str) -> None:
        """Reads what the others say."""
        with selectors.DefaultSelector() as selector:
            if self._listener is not None:
                selector.register(self._listener, selectors.EVENT_READ)
            for rank, end in self._ends.items():
                selector.register(end, selectors.EVENT_READ, _Reader(end, rank))
            while selector.get_map():
                for key, _ in selector.select():
                    if key.fileobj is not self._listener:
                        more = self._heard(key.data, token)
                    elif more := (new := _accept(self._listener)) is not None:
                        selector.register(new, selectors.EVENT_READ, _Reader(new))
                    if not more:
                        selector.unregister(key.fileobj)

    def _heard(self, reader: _Reader, token: str) -> bool:
        """Acts on what came from one process; gives whether more can come."""
        try:
            messages = reader.read()
        except ValueError:  # of somebody else
            return False
        for message in messages:
            if reader.rank is None:
                if not secrets.compare_digest(str(message.get("token")), token):
                    return False
                reader.rank = int(message["rank"])
                self._ends[reader.rank] = reader.end
                continue
            reader.last = message["kind"]
            if reader.last == "failed":
                self._end(reader.rank, message["text"])
            elif reader.last == "stopped" and not self._stop.asked:
                os.kill(os.getpid(), signal.SIGTERM)
        if not reader.closed:
            return True
        if reader.rank is not None and reader.last is None:
            self._end(reader.rank, _GONE)
        return False

    def _end(self, rank: int, text: str) -> None:
        """Ends this process, because that one failed."""
        if self._rank == 0:
            time.sleep(GRACE / 2)  # the first one's own words, if the same happened to it, are better
        with self._lock:
            if self._over:
                return
            self._over = True
        if self._rank == 0:
            self._tell_all(kind="failed", text="")
        if self._rank == 0 or (self._rank == 1 and text):
            say(f"fiber: process {rank}: {text}")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(1)


def _accept(listener: socket.socket) -> socket.socket | None:
    """A new connection; None if no more are taken."""
    try:
        return listener.accept()[0]
    except OSError:
        return None


class _Reader:
    """Lines of one connection.

    Attributes:
        end: The connection.
        rank: Of the process at its other end; None until it has said who it is.
        last: The kind of its last message.
        closed: Whether it is.
    """

    def __init__(self, end: socket.socket, rank: int | None = None) -> None:
        self.end, self.rank = end, rank
        self.last: str | None = None
        self.closed = False
        self._rest = b""

    def read(self) -> list[dict[str, Any]]:
        """The messages that are complete by now."""
        try:
            came = self.end.recv(65536)
        except OSError:
            came = b""
        self.closed = not came
        *lines, self._rest = (self._rest + came).split(b"\n")
        return [json.loads(line) for line in lines]
