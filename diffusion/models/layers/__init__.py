"""The layers that backbones are built of."""
