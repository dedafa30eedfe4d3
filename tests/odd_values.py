"""Values of every kind, thrown at the arguments of functions.

What comes back keeps its promises, or an error names the argument and nothing has changed."""
import inspect, signal, threading
from decimal import Decimal
from fractions import Fraction

from fastcore.test import *
from tiny import *

# What is thrown: for each kind of mistake a few values, and many more of them where `every` is set

class Odd: pass
nan,inf = float('nan'),float('inf')

def pool(every=False):
    "Values by label, recreated each time, because generators are used up."
    few = {'zero': 0, 'one': 1, 'two': 2, 'minus one': -1, 'seven': 7, 'half': .5, 'minus half': -.5, 'tiny': 1e-300,
           'largest': 1.7e308, 'billion': 10**9, 'no float': 10**400, 'nan': nan, 'inf': inf,
           '-inf': -inf, 'True': True,
           'np.float32': np.float32(.5), 'np.float64': np.float64(.5), 'np.uint8': np.uint8(3),
           'np.bool': np.bool_(True), 'bf16': torch.tensor(.5, dtype=torch.bfloat16),
           'with grad': torch.tensor(.5, requires_grad=True), 'int tensor': torch.tensor(3),
           'complex tensor': torch.tensor(1+2j), 'meta': torch.tensor(.5, device='meta'), '0-d': np.array(.5),
           'two floats': np.array([.1, .2]), 'matrix': np.array([[.1, .2]]), 'no numbers': np.array([]),
           'tensor of two': torch.tensor([.1, .2]),
           'list': [.1, .2], 'three': [.1, .2, .3], 'empty': [], 'nested': [[.1, .2]], 'ragged': [[1], [1, 2]],
           'tuple': (.95, .85), 'with None': [None], 'with nan': [.1, nan], 'number in text': '1e-3', 'no text': '',
           'text': 'abc', 'None': None,
           'slice': slice(None), 'slice of two': slice(1e-4, 1e-2), 'reversed': slice(1e-2, 1e-4),
           'of texts': slice('a', 'b'), 'of lists': slice([1e-4], [1e-2, 1e-3]), 'object': Odd(), 'class': int,
           'callback class': Callback, 'callback': Callback(),
           'no arguments': lambda: 0, 'generator': (i for i in [1]), 'set': {1}, 'dict': {'a': 1}, 'bytes': b'abc',
           'complex': 1j, 'Decimal': Decimal('.5'), 'Fraction': Fraction(1, 2), 'path': Path('x'), 'long': 'x'*5000,
           '../up': '../up', 'NUL': 'a\0b'}
    more = {'three alone': 3, '1.5': 1.5, '1e300': 1e300, 'float billion': 1e9, '2**63': 2**63, '-10**400': -10**400,
            '-0.0': -0., 'False': False, 'np.float16': np.float16(.5), 'np.int8': np.int8(3), 'np.int64': np.int64(3),
            'longdouble': np.longdouble(.5), 'np.nan': np.float64(nan), 'tensor': torch.tensor(.5),
            'bool tensor': torch.tensor(True), 'half tensor': torch.tensor(.5).half(),
            'uint8 tensor': torch.tensor(3, dtype=torch.uint8),
            'sparse': torch.tensor([.1, .2]).to_sparse(), 'no tensor': torch.tensor([]),
            'tensor of one': torch.tensor([.5]), 'nan tensor': torch.tensor(nan), '0-d int': np.array(3),
            'array of one': np.array([.5]), 'array of three': np.array([.1, .2, .3]),
            'objects': np.array([None, 1], dtype=object), 'texts': np.array(['a']),
            'array with nan': np.array([nan, 1.]), 'complex array': np.array([1j]), 'list of one': [.5],
            'falling': [.2, .1], 'list in list': [[]], 'no tuple': (),
            'triple': (.95, .85, .95), 'list of texts': ['a', 'b'], 'ones': [1, 1], 'below zero': [0, -1],
            'bools': [True, False], 'L': L(.5), 'with step': slice(1e-4, 1e-2, 2), 'to': slice(1e-2),
            'from': slice(1e-2, None), 'slice with nan': slice(nan, 1.),
            'from zero': slice(0, 1e-2), 'from below': slice(-1, 1e-2), 'to inf': slice(1e-3, inf),
            'one argument': lambda x: x, 'range': range(3), 'no dict': {}, 'a/b': 'a/b', 'unicode': 'é☃', '..': '..',
            'dot': '.', 'tilde': '~', 'series': pd.Series([.1, .2]),
            'table': pd.DataFrame({'a': [1]}), 'date': np.datetime64('2020-01-01'), 'Ellipsis': ..., 'module': np,
            'type': type, 'layer': nn.Linear(1, 1), 'frozenset': frozenset([1]), 'surrogate': '\ud800',
            'device': torch.device('cpu'),
            'exception': KeyboardInterrupt, 'learner class': Learner, 'long list': [.1]*5000}
    return few | more if every else few

