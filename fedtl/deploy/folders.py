"""The folders of a deployment: the authority, the server and each client have one.

::

    DIR/authority/  ca.pem, ca.key               stays with whoever set the study up
    DIR/server/     server.toml, ca.pem, server.pem, server.key, clients/<name>.pub
    DIR/<name>/     client.toml, ca.pem, client.key
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
import shutil
import stat
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from fedtl.choice import ConfigError, validate
from fedtl.deploy import keys
from fedtl.failure import RunError

AUTHORITY, SERVER = "authority", "server"
AUTHORITY_DAYS = 3650
SERVER_DAYS = 825

SKEW = timedelta(days=1)
"""Certificates are valid from a day ago: a client's clock may be behind."""

SOCKET_BYTES = 103
"""The longest path of a Unix socket on macOS; Linux allows 107."""


def _host(host: str) -> str:
    """A DNS name or an IP address as a certificate names it."""
    wanted = "give the DNS name or the IP address by which clients reach the server, without scheme and port"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        label = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
        # A last label of digits only is no domain but a misspelt IP address.
        if len(host) > 253 or not re.fullmatch(rf"({label}\.)*(?![0-9]+$){label}", host.lower()):
            raise ValueError(wanted) from None
        return host.lower()
    if address.is_unspecified or getattr(address, "scope_id", None):
        raise ValueError(f"{wanted}; no other machine can reach this address")
    return str(address)


def address(host: str, port: int) -> str:
    """``"host:port"``; an IPv6 address is in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _server(text: str) -> str:
    match = re.fullmatch(r"(?:\[(.*:.*)\]|([^:]*)):([0-9]{1,5})", text)
    try:
        if not match or not 1 <= int(match[3]) <= 65535:
            raise ValueError
        return address(_host(match[1] or match[2]), int(match[3]))
    except ValueError:
        raise ValueError("give 'host:port', the host's DNS name or IP address, IPv6 in brackets") from None


def _name(name: str) -> str:
    # Upper case is fine: no two names may differ in case only, as some file systems would not distinguish them.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            f"the name {name!r} is also a folder's, so give at most 64 letters, digits, '.', '_' and '-', "
            "the first a letter or a digit"
        )
    if name.lower() in (AUTHORITY, SERVER):
        raise ValueError(f"no client can be named {name!r}, as that is the folder of the {name.lower()}")
    return name


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    if not names:
        raise ValueError("give at least one client")
    seen: dict[str, str] = {}
    for name in map(_name, names):
        if name.lower() in seen:
            raise ValueError(f"{seen[name.lower()]!r} and {name!r} are one name; names must differ in more than case")
        seen[name.lower()] = name
    return names


Port = Annotated[int, Field(ge=1, le=65535, strict=True)]


class _FolderTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerTable(_FolderTable):
    """The content of ``server.toml``.

    Attributes:
        host: the DNS name or IP address by which clients reach the server.
        port: to which clients connect.
        control_port: by which runs are started and watched.
        clients: their names; a client's number is its place in this list, from 0.
    """

    host: Annotated[str, AfterValidator(_host)]
    port: Port = 9092
    control_port: Port = 9093
    clients: Annotated[tuple[str, ...], AfterValidator(_names)]

    @model_validator(mode="after")
    def _ports_differ(self) -> ServerTable:
        if self.port == self.control_port:
            raise ValueError(f"port and control_port are both {self.port}: give two")
        return self


class ClientTable(_FolderTable):
    """The content of ``client.toml``.

    Attributes:
        name: the client's.
        client: its number, from 0.
        server: ``"host:port"``; an IPv6 address is in brackets.
    """

    name: Annotated[str, AfterValidator(_name)]
    client: Annotated[int, Field(ge=0, strict=True)]
    server: Annotated[str, AfterValidator(_server)]


class _Folder(_FolderTable):
    """What the folders of the server and of a client share; ``path`` is absolute."""

    path: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate, PEM; it signs the server's."""
        return self.path / "ca.pem"

    @property
    def log(self) -> Path:
        """Output of Flower's programs, and of fedtl's own."""
        return self.path / "log"

    @property
    def studies(self) -> Path:
        """What the participant keeps of studies."""
        return self.path / "studies"

    @property
    def flower_home(self) -> Path:
        """Flower's own files."""
        return self.path / "flower"


