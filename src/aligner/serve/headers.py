"""Headers: which of them pass on, and who may call."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from socket import gethostname
from urllib.parse import urlsplit

from aligner.errors import RequestError

Headers = list[tuple[bytes, bytes]]

# They speak of one connection only (RFC 9110, 7.6.1).
_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer trailers "
    b"transfer-encoding upgrade".split()
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """The first header of a name, given in small letters."""
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def text(value: bytes) -> str:
    """A header's value to be written as UTF-8: the same bytes, unless they are none."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def passing(headers: Sequence[tuple[bytes, bytes]], *without: bytes) -> Headers:
    """Headers without those of the connection, and without some more."""
    named = (value for key, value in headers if key.lower() == b"connection")
    dropped = {*_HOP, *without, *(n.strip().lower() for value in named for n in value.split(b","))}
    return [(key, value) for key, value in headers if key.lower() not in dropped]


class Door:
    """Decides who may call.

    With `keys`, a client must send one of them as its bearer key, wherever the page that it is on comes from. Without,
    the door is for programs of this machine, so web pages of other sites are kept out: they may reach loopback
    addresses, and others of this network, through a browser, with no key to guess. A page may also call itself by a
    name of its own that leads here. So at a loopback address only known names of the host are let in, the machine's own
    among them, and elsewhere, where programs may know it by any name, a browser needs a known one or the bare address.

    Args:
        keys: those that clients may send.
        host: the address that the gateway is bound to.
        allowed: more hosts by which it may be called, and whose pages may call it.
    """

    def __init__(self, keys: Sequence[str], host: str, allowed: Sequence[str] = ()) -> None:
        self.keys = tuple(key.encode() for key in keys)
        own = gethostname().lower().partition(".")[0]
        self._hosts = {*_LOOPBACK, host.lower(), gethostname().lower(), own, f"{own}.local",
                       *(name.lower().rstrip(".") for name in allowed)}  # fmt: skip
        self._local = _is_loopback(host)

    def check(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Let a request in.

        Raises:
            RequestError: 401, the key is none of ours; 403, a page of another site, or another host's name.
        """
        if self.keys:
            self._check_key(get(headers, b"authorization") or "")
            return
        host = _name(f"//{get(headers, b'host') or ''}")
        origin = get(headers, b"origin")
        # A page that calls itself by a name of its own is of that name, too; one of ours came through a proxy.
        foreign = bool(host) and host not in self._hosts and not (origin and self._welcomes(origin))
        if foreign and (self._local or (_of_browser(headers) and not _is_address(host))):
            raise RequestError(f"this gateway is not called '{host[:200]}'; name the host with --allow-host",
                               status=403, code="unknown_host")  # fmt: skip
        if origin and not self._welcomes(origin):
            raise RequestError(f"pages of '{_name(origin)[:200]}' may not call this gateway; name the host with "
                               "--allow-host", status=403, code="unknown_origin")  # fmt: skip

    def shared(self, headers: Sequence[tuple[bytes, bytes]]) -> Headers:
        """Headers by which a browser lets the page that asks read the reply; none where no page does, or where it may
        not call."""
        origin = get(headers, b"origin")
        if not origin or not self._welcomes(origin):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"*"),
            (b"vary", b"Origin"),
        ]

    def _welcomes(self, origin: str) -> bool:
        return bool(self.keys) or _name(origin) in self._hosts

    def _check_key(self, authorization: str) -> None:
        scheme, _, given = authorization.partition(" ")
        key = given.strip().encode("utf-8", "surrogateescape") if scheme.lower() == "bearer" else b""
        # Every key is compared, and each in a time that does not depend on where it differs.
        same = [hmac.compare_digest(key, known) for known in self.keys]
        if not any(same):
            raise RequestError("the key is missing or wrong; send one of this gateway's keys as 'Authorization: Bearer "
                               "KEY'", status=401, code="invalid_api_key")  # fmt: skip


def _of_browser(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a browser sent it, which no page can hide: each sends a language, if an empty one.

    By plain HTTP browsers say nothing else of themselves. `Sec-Fetch-Mode` tells Node, which sends a language too, and
    a browser that came by HTTPS, whose proxy answered for the name: no page can send it.
    """
    sent = {name for name, _ in headers}
    return b"accept-language" in sent and b"sec-fetch-mode" not in sent


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").lower().rstrip(".")
    except ValueError:
        return "?"
