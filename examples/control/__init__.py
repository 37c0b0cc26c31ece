"""ControlNets and an IP-Adapter for the model of `examples.text`, measured against a known ground truth."""