class ServerFolder(ServerTable, _Folder):
    """The server's folder, to which Flower and runs write too; ``path`` is absolute."""

    @property
    def address(self) -> str:
        """``"host:port"``, to which clients connect; an IPv6 address is in brackets."""
        return address(self.host, self.port)

    @property
    def certificate(self) -> Path:
        """The server's certificate, PEM."""
        return self.path / "server.pem"

    @property
    def key(self) -> Path:
        """The certificate's private key, PEM."""
        return self.path / "server.key"

    def public_key(self, name: str) -> Path:
        """A client's public key, one line in OpenSSH's format."""
        return self.path / "clients" / f"{name}.pub"

    def revoked_key(self, name: str) -> Path:
        """Where a client's public key is moved when it is revoked."""
        return self.path / "clients" / f"{name}.revoked"

    @property
    def admitted(self) -> tuple[str, ...]:
        """The clients whose keys were not revoked."""
        return tuple(name for name in self.clients if not self.revoked_key(name).exists())

    @property
    def database(self) -> Path:
        """The SuperLink's database."""
        return self.path / "superlink.db"


class ClientFolder(ClientTable, _Folder):
    """A client's folder, to which Flower and runs write too; ``path`` is absolute."""

    @property
    def key(self) -> Path:
        """The client's private key, in OpenSSH's format."""
        return self.path / "client.key"

    @property
    def socket(self) -> Path:
        """The Unix socket of the client agent; its folder exists.

        Paths of Unix sockets have at most ``SOCKET_BYTES``. If this one would be longer, the socket is in a temporary
        folder whose name is a hash of the path, so that all of the client's processes find it.

        Raises:
            ConfigError: the temporary folder belongs to somebody else, or its path is too long as well.
        """
        socket = self.path / "worker.sock"
        if len(os.fsencode(socket)) <= SOCKET_BYTES:
            return socket
        name = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"fedtl-{os.getuid()}-{name}"
        socket = folder / "worker.sock"
        if len(os.fsencode(socket)) > SOCKET_BYTES:
            raise ConfigError(f"{socket} is too long for a Unix socket: set TMPDIR to a shorter path")
        with _writing(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            about = folder.lstat()
        # Anybody may make folders there, and the owner of this one decides who answers.
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & 0o077:
            raise ConfigError(f"{folder} must be a folder that is yours alone (mode 700): remove it")
        return socket


def read_server(path: str | Path) -> ServerFolder:
    """Read the server's folder, or the one in the folder of the whole deployment.

    Raises:
        ConfigError: it is another kind of folder, or a file in it is missing or invalid.
    """
    folder = _folder(path)
    if not (folder / "server.toml").is_file():
        if (folder / "client.toml").is_file():
            raise ConfigError(f"{folder} is a client's folder: give the server's")
        if not (folder / SERVER).is_dir():
            raise ConfigError(f"{folder} has no server.toml, so it is no server's folder")
        folder = _folder(folder / SERVER)
        _check_there(folder / "server.toml")
    table = _read(folder / "server.toml", ServerTable)
    server = ServerFolder(path=folder.resolve(), **table.model_dump())
    _check_there(server.ca, server.certificate, server.key, *map(server.public_key, server.admitted))
    _check_private(server.key)
    keys.read_pair(server.certificate, server.key)
    return server


def read_client(path: str | Path) -> ClientFolder:
    """Read a client's folder.

    Raises:
        ConfigError: it is another kind of folder, or a file in it is missing or invalid.
    """
    folder = _folder(path)
    if not (folder / "client.toml").is_file():
        if (folder / "server.toml").is_file():
            raise ConfigError(f"{folder} is the server's folder: give a client's")
        clients = sorted(file.parent.name for file in folder.glob("*/client.toml"))
        if clients:
            raise ConfigError(
                f"{folder} holds the folders of clients: give one of {', '.join(clients)}, as {folder / clients[0]}"
            )
        raise ConfigError(f"{folder} has no client.toml, so it is no client's folder")
    table = _read(folder / "client.toml", ClientTable)
    client = ClientFolder(path=folder.resolve(), **table.model_dump())
    _check_there(client.ca, client.key)
    _check_private(client.key)
    return client


def create(
    path: str | Path,
    clients: Sequence[str],
    host: str,
    *,
    port: int = 9092,
    control_port: int = 9093,
    days: int = SERVER_DAYS,
) -> None:
    """Make the folders of a deployment, with its own certificate authority and keys; all of them or none.

    Args:
        path: a folder that does not exist yet or is empty.
        clients: their names.
        host: the DNS name or IP address by which clients reach the server.
        port: to which clients connect.
        control_port: by which runs are started and watched.
        days: how long the server's certificate is valid; the authority's is valid for ``AUTHORITY_DAYS``.

    Raises:
        ConfigError: one of the arguments is invalid.
        RunError: the folders cannot be written.
    """
    table = {"host": host, "port": port, "control_port": control_port, "clients": tuple(clients)}
    server = validate(ServerTable, table, "")
    _check_days(days)
    path = Path(path).expanduser().resolve()
    with _writing(path):
        exists = path.is_dir()
        if path.exists() and (not exists or any(path.iterdir())):
            raise ConfigError(f"{path} exists already: give a folder that does not, or an empty one")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=".fedtl-", dir=path if exists else path.parent))
        try:
            _fill(unfinished, server, days)
            if exists:  # filled and not replaced, as it may be a mount point or a working directory
                for part in unfinished.iterdir():
                    part.rename(path / part.name)
                unfinished.rmdir()
            else:
                unfinished.rename(path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def renew(path: str | Path, *, days: int = SERVER_DAYS, host: str | None = None) -> None:
    """Make a new certificate and key for the server, which clients trust as they trusted the old one.

    The clients' folders stay as they are; a new host must be entered in each client's ``client.toml``.

    Args:
        path: the folder of the whole deployment, with the authority's and the server's folders in it.
        days: how long it is valid, at most as long as the authority's certificate.
        host: a new DNS name or IP address by which clients reach the server; None for the old one.

    Raises:
        ConfigError: there is no authority or server, one of their files is invalid, or the authority has expired.
        RunError: the server's folder cannot be written.
    """
    _check_days(days)
    folder = _folder(path)
    for name in (AUTHORITY, SERVER):
        if not (folder / name).is_dir():
            raise ConfigError(f"{folder} has no folder {name!r}: certificates are made where the deployment was")
        _folder(folder / name)
    ca, key, file = folder / AUTHORITY / "ca.pem", folder / AUTHORITY / "ca.key", folder / SERVER / "server.toml"
    _check_there(ca, key, file)
    _check_private(key)
    authority = keys.read_pair(ca, key)
    server = _read(file, ServerTable)
    if host is not None:
        server = validate(ServerTable, {**server.model_dump(), "host": host}, "")
    now, end = datetime.now(UTC), authority.certificate.not_valid_after_utc
    if end <= now:
        raise ConfigError(f"{ca} expired on {end:%Y-%m-%d}: make a new deployment, with new folders for its clients")
    not_after = min(now + timedelta(days=days), end)
    pair = keys.server_certificate(authority, server.host, not_before=now - SKEW, not_after=not_after)
    with _writing(folder):
        pair.write(folder / SERVER / "server.pem", folder / SERVER / "server.key")
        if host is not None:
            unfinished = file.with_name("server.toml.unfinished")
            _write(unfinished, server)
            unfinished.replace(file)


def _fill(folder: Path, server: ServerTable, days: int) -> None:
    """Write a deployment into an empty folder."""
    now = datetime.now(UTC)
    authority = keys.new_authority(not_before=now - SKEW, not_after=now + timedelta(days=AUTHORITY_DAYS))
    pair = keys.server_certificate(authority, server.host, not_before=now - SKEW, not_after=now + timedelta(days=days))
    for name in (AUTHORITY, SERVER, *server.clients):
        (folder / name).mkdir(mode=0o700)
    ca = folder / AUTHORITY / "ca.pem"
    authority.write(ca, folder / AUTHORITY / "ca.key")
    pair.write(folder / SERVER / "server.pem", folder / SERVER / "server.key")
    _write(folder / SERVER / "server.toml", server)
    public = folder / SERVER / "clients"
    public.mkdir(mode=0o700)
    for i, name in enumerate(server.clients):
        keys.write_client_key(folder / name / "client.key", public / f"{name}.pub", name)
        where = address(server.host, server.port)
        _write(folder / name / "client.toml", ClientTable(name=name, client=i, server=where))
    for name in (SERVER, *server.clients):
        shutil.copy(ca, folder / name)


def _write(file: Path, table: _FolderTable) -> None:
    file.write_text(tomli_w.dumps(table.model_dump(mode="json")), encoding="utf-8")


T = TypeVar("T", bound=_FolderTable)


def _read(file: Path, model: type[T]) -> T:
    try:
        table: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, or no TOML
        raise ConfigError(f"{file} is not TOML: {' '.join(str(error).split())}") from error
    try:
        return validate(model, table, "")
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def _folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    try:
        if not folder.is_dir():
            what = "is no folder" if folder.exists() else "does not exist"
            raise ConfigError(f"{folder} {what}: give a folder that `fedtl deploy init` made")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror or error}") from error
    if not os.access(folder, os.R_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be read: it is another user's")
    return folder


def _check_there(*files: Path) -> None:
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{file} is missing: copy the whole folder that `fedtl deploy init` made")
        if not os.access(file, os.R_OK):
            raise ConfigError(f"{file} cannot be read: it is another user's")


def _check_private(key: Path) -> None:
    if key.stat().st_mode & 0o077:
        raise ConfigError(f"{key} is a private key that others may read: chmod 600 {key}")


def _check_days(days: int) -> None:
    if not 1 <= days <= AUTHORITY_DAYS:
        raise ConfigError(f"days = {days}: give 1 to {AUTHORITY_DAYS}, as for so long the authority itself is valid")


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn a full disk or an unwritable folder into one sentence, without what :mod:`fedtl.runs.record` imports."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or folder} cannot be written: {error.strerror or error}") from error
