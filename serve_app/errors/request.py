"""The errors with a place in the HTTP contract: what clients may be told, and in which words."""

from __future__ import annotations

from serve_app.errors.internal import EmbedserveError


class RequestError(EmbedserveError):
    """An error with a place in the HTTP contract.

    `message` says what to do about it and never quotes the caller's texts. `retry_after` is in how many seconds the same request
    has a better chance, None where nothing is known about that.
    """

    status = 500
    type = "server_error"
    code: str | None = None
    retry_after: float | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param, code)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        return self.message


class InvalidRequestError(RequestError):
    """400: the request can't be served as it is; sending it again won't help."""

    status = 400
    type = "invalid_request_error"


class EmptyListError(InvalidRequestError):
    """400: a list that must hold something is empty."""


class InputTooLongError(InvalidRequestError):
    """400: an input of `tokens` tokens is over the limit; `index` is its place among several inputs, None where it is the only one.
    With `at_least` it was refused before it was tokenized, and may have more."""

    def __init__(self, tokens: int, limit: int, index: int | None = None, at_least: bool = False) -> None:
        self.given = f"at least {tokens}" if at_least else f"{tokens}"
        place = "" if index is None else f" (input index {index})"
        super().__init__(f"Input length {self.given} exceeds maximum allowed length {limit}{place}", param="input")
        self.args = (tokens, limit, index, at_least)
        self.tokens, self.limit, self.index, self.at_least = tokens, limit, index, at_least


class TooManyTokensError(InvalidRequestError):
    """400: the request as a whole is over the token limit (OpenAI uses the same word for type and code)."""

    type = "max_tokens_per_request"
    code = "max_tokens_per_request"


class ModelNotFoundError(InvalidRequestError):
    """404: the model isn't served here."""

    status = 404
    code = "model_not_found"


class AuthenticationError(InvalidRequestError):
    """401: the request has no API key, or none that is known here. The message is the same for whatever was sent."""

    status = 401


class MissingKeyError(AuthenticationError):
    """401: the request came without an API key."""

    def __init__(self) -> None:
        super().__init__("You didn't provide an API key. Send it in the header 'Authorization: Bearer YOUR_KEY'.")
        self.args = ()


class InvalidKeyError(AuthenticationError):
    """401: nobody's API key, or one that was revoked, or no readable one."""

    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__("Incorrect API key provided. Ask whoever runs this service for one.")
        self.args = ()


class ForbiddenError(InvalidRequestError):
    """403: the API key is known, but not one of those that may do this."""

    status = 403
    code = "insufficient_permissions"


class ModelNotAllowedError(InvalidRequestError):
    """403: the model is served here, but not to this API key (OpenAI's own code for it)."""

    status = 403
    code = "model_not_found"


class RouteNotFoundError(InvalidRequestError):
    """404: no such path."""

    status = 404
    code = "unknown_url"


class MethodNotAllowedError(InvalidRequestError):
    """405: the path exists, the method doesn't."""

    status = 405
    code = "method_not_supported"


class PayloadTooLargeError(InvalidRequestError):
    """413: the body is over the size limit."""

    status = 413
    code = "request_too_large"


class UnsupportedMediaTypeError(InvalidRequestError):
    """415: the body isn't JSON."""

    status = 415
    code = "unsupported_media_type"


class CrashingInputError(InvalidRequestError):
    """422: replica after replica died with this input, at last with it alone; sending it again would kill more of them. `row` is its
    place in the request."""

    status = 422
    code = "input_crashes_replica"

    def __init__(self, row: int) -> None:
        super().__init__(
            f"Input {row} made every replica that computed it crash, the last one by itself. Send the request without it.",
            param="input",
        )
        self.args = (row,)
        self.row = row


class InputOverMemoryError(InvalidRequestError):
    """400: the memory of the replica's device doesn't hold this input even alone."""

    code = "input_over_memory"

    def __init__(self, tokens: int) -> None:
        super().__init__(
            f"An input of {tokens} tokens needs more memory than the server's device has. Send it in shorter pieces.",
            param="input",
        )
        self.args = (tokens,)


class OverloadedError(RequestError):
    """429: the backlog is at its bound; `retry_after` says when it will have been worked off. OpenAI clients retry it.

    `type` is the one that OpenAI gives to its limits on tokens.
    """

    status = 429
    type = "tokens"
    code = "server_is_overloaded"

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.args = (message, retry_after)
        self.retry_after = retry_after


class RateLimitedError(RequestError):
    """429: a limit of the caller's API key is reached; `type` is what it limits, `requests` or `tokens`. OpenAI clients retry it."""

    status = 429
    code = "rate_limit_exceeded"

    def __init__(self, message: str, type_: str, retry_after: float) -> None:
        super().__init__(message)
        self.args = (message, type_, retry_after)
        self.type = type_
        self.retry_after = retry_after


class DeadlineExceededError(RequestError):
    """408: the request's deadline passed before its vectors were ready. OpenAI clients retry it."""

    status = 408
    type = "timeout"
    code = "deadline_exceeded"


class UnavailableError(RequestError):
    """503: no replica can answer now. OpenAI clients retry it."""

    status = 503
    type = "server_error"
    code = "server_is_overloaded"


class InternalError(RequestError):
    """500: the body is constant; what happened is in the log under the request id."""

    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request. Quote the x-request-id header.")
        self.args = ()
