"""Whatever can go wrong, wherever; and what to look at afterwards.

Faults in events and functions, Ctrl-C at any line, system calls that fail."""
import builtins, errno, functools, linecache, signal, sys, threading

import fastai_lrx
from safetensors import SafetensorError
from torch.utils.data._utils.fetch import _MapDatasetFetcher
from fastai.callback.core import _events
from fastai.optimizer import Optimizer
from tiny import *
from fastai_lrx.all import *
from fastai_lrx.core import storage
from fastai_lrx.core.fingerprint import fingerprint
from fastai_lrx.core.remember import generator_state
from fastai_lrx.core.state import _autocast_depth, global_rngs
from fastai_lrx.core.storage import load_state, mapped_state, save_state

# A fault, and where it comes

errors = KeyboardInterrupt, RuntimeError, torch.OutOfMemoryError, OSError
cancels = (CancelFitException, CancelEpochException, CancelTrainException, CancelValidException, CancelBatchException,
           CancelStepException, CancelBackwardException)
events = list(_events)[1:]                        # `after_create` comes before there is a learner to speak of
provokes = dict(after_cancel_backward=('before_backward', CancelBackwardException),
                after_cancel_step=('before_step', CancelStepException),
                after_cancel_batch=('after_pred', CancelBatchException),
                after_cancel_train=('before_train', CancelTrainException),
                after_cancel_validate=('before_validate', CancelValidException),
                after_cancel_epoch=('before_train', CancelEpochException),
                after_cancel_fit=('after_batch', CancelFitException))
sites = dict(forward=(F, 'linear'), loss=(BaseLoss, '__call__'), backward=(Tensor, 'backward'),
             step=(Optimizer, 'step'), zero_grad=(Optimizer, 'zero_grad'), set_hyper=(Optimizer, 'set_hyper'),
             create_opt=(Learner, 'create_opt'), metric=(AvgLoss, 'accumulate'),
             fetch=(_MapDatasetFetcher, 'fetch'), split=(Learner, '_split'))

class Fault:
    "What fails, and at which call; the count is kept outside of the learner, which is restored."
    def arm(self, what=None, n=0): self.what,self.n,self.calls,self.struck = what,n,0,False
    def come(self):
        self.calls += 1
        if self.calls == self.n:
            self.struck = True
            raise self.what('a fault')
fault = Fault()

class Strike(Callback):
    "Meets the fault in an event, and cancels what has to be cancelled for that event to come."
    run_in_dry_run = True
    def __init__(self, event, order=0):
        self.event,self.order = event,order
        if event in provokes: setattr(self, provokes[event][0], self.provoke)
        setattr(self, event, self.come)
    def come(self): fault.come()
    def provoke(self): raise provokes[self.event][1]

@contextlib.contextmanager
def struck_at(owner, name):
    "Meet the fault in a function."
    mine,real = vars(owner).get(name),getattr(owner, name)
    def f(*args, **kwargs):
        fault.come()
        return real(*args, **kwargs)
    setattr(owner, name, f)
    try: yield
    finally: setattr(owner, name, mine) if mine is not None else delattr(owner, name)

@contextlib.contextmanager
def struck_in(learn, where):
    "Meet the fault in an event or at a site."
    if where in sites:
        with struck_at(*sites[where]): yield
        return
    cb = Strike(where)
    learn.add_cb(cb)
    try: yield
    finally: learn.remove_cb(cb)

def raised(f, *args, **kwargs):
    "What a function raises, or None; it says nothing."
    try: quietly(f, *args, **kwargs)
    except BaseException as e: return e

def is_fault(e, what): return type(e) is what and 'a fault' in str(e)

# What to look at afterwards

def plain(o):
    "Something to compare: contents of tensors and containers, identities of objects."
    if isinstance(o, (Tensor,ndarray)): return fingerprint(o)
    if isinstance(o, dict): return {str(k): plain(v) for k,v in o.items()}
    if isinstance(o, (list,tuple,L)): return [plain(v) for v in o]
    return o if isinstance(o, (bool,int,float,str,type(None))) else id(o)

recorded = 'lrs','losses','hps','iters','values','log'      # what a sweep may leave in the recorder

def trained_by(learn):
    "All of a learner and around it that training depends on."
    model,opt = learn.model,learn.opt
    return dict(weights=fingerprint(model), grads=[plain(p.grad) for p in model.parameters()],
                opt_state=None if opt is None else [plain(dict(opt.state[p])) for ps in opt.param_lists for p in ps],
                hypers=None if opt is None else [opt.frozen_idx, *map(plain, opt.hypers)],
                learn=plain({k: v for k,v in vars(learn).items() if k != 'cbs'}),
                cb_attributes=[plain({k: v for k,v in vars(cb).items() if k not in recorded}) for cb in learn.cbs],
                loaders=[plain(generator_state(v)) for dl in learn.dls.loaders for v in vars(dl).values()],
                rngs=[plain(get()) for get,_ in global_rngs().values()], modes=[m.training for m in model.modules()])

