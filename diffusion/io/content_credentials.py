"""Content credentials (C2PA) of a PNG file: a signed statement of what made it, by which changes can be detected.

`c2pa-python`, the library of the Content Authenticity Initiative, signs and verifies; the extra "provenance" installs
it. A signer is a folder with chain.pem (certificates, of which the signer's is the first) and key.pem (the signer's
ES256 key); `local_certificates` makes such a folder for tests.
"""

import hashlib
import io
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from diffusion.io import files, opener, pictures

CHAIN, KEY, ROOT = "chain.pem", "key.pem", "root.pem"  # files of a signer's folder
FORMAT = "image/png"
CREATED = "c2pa.created"
BY_A_MODEL = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
REQUEST = "org.jax-diffusion.request"  # the label of our own assertion
PLAIN = {"builder": {"thumbnail": {"enabled": False}}}
LARGEST = 2**28  # bytes of a file that is read: 8192 x 8192 pixels of four bytes
OWN = ("files", "versions", "watermark", "command", "workdir")  # settings that belong to the run, not to the request


class Credentials(NamedTuple):
    """The statements of a signed file, once its signature and its content are verified.

    Attributes:
        trusted: whether the signer's certificate descends from a root certificate that the caller named.
        signer: the name in the certificate.
        generator: the program that signed.
        actions: the actions on the picture: [{"action": "c2pa.created", "digitalSourceType": ..., ...}].
        request: our own assertion, as `statement` returns it; {} if another program signed the file.

    All texts were written by the signer, who may be anybody, so that they must be shown by `printable`.
    """

    trusted: bool
    signer: str
    generator: str
    actions: list[dict[str, Any]]
    request: dict[str, Any]


def library() -> Any:
    """The module c2pa.

    Raises:
        ValueError: if the module is not installed.
    """
    try:
        import c2pa
    except ImportError as error:
        raise ValueError(
            f"content credentials need c2pa-python ({error}): pip install 'jax-diffusion[provenance]'."
        ) from None
    return c2pa


def printable(value: Any, most: int = 300) -> str:
    """An untrusted value as a terminal can show it: quoted, in ASCII without control characters, cut after `most`."""
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]} ..."


def statement(about: Mapping[str, Any]) -> dict[str, Any]:
    """The statement that is signed: the model, the sha256 of its weights, the request, and the sha256 of all settings.

    The settings of `OWN`, such as the command line, the path of the run folder and the versions of programs, are not
    part of the request; they only enter the sha256.

    Args:
        about: the settings in the picture's file, as `text_to_image.png.records` makes them, or others. "model" is the
            name of the model and "checkpoint" the sha256 of its weights, 64 digits; if "checkpoint" has another form,
            None is signed in its place.

    Returns:
        {"model", "model_sha256", "request", "request_sha256"}: texts, or None for an unknown model_sha256.
    """
    settings = json.dumps(about, sort_keys=True)
    request = {name: value for name, value in about.items() if name not in OWN}
    checksum = about.get("checkpoint")
    known = isinstance(checksum, str) and re.fullmatch("[0-9a-f]{64}", checksum)
    return {
        "model": str(about.get("model") or "unknown"),
        "model_sha256": checksum if known else None,
        "request": json.dumps(request, sort_keys=True),  # text: the library turns lists of small numbers into bytes
        "request_sha256": hashlib.sha256(settings.encode()).hexdigest(),
    }


class Signer:
    """Signs PNG files; a signed file takes the place of the file without a signature."""

    def __init__(self, folder: str | pathlib.Path):
        """Opens the signer's folder, and signs a picture of one pixel in memory as a test.

        Raises:
            FileNotFoundError: if chain.pem or key.pem is missing.
            ValueError: if the library is missing, or cannot sign with these files, for example because the certificate
                has expired or the key belongs to another certificate.
        """
        c2pa = library()
        folder = pathlib.Path(folder).expanduser()
        texts = []
        for name in (CHAIN, KEY):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder / name} does not exist. A signer's folder holds {CHAIN} and {KEY}; diffusion "
                    "credentials --make=FOLDER makes one for tests."
                )
            texts.append(opener.read(folder / name))
        chain, key = texts
        info = c2pa.C2paSignerInfo(alg=c2pa.C2paSigningAlg.ES256, sign_cert=chain, private_key=key, ta_url=None)
        try:
            self._signer = c2pa.Signer.from_info(info)
            self._signed(pictures.encoded(np.zeros((1, 1, 3), np.uint8)), "pixel.png", {}, "0")
        except c2pa.C2paError as error:
            raise ValueError(f"{folder}: its certificate and key cannot sign: {error}") from None

    def _signed(self, content: bytes, title: str, about: Mapping[str, Any], version: str) -> bytes:
        """The content of a PNG file with credentials."""
        c2pa = library()
        agent = {"name": "diffusion", "version": version}
        created = {"action": CREATED, "digitalSourceType": BY_A_MODEL, "softwareAgent": agent}
        manifest = {
            "claim_generator_info": [agent],
            "title": title,
            "format": FORMAT,
            "assertions": [
                {"label": "c2pa.actions.v2", "data": {"actions": [created]}},
                {"label": REQUEST, "data": statement(about)},
            ],
        }
        signed = io.BytesIO()
        context = c2pa.Context(settings=c2pa.Settings.from_dict(PLAIN))
        builder = c2pa.Builder(json.dumps(manifest), context=context)
        builder.sign(self._signer, FORMAT, io.BytesIO(content), signed)
        return signed.getvalue()

    def sign(self, path: str | pathlib.Path, about: Mapping[str, Any], version: str) -> None:
        """Puts credentials into a PNG file, whole or not at all.

        The credentials say that a trained model made the picture, and hold `statement(about)`.

        Args:
            path: the file, which has no credentials yet.
            about: the settings that made the picture.
            version: the version of this program.

        Raises:
            ValueError: if the library cannot sign the file.
        """
        c2pa = library()
        path = pathlib.Path(path)
        try:
            signed = self._signed(opener.read(path), path.name, about, version)
        except c2pa.C2paError as error:
            raise ValueError(f"{path}: it cannot be signed: {error}") from None
        with files.atomic(path) as file:
            file.write(signed)


