"""How a network is called on the inputs of its fixture, and how near its outputs come to the peer's."""

from collections.abc import Callable
from typing import Any, NamedTuple

OWN = ("",)


class Call(NamedTuple):
    """One call of a network.

    Attributes:
        outputs: (apply, inputs) -> outputs, by the names of the fixture; `apply` is the module's, with the loaded
            parameters.
        within: largest difference from the peer's, as a part of the largest number in an output: ten times what is
            measured on one CPU, rounded up to one digit, for another rounds otherwise; 1e-4 at most, 1e-6 at least.
        family: name of the class by which the folder is opened; "" for the class of its config.
        layouts: layouts of the names in which the peer's library opens what we write ("" for its own), live.
        slow: whether its round trip is left to the slow tests.
        quick: whether the fast tests compare its outputs, computed by numpy; true of a network of each room.
    """

    outputs: Callable[..., dict[str, Any]]
    within: float
    family: str = ""
    layouts: tuple[str, ...] = ()
    slow: bool = False
    quick: bool = False


def denoised(net, a):
    """The output for x and t, with all other inputs as the condition."""
    return {"output": net(a["x"], a["t"], {name: a[name] for name in a if name not in ("x", "t")})}


def autoencoder_kl(apply, inputs):
    moments = apply(inputs["x"], method="encode")
    return {**moments._asdict(), "decoded": apply(inputs["z"], method="decode")}
