"""A TCP relay for tests of everything that must outlive a bad wire."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

LOCALHOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])


class Relay:
    """A TCP relay in front of a server whose wire can be cut, blocked, slowed and taken away.

    `delay_s` holds up each chunk either way: an answer comes two delays after its question.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.flowing = threading.Event()
        self.flowing.set()
        self.delay_s = 0.0
        self.num_accepted = 0
        self.num_cuts = 0
        self._wires: list[socket.socket] = []
        self.port = free_port()
        self._listener = self._listen()

    def _listen(self) -> socket.socket:
        listener = socket.create_server((LOCALHOST, self.port))
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.num_accepted += 1
                server = socket.create_connection((LOCALHOST, self.target_port))
                self._wires += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self.flowing.wait()
                time.sleep(self.delay_s)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        wires, self._wires = self._wires, []
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    @contextlib.contextmanager
    def cut_every(self, seconds: float) -> Iterator[None]:
        """Cut the wire again and again, until the end of the block."""
        is_over = threading.Event()

        def body() -> None:
            while not is_over.wait(seconds):
                self.cut()
                self.num_cuts += 1

        cutter = threading.Thread(target=body, daemon=True)
        cutter.start()
        try:
            yield
        finally:
            is_over.set()
            cutter.join()

    def refuse(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def accept_again(self) -> None:
        self._listener = self._listen()
