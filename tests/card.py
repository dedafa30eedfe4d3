"""The GPU, where there is one: learners on it, all that influences how training goes on, and what makes a GPU wait."""
import copy, gc, os
# before CUDA begins: products that are the same each time
os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')

import pytest, torch
from torch.overrides import TorchFunctionMode
from tiny import *
from fastai.callback.channelslast import ChannelsLast
from fastai_lrx.all import *
from fastai_lrx.keep.run_state import run_state
from fastai_lrx.core.fingerprint import fingerprint

has_card = torch.cuda.is_available()
device = torch.device('cuda' if has_card else 'cpu')

def needs_card(what:str):
    "Skip the rest of a test without a GPU, and report what is skipped."
    if not has_card: pytest.skip(f'no GPU here: without {what}')

def free():
    "Let go of what exceptions and cycles hold."
    gc.collect()
    if has_card: torch.cuda.synchronize(); torch.cuda.empty_cache()

def allocated()->int:
    "Bytes of GPU memory in use; 0 without one."
    free()
    return torch.cuda.memory_allocated() if has_card else 0

precisions = dict(fp32=noop, bf16=lambda learn: learn.to_bf16() if has_card else learn.add_cb(bf16()),
                  fp16=lambda learn: learn.to_fp16())

def on_card(kind:str, precision:str='fp32', seed=0, **kwargs):
    "A tiny learner of a kind, that trains on the GPU where there is one, the same way each time."
    set_seed(seed, reproducible=True)
    return quietly(lambda: precisions[precision](learner(kind, seed=seed, **kwargs)))

def photos(arch='resnet18', n=48, bs=8, size=64, n_out=4, on=device, **kwargs):
    "A timm network in fastai's learner, on pictures of noise that lie where it trains."
    set_seed(0, reproducible=True)
    x,y = torch.randn(n, 3, size, size, device=on),(torch.arange(n, device=on) % n_out)
    def dl(shuffle):
        return DataLoader(list(zip(x, y)), bs=bs, shuffle=shuffle, drop_last=shuffle, num_workers=0, device=on)
    dls = DataLoaders(dl(True), dl(False), device=on)
    return quiet(vision_learner(dls, arch, pretrained=False, n_out=n_out, loss_func=CrossEntropyLossFlat(),
                                metrics=accuracy, **kwargs))

def everything(learn)->dict:
    "Fingerprints of all that influences how training goes on, and what the process has switched on."
    state = run_state(learn)
    # a sweep may be read in the recorder
    record = {k: state.pop(k) for k in ('numbers', 'record', 'callbacks')}
    flags = [torch.is_autocast_enabled(device.type), torch.is_grad_enabled(), torch.get_default_dtype()]
    return {k: repr_of(v) for k,v in state.items()} | dict(flags=str(flags),
                                                           modes=str([m.training for m in learn.model.modules()]))

def repr_of(o)->str:
    "A nested state as text, tensors by their fingerprints."
    if isinstance(o, dict): return str({str(k): repr_of(v) for k,v in o.items()})
    if isinstance(o, (list,tuple,L,set)): return str([repr_of(v) for v in o])
    return fingerprint(o.detach().as_subclass(torch.Tensor)) if isinstance(o, torch.Tensor) else str(o)

def differs(a:dict, b:dict)->list: return [k for k in a if a[k] != b[k]]

looks = dict(find=lambda l: l.lr_find(num_it=12, show_plot=False, extend=False),
             find_from_cpu=lambda l: l.lr_find(num_it=12, show_plot=False, extend=False, device='cpu'),
             range=lambda l: l.lr_range_test(1e-4, 1e-1, num_it=20, show_plot=False),
             search=lambda l: l.lr_search(lambda l, lr: l.fit(2, lr), 1., show_plot=False),
             compare=lambda l: l.compare(dict(a=lambda l: l.fit(1, 1e-3), b=lambda l: l.fit_sgdr(1, 1, 1e-2)), seeds=1))

def plan(learn):
    "A dry run of three epochs."
    with learn.dry_run() as plan: learn.fit_sgdr(2, 1, 1e-2)
    return plan
looks['plan'] = plan

def story(kind, precision, look=noop):
    "What a look has changed, and what is left after training, the look and more training."
    learn = on_card(kind, precision)
    quietly(learn.fit, 1, 1e-2)
    before = everything(learn)
    quietly(look, learn)
    changed = differs(before, everything(learn))
    quietly(learn.fit, 1, 1e-2)
    return changed,everything(learn)

class Reads(TorchFunctionMode):
    """Counts how often something of a tensor is read by python, which makes a GPU wait; a CPU stands in for the GPU.

    What was read already is on the host."""
    names = {'item', 'tolist', 'numpy', '__float__', '__int__', '__bool__', '__index__', '__array__',
             'nonzero', 'equal'}
    def __init__(self): super().__init__(); self.n,self.by = 0,{}
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name,kwargs = getattr(func, '__name__', ''),kwargs or {}
        tensors = [o for o in flattened(args) if isinstance(o, torch.Tensor)]
        # a `torch.device` stands for the GPU
        to_host = name == 'cpu' or name == 'to' and 'cpu' in [o for o in (*args[1:2], kwargs.get('device'))
                                                              if isinstance(o, str)]
        is_read = bool(tensors) and not all(vars(t).get('on_host') for t in tensors) and (to_host or name in self.names)
        if is_read:
            self.n += 1
            self.by[name] = self.by.get(name, 0) + 1
        out = func(*args, **kwargs)
        if to_host and out is args[0]: out = out.alias() if hasattr(out, 'alias') else out.view_as(out)
        on_host = to_host or all(vars(t).get('on_host') for t in tensors)
        if isinstance(out, torch.Tensor) and on_host and name != '__get__': out.on_host = True
        return out

def flattened(o): return [v for x in o for v in flattened(x)] if isinstance(o, (list,tuple)) else [o]

class Waits:
    "Counts how often CUDA is waited for, as torch itself sees it."
    def __enter__(self):
        self.n,self.caught = 0,warnings.catch_warnings(record=True)
        self.seen = self.caught.__enter__()
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        return self
    def __exit__(self, *args):
        torch.cuda.set_sync_debug_mode('default')
        self.caught.__exit__(*args)
        self.n = sum('called a synchronizing CUDA operation' in str(w.message) for w in self.seen)

def reads_per_batch(make, fit)->float:
    "How often `fit(make(n))` reads something for each batch more."
    counts = []
    for n in (6, 12):
        learn = make(n)
        quietly(fit, make(n))                      # whatever is done once
        with Reads() as reads: quietly(fit, learn)
        counts.append(reads.n)
    return (counts[1]-counts[0])/6

def waits_per_batch(make, fit)->float:
    "The same on a GPU: how often python waits for it."
    counts = []
    for n in (6, 12):
        quietly(fit, make(n))
        learn = make(n)
        with Waits() as waits: fit(learn)
        counts.append(waits.n)
    return (counts[1]-counts[0])/6
