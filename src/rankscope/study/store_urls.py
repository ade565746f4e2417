"""URLs of object stores: which there are, what opens them, where copies lie, and what a store refuses, in words.

A refusal is one line without a secret in it. Errors are told by the names of their classes and by their texts, so that
no storage's library is imported here.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import platformdirs

from rankscope.study.problems import InputProblems, Problem

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""The package that opens each scheme; the extras of rankscope are called `s3`, `gs` and `az`."""

FIRST_TRIES = 2
"""How often s3fs asks for something before it has had any answer: its own five tries take half a minute."""

TRIES = 5

_TIMEOUT_SECONDS = 30.0

HUB = "hf"
"""The scheme of a model of the hub, where `export --out` may put one; nothing else takes it."""

_LIBRARIES = ("s3fs", "gcsfs", "adlfs", "fsspec", "aiobotocore", "botocore", "azure", "google", "aiohttp")
"""They log tracebacks of what they raise as well; what they raise is told in one line."""

_SECRET_NAME = re.compile(r"(^|_)(\w*KEY|SECRETS?|TOKEN|PASSWORD|PASSWD|CONNECTION_STRING|SAS)(_|$)", re.IGNORECASE)
"""Environment variables whose values are secrets, whichever service they are for."""

_SHORTEST_SECRET = 6

_IN_URLS = (
    (re.compile(r"://[^/\s@]+@"), "://***@"),
    (re.compile(r"(AccountKey|SharedAccessSignature)=[^;\s]+"), r"\1=***"),
    (
        re.compile(r"([?&](?:sig|signature|token|access_token|X-Amz-[A-Za-z-]+|X-Goog-[A-Za-z-]+)=)[^&\s'\"]+", re.I),
        r"\1***",
    ),
)
"""A user's name and password before the host, what Azure's connection strings hold, and what a signed URL carries."""

_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "ProfileNotFound", "DefaultCredentialsError", "ClientAuthenticationError", "UnauthorizedSSOTokenError",
    "SSOTokenLoadError", "NoAuthTokenError",
)  # fmt: skip
_WRONG_CREDENTIALS = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "AWS Access Key Id", "request signature", "ExpiredToken",
    "provided token", "security token", "AuthenticationFailed", "Invalid Credentials",
)  # fmt: skip
_DENIED = ("AccessDenied", "Access Denied", "Forbidden: ", "not authorized", "AuthorizationFailure")
_NO_BUCKET = ("NoSuchBucket", "bucket does not exist", "ContainerNotFound")
_NOBODY = ("Anonymous caller", "connection_string or account_name with credentials")
"""What Google's store and adlfs say to who brought no credentials."""
_UNREACHABLE = (
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError",
    "ProxyConnectionError", "ClientConnectorError", "ClientConnectionError", "ServerDisconnectedError",
    "ServiceRequestError",
    "ServiceResponseError", "ConnectionError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError",
    "FSTimeoutError", "TimeoutError", "ClientOSError", "ClientPayloadError", "IncompleteReadError",
    "ResponseStreamingError", "SocketTimeoutError", "ServerTimeoutError",
)  # fmt: skip
_BUSY = ("SlowDown", "reduce your request rate", "InternalError", "internal error", "Service Unavailable", "503", "500")


def is_url(text: str) -> bool:
    """Whether a text is a URL and no path or hub id."""
    return "://" in text


def checked_url(url: str) -> str:
    """The URL without a slash at its end. Raises InputProblems where it names no bucket, or holds a secret."""
    scheme, _, rest = url.partition("://")
    bucket = rest.split("/")[0]
    if ":" in bucket or "?" in rest or "#" in rest:
        shown = f"{scheme}://{bucket.rpartition('@')[2].partition(':')[0].partition('?')[0]}/..."
        expected = "bucket and path alone; credentials come from the environment, never with the URL"
        raise InputProblems([Problem(shown, "", "more than a bucket and a path", expected)])
    if not bucket:
        raise InputProblems([Problem(url, "", "no bucket", f"{scheme}://BUCKET/PATH")])
    return url.rstrip("/")


def open_store(url: str) -> tuple[Any, str]:
    """fsspec's file system of a URL, and the URL's path in it. Raises InputProblems where its package is missing."""
    scheme = url.partition("://")[0]
    if scheme not in PACKAGES:
        raise InputProblems([unknown_scheme(url, "", [f"{one}://..." for one in sorted(PACKAGES)])])
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        from fsspec.core import url_to_fs

        filesystem, root = url_to_fs(url, **_options(scheme))
        if scheme == "s3":
            filesystem.retries = FIRST_TRIES
    except ImportError:
        extra = {"abfs": "az"}.get(scheme, scheme)
        expected = f"the package {PACKAGES[scheme]}: pip install 'rankscope[{extra}]'"
        raise InputProblems([Problem(url, "", f"no package for {scheme}://", expected)]) from None
    except Exception as error:
        raise InputProblems([problem_of(error, url)]) from error
    return filesystem, str(root).rstrip("/")


