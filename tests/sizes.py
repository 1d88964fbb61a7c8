"""Sizes of the tiny HMR model that tests build; what one of them needs otherwise it names."""

TINY = {
    "dim": 32,
    "depth": 3,
    "heads": 2,
    "mlp_dim": 48,
    "head_dim": 24,
    "head_depth": 1,
    "head_heads": 2,
    "head_dim_head": 8,
    "head_mlp_dim": 16,
}
