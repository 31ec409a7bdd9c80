"""
Nasty trees as data: how each is built, and what must come of moving it. For the conformance suite and the benchmark.

A tree is either moved so that nothing can tell the difference, or refused with its reason and left alone. Nothing in between.
"""

from __future__ import annotations

from tests.rig.nasty import attributes, data, links, live, modes, names, places, special, times
from tests.rig.nasty.tree import Context, Tree

__all__ = ["SAMPLE", "TREES", "Context", "Tree", "sampler"]

TREES: tuple[Tree, ...] = (
    *names.TREES, *modes.TREES, *attributes.TREES, *times.TREES, *data.TREES, *links.TREES, *special.TREES, *live.TREES,
    *places.TREES,
)  # fmt: skip
"""All of them; the names are unique."""

SAMPLE: tuple[Tree, ...] = tuple(tree for tree in TREES if tree.portable)
"""Those that any faithful filesystem can hold, and that can stand below another tree."""


def sampler(ctx: Context) -> None:
    """Build all of `SAMPLE` below one root, each in a folder of its name."""
    for tree in SAMPLE:
        (ctx.root / tree.name).mkdir()
        tree.build(ctx.below(tree.name))
