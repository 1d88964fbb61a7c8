"""What decodes a video clip by clip, whoever decodes a clip: a network of torch, or a file that a runtime runs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.errors import BadInput
from diffusion.motion.clips import FPS, decode_video
from hmr.body.files import load_body
from hmr.body.model import BodyModel


class VideoDecoder(nn.Module):
    """A decoder of clips of `frames` frames at 30 frames/s, of `width` numbers each: called with features (B, F, W),
    betas (B, F, 10) and which frames are seen (B, F), it gives local rotations (B, F, 24, 3, 3).

    look_ahead: how many frames after a frame its pose may depend on; None: as many as a clip has. It poses `body`,
    which is no part of its weights.
    """

    place: Tensor

    def __init__(self, frames: int, width: int, look_ahead: int | None) -> None:
        super().__init__()
        self.frames, self.width, self.look_ahead = frames, width, look_ahead
        self.register_buffer("place", torch.empty(0), persistent=False)  # where it computes
        self._body = [load_body()]  # in a list, so that its arrays are not part of the weights

    @property
    def body(self) -> BodyModel:
        self._body[0] = self._body[0].to(self.place.device)
        return self._body[0]

    @torch.no_grad()
    def video(
        self,
        features: Tensor,
        betas: Tensor,
        fps: float = FPS,
        seen: Tensor | None = None,
    ) -> Tensor:
        """One video's features (N, W) and betas (N, 10) at `fps` -> local rotations (N, 24, 3, 3).

        seen: (N,) bool, which frames have features and betas.

        Raises BadInput for an empty video, features of another width or that are not finite, rates that are none, and a
        look-ahead that is longer than a clip.
        """
        if features.ndim != 2 or features.shape[1] != self.width:
            raise BadInput(f"the decoder reads {self.width} features a frame: these are {tuple(features.shape)}")
        if not len(features) or betas.shape != (len(features), 10):
            raise BadInput(f"the decoder needs frames with betas (10,): got {len(features)} and {tuple(betas.shape)}")
        if not fps > 0:
            raise BadInput(f"a video has more than 0 frames/s: got {fps}")
        if self.look_ahead is not None and not 0 <= self.look_ahead < self.frames:
            most = self.frames - 1
            raise BadInput(f"look_ahead: this decoder looks ahead by 0 to {most} frames: got {self.look_ahead}")
        odd = (~features.isfinite()).any(1) | (~betas.isfinite()).any(1)
        if seen is not None:
            odd, betas = odd & seen, torch.where(seen[:, None], betas, 0)
        if odd.any():
            raise BadInput(f"frame {int(odd.nonzero()[0])} has a feature or a beta that is not finite")
        return decode_video(self, features.float(), betas.float(), self.frames, fps, seen, self.look_ahead)
