"""The text of systemd's units. Pure: a struct in, text out.

No unit waits for another one or for the network: a role waits for Redis by itself, and feeds the watchdog
meanwhile. `After` is there for the way down only, when it is the other way round: agents hand their work
back while the server is there.
"""

from __future__ import annotations

from msgspec import Struct

RESTART_S, WATCHDOG_S = 5, 60
HELD = "\0"
"""Stands for the folder of the credentials; no other word can begin so."""


class Service(Struct, frozen=True):
    """One service. `notifies`: it tells systemd when it is ready and that it lives. `credentials`: name and
    file of each secret that systemd reads as root and shows to this service only. `devices`: device files
    that it needs. `writable`: folders beside its own."""

    name: str
    what: str
    command: tuple[str, ...]
    notifies: bool = True
    stop_s: int = 20
    environment: tuple[tuple[str, str], ...] = ()
    credentials: tuple[tuple[str, str], ...] = ()
    sees_processes: bool = False
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    open_files: int = 0

    @property
    def unit(self) -> str:
        """The name of its unit."""
        return f"{self.name}.service"


HARDENED = """\
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
UMask=0077
"""


def text_of(service: Service) -> str:
    """Return the unit file of a service."""
    after = "network.target" if service.name == "orion-server" else "network.target orion-server.service"
    return (
        f"[Unit]\nDescription={plain(service.what)}\nDocumentation=man:systemd.service(5)\nAfter={after}\n"
        "StartLimitIntervalSec=0\n"
        f"\n[Service]\nType={'notify' if service.notifies else 'exec'}\n"
        + (f"NotifyAccess=main\nWatchdogSec={WATCHDOG_S}\n" if service.notifies else "")
        + f"ExecStart={' '.join(argument(word) for word in service.command)}\n"
        + lines("Environment", [quoted(f"{name}={value}") for name, value in service.environment])
        + lines("LoadCredential", [f"{name}:{plain(path)}" for name, path in service.credentials])
        + f"Restart=always\nRestartSec={RESTART_S}\nTimeoutStartSec=infinity\n"
        f"TimeoutStopSec={service.stop_s}\n"
        f"User={service.name}\nGroup={service.name}\n"
        + lines("SupplementaryGroups", service.groups)
        + f"StateDirectory={service.name}\nStateDirectoryMode=0700\n"
        "ConfigurationDirectory=orion\nConfigurationDirectoryMode=0755\n"
        + lines("ReadWritePaths", [quoted(f"-{path}") for path in service.writable])
        + (f"LimitNOFILE={service.open_files}\n" if service.open_files else "")
        + HARDENED
        + devices_of(service)
        + ("" if service.sees_processes else "ProtectProc=invisible\n")
        + "\n[Install]\nWantedBy=multi-user.target\n"
    )


def devices_of(service: Service) -> str:
    """Return what it may see of /dev: the harmless pseudo devices only. With PrivateDevices a device would
    be hidden though it is allowed, so who needs one gets the list instead."""
    if not service.devices:
        return "PrivateDevices=yes\n"
    return "DevicePolicy=closed\n" + lines("DeviceAllow", [f"{each} rw" for each in service.devices])


def lines(key: str, values: list[str] | tuple[str, ...]) -> str:
    """Return one assignment for each value."""
    return "".join(f"{key}={value}\n" for value in values)


def plain(text: str) -> str:
    """Return a text in which systemd expands nothing, on one line."""
    return " ".join(text.split()).replace("%", "%%")


def quoted(word: str) -> str:
    """Return one word as systemd reads it: nothing is expanded."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if any(each in escaped for each in " \t\"'\\;") or not escaped else escaped


def argument(word: str) -> str:
    """Return one word of a command line, in which `$` would begin a variable."""
    if word.startswith(HELD):
        return f"%d/{quoted(word.removeprefix(HELD))}"
    return quoted(word.replace("$", "$$"))


def held(name: str) -> str:
    """Return the path of a credential, as a word of a command line."""
    return f"{HELD}{name}"


def sysusers_line(name: str) -> str:
    """Return the line by which systemd-sysusers(8) makes the user of a service."""
    return f'u {name} - "orion-streams" /var/lib/{name}'
