"""Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import.

Importing it gives every Learner `preserved`, `lr_find`, `lr_range_test`, `lr_find_groups`, `regroup`, `layer_groups`, `fit_sgdr`, `fit_triangular`, `fit_stlr`, `fine_tune_discriminative`, `precomputed`, `dry_run` and `compare`."""
from . import backbones, compare, cycles, fine_tune, finder, layer_groups, precompute, preview, range_tests, resume, scheduled, snapshots, state
from .state import LearnerState
from .schedules import CosineRestarts, Flat, OneCycle, Schedule, SlantedTriangular, Triangular, join
from .scheduled import Scheduled
from .layer_groups import NormFreeze, discriminative_lrs, timm_split
from .resume import Resume
from .backbones import timm_learner
from .cycles import UntilOverfit
from .snapshots import SnapshotEnsemble, Snapshots
from .fine_tune import GradualUnfreezing
from .suggest import SweepCurve, by_drop, halfway, lowest, valley

__all__ = ['LearnerState', 'Schedule', 'Flat', 'CosineRestarts', 'Triangular', 'SlantedTriangular', 'OneCycle', 'join', 'Scheduled', 'timm_learner', 'timm_split', 'discriminative_lrs', 'NormFreeze', 'GradualUnfreezing', 'UntilOverfit', 'Snapshots', 'SnapshotEnsemble', 'Resume',
           'SweepCurve', 'by_drop', 'halfway', 'lowest', 'valley']
