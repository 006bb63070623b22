"""Values of streams.toml, each judged in its own grammar: what is wrong, in one line. Pure.

A complaint names the key, the value as it was written, what was expected, and an example.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address
from math import isfinite
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta, Struct, structs

from orion_streams.model import server_urls

Grammar = Callable[[Any], str]
"""Returns what was expected instead of a value of the right type; "" for a good one."""
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text in quotes",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
}
BOUNDS = {">=": "at least", "<=": "at most"}


def complaints(
    tree: Mapping[str, Any], kind: type[Struct], grammar: Mapping[str, Grammar], where: str = ""
) -> Iterator[str]:
    """Yield what is wrong with a table that should be such a struct; `grammar`: by a key's last word."""
    fields = {field.name: field for field in structs.fields(kind)}
    for name in [name for name, field in fields.items() if field.required and name not in tree]:
        example = next((each for meta in metas(fields[name].type) for each in meta.examples or ()), "")
        yield f"{where}{name}: is missing: expected e.g. {name} = {shown(example)}"
    for name, value in tree.items():
        field = fields.get(name)
        if field is None:
            near = get_close_matches(name, fields, 1)
            if where.startswith("models.") and isinstance(value, dict):
                yield f"{where}{name}: no such table; {QUOTED}"
                continue
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(fields))}"
            yield f"{where}{name}: no such key; {known}"
        else:
            yield from of_value(f"{where}{name}", value, field.type, grammar, field.default)


QUOTED = 'a model\'s name stands in quotes, as [models."llama3.2:3b"]'


def of_toml(text: str) -> str:
    """Return a hint for a text that is no TOML, after a semicolon; "" for none."""
    return f"; {QUOTED}" if re.search(r"^\s*\[\s*models\.[\w-]*[.:/@]", text, re.MULTILINE) else ""


def of_value(
    key: str, value: Any, kind: Any, grammar: Mapping[str, Grammar], default: Any = None
) -> Iterator[str]:
    """Yield what is wrong with one value: a table, a table of tables, or a single one."""
    is_table = is_struct(kind)
    if get_origin(kind) is tuple and is_struct(get_args(kind)[0]):
        yield from of_tables(key, value, get_args(kind)[0], grammar)
    elif not is_table and get_origin(kind) is not dict:
        yield from of_single(key, value, kind, grammar, default)
    elif not isinstance(value, dict):
        yield f"{key} = {shown_at(key, value)}: expected a table, as [{key}]"
    elif is_table:
        yield from complaints(value, kind, grammar, f"{key}.")
    else:
        name_kind, row_kind = get_args(kind)
        of_rows = grammar if is_struct(row_kind) else {}
        for name, row in value.items():
            yield from of_single(f"{key}.{name}", name, name_kind, {}, None)
            yield from of_value(f"{key}.{name}", row, row_kind, of_rows)


def is_struct(kind: Any) -> bool:
    """Whether a type stands for a table."""
    return isinstance(kind, type) and issubclass(kind, Struct)


def of_tables(key: str, value: Any, kind: type[Struct], grammar: Mapping[str, Grammar]) -> Iterator[str]:
    """Yield what is wrong with a list of tables."""
    if not isinstance(value, list | tuple) or not all(isinstance(row, dict) for row in value):
        yield f"{key} = {shown(value)}: expected tables, each as [[{key}]]"
        return
    for index, row in enumerate(value):
        yield from complaints(row, kind, grammar, f"{key}[{index}].")


def of_single(
    key: str, value: Any, kind: Any, grammar: Mapping[str, Grammar], default: Any
) -> Iterator[str]:
    """Yield what is wrong with a value that is no table."""
    name = key.rpartition(".")[2]
    try:
        found = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        example = next((each for meta in metas(kind) for each in meta.examples or ()), default)
        is_empty = example in (None, "", (), msgspec.NODEFAULT)
        hint = "" if is_empty else f", e.g. {name} = {shown(example)}"
        yield f"{key}{place.strip('`$')} = {shown_at(key, value)}: expected {expected(kind, what)}{hint}"
        return
    if what := grammar.get(name, lambda _: "")(found):
        yield f"{key} = {shown_at(key, value)}: expected {what}"


def expected(kind: Any, what: str) -> str:
    """Return in plain words what msgspec expected."""
    plain = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(plain) is Literal:
        return " or ".join(shown(each) for each in get_args(plain))
    found = re.match(r"Expected `([\w |]+)`(?: (>=|<=) (\S+))?", what)
    described = next((meta.description for meta in metas(kind) if meta.description), None)
    if found is None or "regex" in what:
        return described or what
    words = " or ".join(TYPES.get(each, each) for each in found[1].split(" | "))
    return words + (f" of {BOUNDS[found[2]]} {found[3].rstrip(',')}" if found[2] else "")


