"""The process log: start-up milestones, failures by request id, and requests where they are asked for. Texts, vectors and keys never
go here."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

NAME = "serve_app"  # the package, so that every module's own logger is below it

FIELDS = "fields"
"""The attribute of a log record (`extra`) with more to say: a dict of JSON values."""


class TextLines(logging.Formatter):
    """A line for people, with the fields behind it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        line = super().formatMessage(record)
        fields = getattr(record, FIELDS, None)
        return line if fields is None else f"{line} {json.dumps(fields)}"


class JsonLines(logging.Formatter):
    """One JSON object a line: `time` in UTC, `level`, `message`, the fields, and `exception` where there is a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said)


def configure_logging(style: str = "text", level: int = logging.INFO) -> logging.Logger:
    """Send this package's log to standard output as `text` or `json`, once per process; Ray forwards it to whoever started the
    application.

    Serve points `sys.stdout` at its own log file when it is tuned for throughput, and start-up progress must be seen.
    """
    logger = logging.getLogger(NAME)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.__stdout__)
        handler.setFormatter(JsonLines() if style == "json" else TextLines())
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    return logger
