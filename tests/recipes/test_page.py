"""The page of `gendiff ui`, without a browser: what is drawn, what it answers, what repeats it, and whom it refuses."""

from __future__ import annotations

import http.client
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

import numpy as np
import pytest
import torch
from torch import nn

import gendiff
from gendiff import Domain, Label, Model
from gendiff.cli import main
from gendiff.domain import Examples, Request
from gendiff.errors import MissingExtra, RequestError
from gendiff_images import Digits, Images
from gendiff_recipes import commands
from gendiff_recipes.page import asking
from gendiff_recipes.page.fields import fields
from gendiff_recipes.page.server import ASSETS, UPLOAD, Server, serve
from gendiff_recipes.page.studio import Studio
from gendiff_recipes.report import Pictures, asset
from gendiff_recipes.report import Text as Paragraphs
from gendiff_recipes.showing import shown
from tests.recipes.served import NAMELESS, PICTURE, Page, Shown, chains, pictures, small


def form(asked: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A form with some values, and all else not asked."""
    free = {name: {"how": "none"} for name in ("label", "kind", "pitch", "caption", "said", "like", "edges")}
    values = {name: {"how": "value", "value": value} for name, value in (asked or {}).items()}
    return {"asked": {**free, **values}, "n": "2", "seed": "3", "steps": "2", **more}


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which the page and the shell are started."""
    path, here = tmp_path_factory.mktemp("page"), Path.cwd()
    os.chdir(path)
    yield path
    os.chdir(here)


@pytest.fixture(scope="module")
def page(home: Path) -> Iterator[Page]:
    path = Path("pictures of mine.safetensors")
    pictures().save(path)
    served = Page(gendiff.load(path), path, home / "ui")
    yield served
    served.close()


@pytest.fixture(scope="module")
def png(home: Path) -> bytes:
    Images(size=8, channels=1).write(PICTURE, home / "a, b.png")
    return (home / "a, b.png").read_bytes()


def test_a_field_for_each_kind_of_condition(page: Page) -> None:
    status, body = page.raw("GET", "/")
    assert status == 200
    seen = Shown(body.decode())
    kinds = {own["data-name"]: own["data-kind"] for tag, own in seen.tags if tag == "div" and "data-kind" in own}
    assert kinds == {
        "label": "menu", "kind": "menu", "pitch": "slider", "caption": "line", "said": "line", "like": "file",
        "edges": "file",
    }  # fmt: skip
    classes = [own["value"] for tag, own in seen.tags if tag == "option" and own.get("data-how") == "value"]
    assert classes == [*map(str, range(10)), "cat", NAMELESS]
    assert [own.get("data-how") for tag, own in seen.tags if tag == "option"].count("none") == 2
    ends = next(own for _, own in seen.tags if "data-low" in own)
    assert (float(ends["data-low"]), float(ends["data-high"])) == (100.0, 400.0) and "data-log" in ends
    assert float(seen.by_id("asked-pitch")[1]["value"]) == 200.0  # the geometric mean
    assert ">Hz</span>" in body.decode()
    assert seen.by_id("asked-like")[1]["accept"].split(",") == list(Images(size=8, channels=1).suffixes)
    assert seen.by_id("asked-edges")[1]["accept"] == ".npy"
    for name in kinds:
        assert seen.by_id(f"guidance-{name}")[0] == "input"
        assert seen.by_id(f"error-asked-{name}")[0] == seen.by_id(f"error-guidance-{name}")[0] == "p"
    assert b"<b>asked" not in body


def test_what_is_no_condition_has_a_field_too() -> None:
    """Lengths have a slider over the trained range; what has neither range nor class is a line."""
    found = {own.name: own for own in fields(chains())}
    assert found["length"].kind == "slider" and found["length"].span == (16, 24, 20) and found["length"].whole
    assert not found["length"].condition and found["structure"].kind == "line"
    domain = Images.of(Digits()).with_conditions({"label": Label(("none", "some"))})
    own = fields(small(domain, channels=(8, 8), blocks=1))
    assert [one.none for one in own if one.name == "label"] == [False], "none is a class there"


FORMS: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "nothing said": lambda like, edges: {"n": "3", "steps": "2"},
    "each kind": lambda like, edges: form(
        {"label": "7", "kind": NAMELESS, "pitch": "123.456", "caption": "a red heart", "said": "h:3 e:5", "like": like,
         "edges": edges},
    ),
    "guidance by condition": lambda like, edges: form(
        {"kind": "cat", "caption": "a blue star"}, guidance={"kind": "-2.5", "caption": "3"}, sampler="Heun", seed="0"
    ),
    "values by sample, and a sampler": lambda like, edges: form(
        {"pitch": "100, 400"}, sampler="DPMpp2M(3, times=PowerGrid(1.5))", steps=""
    ),
    "a sampler with noise": lambda like, edges: form(
        {"label": "1"}, sampler="DDPM(3)", steps="", guidance={"label": "2"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(FORMS))
def test_it_is_repeated_bit_for_bit(name: str, page: Page, home: Path, png: bytes) -> None:
    """By the shown shell line, run in a folder with the files, and by the shown Python lines."""
    field = npy(np.linspace(-1, 1, 64, dtype=">f4").reshape(8, 8, 1))
    like, edges = (page.upload(*one)[1]["key"] for one in (("like", png, "a, b.png"), ("edges", field, "e.npy")))
    seen, files = page.drawn(FORMS[name](like, edges))
    assert "complete" in json.loads(files["samples/manifest.json"])
    for one in ("a, b.png", "e.npy"):
        assert (one in files) == (name == "each kind")
        if one in files:
            (home / one).write_bytes(files[one])
    before = set(home.iterdir())
    line = shlex.split(seen.text["shell"])
    assert line[:2] == ["gendiff", "sample"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(line[1:]) == 0
        space: dict[str, Any] = {}
        exec(seen.text["python"], space)
    (out,) = set(home.iterdir()) - before
    again = {f"samples/{path.name}": path.read_bytes() for path in out.iterdir()}
    assert again == {name: content for name, content in files.items() if name.startswith("samples/")}
    for i, artifact in enumerate(space["artifacts"]):
        page.studio.model.domain.write(artifact, home / "python.png")
        assert (home / "python.png").read_bytes() == files[f"samples/{i:04d}.png"]
    assert len(space["artifacts"]) == json.loads(files["samples/manifest.json"])["n"]


def test_chains_are_repeated_bit_for_bit(home: Path) -> None:
    """Files that hold the line that made them, too."""
    path = Path("chains")
    path.mkdir()
    chains().save(path / "model.safetensors")
    page = Page(gendiff.load(path), path, home / "ui-chains")
    try:
        wrong = {"asked": {"structure": {"how": "value", "value": "H" * 16}, "length": {"how": "value", "value": "20"}}}
        found = page.errors({**wrong, "n": "1", "steps": "2"})
        assert len(found) == 1 and set(found) <= {"asked.length", "asked.structure"}, "which alone are right"
        seen, files = page.drawn({"asked": {"structure": wrong["asked"]["structure"]}, "n": "1", "steps": "2"})
        before = set(home.iterdir())
        assert main(shlex.split(seen.text["shell"])[1:]) == 0
        (out,) = set(home.iterdir()) - before
        assert {f"samples/{path.name}": path.read_bytes() for path in out.iterdir()} == files
        assert b"gendiff sample chains" in files["samples/0000.pdb"]
        assert any("thumbs" in own.get("class", "") for _, own in seen.tags)
    finally:
        page.close()


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "a class": (form({"kind": "dog"}), "asked.kind", "'dog' is not a class"),
    "a number": (form({"pitch": "-3"}), "asked.pitch", "expected a positive number of Hz"),
    "no number": (form({"pitch": "high"}), "asked.pitch", "'high'; expected a number"),
    "too many": (form({"pitch": "1,2,3"}), "asked.pitch", "3 values for 2 samples"),
    "a word": (form({"caption": "a red hart"}), "asked.caption", 'Did you mean "heart"?'),
    "a symbol": (form({"said": "x:8"}), "asked.said", "the symbol 'x'"),
    "no durations": (form({"said": "h e"}), "asked.said", "without durations"),
    "other sites": (form({"said": "h:3"}), "asked.said", "durations of 3 sites in all, for a sample of 8"),
    "a path for a file": (form({"like": "/etc/passwd"}), "asked.like", "a file that is no longer here"),
    "nothing": (form({"caption": ""}), "asked.caption", "nothing was said"),
    "an escape": (form({"caption": "red\x1b[2J"}), "asked.caption", "expected a line of letters"),
    "half a sign": (form({"caption": "\ud83d"}), "asked.caption", "expected a line of letters"),
    "a long text": (form({"caption": "red " * 10_000}), "asked.caption", "40000 letters"),
    "no text": (form({"caption": ["red"]}), "asked.caption", "list; expected a line"),
    "no samples": (form({}, n="0"), "n", "at least 1"),
    "many samples": (form({}, n="257"), "n", "at most 256"),
    "a seed": (form({}, seed="-1"), "seed", "at least 0"),
    "steps": (form({}, steps="0.5"), "steps", "at least 1"),
    "a sampler": (form({}, sampler="Huen(3)"), "sampler", 'Did you mean "Heun"?'),
    "a kind that is none": (form({}, sampler="Gaussian()"), "sampler", "There is no sampler"),
    "code": (form({}, sampler="__import__('os').getcwd()"), "sampler", "There is no sampler"),
    "guidance": (form({}, guidance={"pitch": "APG(3)"}), "guidance.pitch", "'APG(3)'; expected a number"),
    "guidance of nan": (form({}, guidance={"pitch": "nan"}), "guidance.pitch", "expected a number"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WRONG))
def test_wrong_input_is_told_where_it_was_typed(name: str, page: Page) -> None:
    sent, key, text = WRONG[name]
    errors = page.errors(sent)
    assert list(errors) == [key] and text in errors[key], errors
    assert not errors[key].startswith(f"{key.partition('.')[2]}:")


def test_all_of_it_is_told_at_once(page: Page) -> None:
    sent = form({"kind": "dog", "caption": "hart"}, n="x", sampler="none at all", guidance={"said": "?"})
    assert set(page.errors(sent)) == {"asked.kind", "asked.caption", "n", "sampler", "guidance.said"}


@pytest.mark.parametrize("sent", [{"asked": 3}, {"n": 3}, {"n": None}, {"guidance": [], "seed": {}}, {"sampler": 1}])
def test_what_no_page_sends_is_told(sent: Any, page: Page) -> None:
    status, answer = page.post("/sample", {"steps": "1", "n": "1", "asked": {"label": {"how": "none"}}, **sent})
    assert status == (200 if sent == {"asked": 3} else 422), answer
    page.wait()


def test_files_are_read_when_they_come(page: Page, png: bytes, home: Path) -> None:
    """A damaged one, one of another kind, and one of another size are told at their field, by the name they had."""
    huge = npy(np.zeros((8, 8, 1))).replace(b"(8, 8, 1)", b"(8, 8, 9)")
    for name, content, called, text in (
        ("like", png[:-40], "cut.png", "cut.png"),
        ("like", b"GIF89a", "x.png", "x.png"),
        ("like", png, "picture.exe", "'picture.exe'; expected one that ends in"),
        ("like", png, ".png", "expected one that ends in"),
        ("edges", b"", "empty.npy", "empty.npy"),
        ("edges", huge, "more.npy", "more.npy"),
        ("edges", npy(np.array([{}], dtype=object)), "pickled.npy", "pickled.npy"),
        ("edges", npy(np.full((8, 8, 1), np.inf)), "inf.npy", "infinite"),
        ("caption", b"red", "red.txt", "a condition that takes files"),
        ("absent", b"red", "red.txt", "a condition that takes files"),
    ):
        status, answer = page.upload(name, content, called)
        assert status == 422, (called, answer)
        ((key, message),) = answer["errors"].items()
        assert key == f"asked.{name}" and text in message and str(home) not in message, message
    key = page.upload("edges", npy(np.zeros((4, 4, 1))), "small.npy")[1]["key"]
    assert "sites [4, 4] of a sample of [8, 8]" in page.errors(form({"edges": key}))["asked.edges"]
    assert list(page.errors(form({"like": key}))) == ["asked.like"], "a file of another field"


def test_the_name_of_a_file_is_no_path(page: Page, png: bytes, home: Path) -> None:
    before = {path for path in home.rglob("*") if "ui" not in path.parts}
    for called in ("../../../evil.png", "..%2F..%2Fevil.png", "C:\\evil.png", "/evil.png", "--evil.png", "%00evil.png"):
        status, answer = page.upload("like", png, called)
        assert status == 200 and answer["name"] == "evil.png", answer
    assert {path for path in home.rglob("*") if "ui" not in path.parts} == before
    assert not [path for path in (home / "ui").rglob("*") if "evil" in path.name]
    assert len(page.studio.uploads.kept) <= asking.UPLOADS
    assert asking.file_name("\u202egnp.exe\n") == "gnp.exe" and asking.file_name("/") == "file"


def test_only_the_page_may_ask(page: Page) -> None:
    """Not under another name (a name that is made to point here), not from another origin, not without the token."""
    port, sent = page.server.server_port, json.dumps(form()).encode()
    for headers in (
        {"Host": "evil.example"}, {"Host": f"evil.example:{port}"}, {"Host": "127.0.0.1"},
        {"Host": f"127.0.0.1:{port + 1}"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Origin": f"http://127.0.0.1:{port + 1}"},
        {"Origin": f"https://127.0.0.1:{port}"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
    ):  # fmt: skip
        for path in ("/sample", "/cancel", "/file?field=like"):
            assert page.raw("POST", path, sent, headers)[0] == 403, (headers, path)
        for path in ("/status", "/assets/page.js", "/result?job=x", "/download?job=x"):
            assert page.raw("GET", path, None, headers)[0] == 403, (headers, path)
    for token in ("", "x" * len(page.server.token), page.server.token + "x", "\xff"):
        assert page.raw("POST", "/sample", sent, {"X-Gendiff-Token": token})[0] == 403
    assert page.raw("GET", "/", None, {"Host": "evil.example"})[0] == 403
    assert page.raw("GET", "/", None, {"Host": f"localhost:{port}"})[0] == 200
    assert page.server.server_address[0] == "127.0.0.1"


def test_the_page_opens_by_its_whole_address_alone(page: Page) -> None:
    """Whoever has not the secret, as another account of the machine, is told one sentence, whatever is asked."""
    own = page.server
    wrong = ["", "x", own.secret[:-1], own.secret + "x", own.secret.swapcase(), own.token, "\xff", "%s"]
    for secret in wrong:
        headers = {"Cookie": f"{own.cookie}={secret}"}
        for method, path in (
            ("GET", "/"), ("GET", f"/?token={quote(secret)}"), ("GET", "/status"), ("GET", "/assets/page.js"),
            ("GET", "/result?job=x"), ("GET", "/download?job=x"), ("POST", "/sample"), ("POST", "/cancel"),
            ("GET", f"/status?token={own.secret}"), ("POST", f"/sample?token={own.secret}"), ("GET", "/nowhere"),
        ):  # fmt: skip
            status, body = page.raw(method, path, b"{}" if method == "POST" else None, headers)
            assert status == 403 and b"opens by the whole address that gendiff ui printed" in body, (secret, path)
            assert own.secret.encode() not in body and own.token.encode() not in body
    for cookie in (f"other={own.secret}", f"{own.cookie}0={own.secret}", own.secret, f"{own.cookie}"):
        assert page.raw("GET", "/", None, {"Cookie": cookie})[0] == 403, cookie
    assert page.raw("GET", "/", None, {"Cookie": f"a=b; {own.cookie}={own.secret}; c"})[0] == 200
    assert own.url == f"{own.origin}?token={own.secret}" and len(own.secret) >= 43


def test_the_first_visit_leaves_a_cookie(page: Page) -> None:
    def get(path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(page.host)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer

    first = get(f"/?token={page.server.secret}")
    name, _, rest = (first.headers["Set-Cookie"] or "").partition("=")
    value, *flags = rest.split("; ")
    assert first.status == 200 and (name, value) == (page.server.cookie, page.server.secret)
    assert sorted(flags) == ["HttpOnly", "Path=/", "SameSite=Strict"]
    assert get("/status", Cookie=f"{name}={value}").status == 200 and get("/status").status == 403
    refused = get("/")
    assert refused.status == 403 and refused.headers["Set-Cookie"] is None
    assert page.server.secret not in page.server.page(), "a script has no need of it"


def test_odd_requests_are_refused(page: Page) -> None:
    def status(method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        return page.raw(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})[0]

    assert status("POST", "/file?field=like", b"x", Content_Length=str(UPLOAD + 1)) == 413
    assert status("POST", "/sample", b"x", Content_Length=str(2**40)) == 413
    assert status("POST", "/sample", b"{}", Content_Length="-1") == 411
    assert status("POST", "/sample", b"0\r\n\r\n", Transfer_Encoding="chunked") == 411
    for body in (b"", b"{", b"[]", b"3", b"\xff", b"[" * 10_000):
        assert status("POST", "/sample", body) == 400, body[:10]
    for path in (
        "/assets/../commands.py", "/assets/%2e%2e/commands.py", "/assets//etc/passwd", "/assets/", "/..", "/page.py",
        "/result", "/result?job=../ui", "/download?job=uploads", "/sample",
    ):  # fmt: skip
        assert status("GET", path) == 404, path
    assert status("POST", "/", b"") == 404
    assert status("PUT", "/sample", b"{}") == 501
    message = json.loads(page.raw("POST", "/file?field=like", b"", {"Content-Length": str(2 * UPLOAD)})[1])["message"]
    assert message == "64.0 MiB came; expected at most 32 MiB."


def test_nothing_comes_from_elsewhere(page: Page) -> None:
    """Every address in the page is its own, and its policy allows no other."""
    connection = http.client.HTTPConnection(page.host)
    connection.request("GET", page.server.url.removeprefix(page.server.origin[:-1]))
    answer = connection.getresponse()
    body, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
    connection.close()
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "http" not in policy
    assert answer.headers["Cache-Control"] == "no-store" and answer.headers["X-Frame-Options"] == "DENY"
    links = [own[name] for _, own in Shown(body).tags for name in ("src", "href") if name in own]
    assert links and all(link.startswith(("/assets/", "data:")) for link in links)
    for name in ASSETS:
        assert page.raw("GET", f"/assets/{name}") == (200, asset(name).encode())
        if name.startswith("page"):
            assert "//" not in asset(name).replace("// ", "") and "@import" not in asset(name)


def test_one_at_a_time_and_no_longer_than_wanted(home: Path) -> None:
    """A second request is told to wait; a cancelled one leaves nothing and the next is answered."""
    path = Path("one.safetensors")
    pictures().save(path)
    page = Page(gendiff.load(path), path, home / "ui-one", work=False)
    try:
        first: list[Any] = []
        thread = threading.Thread(target=lambda: first.append(page.post("/sample", form())))
        thread.start()
        while page.get("/status")["state"] != "waiting":
            pass
        status, answer = page.post("/sample", form())
        assert status == 409 and "under way (0% done). Wait for it, or cancel it." in answer["message"]
        assert page.post("/cancel", {})[0] == 200
        worker = threading.Thread(target=page.studio.work, daemon=True)
        worker.start()
        thread.join()
        assert first[0][0] == 200 and page.wait()["state"] == "cancelled"
        last = page.studio.last
        assert last is not None and not last.folder.exists()
        assert page.raw("GET", f"/result?job={last.key}")[0] == 404
        assert page.drawn(form({"label": "3"}))[1]
    finally:
        page.close()


@dataclass(frozen=True)
class Odd(Domain):
    """A stranger's domain: what it takes raises what it likes, and what it makes is a few numbers, or not."""

    name: ClassVar[str] = "odd"
    wide: int = 2

    @property
    def process(self) -> Any:
        return gendiff.Gaussian(gendiff.Linear())

    def encode(self, artifact: Any) -> Any:
        return artifact

    def decode(self, x: Any) -> Any:
        if float(x.sum()) != float(x.sum()):
            raise ZeroDivisionError("in a stranger's decode")
        return x

    def request(self, n: int, *, length: Any = 5) -> Request:
        return Request(torch.empty(n, length, self.wide))

    def network(self, **size: Any) -> nn.Module:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.Parameter(torch.ones(()))

            def forward(self, x: Any, t: Any) -> Any:
                return self.w * x

        return Net()

    def dataset(self, split: str, root: Path | None = None) -> Examples:
        return Examples([])


def test_a_stranger_may_raise_anything(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At its field while a request is checked, as a failure while it is drawn; the page stays."""
    model = Model.new(Odd())
    (weight,) = model.denoiser.parameters()
    page = Page(model, Path("odd.safetensors"), home / "ui-odd")
    try:
        for typed, text in (("many", "'many': TypeError"), ("-2", "'-2': RuntimeError"), ("2.5", "'2.5': TypeError")):
            found = page.errors({"asked": {"length": {"how": "value", "value": typed}}})
            assert list(found) == ["asked.length"] and text in found["asked.length"]
        seen, files = page.drawn({"asked": {"length": {"how": "value", "value": "7"}}, "n": "2", "steps": "2"})
        assert np.load(io.BytesIO(files["samples/0001.npy"])).shape == (7, 2)
        assert sum(tag == "img" and own["src"].startswith("data:image/png") for tag, own in seen.tags) == 2
        with torch.no_grad():
            weight.fill_(float("nan"))
        assert page.post("/sample", {"n": "1", "steps": "2"})[0] == 200
        status = page.wait()
        assert status["state"] == "failed" and status["message"] == "ZeroDivisionError: in a stranger's decode"
        assert "ZeroDivisionError" in capfd.readouterr().err
        with torch.no_grad():
            weight.fill_(1.0)
        assert page.drawn({"n": "1", "steps": "2"})[1]
    finally:
        page.close()


def test_artifacts_are_shown_by_what_the_domain_writes() -> None:
    """Never by its name: a few numbers as plots, a picture of the domain's own where it draws one, else in words."""

    class Drawn(Odd):
        def plot(self, artifacts: Any, path: Any, *, labels: Any = None) -> None:
            Path(path).write_bytes(f"{len(artifacts)} {labels}".encode())

    numbers = [torch.zeros(5, 2), torch.ones(4, 2)]
    plots, drawn = shown("x", Odd(), numbers, ["", ""]), shown("x", Drawn(), numbers, ["a", "b"])
    assert isinstance(plots, Pictures) and len(plots.pictures) == 2
    assert isinstance(drawn, Pictures) and drawn.pictures == [b"2 ['a', 'b']"]
    for odd in ([torch.zeros(5, 9)], [torch.full((5, 2), torch.nan)], [torch.zeros(5, 2), "text"]):
        told = shown("x", Odd(), odd, ["", ""][: len(odd)])
        assert isinstance(told, Paragraphs) and f"{len(odd)} of odd (.npy)" in told.paragraphs[0]


def test_ctrl_c_ends_it(home: Path) -> None:
    """The port is closed, and whoever waits is not left waiting."""
    studio, urls = Studio(Model.new(Odd()), Path("odd"), "auto", home / "ui-end"), list[str]()

    def announce(url: str) -> None:
        urls.append(url)
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()

    with pytest.raises(KeyboardInterrupt):
        serve(studio, 0, announce)
    port = urlsplit(urls[0]).port or 0
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port).connect()
    taken = Server(studio)
    try:
        with pytest.raises(RequestError, match=r"--port 0 takes any"):
            serve(studio, taken.server_port, announce)
    finally:
        taken.server_close()


def test_its_help_is_quick_and_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    code = (
        "import argparse, sys; from gendiff_recipes.commands import Ui; parser = argparse.ArgumentParser()\n"
        "Ui().arguments(parser, []); parser.format_help()\n"
        "print(sorted({'torch', 'jinja2', 'http'} & set(sys.modules)))"
    )
    paths = os.pathsep.join(str(root / name) for name in (".", "domains", "recipes"))
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[]"
    monkeypatch.setattr(commands, "find_spec", lambda name: None if name == "jinja2" else name)
    with pytest.raises(MissingExtra, match=r'needs the package jinja2.*pip install "gendiff\[ui\]"'):
        commands.Ui().run(None)  # type: ignore[arg-type]
