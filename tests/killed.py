"""Fits that are killed wherever, and run again: they must end as if nothing had happened. And disks that are full."""
import errno
from tiny import *
from fastai_lrx.all import *
from fastai_lrx.core import storage
from fastai_lrx.core.fingerprint import fingerprint
from fastai_lrx.core.remember import Keeper
from fastai_lrx.core.state import keep_autocast

class Killed(BaseException): "Stands for kill -9: no handler catches it."

class Kill(Callback):
    "Kills at `event` of an epoch of a fit (and a batch, in training)."
    order,run_in_sweep = 2000,False                 # after everybody, unless it says so
    in_batches = 'before_batch','after_pred','after_loss','after_step','after_batch'
    def __init__(self, fit=None, epoch=None, event=None, batch=None, place=2000):
        self.place,self.what,self.fits,self.order = (fit, epoch, batch),event,-1,place
    def __call__(self, event_name):
        in_fit = not self.learn.lock.locked()
        if event_name == 'before_fit' and in_fit: self.fits += 1
        batch = self.learn.iter if event_name in self.in_batches and self.learn.training else None
        if in_fit and event_name == self.what and (self.fits, getattr(self.learn, 'epoch', 0), batch) == self.place:
            raise Killed
    def state_dict(self): return {}              # otherwise the next run would be killed at the same place
    def load_state_dict(self, saved): pass

def in_batch(epoch, fit=0):
    "In the third batch of an epoch."
    return fit,epoch,'after_pred',2

places = [in_batch(0), in_batch(1), (0, 1, 'before_validate'), (0, 2, 'after_epoch', None, 500), (0, 2, 'after_epoch'),
          (0, 2, 'after_fit', None, 500)]
fits = dict(fit=lambda l,cbs: l.fit(3, 1e-2, cbs=cbs), one_cycle=lambda l,cbs: l.fit_one_cycle(3, 1e-2, cbs=cbs),
            flat_cos=lambda l,cbs: l.fit_flat_cos(3, 1e-2, cbs=cbs),
            sgdr=lambda l,cbs: l.fit_sgdr(2, 1, 1e-2, moms=(0.95, 0.85), cbs=cbs),
            triangular=lambda l,cbs: l.fit_triangular(3, 1, 1e-2, cbs=cbs),
            stlr=lambda l,cbs: l.fit_stlr(3, 1e-2, cbs=cbs),
            wsd=lambda l,cbs: l.fit_wsd(3, 1e-2, moms=(0.95, 0.85), cbs=cbs),
            gradual=lambda l,cbs: l.fine_tune_discriminative(2, 1e-2, 1, unfreeze='gradual', cbs=cbs))

def new_folder(): return Path(tempfile.mkdtemp())

def end(learn)->dict:
    "Everything that a fit leaves: weights, buffers, losses, history, optimizer, random generators, callbacks."
    r,opt,params = learn.recorder,learn.opt,list(learn.model.parameters())
    averages = [v for p in params for v in opt.state.get(p, {}).values() if isinstance(v, Tensor)]
    random_numbers = [random.random(), float(np.random.rand()), float(torch.rand(1)),
                      [dl.rng.random() for dl in learn.dls.loaders if hasattr(dl, 'rng')]]
    return dict(model=fingerprint(learn.model), losses=[float(o) for o in r.losses], lrs=r.lrs, iters=r.iters,
                values=[[float(x) for x in v] for v in r.values], hps=getattr(r, 'hps', None),
                groups=getattr(r, 'group_hps', None), hypers=[dict(h) for h in opt.hypers],
                adam=fingerprint(averages), frozen=(opt.frozen_idx, [p.requires_grad for p in params]),
                cycle_losses=getattr(r, 'cycle_losses', None), best_cycle=getattr(r, 'best_cycle', None),
                marks=getattr(r, 'marks', None), recoveries=getattr(r, 'recoveries', None), rng=random_numbers)

def run(make, fit, folder, *kill, resumed=True):
    "Make a learner, and fit it; what it ends as, None if it was killed."
    keep_autocast(process := Keeper())                # what a new process would begin with
    set_seed(1)
    learn = make()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            fit(learn, [*([Resume(folder/'r')] if resumed else []), Kill(*kill)])
    except Killed: return None
    finally: process.restore()
    return end(learn)

def in_python(v):
    "The same in Python's own types: a stored number of numpy's comes back as one."
    if isinstance(v, dict): return {k: in_python(o) for k,o in v.items()}
    if isinstance(v, (list,tuple,L)): return [in_python(o) for o in v]
    return v.item() if isinstance(v, (np.generic,Tensor)) else v

def same_end(a:dict, b:dict)->tuple:
    "Whether two ends are the same, and the names of what differs."
    differs = [k for k in a if str(in_python(a[k])) != str(in_python(b[k]))]
    return not differs,differs

def survives(make, fit, kills, folder=None)->bool:
    """Whether a fit that is killed at all these places, one after the other, ends as it should.

    That is, like a fit that is never killed, and like one without these callbacks."""
    oracle = run(make, fit, new_folder(), resumed=False)
    assert same_end(run(make, fit, new_folder()), oracle)[0], same_end(run(make, fit, new_folder()), oracle)
    folder = folder or new_folder()
    for kill in kills: assert run(make, fit, folder, *kill) is None, f'{kill}: never got there'
    again = run(make, fit, folder)
    assert same_end(again, oracle)[0], same_end(again, oracle)[1]
    finished = run(make, fit, folder)
    assert same_end(finished, oracle)[0], same_end(finished, oracle)[1]
    return True

@contextlib.contextmanager
def disk_full_at(n:int):
    "A disk that is full at the `n`-th file of this library, half of it written."
    real,calls = storage.save_file,[]
    def save_file(tensors, path, metadata):
        calls.append(path)
        real(tensors, path, metadata)
        if len(calls) == n:
            with open(path, 'r+b') as f: f.truncate(100)
            raise OSError(errno.ENOSPC, 'No space left on device')
    storage.save_file = save_file
    try: yield
    finally: storage.save_file = real
