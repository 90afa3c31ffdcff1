"""What a value of the right type must still satisfy, field by field.

A rule takes a value and says what is wrong with it, or None. Rules for one class's field also hold for its subclasses, and a
few go by the field's name in any class, a plugin's too: `…_s` is a duration, `…_url` an address, `…_file` a file,
`…_key` and `…_token` credentials where they are secrets.
"""

import ipaddress
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from xrouter.config.settings import (
    Admin,
    Ledger,
    ModelSettings,
    Price,
    Probe,
    Rates,
    RouteSettings,
    Server,
    Settings,
    Tier,
    TierQuota,
    Timeouts,
    Tls,
    UpstreamSettings,
)
from xrouter.secret import Secret

Rule = Callable[[Any], str | None]

_LONGEST_S: Final = 366 * 24 * 3600.0
_LIMIT: Final = re.compile(
    r"([0-9]{1,15}) *(?:/| per ) *(?:([0-9]{1,9}) *)?(second|minute|hour|day|month)s?", re.IGNORECASE
)
_VISIBLE: Final = re.compile(r"[\x21-\x7e]+")
_REDIS_SCHEMES: Final = ("redis", "rediss", "redis+cluster", "redis+sentinel")
_REDIS_FORMS: Final = (
    "redis is null or an address that begins with redis://, rediss://, redis+cluster:// or redis+sentinel://"
)
_MOST_CREDITS: Final = 2**63 // 10**9 - 1
_MOST_DAYS: Final = 36_500
_UNITS_OF_PRICE: Final = (1, 1000, 1_000_000)


def value_fault(cls: type[Any], field: str, value: Any) -> str | None:
    """What is wrong with `value` as the field of `cls`, or None."""
    if value is None:
        return None
    for base in cls.__mro__:
        if rule := _RULES.get((base, field)):
            return rule(value)
    rule = next((rule for suffix, rule in _BY_SUFFIX.items() if field.endswith(suffix)), None)
    items = value if isinstance(value, tuple) else (value,)
    return next((fault for item in items if rule and (fault := rule(item))), None)


def item_fault(cls: type[Any], field: str, item: Any) -> str | None:
    """What is wrong with one item of the list that the field of `cls` holds, or None."""
    rule = _ITEM_RULES.get((cls, field))
    return rule(item) if rule else None


def _between(low: int, high: int) -> Rule:
    return lambda value: None if low <= value <= high else f"expected a number from {low} to {high}"


def _at_least(low: int) -> Rule:
    return lambda value: None if value >= low else f"expected a number of at least {low}"


def _duration(value: Any) -> str | None:
    if isinstance(value, int | float) and not 0 <= value <= _LONGEST_S:
        return "a duration is a number of seconds from 0 to a year"
    return None


def _positive_duration(value: float) -> str | None:
    return _duration(value) if value != 0 else "a duration of more than 0 seconds is needed here"


def _amount(value: Decimal) -> str | None:
    return "a price is not negative" if value < 0 else None


def _credits(value: Decimal) -> str | None:
    if not 0 <= value <= _MOST_CREDITS:
        return f"an amount of credits is from 0 to {_MOST_CREDITS}"
    return None if value == round(value, 9) else "an amount of credits has at most 9 decimals"


def _not_empty(value: Any) -> str | None:
    return None if value else "must not be empty"


def _per(value: int) -> str | None:
    return None if value in _UNITS_OF_PRICE else "`per` is 1, 1000 or 1000000 tokens"


def _date(value: str) -> str | None:
    try:
        written = date.fromisoformat(value).isoformat()
    except ValueError:
        written = ""
    return None if written == value else "expected a date like 2026-02-01"


def _price_changes(changes: tuple[Price, ...]) -> str | None:
    dates = [change.since for change in changes]
    if None in dates:
        return "each change of a price says from when on: since"
    return None if sorted(set(dates), key=str) == dates else "changes of a price stand in the order of their dates"


