"""One table of settings: what can be set, in which bounds, from where.

Law of this file: a leaf that may use `errors` and `limits`. The table *is* the dataclass: a row is a field of `Settings` with
its kind, default, bounds and help beside it, so that the attribute, the flag, the environment variable, the key in the file
and the manual's page cannot differ. Nothing here opens a socket or makes a directory; `load` reads one file and judges.

    settings = load({"state_dir": "/var/lib/scheduler"}, os.environ, Path("scheduler.toml"))
    settings.socket, settings.metrics.port, settings.tenant("acme").weight

Precedence: flags, then environment, then file, then defaults. All that is wrong is reported at once (`ConfigError.problems`),
each problem with its source, setting, value and bound.

`python -m scheduler.config` writes the manual's page (docs/settings.md) to its standard output.
"""

# ruff: noqa: RUF009
# row() makes a dataclasses.field; the linter knows field() alone.

from __future__ import annotations

import dataclasses
import difflib
import enum
import ipaddress
import os
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlsplit

from scheduler import limits
from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "CONFIG_ENV",
    "DEFAULT_TENANT",
    "SETTINGS",
    "TENANT_SETTINGS",
    "Address",
    "Change",
    "ConfigError",
    "Kind",
    "Setting",
    "Settings",
    "TenantSettings",
    "changes",
    "load",
    "manual",
    "reloaded",
    "unknown_variables",
]

ENV_PREFIX: Final = "SCHEDULER_"
CLIENT_ENV_PREFIX: Final = "SCHEDULER_CLIENT_"
CONFIG_ENV: Final = "SCHEDULER_CONFIG"
DEFAULT_TENANT: Final = "default"
NO_LIMIT: Final = 0x7FFFFFFF
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path with its final NUL is 108
MIB: Final = 1024 * 1024
GIB: Final = 1024 * MIB


class ConfigError(SchedulerError):
    """Settings that cannot be used; `problems` has one sentence for each, naming source, setting, value and bound."""

    type = "BadRequest"
    exit_code: ClassVar[int] = 2
    default_message = "the settings are not valid"

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class Kind(enum.Enum):
    """What a value is, and how it is written."""

    INT = "whole number"
    TEXT = "text"
    PATH = "path"
    ADDRESS = "HOST:PORT"
    CHOICE = "one of"
    FLAG = "true or false"
    UIDS = "user ids"
    NETWORK = "IPv4 network"
    NETWORKS = "IPv4 networks"
    ADDRESSES = "IPv4 addresses"


@dataclass(frozen=True, slots=True)
class Address:
    """A numeric address and a port; port 0 asks the kernel for one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row. Bounds are inclusive. `reload`: may change while the service runs. `optional`: empty text or "none" is None."""

    name: str
    kind: Kind
    default: Any
    help: str
    minimum: int = 0
    maximum: int = NO_LIMIT
    choices: tuple[str, ...] = ()
    optional: bool = False
    reload: bool = False

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def env(self) -> str:
        return ENV_PREFIX + self.name.upper()

    def show(self, value: object) -> str:
        """`value` as an operator would write it."""
        if value is None:
            return "none"
        if isinstance(value, tuple):
            return ", ".join(map(str, value)) or "none"
        return str(value).lower() if isinstance(value, bool) else str(value)

    def bounds(self) -> str:
        """The bound in words, for messages and the manual."""
        if self.kind is Kind.CHOICE:
            return f"one of {', '.join(self.choices)}"
        if self.kind is Kind.INT:
            return f"{self.minimum} to {self.maximum}" if self.maximum < NO_LIMIT else f"at least {self.minimum}"
        if self.kind is Kind.NETWORK:
            return f"A.B.C.D/{self.minimum} to A.B.C.D/{self.maximum}"
        if self.kind is Kind.TEXT:
            count = str(self.minimum) if self.minimum == self.maximum else f"{self.minimum} to {self.maximum}"
            return f"{count} printable characters"
        return f"{self.kind.value} or none" if self.optional else str(self.kind.value)

    def read(self, value: object) -> Any:
        """A value as flag, variable or file gave it, made what the attribute holds. Raises ValueError with a reason."""
        if self.optional and value in ("", "none"):
            return None
        reader: Callable[[Setting, object], Any] = _READERS[self.kind]
        return reader(self, value)


def _read_int(setting: Setting, value: object) -> int:
    if isinstance(value, str):
        try:
            value = int(value, 10)
        except ValueError:
            raise ValueError("is not a whole number") from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("is not a whole number")
    if not setting.minimum <= value <= setting.maximum:
        raise ValueError(f"is out of bounds: {setting.bounds()}")
    return value


