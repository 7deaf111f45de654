"""The page over HTTP, for the person at this machine.

It answers on 127.0.0.1 alone, to requests whose Host is that address (and no name that another made point here), whose
Origin, where one is said, is its own, and which change something only with the token that stands in the page. Other
accounts of the machine reach that address too: the page opens by the secret of its address alone, which the first
visit leaves in a cookie (HttpOnly, SameSite=Strict, for as long as the browser runs) and everything is asked with.
Nothing on the page comes from elsewhere, nothing is sent anywhere, and the policy of the page forbids both. No path of
a request is a path of a file: what can be fetched is in a table.

    GET  /?token=SECRET   the page             GET  /assets/NAME       its styles and scripts
    GET  /status          how far it is        GET  /result?job=KEY    what was drawn
    POST /sample          a form as JSON       GET  /download?job=KEY  the same as a zip
    POST /cancel          ends the sampling    POST /file?field=NAME   a file for a field; X-File-Name is its name
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from gendiff.cli.expressions import kinds_of, known_kinds
from gendiff.errors import GendiffError, RequestError
from gendiff.sampling.solvers import Solver
from gendiff_recipes import drawing
from gendiff_recipes.report import asset, templates

from .studio import ENDED, Busy, Studio

ADDRESS = "127.0.0.1"
UPLOAD, FORM = 32 * 2**20, 2**20  # bytes of a file and of a form, at most
PATIENCE = 600.0  # seconds until a request must have been checked
ASSETS = {
    "report.css": "text/css", "page.css": "text/css", "report.js": "text/javascript", "page.js": "text/javascript",
    "3Dmol-min.js": "text/javascript", "3Dmol.LICENSE.txt": "text/plain",
}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """A request that is answered with a status and a sentence."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        self.status, self.message = status, message
        super().__init__(message)


