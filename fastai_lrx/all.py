"""Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import.

Importing it gives every Learner `preserved`, `lr_find`, `fit_sgdr`, `fit_triangular` and `fit_stlr`."""
from . import cycles, finder, scheduled, state
from .state import LearnerState
from .schedules import CosineRestarts, Flat, Schedule, SlantedTriangular, Triangular, join
from .scheduled import Scheduled
from .suggest import SweepCurve, by_drop, valley

__all__ = ['LearnerState', 'Schedule', 'Flat', 'CosineRestarts', 'Triangular', 'SlantedTriangular', 'join', 'Scheduled',
           'SweepCurve', 'by_drop', 'valley']
