"""What a deployment's participants hold: judged by openssl, ssh-keygen, Python's ssl module and gRPC."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fedtl.choice import ConfigError
from fedtl.deploy import folders, keys
from fedtl.deploy.folders import create, read_client, read_server, renew
from fedtl.failure import RunError

NAMES = ("north", "South-2", "a.b_c")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deployment that no test changes."""
    path = tmp_path_factory.mktemp("made") / "study"
    create(path, NAMES, "Fed.Example.org", port=19092, control_port=19093)
    return path


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(made, tmp_path / "study"))


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def message_of(what: Callable[..., object], *arguments: Any, error: type[Exception] = ConfigError, **named: Any) -> str:
    with pytest.raises(error) as caught:
        what(*arguments, **named)
    text = str(caught.value)
    assert "\n" not in text
    return text


def tool(*command: object) -> str:
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# What is there.


def test_each_participant_has_its_own_and_nothing_else(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {"authority", "server", *NAMES}
    assert listing(made / "authority") == {"ca.pem", "ca.key"}
    public = {f"clients/{name}.pub" for name in NAMES}
    assert listing(made / "server") == {"server.toml", "ca.pem", "server.pem", "server.key", "clients", *public}
    for name in NAMES:
        assert listing(made / name) == {"client.toml", "ca.pem", "client.key"}
    assert len({(path / "ca.pem").read_bytes() for path in made.iterdir()}) == 1
    private = [path for path in made.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in private} == {"ca.key", "server.key", "client.key"}
    assert len({path.read_bytes() for path in private}) == 2 + len(NAMES)


def test_only_the_owner_reads_keys_and_folders(made: Path) -> None:
    assert mode(made) == 0o700
    for path in made.rglob("*"):
        if path.is_dir():
            assert mode(path) == 0o700
        elif path.suffix == ".key":
            assert mode(path) == 0o600


def test_a_private_key_is_nobody_elses_from_its_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    opened = os.open

    def watched(file: Path, flags: int, bits: int = 0o777, **where: Any) -> int:
        descriptor = opened(file, flags, bits, **where)
        if ".key" in Path(file).name:
            about = os.fstat(descriptor)
            seen.append((stat.S_IMODE(about.st_mode), about.st_size))
        return descriptor

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(0)
    try:
        create(tmp_path / "study", ["a"], "localhost")
    finally:
        os.umask(before)
    assert seen == [(0o600, 0)] * 3
    assert {mode(path) for path in tmp_path.rglob("*.key")} == {0o600}
    assert {mode(path) for path in tmp_path.rglob("*") if path.is_dir()} == {0o700}


def test_the_tomls_say_who_is_where(made: Path) -> None:
    assert tomllib.loads((made / "server" / "server.toml").read_text()) == {
        "host": "fed.example.org",
        "port": 19092,
        "control_port": 19093,
        "clients": list(NAMES),
    }
    for i, name in enumerate(NAMES):
        table = tomllib.loads((made / name / "client.toml").read_text())
        assert table == {"name": name, "client": i, "server": "fed.example.org:19092"}


def test_what_is_read_is_what_is_there(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = read_server(made)
    assert server == read_server(str(made / "server"))
    assert (server.address, server.control_port, server.clients) == ("fed.example.org:19092", 19093, NAMES)
    there = {server.ca, server.certificate, server.key, *map(server.public_key, NAMES)}
    own = {made / "server" / name for name in listing(made / "server") - {"server.toml", "clients"}}
    assert there == own
    to_come = (server.log, server.studies, server.database, server.flower_home)
    assert [path.name for path in to_come] == ["log", "studies", "superlink.db", "flower"]

    monkeypatch.chdir(made)  # paths are absolute wherever they are read from
    assert read_server("server") == read_server(".") == server
    client = read_client("South-2")
    assert client == read_client(made / "South-2")
    assert (client.name, client.client, client.server) == ("South-2", 1, "fed.example.org:19092")
    assert {client.ca, client.key} == {made / "South-2" / "ca.pem", made / "South-2" / "client.key"}
    assert [path.name for path in (client.log, client.studies, client.flower_home)] == ["log", "studies", "flower"]
    assert {path.parent for path in (client.log, client.studies, client.flower_home)} == {made / "South-2"}


def test_an_ipv6_server_is_written_in_brackets(tmp_path: Path) -> None:
    create(tmp_path / "study", ["a"], "2001:DB8:0::7")
    assert read_server(tmp_path / "study").address == "[2001:db8::7]:9092"
    assert read_client(tmp_path / "study" / "a").server == "[2001:db8::7]:9092"


# Certificates and keys.


def test_openssl_verifies_the_chain(made: Path, tmp_path: Path) -> None:
    ca, server = made / "authority" / "ca.pem", made / "server" / "server.pem"
    verify = ("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", ca)
    for name in (("-verify_hostname", "fed.example.org"), ("-verify_hostname", "localhost"), ("-verify_ip", "::1")):
        assert tool(*verify, *name, server).endswith(": OK\n")
    create(tmp_path / "other", ["a"], "localhost")
    for wrong in (
        ("openssl", "verify", "-CAfile", tmp_path / "other" / "authority" / "ca.pem", server),
        (*verify, "-verify_hostname", "example.org", server),
        ("openssl", "verify", "-purpose", "sslclient", "-CAfile", ca, server),
    ):
        with pytest.raises(AssertionError, match="verification failed"):
            tool(*wrong)


def test_openssl_reads_what_was_asked_for(made: Path) -> None:
    ca = tool("openssl", "x509", "-in", made / "authority" / "ca.pem", "-noout", "-text")
    server = tool("openssl", "x509", "-in", made / "server" / "server.pem", "-noout", "-text")
    for text in (ca, server):
        assert "Public-Key: (384 bit)" in text
        assert "ASN1 OID: secp384r1" in text
        assert "Signature Algorithm: ecdsa-with-SHA384" in text
    own, issuer = re.findall(r"Subject Key Identifier: *\n\s*(\S+)", ca), re.findall(r"keyid:(\S+)", server)
    issuer = issuer or re.findall(r"Authority Key Identifier: *\n\s*(\S+)", server)
    assert own == issuer != []
    assert re.search(r"Basic Constraints: critical\s+CA:TRUE, pathlen:0\n", ca)
    assert re.search(r"Key Usage: critical\s+Certificate Sign, CRL Sign\n", ca)
    assert re.search(r"Basic Constraints: critical\s+CA:FALSE\n", server)
    assert re.search(r"Extended Key Usage: *\s+TLS Web Server Authentication\n", server)
    names = re.search(r"Subject Alternative Name: *\n\s*(.*)", server)
    assert names is not None
    assert names[1].strip() == ("DNS:fed.example.org, DNS:localhost, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1")


def test_a_name_is_not_named_twice(tmp_path: Path) -> None:
    create(tmp_path / "study", ["a"], "127.0.0.1")
    server = tmp_path / "study" / "server" / "server.pem"
    text = tool("openssl", "x509", "-in", server, "-noout", "-ext", "subjectAltName")
    assert sorted(re.findall(r"(?:DNS|Address):([^,\s]+)", text)) == ["0:0:0:0:0:0:0:1", "127.0.0.1", "localhost"]


def test_how_long_certificates_are_valid(made: Path, tmp_path: Path) -> None:
    create(tmp_path / "study", ["a"], "localhost", days=3)
    day = 24 * 60 * 60
    for file, days in (
        (made / "server" / "server.pem", 825),
        (made / "authority" / "ca.pem", 3650),
        (tmp_path / "study" / "server" / "server.pem", 3),
    ):
        left = keys.expiry(file) - datetime.now(UTC)
        assert timedelta(days=days, hours=-1) < left <= timedelta(days=days)
        tool("openssl", "x509", "-in", file, "-noout", "-checkend", (days - 1) * day)
        with pytest.raises(AssertionError, match="will expire"):
            tool("openssl", "x509", "-in", file, "-noout", "-checkend", (days + 1) * day)
        end = tool("openssl", "x509", "-in", file, "-noout", "-enddate").strip().removeprefix("notAfter=")
        assert f"{keys.expiry(file):%b} {keys.expiry(file).day:2} {keys.expiry(file):%H:%M:%S %Y} GMT" == end


def test_ssh_keygen_derives_the_public_key_from_the_private_one(made: Path) -> None:
    for name in NAMES:
        public = (made / "server" / "clients" / f"{name}.pub").read_text()
        assert public.count("\n") == 1
        kind, key, comment = public.split()
        assert (kind, comment) == ("ecdsa-sha2-nistp384", name)
        private = made / name / "client.key"
        assert private.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
        assert tool("ssh-keygen", "-y", "-f", private).split()[:2] == [kind, key]
        bits, _, *_, algorithm = tool("ssh-keygen", "-l", "-f", private).split()
        assert (bits, algorithm) == ("384", "(ECDSA)")


def test_a_file_that_is_no_certificate_has_no_expiry(made: Path, tmp_path: Path) -> None:
    key = made / "server" / "server.key"
    assert message_of(keys.expiry, key) == f"{key} holds no certificate as PEM"
    assert message_of(keys.expiry, tmp_path / "x") == f"{tmp_path / 'x'} cannot be read: No such file or directory"
    certificate = made / "server" / "server.pem"
    assert message_of(keys.read_pair, certificate, tmp_path) == f"{tmp_path} cannot be read: Is a directory"


# TLS.


def shake_hands(server: Path, ca: Path, name: str) -> str | None:
    """Connect to a server with the certificate in the folder ``server``, trusting ``ca``; the version of TLS."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(server / "server.pem", server / "server.key")
    ours = ssl.create_default_context(cafile=ca)
    ours.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(30)
                with suppress(ssl.SSLError, ConnectionError):  # the client says what it did not like
                    theirs.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            plain = socket.create_connection(listener.getsockname(), timeout=30)
            with plain, ours.wrap_socket(plain, server_hostname=name) as secure:
                return secure.version()
        finally:
            thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "fed.example.org"])
def test_a_client_trusts_its_server(made: Path, name: str) -> None:
    assert shake_hands(made / "server", made / "north" / "ca.pem", name) == "TLSv1.3"


def test_a_client_trusts_no_other_server(made: Path, tmp_path: Path) -> None:
    create(tmp_path / "other", ["a"], "fed.example.org")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"self-signed certificate|local issuer|signature failure"):
        shake_hands(tmp_path / "other" / "server", made / "north" / "ca.pem", "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(made / "server", made / "north" / "ca.pem", "example.org")


def expire(study: Path) -> None:
    """Give the server a certificate that was valid until a minute ago."""
    authority = keys.read_pair(study / "authority" / "ca.pem", study / "authority" / "ca.key")
    now = datetime.now(UTC)
    pair = keys.server_certificate(
        authority, "fed.example.org", not_before=now - timedelta(hours=1), not_after=now - timedelta(minutes=1)
    )
    pair.write(study / "server" / "server.pem", study / "server" / "server.key")


def test_an_expired_certificate_is_trusted_no_more_until_it_is_renewed(study: Path) -> None:
    expire(study)
    ca = study / "north" / "ca.pem"
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        shake_hands(study / "server", ca, "localhost")
    assert keys.expiry(read_server(study).certificate) < datetime.now(UTC)
    renew(study)
    assert shake_hands(study / "server", ca, "localhost") == "TLSv1.3"


def test_grpc_trusts_the_server_too(made: Path) -> None:
    """Flower's processes talk through gRPC, whose TLS is BoringSSL's and not Python's."""
    import grpc

    server, client = read_server(made), read_client(made / "north")
    ours = grpc.ssl_server_credentials([(server.key.read_bytes(), server.certificate.read_bytes())])
    service = grpc.server(None)
    port = service.add_secure_port("127.0.0.1:0", ours)
    service.start()
    theirs = grpc.ssl_channel_credentials(client.ca.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", theirs) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
    service.stop(None)


# Renewal.


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in listing(folder) if (folder / name).is_file()}


def test_renewal_changes_the_servers_certificate_and_key_alone(study: Path) -> None:
    before = contents(study)
    renew(study, days=30)
    after = contents(study)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"server/server.pem", "server/server.key"}
    assert mode(study / "server" / "server.key") == 0o600
    assert abs(keys.expiry(study / "server" / "server.pem") - datetime.now(UTC) - timedelta(days=30)) < timedelta(0, 60)
    assert shake_hands(study / "server", study / "north" / "ca.pem", "fed.example.org") == "TLSv1.3"


def test_renewal_for_another_host(study: Path) -> None:
    before = {name: contents(study / name) for name in NAMES}
    renew(study, host="10.1.2.3")
    assert read_server(study).address == "10.1.2.3:19092"
    assert {name: contents(study / name) for name in NAMES} == before
    ca = study / "north" / "ca.pem"
    assert shake_hands(study / "server", ca, "10.1.2.3") == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(study / "server", ca, "fed.example.org")


def test_renewal_after_the_files_were_lost(study: Path) -> None:
    (study / "server" / "server.pem").unlink()
    (study / "server" / "server.key").unlink()
    (study / "server" / "server.key.unfinished").touch(0o644)  # what a crash leaves
    renew(study)
    assert read_server(study).key.exists()
    assert mode(study / "server" / "server.key") == 0o600
    assert not (study / "server" / "server.key.unfinished").exists()


def test_a_certificate_does_not_outlive_its_authority(study: Path) -> None:
    ca, now = study / "authority" / "ca.pem", datetime.now(UTC)
    keys.new_authority(not_before=now - timedelta(days=9), not_after=now + timedelta(days=5)).write(
        ca, ca.with_name("ca.key")
    )
    renew(study)
    assert keys.expiry(study / "server" / "server.pem") == keys.expiry(ca)
    past = datetime(2020, 1, 2, tzinfo=UTC)
    keys.new_authority(not_before=past - timedelta(days=9), not_after=past).write(ca, ca.with_name("ca.key"))
    assert message_of(renew, study) == (
        f"{ca} expired on 2020-01-02: make a new deployment, with new folders for its clients"
    )


def test_renewal_needs_the_authority(study: Path) -> None:
    server = study / "server"
    assert message_of(renew, server) == (
        f"{server} has no folder 'authority': certificates are made where the deployment was"
    )
    ca = study / "authority" / "ca.key"
    shutil.copy(server / "server.key", ca)
    assert message_of(renew, study) == (
        f"{ca} is not the key of {ca.with_name('ca.pem')}: they were made together, so copy both"
    )
    ca.write_text("nothing")
    assert message_of(renew, study) == f"{ca} holds no private key as PEM without a passphrase"
    ca.chmod(0o640)
    assert "chmod 600" in message_of(renew, study)
    ca.unlink()
    assert message_of(renew, study).startswith(f"{ca} is missing: ")
    for days in (0, 3651):
        assert message_of(renew, study, days=days).startswith(f"days = {days}: give 1 to 3650")


# What cannot be made.


@pytest.mark.parametrize(
    ("clients", "sentence"),
    [
        ([], "clients = (): give at least one client"),
        (["a", "server"], "no client can be named 'server', as that is the folder of the server"),
        (["Authority"], "no client can be named 'Authority', as that is the folder of the authority"),
        (["a", "b", "a"], "'a' and 'a' are one name; names must differ in more than case"),
        (["Oslo", "oslo"], "'Oslo' and 'oslo' are one name; names must differ in more than case"),
        *(([name], f"the name {name!r} is also a folder's, so give at most 64 letters") for name in ("", "é", "a b")),
        *(([name], f"the name {name!r} is also a folder's, so give") for name in ("../a", ".a", "-a", "a\n", "a/b")),
        (["a" * 65], "so give at most 64 letters, digits, '.', '_' and '-', the first a letter or a digit"),
    ],
)
def test_names_of_clients(tmp_path: Path, clients: list[str], sentence: str) -> None:
    text = message_of(create, tmp_path / "study", clients, "localhost")
    assert text.startswith("clients = (")
    assert sentence in text
    assert listing(tmp_path) == set()


@pytest.mark.parametrize(
    "host",
    [
        *(
            "",
            "a b",
            "a_b.org",
            "-a.org",
            "a..org",
            "a.org.",
            "*.a.org",
            "bücher.example",
            "a\n",
            "a" * 64,
            "a." * 127 + "a",
        ),
        *("https://a.org", "a.org:9092", "10.0.0.1:9092", "[::1]", "[::1]:9092"),
        *("256.1.1.1", "1.2.3", "1234", "10.0.0.0/8", "0.0.0.0", "::", "fe80::1%eth0"),
    ],
)
def test_hosts_that_are_none(tmp_path: Path, host: str) -> None:
    text = message_of(create, tmp_path / "study", ["a"], host)
    assert text.startswith("host = ")
    assert "give the DNS name or the IP address by which clients reach the server, without scheme and port" in text
    assert listing(tmp_path) == set()


@pytest.mark.parametrize("host", ["a", "a1-b.example.org", "1and1.example", "10.0.0.1", "x" * 63 + "." + "y" * 63])
def test_hosts_that_are_some(tmp_path: Path, host: str) -> None:
    create(tmp_path / "study", ["a"], host)
    assert shake_hands(tmp_path / "study" / "server", tmp_path / "study" / "a" / "ca.pem", host) == "TLSv1.3"


def test_ports_and_days(tmp_path: Path) -> None:
    path = tmp_path / "study"
    assert message_of(create, path, ["a"], "b", port=0) == "port = 0: should be greater than or equal to 1"
    assert message_of(create, path, ["a"], "b", control_port=65536) == (
        "control_port = 65536: should be less than or equal to 65535"
    )
    assert message_of(create, path, ["a"], "b", port=9093) == "port and control_port are both 9093: give two"
    assert message_of(create, path, ["a"], "b", days=-1) == (
        "days = -1: give 1 to 3650, as for so long the authority itself is valid"
    )
    assert listing(tmp_path) == set()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for path in (tmp_path / "full", tmp_path / "file"):
        sentence = f"{path} exists already: give a folder that does not, or an empty one"
        assert message_of(create, path, ["a"], "localhost") == sentence
    assert listing(tmp_path) == {"full", "full/mine", "file"}


def test_an_empty_folder_is_filled_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    create(".", ["a"], "localhost")
    assert {path.name for path in Path.cwd().iterdir()} == {"authority", "server", "a"}
    assert read_client("a").path == tmp_path / "study" / "a"


@pytest.mark.parametrize("exists", [False, True])
def test_half_a_deployment_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exists: bool) -> None:
    write = keys.write_client_key
    reached = []

    def fails_at_the_second(private: Path, public: Path, name: str) -> None:
        reached.append(name)
        if name == "b":
            raise OSError(28, "No space left on device", str(private))
        write(private, public, name)

    monkeypatch.setattr(keys, "write_client_key", fails_at_the_second)
    if exists:
        (tmp_path / "study").mkdir()
    text = message_of(create, tmp_path / "study", ["a", "b"], "localhost", error=RunError)
    assert text.endswith("b/client.key cannot be written: No space left on device")
    assert reached == ["a", "b"]
    assert listing(tmp_path) == ({"study"} if exists else set())


