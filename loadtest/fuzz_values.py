"""Odd numbers, words, pieces of bytes and headers, that bad requests are made with."""

from __future__ import annotations

from typing import Any

NUMBERS: list[Any] = [
    *(
        -1,
        0,
        1,
        8191,
        8192,
        151_669,
        2**31 - 1,
        2**31,
        2**32,
        2**53 + 1,
        2**63,
        2**64,
        -(2**63) - 1,
        10**400,
        0.5,
        -0.0,
    ),
    *("@raw NaN@", "@raw Infinity@", "@raw -Infinity@", "@raw 1e400@", "@raw -1e400@", "@raw 1e-400@", "@raw 1E+2@"),
    *("@raw 01@", "@raw +1@", "@raw .5@", "@raw 0x10@", "@raw -@", "@raw 1_000@"),
]
WORDS = [
    "",
    " ",
    "\x00",
    "\ud800",
    "\udfff\ud800",
    "\ufeff",
    "\u202e",
    "<|endoftext|>",
    "<think>",
    "none",
    "NONE",
    "{{7*7}}",
    "../..",
    "%s%n",
]
PIECES = [
    b"",
    b"\x00",
    b"\xff",
    b"\xc0\xaf",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b'"',
    b"\\",
    b"\\u12",
    b"\\ud800",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
]
HEADERS: dict[str, list[bytes]] = {
    "x-request-timeout-seconds": [
        *(b"0", b"-1", b"nan", b"inf", b"1e999", b"soon", b"", b"1,5", b"0x10", b"9" * 4000, b"\xb2", b"1e-400", b"-0"),
    ],
    "content-type": [
        b"text/plain",
        b"application/xml",
        b"multipart/form-data",
        b"\xff",
        b"application/json; charset=utf-7",
        b"a" * 4000,
    ],
    "content-encoding": [b"gzip", b"br", b"deflate, gzip", b"identity, identity", b"\xff"],
    "authorization": [
        *(
            b"Bearer",
            b"Bearer wrong",
            b"Basic YTpi",
            b"Bearer ' OR 1=1 --",
            b"Bearer \xff\xfe",
            b"Bearer " + b"a" * 6000,
        ),
        *(b"Bearer ../../etc/passwd", b"Bearer %00", b"", b"Bearer {{7*7}}"),
    ],
    "x-request-id": [b"\xff", b"a" * 5000, b"", b"a b", b"${jndi:ldap://x}"],
    "accept": [b"text/plain", b"\xff", b"a" * 4000],
}
