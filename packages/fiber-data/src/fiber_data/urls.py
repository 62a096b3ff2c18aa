"""Files behind http and https addresses, within limits of time and size."""

import time
from http.client import HTTPException
from importlib.metadata import version
from typing import Any, TypeGuard
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

MAX_BYTES = 64 * 2**20
"""The largest file that `fetch` takes, in bytes."""
TIMEOUT = 30.0
"""The longest that `fetch` waits for a whole file, in seconds."""
_CHUNK = 2**16


def is_url(source: Any) -> TypeGuard[str]:
    """Whether something is an http or https address as text."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def fetch(url: str) -> bytes:
    """The file behind an address.

    Args:
        url: An http or https address.

    Raises:
        OSError: There is no answer, no such file, or it is larger than `MAX_BYTES` or slower than `TIMEOUT`; the
            message says which.
    """
    request = Request(url, headers={"User-Agent": f"fiber-data/{version('fiber-data')}"})  # some hosts refuse Python's
    deadline = time.monotonic() + TIMEOUT
    try:
        with urlopen(request, timeout=TIMEOUT) as response:
            content = bytearray()
            while chunk := response.read1(_CHUNK):
                content += chunk
                if len(content) > MAX_BYTES:
                    raise OSError(f"the file is larger than {MAX_BYTES:,} bytes (fiber_data.urls.MAX_BYTES)")
                if time.monotonic() > deadline:
                    raise TimeoutError
            if response.length:  # what the server announced and did not send
                raise OSError(f"the connection ended {response.length:,} bytes before the end of the file")
    except HTTPError as error:
        raise OSError(f"the server answers {error.code} ({error.reason})") from error
    except TimeoutError as error:
        raise OSError(f"no whole file within {TIMEOUT:g} seconds (fiber_data.urls.TIMEOUT)") from error
    except URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise OSError(f"no answer within {TIMEOUT:g} seconds (fiber_data.urls.TIMEOUT)") from error
        raise OSError(f"no answer ({error.reason})") from error
    except (HTTPException, ValueError) as error:  # such as an address with blanks
        raise OSError(f"no answer ({type(error).__name__}: {error})") from error
    return bytes(content)
