"""The learning-rate toolkit for fastai: find a rate, vary it, spread it over the layers, keep the best of a run, and see it all before you train

Modules:

- `fastai_lrx.all`: Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import."""

__version__ = "0.2.0"
