"""Files behind URLs, read by ranges: s3://, https:// and whatever else fsspec opens.

Who may read them and where they are, the libraries below fsspec are told as always: by ``AWS_ACCESS_KEY_ID``,
``AWS_ENDPOINT_URL``, ``~/.aws``, or fsspec's own settings, such as ``FSSPEC_S3='{"anon": true}'``. What fails is tried
again a few times, unless the server said that there is no such file, or that it may not be read.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fiber_data.urls import TIMEOUT

TRIES = 4
"""How often something is asked for before it counts as failed."""
WAIT = 0.25
"""Seconds before the second try; each further one waits four times as long."""
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+):/{1,2}(?P<rest>[^/].*)")
_EXTRAS = {"s3": "s3", "s3a": "s3", "http": "http", "https": "http"}
_VERSIONS = ("ETag", "etag", "LastModified", "mtime", "updated", "created")  # as file systems of fsspec call them
_AGAIN = (408, 429)  # answers of 4xx after which another try helps

Answer = TypeVar("Answer")
_filesystems: dict[tuple[int, str], Any] = {}
_lock = threading.Lock()
_requests = 0


class RemoteFile(NamedTuple):
    """A file behind a URL.

    Attributes:
        url: Its address.
        size: Its bytes.
        version: What differs once it has other content, as far as the server tells.
    """

    url: str
    size: int
    version: str


class NoRangesError(OSError):
    """A server sends whole files where a part was asked for."""


def as_url(root: str | Path) -> str | None:
    """The URL that a root is; None for a folder. `Path` takes a slash out of URLs, which is put back."""
    found = _URL.fullmatch(str(root))
    return None if found is None else f"{found['scheme'].lower()}://{found['rest']}"


def scheme_of(url: str) -> str:
    """What a URL begins with, such as ``"s3"``."""
    return url.partition(":")[0]


def num_requests() -> int:
    """Requests that this process has made so far, every try counted; a listing counts as one."""
    return _requests


def read_range(url: str, start: int, end: int) -> bytes:
    """The bytes from `start` to `end` of a file, fewer if it ends before.

    Raises:
        OSError: The file is not there, may not be read, or every try failed; the message names URL and reason.
        ImportError: What reads such URLs is not installed.
    """
    content = _tried(url, lambda: _filesystem(url).cat_file(url, start=start, end=end))
    if len(content) > end - start:
        raise _no_ranges(url)
    return content


def read_all(url: str) -> bytes:
    """A whole file; it raises as `read_range`."""
    return _tried(url, lambda: _filesystem(url).cat_file(url))


def stat(url: str) -> RemoteFile:
    """Size and version of a file.

    Raises:
        NoRangesError: The server cannot send parts of it.
        OSError: As of `read_range`, like ImportError.
    """
    if scheme_of(url) in ("http", "https"):
        return _tried(url, lambda: _probe(url))
    info = _tried(url, lambda: _filesystem(url).info(url))
    return RemoteFile(url, int(info["size"]), _version(info))


def list_files(root: str, depth: int) -> list[RemoteFile]:
    """The files below a URL, sorted.

    Args:
        root: Of a store that can be listed, which a plain web server cannot.
        depth: Levels of folders to go down; 1 is the files of the root itself.

    Raises:
        OSError: As of `read_range`, like ImportError.
    """
    found = _tried(root, lambda: _filesystem(root).find(root, maxdepth=depth, detail=True))
    files = [(f"{scheme_of(root)}://{name.lstrip('/')}", info) for name, info in sorted(found.items())]
    return [RemoteFile(url, int(info["size"]), _version(info)) for url, info in files]


def _filesystem(url: str) -> Any:
    """Access by fsspec to URLs of this scheme: one for each process, as connections do not outlive a fork."""
    scheme = scheme_of(url)
    key = (os.getpid(), scheme)
    with _lock:
        if key not in _filesystems:
            import fsspec

            options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
            try:
                if scheme in ("http", "https"):
                    options["client_kwargs"] = _http_options()
                _filesystems[key] = fsspec.filesystem(scheme, **options)
            except (ImportError, ValueError) as error:  # ValueError: of a scheme that fsspec does not know
                extra = _EXTRAS.get(scheme)
                way = f'pip install "fiber-data[{extra}]"' if extra else "see fsspec's list of file systems"
                raise ImportError(f"{url}: what reads {scheme}:// is not installed ({error}); {way}") from error
        return _filesystems[key]


def _http_options() -> dict[str, Any]:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    return {"timeout": timeout, "trust_env": True, "headers": {"Accept-Encoding": "identity"}}


def _probe(url: str) -> RemoteFile:
    """What one byte of a file tells; the HEAD of a file is refused by addresses that are signed for GET."""
    from fsspec.asyn import sync

    filesystem = _filesystem(url)

    async def ask() -> tuple[int, Any]:
        session = await filesystem.set_session()
        async with session.get(filesystem.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
            if answer.status == 404:
                raise FileNotFoundError(url)
            answer.raise_for_status()
            return answer.status, answer.headers

    status, headers = sync(filesystem.loop, ask)
    size = headers.get("Content-Range", "").rpartition("/")[2]
    if status != 206 or not size.isdecimal():
        raise _no_ranges(url)
    return RemoteFile(url, int(size), headers.get("ETag") or headers.get("Last-Modified") or "")


def _no_ranges(url: str) -> NoRangesError:
    return NoRangesError(
        f"{url}: the server sends whole files where a part is asked for (no Range requests); serve the shards by one "
        "that can, such as nginx or S3, or copy them here"
    )


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in _VERSIONS if info.get(key) is not None), "")


def _tried(url: str, ask: Callable[[], Answer]) -> Answer:
    """The answer to a request, which is made again after a failure that may pass."""
    global _requests
    failure: Exception | None = None
    for count in range(TRIES):
        if count:
            time.sleep(WAIT * 4 ** (count - 1))
        with _lock:
            _requests += 1
        try:
            return ask()
        except (NoRangesError, ImportError):
            raise
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{url}: no such file") from error
        except PermissionError as error:
            raise PermissionError(f"{url}: may not be read ({error}); are there credentials?") from error
        except Exception as error:  # of aiohttp, botocore and others, which have no base in common
            status = getattr(error, "status", None)
            if status in (401, 403):
                raise PermissionError(f"{url}: may not be read (the server answers {status})") from error
            if isinstance(status, int) and 400 <= status < 500 and status not in _AGAIN:
                raise OSError(f"{url}: the server answers {status} ({getattr(error, 'message', error)})") from error
            failure = error
    raise OSError(f"{url}: no answer in {TRIES} tries ({type(failure).__name__}: {failure})") from failure
