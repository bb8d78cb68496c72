"""Certificates and keys: clients identify the server by TLS, and the server its clients by ECDSA."""

from __future__ import annotations

import ipaddress
import os
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedtl.choice import ConfigError

# The SuperLink accepts keys on NIST curves only; Flower's own keys are on this one.
CURVE = ec.SECP384R1()
HASH = hashes.SHA384()

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names that are always in the server's certificate, for connections on its own machine."""

PrivateKey = ec.EllipticCurvePrivateKey


class Pair(NamedTuple):
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    def write(self, certificate: Path, key: Path) -> None:
        """Write both as PEM, the key as PKCS #8 and readable by its owner only; earlier files are replaced."""
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        unfinished = certificate.with_name(f"{certificate.name}.unfinished")
        unfinished.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        _write_private(key, pem)
        unfinished.replace(certificate)


def read_pair(certificate: Path, key: Path) -> Pair:
    """Read what :meth:`Pair.write` wrote.

    Raises:
        ConfigError: a file is missing or invalid, or the key is not the certificate's.
    """
    public, content = _read_certificate(certificate), _read(key)
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:  # a TypeError where it is encrypted
        raise ConfigError(f"{key} holds no private key as PEM without a passphrase") from error
    if not isinstance(private, PrivateKey) or private.public_key() != public.public_key():
        raise ConfigError(f"{key} is not the key of {certificate}: they were made together, so copy both")
    return Pair(public, private)


def new_authority(*, not_before: datetime, not_after: datetime) -> Pair:
    """A certificate authority: a self-signed certificate that may sign others, and no other authority.

    Args:
        not_before: start of validity, with a time zone.
        not_after: end of validity, with a time zone.
    """
    key = ec.generate_private_key(CURVE)
    name = _name("fedtl certificate authority")
    builder = (
        _builder(key, not_before, not_after)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    )
    return Pair(builder.sign(key, HASH), key)


def server_certificate(authority: Pair, host: str, *, not_before: datetime, not_after: datetime) -> Pair:
    """A server's certificate with a key of its own, signed by ``authority``.

    Args:
        authority: see :func:`new_authority`.
        host: the DNS name or IP address by which clients reach the server; see also ``LOOPBACK``.
        not_before: start of validity, with a time zone.
        not_after: end of validity, with a time zone.
    """
    key = ec.generate_private_key(CURVE)
    names = [_alternative(name) for name in dict.fromkeys((host, *LOOPBACK))]
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(key, not_before, not_after)
        .subject_name(_name("fedtl server"))  # a host may be too long for a common name, which is not checked anyway
        .issuer_name(authority.certificate.subject)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False)
    )
    return Pair(builder.sign(authority.key, HASH), key)


def write_client_key(private: Path, public: Path, name: str) -> None:
    """A new key pair of a client in OpenSSH's formats, which are what Flower reads.

    Args:
        private: its file, readable by its owner only.
        public: the file of the public key, one line with ``name`` as its comment.
        name: the client's.
    """
    key = ec.generate_private_key(CURVE)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    _write_private(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public.write_bytes(line + f" {name}\n".encode())


def expiry(certificate: Path) -> datetime:
    """The end of a certificate's validity, in UTC.

    Raises:
        ConfigError: the file cannot be read, or holds no certificate.
    """
    return _read_certificate(certificate).not_valid_after_utc


def _builder(key: PrivateKey, not_before: datetime, not_after: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _write_private(file: Path, content: bytes) -> None:
    """Write a private key so that nobody else can read it, not even while it is being written."""
    unfinished = file.with_name(f"{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)  # left by a crash
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    unfinished.replace(file)


def _read_certificate(file: Path) -> x509.Certificate:
    content = _read(file)
    try:
        return x509.load_pem_x509_certificate(content)
    except ValueError as error:
        raise ConfigError(f"{file} holds no certificate as PEM") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
