"""TLS certificates of every sort, made on the spot."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Authority:
    """A certificate authority and the folder it leaves its files in."""

    folder: Path
    name: x509.Name
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, folder: Path, name: str = "Test Authority") -> "Authority":
        folder.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        authority = cls(folder, _name(name), key)
        certificate = _builder(authority.name, key, timedelta(days=-1), timedelta(days=2))
        certificate = certificate.issuer_name(authority.name).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        authority.bundle.write_bytes(_signed(certificate, key))
        return authority

    @property
    def bundle(self) -> Path:
        return self.folder / "ca.pem"

    def context(
        self,
        host: str,
        *,
        starts: int = -1,
        ends: int = 2,
        is_self_signed: bool = False,
        key: Key | None = None,
    ) -> ssl.SSLContext:
        """Return a server's context with a certificate for `host`, valid from and to these days."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        name = _name(host)
        builder = _builder(name, key, timedelta(days=starts), timedelta(days=ends))
        builder = builder.issuer_name(name if is_self_signed else self.name).add_extension(
            x509.SubjectAlternativeName([_alternative(host)]), critical=False
        )
        path = self.folder / f"{host}.pem"
        path.write_bytes(
            _signed(builder, key if is_self_signed else self.key)
            + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _builder(
    name: x509.Name, key: Key, starts: timedelta, ends: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
    )


def _signed(builder: x509.CertificateBuilder, key: Key) -> bytes:
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
