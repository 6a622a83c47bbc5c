"""The ends of certificates, read from files of every kind."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pgprefect.health.certificates import certificates, certificates_in, end_of
from pgprefect.health.thresholds import Least, ThresholdError, Thresholds
from pgprefect.site.configuration import Certificate

from tests.support.certificates import Authority


def test_the_ends_are_as_they_were_made(tmp_path: Path) -> None:
    """UTCTime to 2049, GeneralizedTime after it."""
    for days in (1, 9000, 20000):
        (tmp_path / "one.pem").write_text("Text before\n" + Authority().issue("db", days=days)[0])
        (certificate,) = certificates_in(str(tmp_path / "one.pem"))
        assert abs(end_of(certificate) - datetime.now(UTC) - timedelta(days=days)) < timedelta(seconds=10)


def test_a_system_s_bundle_is_not_judged(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(Authority(days=1).certificate * 11)
    assert certificates(Thresholds(), [Certificate(str(bundle))]) == ([], {"certificates": []})


@pytest.mark.parametrize(
    ("days", "severities", "words"),
    [
        (31, [], ""),
        (29.5, ["warning"], "ends on 2"),
        (6.5, ["error"], "in 6 days"),
        (-1, ["error"], "ended on 2"),
    ],
)
def test_a_certificate_that_ends(tmp_path: Path, days: float, severities: list[str], words: str) -> None:
    authority = Authority()
    (tmp_path / "db.pem").write_text(authority.issue("db", days=days)[0] + authority.certificate)
    problems, details = certificates(Thresholds(), [Certificate(str(tmp_path / "db.pem"))])
    assert [(problem.code, problem.severity) for problem in problems] == [("certificate_ends", s) for s in severities]
    assert all(problem.message.startswith(f"The certificate {tmp_path}/db.pem ") for problem in problems)
    assert all(words in problem.message for problem in problems)
    assert [found["days"] for found in details["certificates"]] == pytest.approx([days, 3650], abs=0.11)


def test_what_cannot_be_looked_at_is_not_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken, folder = tmp_path / "broken.pem", tmp_path / "folder"
    broken.write_text("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
    (tmp_path / "key.pem").write_text(Authority().issue("db")[1])
    folder.mkdir()
    watched = [Certificate(str(tmp_path / name)) for name in ("none.pem", "broken.pem", "key.pem", "folder")]
    problems, _ = certificates(Thresholds(), watched)
    assert [problem.code for problem in problems] == ["certificate_missing", *["certificate_unreadable"] * 3]

    def forbidden(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", forbidden)
    (problem,) = certificates(Thresholds(), [Certificate(str(broken))])[0]
    assert (problem.code, problem.severity) == ("check_not_permitted", "error")


def test_the_limit_is_a_least() -> None:
    assert Thresholds.from_arguments({"certificate_days": {"warning": 60}}).certificate_days == Least(60, 7)
    with pytest.raises(ThresholdError, match="warns at 5, beyond its critical 7"):
        Thresholds.from_arguments({"certificate_days": {"warning": 5}})


@contextlib.contextmanager
def serving(certificate: Path, key: Path) -> Iterator[str]:
    """A service that shows a certificate to whoever connects, and its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def show() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with contextlib.suppress(ssl.SSLError):
                        context.wrap_socket(listener.accept()[0], server_side=True).close()

        threading.Thread(target=show, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def test_a_service_that_shows_another_certificate_than_the_installed(tmp_path: Path) -> None:
    authority = Authority()
    old, new = (authority.write(tmp_path, name, "db", days=days) for name, days in (("old", 20), ("new", 300)))
    with serving(*old) as address:
        assert certificates(Thresholds(certificate_days=Least(10, 7)), [Certificate(str(old[0]), address)])[0] == []
        loaded, ends = certificates(Thresholds(), [Certificate(str(new[0]), address)])[0]
    assert (loaded.code, loaded.severity) == ("certificate_not_loaded", "warning")
    assert f"At {address} another certificate is shown than the installed {new[0]}." == loaded.message
    assert (ends.code, ends.severity) == ("certificate_ends", "warning")
    assert ends.message.startswith(f"The certificate shown at {address} ends on 2")
    (away,) = certificates(Thresholds(), [Certificate(str(new[0]), address)])[0]
    assert (away.code, away.severity) == ("certificate_not_shown", "error") and "refused" in away.message
