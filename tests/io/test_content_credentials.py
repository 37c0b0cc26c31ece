"""Content credentials: signed and verified by c2pa-python, where it is installed; a changed picture is refused."""

import datetime
import http.server
import json
import threading
import types

import numpy as np
import pytest

from diffusion.experiments import credentials
from diffusion.io import content_credentials, local_certificates, pictures

ABOUT = {
    "model": "runs/text/model",
    "checkpoint": "ab" * 32,
    "prompt": "a red circle",
    "seed": 7,
    "seeds": [7],
    "files": {},
}
PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
PICTURE = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    return local_certificates.make(tmp_path_factory.mktemp("signer") / "made")


@pytest.fixture
def signed(signer, tmp_path):
    path = tmp_path / "0.png"
    pictures.write(path, PICTURE, ABOUT)
    content_credentials.Signer(signer).sign(path, ABOUT, "1.2.3")
    return path


def test_extensions_of_a_made_certificate_are_critical_where_rfc_5280_says_so(tmp_path):
    """Section 4.2.1: what a key is for must be understood, and names of keys must not be critical."""
    pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    from cryptography import x509

    signer = local_certificates.make(tmp_path / "made")
    signing, root = x509.load_pem_x509_certificates((signer / "chain.pem").read_bytes())
    critical = {
        "basicConstraints": True,
        "keyUsage": True,
        "subjectKeyIdentifier": False,
        "authorityKeyIdentifier": False,
    }
    for certificate, more in ((root, {}), (signing, {"extendedKeyUsage": False})):
        assert {one.oid._name: one.critical for one in certificate.extensions} == critical | more
        key = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (key.digital_signature, key.key_cert_sign, key.crl_sign) == (bool(more), not more, not more)


def test_a_signed_picture_says_that_a_model_made_it_and_from_what(signed, signer):
    assert b"c2pa.thumbnail" not in signed.read_bytes()  # the picture stands there once
    found = content_credentials.read(signed, signer / "root.pem")
    assert found.trusted and found.signer == "diffusion test signer" and found.generator == "diffusion 1.2.3"
    (created,) = found.actions
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert found.request == content_credentials.statement(ABOUT)
    assert not content_credentials.read(signed).trusted  # valid, from a root that the caller did not name
    np.testing.assert_array_equal(pictures.read(signed), PICTURE)
    assert pictures.settings_of(signed) == ABOUT  # so that --again still reads it
    assert "'trainedAlgorithmicMedia' by 'diffusion 1.2.3'" in credentials.described(str(signed), None)


def test_a_changed_picture_is_refused_in_one_sentence(signed):
    data = bytearray(signed.read_bytes())
    data[-40] ^= 1  # in the pixels, which end the file
    signed.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"0\.png was changed after it was signed.*assertion\.dataHash\.mismatch"):
        content_credentials.read(signed)


