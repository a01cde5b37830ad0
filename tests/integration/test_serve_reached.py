"""How `distreid serve` is reached: by TLS, behind a proxy, not too often; and what it logs."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import httpx
import pytest
from conftest import LIMIT_S
from running_service import refused, sent, serving
from small_runs import make_run

from distreid.cli import main
from distreid.data.source import SAMPLE_FOLDER

QUERIES = sorted((SAMPLE_FOLDER / "query").glob("*.jpg"))
SEARCHER, CHANGER = "search-search-search", "change-change-change"


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run", 1)
    assert main(["gallery", "create", str(tmp_path / "g"), "--run", str(run), "--copy"]) == 0
    return tmp_path / "g"


def certificate(folder: Path, *, passphrase: bytes | None = None) -> tuple[Path, Path]:
    """A new one of this machine, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    encryption = (
        serialization.BestAvailableEncryption(passphrase)
        if passphrase
        else serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    return folder / "cert.pem", folder / "key.pem"


def test_https_with_a_certificate(gallery: Path, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    (tmp_path / "tokens").write_text(f"search {SEARCHER}\n")
    words = ("--tls-certificate", cert, "--tls-key", key, "--token-file", tmp_path / "tokens")
    with serving(gallery, *words, trusted=cert) as (client, _):
        assert client.base_url.scheme == "https"
        kept = client.post("/v1/session", json={"token": SEARCHER})
        assert "Secure" in kept.headers["set-cookie"]
        assert client.get("/v1/gallery").json()["rows"] == 30
        with pytest.raises(httpx.ConnectError, match="certificate"):  # nobody vouches for it
            httpx.get(client.base_url, trust_env=False)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--tls-key", "key.pem"], "both are wanted"),
        (["--tls-certificate", "none", "--tls-key", "key.pem"], "No such file"),
        (["--tls-certificate", "cert.pem", "--tls-key", "cert.pem"], "a PEM certificate"),
        (["--tls-certificate", "cert.pem", "--tls-key", "key.pem"], "without a passphrase"),
        (["--rate", "0"], "--rate 0: a number above 0"),
        (["--root-path", "people/"], "one such as /people"),
        (["--trusted-proxy", "me"], "--trusted-proxy me: an address such as"),
        (["--trusted-proxy", "127.0.0.1"], "behind 127.0.0.1: others reach it; give a --token"),
    ],
)
def test_a_mistake_is_one_line(
    gallery: Path,
    words: list[str],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(gallery.parent)
    certificate(gallery.parent, passphrase=b"secret")
    capsys.readouterr()
    assert main(["serve", "g", "--port", "0", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and line in said


def test_below_a_path_of_a_proxy_that_is_trusted(gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"change {CHANGER}\n")
    words = ("--root-path", "/people", "--trusted-proxy", "127.0.0.1", "--rate", "3")
    with serving(gallery, *words, "--token-file", tmp_path / "tokens") as (client, _):
        assert client.get("/").status_code == client.get("/page.css").status_code == 200
        https = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.1"}
        kept = client.post("/v1/session", json={"token": CHANGER}, headers=https)
        assert {"Secure", "Path=/people"} <= set(kept.headers["set-cookie"].split("; "))
        token = {"Authorization": f"Bearer {CHANGER}"}
        assert client.get("/openapi.json", headers=token | https).json()["servers"] == [
            {"url": "/people"}
        ]
        # Clients are told apart by what the proxy says of them: each has three requests at once.
        for address in ("192.0.2.2", "192.0.2.3"):
            headers = token | {"X-Forwarded-For": address}
            answers = [client.get("/v1/gallery", headers=headers) for _ in range(30)]
            assert [answer.status_code for answer in answers[:3]] == [200] * 3
            late = next(answer for answer in answers if answer.status_code != 200)
            refused(late, 429, "more than 3 requests a second")
            assert late.headers["retry-after"] == "1"
            assert client.get("/healthz", headers=headers).status_code == 200


def test_whom_nobody_trusts_is_not_believed(gallery: Path) -> None:
    with serving(gallery, "--rate", "2") as (client, _):
        codes = [
            client.get("/v1/gallery", headers={"X-Forwarded-For": f"192.0.2.{i}"}).status_code
            for i in range(30)
        ]
        assert 429 in codes


def test_neither_pictures_nor_tokens_are_logged(gallery: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"change {CHANGER}\nsearch {SEARCHER}\n")
    words = ("--checkpoint", "sample", "--token-file", tmp_path / "tokens")
    run = make_run(tmp_path / "other", 1, identity={"imported": "other"})
    assert main(["gallery", "create", str(tmp_path / "h"), "--run", str(run)]) == 0
    with serving(*words) as (client, process):
        may = {"Authorization": f"Bearer {CHANGER}"}
        client.post("/v1/session", json={"token": "a wrong token of mine"})
        client.get("/v1/gallery", headers={"Authorization": "Bearer a-wrong-token-of-mine"})
        client.get(f"/v1/gallery?token={SEARCHER}", headers=may)
        client.post("/v1/features", files=sent(b"the bytes of a picture"), headers=may)
        assert client.post("/v1/features", files=sent(QUERIES[0]), headers=may).status_code == 200
        client.post("/v1/images", files=sent(QUERIES[0]), headers=may)
        process.terminate()
        said = process.communicate(timeout=LIMIT_S)[1]
    for secret in (CHANGER, SEARCHER, "wrong", "bytes of a picture", "JFIF", QUERIES[0].name):
        assert secret not in said
