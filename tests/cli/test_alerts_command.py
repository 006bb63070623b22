"""`orion alerts` and `orion replay alerts`: what is open, what came back, what would have gone out."""

from __future__ import annotations

import gzip
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from orion_streams.agents import alert_file
from orion_streams.agents.alert_file import Outbox, SenderState
from orion_streams.cli.doctor.alert_findings import alerts
from orion_streams.cli.doctor.findings import Facts
from orion_streams.cli.local_grid import choose
from orion_streams.config import Config, parse
from orion_streams.errors import ConfigError
from orion_streams.model.alert_rules import AlertRule, AlertTarget
from orion_streams.projections.alerts import Alert
from tests.agents.alert_stage import change
from tests.cli.conftest import Orion

SECRET = "s3cr3t-topic"
GOLDEN = Path(__file__).parents[1] / "golden"
HOT = str(GOLDEN / "thermal-runaway.jsonl.gz")
PHONE = f"""
[nodes.pi]
[alerts_to.phone]
command = ["/bin/true", "{SECRET}"]
"""


def written(home: Path, text: str) -> None:
    """./streams.toml."""
    (home / "streams.toml").write_text(text)


def test_what_is_open_is_listed(orion: Orion, home: Path) -> None:
    """The oldest first, with what it says and who is still to be told; nobody sends just now."""
    written(home, PHONE)
    path = home / "orion-streams" / "alerts.json"
    path.parent.mkdir()
    state = SenderState("orion:", 7, outboxes={"phone": Outbox([change()])})
    state.folded.book.open["hot/n"] = change().alert
    state.live.open["no-router/"] = Alert("no-router", "no_router", "critical", 500, 3, value=90_000)
    alert_file.write(path, state)
    code, out, err = orion("alerts", "list")
    assert code == 0
    lines = out.splitlines()
    assert "no router has looked at its inputs for 90 s (seen live)" in lines[1]
    assert "n is hot: 80.0 °C, back at 70.0 °C" in lines[2]
    assert "phone is still to be told: 1" in err
    assert "no process sends just now" in err
    with alert_file.held(path):
        code, out, err = orion("alerts", "list", "--json")
    assert (code, err) == (0, "")
    found = msgspec.json.decode(out)
    assert (found["sending"], found["position"], found["waiting"]) == (True, 7, {"phone": 1})
    assert [row["rule"] for row in found["open"]] == ["no-router", "hot"]


def test_without_a_sender_there_is_nothing_to_list(orion: Orion, home: Path) -> None:
    """Exit 69, and the line that starts one."""
    written(home, PHONE)
    code, out, err = orion("alerts", "list")
    assert (code, out) == (69, "")
    assert err.endswith("orion alerts run\n")


@pytest.mark.parametrize("words", [("run", "--redis", "redis://127.0.0.1:1/0"), ("test",)])
def test_without_a_target_nobody_is_told(orion: Orion, home: Path, words: tuple[str, ...]) -> None:
    """Exit 78, and what to add."""
    written(home, "[nodes.pi]")
    code, _, err = orion("alerts", *words)
    assert code == 78
    assert err.startswith("orion: alerts_to: nobody is told: add [alerts_to.NAME]")


def test_a_test_says_what_came_back(orion: Orion, home: Path) -> None:
    """A line for each target, none with what may be a secret; exit 69 if one was not told."""
    written(home, PHONE)
    code, out, err = orion("alerts", "test")
    assert (code, err) == (0, "")
    assert out.startswith("phone: the command ended well (")
    written(home, f'{PHONE}[alerts_to.other]\ncommand = ["/bin/false"]\n')
    code, out, err = orion("alerts", "test", "--json")
    assert (code, err) == (69, "")
    assert SECRET not in out
    rows = msgspec.json.decode(out)
    assert [(row["target"], row["ok"], row["answer"]) for row in rows] == [
        ("other", False, "the command ended with exit code 1"),
        ("phone", True, "the command ended well"),
    ]


