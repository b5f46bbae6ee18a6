"""Processes held to a share of a core."""

from __future__ import annotations

import subprocess
import sys
import time

import psutil

from loadtest.ration import rationed


def test_a_rationed_process_gets_its_share_and_goes_on_afterwards() -> None:
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        process = psutil.Process(child.pid)
        with rationed([process], 0.2):
            began, used = time.monotonic(), sum(process.cpu_times()[:2])
            time.sleep(1.5)
            share = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began)
        assert share < 0.5
        assert process.status() != psutil.STATUS_STOPPED
    finally:
        child.kill()
        child.wait()


def test_a_process_that_ends_is_no_trouble() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    with rationed([psutil.Process(child.pid)], 0.5):
        child.wait()
        time.sleep(0.1)
