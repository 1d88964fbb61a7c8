"""How far a student's tokens are from a teacher's, whatever merged in the student."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from compress.tokens import Tokens, taken


def token_distance(student: Tokens, teacher: Tokens) -> Tensor:
    """Mean squared distance between the student's tokens and what they stand for, in variances of the teacher's tokens.

    A token that holds some patches is compared with the mean of the teacher's tokens of these patches; each token
    counts the same, because the head's attention reads each the same. Prefix tokens are compared with the teacher's.
    """
    x, wanted = student.x.float(), averaged(student, teacher)
    return (x - wanted).square().mean() / teacher.x.float().var().clamp_min(1e-12)


def block_distance(student: Tokens, teacher: Tokens) -> Tensor:
    """The same after a block, each token normalised: within a network a few features of a few tokens are so large that
    nothing else would count."""
    width = student.x.shape[-1:]
    return F.mse_loss(F.layer_norm(student.x.float(), width), F.layer_norm(averaged(student, teacher), width))


def averaged(student: Tokens, teacher: Tokens) -> Tensor:
    """For each of the student's tokens (B, N, C), the mean of the teacher's over the patches it stands for.

    Raises ValueError where the teacher dropped tokens.
    """
    if teacher.dropped:
        raise ValueError("the teacher dropped tokens, and nothing can be learnt of those")
    patches = taken(teacher.x.float(), teacher.source)  # (B, N0, C)
    return torch.cat((teacher.x[:, : teacher.prefix].float(), student.averaged(patches)[:, student.prefix :]), 1)
