"""Blocks that stages are made of: one file a family, one row of BLOCKS a kind."""

from nasattn.blocks.table import BLOCKS, BlockKind

__all__ = ["BLOCKS", "BlockKind"]
