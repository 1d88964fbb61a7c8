"""A claim about a table, held against its rows: it holds, it does not, or the intervals cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hmr.evaluation.intervals import Interval, interval

Rows = Mapping[str, Mapping[str, Any]]  # measured rows by name; what was not measured is not there
NEGLIGIBLE_MM = 1.0  # a rise below this is called none
VERDICTS = {True: "holds here", False: "does not hold here", None: "is inconclusive here"}


@dataclass(frozen=True)
class Finding:
    """`claim` completes "..., and CLAIM holds here"; `shows` gives the rows' figures in words; both are pure."""

    claim: str
    holds: Callable[[Rows], bool | None]
    shows: Callable[[Rows], str]


def lower(claim: str, shows: str, *pairs: tuple[str, str] | tuple[str, str, float]) -> Finding:
    """The claim that in each pair of rows (name, other) the first errs less in MPJPE, or (name, other, mm) by less than
    so many mm more. `shows` has a {} for the difference of each pair."""
    limits = [(name, over, *(limit or (0.0,))) for name, over, *limit in pairs]
    return Finding(
        claim,
        holds=lambda rows: every(*(below(rise(rows, name, over), limit) for name, over, limit in limits)),
        shows=lambda rows: shows.format(*(difference(rise(rows, name, over)) for name, over, _ in limits)),
    )


def sentence(finding: Finding, rows: Rows) -> str:
    """What a table shows, and whether the claim holds in it."""
    shown = finding.shows(rows)
    return f"{shown[0].upper()}{shown[1:]}; {finding.claim} {VERDICTS[finding.holds(rows)]}."


def rise(rows: Rows, name: str, over: str, key: str = "mpjpe_mm") -> Interval | None:
    """`key` of a row minus that of another, recording by recording: what `paired_interval` of their frames gives too.

    None where one of them was not measured.
    """
    if name not in rows or over not in rows:
        return None
    theirs = {clip["clip"]: clip[key] for clip in rows[over]["per_clip"]}
    mine = rows[name]["per_clip"]
    return interval([clip[key] - theirs[clip["clip"]] for clip in mine], [clip["clip"] for clip in mine])


def below(gap: Interval | None, limit: float = 0.0) -> bool | None:
    """Whether a difference is below `limit`; None where its interval holds the limit or there is none."""
    if gap is None or gap.lo is None or gap.hi is None or gap.lo <= limit <= gap.hi:
        return None
    return gap.hi < limit


def every(*answers: bool | None) -> bool | None:
    """Whether all hold: False where one does not, else None where one is inconclusive."""
    if False in answers:
        return False
    return None if None in answers else True


def difference(gap: Interval | None) -> str:
    """A difference in mm, in words."""
    if gap is None:
        return "an unmeasured amount"
    if gap.lo is None:
        return f"{gap.mean:+.1f} mm, of one recording"
    return f"{gap.mean:+.1f} mm [{gap.lo:+.1f}, {gap.hi:+.1f}]"