def _read_text(setting: Setting, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is not text")
    if not setting.minimum <= len(value) <= setting.maximum or not value.isprintable():
        raise ValueError(f"is not {setting.bounds()}")
    return value


def _read_path(setting: Setting, value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise ValueError("is not a path")
    return Path(value).expanduser()


def _read_address(setting: Setting, value: object) -> Address:
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError("is not HOST:PORT")
    host, _, port = value.rpartition(":")
    host = {"localhost": "127.0.0.1"}.get(host, host.removeprefix("[").removesuffix("]"))
    try:
        ipaddress.ip_address(host)
    except ValueError:
        raise ValueError("is not HOST:PORT with a numeric host, as 127.0.0.1:9464 or [::1]:9464") from None
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("has no port of 0 to 65535")
    return Address(host, int(port))


def _read_choice(setting: Setting, value: object) -> str:
    if value not in setting.choices:
        raise ValueError(f"is not {setting.bounds()}")
    return str(value)


def _read_flag(setting: Setting, value: object) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value.lower() not in words:
        raise ValueError("is not true or false")
    return words[value.lower()]


def _read_uids(setting: Setting, value: object) -> tuple[int, ...]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise ValueError("is no list of user ids")
    uids = []
    for item in items:
        text = str(item).strip() if not isinstance(item, bool) else ""
        if not (text.isascii() and text.isdigit() and int(text) < 2**32 - 1):
            raise ValueError(f"holds {item!r}, which is no user id")
        uids.append(int(text))
    if len(uids) > setting.maximum:
        raise ValueError(f"has {len(uids)} user ids, the limit is {setting.maximum}")
    return tuple(dict.fromkeys(uids))


def _read_network(setting: Setting, value: object) -> str:
    network = _network(value)
    if not setting.minimum <= network.prefixlen <= setting.maximum:
        raise ValueError(f"is out of bounds: {setting.bounds()}")
    return str(network)


def _read_networks(setting: Setting, value: object) -> tuple[str, ...]:
    networks = dict.fromkeys(str(_network(item)) for item in _items(setting, value))
    if len(networks) > setting.maximum:
        raise ValueError(f"has {len(networks)} networks, the limit is {setting.maximum}")
    return tuple(networks)


def _read_addresses(setting: Setting, value: object) -> tuple[str, ...]:
    addresses = []
    for item in _items(setting, value):
        try:
            addresses.append(str(ipaddress.IPv4Address(item)))
        except ValueError:
            raise ValueError(f"holds {item!r}, which is no IPv4 address") from None
    if len(addresses) > setting.maximum:
        raise ValueError(f"has {len(addresses)} addresses, the limit is {setting.maximum}")
    return tuple(dict.fromkeys(addresses))


def _items(setting: Setting, value: object) -> list[str]:
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
        raise ValueError(f"is no list of {setting.kind.value}")
    return [item.strip() for item in items if item.strip() not in ("", "none")]


def _network(value: object) -> ipaddress.IPv4Network:
    try:
        if isinstance(value, str):
            return ipaddress.IPv4Network(value)
    except ValueError:
        pass
    raise ValueError(f"{'holds' if isinstance(value, str) else 'is'} {value!r}, which is no IPv4 network as 10.1.0.0/16")


_READERS: Final = {
    Kind.INT: _read_int,
    Kind.TEXT: _read_text,
    Kind.PATH: _read_path,
    Kind.ADDRESS: _read_address,
    Kind.CHOICE: _read_choice,
    Kind.FLAG: _read_flag,
    Kind.UIDS: _read_uids,
    Kind.NETWORK: _read_network,
    Kind.NETWORKS: _read_networks,
    Kind.ADDRESSES: _read_addresses,
}


def row(kind: Kind, default: Any, help_text: str, minimum: int = 0, maximum: int = NO_LIMIT, **more: Any) -> Any:
    """A field of a settings class. The name is filled in from the field's own."""
    setting = Setting("", kind, default, help_text, minimum, maximum, **more)
    return dataclasses.field(default=default, metadata={"setting": setting})


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantSettings:
    """One `[tenants.NAME]` table of the file, the only place that can name tenants. All of it may be changed by a reload."""

    name: str = DEFAULT_TENANT
    weight: int = row(Kind.INT, limits.WEIGHT_DEFAULT, "share of CPU time among tenants", limits.WEIGHT_MIN, limits.WEIGHT_MAX)
    concurrency_max: int = row(Kind.INT, NO_LIMIT, "calls that run at once", 0)
    rate_max: int = row(Kind.INT, NO_LIMIT, "calls per second", 1)
    memory_mb_max: int = row(Kind.INT, NO_LIMIT, "MB of all its sandboxes", 0)
    queued_calls_max: int = row(Kind.INT, NO_LIMIT, "calls that wait", 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, checked. Paths are absolute. See the table in docs/settings.md for meaning, bounds and units."""

    # ---- places ----
    state_dir: Path = row(Kind.PATH, Path("state"), "everything that must survive a restart: registry, code, logs")
    socket: Path = row(Kind.PATH, Path("scheduler.sock"), "Unix socket of the protocol; the default is in state_dir")
    tcp: Address | None = row(
        Kind.ADDRESS, None, "TCP address of the protocol; needs token_file unless loopback", optional=True
    )
    token_file: Path | None = row(
        Kind.PATH, None, "hashed tokens with their tenants and rights; read anew when it changes", optional=True
    )
    tls_cert_file: Path | None = row(
        Kind.PATH, None, "certificate (and chain) for TLS on TCP, PEM; read anew when it changes", optional=True
    )
    tls_key_file: Path | None = row(
        Kind.PATH, None, "its private key, PEM without a passphrase, readable by no others", optional=True
    )
    tcp_plaintext: bool = row(Kind.FLAG, False, "serve TCP beyond loopback without TLS: tokens and payloads in the clear")
    http: Address | None = row(Kind.ADDRESS, None, "address of the AWS-compatible HTTP API, e.g. 127.0.0.1:9000", optional=True)
    http_auth: str = row(
        Kind.CHOICE,
        "sigv4",
        "who may use the HTTP API; sigv4: whose access key signs (scheduler key); none: whoever can connect, loopback only",
        choices=("sigv4", "none"),
    )
    metrics: Address | None = row(
        Kind.ADDRESS, Address("127.0.0.1", 9464), "address of /metrics, /healthz and /readyz", optional=True
    )
    allowed_uids: tuple[int, ...] = row(
        Kind.UIDS, (), "users besides root and the service's own that may use the socket", 0, 16
    )

    user: str | None = row(
        Kind.TEXT, None, "who the service becomes once root has started the launcher; none: it stays root", 1, 64, optional=True
    )

    # ---- identity ----
    region: str = row(Kind.TEXT, "local", "region in ARNs", 1, 32)
    account_id: str = row(Kind.TEXT, "000000000000", "account id in ARNs, twelve digits", 12, 12)

    # ---- sandboxes ----
    isolation: str = row(
        Kind.CHOICE, "auto", "auto: namespaces and cgroups, or no start; process: bare processes", choices=("auto", "process")
    )
    scratch: str = row(
        Kind.CHOICE,
        "auto",
        "where /tmp of a sandbox is. auto: on disk, encrypted, while there is room, else in memory; encrypted: or no sandbox; "
        "tmpfs: in memory, where it counts",
        choices=("auto", "encrypted", "tmpfs"),
    )
    scratch_mb_max: int = row(
        Kind.INT, 0, "MB of all /tmp on disk together, by their sizes; 0: half of what the disk of state_dir has free"
    )
    scratch_ahead: int = row(Kind.INT, 4, "/tmp on disk kept ready of each size in use", 0, 256)
    runtime_default: str = row(
        Kind.TEXT, "auto", "runtime of functions that name none; auto: the one that the service runs on", 1, 64, reload=True
    )
    runtimes_dir: Path | None = row(
        Kind.PATH,
        None,
        "directory of runtimes of your own, one TOML file each (docs/runtimes.md); none: ours alone",
        optional=True,
    )
    sandbox_uid_base: int = row(Kind.INT, 300_000, "first of the user ids that sandboxes run as", 65_536, 2_000_000_000)
    cgroup_root: Path | None = row(
        Kind.PATH, None, "directory of the cgroup tree to use; none: found by the service", optional=True
    )
    cpu_per_memory: str = row(
        Kind.CHOICE,
        "proportional",
        "CPU of a sandbox. proportional: 1,769 MB are one CPU, and no more than that once its init is over; "
        "weight_only: what others leave, shared in that proportion",
        choices=("proportional", "weight_only"),
    )
    sandbox_network_range: str = row(
        Kind.NETWORK,
        "198.18.0.0/16",
        "addresses of sandboxes with a network; the host sees one of its last 256, which must be free",
        16,
        18,
    )
    sandbox_name_servers: tuple[str, ...] = row(
        Kind.ADDRESSES,
        (),
        "whom functions with a network ask for names; none: those of this machine that are not on it",
        0,
        3,
    )
    sandbox_network_allowed: tuple[str, ...] = row(
        Kind.NETWORKS, (), "private networks that functions with a network may reach; public ones they may anyway", 0, 32
    )
    shells_ahead: int = row(Kind.INT, 2, "pre-warmed shells kept waiting for each runtime in use", 0, 256, reload=True)
    shells_max: int = row(Kind.INT, 32, "most shells of a runtime that may wait at once", 1, 1024)
    images_mb_max: int = row(
        Kind.INT,
        1_024,
        "MB of all images of initialised processes, which cold starts are restored from; 0: none are made",
        0,
        1_048_576,
        reload=True,
    )
    init_timeout_ms: int = row(Kind.INT, limits.INIT_TIMEOUT_MS_DEFAULT, "longest init of a function", 100, 900_000)
    idle_timeout_s: int = row(
        Kind.INT, 600, "an idle sandbox is ended after this, until the gaps between its function's calls are known", 1, 86_400
    )
    idle_timeout_min_s: int = row(Kind.INT, 60, "where the gaps are known: never sooner than this", 1, 14_400)
    idle_timeout_max_s: int = row(Kind.INT, 3_600, "where the gaps are known: never later than this", 1, 14_400)
    sandbox_age_max_s: int = row(
        Kind.INT, 43_200, "a sandbox is replaced by another before it is older, within the last eighth; 0: never", 0, 2_592_000
    )
    sandbox_calls_max: int = row(
        Kind.INT, 0, "a sandbox is replaced by another before it has served more, within the last eighth; 0: never", 0
    )
    stop_grace_ms: int = row(
        Kind.INT,
        500,
        "an idle sandbox that is to end may run its SIGTERM and atexit handlers so long; 0: not at all",
        0,
        10_000,
    )
    reap_timeout_ms: int = row(Kind.INT, 1_000, "how long a dead sandbox's call waits for the cause", 10, 60_000)
    cold_start_guess_us: int = row(Kind.INT, 15_000, "expected cold start before one was measured", 1, 60_000_000)

    # ---- bounds of the node ----
    functions_max: int = row(Kind.INT, 1_024, "functions and published versions together", 1, 65_536)
    isolated_tenants_max: int = row(
        Kind.INT,
        1_024,
        "tenant ids served at once by tenant-isolated functions; one of several tenants has at most three quarters",
        0,
        32_768,
    )
    sandboxes_max: int = row(Kind.INT, 1_024, "sandboxes of all functions", 1, 1_048_576)
    calls_max: int = row(Kind.INT, 65_536, "calls held at once, queued and running", 16, 16_777_216)
    connections_max: int = row(Kind.INT, 12_000, "clients connected at once", 1, 1_000_000)
    concurrency_max: int = row(Kind.INT, limits.CONCURRENCY_DEFAULT, "calls that run at once", 1, 1_048_576, reload=True)
    unreserved_concurrency_min: int = row(
        Kind.INT,
        limits.UNRESERVED_CONCURRENCY_MIN_DEFAULT,
        "concurrency that reservations must leave to functions without one",
        0,
        1_048_576,
        reload=True,
    )
    memory_mb_max: int = row(Kind.INT, 0, "MB of all sandboxes; 0: 80 % of the machine's", 0, reload=True)
    queued_calls_max: int = row(Kind.INT, 65_536, "calls that wait", 0, 16_777_216, reload=True)
    queued_bytes_max: int = row(Kind.INT, 512 * MIB, "bytes of the payloads of calls that wait", MIB, 1 << 46, reload=True)
    payload_bytes_total_max: int = row(Kind.INT, GIB, "bytes of all payloads held, queued and running", 8 * MIB, 1 << 46)
    function_queued_calls_max: int = row(Kind.INT, 10_000, "calls of one function that wait", 0, 16_777_216, reload=True)
    queue_timeout_ms: int = row(
        Kind.INT,
        limits.QUEUE_TIMEOUT_MS_DEFAULT,
        "how long a call may wait to start where its function does not say; 0: not at all",
        0,
        limits.QUEUE_TIMEOUT_MS_MAX,
        reload=True,
    )
    drain_grace_ms: int = row(Kind.INT, 10_000, "at the end: how long running calls may finish", 0, 900_000, reload=True)

    # ---- placement and the loop ----
    cpus: int = row(Kind.INT, 0, "CPUs to plan with; 0: all that the service may use", 0, 4_096)
    starting_max: int = row(Kind.INT, 64, "sandboxes of one function that start at once", 1, 4_096)
    ahead_max: int = row(Kind.INT, 32, "calls sent ahead to one sandbox, the running one included", 1, 32)
    ahead_window_us: int = row(Kind.INT, 2_000, "expected time of calls sent ahead is never above this", 0, 1_000_000)
    spin_us: int = row(Kind.INT, 0, "the loop polls this long before it sleeps; 0: never", 0, 1_000)
    frame_bytes_max: int = row(
        Kind.INT, limits.PAYLOAD_BYTES_MAX + 64 * 1024, "one request", limits.PAYLOAD_BYTES_MAX + 4096, 64 * MIB
    )
    turn_bytes_max: int = row(Kind.INT, 256 * 1024, "read from one connection in one turn", 4_096, 16 * MIB)
    connection_buffer_bytes_max: int = row(
        Kind.INT, MIB, "unread answers of one connection before it is not read any more", 65_536, GIB
    )

    # ---- keys ----
    key_source: str = row(
        Kind.CHOICE,
        "keyring",
        "what wraps the data keys of environments and secrets: the file keyring.json, a KMS, or Vault's transit engine",
        choices=("keyring", "kms", "vault"),
    )
    key_server: str = row(Kind.TEXT, "", "address of the KMS or Vault, https://HOST[:PORT]; http:// to loopback only", 0, 2_048)
    key_id: str = row(
        Kind.TEXT, "", "the key there: id, ARN or alias of the KMS, or name of a key of the transit engine", 0, 2_048
    )
    key_region: str = row(Kind.TEXT, "", "region that requests to the KMS are signed for; empty: `region`", 0, 64)
    key_credentials_file: Path | None = row(
        Kind.PATH,
        None,
        "AWS credentials file for the KMS, or file of the token for Vault; readable by no others; read anew when it changes",
        optional=True,
    )
    key_ca_file: Path | None = row(
        Kind.PATH, None, "authorities that the key server's certificate may be of, PEM; none: the system's", optional=True
    )
    key_mount: str = row(Kind.TEXT, "transit", "where Vault's transit engine is mounted", 1, 256)
    key_namespace: str = row(Kind.TEXT, "", "Vault's namespace, where it has some", 0, 256)
    key_cache_s: int = row(Kind.INT, 300, "seconds that a data key from a key server is used without asking again", 1, 86_400)

    # ---- traces ----
    otlp_endpoint: str = row(
        Kind.TEXT,
        "",
        "base address of a collector that takes OTLP over HTTP, as http://127.0.0.1:4318: sampled calls are told there",
        0,
        1_024,
    )
    otlp_spans_s_max: int = row(Kind.INT, 200, "sampled calls told in one second; more are dropped and counted", 1, 10_000)

    # ---- disk ----
    log_bytes_max: int = row(Kind.INT, 16 * MIB, "one function's log file before it rotates", 65_536, GIB)
    log_files_max: int = row(Kind.INT, 4, "rotated log files kept for each function", 0, 1_000)
    log_total_bytes_max: int = row(
        Kind.INT, 4 * GIB, "all log files; beyond, the oldest of the function with most of them go", 16 * MIB, 1 << 46
    )
    log_turn_s: int = row(Kind.INT, 86_400, "a log file that was begun longer ago rotates; 0: by size alone", 0, 31_536_000)
    log_keep_s: int = row(Kind.INT, 2_592_000, "log files last written to longer ago are removed; 0: never", 0, 315_360_000)
    code_bytes_max: int = row(Kind.INT, 75 * GIB, "bytes of all code packages, unpacked", 64 * MIB, 1 << 50, reload=True)
    code_grace_s: int = row(Kind.INT, 3_600, "unreferenced code is kept this long", 60, 2_592_000, reload=True)
    uploads_max: int = row(Kind.INT, 16, "uploads of code under way at once", 1, 1_024)
    uploads_bytes_max: int = row(Kind.INT, 512 * MIB, "bytes of all uploads under way", 64 * MIB, 1 << 40)
    events_max: int = row(Kind.INT, 100_000, "asynchronous events queued", 1, 10_000_000)
    events_bytes_max: int = row(Kind.INT, GIB, "bytes of all asynchronous events queued", 8 * MIB, 1 << 46)

    tenants: tuple[TenantSettings, ...] = ()

    @property
    def tls(self) -> bool:
        """Whether TCP is encrypted."""
        return self.tls_cert_file is not None and self.tls_key_file is not None

    @property
    def exposed(self) -> bool:
        """Whether tokens and payloads pass other machines in the clear."""
        return self.tcp is not None and not self.tcp.loopback and not self.tls

    @property
    def scratch_dir(self) -> Path:
        """Where /tmp of sandboxes are, on disk: nothing there has a name, or outlives its sandbox."""
        return self.state_dir / "scratch"

    @property
    def keyring_file(self) -> Path:
        """Keys of the service's own."""
        return self.state_dir / "keyring.json"

    @property
    def access_key_file(self) -> Path:
        return self.state_dir / "access-keys.json"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "logs"

    @property
    def code_dir(self) -> Path:
        return self.state_dir / "code"

    @property
    def upload_dir(self) -> Path:
        return self.state_dir / "uploads"

    @property
    def store_path(self) -> Path:
        return self.state_dir / "store" / "scheduler.db"

    def tenant(self, name: str) -> TenantSettings:
        """Of `name`; one that the file does not name has the defaults."""
        return next((tenant for tenant in self.tenants if tenant.name == name), TenantSettings(name=name))

    def memory_mb(self, meminfo: str | None = None) -> int:
        """`memory_mb_max`, or 80 % of the machine's memory as /proc/meminfo tells it."""
        if self.memory_mb_max:
            return self.memory_mb_max
        text = Path("/proc/meminfo").read_text() if meminfo is None else meminfo
        (total_kib,) = (int(line.split()[1]) for line in text.splitlines() if line.startswith("MemTotal:"))
        return max(limits.MEMORY_MB_MIN, total_kib * 8 // 10 // 1024)

    def cpu_count(self) -> int:
        """`cpus`, or as many as the service may run on."""
        return self.cpus or len(os.sched_getaffinity(0))


def _table(owner: type) -> tuple[Setting, ...]:
    return tuple(
        dataclasses.replace(field.metadata["setting"], name=field.name)
        for field in dataclasses.fields(owner)
        if "setting" in field.metadata
    )


SETTINGS: Final = _table(Settings)
TENANT_SETTINGS: Final = _table(TenantSettings)


# ---- loading -------------------------------------------------------------------------------------------------------------


def load(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Settings from flags (by setting name; None: not given), environment, file and defaults, in that order.

    `file` None: the one that SCHEDULER_CONFIG names, if any. Raises ConfigError with everything that is wrong.
    """
    flags = {name: value for name, value in (flags or {}).items() if value is not None}
    environ = environ or {}
    problems: list[str] = []
    if file is None and environ.get(CONFIG_ENV):
        file = Path(environ[CONFIG_ENV])
    content = _read_file(file, problems) if file is not None else {}
    source = str(file)
    tenants = _read_tenants(content.pop("tenants", {}), source, problems)
    _refuse_unknown(content, SETTINGS, source, problems)
    _refuse_unknown(flags, SETTINGS, "flags", problems)

    values: dict[str, Any] = {}
    for setting in SETTINGS:
        for given, key, where in (
            (flags, setting.name, f"flag {setting.flag}"),
            (environ, setting.env, f"variable {setting.env}"),
            (content, setting.name, f"{source}: {setting.name}"),
        ):
            if key in given:
                _read_value(setting, given[key], where, values, problems)
                break
    settings = _resolved(Settings(**values, tenants=tenants), "socket" in values)
    problems.extend(_relations(settings))
    if problems:
        raise ConfigError(tuple(problems))
    return settings


def _read_value(setting: Setting, value: object, where: str, values: dict[str, Any], problems: list[str]) -> None:
    try:
        values[setting.name] = setting.read(value)
    except ValueError as error:
        problems.append(f"{where}: {_short(value)} {error}")


def _read_file(file: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        problems.append(f"{file}: cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number of thousands of digits
        problems.append(f"{file}: is not TOML: {error}")
    return {}


def _read_tenants(tables: object, source: str, problems: list[str]) -> tuple[TenantSettings, ...]:
    if not isinstance(tables, dict):
        problems.append(f"{source}: tenants: {_short(tables)} is no table; write [tenants.NAME]")
        return ()
    tenants = []
    for name, table in tables.items():
        where = f"{source}: tenants.{name}"
        if (
            not (name.isascii() and name.replace("-", "").replace("_", "").isalnum())
            or len(name) > limits.TENANT_NAME_CHARS_MAX
        ):
            problems.append(f"{where}: a tenant's name is 1 to {limits.TENANT_NAME_CHARS_MAX} of a-z, A-Z, 0-9, - and _")
            continue
        if not isinstance(table, dict):
            problems.append(f"{where}: {_short(table)} is no table")
            continue
        _refuse_unknown(table, TENANT_SETTINGS, where, problems)
        values: dict[str, Any] = {}
        for setting in TENANT_SETTINGS:
            if setting.name in table:
                _read_value(setting, table[setting.name], f"{where}.{setting.name}", values, problems)
        tenants.append(TenantSettings(name=name, **values))
    return tuple(tenants)


def _refuse_unknown(given: Mapping[str, object], rows: tuple[Setting, ...], source: str, problems: list[str]) -> None:
    names = [setting.name for setting in rows]
    problems.extend(
        f"{source}: no setting is called {_short(key)}{_did_you_mean(key, names)}" for key in given if key not in names
    )


def _did_you_mean(word: str, names: list[str]) -> str:
    close = difflib.get_close_matches(word.lower().replace("-", "_"), names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _short(value: object) -> str:
    text = repr(str(value) if isinstance(value, Path) else value)
    return text if len(text) <= 80 else text[:79] + "…"


def _resolved(settings: Settings, own_socket: bool) -> Settings:
    """Absolute paths: the service may change its directory. The default socket lives in the state directory."""
    # Where the service gives root up, the launcher follows no link to its code.
    state_dir = settings.state_dir.resolve() if settings.user is not None else settings.state_dir.absolute()
    socket = settings.socket.absolute() if own_socket else state_dir / settings.socket
    return dataclasses.replace(
        settings,
        state_dir=state_dir,
        socket=socket,
        token_file=settings.token_file and settings.token_file.absolute(),
        tls_cert_file=settings.tls_cert_file and settings.tls_cert_file.absolute(),
        tls_key_file=settings.tls_key_file and settings.tls_key_file.absolute(),
        cgroup_root=settings.cgroup_root and settings.cgroup_root.absolute(),
        key_credentials_file=settings.key_credentials_file and settings.key_credentials_file.absolute(),
        key_ca_file=settings.key_ca_file and settings.key_ca_file.absolute(),
    )


def _relations(settings: Settings) -> Iterator[str]:
    """What no single row can say."""
    if len(os.fsencode(settings.socket)) > SOCKET_PATH_BYTES_MAX:
        yield f"socket: {str(settings.socket)!r} is longer than a Unix socket's path can be, {SOCKET_PATH_BYTES_MAX} bytes"
    if len(os.fsencode(settings.log_dir)) > 255:
        yield f"state_dir: {str(settings.state_dir)!r} is too long: the path of its logs is over 255 bytes"
    if not (settings.account_id.isascii() and settings.account_id.isdigit()):
        yield f"account_id: {settings.account_id!r} is not twelve digits"
    if not (settings.region.isascii() and settings.region.replace("-", "").isalnum()):
        yield f"region: {settings.region!r} is not made of letters, digits and -"
    yield from _tcp_relations(settings)
    if settings.functions_max + settings.isolated_tenants_max > 65_536:
        yield f"isolated_tenants_max: {settings.isolated_tenants_max} and functions_max together are more than 65536"
    yield from _key_relations(settings)
    if settings.otlp_endpoint and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", settings.otlp_endpoint):
        yield f"otlp_endpoint: {settings.otlp_endpoint!r} is no address as http://127.0.0.1:4318"
    if settings.http is not None and not settings.http.loopback and settings.http_auth == "none":
        yield f"http: {settings.http} can be reached from other machines, and http_auth = none asks nobody who they are"
    for low, high in (
        ("unreserved_concurrency_min", "concurrency_max"),
        ("queued_calls_max", "calls_max"),
        ("queued_bytes_max", "payload_bytes_total_max"),
        ("shells_ahead", "shells_max"),
        ("turn_bytes_max", "frame_bytes_max"),
        ("idle_timeout_min_s", "idle_timeout_max_s"),
    ):
        if getattr(settings, low) > getattr(settings, high):
            yield f"{low}: {getattr(settings, low)} is more than {high}, which is {getattr(settings, high)}"


def _key_relations(settings: Settings) -> Iterator[str]:
    """A key server needs all that it takes to ask it, and nothing of that is to be given without one."""
    needed = ("key_server", "key_id", "key_credentials_file")
    if settings.key_source == "keyring":
        given = next((name for name in needed if getattr(settings, name)), None)
        if given is not None:
            yield f"{given}: is given, but key_source = keyring asks no key server"
        return
    for name in needed:
        if not getattr(settings, name):
            yield f"key_source: {settings.key_source} needs {name}"
    parts = urlsplit(settings.key_server)
    if settings.key_server and (parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username):
        yield f"key_server: {settings.key_server!r} is not https://HOST[:PORT]"
    elif parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        yield f"key_server: {settings.key_server!r} would carry data keys in the clear: only loopback may be http://"


def _tcp_relations(settings: Settings) -> Iterator[str]:
    """Whatever can be reached from other machines needs tokens, and tokens need TLS, unless told otherwise in so many words."""
    cert, key, tcp = settings.tls_cert_file, settings.tls_key_file, settings.tcp
    if (cert is None) != (key is None):
        given, missing = ("tls_cert_file", "tls_key_file") if key is None else ("tls_key_file", "tls_cert_file")
        yield f"{given}: {str(cert or key)!r} needs {missing} beside it"
    if tcp is None and settings.tls:
        yield "tls_cert_file: is given but tcp is not, so nothing would be encrypted"
    if tcp is None or tcp.loopback:
        return
    if settings.token_file is None:
        yield f"tcp: {tcp} can be reached from other machines, which needs token_file"
    if not settings.tls and not settings.tcp_plaintext:
        yield (
            f"tcp: {tcp} can be reached from other machines and would carry tokens in the clear: give tls_cert_file and "
            "tls_key_file, or say tcp_plaintext = true"
        )


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A warning for each variable that looks like a setting and is none; the service logs them, since they have no effect.
    The client's own variables (SCHEDULER_CLIENT_...) are not the service's business."""
    names = [setting.name for setting in SETTINGS]
    given = (
        key.removeprefix(ENV_PREFIX).lower()
        for key in sorted(environ)
        if key.startswith(ENV_PREFIX) and key != CONFIG_ENV and not key.startswith(CLIENT_ENV_PREFIX)
    )
    return tuple(
        f"variable {ENV_PREFIX}{name.upper()} has no effect: no setting is called {name}{_did_you_mean(name, names)}"
        for name in given
        if name not in names
    )


@dataclass(frozen=True, slots=True)
class Change:
    """One setting that differs between two loads; `applies`: now, else at the next start."""

    name: str
    old: Any
    new: Any
    applies: bool


def changes(old: Settings, new: Settings) -> tuple[Change, ...]:
    """What a reload would change."""
    rows = [(setting.name, setting.reload) for setting in SETTINGS] + [("tenants", True)]
    pairs = ((name, getattr(old, name), getattr(new, name), applies) for name, applies in rows)
    return tuple(Change(*pair) for pair in pairs if pair[1] != pair[2])


def reloaded(old: Settings, new: Settings) -> tuple[Settings, tuple[Change, ...]]:
    """What a running service goes on with: `old` with those changes that apply now. Raises ConfigError where the two would not
    go together: then nothing is to be changed."""
    found = changes(old, new)
    mixed = dataclasses.replace(old, **{change.name: change.new for change in found if change.applies})
    problems = tuple(_relations(mixed))
    if problems:
        raise ConfigError(problems)
    return mixed, found


# ---- the manual's page ---------------------------------------------------------------------------------------------------


def manual() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Written by `python -m scheduler.config > docs/settings.md` from the table in scheduler/config.py. -->",
        "",
        "A setting is taken from the command's flag, else from the environment, else from the file (`--config FILE` or",
        "`SCHEDULER_CONFIG`, TOML), else it is the default. The key in the file is the setting's name; one that is not in the",
        'table is an error. "MB" is 1,048,576 bytes. *Reload* says whether a change in the file takes effect in a running',
        "service when it gets SIGHUP; the others wait for the next start. Its log names each change, and what is wrong with a",
        "file that cannot be used: then everything stays as it was.",
        "",
        "| setting | flag | variable | default | bounds | reload | meaning |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row.name}` | `{row.flag}` | `{row.env}` | {row.show(row.default)} | {row.bounds()} | "
        f"{'yes' if row.reload else 'no'} | {row.help} |"
        for row in SETTINGS
    ]
    lines += [
        "",
        "## Tenants",
        "",
        f"Tables `[tenants.NAME]` of the file. A function that names no tenant belongs to `{DEFAULT_TENANT}`, which may have a",
        "table too. All of it can be changed by a reload.",
        "",
        "| key | default | bounds | meaning |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| `{s.name}` | {'no limit' if s.default == NO_LIMIT else s.default} | {s.bounds()} | {s.help} |"
        for s in TENANT_SETTINGS
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(manual())
