"""FLUX.1 Redux of diffusers: the two dense layers, small and at the published size."""

from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder

from tests.peers.cases import Case
from tests.peers.made_weights import drawn

CASES = {
    "redux": Case(
        lambda: ReduxImageEncoder(redux_dim=12, txt_in_features=8),
        {"x": drawn("redux x", 2, 5, 12)},
        lambda module, a: {"output": module(a["x"]).image_embeds},
    )
}
LISTINGS = {"redux_full": ReduxImageEncoder}