def metas(kind: Any) -> Iterator[Meta]:
    """Yield what is noted at a type and at the types within."""
    for each in getattr(kind, "__metadata__", ()):
        if isinstance(each, Meta):
            yield each
    for inner in get_args(kind):
        yield from metas(inner)


SECRET = re.compile(r"alerts_to(\.[^.]*(\.(webhook|command))?)?")
"""Keys whose value may be a secret: who knows a webhook may call it."""


def shown_at(key: str, value: Any) -> str:
    """Return the value of a key as `shown`, without one that may be a secret."""
    return "…" if SECRET.fullmatch(key) else shown(value)


def shown(value: Any) -> str:
    """Return a value as TOML has it, cut, and without what may be a URL's password."""
    value = masked(value) if isinstance(value, str) else value
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return msgspec.json.encode(value, enc_hook=str).decode()[:60]


def on_one_line(text: str) -> str:
    """Return a text with escapes for whatever would break the line, or the terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def masked(text: str) -> str:
    """Return a URL without user, password and query, however badly it is written."""
    scheme, mark, rest = text.partition("://") if "://" in text else ("", "", text)
    if "@" in rest.partition("?")[2]:
        return f"{scheme}{mark}…"
    rest, asks, _ = rest.partition("?")
    _, at, place = rest.rpartition("@")
    return scheme + mark + ("…@" if at else "") + place + ("?…" if asks else "")


UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9}
UNITS_NS["h"] = 60 * UNITS_NS["m"]
PART = r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)"
KEEP_ALIVE = 'a duration as Ollama takes it, e.g. "30m", "1h30m", 600 (seconds), or -1 (for ever)'


def keep_alive(value: str | float) -> str:
    """Judge how long a model stays: seconds, or a text in the grammar of Go's time.ParseDuration."""
    if isinstance(value, bool):
        return KEEP_ALIVE
    if not isinstance(value, str):
        return "" if abs(value) < 2**33 else KEEP_ALIVE
    if duration_ms(value) is not None:
        return ""
    seconds = " (a number of seconds stands without quotes)" if re.fullmatch("-?[0-9]+", value) else ""
    return KEEP_ALIVE + seconds


def duration_ms(text: str) -> int | None:
    """Return a duration as Go writes it, such as "1h30m", in whole ms; None if it is none."""
    total_ns = duration_ns(text)
    return None if total_ns is None else total_ns // 10**6


def duration_ns(text: str) -> int | None:
    """Return a duration as Go writes it in ns; None if it is none."""
    if text in ("0", "+0", "-0"):
        return 0
    if not re.fullmatch(f"[-+]?(?:{PART})+", text):
        return None
    total_ns = sum(float(number) * UNITS_NS[unit] for number, unit in re.findall(PART, text))
    if total_ns >= 2**63:
        return None
    return round(-total_ns if text.startswith("-") else total_ns)


URL = 'a URL, e.g. "http://127.0.0.1:11434" or "http://[::1]:11434"'


def ollama_url(url: str) -> str:
    """Judge the URL of an Ollama; "" is none."""
    if not url or url.startswith("echo://"):
        return ""
    if not re.match(r"https?://", url):
        return f"{URL}; http:// is missing" if "://" not in url else URL
    place = url.partition("://")[2].partition("/")[0]
    if "@" in place:
        return f"{URL}; a user and a password stand in no URL of an Ollama"
    if re.search(r"/(api|v1)/*$", url):
        return f"{URL}; it ends before /api"
    is_plain = bool(re.fullmatch(r"[!-~]+", url)) and not re.search(r"[?#@\\]", url)
    fault = place_fault(place)
    return f"{URL}{fault}".rstrip(";") if fault or not is_plain else ""


REDIS_URL = 'a URL, e.g. "redis://orion-master:6379/0", "rediss://…" over TLS, "unix:///run/redis.sock"'
SENTINEL_URL = 'a URL, e.g. "redis+sentinel://HOST:26379,HOST:26379/SERVICE"'


