"""`distreid serve …`: checks everything, says the address, and answers until it is told to stop."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import math
import os
import re
import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from distreid.errors import OptionError
from distreid.interface.gallery_commands import say
from distreid.job.options import add_options_of_gallery, choices_of, given_name, given_path

if TYPE_CHECKING:
    import socket

    from distreid.serve.access import Access

ROOT_PATH = re.compile(r"(/[\w.~-]+)+")
EXTRA = "pip install 'distreid[serve]'"


def add_serve_options(command: argparse.ArgumentParser) -> None:
    """The options of `distreid serve`."""
    command.add_argument(
        "gallery",
        nargs="?",
        type=given_path,
        metavar="GALLERY",
        help="a gallery's folder (default: none, features alone)",
    )
    command.add_argument(
        "--checkpoint",
        type=given_name,
        metavar="FILE|sample",
        help="what the gallery's features were extracted with, so that images can be sent",
    )
    command.add_argument("--model", default="auto", metavar="NAME", help="of the checkpoint")
    add_options_of_gallery(command)
    command.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to answer at (default: 127.0.0.1, this machine)",
    )
    command.add_argument(
        "--port", type=int, default=8000, metavar="P", help="0: any free one (default: 8000)"
    )
    tokens = command.add_mutually_exclusive_group()
    tokens.add_argument(
        "--token-file",
        type=given_path,
        metavar="FILE",
        help="who may ask: lines `search TOKEN` and `change TOKEN`",
    )
    tokens.add_argument(
        "--no-token", action="store_true", help="whoever reaches --host may search and remove"
    )
    command.add_argument(
        "--tls-certificate",
        type=given_path,
        metavar="FILE",
        help="speak HTTPS with this certificate and what it was signed by (PEM)",
    )
    command.add_argument(
        "--tls-key", type=given_path, metavar="FILE", help="its private key (PEM, no passphrase)"
    )
    command.add_argument(
        "--root-path",
        default="",
        metavar="/PATH",
        help="below what a proxy shows the service; the proxy takes it away",
    )
    command.add_argument(
        "--trusted-proxy",
        nargs="+",
        default=[],
        metavar="ADDRESS",
        help="whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses or networks",
    )
    command.add_argument(
        "--rate",
        type=float,
        metavar="N",
        help="requests a second that one client may ask (default: as many as it likes)",
    )


def serve(parsed: argparse.Namespace) -> None:
    """Runs the command, until SIGTERM or SIGINT."""
    if parsed.gallery is None and parsed.checkpoint is None:
        raise OptionError("what is to be served? give a gallery, a --checkpoint, or both")
    if not 0 <= parsed.port < 65_536:
        raise OptionError(f"--port {parsed.port}: from 0 to 65535")
    if parsed.rate is not None and not 0 < parsed.rate < math.inf:
        raise OptionError(f"--rate {parsed.rate:g}: a number above 0 is wanted")
    if parsed.root_path and not ROOT_PATH.fullmatch(parsed.root_path):
        raise OptionError(f"--root-path {parsed.root_path}: one such as /people is wanted")
    _check_proxies(parsed.trusted_proxy)
    _check_tls(parsed.tls_certificate, parsed.tls_key)
    try:
        import uvicorn

        from distreid.serve.application import make_app
        from distreid.serve.connections import Connection
    except ModuleNotFoundError as error:
        raise OptionError(f"serve needs {error.name}: {EXTRA}") from error
    import logging

    import torch

    from distreid.interface.loaded_model import load_model
    from distreid.interface.search_command import model_of_gallery
    from distreid.serve.limits import DRAIN_S, MAX_HEAD_BYTES, MAX_REQUESTS
    from distreid.serve.request_rate import RequestRate
    from distreid.serve.served_gallery import ServedGallery

    access = _access(parsed)
    # Requests share the cores. Where torch splits one operation, its threads spin afterwards, and
    # took half a core.
    torch.set_num_threads(1)
    with listening(parsed.host, parsed.port) as listener:
        gallery = None if parsed.gallery is None else ServedGallery(Path(parsed.gallery))
        model = None
        if parsed.checkpoint is not None:
            model = (
                load_model(parsed.checkpoint, model=parsed.model, **choices_of(parsed).given())
                if gallery is None
                else model_of_gallery(
                    gallery.now,
                    parsed.checkpoint,
                    parsed.model,
                    choices_of(parsed),
                    said="--checkpoint",
                    instead="leave it out; clients send a feature or a row",
                )
            )
            if gallery is None and model.wants_cameras:
                raise OptionError(
                    f"--checkpoint: {model.architecture} has an embedding of each camera, which "
                    "an image that is sent does not tell"
                )
        rate = None if parsed.rate is None else RequestRate(parsed.rate)
        # What it says of a bad form has bytes of it.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        app = make_app(gallery, model, access, rate)

        class Server(uvicorn.Server):
            """Ends with status 0 when it was asked to, and at once when it is asked again."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    say(f"serving at {_address(listener, bool(parsed.tls_key))}")

            def handle_exit(self, sig: int, frame: FrameType | None) -> None:
                if self.should_exit:
                    os._exit(128 + sig)
                app.state.service.is_draining = True
                self.should_exit = True

        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=bool(parsed.trusted_proxy),
            forwarded_allow_ips=parsed.trusted_proxy,
            root_path=parsed.root_path,
            ssl_certfile=parsed.tls_certificate,
            ssl_keyfile=parsed.tls_key,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=DRAIN_S,
            backlog=MAX_REQUESTS,
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
            ws="none",
            http=Connection,
        )
        server: Any = Server(config)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
        server.run(sockets=[listener])
    if gallery is not None:
        gallery.now.close()


