# ruff: noqa
"""Attack C: a server that says `100 Continue` as fast as it can: bytes and CPU of one get."""

import threading, time, resource
from dataclasses import replace
from template.store.s3 import S3Store
from template.errors import StoreError
from tests.support.raw_server import RawServer, LIMITS, bucket_at

sent = [0]


def flood(server, connection):
    piece = b"HTTP/1.1 100 Continue\r\n\r\n" * 4096
    while not server.stopping.is_set():
        connection.sendall(piece)
        sent[0] += len(piece)


def spin(seconds):
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
    return n


for num in (0, 1, 8):
    sent[0] = 0
    servers = [RawServer(flood) for _ in range(num)]
    got = []

    def get(s):
        t = time.monotonic()
        try:
            S3Store(bucket_at(s.url), deadline_s=0.0, limits=replace(LIMITS, attempt_s=4.0)).get(
                "key", max_bytes=1000
            )
        except StoreError as e:
            got.append((round(time.monotonic() - t, 1), str(e)[:60]))

    threads = [threading.Thread(target=get, args=(s,)) for s in servers]
    for t in threads:
        t.start()
    time.sleep(0.5)
    before = time.process_time()
    n = spin(2.0)
    cpu = time.process_time() - before
    for t in threads:
        t.join()
    for s in servers:
        s.close()
    print(
        num,
        "floods: loops of this thread in 2 s",
        n,
        "process cpu",
        round(cpu, 1),
        "MB sent",
        round(sent[0] / 1e6),
        got[:2],
        flush=True,
    )
