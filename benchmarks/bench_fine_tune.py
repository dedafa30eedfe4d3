"""Does `fine_tune_discriminative` need no tuning? Against stock's `fine_tune` and what else people do.

Protocol, fixed before any result:
- Tasks: `fine_tune_tasks.py`. Fifteen, six of them with ImageNet's weights; defaults are chosen on seven, the other eight are kept aside and looked at
  once, with the defaults chosen.
- A run: five epochs over the same labelled examples for all ways with the same seed; 5 seeds, 3 with ImageNet's networks. No validation during the
  run, no early stop. What counts is the error at the end on 700 to 1000 other examples, the same for all seeds.
- Every way is run at six rates over a factor of 100: 4e-4, 1e-3, 2e-3 (stock's default and ours), 5e-3, 1.2e-2, 4e-2.
- Ways: ours with its defaults; stock's `fine_tune(4)`, one frozen epoch and four more, on the two groups that stock makes (five for text); LP-FT: the
  head for an epoch at the rate, then all at a tenth of it; all from the start, with rates that fall by 2.6 ("full") or one rate for all.
- Reported of each way and task: the error at 2e-3; the error at its best rate; the tolerance, which is the mean error over the five rates from 4e-4 to
  1.2e-2, a factor of 30; how far the worst of these five lies above its own best; the factor of rates within 2 points of the best.
  Differences are paired by seed: their mean, and its standard error over the seeds.
- Goals on those kept aside: ours at 2e-3 below stock at its best rate on three quarters of the tasks, and never above by more than two standard
  errors; ours from 4e-4 to 1.2e-2 never more than 3 points above its own best; a better tolerance than stock's on most tasks; with
  `base_lr=None` within 1 point of its best rate everywhere.
- Time: medians of an epoch of ours and of stock's over the same cells.

`python benchmarks/bench_fine_tune.py` writes results/fine_tune.{json,md,png}; `--part design` or `--part aside` runs some of the tasks. Cells are kept in
`fine_tune_cells.jsonl` of the folder that `real_data.py` names, and trained once. About three hours on 2 cores."""
import argparse, contextlib, io, json, os, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed

os.environ.setdefault('OMP_NUM_THREADS', '1')   # small models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from fine_tune_tasks import design, error, kept_aside, make, tasks
from fastai.basics import *
from fastai_lrx.all import discriminative_lrs
from fastai_lrx.core.plots import new_axes
from measure import machine, publish, results
from real_data import cache_dir

epochs,rates = 5,(4e-4, 1e-3, 2e-3, 5e-3, 1.2e-2, 4e-2)
default,tolerated = 2e-3,rates[:5]

def stock(learn, lr): learn.fine_tune(epochs-1, lr)
def ours(learn, lr): learn.fine_tune_discriminative(epochs, lr)
def full(learn, lr, div=2.6):
    learn.unfreeze()
    learn.fit_one_cycle(epochs, discriminative_lrs(len(learn.opt.param_lists), lr, div))
def lp_ft(learn, lr):
    learn.fit_one_cycle(1, lr)
    learn.unfreeze()
    learn.fit_one_cycle(epochs-1, lr/10)
def searched(learn, lr): learn.fine_tune_discriminative(epochs, None)
ways = {'ours': ours, 'base_lr=None': searched, 'stock': stock, 'LP-FT': lp_ft, 'full': full, 'one rate': partial(full, div=1)}

class EpochTimes(Callback):
    def before_fit(self): self.times = getattr(self, 'times', [])
    def before_epoch(self): self.start = time.perf_counter()
    def after_epoch(self): self.times.append(time.perf_counter()-self.start)

def cell(task, way, lr, seed, f=None):
    "The error that a way at a rate leads to."
    torch.set_num_threads(1)
    learn = make(task, seed, n_groups=2 if way in ('stock', 'LP-FT') else 4)
    clock = EpochTimes()
    with contextlib.redirect_stdout(io.StringIO()), learn.added_cbs(clock): (f or ways[way])(learn, lr)
    return dict(task=task, way=way, lr=lr, seed=seed, error=error(learn), epoch_seconds=clock.times)

def key(c): return c['task'],c['way'],c['lr'],c['seed']

def cells(wanted, path=None, ways=ways, n_processes=None)->list:
    "All the cells `wanted`, (task, way, rate, seed); those that are not in the file are trained and added to it."
    path = path or cache_dir/'fine_tune_cells.jsonl'
    done = {key(c): c for c in map(json.loads, path.read_text().splitlines() if path.exists() else [])}
    todo = [o for o in wanted if o not in done]
    with ProcessPoolExecutor(n_processes or os.cpu_count()) as pool:
        jobs = [pool.submit(cell, *o, ways[o[1]]) for o in todo]
        for i,job in enumerate(as_completed(jobs)):
            c = job.result()
            done[key(c)] = c
            with path.open('a') as f: print(json.dumps(c), file=f)
            if i % 50 == 49: print(f'{i+1} of {len(todo)}', flush=True)
    return [done[o] for o in wanted]
