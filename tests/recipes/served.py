"""Small models, and their page as it is served to the tests: over HTTP, with a worker in a thread."""

from __future__ import annotations

import http.client
import io
import json
import threading
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch

from gendiff import Aligned, Domain, Field, Label, Model, Number, Reference, Sites, Text
from gendiff.testing import randomised
from gendiff_audio import Audio
from gendiff_images import Digits, Images
from gendiff_proteins import Ideal, Proteins
from gendiff_recipes.page.server import Server
from gendiff_recipes.page.studio import Studio

PICTURE = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
CAPTIONS = ["a red heart", "a blue star"]
NAMELESS = "not <b>asked</b>"


def small(domain: Domain, **size: Any) -> Model:
    model = Model.new(domain, **size)
    randomised(model.denoiser.network)
    return model


def pictures() -> Model:
    """A model of pictures that can be asked by every kind of condition that does not lie along one axis."""
    asked = {
        "kind": Label(("cat", NAMELESS)),
        "pitch": Number("Hz", "log").fit([100.0, 400.0]),
        "caption": Text().fit(CAPTIONS),
        "said": Aligned(("h", "e")),
        "like": Reference(Images(size=8, channels=1), layers=1).fit([PICTURE]),
        "edges": Field(1),
    }
    return small(replace(Images.of(Digits()), asked=asked), channels=(8, 8), blocks=1)


def sounds() -> Model:
    """A model of sounds that are asked for by a number and by symbols along the frames."""
    asked = {"pitch": Number("Hz", "log").fit([100.0, 400.0]), "said": Aligned(("h", "e"))}
    return small(replace(Audio(asked=asked), lengths=(32, 40)), channels=(8, 8))


def chains() -> Model:
    """A model of chains that can be asked for residue by residue."""
    domain = Proteins(source=Ideal(min_length=16, max_length=24), asked={"structure": Sites(("H", "E", "L"))})
    return small(domain, width=16, depth=1, heads=2, pair=8)


class Page:
    """A page that is served, and requests to it as a browser makes them."""

    def __init__(self, model: Model, path: Path, home: Path, *, work: bool = True) -> None:
        self.studio = Studio(model, path, "auto", home)
        self.server = Server(self.studio)
        self.threads = [threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)]
        self.threads += [threading.Thread(target=self.studio.work, daemon=True)] if work else []
        for thread in self.threads:
            thread.start()
        self.host = f"127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.studio.stop()
        for thread in self.threads:
            thread.join(30)

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        own = {
            "Origin": f"http://{self.host}", "X-Gendiff-Token": self.server.token, "Sec-Fetch-Site": "same-origin",
            "Cookie": f"{self.server.cookie}={self.server.secret}",
        }  # fmt: skip
        try:
            connection.request(method, path, body, {**own, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.raw("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, value: Any) -> tuple[int, Any]:
        status, body = self.raw("POST", path, json.dumps(value).encode())
        return status, json.loads(body)

    def upload(self, name: str, content: bytes, called: str) -> tuple[int, Any]:
        status, body = self.raw("POST", f"/file?field={name}", content, {"X-File-Name": called})
        return status, json.loads(body)

    def errors(self, form: Any) -> dict[str, str]:
        status, answer = self.post("/sample", form)
        assert status == 422, answer
        return answer["errors"]

    def wait(self) -> dict[str, Any]:
        status: dict[str, Any] = {}
        for _ in range(1200):
            status = self.get("/status")
            if status["state"] in ("done", "failed", "cancelled", "refused"):
                return status
            threading.Event().wait(0.05)
        raise AssertionError(status)

    def drawn(self, form: Any) -> tuple[Shown, dict[str, bytes]]:
        """What the page shows of a request, and the files of its download."""
        status, answer = self.post("/sample", form)
        assert status == 200, answer
        status = self.wait()
        assert status["state"] == "done", status
        seen = Shown(self.get(f"/result?job={status['job']}")["html"])
        code, body = self.raw("GET", f"/download?job={status['job']}")
        assert code == 200
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            return seen, {name: archive.read(name) for name in archive.namelist()}


class Shown(HTMLParser):
    """The text of elements with an id, the attributes of all, and the controls by their names."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str | None] = []
        self.text: dict[str, str] = {}
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = {name: value or "" for name, value in attrs}
        self.tags.append((tag, own))
        if tag not in ("meta", "link", "img", "input"):
            self.open.append(own.get("id"))

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for key in self.open:
            if key:
                self.text[key] = self.text.get(key, "") + data

    def by_id(self, key: str) -> tuple[str, dict[str, str]]:
        return next((tag, own) for tag, own in self.tags if own.get("id") == key)