SECRETS = {
    "none": ("", "expected webhook, webhook_file or command, or ORION_ALERT_WEBHOOK_MY_PHONE"),
    "no file": ('webhook_file = "nowhere"', "nowhere: cannot be read"),
    "an open file": ('webhook_file = "open"', "alerts_to.my-phone.webhook_file: others can read open"),
    "two lines": (
        'webhook_file = "two"',
        "alerts_to.my-phone.webhook_file: expected one line in two, the URL",
    ),
    "no URL": ('webhook_file = "bad"', "alerts_to.my-phone: its webhook: expected a URL"),
    "no topic": (
        'webhook_file = "good"\nform = "ntfy"',
        "alerts_to.my-phone: its webhook: expected the server",
    ),
    "an odd token": (
        'webhook = "http://h/x"\ntoken_file = "odd"',
        "alerts_to.my-phone: its token: expected plain",
    ),
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_cannot_be_used_is_refused(orion: Orion, home: Path, name: str) -> None:
    """Exit 78 in one line that does not repeat it."""
    files = {"open": "http://h/x", "two": "a\nb", "bad": f"http//{SECRET}", "good": f"http://h/a/{SECRET}"}
    for file, text in {**files, "odd": f"{SECRET} x\x07"}.items():
        (home / file).write_text(text)
        (home / file).chmod(0o644 if file == "open" else 0o600)
    toml, says = SECRETS[name]
    written(home, f"[nodes.pi]\n[alerts_to.my-phone]\n{toml}\n")
    code, out, err = orion("alerts", "test")
    assert (code, out) == (78, "")
    assert says in err
    assert err.count("\n") == 1
    assert SECRET not in err


def test_check_repeats_no_webhook(orion: Orion, home: Path) -> None:
    """However it is written."""
    written(home, f'[nodes.pi]\n[alerts_to.phone]\nwebhook = "htp://h/{SECRET}"\n')
    for words in (("check",), ("check", "--json")):
        code, out, err = orion(*words)
        assert code == 78
        assert "alerts_to.phone.webhook = …: expected a URL" in out + err
        assert SECRET not in out + err


def replayed(orion: Orion, *words: str) -> dict[str, Any]:
    """The data of `orion replay alerts --json`."""
    code, out, err = orion("replay", "alerts", *words, "--json")
    assert code == 0, err
    found: dict[str, Any] = msgspec.json.decode(out)
    return found


def test_a_log_says_what_would_have_gone_out(orion: Orion, home: Path) -> None:
    """And when it began, when it ended and how long it lasted; what is seen live only is not judged."""
    found = replayed(orion, HOT, "--set", "alerts.hot.for_ms=0")
    assert (found["first"], found["not_judged"]) == (1, ["no-router", "archive-behind", "unread-client"])
    [row] = [row for row in found["alerts"] if row["rule"] == "hot"]
    assert row["about"] == "orion-worker"
    assert row["ended_ms"] - row["began_ms"] == row["lasted_ms"] == 10_000
    assert 0 < row["position"] < row["ended_position"] <= found["last"]
    code, out, err = orion("replay", "alerts", HOT, "--set", "alerts.hot.for_ms=0")
    assert code == 0
    assert "for 10 s" in out
    assert "orion-worker is hot: 78.0 °C, back at 70.0 °C" in out
    assert "not judged, as they are seen live only: no-router, archive-behind, unread-client" in err


def test_nothing_is_a_sentence(orion: Orion, home: Path) -> None:
    """By rules that hold for longer than the log lasts."""
    written(home, '[nodes.pi]\n[[alerts]]\nname = "x"\nkind = "full"\n')
    code, out, err = orion("replay", "alerts", HOT)
    assert (code, err) == (0, "")
    assert out.startswith("nobody would have been told anything from position 1 to ")


def test_settings_change_rules_of_alerts_and_of_the_log(orion: Orion, home: Path) -> None:
    """A lower mark is passed sooner; the end is at the mark that goes along with it."""
    usual = replayed(orion, HOT, "--set", "alerts.hot.for_ms=0")["alerts"][0]
    lower = replayed(orion, HOT, "--set", "alerts.hot.for_ms=0", "--set", "policy.temp_max_mc=60000")
    [row] = [row for row in lower["alerts"] if row["rule"] == "hot"]
    assert row["began_ms"] < usual["began_ms"]
    assert row["says"].endswith("back at 55.0 °C")
    both = replayed(
        orion, HOT, "--set", 'alerts.hot.nodes=["orion-master"]', "--set", "alerts.hot.for_ms=0"
    )
    assert [row["rule"] for row in both["alerts"]] == []


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("alerts.hott.for_ms=0", "no rule is called hott; did you mean hot?"),
        ("alerts.hot.for_m=0", "alerts[0].for_m: no such key; did you mean for_ms?"),
        ("alerts.hot.for_ms=-1", "alerts[0].for_ms = -1: expected a whole number of at least 0"),
        ("alerts.hot.over=3", 'alerts[0].over: no rule of kind "hot" reads it'),
        ("alerts.hot=3", "expected alerts.NAME.KEY=VALUE"),
        ('alerts.hot.name="x"', "a rule keeps its name"),
        ("policy.temp_mx_mc=1", "did you mean temp_max_mc?"),
        ("nodes.nobody.slots=2", "the log has no node nobody"),
        ("alerts", "expected KEY=VALUE"),
    ],
)
def test_a_setting_that_is_not_valid_is_refused(orion: Orion, home: Path, setting: str, says: str) -> None:
    """Exit 78, with what was expected."""
    code, out, err = orion("replay", "alerts", HOT, "--set", setting)
    assert (code, out) == (78, "")
    assert says in err
    assert err.count("\n") == 1