# What cannot be read.


def test_folders_that_are_others(study: Path, tmp_path: Path) -> None:
    nowhere, file = tmp_path / "nowhere", study / "server" / "server.toml"
    for read in (read_server, read_client, renew):
        for path, what in ((nowhere, "does not exist"), (file, "is no folder")):
            sentence = f"{path} {what}: give a folder that `fedtl deploy init` made"
            assert message_of(read, path) == sentence
    assert message_of(read_server, study / "north") == f"{study / 'north'} is a client's folder: give the server's"
    assert message_of(read_client, study / "server") == f"{study / 'server'} is the server's folder: give a client's"
    assert message_of(read_client, study) == (
        f"{study} holds the folders of clients: give one of South-2, a.b_c, north, as {study / 'South-2'}"
    )
    authority = study / "authority"
    assert message_of(read_server, authority) == f"{authority} has no server.toml, so it is no server's folder"
    assert message_of(read_client, authority) == f"{authority} has no client.toml, so it is no client's folder"


@pytest.mark.parametrize("name", ["server.toml", "ca.pem", "server.pem", "server.key", "clients/a.b_c.pub"])
def test_a_server_without_one_of_its_files(study: Path, name: str) -> None:
    file = study / "server" / name
    file.unlink()
    sentence = f"{file} is missing: copy the whole folder that `fedtl deploy init` made"
    assert message_of(read_server, study) == sentence


