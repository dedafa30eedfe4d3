"""How the generated tests run: no display, one thread, a seed, from nbs/ as the notebooks do.

Each leaves the process as it found it."""
import os, signal, sys, threading
from pathlib import Path

import matplotlib
matplotlib.use('Agg')
import pytest, torch

here = Path(__file__).parent
sys.path.insert(0, str(here))             # `from tiny import ...`, `from ranks import on_ranks`
sys.path.append(str(here.parent/'tools'))   # `import check_sync`
torch.set_num_threads(int(os.environ.get('LRX_TEST_THREADS', 1)))

def pytest_addoption(parser):
    parser.addoption('--run-slow', action='store_true', help='also run tests marked slow')
    parser.addoption('--all', action='store_true', help='also run those of tests/wide.txt, as `make test-all` does')

def for_gpu(config)->bool: return 'cuda' in (config.getoption('markexpr') or '')

def pytest_configure(config):
    "Tests run on the CPU, whatever the machine has; those of the GPU with `-m cuda`."
    if not for_gpu(config): os.environ['CUDA_VISIBLE_DEVICES'] = ''      # child processes have it, too

wide = {line.split('#')[0].strip() for line in (here/'wide.txt').read_text().splitlines()} - {''}

def pytest_collection_modifyitems(config, items):
    found = {f'{item.path.stem}::{item.name}' for item in items}
    unknown = sorted(o for o in wide - found if o.split('::')[0] in {name.split('::')[0] for name in found})
    if unknown and not any('::' in arg for arg in config.args):
        raise pytest.UsageError(f'tests/wide.txt: there are no such tests: {unknown}')
    for item in items:
        if f'{item.path.stem}::{item.name}' in wide: item.add_marker('wide')
        if 'wide' in item.keywords and not config.getoption('--all'):
            item.add_marker(pytest.mark.skip(reason='wide: make test-all'))
        if 'slow' in item.keywords and not config.getoption('--run-slow'):
            item.add_marker(pytest.mark.skip(reason='slow: pytest --run-slow'))
        if 'cuda' in item.keywords and not for_gpu(config):
            item.add_marker(pytest.mark.skip(reason='for a GPU: make test-cuda'))

def pytest_pycollect_makeitem(collector, name, obj):
    "`test_eq` and friends, star-imported from fastcore, are not tests."
    if callable(obj) and getattr(obj, '__module__', None)!=collector.module.__name__: return []

# Nothing is left behind

class Switch:
    "Something of the whole process: how to read it, and how to put it back."
    def __init__(self, get, put): self.get,self.put = get,put

def put_environ(values): os.environ.clear(); os.environ.update(values)
def put_path(values): sys.path[:] = values
def autocast_depth():
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()
def put_depth(depth):
    while autocast_depth() > depth: torch.autocast_decrement_nesting()

own_names = 'PYTEST_CURRENT_TEST', 'TORCHINDUCTOR_CACHE_DIR'      # pytest's, and torch's, which sets it once
switches = {
    'autocast': Switch(lambda: torch.is_autocast_enabled('cpu'), lambda on: torch.set_autocast_enabled('cpu', on)),
    'type of autocast': Switch(lambda: torch.get_autocast_dtype('cpu'),
                               lambda dtype: torch.set_autocast_dtype('cpu', dtype)),
    'depth of autocast': Switch(autocast_depth, put_depth),
    'autograd': Switch(torch.is_grad_enabled, torch.set_grad_enabled),
    'default type': Switch(torch.get_default_dtype, torch.set_default_dtype),
    'default device': Switch(torch.get_default_device, torch.set_default_device),
    'threads of torch': Switch(torch.get_num_threads, torch.set_num_threads),
    'deterministic': Switch(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    'environment': Switch(lambda: {k: v for k,v in os.environ.items() if k not in own_names}, put_environ),
    'current folder': Switch(os.getcwd, os.chdir),
    'sys.path': Switch(lambda: list(sys.path), put_path),
    'matplotlib': Switch(lambda: dict(matplotlib.rcParams), matplotlib.rcParams.update),
    'handler of Ctrl-C': Switch(lambda: signal.getsignal(signal.SIGINT), lambda f: signal.signal(signal.SIGINT, f)),
    'threads': Switch(lambda: {t.name for t in threading.enumerate() if not t.daemon
                               and not t.name.startswith('ThreadPool')}, lambda _: None)}

@pytest.fixture
def process_left_alone():
    """The process is afterwards as it was.

    What has changed is restored, so that other tests are not affected, and the test fails."""
    before = {name: switch.get() for name,switch in switches.items()}
    yield
    changed = {name: (before[name], now) for name,switch in switches.items() if (now := switch.get()) != before[name]}
    for name in changed: switches[name].put(before[name])
    assert not changed, f'the test leaves the process another: {changed}'

@pytest.fixture(autouse=True)
def as_in_a_notebook(process_left_alone, monkeypatch, recwarn):
    "Each test starts in nbs/ with a fixed seed, and leaves no figure open."
    from fastai.torch_core import set_seed
    import matplotlib.pyplot as plt
    monkeypatch.chdir(here.parent/'nbs')
    monkeypatch.setenv('IN_TEST', '1')
    set_seed(0)
    yield
    plt.close('all')

def is_empty(path:Path)->bool: return path.is_dir() and not any(path.iterdir())

def files()->list:
    "What lies in the checkout, without what tools keep for themselves."
    folders = [here.parent/name for name in ('nbs', 'tests', 'fastai_lrx', 'benchmarks', 'tools')]
    inside = [p for folder in folders for p in folder.rglob('*') if '__pycache__' not in p.parts]
    return inside + [p for p in here.parent.iterdir() if p.name not in ('.pytest_cache', '.hypothesis', '.benchmarks')]

def pytest_sessionstart(session):
    "Empty folders, which git does not show, may be what an earlier run has left: they do not count as there before."
    if hasattr(session.config, 'workerinput'): return
    session.config.files_before = {p for p in files() if not is_empty(p)}

def pytest_sessionfinish(session, exitstatus):
    "The suite leaves no file in the checkout."
    if not hasattr(session.config, 'files_before'): return
    session.config.left = sorted(str(p.relative_to(here.parent)) for p in set(files()) - session.config.files_before)
    if session.config.left and not session.exitstatus: session.exitstatus = pytest.ExitCode.TESTS_FAILED

def pytest_terminal_summary(terminalreporter, config):
    from tiny import has_lstm_in_bf16
    if not has_lstm_in_bf16:
        terminalreporter.write_line('left out: text learners in bf16, as this processor has no LSTM in it; they were '
                                    'tested in full precision')
    if left := getattr(config, 'left', None):
        terminalreporter.write_line(f'FAILED: tests have left files in the checkout: {left}', red=True)