def redis_url(url: str) -> str:
    """Judge the URL of a Redis; "" is the embedded server."""
    scheme, _, rest = server_urls.shown(url).partition("://")
    query = rest.partition("?")[2]
    if not url or (scheme == "unix" and rest.startswith("/")):
        return query_fault(REDIS_URL, query, QUERY)
    if scheme in server_urls.BY_SENTINELS:
        try:
            found = server_urls.sentinels(url)
        except ValueError:
            return SENTINEL_URL
        is_bad = any(host_fault(host) or port == 0 for host, port in found.hosts)
        return SENTINEL_URL if is_bad else query_fault(SENTINEL_URL, query, query_of(scheme))
    if scheme not in ("redis", "rediss"):
        return REDIS_URL + ("; redis:// is missing" if "://" not in url else "")
    place, _, path = rest.partition("?")[0].rpartition("@")[2].partition("/")
    if fault := place_fault(place):
        return f"{REDIS_URL}{fault}".rstrip(";")
    if not re.fullmatch("[0-9]{0,5}", path):
        return f"{REDIS_URL}; after the host stands the number of a database"
    return query_fault(REDIS_URL, query, query_of(scheme))


YES_OR_NO = "(?i:true|false|yes|no|1|0)"
QUERY = {
    "client_name|username|password": ".+",
    "db|max_connections|health_check_interval": "[0-9]{1,5}",
    r"socket(_connect)?_timeout": r"([2-9]|[0-9]{2,5})(\.[0-9]+)?",  # no read waits for 2 s
    "protocol": "2",
    "retry_on_timeout": "(?i:false|no|0)",  # a write whose answer was lost may have happened
}
"""What may stand behind the `?` of a server's URL: names and their values."""
QUERY_TCP = {"socket_keepalive": YES_OR_NO}
QUERY_TLS = {
    "ssl_(ca_certs|certfile|keyfile|ca_path|password|ciphers)": ".+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": YES_OR_NO,
    "ssl_min_version": "[0-9]{1,5}",
}


def query_of(scheme: str) -> Mapping[str, str]:
    """Return what may stand behind the `?` of a URL that names hosts."""
    return {**QUERY, **QUERY_TCP, **(QUERY_TLS if scheme in server_urls.TLS else {})}


def query_fault(what: str, query: str, known: Mapping[str, str]) -> str:
    """Return what was expected instead of a URL with such a query; "" for a good one."""
    for name, value in parse_qsl(query, keep_blank_values=True):
        kinds = (kind for names, kind in known.items() if re.fullmatch(names, name))
        if not re.fullmatch(next(kinds, "(?!)"), value):
            return f"{what}; {shown(name)} is no option of it, or has another value"
    return ""


def place_fault(place: str) -> str:
    """Return what is wrong with `HOST[:PORT]`, after a semicolon; "" for a good one."""
    if place.count(":") > 1 and not re.search(r"\[.*\]", place):
        return "; an IPv6 address stands in brackets"
    try:
        parts = urlsplit(f"//{place}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        port, host = 0, ""
    if port == 0:
        return "; a port is a number from 1 to 65535"
    is_place = re.fullmatch(r"(\[[^][]+\]|[A-Za-z0-9_.-]+)(:[0-9]+)?", place)
    return host_fault(host) if is_place else ";"


def host_fault(host: str) -> str:
    """Return ";" for what is neither an address nor the name of a host."""
    if ":" in host:
        return "" if is_ipv6(host) else ";"
    if re.fullmatch(r"[0-9.]+", host):
        return "" if is_ipv4(host) else ";"
    is_name = re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", host) and len(host) <= 253
    return "" if is_name and is_idna(host) else ";"


def is_idna(host: str) -> bool:
    """Whether the letters behind each `xn--` of a host's name are some."""
    try:
        return bool(host.encode().decode("idna"))
    except UnicodeError:
        return False


def is_ipv4(host: str) -> bool:
    """Whether it is an IPv4 address."""
    try:
        return bool(IPv4Address(host))
    except ValueError:
        return False


def is_ipv6(host: str) -> bool:
    """Whether it is an IPv6 address, maybe with a zone."""
    try:
        return bool(IPv6Address(host))
    except ValueError:
        return False


LOWEST_MC, HIGHEST_MC = 20_000, 120_000


def mark_mc(value: int) -> str:
    """Judge a mark in thousandths of a degree Celsius."""
    if LOWEST_MC <= value <= HIGHEST_MC:
        return ""
    what = f"thousandths of a degree, {LOWEST_MC} to {HIGHEST_MC}"
    meant = [value * unit for unit in (1000, 100, 10) if LOWEST_MC <= value * unit <= HIGHEST_MC]
    return f"{what}; {value} is {value / 1000:g} °C: did you mean {meant[0]}?" if meant else what


def mark_permille(value: int) -> str:
    """Judge a mark in thousandths of all memory."""
    if value >= 200:
        return ""
    meant = f": did you mean {value * 10}?" if 20 <= value <= 100 else ""
    return f"thousandths of all memory, 200 to 1000; {value} is {value / 10:g} %{meant}"
