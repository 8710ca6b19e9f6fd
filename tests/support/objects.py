"""Bytes of objects, and answers of servers, for the tests of stores."""

import hashlib

from template.store.transport import TransportLimits
from tests.support.raw_server import Answer, says

BRIEF = TransportLimits(connect_s=1.0, silence_s=0.3, attempt_s=0.3)


def data_of(num_bytes: int, seed: int = 0) -> bytes:
    """Bytes of every value, different for each seed."""
    block = hashlib.sha512(seed.to_bytes(4, "big")).digest()
    return (block * (num_bytes // len(block) + 1))[:num_bytes]


def refuses(status: int, code: str, message: str = "no") -> Answer:
    xml = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return says(b"HTTP/1.1 %d Nope\r\nContent-Length: %d\r\n\r\n" % (status, len(xml)), xml)
