"""ViT, Dinov2 and DINOv3ViT of transformers with a head of the user's."""

from __future__ import annotations

from torch import nn

from hmr.published.headed import HeadedViT, package_of


class TransformersViT(HeadedViT):
    """`network` as `AutoModel.from_pretrained` takes it: a folder, or a name of the hub. Weights are read from
    safetensors alone, and no code of a repository is run. `blocks` are a ViT's; those of Dinov2 are
    "vit.encoder.layer", those of DINOv3ViT "vit.model.layer"."""

    blocks = "vit.layers"

    def vit(self) -> nn.Module:
        network: nn.Module = package_of("transformers").AutoModel.from_pretrained(
            self.network, use_safetensors=True, trust_remote_code=False
        )
        return network