def test_whose_rules_count(orion: Orion, home: Path) -> None:
    """Those of --config, else those that an exported file holds, else those of streams.toml."""
    mine = '[nodes.pi]\n[[alerts]]\nname = "{}"\nkind = "hot"\nfor_ms = 0\n'
    written(home, mine.format("mine"))
    (home / "other.toml").write_text(mine.format("other"))
    assert [row["rule"] for row in replayed(orion, HOT)["alerts"]] == ["mine"]
    assert [row["rule"] for row in replayed(orion, HOT, "--config", "other.toml")["alerts"]] == ["other"]
    exported = home / "exported.jsonl"
    first, _, rest = gzip.decompress(Path(HOT).read_bytes()).partition(b"\n")
    header = msgspec.json.decode(first)
    header["config"] = msgspec.to_builtins(parse(mine.format("own")))
    exported.write_bytes(msgspec.json.encode(header) + b"\n" + rest)
    assert [row["rule"] for row in replayed(orion, str(exported))["alerts"]] == ["own"]
    with_config = replayed(orion, str(exported), "--config", "other.toml")
    assert [row["rule"] for row in with_config["alerts"]] == ["other"]


def test_a_live_log_is_replayed(orion: Orion, grid_toml: Path) -> None:
    """By the rules of its streams.toml."""
    text = grid_toml.read_text()
    grid_toml.write_text(f'{text}\n[[alerts]]\nname = "waits"\nkind = "queue"\nover = 0\nfor_ms = 0\n')
    found = replayed(orion)
    assert found["last"] > found["first"] == 1
    assert found["not_judged"] == []


def test_up_starts_the_sender_where_the_router_runs() -> None:
    """If anybody is to be told; on other machines and in other roles only if it is asked for."""
    told = {"phone": AlertTarget(webhook="http://h/x")}
    house = parse('[redis]\nurl = "redis://h"\n[nodes.a]\nrouter = true\n[nodes.b]\n')
    assert choose(house, None, "a") == ["router", "gateway", "agent:a"]
    assert choose(replace(house, alerts_to=told), None, "a") == ["router", "gateway", "alerts", "agent:a"]
    assert choose(replace(house, alerts_to=told), None, "b") == ["agent:b"]
    assert choose(replace(house, alerts_to=told, alerts=()), None, "a") == ["router", "gateway", "agent:a"]
    assert choose(house, "alerts", "b") == ["alerts"]
    with pytest.raises(ConfigError, match="expected router, gateway, alerts or agent:NODE, got 'alert'"):
        choose(house, "alert", "b")


def test_doctor_says_that_nobody_is_told() -> None:
    """Rules of one's own without a target, or a sender that does not run where it should."""
    own = Config(alerts=(AlertRule("x", "hot"),))
    told = replace(own, alerts_to={"phone": AlertTarget(webhook=f"http://h/{SECRET}")})

    def said(config: Config, runs: bool | None = None) -> list[str]:
        facts = Facts(config, "redis://h", sender_runs=runs)
        return [f"{each.severity} {each.what}" for each in alerts(facts)]

    assert said(Config()) == said(replace(own, alerts=())) == said(told) == said(told, True) == []
    assert said(own) == ["warning streams.toml has [[alerts]], and nobody is told"]
    assert said(told, False) == ["warning nobody is told: the process that sends does not run"]


def test_the_lock_and_the_folder_are_private(home: Path) -> None:
    """Nobody else reads what is noted, or holds the lock."""
    path = alert_file.path_of(Config())
    assert path == home / "orion-streams" / "alerts.json"
    with alert_file.held(path):
        modes = [
            stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path.parent / "alerts.json.lock")
        ]
    assert modes == [0o700, 0o600]
    assert alert_file.path_of(Config(alerts_file="~/x.json")) == Path("~/x.json").expanduser()