def _routes(routes: tuple[RouteSettings, ...]) -> str | None:
    if not routes:
        return "a model needs at least one route"
    if any(route.canary and route.shadow for route in routes):
        return "a route is a canary or a shadow, not both"
    if all(route.canary or route.shadow for route in routes):
        return "a model needs at least one route that is neither a canary nor a shadow"
    percent = sum(route.canary for route in routes)
    return None if percent <= 100 else f"the canaries of a model have 100 percent together, not {percent:g}"


def _credential(value: Any) -> str | None:
    """A block of YAML (`api_key: |`) ends in a line break, which no header holds: each request would fail for it."""
    if not isinstance(value, Secret) or not value or _VISIBLE.fullmatch(value.reveal()):
        return None
    return "a credential stands in a header: visible ASCII characters, no space and no line break"


def _host(value: str) -> str | None:
    return None if _VISIBLE.fullmatch(value) else "expected an address or a host's name"


def _network(value: str) -> str | None:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        return "expected an address or a network, such as 10.0.0.0/8, without bits set after its length"
    return None


def limit_fault(value: str) -> str | None:
    """A rate as the `limits` package writes them, of the windows that XRouter counts."""
    match = _LIMIT.fullmatch(value.strip())
    if match is None or int(match[1]) == 0 or (match[2] and int(match[2]) == 0):
        return "a limit is written N/second, N/minute, N/hour, N/day or N/month, such as 20/minute or 5 per 2 hours"
    return None


_STORE_FORMS: Final = "a store is written sqlite:///file or postgresql://user:password@host/database"
_STORE_ESCAPES: Final = f"{_STORE_FORMS}; a password's / ? # and @ are written %2F %3F %23 and %40"


