"""Placement: which node each pending replica goes to, whether that still holds, and what a deploy would do."""

from fallow.decide.placement.fits import fits
from fallow.decide.placement.foretell import foretell
from fallow.decide.placement.judge import judge
from fallow.decide.placement.place import place
from fallow.decide.placement.result import Binding, Foretold, Placement, Rejection

__all__ = ["Binding", "Foretold", "Placement", "Rejection", "fits", "foretell", "judge", "place"]