@pytest.mark.parametrize("name", ["ca.pem", "client.key"])
def test_a_client_without_one_of_its_files(study: Path, name: str) -> None:
    file = study / "north" / name
    file.unlink()
    sentence = f"{file} is missing: copy the whole folder that `fedtl deploy init` made"
    assert message_of(read_client, study / "north") == sentence


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o620])
def test_keys_that_others_may_read(study: Path, bits: int) -> None:
    for key, read in ((study / "server" / "server.key", read_server), (study / "north" / "client.key", read_client)):
        key.chmod(bits)
        sentence = f"{key} is a private key that others may read: chmod 600 {key}"
        assert message_of(read, key.parent) == sentence
        key.chmod(0o400)
        read(key.parent)


def test_a_certificate_with_anothers_key(study: Path, tmp_path: Path) -> None:
    create(tmp_path / "other", ["a"], "localhost")
    key = Path(shutil.copy(tmp_path / "other" / "server" / "server.key", study / "server"))
    assert message_of(read_server, study) == (
        f"{key} is not the key of {key.with_suffix('.pem')}: they were made together, so copy both"
    )


def changed(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("port = 19092", "port = 70000", "port = 70000: should be less than or equal to 65535"),
        ("port = 19092", "port = true", "port = True: should be a valid integer"),
        ("port = 19092", "prt = 19092", "prt is not a key here: did you mean 'port'?"),
        ("port = 19092", "path = '/'", "path is not a key here: known: clients, control_port, host, port"),
        ('host = "fed.example.org"', "", "host is missing"),
        ("fed.example.org", "fed.example.org:1", "host = 'fed.example.org:1': give the DNS name or the IP address"),
        ('"north"', '"a.b_c"', "clients = ['a.b_c', 'South-2', 'a.b_c']: 'a.b_c' and 'a.b_c' are one name"),
        ("19093", "19092", "port and control_port are both 19092: give two"),
    ],
)
def test_a_server_toml_with_a_mistake(study: Path, old: str, new: str, sentence: str) -> None:
    file = study / "server" / "server.toml"
    if old == "port = 19092":
        old, new = f"\n{old}", f"\n{new}"
    changed(file, old, new)
    for read in (read_server, renew):
        assert message_of(read, study).startswith(f"{file}: {sentence}")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("client = 0", "client = -1", "client = -1: should be greater than or equal to 0"),
        ("client = 0", "client = true", "client = True: should be a valid integer"),
        ("client = 0", "client = 0\nhost = 'x'", "host is not a key here: known: client, name, server"),
        ('"north"', '"../north"', "name = '../north': the name '../north' is also a folder's"),
        *(
            ("fed.example.org:19092", server, f"server = {server!r}: give 'host:port', the host's DNS name or IP")
            for some in (
                "a.org a.org: a.org:0 a.org:65536 a.org:x ::1:9092 [a.org]:1 [::1]",
                "https://a.org:1 a_b:1 :1",
            )
            for server in some.split()
        ),
    ],
)
def test_a_client_toml_with_a_mistake(study: Path, old: str, new: str, sentence: str) -> None:
    file = study / "north" / "client.toml"
    changed(file, old, new)
    assert message_of(read_client, study / "north").startswith(f"{file}: {sentence}")


