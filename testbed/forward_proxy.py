"""An HTTP proxy as companies have between their machines and the outside: CONNECT, and a list of who went where."""

import contextlib
import socket
import socketserver
import threading

_CHUNK = 65536


class ForwardProxy:
    """Listens at `address`; `seen` is who asked for which place, as (host of the client, HOST:PORT)."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.seen: list[tuple[str, str]] = []
        seen = self.seen

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                method, _, rest = self.rfile.readline().decode("latin-1").partition(" ")
                place = rest.partition(" ")[0]
                while self.rfile.readline().strip():
                    pass
                if method != "CONNECT":
                    self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                    return
                seen.append((self.client_address[0], place))
                host, _, port = place.rpartition(":")
                with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 10) as there:
                    self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    back = threading.Thread(target=_pass_on, args=(there, self.connection), daemon=True)
                    back.start()
                    _pass_on(self.connection, there)
                    back.join()

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server((host, 0), Handler)
        self.address = f"{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it; connections under way end with their peers."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(_CHUNK):
            sink.sendall(chunk)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
