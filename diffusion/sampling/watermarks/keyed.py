"""Pseudorandom bits and numbers that only the holder of a key can reproduce: SHAKE-256 of key and purpose."""

import hashlib
import re

import numpy as np
import scipy  # reads its parts where they are first used

DIGITS = 64  # hexadecimal digits of a key: 256 bits


def secret(key: str) -> bytes:
    """The 32 bytes of a key.

    Raises:
        ValueError: if it is not 64 hexadecimal digits.
    """
    if not isinstance(key, str) or not re.fullmatch(rf"[0-9a-f]{{{DIGITS}}}", key):
        raise ValueError(
            f"key must have {DIGITS} digits 0 .. 9, a .. f; got "
            f"{len(key) if isinstance(key, str) else type(key).__name__}. Make a key file by diffusion watermark make"
        )
    return bytes.fromhex(key)


def _bytes(key: str, purpose: str, number: int) -> np.ndarray:
    return np.frombuffer(hashlib.shake_256(secret(key) + purpose.encode()).digest(number), np.uint8)


def bits(key: str, purpose: str, number: int) -> np.ndarray:
    """Bool `[number]`, each True with probability 1/2 over the keys, and independent between purposes."""
    return np.unpackbits(_bytes(key, purpose, -(-number // 8)))[:number].astype(bool)


def _uniforms(key: str, purpose: str, number: int) -> np.ndarray:
    """float64 `[number]` in (0, 1)."""
    words = _bytes(key, purpose, 4 * number).view("<u4")
    return (words + 0.5) / 2**32


def normals(key: str, purpose: str, number: int) -> np.ndarray:
    """float64 `[number]` of N(0, 1)."""
    return scipy.special.ndtri(_uniforms(key, purpose, number))


def order(key: str, purpose: str, number: int) -> np.ndarray:
    """A permutation of 0 .. number - 1."""
    return np.argsort(_uniforms(key, purpose, number), kind="stable")
