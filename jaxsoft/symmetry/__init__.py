"""Which points of a net are the same point: the maps of the parameters that leave its loss alone.

found = distinct(points, Symmetry("odd", class_shift=True))   # n points along the first axis of every leaf
found.label, found.representatives                            # the class of each point, the first point of each
"""

from jaxsoft.symmetry.classes import Distinct, distinct
from jaxsoft.symmetry.group import Symmetry

__all__ = ["Distinct", "Symmetry", "distinct"]
