"""The built-in CA: what it signs, what it refuses, and how its files are kept."""

import datetime
import hashlib
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fallow.drivers.authority import Authority, AuthorityError, key_sha256_of_certificate, key_sha256_of_request
from fallow.model.credentials import SERVER_NAME

NOW = 1_800_000_000.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create_or_load(tmp_path / "ca", NOW)


def request_of(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "i claim to be control")])
    built = x509.CertificateSigningRequestBuilder().subject_name(subject)
    built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=False)
    return built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def spki_sha256(key: ec.EllipticCurvePublicKey) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def test_ca_is_made_once_and_private(tmp_path: Path) -> None:
    first = Authority.create_or_load(tmp_path / "a" / "ca", NOW)
    again = Authority.create_or_load(tmp_path / "a" / "ca", NOW + 5)
    assert (first.ca_pem, first.ca_sha256) == (again.ca_pem, again.ca_sha256)
    folder = tmp_path / "a" / "ca"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "ca.key").stat().st_mode) == 0o600
    assert sorted(path.name for path in folder.iterdir()) == ["ca.crt", "ca.key"]
    certificate = x509.load_pem_x509_certificate(first.ca_pem.encode())
    assert first.ca_sha256 == spki_sha256(certificate.public_key())
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc >= datetime.timedelta(days=3650)


def test_ca_key_alone_gets_a_certificate_again(tmp_path: Path) -> None:
    first = Authority.create_or_load(tmp_path, NOW)
    (tmp_path / "ca.crt").unlink()
    assert Authority.create_or_load(tmp_path, NOW).ca_sha256 == first.ca_sha256


def test_ca_refuses_unfit_folders(tmp_path: Path) -> None:
    Authority.create_or_load(tmp_path, NOW)
    key = (tmp_path / "ca.key").read_bytes()
    (tmp_path / "ca.key").chmod(0o640)
    with pytest.raises(AuthorityError, match="chmod 600"):
        Authority.create_or_load(tmp_path, NOW)
    (tmp_path / "ca.key").write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n")
    (tmp_path / "ca.key").chmod(0o600)
    with pytest.raises(AuthorityError, match="not an unencrypted private key"):
        Authority.create_or_load(tmp_path, NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(AuthorityError, match="restore it from a backup"):
        Authority.create_or_load(tmp_path, NOW)
    Authority.create_or_load(tmp_path / "other", NOW)
    (tmp_path / "ca.key").write_bytes(key)
    (tmp_path / "ca.key").chmod(0o600)
    (tmp_path / "ca.crt").write_bytes((tmp_path / "other" / "ca.crt").read_bytes())
    with pytest.raises(AuthorityError, match="does not belong"):
        Authority.create_or_load(tmp_path, NOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(AuthorityError, match="cannot use"):
        Authority.create_or_load(tmp_path / "file" / "ca", NOW)


def test_ca_never_shows_its_key(authority: Authority) -> None:
    assert repr(authority) == f"Authority({authority.ca_sha256})"
    assert "PRIVATE" not in authority.ca_pem


def test_member_certificate_says_what_we_say_not_what_was_asked(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_member(request_of(key), "node", "n-7d2", NOW, 86400)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.ca_pem.encode()))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("fallow://member/node/n-7d2")]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert issued.key_sha256 == spki_sha256(key.public_key()) == key_sha256_of_request(request_of(key))
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert key_sha256_of_certificate(der) == issued.key_sha256
    assert issued.expires_at == NOW + 86400 == certificate.not_valid_after_utc.timestamp()
    assert certificate.not_valid_before_utc.timestamp() == NOW - 300


def test_certificates_end_with_the_ca_at_the_latest(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    late = NOW + 3649.5 * 86400
    issued = authority.issue_member(request_of(key), "node", "n", late, 86400)
    assert issued.expires_at == NOW + 3650 * 86400


def test_bad_requests_are_refused(authority: Authority) -> None:
    def issue(csr: str) -> None:
        authority.issue_member(csr, "node", "n", NOW, 60)

    with pytest.raises(AuthorityError, match="cannot be read"):
        issue("hello")
    with pytest.raises(AuthorityError, match="cannot be read"):
        issue("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n")
    with pytest.raises(AuthorityError, match="P-256"):
        issue(request_of(ec.generate_private_key(ec.SECP384R1())))
    with pytest.raises(AuthorityError, match="P-256"):
        issue(request_of(rsa.generate_private_key(65537, 2048)))
    with pytest.raises(AuthorityError, match="not a certificate"):
        key_sha256_of_certificate(b"0")


def test_request_signed_by_another_key_is_refused(authority: Authority) -> None:
    mine, theirs = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    whole = x509.load_pem_x509_csr(request_of(mine).encode()).public_bytes(serialization.Encoding.DER)
    old, new = (
        key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        for key in (mine, theirs)
    )
    assert old in whole
    forged = ssl.DER_cert_to_PEM_cert(whole.replace(old, new)).replace("CERTIFICATE", "CERTIFICATE REQUEST")
    with pytest.raises(AuthorityError, match="not signed by its own key"):
        authority.issue_member(forged, "node", "n", NOW, 60)


def test_server_certificate_passes_a_real_handshake(tmp_path: Path, authority: Authority) -> None:
    certificate, key = authority.issue_server(["10.0.0.5", "fallow.example", "localhost"], NOW)
    loaded = x509.load_pem_x509_certificate(certificate.encode())
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME, "localhost", "fallow.example"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.5"]
    with pytest.raises(AuthorityError, match="neither an address nor a host name"):
        authority.issue_server(["büro"], NOW)
    real = Authority.create_or_load(tmp_path / "real")
    certificate, key = real.issue_server([], datetime.datetime.now(datetime.UTC).timestamp())
    pair = tmp_path / "pair.pem"
    pair.write_text(certificate + key)
    assert handshake(pair, real.ca_pem) == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(pair, authority.ca_pem)


def handshake(pair: Path, ca_pem: str) -> str | None:
    """Shake hands in memory and return the protocol."""
    there, here = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    there.load_cert_chain(pair)
    here.load_verify_locations(cadata=ca_pem)
    here.verify_flags |= ssl.VERIFY_X509_STRICT
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = there.wrap_bio(to_server, to_client, server_side=True)
    client = here.wrap_bio(to_client, to_server, server_hostname=SERVER_NAME)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.version()
