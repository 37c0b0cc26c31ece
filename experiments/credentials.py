"""Reads and verifies the content credentials (C2PA) of pictures, and creates certificates for tests.

    diffusion credentials --make=signer                              # a test certificate, which nobody trusts
    diffusion sample --workdir=runs/text --prompt="a red circle" --credentials=signer
    diffusion credentials --read=pictures/0.png --root=signer/root.pem

--read prints the content of the credentials: that a model generated the picture, which model, and from which request.
If a picture has no credentials, or was changed after it was signed, the command ends with one sentence and status 1. It
needs the extra "provenance" (c2pa-python).
"""

from absl import flags

from diffusion.experiments import command_line, flag_errors

if __name__ == "__main__":  # before the imports that take seconds
    flags.DEFINE_string("make", None, "folder for a new test certificate: root.pem, chain.pem, key.pem")
    flags.DEFINE_list("read", None, "PNG files to verify, separated by commas, e.g. a.png,b.png")
    flags.DEFINE_string("root", None, "PEM file with the root certificates that you trust")
    command_line.begin()

from diffusion.io import content_credentials, local_certificates
from diffusion.recipe import ConfigError

MOST = 16  # the most actions, and entries of a request, that are shown, since anybody may have signed them
LONGEST = 4000  # the most characters of an entry of a request that are shown


def described(path: str, root: str | None) -> str:
    """The statements of a signed picture, in lines; the signer's own words are in quotes, without control characters.

    Args:
        path: the signed PNG file.
        root: a PEM file with the root certificates to trust; None for none.

    Raises:
        FileNotFoundError, ValueError: as `content_credentials.read`.
    """
    credentials = content_credentials.read(path, root)
    shown = content_credentials.printable
    by = shown(credentials.signer) if credentials.signer else "an unnamed signer"
    why = "whose root you trust" if credentials.trusted else "whose root is not among those that you trust (--root)"
    lines = [f"{path}: unchanged since {by} signed it, {why}"]
    for action in credentials.actions[:MOST]:
        kind = action.get("digitalSourceType", "").rpartition("/")[2]
        lines.append(f"  {shown(action['action'])}: {shown(kind)} by {shown(credentials.generator)}")
    lines += [f"  {shown(name)}: {shown(value, LONGEST)}" for name, value in list(credentials.request.items())[:MOST]]
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Makes certificates, or verifies pictures."""
    values = flags.FLAGS
    if bool(values.make) == bool(values.read):
        raise ConfigError(
            "name exactly one of --make=FOLDER, which creates test certificates, and --read=PICTURE.png, which "
            "verifies a picture."
        )
    if values.make:
        flag_errors.refuse(["root"], "has no effect with --make. Valid: --root with --read.")
        print(f"{local_certificates.make(values.make)}: certificates for tests; keep key.pem to yourself.")
        return
    for path in values.read:
        print(described(path, values.root))


if __name__ == "__main__":
    command_line.run(main, (ValueError, FileNotFoundError, FileExistsError))