def read(path: str | pathlib.Path, root: str | pathlib.Path | None = None) -> Credentials:
    """The credentials of a PNG file that has not been changed since it was signed. No address in the file is fetched.

    Args:
        path: the file, at most `LARGEST` bytes.
        root: PEM file of root certificates that the caller trusts; if None, no root is trusted, and `trusted` is False.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: if the picture carries no credentials, was changed after it was signed, is not a PNG, or holds
            statements that are not in C2PA's form; or if `root` holds no certificate.
    """
    c2pa = library()
    path = pathlib.Path(path).expanduser()
    root = None if root is None else pathlib.Path(root).expanduser()
    for file in (path, *([root] if root is not None else [])):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: there is no such file.")
    content = opener.read(path, most=LARGEST)
    settings: dict[str, dict[str, Any]] = {"verify": {"verify_trust": True, "remote_manifest_fetch": False}}
    if root is not None:
        settings["trust"] = {"user_anchors": _certificates(root)}
    try:
        context = c2pa.Context(settings=c2pa.Settings.from_dict(settings))
        store = json.loads(c2pa.Reader(FORMAT, io.BytesIO(content), context=context).json())
    except c2pa.C2paError.ManifestNotFound:
        raise ValueError(f"{path} carries no content credentials: it was never signed, or they were removed.") from None
    except c2pa.C2paError as error:
        raise ValueError(f"{path} cannot be verified: {printable(str(error))}") from None
    state = store.get("validation_state")
    wrong = [one for one in store.get("validation_status", ()) if one["code"] != "signingCredential.untrusted"]
    if state not in ("Valid", "Trusted") or wrong:
        why = "; ".join(f"{one['code']}: {one.get('explanation', '')}" for one in wrong) or str(state)
        raise ValueError(f"{path} was changed after it was signed, or its signature is not valid ({printable(why)}).")
    try:
        return _credentials(store["manifests"][store["active_manifest"]], state == "Trusted")
    except (TypeError, LookupError) as error:
        raise ValueError(f"{path}: what was signed does not follow C2PA's format ({printable(str(error))}).") from None


def _credentials(manifest: dict[str, Any], trusted: bool) -> Credentials:
    """The statements of a manifest, whose fields must have their types.

    Raises:
        TypeError, LookupError: if a field has another type, or is missing.
    """

    def require(kind: type, value: Any, name: str) -> Any:
        if not isinstance(value, kind):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a {kind.__name__}")
        return value

    said = {one["label"]: one["data"] for one in manifest.get("assertions", ())}
    actions = next((data["actions"] for label, data in said.items() if label.startswith("c2pa.actions")), [])
    for action in require(list, actions, "actions"):
        require(str, require(dict, action, "an action").get("action"), "the action of an action")
        require(str, action.get("digitalSourceType", ""), "digitalSourceType")
    generators = require(list, manifest.get("claim_generator_info") or [{}], "claim_generator_info")
    generator = require(dict, generators[0], "claim_generator_info[0]")
    names = [require(str, generator.get(name, ""), name) for name in ("name", "version")]
    signer = require(dict, manifest.get("signature_info", {}), "signature_info").get("common_name") or ""
    request = require(dict, said.get(REQUEST, {}), REQUEST)
    return Credentials(trusted, require(str, signer, "common_name"), " ".join(names).strip(), actions, request)


def _certificates(root: pathlib.Path) -> str:
    """The text of a file of root certificates.

    Raises:
        ValueError: if the file holds no certificate.
    """
    from cryptography import x509  # comes with c2pa-python

    text = opener.read_text(root)
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise ValueError(
            f"{root} holds no root certificates (PEM, from -----BEGIN CERTIFICATE----- on): {error}"
        ) from None
    return text
