"""Foreign exceptions to error codes: one table, the only place where libraries' exceptions are read.

What a customer sees is our own sentence, never the library's: theirs hold addresses of our network,
internal class names, and change with every release. What is not in the table is our fault until it is
understood.

Blame: what the endpoint, its name server or the way to it caused is its own; what this machine lacks (file
descriptors, ports, memory, a name server) is ours, is no attempt and feeds no breaker.
"""

import errno
import os
import ssl
from typing import Final, NamedTuple

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from dataflows.connectors.sender.dial_guard import EgressRefused
from dataflows.connectors.sender.resolver import DnsFailure
from schemas.errors import HooktideError
from schemas.outcome import ErrorCode

DETAIL_CHARS_MAX: Final = 256

_OUR_ERRNOS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EADDRINUSE}
)
_CODE_OF_ERRNO: Final = {
    errno.ECONNREFUSED: ErrorCode.CONNECT_REFUSED,
    errno.ETIMEDOUT: ErrorCode.CONNECT_TIMEOUT,
    errno.ECONNRESET: ErrorCode.CONNECTION_RESET,
    errno.EPIPE: ErrorCode.CONNECTION_RESET,
    errno.ECONNABORTED: ErrorCode.CONNECTION_RESET,
}


class Failure(NamedTuple):
    """Why an attempt got no answer, for the log and the customer."""

    code: ErrorCode
    detail: str


class UrlRefused(HooktideError):  # noqa: N818 - the name says what happened
    """The URL itself may not be asked; the message is for the customer."""


class HeadTooLarge(HooktideError):  # noqa: N818 - the name says what was wrong
    """The endpoint sent more than we read before its headers ended."""


class SpokeFirst(HooktideError):  # noqa: N818 - as above
    """The endpoint sent something before it was asked: whatever it is, it is no answer."""


def explain(error: BaseException) -> Failure | None:  # noqa: PLR0911 - the table
    """Returns what an exception of an attempt means; None when it is not known, which makes it our fault."""
    match error:
        case EgressRefused():
            return Failure(ErrorCode.URL_NOT_ALLOWED, error.detail)
        case UrlRefused():
            return Failure(ErrorCode.URL_NOT_ALLOWED, clean_text(str(error)))
        case DnsFailure():
            return Failure(ErrorCode.OUR_FAULT if error.is_ours else error.code, clean_text(str(error)))
        case aiohttp.ClientConnectorCertificateError():
            return Failure(ErrorCode.TLS_CERTIFICATE, _certificate_detail(error.certificate_error))
        case aiohttp.ClientSSLError():
            return Failure(ErrorCode.TLS_FAILED, _tls_detail(error.os_error))
        case aiohttp.ClientConnectorError():
            return _explain_connect(error.os_error)
        case HeadTooLarge():
            return Failure(ErrorCode.RESPONSE_TOO_LARGE, str(error))
        case SpokeFirst():
            return Failure(ErrorCode.PROTOCOL_ERROR, str(error))
        case aiohttp.ClientResponseError():
            return _explain_parse(error)
        case aiohttp.ServerDisconnectedError():
            place = "before its answer" if isinstance(error.message, str) else "inside the answer's headers"
            return Failure(ErrorCode.CONNECTION_RESET, f"The endpoint closed the connection {place}.")
        case aiohttp.ClientOSError():
            return _explain_broken(error)
        case _:
            return None


def clean_text(text: str) -> str:
    """Returns text that every store takes: no control characters, no lone surrogates, 256 characters."""
    text = text[:DETAIL_CHARS_MAX]
    if text.isascii() and text.isprintable():
        return text
    # Bytes that are no UTF-8 come from the parser as surrogates: not printable, and no encoder takes them.
    return "".join([char if char.isprintable() else "\ufffd" for char in text])


def _explain_connect(error: OSError) -> Failure:
    """Before the request was sent: TCP or the TLS handshake."""
    if error.errno in _OUR_ERRNOS:
        return Failure(ErrorCode.OUR_FAULT, f"This machine could not open a connection: {_words(error)}.")
    if error.errno == errno.ECONNRESET:
        return Failure(ErrorCode.CONNECTION_RESET, "The connection was reset while it was being made.")
    code = _CODE_OF_ERRNO.get(error.errno or 0, ErrorCode.CONNECT_FAILED)
    return Failure(code, f"No connection: {_words(error)}.")


def _explain_broken(error: aiohttp.ClientOSError) -> Failure:
    """After the request was sent, or while it was."""
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        return Failure(ErrorCode.TLS_FAILED, _tls_detail(cause))
    return Failure(ErrorCode.CONNECTION_RESET, f"The connection broke before the answer: {_words(error)}.")


def _explain_parse(error: aiohttp.ClientResponseError) -> Failure:
    # aiohttp raises a copy that has lost the type; the parser's own exception is the cause of its cause.
    cause: BaseException | None = error
    while cause is not None and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, LineTooLong) or error.message == "Too many headers received":
        return Failure(ErrorCode.RESPONSE_TOO_LARGE, "The answer's headers are too long or too many.")
    words = error.message.partition("\n")[0] if isinstance(cause, HttpProcessingError) else ""
    return Failure(
        ErrorCode.PROTOCOL_ERROR, clean_text(f"The answer is not HTTP/1.1: {words or 'unreadable'}")
    )


def _certificate_detail(error: Exception) -> str:
    words = getattr(error, "verify_message", "") or "it does not match the host"
    return clean_text(f"The certificate was not accepted: {words}.")


def _tls_detail(error: OSError) -> str:
    words = str(getattr(error, "reason", None) or "the handshake failed").replace("_", " ").lower()
    return clean_text(f"TLS failed: {words}.")


def _words(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else "the other side closed it"