class Server(ThreadingHTTPServer):
    """Serves a studio's page.

    Args:
        studio: Which draws.
        port: Where to answer; 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, studio: Studio, port: int = 0) -> None:
        self.studio, self.token, self.secret = studio, secrets.token_urlsafe(24), secrets.token_urlsafe(32)
        super().__init__((ADDRESS, port), Handler)
        names = [f"{host}:{self.server_port}" for host in (ADDRESS, "localhost")]
        self.hosts = {*names, *([ADDRESS, "localhost"] if self.server_port == 80 else [])}
        self.cookie = f"gendiff-{self.server_port}"  # a browser sends those of all ports

    @property
    def origin(self) -> str:
        """The page's address without its secret."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @property
    def url(self) -> str:
        """The page's address, for the person who began it."""
        return f"{self.origin}?token={self.secret}"

    def knows(self, secret: str) -> bool:
        """Whether a secret is the address's, in a time that does not tell how near it is."""
        return hmac.compare_digest(secret.encode("utf-8", "surrogateescape"), self.secret.encode())

    def page(self) -> str:
        """The page."""
        studio = self.studio
        model, path = studio.model, studio.path
        return templates().get_template("page.html.j2").render(
            title=path.stem if path.is_file() else path.resolve().name,
            domain=model.domain.name,
            parameters=sum(p.numel() for p in model.denoiser.parameters()),
            sampler=repr(model.sampler),
            kind=type(model.sampler).__name__,
            steps=getattr(model.sampler, "steps", None),
            guidance=repr(model.guidance),
            several=sum(own.condition for own in studio.fields) > 1 and not isinstance(model.guidance, Mapping),
            fields=studio.fields,
            samplers=kinds_of(Solver, known_kinds()),
            palette=drawing.palette(),
            upload=UPLOAD,
            token=self.token,
        )  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    timeout = 60

    def version_string(self) -> str:
        return "gendiff"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name there
        """Says nothing: what is asked of a model is nobody's business."""

    def do_GET(self) -> None:
        self.respond({
            "/": self.get_page, "/status": self.get_status, "/result": self.get_result, "/download": self.get_download,
        })  # fmt: skip

    def do_POST(self) -> None:
        self.respond({"/sample": self.post_sample, "/cancel": self.post_cancel, "/file": self.post_file})

    def respond(self, routes: Mapping[str, Any]) -> None:
        """Checks where a request comes from, and answers it."""
        try:
            url = urlsplit(self.path)
            self.query = {name: values[0] for name, values in parse_qs(url.query).items()}
            self.check_sender(url.path)
            if url.path.startswith("/assets/") and self.command == "GET":
                self.get_asset(url.path.removeprefix("/assets/"))
            elif url.path in routes:
                routes[url.path]()
            else:
                raise Refusal(HTTPStatus.NOT_FOUND, "There is no such page.")
        except Refusal as refusal:
            self.close_connection = True  # what else was sent is not read
            if self.command == "GET" and self.path.partition("?")[0] == "/":
                self.send(refusal.message.encode(), "text/plain", refusal.status)
            else:
                self.send_json({"message": refusal.message}, refusal.status)
        except (ValueError, RecursionError):
            self.close_connection = True
            self.send_json({"message": "This is no request."}, HTTPStatus.BAD_REQUEST)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def check_sender(self, path: str) -> None:
        """Refuses what does not come from the page itself.

        Raises:
            Refusal: With 403.
        """
        own, said = self.server, self.headers
        if said.get_all("Host", []) not in [[host] for host in own.hosts]:
            raise Refusal(HTTPStatus.FORBIDDEN, f"This page is {own.origin}, under no other name.")
        origin = said.get("Origin")
        if origin is not None and origin not in {f"http://{host}" for host in own.hosts}:
            raise Refusal(HTTPStatus.FORBIDDEN, "Another page may not ask this one.")
        if path != "/" and said.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise Refusal(HTTPStatus.FORBIDDEN, "Another page may not ask this one.")
        if not (path == "/" and own.knows(self.query.get("token", ""))) and not any(map(own.knows, self.cookies())):
            raise Refusal(HTTPStatus.FORBIDDEN, "This page opens by the whole address that gendiff ui printed.")
        token = said.get("X-Gendiff-Token", "").encode()
        if self.command == "POST" and not hmac.compare_digest(token, own.token.encode()):
            raise Refusal(HTTPStatus.FORBIDDEN, "This page is of an earlier start of gendiff ui: load it again.")

    def cookies(self) -> list[str]:
        """The values of this page's cookie that were sent."""
        parts = [part.strip().partition("=") for text in self.headers.get_all("Cookie", []) for part in text.split(";")]
        return [value for name, _, value in parts if name == self.server.cookie]

    def body(self, most: int) -> bytes:
        """What was sent.

        Raises:
            Refusal: Where it is too long, or its length is not said.
        """
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "A request without its length.")
        if int(length) > most:
            got = f"{int(length) / 2**20:.1f} MiB came"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{got}; expected at most {most / 2**20:.0f} MiB.")
        content = self.rfile.read(int(length))
        if len(content) != int(length):
            raise Refusal(HTTPStatus.BAD_REQUEST, "The request broke off.")
        return content

    def send(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> None:
        """Sends an answer."""
        self.send_response(status)
        text = kind.startswith("text/") or kind.endswith("json")
        self.send_header("Content-Type", f"{kind}; charset=utf-8" if text else kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in {**HEADERS, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def send_json(self, value: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        """Sends a value as JSON."""
        self.send(json.dumps(value).encode(), "application/json", status)

    def get_page(self) -> None:
        own = self.server
        cookie = f"{own.cookie}={own.secret}; HttpOnly; SameSite=Strict; Path=/"
        self.send(own.page().encode(), "text/html", Set_Cookie=cookie)

    def get_asset(self, name: str) -> None:
        if name not in ASSETS:
            raise Refusal(HTTPStatus.NOT_FOUND, "There is no such page.")
        self.send(asset(name).encode(), ASSETS[name])

    def get_status(self) -> None:
        last = self.server.studio.last
        self.send_json({"state": "idle"} if last is None else last.status())

    def job(self) -> Any:
        """The finished request that is asked about.

        Raises:
            Refusal: With 404.
        """
        job = self.server.studio.jobs.get(self.query.get("job", ""))
        if job is None or job.state != "done":
            raise Refusal(HTTPStatus.NOT_FOUND, "This result is no longer kept. Sample it again.")
        return job

    def get_result(self) -> None:
        self.send_json(self.job().result)

    def get_download(self) -> None:
        job = self.job()
        try:
            content = Path(self.server.studio.download(job)).read_bytes()
        except OSError:
            raise Refusal(HTTPStatus.NOT_FOUND, "This result is no longer kept. Sample it again.") from None
        name = f"gendiff-{job.key[:8]}.zip"
        self.send(content, "application/zip", Content_Disposition=f'attachment; filename="{name}"')

    def post_sample(self) -> None:
        form = json.loads(self.body(FORM))
        if not isinstance(form, dict):
            raise Refusal(HTTPStatus.BAD_REQUEST, "This is no form.")
        try:
            job = self.server.studio.ask(form)
        except Busy as busy:
            raise Refusal(HTTPStatus.CONFLICT, str(busy)) from None
        if not job.checked.wait(PATIENCE):
            job.stop.set()
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "The request was not checked in time.")
        if job.state == "refused":
            self.send_json({"errors": job.errors}, HTTPStatus.UNPROCESSABLE_ENTITY)
        else:
            self.send_json(job.status())

    def post_cancel(self) -> None:
        self.body(FORM)
        last = self.server.studio.last
        if last is not None and last.state not in ENDED:
            last.stop.set()
        self.send_json({})

    def post_file(self) -> None:
        content = self.body(UPLOAD)
        studio, name = self.server.studio, self.query.get("field", "")
        called = unquote(self.headers.get("X-File-Name", ""))
        try:
            key = studio.uploads.add(studio.model, name, called, content)
        except GendiffError as error:
            message = studio.without_paths(str(error))
            self.send_json({"errors": {f"asked.{name}": message}}, HTTPStatus.UNPROCESSABLE_ENTITY)
            return
        self.send_json({"key": key, "name": studio.uploads.kept[key].name})


def serve(studio: Studio, port: int | None, announce: Any) -> None:
    """Serves a studio's page until Ctrl-C, drawing in this thread.

    Args:
        studio: Which draws.
        port: Where to answer; by default 7860, or any where that is taken.
        announce: Called with the page's address, its secret in it, when it answers.

    Raises:
        RequestError: For a port that cannot be had.
    """
    import threading

    try:
        server = Server(studio, 7860 if port is None else port)
    except (OSError, OverflowError) as error:
        if port is not None:
            raise RequestError(f"The port {port} cannot be had ({error})", "a free one", "--port 0 takes any") from None
        server = Server(studio, 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        announce(server.url)
        studio.work()
    finally:
        server.shutdown()
        server.server_close()