def _access(parsed: argparse.Namespace) -> Access:
    from distreid.serve.access import Access, is_loopback, read_tokens

    # Through a proxy others reach what answers to this machine alone.
    local = is_loopback(parsed.host) and not parsed.trusted_proxy
    reached = f"--host {parsed.host}"
    if parsed.trusted_proxy:
        reached += f" behind {', '.join(parsed.trusted_proxy)}"
    if parsed.token_file is not None:
        return Access(tokens=read_tokens(parsed.token_file), only_local_names=False)
    if not local and not parsed.no_token:
        raise OptionError(
            f"{reached}: others reach it; give a --token-file, or --no-token if whoever "
            "reaches it may see and remove everybody"
        )
    if not local:
        say(f"{reached}: whoever reaches it may search and remove, no token is asked for")
    return Access(tokens=None, only_local_names=local)


def _check_proxies(addresses: list[str]) -> None:
    for address in addresses:
        try:
            ipaddress.ip_network(address)
        except ValueError:
            raise OptionError(
                f"--trusted-proxy {address}: an address such as 10.0.0.1, or a network such as "
                "10.0.0.0/24, is wanted"
            ) from None


def _check_tls(certificate: Path | None, key: Path | None) -> None:
    """Now, and in one line, instead of when the server starts."""
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise OptionError("--tls-certificate and --tls-key: both are wanted, or none")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A passphrase would be asked for at the terminal.
        context.load_cert_chain(certificate, key, password=lambda: b"")
    except OSError as error:  # ssl's errors are of it
        raise OptionError(
            f"--tls-certificate {certificate} --tls-key {key}: {error.strerror or error}; a PEM "
            "certificate and its key without a passphrase are wanted"
        ) from error


def listening(host: str, port: int) -> socket.socket:
    """A socket that is bound; OptionError where that is not possible."""
    import socket

    with contextlib.ExitStack() as stack:
        try:
            family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
            # The protocol by name, so that asyncio sends each packet at once. Else the second one
            # of an answer waits until the client has acknowledged the first, 40 ms.
            tcp = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            listener = stack.enter_context(tcp)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        except OSError as error:
            raise OptionError(
                f"--host {host} --port {port}: {error.strerror}; choose another --port, or stop "
                "who has it"
            ) from error
        stack.pop_all()
    return listener


def _address(listener: socket.socket, has_tls: bool) -> str:
    host, port = listener.getsockname()[:2]
    return f"http{'s' if has_tls else ''}://{f'[{host}]' if ':' in host else host}:{port}"
