"""HTTP without a library's opinions: any Host, any body, the answer as it came."""

import http.client
import json
import ssl
import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Reply:
    """An answer of the API, the ingress or a program inside a sandbox."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The stable code of an error body, which must also carry a text."""
        try:
            payload = json.loads(self.body)
        except ValueError:
            return None
        if not isinstance(payload, dict) or not payload.get("error"):
            return None
        return payload.get("code")

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:300]!r}>"


def request(
    url: str,
    method: str = "GET",
    *,
    host: str | None = None,
    headers: dict[str, str] | None = None,
    body: bytes | str | Iterable[bytes] | None = None,
    timeout: float = 60,
    context: ssl.SSLContext | None = None,
) -> Reply:
    """Sends one request. An iterable body goes out chunked, as it is produced. https:// needs a context."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    all_headers = {"Host": host or parts.netloc, **(headers or {})}
    body = body.encode() if isinstance(body, str) else body
    try:
        connection.putrequest(method, path or "/", skip_host=True, skip_accept_encoding=True)
        chunked = body is not None and not isinstance(body, bytes)
        if chunked:
            all_headers["Transfer-Encoding"] = "chunked"
        elif "Content-Length" not in all_headers and (body is not None or method in ("POST", "PUT", "PATCH")):
            all_headers["Content-Length"] = str(len(body or b""))
        for name, value in all_headers.items():
            connection.putheader(name, value)
        return _exchange(connection, body, chunked)
    finally:
        connection.close()


def _exchange(connection: http.client.HTTPConnection, body, chunked: bool) -> Reply:
    """Sends the body and reads the answer, which may come before the body's end."""
    # Apart: who is reset while connecting has no answer to read.
    connection.connect()
    try:
        connection.endheaders(body, encode_chunked=chunked)
    except (BrokenPipeError, ConnectionResetError):
        pass  # A refused upload is answered early; the answer is what counts.
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())
