"""Whose evaluation: the paper's definitions, or those that its released code computes."""

from typing import Literal

Protocol = Literal["paper", "released"]
"""`paper`: the formulas of arXiv 2510.23506, with decisions 29 to 33.

`released`: EEA in which a clip without a readable answer is wrong, UAR over all classes of the taxonomy, DFEW's names
as that code asks its judge, and no temperature in the request; a language model's name as judge then ends in
`(released)`. docs/paper_index.md has what neither shares.
"""
