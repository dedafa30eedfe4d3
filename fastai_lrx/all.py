"""Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import.

Importing it gives every Learner `preserved`, `lr_find`, `lr_range_test`, `lr_find_groups`, `lr_search`, `regroup`, `layer_groups`,
`fit_sgdr`, `fit_triangular`, `fit_stlr`, `fit_wsd`, `fit_anytime`, `load_anytime`,
`fine_tune_discriminative`, `precomputed`, `dry_run` and `compare`."""
from .core.state import LearnerState
from .vary.schedules import CosineRestarts, Flat, OneCycle, Schedule, SlantedTriangular, Triangular, join
from .vary.decays import InverseSqrt, Linear, Polynomial, Steps, WarmupStableDecay
from .vary.scheduled import Scheduled
from .vary.cycles import UntilOverfit
from .find.curves import SweepCurve, by_drop, halfway, lowest, suggested, valley, watched_lowest
from .find import finder, lr_search, range_tests
from .keep.average import Average
from .keep.snapshots import Snapshots
from .keep.ensembles import SnapshotEnsemble
from .keep.recover import Recover
from .keep import anytime, soup
from .keep.resume import Resume
from .spread.layers import discriminative_lrs, timm_split
from .spread import layer_groups
from .spread.freezing import NormEval, NormFreeze
from .spread.backbones import timm_learner
from .spread.fine_tune import GradualUnfreezing
from .spread import precompute
from .show import compare, dry_run

__all__ = [
    'LearnerState', 'Schedule', 'Flat', 'CosineRestarts', 'Triangular', 'SlantedTriangular', 'OneCycle', 'join', 'Scheduled',
    'Linear', 'Polynomial', 'Steps', 'InverseSqrt', 'WarmupStableDecay', 'timm_learner', 'timm_split',
    'discriminative_lrs', 'NormEval', 'NormFreeze', 'GradualUnfreezing', 'UntilOverfit', 'Average', 'Snapshots',
    'SnapshotEnsemble', 'Resume', 'Recover', 'SweepCurve', 'by_drop', 'halfway', 'lowest', 'suggested', 'valley',
    'watched_lowest']
