"""How the generated tests run: no display, one thread, a seed, from nbs/ as the notebooks do."""
import os, sys
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import pytest, torch

here = Path(__file__).parent
sys.path.insert(0, str(here))   # `from tiny import ...`, `from ranks import on_ranks`
torch.set_num_threads(1)

def pytest_addoption(parser):
    parser.addoption('--run-slow', action='store_true', help='also run tests marked slow')

def chosen(config)->bool: return 'cuda' in (config.getoption('markexpr') or '')

def pytest_configure(config):
    "Tests run on the CPU, whatever the machine has; those of the GPU with `-m cuda`."
    if not chosen(config): os.environ['CUDA_VISIBLE_DEVICES'] = ''      # child processes have it, too

def pytest_collection_modifyitems(config, items):
    for item in items:
        if 'slow' in item.keywords and not config.getoption('--run-slow'): item.add_marker(pytest.mark.skip(reason='slow: pytest --run-slow'))
        if 'cuda' in item.keywords and not chosen(config): item.add_marker(pytest.mark.skip(reason='for a GPU: make test-cuda'))

def pytest_pycollect_makeitem(collector, name, obj):
    "`test_eq` and friends, star-imported from fastcore, are no tests."
    if callable(obj) and getattr(obj, '__module__', None)!=collector.module.__name__: return []

@pytest.fixture(autouse=True)
def as_in_a_notebook(monkeypatch, recwarn):
    "Each test starts in nbs/ with a fixed seed, and leaves no figure open."
    from fastai.torch_core import set_seed
    import matplotlib.pyplot as plt
    monkeypatch.chdir(here.parent/'nbs')
    monkeypatch.setenv('IN_TEST', '1')
    set_seed(0)
    yield
    plt.close('all')