def around(learn):
    "What no fit may leave otherwise."
    modules,loaders = [*learn.model.modules()],learn.dls.loaders
    return dict(cbs=[*map(id, learn.cbs)], their_learner=[cb.learn is learn for cb in learn.cbs], opt=id(learn.opt),
                dls=[*map(id, (learn.dls, *loaders))], dl_attributes=[sorted(vars(dl)) for dl in loaders],
                splits=[(tl.split_idx, tl.tfms.split_idx) for dl in loaders for tl in getattr(dl.dataset, 'tls', [])],
                forwards=[id(vars(m).get('forward')) for m in modules],
                module_attributes=[sorted(vars(m)) for m in modules],
                hooks=[len(m._forward_hooks)+len(m._forward_pre_hooks)+len(m._backward_hooks) for m in modules],
                locked=learn.lock.locked(), autocast=(torch.is_autocast_enabled('cpu'), _autocast_depth()),
                grad_mode=torch.is_grad_enabled(), sigint=signal.getsignal(signal.SIGINT),
                threads=threading.active_count(), figures=plt.get_fignums())

def differ(a, b):
    "What of one look at a learner is not so in another."
    def inside(k): return [o for o in a[k]|b[k] if a[k].get(o) != b[k].get(o)]
    return [(k, inside(k)) if isinstance(a[k], dict) else k for k in a if a[k] != b[k]]

# What it happens to: looks, which leave no trace, and fits

snaps = Snapshots()
def prepared():
    "A learner that has been trained in two cycles."
    snaps.__init__()
    learn = learner('tensors')
    learn.fit_sgdr(2, 1, 1e-2, cycle_mult=1, cbs=snaps)
    return learn

def inside(block):
    def do(learn):
        with getattr(learn, block)(): learn.fit_sgdr(2, 1, 1e-2, cycle_mult=1)
    return do
def ensemble(method): return lambda learn: getattr(SnapshotEnsemble(learn, snaps), method)()

looks = dict(preserved=inside('preserved'), dry_run=inside('dry_run'),
             lr_find=lambda l: l.lr_find(num_it=8, show_plot=False),
             repeats=lambda l: l.lr_find(num_it=6, repeats=2, extend=False, show_plot=False),
             range_test=lambda l: l.lr_range_test(num_it=20, end_lr=1., valid_batches=1, show_plot=False),
             groups=lambda l: l.lr_find_groups(num_it=20, extend=False, show_plot=False),
             compare=lambda l: l.compare(dict(fixed=lambda l: l.fit(1), cycles=lambda l: l.fit_sgdr(1, 1, 1e-2)),
                                         seeds=1),
             get_preds=ensemble('get_preds'), validate=ensemble('validate'), curve=ensemble('curve'),
             diversity=ensemble('diversity'))

def inside_precomputed(**kwargs):
    def do(learn, folder):
        learn.freeze()
        cache = {} if kwargs else dict(cache=folder/'cache')
        with learn.precomputed(**kwargs, **cache): learn.fit_sgdr(2, 1, 1e-2, cycle_mult=1)
    return do
def sgdr(*make): return lambda l,d: l.fit_sgdr(2, 1, 1e-2, cycle_mult=1, cbs=[f(d) for f in make])

fits = dict(sgdr=sgdr(), until=sgdr(lambda d: UntilOverfit()), memory=sgdr(lambda d: Snapshots()),
            folder=sgdr(lambda d: Snapshots(d/'s', keep=1, best=True)),
            triangular=lambda l,d: l.fit_triangular(2, 1, 1e-2), stlr=lambda l,d: l.fit_stlr(2, 1e-2),
            wsd=lambda l,d: l.fit_wsd(2, 1e-2),
            resume=sgdr(lambda d: Resume(d/'r')),
            all_three=sgdr(lambda d: Resume(d/'r'), lambda d: Snapshots(d/'s'), lambda d: UntilOverfit()),
            discriminative=lambda l,d: l.fine_tune_discriminative(1, 1e-2, 1, train_bn=False),
            with_precompute=lambda l,d: l.fine_tune_discriminative(1, 1e-2, 1, precompute=True),
            resumed_tuning=lambda l,d: l.fine_tune_discriminative(1, 1e-2, cbs=Resume(d/'r')),
            unfreezing=lambda l,d: l.fit(2, cbs=GradualUnfreezing()),
            cache=inside_precomputed(), mapped=inside_precomputed(max_memory=0), views=inside_precomputed(n_aug=2))