def _split(value: str) -> SplitResult | None:
    """The URL's parts, or None if it is none. Its messages must not repeat it: it may hold a password."""
    if not _VISIBLE.fullmatch(value) or "\\" in value:
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _address(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        return "expected an address that begins with http:// or https://"
    if "@" in parts.netloc:
        return "an address holds no user or password; credentials have keys of their own"
    return "an address has no #fragment" if "#" in value else None


def _base_address(value: str) -> str | None:
    return _address(value) or ("base_url has no ?query" if "?" in value else None)


def _proxy(value: str) -> str | None:
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https", "socks5", "socks5h") or not parts.hostname:
        return "a proxy is written http://host:port, https://host:port or socks5://host:port"
    return None


def _store(value: str) -> str | None:
    parts = _split(value)
    if parts is not None and parts.scheme == "sqlite" and not parts.netloc and len(parts.path) > 1:
        return None
    if value.startswith("postgresql://") and _VISIBLE.fullmatch(value) and "\\" not in value:
        return _postgresql(value)
    return _STORE_FORMS


def _postgresql(value: str) -> str | None:
    """Its address may name several servers, `host:5432,host:5432`, or a socket, `?host=/folder`; libpq's form."""
    try:
        parts = urlsplit(value)
        servers = parts.netloc.rpartition("@")[2].split(",") if "host=" not in parts.query else []
        whole = all(urlsplit(f"//{server}").hostname and urlsplit(f"//{server}").port != 0 for server in servers)
    except ValueError:
        return _STORE_FORMS
    if "@" in parts.path or "@" in parts.fragment:
        return _STORE_ESCAPES  # what comes before it is no host, but the first half of a password
    return None if whole and len(parts.path) > 1 else _STORE_FORMS


def _redis(value: str) -> str | None:
    if value.startswith("redis+sentinel://"):
        return _sentinels(value)
    parts = _split(value)
    if parts is None or parts.scheme not in _REDIS_SCHEMES or not parts.netloc:
        return _REDIS_FORMS
    return _database("" if parts.scheme == "redis+cluster" else parts.path.strip("/"))


def _sentinels(value: str) -> str | None:
    """Several of them, each with a port of its own or not, and the master's name: `redis+sentinel://a:26379,b:26379/name`."""
    if not _VISIBLE.fullmatch(value) or "\\" in value:
        return _REDIS_FORMS
    try:
        parts = urlsplit(value)
        servers = parts.netloc.rpartition("@")[2].split(",")
        whole = all(urlsplit(f"//{server}").hostname and urlsplit(f"//{server}").port != 0 for server in servers)
    except ValueError:
        return _REDIS_FORMS
    name, _, database = parts.path.strip("/").partition("/")
    if not whole:
        return _REDIS_FORMS
    return _database(database) if name else "the master's name follows the sentinels: redis+sentinel://host,host/name"


def _database(text: str) -> str | None:
    return (
        None if not text or (text.isascii() and text.isdecimal()) else "a database of Redis is a number: redis://host/0"
    )


def _file(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    try:
        found = Path(value).is_file()
    except (ValueError, OSError):  # a NUL, a name that is too long
        found = False
    return None if found else "no such file (a relative path starts at the working directory)"


def _authorities(value: str) -> str | None:
    if fault := _file(value):
        return fault
    try:
        ssl.create_default_context(cafile=value)
    except ssl.SSLError:
        return "the file holds no certificates in PEM form"
    except OSError as error:
        return f"the file cannot be read: {error.strerror}"
    return None


_RULES: Final[Mapping[tuple[type[Any], str], Rule]] = {
    (Server, "host"): _host,
    (Server, "port"): _between(0, 65535),
    (Server, "workers"): _between(1, 1024),
    (Server, "header_timeout_s"): _positive_duration,
    (Server, "body_timeout_s"): _positive_duration,
    (Server, "idle_timeout_s"): _positive_duration,
    (Server, "write_timeout_s"): _positive_duration,
    (Server, "queue_s"): _positive_duration,
    (Server, "max_header_bytes"): _between(1024, 1024 * 1024),
    (Server, "max_headers"): _between(1, 10_000),
    (Timeouts, "connect_s"): _positive_duration,
    (Timeouts, "first_byte_s"): _positive_duration,
    (Timeouts, "idle_s"): _positive_duration,
    (Timeouts, "total_s"): _positive_duration,
    (Probe, "interval_s"): _positive_duration,
    (Probe, "timeout_s"): _positive_duration,
    (Probe, "failures"): _at_least(1),
    (UpstreamSettings, "base_url"): _base_address,
    (UpstreamSettings, "concurrency"): _at_least(1),
    (UpstreamSettings, "proxy"): _proxy,
    (RouteSettings, "model"): _not_empty,
    (RouteSettings, "weight"): _between(0, 1_000_000),
    (RouteSettings, "canary"): _between(0, 100),
    (RouteSettings, "shadow"): _between(0, 100),
    (Rates, "input"): _amount,
    (Rates, "output"): _amount,
    (Rates, "cached_input"): _amount,
    (Rates, "reasoning"): _amount,
    (Rates, "image"): _amount,
    (Rates, "request"): _amount,
    (Rates, "per"): _per,
    (Price, "since"): _date,
    (ModelSettings, "price_changes"): _price_changes,
    (ModelSettings, "routes"): _routes,
    (ModelSettings, "context"): _at_least(1),
    (ModelSettings, "max_output"): _at_least(1),
    (ModelSettings, "inputs"): _not_empty,
    (ModelSettings, "created"): _at_least(0),
    (Ledger, "hold_lease_s"): _positive_duration,
    (Ledger, "keep_holds_days"): _between(1, _MOST_DAYS),
    (Ledger, "keep_details_days"): _between(1, _MOST_DAYS),
    (Tier, "concurrency"): _at_least(1),
    (TierQuota, "total"): _credits,
    (TierQuota, "day"): _credits,
    (TierQuota, "week"): _credits,
    (TierQuota, "month"): _credits,
    (Admin, "token"): _credential,
    (Tls, "ca_file"): _authorities,
    (Settings, "store"): _store,
    (Settings, "redis"): _redis,
}
_ITEM_RULES: Final[Mapping[tuple[type[Any], str], Rule]] = {
    (Server, "trusted_proxies"): _network,
    (Tier, "requests"): limit_fault,
    (Tier, "tokens"): limit_fault,
}
_BY_SUFFIX: Final[Mapping[str, Rule]] = {
    "_s": _duration,
    "_url": _address,
    "_file": _file,
    "_key": _credential,
    "_token": _credential,
}
