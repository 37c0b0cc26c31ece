"""ControlNets and an IP-Adapter of the model of `examples.text`, measured where the truth is known."""
