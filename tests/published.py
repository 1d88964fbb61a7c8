"""Small networks of `hmr.published`, whose weights follow from their keys, and the files that a user has of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hmr.body.files import import_body
from hmr.body.model import BodyModel
from hmr.published.camerahmr_smplx import CameraHMRNetwork, SMPLXQuery
from hmr.published.multi_hmr import HumanQueries, MultiHMRNetwork
from hmr.published.parts.dinov2 import DINOv2Hub
from hmr.published.parts.dinov3 import DINOv3
from hmr.published.parts.encoder import Encoder
from hmr.published.parts.places import WholePicture
from hmr.published.parts.sam_3d_body_decoder import PromptSizes
from hmr.published.parts.smplx_joints import SMPLXJoints
from hmr.published.parts.vitpose import ViTPose
from hmr.published.prompt_hmr import LAYER, PersonDecoder, PictureEncoder, PromptHMRNetwork
from hmr.published.sam_3d_body import SHARED, SAM3DBodyNetwork
from hmr.published.sam_3d_body_vit import sam_vit
from hmr.published.wilor import WiLoRNetwork
from tests.golden.seeds import FakeRig, filled, hand, smplx_body, weights_of

RIG = """
def rig(self):
    from tests.golden.seeds import FakeRig

    return FakeRig()
