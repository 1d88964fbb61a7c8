"""What several adapters that ship are made of: backbones, decoders, bodies, and the weights that fill them."""
