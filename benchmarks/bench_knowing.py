"""A learning rate for a model that already knows something: which way of asking for it finds the best one, and at what price?

Protocol, fixed before any rule was tried:
- Tasks: `knowing_tasks.py`: fourteen whose model knows something, two transformers from scratch. A third is kept aside.
- Truth: the planned fit (`fit_one_cycle` with the ratio of rates of its task) at 11 rates, two to the decade, from 1e-5 on with Adam and
  1e-4 on with SGD, from 3 seeds. L(lr) is the mean over the seeds of the final validation loss, none counted worse than that before the fit;
  straight lines between the rates, over log lr. Beyond the grid L stays what it is at the grid's end.
- Regret of a rate: (L(lr) - lowest L) / (L before the fit - lowest L), from 0, the best rate, to 1, no better than no fit. No answer: 1.
- Ratio: L(lr) / lowest L.
- Cost: the time of asking over the time of the one fit that it is asked for (median over the seeds); of a sweep also its time over stock's.
- All rules are asked for the rate of the last layer group, with the ratio of the fit. Baselines: fastai's four, and Lightning's and
  torch_lr_finder's rules (see `bench_suggest.py`), all reading one sweep; one constant per optimizer and stage, the best on the design tasks;
  `learn.lr`; half the rate of the training before (only where there was one).

`python benchmarks/bench_knowing.py` trains what the truth in results/ lacks and asks every rule; `--truth` only trains."""
import argparse, json, os, sys, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')   # small models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from knowing_tasks import design, kept_aside, knowing, make, tasks
from measure import results
from fastai.basics import *
from fastai_lrx.core.storage import atomic_write

seeds = range(3)

def grid(name): return 10**(np.arange(11)/2 - (5 if tasks[name].opt=='adam' else 4))

# --- truth -------------------------------------------------------------------------------------------------------------------
class OnlyAtTheEnd(Callback):
    "No validation before the last epoch: it changes nothing."
    run_in_sweep = True
    def before_validate(self):
        if self.epoch < self.n_epoch-1: raise CancelValidException

def number(loss): return float(f'{loss:.6g}') if np.isfinite(loss) else None

def final_loss(name, seed, lr):
    "The validation loss after the planned fit at `lr`."
    learn = make(name, seed)
    with learn.no_logging(), learn.added_cbs(OnlyAtTheEnd()): tasks[name].fit(learn, lr)
    return number(learn.recorder.values[-1][-1])

def cell(name, seed):
    "What every rate leads to, from one seed."
    torch.set_num_threads(1)
    return dict(untrained=number(make(name, seed).validate()[0]),
                losses=[final_loss(name, seed, lr) for lr in grid(name).tolist()])

def save(path, res):
    with atomic_write(path) as tmp: tmp.write_text(json.dumps(res)+'\n')

def truth(names=tuple(tasks), path=results/'knowing_truth.json'):
    "Final losses of tasks, seeds and rates; what `path` lacks is trained and added to it."
    res = json.loads(path.read_text()) if path.exists() else {}
    todo = [(name, seed) for name in names for seed in seeds if str(seed) not in res.get(name, {})]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(cell, *o): o for o in todo}
        for job in as_completed(jobs):
            name,seed = jobs[job]
            res.setdefault(name, {})[str(seed)] = job.result()
            save(path, res)
            print(f'trained: {name}, seed {seed}', flush=True)
    return {name: Truth(name, list(res[name].values())) for name in names}

class Truth:
    "What final loss each rate leads to on a task."
    def __init__(self, name, cells):
        self.grid,self.untrained = grid(name),float(np.mean([c['untrained'] for c in cells]))
        losses = np.array([[np.inf if o is None else o for o in c['losses']] for c in cells])
        self.losses = np.minimum(losses, [[c['untrained']] for c in cells]).mean(0)
        self.best = float(self.losses.min())
    def loss(self, lr): return np.interp(np.log10(lr), np.log10(self.grid), self.losses)
    def regret(self, lr):
        if not (np.isfinite(lr) and lr > 0): return 1.
        return float(np.clip((self.loss(lr)-self.best)/(self.untrained-self.best), 0, 1))
    def ratio(self, lr): return float(self.loss(lr)/self.best) if np.isfinite(lr) and lr > 0 else np.nan

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--truth', action='store_true', help='only train')
    args = parser.parse_args()
    truth([name for name in tasks if name in design])
    truth()

if __name__=='__main__': main()
