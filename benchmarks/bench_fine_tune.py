"""Is a model fine-tuned better with discriminative rates, groups opened gradually, more groups? Against stock's fine_tune.

Protocol, fixed before these results. While the tasks were being made, stock's and our defaults were run on earlier forms of them, with other
numbers of labels and epochs, to find some on which stock errs in at least 5 %; nothing of ours was changed after that:
- Tasks: `fine_tune_tasks.py`. Six pairs of data and model; defaults are judged on three of them, the other three are kept aside.
- A run: one frozen epoch and four more, from the same source weights, on the same labelled examples for all ways with the same seed; 5 seeds.
  What counts is the error on 400 other examples at the end. No validation during the run, no early stop.
- Every way is run at three rates, 2e-3 (stock's default and ours), 6e-3 and 2e-2. "Best rate": the one with the lowest mean error of that way on that task.
- Differences are paired by seed: their mean, and its standard error over the seeds.
- Ways: stock's `fine_tune` on the groups that stock makes (two for images, five for text); ours with its defaults; ours with one argument changed; and "full": all layers from the start, one rate for all.

`python benchmarks/bench_fine_tune.py` writes results/fine_tune.{json,md}. About 25 minutes on 2 cores."""
import contextlib, io, os, tempfile, time, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')   # tiny models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from fine_tune_tasks import design, error, kept_aside, make, pretrain, sources, tasks
from fastai.basics import *
from measure import machine, publish

epochs,rates,seeds = 4,(2e-3, 6e-3, 2e-2),range(5)

def stock(learn, lr, cbs): learn.fine_tune(epochs, lr, cbs=cbs)
def ours(learn, lr, cbs, **kwargs): learn.fine_tune_discriminative(epochs, lr, cbs=cbs, **kwargs)
def full(learn, lr, cbs): learn.fine_tune_discriminative(epochs+1, lr, 0, unfreeze='all', div=1, cbs=cbs)
ways = {'stock': stock, 'ours': ours, 'unfreeze=all': partial(ours, unfreeze='all'), 'div=1': partial(ours, div=1), 'n_groups=2': partial(ours, n_groups=2),
        'schedule=stlr': partial(ours, schedule='stlr'), 'train_bn=False': partial(ours, train_bn=False), 'full': full}

class EpochTimes(Callback):
    def before_fit(self): self.times = getattr(self, 'times', [])
    def before_epoch(self): self.start = time.perf_counter()
    def after_epoch(self): self.times.append(time.perf_counter()-self.start)

def runs(task, seed, folder):
    "All ways at all rates, for one task and seed"
    torch.set_num_threads(1)
    res = []
    for way,f in ways.items():
        for lr in rates:
            learn = make(*task, seed, folder, n_groups=2 if way == 'stock' else 4)
            with contextlib.redirect_stdout(io.StringIO()): f(learn, lr, clock := EpochTimes())
            res.append(dict(task=' '.join(task), seed=seed, way=way, lr=lr, error=error(learn), epoch_seconds=clock.times))
    return res

def run_all():
    with tempfile.TemporaryDirectory() as d, ProcessPoolExecutor(2) as pool:
        for job in [pool.submit(pretrain, *source, Path(d)) for source in sources]: job.result()
        jobs = [pool.submit(runs, task, seed, Path(d)) for seed in seeds for task in tasks]
        res = []
        for i,job in enumerate(as_completed(jobs)):
            res += job.result()
            print(f'{i+1} of {len(jobs)}', flush=True)
    return res

def errors(rows, task, way, lr):
    "Errors of all seeds, in their order"
    return np.array([r['error'] for r in sorted(rows, key=lambda r: r['seed']) if (r['task'], r['way'], r['lr']) == (task, way, lr)])

def best(rows, task, way): return min(rates, key=lambda lr: errors(rows, task, way, lr).mean())

def compare(rows, task, way, at_best):
    "Mean error of a way, and of its difference to stock with its standard error"
    lr,lr_stock = (best(rows, task, w) for w in (way, 'stock')) if at_best else (rates[0], rates[0])
    mine,theirs = errors(rows, task, way, lr),errors(rows, task, 'stock', lr_stock)
    diff = mine-theirs
    return dict(lr=lr, error=mine.mean(), diff=diff.mean(), se=diff.std(ddof=1)/len(diff)**0.5)

def verdict(c): return 'better' if c['diff'] < -2*c['se'] else 'worse' if c['diff'] > 2*c['se'] else 'same'

def table(rows, at_best):
    "A line per way, a column per task"
    names = [' '.join(t) for t in tasks]
    lines = ['| | ' + ' | '.join(n + (' (aside)' if tuple(n.split()) in kept_aside else '') for n in names) + ' | mean, judged on | mean, kept aside |', '|---'*(len(names)+3) + '|']
    for way in ways:
        cs = {n: compare(rows, n, way, at_best) for n in names}
        cell = lambda c: f"{c['error']:.1%}" + ('' if way == 'stock' else f" ({c['diff']:+.1%} ± {c['se']:.1%})")
        mean = lambda ts: f"{np.mean([cs[' '.join(t)]['error'] for t in ts]):.1%}"
        lines.append(f"| {way} | " + ' | '.join(cell(cs[n]) for n in names) + f' | {mean(design)} | {mean(kept_aside)} |')
    return lines

def stage_times(rows):
    "Median seconds of each epoch: ours, ours without norm layers, stock"
    lines = ['| | ' + ' | '.join(f'epoch {i}' for i in range(epochs+1)) + ' |', '|---'*(epochs+2) + '|']
    for way in ('ours', 'train_bn=False', 'stock'):
        for t in tasks:
            times = np.median([r['epoch_seconds'] for r in rows if (r['task'], r['way']) == (' '.join(t), way)], axis=0)
            lines.append(f"| {way}, {' '.join(t)} | " + ' | '.join(f'{s:.2f} s' for s in times) + ' |')
    return lines

def report(res):
    rows = res['rows']
    judged = {at_best: [verdict(compare(rows, ' '.join(t), 'ours', at_best)) for t in tasks] for at_best in (False, True)}
    count = lambda v: ', '.join(f'{v.count(word)} {word}' for word in ('better', 'same', 'worse'))
    return '\n'.join(['# Fine-tuning: ours against stock', '', f"Measured on {res['machine']}. One frozen epoch and {epochs} more; errors on 400 examples, means of {len(seeds)} seeds; in brackets the difference to stock, paired by seed, with its standard error.", '',
        f"Ours at its defaults against stock on the six tasks (two standard errors make a difference): {count(judged[False])} at the default rate of 2e-3, {count(judged[True])} with the best of three rates for each.", '',
        '## At the default rate, 2e-3', '', *table(rows, False), '', '## At the best of three rates', '', *table(rows, True), '',
        '## Time of an epoch', '', 'Medians over all runs; two processes at a time.', '', *stage_times(rows), '',
        'Reproduce: `python benchmarks/bench_fine_tune.py`, or `make bench`. Tasks and protocol: `fine_tune_tasks.py`, `bench_fine_tune.py`.', ''])

def main():
    res = dict(machine=machine(), rows=run_all())
    publish('fine_tune', res, report(res), indent=None)

if __name__=='__main__': main()