def test_a_toml_that_is_none(study: Path) -> None:
    file = study / "north" / "client.toml"
    for content in (b"name = ", b"\xff\xfe"):
        file.write_bytes(content)
        assert message_of(read_client, study / "north").startswith(f"{file} is not TOML: ")


# Sockets.


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for temporary files, with a short path as usual."""
    path = Path(tempfile.mkdtemp(dir="/tmp")).resolve()
    monkeypatch.setattr(tempfile, "tempdir", str(path))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def deep(made: Path, tmp_path: Path) -> Path:
    """The deployment under a path too long for sockets."""
    path = tmp_path / ("d" * 60) / ("e" * 60)
    shutil.copytree(made, path)
    return path


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(path))


def test_a_socket_can_be_bound_however_deep_the_folder_is(made: Path, deep: Path, temporary: Path) -> None:
    shutil.copytree(made / "north", temporary / "north")
    near = read_client(temporary / "north")
    assert near.socket == temporary / "north" / "worker.sock"
    bind(near.socket)

    with pytest.raises(OSError, match="too long"):
        bind(deep / "north" / "worker.sock")
    far, other = read_client(deep / "north").socket, read_client(deep / "South-2").socket
    assert far != other
    for path in (far, other):
        assert path.parent.parent == temporary
        assert mode(path.parent) == 0o700
        bind(path)
    (temporary / "link").symlink_to(deep)
    assert read_client(temporary / "link" / "north").socket == far


def test_a_folder_for_sockets_that_others_may_enter(deep: Path, temporary: Path) -> None:
    client = read_client(deep / "north")
    folder = client.socket.parent
    sentence = f"{folder} must be a folder that is yours alone (mode 700): remove it"
    folder.chmod(0o755)
    assert message_of(lambda: client.socket) == sentence
    folder.rmdir()
    (temporary / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(temporary / "elsewhere")
    assert message_of(lambda: client.socket) == sentence
    folder.unlink()
    assert mode(client.socket.parent) == 0o700


def test_a_temporary_folder_that_is_too_deep_as_well(deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    client = read_client(deep / "north")
    assert message_of(lambda: client.socket).endswith(
        "/worker.sock is too long for a Unix socket: set TMPDIR to a shorter path"
    )


def test_the_longest_path_that_is_bound_where_it_is(made: Path, temporary: Path) -> None:
    for length in (folders.SOCKET_BYTES, folders.SOCKET_BYTES + 1):
        folder = temporary / ("x" * (length - len(f"{temporary}//worker.sock")))
        shutil.copytree(made / "north", folder)
        path = read_client(folder).socket
        assert (path.parent == folder) == (length == folders.SOCKET_BYTES)
        bind(path)


# Another user's.


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_folders_of_another_user(study: Path) -> None:
    study.chmod(0o755)
    calls = (("read_server", "server"), ("read_server", "."), ("read_client", "north"), ("renew", "."))
    script = f"""
import os
from fedtl.deploy import folders
os.chdir({str(study)!r})
os.setuid(65534)
for call, path in {(*calls, ("read_client", str(study)))!r}:
    try:
        getattr(folders, call)(path)
    except folders.ConfigError as error:
        print(error)
"""
    *messages, unreachable = tool(sys.executable, "-c", script).splitlines()
    assert messages == [
        f"{folder} cannot be read: it is another user's" for folder in ["server", "server", "north", "authority"]
    ]
    assert unreachable == f"{study} cannot be read: Permission denied"


# Keys that were revoked.


def test_a_key_that_was_revoked_need_not_be_there(study: Path) -> None:
    server = read_server(study / "server")
    assert server.admitted == server.clients == NAMES
    server.public_key("north").rename(server.revoked_key("north"))
    again = read_server(study / "server")
    assert (again.clients, again.admitted) == (NAMES, NAMES[1:])
    read_client(study / "north")  # the client's own folder is as it was
    server.public_key("a.b_c").unlink()
    assert "a.b_c" in message_of(read_server, study / "server")
