"""A webhook is told once, at the address that was checked, within its limits; nobody hears of its URL."""

from __future__ import annotations

import asyncio
import socket
import ssl
import traceback
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from orion_streams.agents import alert_webhook
from orion_streams.agents.alert_targets import Target
from orion_streams.agents.alert_webhook import MAX_ANSWER_BYTES, PUBLIC, is_of_house, post
from orion_streams.errors import TellError
from orion_streams.model.alert_rules import AlertTarget, Form
from orion_streams.protocol.alert_messages import Message, Outgoing, message_of, trial
from orion_streams.runtime.embedded_server import free_port
from tests import certificates
from tests.agents.alert_stage import change, hook

SECRET = "s3cr3t-part"
TOKEN = "t0k3n-of-mine"
TRIAL = trial("orion:", "phone")


def outgoing(url: str) -> Outgoing:
    """A message to a URL that holds a secret, with a token."""
    return Outgoing(f"{url}/{SECRET}", {"Authorization": f"Bearer {TOKEN}"}, b"{}")


async def fault(url: str, timeout_s: float = 60.0, *, allow_public: bool = False) -> str:
    """Why a webhook could not be told; in all that can be printed of it there is no secret."""
    with pytest.raises(TellError) as caught:
        await post(outgoing(url), timeout_s, allow_public=allow_public)
    printed = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in printed
    assert TOKEN not in printed
    return str(caught.value)


@pytest.mark.parametrize("status", [200, 201, 204])
async def test_what_is_answered_well_is_told(status: int) -> None:
    """Any 2xx."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status)

    async with hook(answer) as seen:
        assert await post(outgoing(seen.url), 60.0, allow_public=False) == f"it answered {status}"
    assert [each.path for each in seen.got] == [f"/{SECRET}"]


@pytest.mark.parametrize("status", [400, 401, 404, 500, 503])
async def test_what_is_not_is_said(status: int) -> None:
    """With the status alone: an answer may repeat what it was sent."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=f"no {request.path} {request.headers['Authorization']}")

    async with hook(answer) as seen:
        assert await fault(seen.url) == f"it answered {status}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(status: int) -> None:
    """Not even to a place of this house: it gets nothing."""
    async with hook() as elsewhere:

        async def answer(_: web.Request) -> web.Response:
            return web.Response(status=status, headers={"Location": elsewhere.url})

        async with hook(answer) as seen:
            assert await fault(seen.url) == f"it answered {status}, a redirect, which is not followed"
        assert len(seen.got) == 1
    assert elsewhere.got == []


async def test_no_proxy_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment names."""
    async with hook() as proxy, hook() as seen:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        await post(outgoing(seen.url), 60.0, allow_public=False)
    assert (len(seen.got), proxy.got) == (1, [])


async def test_one_that_never_answers_is_given_up() -> None:
    """Whether it sends nothing at all, or header by header and byte by byte."""
    never = asyncio.Event()

    async def silent(_: web.Request) -> web.Response:
        await never.wait()
        return web.Response()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b"x")
        await never.wait()
        return response

    for answer in (silent, slow):
        async with hook(answer) as seen:
            assert await fault(seen.url, 0.2) == "no answer within 0.2 s"
            never.set()
        never.clear()


async def test_a_huge_answer_is_not_read_to_its_end() -> None:
    """It counts all the same: the connection is closed after a bounded part."""
    sent, over = 0, asyncio.Event()

    async def flood(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536
        except (ConnectionError, asyncio.CancelledError):
            over.set()
            raise

    async with hook(flood) as seen:
        assert await post(outgoing(seen.url), 60.0, allow_public=False) == "it answered 200"
        await over.wait()
    assert MAX_ANSWER_BYTES <= sent < 64_000_000


async def test_a_packed_answer_is_not_unpacked() -> None:
    """A body that claims to be compressed, and is not, is read as it is."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=b"no gzip at all", headers={"Content-Encoding": "gzip"})

    async with hook(answer) as seen:
        assert await post(outgoing(seen.url), 60.0, allow_public=False) == "it answered 200"


