"""Certificates for trying content credentials: a root that nobody trusts, and a signer that the root certifies."""

import datetime
import pathlib
from typing import Any

from diffusion.io import files
from diffusion.io.content_credentials import CHAIN, KEY, ROOT, library

DAYS = 90
NAME = "Local test, trusted by nobody"
UNUSED = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
          "decipher_only")  # fmt: skip  # usages of a key that neither certificate has


def make(folder: str | pathlib.Path) -> pathlib.Path:
    """Writes a signer's folder with root.pem, chain.pem, and key.pem, which only the user can read; returns the folder.

    The root's key is not stored. The signer's certificate has what C2PA requires: ES256, the key usage "digital
    signature" and the extended usage "email protection". It is valid for 90 days.

    Args:
        folder: the folder to make, which must not exist.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: if the extra "provenance" is not installed.
    """
    library()
    from cryptography import x509  # comes with c2pa-python
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    folder = pathlib.Path(folder).expanduser()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; choose another name.")
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "signer")}
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, NAME)
    name = lambda of: x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, f"diffusion test {of}")])
    now = datetime.datetime.now(datetime.UTC)

    def certificate(of: str) -> Any:
        root = of == "root"
        public = keys[of].public_key()
        usage = dict.fromkeys(UNUSED, False)
        usage |= {"digital_signature": not root, "key_cert_sign": root, "crl_sign": root}
        builder = (
            x509.CertificateBuilder()
            .subject_name(name(of))
            .issuer_name(name("root"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=DAYS))
            .add_extension(x509.BasicConstraints(ca=root, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**usage), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(keys["root"].public_key()), critical=False
            )
        )
        if not root:
            purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purposes, critical=False)
        return builder.sign(keys["root"], hashes.SHA256())

    pem = serialization.Encoding.PEM
    root, signer = (certificate(role).public_bytes(pem) for role in ("root", "signer"))
    secret = keys["signer"].private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    with files.whole_folder(folder) as new:
        new.chmod(0o700)
        (new / ROOT).write_bytes(root)
        (new / CHAIN).write_bytes(signer + root)
        (new / KEY).touch(0o600)
        (new / KEY).write_bytes(secret)
    return folder