resumable = 'resume','all_three','resumed_tuning'

class LastStep(Callback):
    "The weights after the last step."
    order = -500
    def after_step(self): self.weights = [p.detach().clone() for p in self.model.parameters()]
    def state_dict(self): return {}
    def load_state_dict(self, saved): pass

def stock_fails_too(where, what, n):
    "Whether fastai's own fit ends with another error than the fault."
    learn = learner('tensors')
    fault.arm(what, n)
    with struck_in(learn, where): e = raised(learn.fit, 2)
    return e is not None and not is_fault(e, what)

# Ctrl-C as a line of the library begins

# it comes to no other thread: where cells are executed in another one, only the tests press
by_signal = threading.current_thread() is threading.main_thread()
library = Path(fastai_lrx.__file__).parent

@functools.cache
def is_in(file:str, files:tuple|None):
    "Whether a file is one of the library, and of the modules or wings with these names, if there are any."
    path = Path(file)
    return library in path.parents and (files is None or bool({path.stem, path.parent.name} & {*files}))

def traced(f, at=None, files=None):
    """The lines of the library that `f` runs, and what it raises, if Ctrl-C is pressed as line number `at` begins.

    With `files`, only lines of modules or wings with these names."""
    lines = []
    def local(frame, event, arg):
        if event == 'line':
            lines.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
            if len(lines) == at:
                sys.settrace(None)
                signal.raise_signal(signal.SIGINT)
        return local
    def called(frame, event, arg):
        if is_in(frame.f_code.co_filename, files): return local
    sys.settrace(called)
    try: e = raised(f)
    finally: sys.settrace(None)
    return lines,e

def is_entrance(file, line, function):
    "Whether Ctrl-C may come here, as what follows is held up: the entrance to putting back cannot be guarded itself."
    text = linecache.getline(file, line)
    return function == 'uninterrupted' or 'restore()' in text or 'with uninterrupted()' in text

def presses(f, files=None, last=True):
    "Numbers of lines at which to press, and what they are: of each line the first time it is run, and the last."
    traced(f, files=files)
    at = {}
    for i,line in enumerate(traced(f, files=files)[0]): at.setdefault(line, []).append(i+1)
    return sorted((i, line) for line,iis in at.items() for i in {iis[0], iis[-1] if last else iis[0]}
                  if not is_entrance(*line))

# System calls that fail, and what writes files

calls = dict(open=(builtins, 'open'), os_open=(os, 'open'), fsync=(os, 'fsync'), replace=(os, 'replace'),
             mkdir=(os, 'mkdir'), unlink=(os, 'unlink'), fallocate=(os, 'posix_fallocate'),
             save_file=(storage, 'save_file'))
errors_of = dict(ENOSPC=OSError(errno.ENOSPC, 'No space left on device'),
                 EROFS=OSError(errno.EROFS, 'Read-only file system'),
                 rust=SafetensorError('No space left on device (os error 28)'))

@contextlib.contextmanager
def failing(call, folder, n=0, error=None, stays=False):
    """A system call that fails the n-th time that it is made for a file in `folder`, or from then on.

    Gives the list of these calls."""
    owner,name = calls[call]
    real,made = getattr(owner, name),[]
    def f(*args, **kwargs):
        if call in ('fsync','fallocate','save_file') or str(args[0]).startswith(str(folder)):
            made.append(args)
            if n and (len(made) == n or stays and len(made) > n): raise error
        return real(*args, **kwargs)
    setattr(owner, name, f)
    try: yield made
    finally: setattr(owner, name, real)

def overwrite(learn, folder):
    save_state(folder/'x', dict(a=torch.zeros(3)))
    save_state(folder/'x', dict(a=torch.ones(3)))
def fill_mapped(learn, folder):
    with mapped_state(folder/'x', dict(a=((3,), torch.float32))) as t: t['a'][:] = 1

writers = dict(snapshots=lambda l,d: l.fit_sgdr(3, 1, 1e-2, cycle_mult=1, cbs=Snapshots(d/'s', keep=1)),
               checkpoints=lambda l,d: l.fit_sgdr(3, 1, 1e-2, cycle_mult=1, cbs=Resume(d/'r')),
               cache=inside_precomputed(), overwrite=overwrite, mapped=fill_mapped)
extras = 'snapshots','checkpoints'      # what a fit goes on without

def is_whole(path):
    try: load_state(path)
    except ValueError: return False
    return True