async def test_what_is_no_http_is_said() -> None:
    """Something else may listen there, or hang up."""

    async def rude(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.6\r\n" + SECRET.encode() + b"\r\n")
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert "no HTTP, or it hung up" in await fault(f"http://127.0.0.1:{port}")
        assert "TLS failed" in await fault(f"https://127.0.0.1:{port}")


async def test_where_nobody_listens_it_is_said() -> None:
    """In words of our own."""
    assert await fault(f"http://127.0.0.1:{free_port()}") == "nobody listens there"


@pytest.mark.everything
async def test_a_certificate_is_verified(tmp_path: Path) -> None:
    """One that the system does not trust is not trusted."""
    folder = certificates.make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    async with hook(ssl_context=context) as seen:
        assert "its certificate is not trusted" in await fault(f"https://127.0.0.1:{seen.port}")
    assert seen.got == []


LOCAL = (
    "127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.20", "169.254.7.7",
    "::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0", "::ffff:192.168.1.1",
)  # fmt: skip
FOREIGN = (
    "8.8.8.8", "172.15.0.1", "172.32.0.1", "192.169.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "203.0.113.9", "2001:db8::1", "2606:4700::1111", "::", "::ffff:8.8.8.8", "ff02::1",
    "64:ff9b::7f00:1", "2002:7f00:1::",
)  # fmt: skip


@pytest.mark.parametrize(
    ("address", "local"), [*((a, True) for a in LOCAL), *((a, False) for a in FOREIGN)]
)
def test_which_addresses_are_of_this_house(address: str, local: bool) -> None:
    """Loopback, private, link-local, of both kinds, however written; nothing else."""
    assert is_of_house(address) is local


class Names:
    """A name server that gives one answer after the other, and counts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> None:
        self.asked: list[str] = []
        self._answers = list(answers)
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self.getaddrinfo)

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[Any]:
        """The next answer; the last one again and again."""
        self.asked.append(host)
        addresses = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]


async def test_it_connects_to_the_address_that_it_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time is not asked a second time."""
    async with hook() as seen:
        names = Names(monkeypatch, ["127.0.0.1"], ["203.0.113.9"])
        answer = await post(outgoing(f"http://house.lan:{seen.port}"), 60.0, allow_public=False)
    assert answer == "it answered 200"
    assert names.asked == ["house.lan"]
    assert seen.got[0].headers["Host"] == f"house.lan:{seen.port}"


@pytest.mark.parametrize("answer", [["203.0.113.9"], ["127.0.0.1", "203.0.113.9"], ["::ffff:8.8.8.8"]])
async def test_a_name_of_another_house_gets_nothing(
    monkeypatch: pytest.MonkeyPatch, answer: list[str]
) -> None:
    """Not even if one of its addresses is here."""
    async with hook() as seen:
        names = Names(monkeypatch, answer, ["127.0.0.1"])
        assert await fault(f"http://elsewhere.example:{seen.port}") == PUBLIC
    assert (seen.got, len(names.asked)) == ([], 1)


async def test_another_house_gets_it_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With allow_public, and only then; here this machine counts as another house."""
    monkeypatch.setattr(alert_webhook, "HOUSE", ())
    async with hook() as seen:
        assert await fault(seen.url) == PUBLIC
        assert await post(outgoing(seen.url), 60.0, allow_public=True) == "it answered 200"
    assert len(seen.got) == 1


async def test_an_unknown_name_is_said_without_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`.invalid` is known to nobody."""

    async def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, SECRET)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    assert await fault("http://nobody.invalid") == "its name is not known"


BOTH = message_of(
    7, "orion:", [change(), change("queue", "", kind="queue", value=30, limit=20, ended=True)]
)


async def told(form: Form, path: str, message: Message, token: str = "") -> Any:
    """The request that a webhook of this form gets."""
    async with hook() as seen:
        target = Target("phone", AlertTarget(form=form), f"{seen.url}{path}", token)
        assert SECRET not in repr(target)
        await target.tell(message)
    [got] = seen.got
    assert got.headers["Content-Type"] == "application/json"
    return got


async def test_a_plain_webhook_gets_all_of_it() -> None:
    """The message as JSON, with what begins and what is over."""
    got = await told("json", "/any?x=1", BOTH, TOKEN)
    assert (got.path, got.headers["Authorization"]) == ("/any?x=1", f"Bearer {TOKEN}")
    assert got.body["id"] == 7
    assert (got.body["status"], got.body["severity"]) == ("begun", "warning")
    assert got.body["begun"] == [
        {
            "rule": "hot", "kind": "hot", "severity": "warning", "about": "n", "began_ms": 1_000,
            "says": "n is hot: 80.0 °C, back at 70.0 °C",
        }
    ]  # fmt: skip
    [row] = got.body["ended"]
    assert (row["says"], row["ended_ms"], row["lasted_ms"]) == (
        "30 requests wait, more than 20",
        91_000,
        90_000,
    )


async def test_ntfy_gets_its_json() -> None:
    """At the server's root, with the topic in the body: title, priority and tags need no header."""
    got = await told("ntfy", "/house", BOTH, TOKEN)
    assert (got.path, got.headers["Authorization"]) == ("/", f"Bearer {TOKEN}")
    assert got.body == {
        "topic": "house",
        "title": "orion: 1 begun, 1 over",
        "message": "n is hot: 80.0 °C, back at 70.0 °C\nover 90 s later: 30 requests wait, more than 20",
        "priority": 4,
        "tags": ["warning"],
    }
    assert (await told("ntfy", "/house", message_of(1, "o:", [change(ended=True)]))).body["priority"] == 3
    assert "Authorization" not in (await told("ntfy", "/house", TRIAL)).headers


@pytest.mark.parametrize("path", ["", "/", "/message"])
async def test_gotify_gets_its_message(path: str) -> None:
    """At /message, with its key in the header that it documents."""
    critical = message_of(1, "o:", [change("silent", kind="silent", severity="critical", value=65_000)])
    got = await told("gotify", path, critical, TOKEN)
    assert (got.path, got.headers["X-Gotify-Key"]) == ("/message", TOKEN)
    assert "Authorization" not in got.headers
    assert got.body == {
        "title": "orion: n silent",
        "message": "n has not been heard from for 65 s",
        "priority": 8,
    }


async def test_home_assistant_gets_what_a_template_reads() -> None:
    """At its webhook: title, message, status, severity and what it is about."""
    got = await told("home_assistant", f"/api/webhook/{SECRET}", BOTH)
    assert got.path == f"/api/webhook/{SECRET}"
    assert (got.body["status"], got.body["severity"], got.body["about"]) == ("begun", "warning", ["n"])
    assert got.body["message"].startswith("n is hot")
