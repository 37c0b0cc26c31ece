"""How networks are called on the inputs of their fixtures, and how far their outputs may be from the peer's."""

from collections.abc import Callable
from typing import Any, NamedTuple

OWN = ("",)


class Call(NamedTuple):
    """One call of a network.

    Attributes:
        outputs: (apply, inputs) -> outputs, by the names of the fixture; `apply` is the module's, with the loaded
            parameters.
        within: largest difference from the peer's outputs, divided by the largest number in an output. It is ten times
            the difference measured on one CPU, since CPUs round differently, rounded up to one digit; 1e-6 to 1e-4.
        family: name of the class by which the folder is opened; "" for the class in its config.
        layouts: layouts of the names in which the peer's library must open the files that we write; "" for its own.
        slow: whether only the slow tests make its round trip.
        longer: whether numpy takes more than a third of a second for its outputs, which only the extended tests then
            compare.
    """

    outputs: Callable[..., dict[str, Any]]
    within: float
    family: str = ""
    layouts: tuple[str, ...] = ()
    slow: bool = False
    longer: bool = False


def denoised(net, a):
    """The output for x and t, with all other inputs as the condition."""
    return {"output": net(a["x"], a["t"], {name: a[name] for name in a if name not in ("x", "t")})}


def autoencoder_kl(apply, inputs):
    moments = apply(inputs["x"], method="encode")
    return {**moments._asdict(), "decoded": apply(inputs["z"], method="decode")}