def unknown_scheme(url: str, where: str, known: Sequence[str]) -> Problem:
    """The line for a URL that no store answers to. `where`: the option or key that it was given to."""
    scheme = url.partition("://")[0]
    expected = ", ".join(known)
    if scheme == HUB:
        expected += f"; {HUB}:// is for `export --out` alone, and a model of the hub is named ORG/NAME"
    return Problem(without_secrets(url), where, f"the scheme {scheme}://", expected)


def cache_folder() -> Path:
    """Where this machine keeps copies: RANKSCOPE_CACHE, else the user's cache folder."""
    own = os.environ.get("RANKSCOPE_CACHE")
    return Path(own).expanduser() if own else Path(platformdirs.user_cache_dir("rankscope", appauthor=False))


def timeout_seconds() -> float:
    """How long one request may take: RANKSCOPE_STORE_TIMEOUT_SECONDS, else 30."""
    return float(os.environ.get("RANKSCOPE_STORE_TIMEOUT_SECONDS", _TIMEOUT_SECONDS))


def is_passing(error: BaseException) -> bool:
    """Whether the same request may go through in a moment: no connection, too slow, or the store is overloaded."""
    if any(name in _UNREACHABLE for name in _class_names(error)):
        return True
    return isinstance(error, OSError) and _holds(error, _BUSY) and not isinstance(error, PermissionError)


def problem_of(error: BaseException, url: str) -> Problem:
    """The line for whatever a store or its library raised. `url` is how the user calls the study."""
    names, bucket = _class_names(error), bucket_of(url)
    if any(name in _NO_CREDENTIALS for name in names) or _holds(error, _NOBODY):
        return Problem(url, bucket, "no credentials", f"those of {_where(url)}, as its own tools find them")
    if _holds(error, _WRONG_CREDENTIALS):
        return Problem(url, bucket, "credentials that the store does not know", f"those of {_where(url)} that hold")
    if isinstance(error, PermissionError) or _holds(error, _DENIED):
        return Problem(url, bucket, "access denied", "permission to list, read, write and delete below this URL")
    if is_passing(error):
        return Problem(url, bucket, f"no answer ({names[0]})", "a store that can be reached; run it again to go on")
    if isinstance(error, FileNotFoundError) or _holds(error, _NO_BUCKET):
        return Problem(url, bucket, "no such bucket", "one that exists: create it first")
    return Problem(url, bucket, without_secrets(f"{names[0]}: {error}")[:300], "a store that answers")


def bucket_of(url: str) -> str:
    """The bucket or container of a URL."""
    return url.partition("://")[2].split("/")[0]


def without_secrets(text: str) -> str:
    """The text with every credential blotted out that the environment or a URL in it holds. What goes into a log, a
    report of a crash or a study's folder passes here."""
    secrets = [
        value for name, value in os.environ.items() if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name)
    ]
    for value in sorted(secrets, key=len, reverse=True):  # one may be part of another
        text = text.replace(value, "***").replace(quote(value, safe=""), "***")
    for pattern, blotted in _IN_URLS:
        text = pattern.sub(blotted, text)
    return text


def _where(url: str) -> str:
    scheme = url.partition("://")[0]
    known = {"s3": "AWS (environment, ~/.aws, or the machine's role)", "gs": "Google Cloud (gcloud auth)"}
    return known.get(scheme, "the store")


def _class_names(error: BaseException) -> list[str]:
    """Names of the classes of an error and of what caused it, the error's own first."""
    found: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(found) < 40:
        found += [one.__name__ for one in type(seen).__mro__ if one not in (object, BaseException, Exception)]
        seen = seen.__cause__
    return found or [type(error).__name__]


def _holds(error: BaseException, words: tuple[str, ...]) -> bool:
    texts, seen = [], error
    for _ in range(5):
        texts.append(str(seen))
        if seen.__cause__ is None:
            break
        seen = seen.__cause__
    return any(word in text for word in words for text in texts)


def _options(scheme: str) -> dict[str, Any]:
    """Listings are never kept: what another process wrote must be seen at once."""
    if scheme != "s3":
        return {"use_listings_cache": False}
    seconds = timeout_seconds()
    config = {"connect_timeout": min(10.0, seconds), "read_timeout": seconds, "retries": {"max_attempts": 2}}
    return {"use_listings_cache": False, "config_kwargs": config}
