"""Attention modules: one file a family, one row of ATTENTIONS a kind.

This package imports no torch until a module is built, so that architectures can be
read, checked and counted in a process that never trains.
"""

from nasattn.attention.table import ATTENTIONS, AttentionKind, build_attention

__all__ = ["ATTENTIONS", "AttentionKind", "build_attention"]
