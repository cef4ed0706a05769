"""`scheduler serve`: the service in the foreground.

Every row of the table of settings is an option here, made from the table itself, so that none can be missing or differ.
"""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from scheduler import __version__
from scheduler.cli.common import EXIT_USAGE, Command, emit_json, fail, json_option, shared_of
from scheduler.config import CONFIG_ENV, SETTINGS, Address, ConfigError, Kind, Setting, Settings, load
from scheduler.errors import SchedulerError

if TYPE_CHECKING:
    from collections.abc import Callable

    from scheduler.service import Service

__all__ = ["GROUPS", "ServeCommand", "serve_command"]

# Titles of the groups in the help, each with the settings it starts at; the table's order is kept.
GROUPS: Final = (
    ("Places", "state_dir"),
    ("Identity", "region"),
    ("Sandboxes", "isolation"),
    ("Bounds of the node", "functions_max"),
    ("Placement and the loop", "cpus"),
    ("Disk", "log_bytes_max"),
)


class ServeCommand(Command):
    """Shows the options in the groups of the table of settings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        starts = {name: title for title, name in GROUPS}
        sections: list[tuple[str, list[tuple[str, str]]]] = [("Options", [])]
        own = {setting.name for setting in SETTINGS}
        records = {param.name: param.get_help_record(ctx) for param in self.get_params(ctx)}
        sections[0][1].extend(record for name, record in records.items() if name not in own and record)
        for setting in SETTINGS:
            if setting.name in starts:
                sections.append((starts[setting.name], []))
            record = records.get(setting.name)
            if record:
                sections[-1][1].append(record)
        for title, rows in sections:
            with formatter.section(title):
                formatter.write_dl(rows)


def _option(setting: Setting) -> click.Option:
    """One setting as an option. The value goes on as text: `load` reads and judges all sources alike."""
    default = setting.show(setting.default)
    text = setting.help if default == "none" else f"{setting.help} [{default}]"
    metavars = {
        Kind.INT: "N",
        Kind.PATH: "PATH",
        Kind.ADDRESS: "HOST:PORT",
        Kind.UIDS: "UID,...",
        Kind.NETWORK: "A.B.C.D/N",
        Kind.NETWORKS: "A.B.C.D/N,...",
        Kind.ADDRESSES: "A.B.C.D,...",
    }
    metavar = metavars.get(setting.kind, "TEXT")
    if setting.kind is Kind.CHOICE:
        metavar = "|".join(setting.choices)
    if setting.kind is Kind.FLAG:  # given alone it means true
        return click.Option([setting.flag], metavar="[true|false]", is_flag=False, flag_value="true", help=text)
    return click.Option([setting.flag], metavar=metavar, help=text)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for setting in reversed(SETTINGS):
        command.__click_params__.append(_option(setting))  # type: ignore[attr-defined]
    return command


@click.command(
    "serve",
    cls=ServeCommand,
    short_help="Run the service in the foreground.",
    examples=(
        ("everything under ./state", "scheduler serve --state-dir state"),
        (
            "as scripts start it",
            "scheduler serve --state-dir /var/lib/scheduler --socket /run/scheduler/scheduler.sock --metrics 127.0.0.1:9464",
        ),
        ("settings from a file", "scheduler serve --config scheduler.toml"),
        ("where user namespaces are missing, at one's own risk", "scheduler serve --state-dir state --isolation process"),
    ),
)
@click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"A TOML file of settings, named as the options are with _ for -. Also {CONFIG_ENV}.",
)
@_options
@json_option
@click.pass_context
def serve_command(context: click.Context, /, config_file: Path | None, **flags: Any) -> None:
    """Run the service in the foreground until SIGTERM or Ctrl-C; then it finishes what runs and exits with 0. SIGHUP makes it
    read the file of settings anew.

    A setting is taken from its option, else from the environment (SCHEDULER_ and its name, as SCHEDULER_STATE_DIR), else
    from the file, else it is the default in brackets.
    """
    flags["socket"] = flags["socket"] or shared_of(context).socket
    try:
        settings = load(flags, os.environ, config_file)
    except ConfigError as error:
        if len(error.problems) == 1:
            fail(f"BadRequest: {error.problems[0]}; next: scheduler serve -h", EXIT_USAGE)
        for problem in error.problems:
            click.echo(f"scheduler: {problem}", err=True)
        fail(f"BadRequest: {len(error.problems)} settings cannot be used; next: scheduler serve -h", EXIT_USAGE)
    from scheduler.service import serve

    as_json = shared_of(context).as_json

    def ready(service: Service) -> None:
        (_tell_json if as_json else _banner)(settings, service)

    def refused(error: SchedulerError | OSError) -> None:
        click.echo(f"scheduler: {refusal(error, settings)}", err=True)

    def again() -> Settings:
        return load(flags, os.environ, config_file)

    context.exit(serve(settings, load=again, ready=ready, refused=refused))


def _listeners(settings: Settings, service: Service) -> dict[str, str]:
    """What listens where; the ports are those the kernel gave."""
    found = {"socket": str(settings.socket)}
    if settings.tcp is not None:
        scheme = "tls" if settings.tls else "tcp"
        found["tcp"] = f"{scheme}://{Address(settings.tcp.host, service.tcp_port or settings.tcp.port)}"
    if settings.metrics is not None:
        found["metrics"] = f"http://{Address(settings.metrics.host, service.metrics_port or settings.metrics.port)}/metrics"
    return found


def _tell_json(settings: Settings, service: Service) -> None:
    emit_json({"ready": True, **_listeners(settings, service), "state_dir": str(settings.state_dir), "pid": os.getpid()})


def _banner(settings: Settings, service: Service) -> None:
    """Where it listens, how it isolates, what to type next: on stdout, for the log is on stderr."""
    import sys

    from scheduler.cli.common import default_sockets

    rows = _listeners(settings, service)
    if settings.exposed:
        rows["tcp"] += "  IN THE CLEAR: whoever is on the way reads tokens, payloads and answers"
    rows |= {
        "state": str(settings.state_dir),
        "user": _user(),
        "isolation": _isolation(service),
        "/tmp": _scratch(service),
        "runtimes": ", ".join(service.offers.here) or "none",
    }
    lines = [f"scheduler {__version__} is ready (pid {os.getpid()})", *(f"  {key:<10} {value}" for key, value in rows.items())]
    found = any(path.absolute() == settings.socket for path in default_sockets())
    where = "" if found else f" --socket {shlex.quote(str(settings.socket))}"
    lines.append(f"next, in another terminal: scheduler{where} deploy SRC --name NAME; Ctrl-C ends the service")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


ISOLATION: Final = {
    "ROOT": "namespaces, and a user id of its own for each sandbox",
    "USER": "namespaces below the user's own",
    "PROCESS": "NONE BUT SEPARATE PROCESSES: run only code you trust",
}


def _user() -> str:
    """Who the service is by now."""
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    return f"{name}; a fault in the service would be root's: --user NAME gives it one of its own" if uid == 0 else name


def _isolation(service: Service) -> str:
    """What is in force, not what was asked for."""
    launcher = service.supervisor.launcher
    if launcher is None:
        return "none yet"
    isolation = ISOLATION[launcher.isolation.name]
    if not launcher.limits:
        return f"{isolation}; no control groups, so each process has limits of its own"
    limits = ", ".join(sorted(limit.name.lower().replace("_", " ") for limit in launcher.limits))
    return f"{isolation}; cgroups v{launcher.cgroup_version} hold {limits}"


def _scratch(service: Service) -> str:
    launcher = service.supervisor.launcher
    if launcher is None:
        return "none yet"
    if launcher.isolation.name == "PROCESS":
        return "a directory of its own for each sandbox, neither bounded nor encrypted"
    return "on disk, encrypted, a key for each sandbox" if launcher.encrypts_scratch else "in memory, within the function's own"


def refusal(error: SchedulerError | OSError, settings: Settings) -> str:
    """Why it could not start, in one line with the next step."""
    if "in use by the service" in str(error):  # its state directory: StateLocked
        return f"{error}; next: scheduler --socket {settings.socket} top --once, or another --state-dir"
    if getattr(error, "errno", None) == errno.EADDRINUSE or os.strerror(errno.EADDRINUSE) in str(error):
        name, address = _taken(settings)
        step = f"scheduler --socket {address} top --once" if name == "socket" else f"give another with --{name}"
        return f"Unavailable: {name} {address} is in use, perhaps by a service that runs already; next: {step}"
    if isinstance(error, SchedulerError):
        return f"{error}; next: scheduler doctor" if "isolat" in str(error) or "namespace" in str(error) else str(error)
    return f"Unavailable: {error}"


def _taken(settings: Settings) -> tuple[str, str]:
    """Which of the addresses somebody else has: the kernel's error does not say."""
    for name, address in (("metrics", settings.metrics), ("tcp", settings.tcp)):
        if address is None or address.port == 0:
            continue
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address.host, address.port))
            except OSError:
                return name, str(address)
    return "socket", str(settings.socket)