# How: one argument is bad, the others are good. Their names come from the signature, so that a new argument has to be
# entered in the tables. After an error, learner, random numbers, files and figures are as they were.

class Hang(BaseException): "Not caught by anything on the way."

@contextlib.contextmanager
def guarded(seconds=120):
    "Turn an endless loop into an error; not in a notebook, which runs cells in a thread."
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    def stop(*args): raise Hang
    old = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)

def state_of(learn, folder=None):
    "All that an error must leave alone."
    files = sorted(map(str, Path(folder).rglob('*'))) if folder else []
    rng = [random.getstate(), np.random.get_state()[1].tobytes(), np.random.get_state()[2],
           torch.get_rng_state().tolist()]
    if learn is None: return [files, rng, plt.get_fignums()]
    opt = learn.opt
    model = [[o.tolist(), o.requires_grad, o.grad is None, str(o.dtype)]
             for o in (*learn.model.parameters(), *learn.model.buffers())] + [m.training for m in learn.model.modules()]
    opt = [id(opt)] + ([] if opt is None else [[dict(h) for h in opt.hypers], opt.frozen_idx,
                                               [len(opt.state[p]) for ps in opt.param_lists for p in ps]])
    return [files, rng, plt.get_fignums(), model, opt, [id(cb) for cb in learn.cbs], id(learn.dls),
            [id(dl) for dl in learn.dls.loaders], sorted(vars(learn)), id(learn.splitter),
            [id(m) for m in learn._metrics], learn.lock.locked()]

def entry(f, check=None, given=None, free='', flags='', also=None, **valid):
    """A function and good values for its arguments.

    `check` raises for a result that breaks a promise. `given`: whose signature counts. `free`: what others (matplotlib,
    fastai, a function of the user) read. `flags`: those of stock fastai, where all counts that is true or false.
    `also`: what an error may name instead."""
    return f,check,given or f,free.split(),flags.split(),also or {},valid

def has_truth(v):
    try: return bool(v) in (True, False)
    except Exception: return False

def complaints(f, arguments, check, names):
    "Calls a function with a bad argument: what is wrong with how it takes it, and the error if it has refused it."
    try:
        with guarded(), warnings.catch_warnings(record=True) as said, contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('always')
            res = f(**arguments)
            if check: check(res)
        plt.close('all')
        if any(issubclass(w.category, RuntimeWarning) for w in said): yield f'warns: {said[0].message}',None
    except (ValueError, TypeError) as e:
        text = str(e)
        if not any(re.search(rf'\b{name}\b', text) for name in names): yield f'names no argument: {e!r:.200}',e
        if len(text) > 700 and not text.startswith('Exception occured in'):
            yield f'has {len(text)} characters in its error',e
        yield None,e
    except (Exception, Hang) as e: yield f'raises {e!r:.200}',None

def faults_of(name, f, check, given, free, flags, also, valid, learn, folder, every):
    "What is wrong with how `f` takes its arguments, and how many values were tried."
    names = [p for p in inspect.signature(given).parameters if p != 'self']
    test_eq(set(names), set(valid) | set(free))
    found,n = [],0
    for arg in valid:
        for label in pool(every):
            value = pool(every)[label]
            if arg in flags and not has_truth(value): continue
            before,n = state_of(learn, folder),n+1
            heard = list(complaints(f, {**valid, arg: value}, check, [arg, *also.get(arg, '').split()]))
            faults = [fault for fault,_ in heard if fault]
            refused = [e for _,e in heard if e is not None]
            if refused and state_of(learn, folder) != before: faults.append(f'has left a trace: {refused[0]}')
            found += [f'{name}({arg}: {label}) {fault}' for fault in faults]
    return found,n

def throw(table, learn=None, folder=None, every=False):
    "Throw all values at all entries of a table."
    found = {name: faults_of(name, *o, learn, folder, every) for name,o in table.items()}
    faults = [fault for o,_ in found.values() for fault in o]
    assert not faults, '\n'.join([f'{len(faults)} faults', *faults])
    return sum(n for _,n in found.values())

@contextlib.contextmanager
def in_folder():
    "A folder of its own to work in."
    old = os.getcwd()
    with tempfile.TemporaryDirectory() as d:
        os.chdir(d)
        try: yield Path(d)
        finally: os.chdir(old)
