"""Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import."""
from .schedules import *
from .scheduled import *
from .state import *
from .suggest import *
from .finder import *
from .cycles import *
