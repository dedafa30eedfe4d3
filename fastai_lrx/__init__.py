"""The learning-rate toolkit for fastai: find a rate, vary it, spread it over the layers, and see it before you pay for it

Modules:

- `fastai_lrx.all`: Everything a user needs: `from fastai_lrx.all import *` after fastai's own star import."""

__version__ = "0.2.0"
