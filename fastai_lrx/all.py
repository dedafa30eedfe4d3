"""Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import.

Importing it gives every Learner `preserved`, `lr_find`, `lr_range_test`, `lr_find_groups`, `regroup`, `layer_groups`, `fit_sgdr`, `fit_triangular` and `fit_stlr`."""
from . import backbones, cycles, finder, layer_groups, range_tests, scheduled, state
from .state import LearnerState
from .schedules import CosineRestarts, Flat, Schedule, SlantedTriangular, Triangular, join
from .scheduled import Scheduled
from .layer_groups import NormFreeze, discriminative_lrs, timm_split
from .backbones import timm_learner
from .suggest import SweepCurve, by_drop, halfway, lowest, valley

__all__ = ['LearnerState', 'Schedule', 'Flat', 'CosineRestarts', 'Triangular', 'SlantedTriangular', 'join', 'Scheduled', 'timm_learner', 'timm_split', 'discriminative_lrs', 'NormFreeze',
           'SweepCurve', 'by_drop', 'halfway', 'lowest', 'valley']
