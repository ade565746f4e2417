"""What an object store refuses, in words: one line for each kind of refusal, without a secret in it.

Errors are told by the names of their classes and by their texts, so that no storage's library is imported here.
"""

from __future__ import annotations

import os
import re

from rankscope.study.problems import Problem

_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD|CONNECTION_STRING|SAS)", re.IGNORECASE)
_CLOUDS = ("AWS_", "AZURE_", "GOOGLE_", "GCP_", "HF_", "FSSPEC_")

_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError",
    "ProfileNotFound", "DefaultCredentialsError", "ClientAuthenticationError", "UnauthorizedSSOTokenError",
    "SSOTokenLoadError", "NoAuthTokenError",
)  # fmt: skip
_WRONG_CREDENTIALS = (
    "InvalidAccessKeyId", "SignatureDoesNotMatch", "AWS Access Key Id", "request signature", "ExpiredToken",
    "provided token", "security token", "Anonymous caller",
)  # fmt: skip
_UNREACHABLE = (
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError", "HTTPClientError",
    "ProxyConnectionError", "ClientConnectorError", "ClientConnectionError", "ServerDisconnectedError",
    "ServiceRequestError",
    "ServiceResponseError", "ConnectionError", "ConnectionResetError", "ConnectionRefusedError", "BrokenPipeError",
    "FSTimeoutError", "TimeoutError", "ClientOSError", "ClientPayloadError", "IncompleteReadError",
    "ResponseStreamingError", "SocketTimeoutError", "ServerTimeoutError",
)  # fmt: skip
_BUSY = ("SlowDown", "reduce your request rate", "InternalError", "internal error", "Service Unavailable", "503", "500")


def is_passing(error: BaseException) -> bool:
    """Whether the same request may go through in a moment: no connection, too slow, or the store is overloaded."""
    if any(name in _UNREACHABLE for name in _class_names(error)):
        return True
    return isinstance(error, OSError) and _holds(error, _BUSY) and not isinstance(error, PermissionError)


def problem_of(error: BaseException, url: str) -> Problem:
    """The line for whatever a store or its library raised. `url` is how the user calls the study."""
    names, bucket = _class_names(error), bucket_of(url)
    if any(name in _NO_CREDENTIALS for name in names):
        return Problem(url, bucket, "no credentials", f"those of {_where(url)}, as its own tools find them")
    if _holds(error, _WRONG_CREDENTIALS):
        return Problem(url, bucket, "credentials that the store does not know", f"those of {_where(url)} that hold")
    if isinstance(error, PermissionError) or "Forbidden" in names or _holds(error, ("AccessDenied", "Access Denied")):
        return Problem(url, bucket, "access denied", "permission to list, read, write and delete below this URL")
    if is_passing(error):
        return Problem(url, bucket, f"no answer ({names[0]})", "a store that can be reached; run it again to go on")
    if isinstance(error, FileNotFoundError) or _holds(error, ("NoSuchBucket", "bucket does not exist")):
        return Problem(url, bucket, "no such bucket", "one that exists: create it first")
    return Problem(url, bucket, without_secrets(f"{names[0]}: {error}")[:300], "a store that answers")


def bucket_of(url: str) -> str:
    """The bucket or container of a URL."""
    return url.partition("://")[2].split("/")[0]


def without_secrets(text: str) -> str:
    """The text with every credential of the environment blotted out."""
    for name, value in os.environ.items():
        if len(value) >= 6 and name.startswith(_CLOUDS) and _SECRET.search(name):
            text = text.replace(value, "***")
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