def test_an_unsigned_picture_is_refused_in_one_sentence(signed, tmp_path):
    pictures.write(tmp_path / "plain.png", pictures.read(signed), ABOUT)  # as any program that saves it anew
    with pytest.raises(ValueError, match=r"plain\.png carries no content credentials"):
        content_credentials.read(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png cannot be verified"):
        content_credentials.read(tmp_path / "text.png")


def test_a_new_certificate_holds_from_a_day_ago_so_that_a_slow_clock_accepts_it(signer):
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    for name in ("root.pem", "chain.pem"):
        certificate = x509.load_pem_x509_certificate((signer / name).read_bytes())
        begun = (now - certificate.not_valid_before_utc).total_seconds() / 3600
        assert 24 <= begun < 25 and certificate.not_valid_after_utc > now


def test_a_folder_that_signs_nothing_is_refused(signer, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"chain\.pem does not exist.*diffusion credentials --make"):
        content_credentials.Signer(tmp_path)
    with pytest.raises(FileExistsError, match="exists already"):
        local_certificates.make(signer)
    assert (signer / "key.pem").stat().st_mode & 0o077 == 0
    for name in ("chain.pem", "key.pem"):
        (tmp_path / name).write_text("no certificate")
    with pytest.raises(ValueError, match="its certificate and key cannot sign"):
        content_credentials.Signer(tmp_path)
    (tmp_path / "chain.pem").write_bytes((local_certificates.make("~/other") / "chain.pem").read_bytes())
    (tmp_path / "key.pem").write_bytes((signer / "key.pem").read_bytes())  # of another certificate
    with pytest.raises(ValueError, match=f"{tmp_path}: its certificate and key cannot sign: .*does not match"):
        content_credentials.Signer(tmp_path)
    monkeypatch.setattr(local_certificates, "DAYS", -0.5)
    with pytest.raises(ValueError, match=r"its certificate and key cannot sign: .*not valid at time of signing"):
        content_credentials.Signer(local_certificates.make(tmp_path / "expired"))


def test_each_certificate_says_what_its_key_may_do(tmp_path):
    """RFC 5280, 4.2.1.3 and 4.2.1.9: both extensions are critical, and the root alone signs certificates."""
    pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    from cryptography import x509

    signer = local_certificates.make(tmp_path / "made")
    chain = x509.load_pem_x509_certificates((signer / "chain.pem").read_bytes())
    assert chain[1:] == x509.load_pem_x509_certificates((signer / "root.pem").read_bytes())
    for certificate, is_root in zip(chain, (False, True), strict=True):
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert usage.critical and constraints.critical and constraints.value.ca is is_root
        signs = (usage.value.digital_signature, usage.value.key_cert_sign, usage.value.crl_sign)
        assert signs == (not is_root, is_root, is_root)
        others = (usage.value.content_commitment, usage.value.key_encipherment, usage.value.data_encipherment)
        assert not any(others) and not usage.value.key_agreement
        certificate.verify_directly_issued_by(chain[1])


@pytest.mark.parametrize("text", ["no certificate", PEM])
def test_a_file_without_root_certificates_is_blamed_itself(signed, tmp_path, text):
    (tmp_path / "root.pem").write_text(text)
    with pytest.raises(ValueError, match=r"root\.pem holds no root certificates"):
        content_credentials.read(signed, tmp_path / "root.pem")


def test_reading_fetches_nothing(signer, tmp_path):
    import c2pa

    requests = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        created = {"action": content_credentials.CREATED, "digitalSourceType": content_credentials.BY_A_MODEL}
        manifest = {
            "claim_generator_info": [{"name": "hostile", "version": "1"}],
            "format": content_credentials.FORMAT,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
        }
        context = c2pa.Context(settings=c2pa.Settings.from_dict(content_credentials.PLAIN))
        builder = c2pa.Builder(json.dumps(manifest), context=context)
        builder.set_no_embed()
        builder.set_remote_url(f"http://127.0.0.1:{server.server_port}/manifest.c2pa")
        pictures.write(tmp_path / "plain.png", PICTURE, {})
        by = content_credentials.Signer(signer)._signer
        with open(tmp_path / "plain.png", "rb") as plain, open(tmp_path / "0.png", "w+b") as signed:
            builder.sign(by, content_credentials.FORMAT, plain, signed)
        with pytest.raises(ValueError, match=r"0\.png cannot be verified: .*remote manifest"):
            content_credentials.read(tmp_path / "0.png")
        server.shutdown()
    assert not requests


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with open(tmp_path / "0.png", "wb") as file:
        file.truncate(8192 * 8192 * 4 + 1)
    with pytest.raises(ValueError, match=r"0\.png has .*at most 256 MiB are read"):
        content_credentials.read(tmp_path / "0.png")


def test_what_a_stranger_signed_is_shown_without_control_characters(signer, tmp_path, monkeypatch):
    path = tmp_path / "1.png"
    pictures.write(path, PICTURE, {})
    said = {"model": "a\x1b[2J\nb", "request": "x" * 10**5}
    monkeypatch.setattr(content_credentials, "statement", lambda about: said)
    content_credentials.Signer(signer).sign(path, {}, "1\x1b[31m")
    shown = credentials.described(str(path), None)
    assert shown.replace("\n", "").isprintable() and len(shown.splitlines()) == 4 and len(shown) < 6000
    assert "'model': 'a\\x1b[2J\\nb'" in shown


@pytest.mark.parametrize(
    "manifest",
    [
        {"assertions": [{"label": "c2pa.actions", "data": {"actions": ["text"]}}]},
        {"assertions": [{"label": "c2pa.actions", "data": {"actions": [{"action": "a", "digitalSourceType": 3}]}}]},
        {"assertions": [{"label": "c2pa.actions", "data": {}}]},
        {"assertions": [{"label": content_credentials.REQUEST, "data": [1]}]},
        {"claim_generator_info": ["text"]},
    ],
)
def test_what_a_stranger_signed_in_another_form_is_refused(tmp_path, monkeypatch, manifest):
    c2pa = pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    store = {"validation_state": "Valid", "active_manifest": "it", "manifests": {"it": manifest}}
    reader = types.SimpleNamespace(json=lambda: json.dumps(store))
    monkeypatch.setattr(c2pa, "Reader", lambda *_, **__: reader)
    (tmp_path / "0.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0\.png: what was signed does not follow C2PA's format"):
        content_credentials.read(tmp_path / "0.png")


UNTRUSTED = {"code": "signingCredential.untrusted"}
CHANGED = {"code": "assertion.dataHash.mismatch", "explanation": "another hash"}


@pytest.mark.parametrize(
    "state, found, why",
    [
        ("Valid", [UNTRUSTED], None),
        ("Trusted", [], None),
        ("Invalid", [], "Invalid"),
        (None, [UNTRUSTED], "None"),
        ("Valid", [UNTRUSTED, CHANGED], "assertion.dataHash.mismatch: another hash"),
    ],
)
def test_a_signature_is_valid_where_the_state_and_every_check_say_so(tmp_path, monkeypatch, state, found, why):
    c2pa = pytest.importorskip("c2pa", reason="the extra provenance is not installed")
    manifest = {"assertions": [], "claim_generator_info": [{"name": "a"}]}
    store = {
        "validation_state": state,
        "validation_status": found,
        "active_manifest": "it",
        "manifests": {"it": manifest},
    }
    reader = types.SimpleNamespace(json=lambda: json.dumps(store))
    monkeypatch.setattr(c2pa, "Reader", lambda *_, **__: reader)
    (tmp_path / "0.png").write_bytes(b"")
    if why is None:
        assert content_credentials.read(tmp_path / "0.png").trusted == (state == "Trusted")
        return
    with pytest.raises(ValueError, match=rf"0\.png was changed after it was signed, .* \('{why}'\)"):
        content_credentials.read(tmp_path / "0.png")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "c2pa", None)
    with pytest.raises(ValueError, match=r"jax-diffusion\[provenance\]"):
        content_credentials.read("picture.png")


def test_the_signed_statement_has_a_checksum_of_all_settings():
    one = content_credentials.statement(ABOUT)
    assert (
        one["model"] == "runs/text/model"
        and one["model_sha256"] == "ab" * 32
        and json.loads(one["request"])["seed"] == 7
    )
    assert content_credentials.statement(dict(reversed(ABOUT.items()))) == one
    other = content_credentials.statement(ABOUT | {"seed": 8})
    assert len(one["request_sha256"]) == 64 and one["request_sha256"] != other["request_sha256"]
    run = {"checkpoint": {"step": 3}, "command": "diffusion sample --workdir=/home/me", "workdir": "/home/me", "nfe": 4}
    said = content_credentials.statement(run)
    assert said["model_sha256"] is None and said["model"] == "unknown" and "/home/me" not in json.dumps(said)
