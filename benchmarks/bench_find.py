"""What lr_find costs: against the same training steps run bare and against stock fastai, in time and in bytes written.

Protocol: every comparison is paired in one process, its parts in turn, one round to warm up; we report the median of the ratios
and the interval that covers the median with 90 % confidence (order statistics, or the whole range where rounds are few).
Stock's lr_find is run from its own parts (fit with its LRFinder callback), as our import replaces the method."""
import statistics, subprocess, sys, tempfile, time, warnings
from pathlib import Path

warnings.simplefilter('ignore')
import timm, torch
from fastai.vision.all import *
from fastai.callback.schedule import LRFinder, valley as stock_valley
from fastai_lrx.all import *
from fastai_lrx.find.curves import valley
from measure import machine, paired, publish, quiet, ratio, timed

def written():
    "Bytes this process has written so far, to anything."
    return int(dict(l.split(': ') for l in Path('/proc/self/io').read_text().splitlines())['wchar'])

def bytes_written(f):
    before = written()
    f()
    return written()-before

def learner(model, x, y, bs, path):
    items = list(zip(x, y))
    # stock does not work without a validation set
    dls = DataLoaders.from_dsets(items, items[:bs], bs=bs, num_workers=0, path=path)
    return quiet(Learner(dls, model, loss_func=CrossEntropyLossFlat()))

def bare_steps(learn, n):
    "`n` training steps with nothing around them"
    opt,done = learn.opt_func(learn.splitter(learn.model), lr=1e-6),0
    learn.model.train()
    while done < n:
        for x,y in learn.dls.train:
            learn.loss_func(learn.model(x), y).backward()
            opt.step(); opt.zero_grad()
            done += 1
            if done==n: break

# rates so low that nothing diverges: always 100 steps
sweep = dict(start_lr=1e-8, end_lr=1e-6, num_it=100, stop_div=False)
def ours(learn): learn.lr_find(show_plot=False, suggest_funcs='valley', **sweep)
def stock(learn):
    with learn.no_logging(): learn.fit(100//len(learn.dls.train)+1, cbs=LRFinder(**sweep))
    stock_valley(*(tensor(o[10:-5]) for o in (learn.recorder.lrs, learn.recorder.losses)), 100)

def compare(make, rounds):
    "Times and bytes of bare steps, our lr_find and stock's, on fresh optimizers and on ones that have trained."
    learn = make()
    seconds = paired(dict(bare=lambda: bare_steps(learn, 100), ours=lambda: ours(learn), stock=lambda: stock(learn)),
                     rounds)
    learn.opt = None
    res = dict(params=sum(p.numel() for p in learn.model.parameters()),
               seconds={k: statistics.median(v) for k,v in seconds.items()},
               ours_over_bare=ratio(seconds['ours'], seconds['bare']),
               stock_over_bare=ratio(seconds['stock'], seconds['bare']),
               ours_over_stock=ratio(seconds['ours'], seconds['stock']))
    # stock's leaves an optimizer behind ...
    res['bytes_fresh'] = {f.__name__: bytes_written(lambda: f(learn)) for f in (ours, stock)}
    # ... and now it has state to save
    learn.fit(1, 1e-8)
    res['bytes_trained'] = {f.__name__: bytes_written(lambda: f(learn)) for f in (ours, stock)}
    return res

def big(path):
    return learner(timm.create_model('resnet50', num_classes=1000), torch.randn(60, 3, 32, 32),
                   torch.randint(10, (60,)), 4, path)
def tiny(path):
    return learner(nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
                   torch.randn(640, 1, 8, 8), torch.randint(10, (640,)), 64, path)

def time_valley(n=5000):
    "valley on a noisy falling curve of n points, ours and (once) stock's"
    g = torch.Generator().manual_seed(0)
    lrs,losses = torch.logspace(-7, 1, n), torch.linspace(2, 1, n) + torch.randn(n, generator=g)*0.1
    mine = statistics.median(timed(lambda: valley(lrs, losses, n)) for _ in range(5))
    start = time.perf_counter()
    answer = stock_valley(lrs, losses, n)[0]
    return dict(points=n, ours_seconds=mine, stock_seconds=time.perf_counter()-start,
                same_answer=valley(lrs, losses, n)[0]==answer)

def time_import(base, rounds=5):
    "What `import fastai_lrx.all` adds to `import {base}`, in fresh processes"
    code = f'import time; import {base}; t=time.perf_counter(); import fastai_lrx.all; print(time.perf_counter()-t)'
    runs = [float(subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True,
                                 check=True).stdout) for _ in range(rounds+1)][1:]
    return dict(median=statistics.median(runs), worst=max(runs), rounds=rounds)

def show(r): return f"{r['median']:.3f} ({r['low']:.3f} to {r['high']:.3f}, {r['rounds']} rounds)"
def size(n): return f'{n/1e6:.1f} MB' if n >= 1e5 else f'{n} bytes'

def report(res):
    "The results as a page."
    rows = ['| what | resnet50 (timm), 25.6M parameters, 32 px, batch 4 | tiny MLP, batch 64 |', '|---|---|---|']
    b,t = res['big'],res['tiny']
    rows += [f'| {label} | {show(b[k])} | {show(t[k])} |'
             for label,k in [('our `lr_find` / the same 100 steps bare','ours_over_bare'),
             ("stock's / the same 100 steps bare",'stock_over_bare'), ("ours / stock's",'ours_over_stock')]]
    rows += [f"| seconds: bare, ours, stock | {', '.join(f'{v:.2f}' for v in b['seconds'].values())} | "
             f"{', '.join(f'{v:.3f}' for v in t['seconds'].values())} |"]
    rows += [f"| bytes written, {label}: ours, stock | {size(b[k]['ours'])}, {size(b[k]['stock'])} | "
             f"{size(t[k]['ours'])}, {size(t[k]['stock'])} |"
             for label,k in [('new optimizer','bytes_fresh'), ('trained optimizer','bytes_trained')]]
    v = res['valley']
    return '\n'.join(['# The cost of looking', '',
                      f"Measured on {res['machine']}. Ratios: median (90 % interval, or the whole range where rounds "
                      f"are few; number of rounds). The parts of a round run in turn.", '', *rows, '',
            f"`valley` on {v['points']} points: {v['ours_seconds']:.4f} s, stock {v['stock_seconds']:.1f} s; same "
            f"answer: {v['same_answer']}.", '',
            *(f"`import fastai_lrx.all` after `{k}`: {i['median']:.3f} s (worst of {i['rounds']}: {i['worst']:.3f} s)."
              for k,i in res['imports'].items()), '',
            'Reproduce: `python benchmarks/bench_find.py`, or `make bench`.', ''])

def main():
    set_seed(0)
    with tempfile.TemporaryDirectory() as d:
        res = dict(machine=machine(),
                   big=compare(lambda: big(d), 3), tiny=compare(lambda: tiny(d), 21), valley=time_valley(),
                   imports={b: time_import(b) for b in ('fastai.vision.all','fastai.text.all')})
    publish('find', res, report(res))

if __name__=='__main__': main()
