"""The process log: start-up milestones and failures by request id. Texts and vectors never go here."""

from __future__ import annotations

import logging
import sys

NAME = "serve_app"  # the package, so that every module's own logger is below it


def configure_logging(level: int = logging.INFO) -> logging.Logger:
    """Send this package's log to standard output, once per process; Ray forwards it to whoever started the application.

    Serve points `sys.stdout` at its own log file when it is tuned for throughput, and start-up progress must be seen.
    """
    logger = logging.getLogger(NAME)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.__stdout__)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    return logger