"""


@dataclass(frozen=True)
class Published:
    """One network: its small checkpoint, and the adapter as a user writes it."""

    state: Callable[[], dict[str, Tensor]]  # under its authors' keys
    adapter: str  # module:Class
    golden: str  # the file of its authors' answers
    more: str = ""  # of the class: what is smaller than released, and stands in for what is not here

    def write(self, folder: Path) -> Path:
        """The checkpoint, as Lightning wraps it, and mine.py beside it, which names it."""
        torch.save({"state_dict": self.state(), "epoch": 3}, folder / "mine.ckpt")
        module, _, name = self.adapter.partition(":")
        lines = (f"from {module} import {name}", "", "", f"class Mine({name}):", '    checkpoint = "mine.ckpt"')
        more = (f"    {line}".rstrip() for line in self.more.splitlines())
        (folder / "mine.py").write_text("\n".join((*lines, *more, "")))
        return folder / "mine.py"


def import_hand(folder: Path) -> None:
    np.savez(folder / "MANO_RIGHT.npz", **hand())  # type: ignore[arg-type]  # numpy types ** as allow_pickle
    import_body(folder / "MANO_RIGHT.npz")


def wilor() -> dict[str, Tensor]:
    return filled(WiLoRNetwork(BodyModel(hand()), 32, 2, 2)).state_dict()


def sam_3d_body(backbone: Callable[[], nn.Module], view: WholePicture) -> dict[str, Tensor]:
    """Both decoders, under the names that the authors give to their parts, and what is in their files besides."""
    found: dict[str, Tensor] = {
        "head_pose.faces": torch.zeros(4, 3),
        "prompt_encoder.point_embeddings.0.weight": torch.zeros(1, 32),
    }
    for scale in (None, 10.0):
        network = SAM3DBodyNetwork(backbone(), FakeRig(), view, PromptSizes(24, 32, 3, 2, 8, 40), scale, 20 + 127)
        own = {authors_key(key, scale is not None): value for key, value in network.state_dict().items()}
        found |= weights_of(own)
    return found


def authors_key(key: str, of_hand: bool) -> str:
    part, _, rest = key.partition(".")
    if part == "grid_waves":
        return f"{'hand_pe_layer' if of_hand else 'prompt_encoder.pe_layer'}.{rest}"
    return key if key.startswith(SHARED) or not of_hand else f"{part}_hand.{rest}"


def on_dinov3() -> dict[str, Tensor]:
    return sam_3d_body(lambda: Encoder(DINOv3(32, 2, 2, 128)), WholePicture(64, 64))


def on_vit() -> dict[str, Tensor]:
    return sam_3d_body(lambda: sam_vit(32, 2, 2, 128, (32, 24)), WholePicture(512, 384))


def multi_hmr() -> dict[str, Tensor]:
    queries = HumanQueries(32 + 99, 24, 2, 2, 8, 40, 8, 10)
    network = MultiHMRNetwork(DINOv2Hub(32, 2, 2, 128, 5), SMPLXJoints(smplx_body()), queries, 32)
    return filled(network).state_dict() | {"backbone.encoder.mask_token": torch.zeros(1, 32)}


def prompt_hmr(cross: bool = False) -> dict[str, Tensor]:
    """With the decoder whose people look at each other: what it has more, and its norms by their own numbers."""
    encoder = PictureEncoder(DINOv2Hub(32, 2, 2, 128, 5), 32, 32)
    decoder = PersonDecoder(32, 2, 8, 40, 2)
    own = PromptHMRNetwork(encoder, 32, decoder, SMPLXJoints(smplx_body()), masks=True).state_dict()
    own["smpl_decoder.init_transl"] = torch.zeros(1, 2, dtype=torch.long)  # as theirs is
    if cross:
        for i in range(2):
            for norm in (4, 3, 2):
                for part in ("weight", "bias"):
                    own[f"{LAYER}.{i}.norm{norm + 1}.{part}"] = own.pop(f"{LAYER}.{i}.norm{norm}.{part}")
            own |= {f"{LAYER}.{i}.norm2.weight": torch.ones(32), f"{LAYER}.{i}.pe.pos_table": torch.zeros(1, 100, 32)}
            own |= {f"{LAYER}.{i}.cross_person_attn.q_proj.weight": torch.zeros(16, 32)}
    return weights_of(own) | {"prompt_encoder.mask_downscaling.0.weight": torch.zeros(4, 1, 2, 2)}


def camerahmr_smplx() -> dict[str, Tensor]:
    head = SMPLXQuery(32, 24, 2, 2, 8, 40, 16)
    network = CameraHMRNetwork(ViTPose(32, 2, 2, 128, 0.0), head, SMPLXJoints(smplx_body(), 16))
    return filled(network).state_dict()


SAM, SAM_VIT = "hmr.published.sam_3d_body:SAM3DBody", "hmr.published.sam_3d_body_vit:SAM3DBodyViT"
PROMPT = "hmr.published.prompt_hmr:PromptHMR"
HEADS = "heads = backbone_heads = 2\n"
PUBLISHED = {
    "wilor": Published(wilor, "hmr.published.wilor:WiLoR", "wilor", "heads = 2"),
    "multi_hmr": Published(multi_hmr, "hmr.published.multi_hmr:MultiHMR", "multi_hmr", f"{HEADS}size = (112, 112)"),
    "prompt_hmr": Published(prompt_hmr, PROMPT, "prompt_hmr", "backbone_heads = 2\nsize = (112, 112)"),
    "prompt_hmr_cross": Published(
        partial(prompt_hmr, True), PROMPT, "prompt_hmr", "backbone_heads = 2\nsize = (112, 112)"
    ),
    "camerahmr_smplx": Published(
        camerahmr_smplx, "hmr.published.camerahmr_smplx:CameraHMRSMPLX", "camerahmr_smplx", HEADS
    ),
    "sam_3d_body": Published(on_dinov3, SAM, "sam_3d_body", f"{HEADS}size = (64, 64)\n{RIG}"),
    "sam_3d_body_hand": Published(on_dinov3, SAM, "sam_3d_body", f"{HEADS}size = (64, 64)\nhand = True\n{RIG}"),
    "sam_3d_body_vit": Published(on_vit, SAM_VIT, "sam_3d_body_vit", f"{HEADS}{RIG}"),
    "sam_3d_body_vit_hand": Published(on_vit, SAM_VIT, "sam_3d_body_vit", f"{HEADS}hand = True\n{RIG}"),
}


def golden(name: str) -> dict[str, Any]:
    """A golden file's arrays."""
    with np.load(Path(__file__).parent / "golden" / f"{name}.npz") as file:
        return dict(file)
