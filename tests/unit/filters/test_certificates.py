"""Which certificates a site has to sign, and what of a user's own files would not work."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from filter_plugins.certificates import (
    authority_due,
    certificate_folders,
    certificate_mistakes,
    certificate_names,
    certificate_sources,
    certificate_stamps,
    certificates_due,
    certificates_watched,
)
from tests.support.certificates import Authority, pem

AUTHORITY = Authority()
DATABASE = {"name": "postgresql", "names": ["db", "10.0.0.1"], "clients": ["10.0.0.1"], "group": "ssl-cert"}
PROXY = {"name": "proxy", "names": ["web"], "clients": ["prefect.example.com"], "combined": True}
FILES = {"certificate": "own.pem", "key": "own.key"}


def test_names_of_a_certificate() -> None:
    values = ["db-1", "DB-1", "", None, "a b", "10.0.0.1", "[::1]", "::1", "*.x", "prefect.example.com", "a_b", "-x"]
    assert certificate_names(values) == [
        *("DNS:db-1", "IP:10.0.0.1", "IP:::1"),
        *("DNS:prefect.example.com", "DNS:a_b"),
    ]


def due(certificate: str, key: str, authority: str = AUTHORITY.certificate, names: Any = ("db", "10.0.0.1")) -> str:
    """Return the reason for which a certificate would be signed."""
    sources = certificate_sources([{**DATABASE, "names": names}], "database-1", "/s", {}, issued=True)
    contents = {
        "/s/database-1.postgresql.pem": certificate,
        "/s/database-1.postgresql.key": key,
        "/s/ca.pem": authority,
    }
    return "".join(found["reason"] for found in certificates_due(sources, contents, "/s/ca.pem", 60))


def test_a_certificate_is_due_for_a_reason() -> None:
    certificate, key = AUTHORITY.issue("db", "10.0.0.1")
    assert due(certificate, key) == ""
    assert due("", key) == due(certificate, "") == "it is not there yet"
    assert due("broken", key) == "its file is no certificate"
    assert due(certificate, "broken") == "its key cannot be read"
    assert due(certificate, pem(generate_private_key(SECP256R1()))) == "its key is another one's"
    # Another authority of the same name, as one that was made anew.
    assert due(*Authority().issue("db", "10.0.0.1")) == "the site's authority has not signed it"
    assert due(certificate, key, authority="") == "the site's authority has not signed it"
    assert due(*AUTHORITY.issue("db", "10.0.0.1", days=59)).startswith("it ends on 2")
    more = due(certificate, key, names=["db", "10.0.0.1", "db.example.com"])
    assert more == "it is for DNS:db, IP:10.0.0.1, and must be for DNS:db, IP:10.0.0.1, DNS:db.example.com"


def test_the_authority_is_renewed_before_what_it_signs_outlives_it() -> None:
    assert authority_due({}, "ca.pem") == "it is not there yet"
    assert authority_due({"ca.pem": AUTHORITY.certificate}, "ca.pem") == ""
    assert authority_due({"ca.pem": Authority(days=398).certificate}, "ca.pem").startswith("it ends on 2")


def mistakes(certificate: str, key: str, authority: str = AUTHORITY.certificate, **purpose: Any) -> str:
    """Return what is said of a user's own certificate."""
    sources = certificate_sources([{**DATABASE, **purpose}], "database-1", "/s", {"postgresql": FILES}, issued=True)
    assert certificates_due(sources, {}, "/s/ca.pem", 60) == []
    return " ".join(certificate_mistakes(sources, {"own.pem": certificate, "own.key": key, "ca": authority}, "ca"))


@pytest.mark.parametrize("names", [("10.0.0.1",), ("10.0.0.1", "x")])
def test_a_certificate_of_the_user_s_that_works(names: tuple[str, ...]) -> None:
    assert mistakes(*AUTHORITY.issue(*names)) == ""
    assert mistakes(*AUTHORITY.issue("*.example.com"), clients=["prefect.example.com"]) == ""


def test_certificates_of_the_user_s_that_would_not_work() -> None:
    certificate, key = AUTHORITY.issue("10.0.0.1")
    said = mistakes(*AUTHORITY.issue("10.0.0.2", "db"))
    assert said.startswith("site_tls_files.postgresql.certificate is own.pem: clients reach this host by IP:10.0.0.1,")
    assert said.endswith("and it is for DNS:db, IP:10.0.0.2.")
    assert "it ended on 2" in mistakes(*AUTHORITY.issue("10.0.0.1", days=-1))
    assert "no authority in site_tls_ca_file has signed it" in mistakes(*Authority("foreign").issue("10.0.0.1"))
    assert "its key is another one's (own.key)" in mistakes(certificate, AUTHORITY.issue("10.0.0.1")[1])
    assert "its key cannot be read (own.key)" in mistakes(certificate, "")
    assert "cannot be read as a certificate" in mistakes(key, key)
    assert "and it is for nobody" in mistakes(*AUTHORITY.issue())
    sources = certificate_sources([DATABASE], "database-1", "/s", {"postgresql": FILES}, issued=False)
    assert "name its file in site_tls_ca_file" in certificate_mistakes(sources, {}, "")[0]
    none = certificate_sources([DATABASE], "database-1", "/s", {}, issued=False)
    assert "site_tls is files, but there are none for this host" in certificate_mistakes(none, {}, "ca")[0]


def test_the_files_of_a_host() -> None:
    sources = certificate_sources([DATABASE, PROXY], "h", "/s", {"proxy": FILES}, issued=True)
    contents = {"/s/ca.pem": "CA", "own.pem": "WEB\n", "own.key": "KEY\n", "/s/h.postgresql.pem": "DB"}
    public, database, proxy = certificate_folders(sources, contents, "/e", ["/s/ca.pem", "ca"])
    # In check mode some are not there yet.
    later = "It is made when this is run without --check.\n"
    assert public == {"path": "/e", "files": {"ca.pem": f"CA\n{later}", "postgresql.pem": "DB\n", "proxy.pem": "WEB\n"}}
    assert database == {"path": "/e", "files": {"postgresql.key": later}, "group": "ssl-cert", "mode": "0640"}
    files = {"proxy.key": "KEY\n", "proxy-combined.pem": "WEB\nKEY\n"}
    assert proxy == {"path": "/e", "files": files, "mode": "0600"}
    (stamps,) = certificate_stamps(sources, contents, "/e")
    assert [len(text) for text in stamps["files"].values()] == [65, 65]


def test_what_health_watches() -> None:
    database = {**DATABASE, "address": "127.0.0.1:5432", "protocol": "postgresql"}
    assert certificates_watched([database, PROXY], "/e") == [
        {"file": "/e/ca.pem"},
        {"file": "/e/postgresql.pem", "address": "127.0.0.1:5432", "protocol": "postgresql"},
        {"file": "/e/proxy.pem"},
    ]
