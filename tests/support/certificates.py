"""A private authority, and certificates that it signs: as they should be, and as they should not."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.x509.oid import NameOID


def pem(key: EllipticCurvePrivateKey) -> str:
    """Write a private key as the files have it."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def sign_again(certificate: Path, authority: Path, authority_key: Path, days: float) -> str:
    """Return a certificate for the same key and names as its authority signs it, with another end."""
    former, issuer = (x509.load_pem_x509_certificate(path.read_bytes()) for path in (certificate, authority))
    key = serialization.load_pem_private_key(authority_key.read_bytes(), password=None)
    assert isinstance(key, EllipticCurvePrivateKey)
    end = datetime.now(UTC) + timedelta(days=days)
    builder = x509.CertificateBuilder(issuer.subject, former.subject, former.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(end - timedelta(days=400)).not_valid_after(end)
    for extension in former.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True)
class Authority:
    """An authority by its name; two of one name are still two."""

    name: str = "authority"
    days: float = 3650

    @cached_property
    def _key(self) -> EllipticCurvePrivateKey:
        return generate_private_key(SECP256R1())

    @property
    def _subject(self) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])

    def _builder(self, key: EllipticCurvePrivateKey, days: float) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=400))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )

    def _sign(self, builder: x509.CertificateBuilder) -> str:
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    @cached_property
    def certificate(self) -> str:
        """The authority's own certificate."""
        usages = dict.fromkeys(
            ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False
        )
        usage = x509.KeyUsage(**usages, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False)
        builder = self._builder(self._key, self.days).subject_name(self._subject).add_extension(usage, critical=True)
        return self._sign(builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True))

    def issue(self, *names: str, days: float = 90) -> tuple[str, str]:
        """Return a certificate for names and addresses, and its key."""
        key = generate_private_key(SECP256R1())
        known = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = self._builder(key, days).subject_name(x509.Name([])).add_extension(identifier, critical=False)
        if known:
            builder = builder.add_extension(x509.SubjectAlternativeName(known), critical=True)
        return self._sign(builder), pem(key)

    def write(self, folder: Path, name: str, *names: str, days: float = 90) -> tuple[Path, Path]:
        """Issue a certificate into two files."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, text in zip(paths, self.issue(*names, days=days), strict=True):
            path.write_text(text)
        return paths
