"""Does `fine_tune_discriminative` need no tuning? Against stock's `fine_tune` and what else people do.

Protocol, fixed before any result:
- Tasks: `fine_tune_tasks.py`. Fifteen, six of them with ImageNet's weights; defaults are chosen on seven, the other eight are kept aside and looked at
  once, with the defaults chosen.
- A run: five epochs over the same labelled examples for all ways with the same seed; 5 seeds, 3 with ImageNet's networks. No validation during the
  run, no early stop. What counts is the error at the end on 700 to 1000 other examples, the same for all seeds.
- Every way is run at six rates over a factor of 100: 4e-4, 1e-3, 2e-3 (stock's default), 5e-3, 1.2e-2, 4e-2; ours at its default, too.
- Ways: ours with its defaults; stock's `fine_tune(4)`, one frozen epoch and four more, on the two groups that stock makes (five for text); LP-FT: the
  head for an epoch at the rate, then all at a tenth of it; all from the start, with rates that fall by 2.6 ("full") or one rate for all.
- Ours with `Average()` at its default rate, so that one sees what an average adds.
- Reported of each way and task: the error at the default; the error at its best rate; the tolerance, which is the mean error over the five rates from 4e-4 to
  1.2e-2, a factor of 30; how far the worst of these five lies above its own best; the factor of rates within 2 points of the best.
  Differences are paired by seed: their mean, and its standard error over the seeds.
- Goals on those kept aside: ours at its default below stock at its best rate on three quarters of the tasks, and never above by more than two standard
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
from fine_tune_tasks import design, error, held_out, make, tasks
from fastai.basics import *
from fastai_lrx.all import Average, discriminative_lrs
from fastai_lrx.core.plots import new_axes
from measure import machine, publish, results
from real_data import cache_dir

epochs,rates = 5,(4e-4, 1e-3, 2e-3, 5e-3, 1.2e-2, 4e-2)
default,tolerated = 1e-2,rates[:5]

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
def averaged(learn, lr): learn.fine_tune_discriminative(epochs, lr, cbs=Average())
at_one_rate = {'base_lr=None': searched, 'averaged': averaged}
ways = {'ours': ours, **at_one_rate, 'stock': stock, 'LP-FT': lp_ft, 'full': full, 'one rate': partial(full, div=1)}

class EpochTimes(Callback):
    def before_fit(self): self.times = getattr(self, 'times', [])
    def before_epoch(self): self.start = time.perf_counter()
    def after_epoch(self): self.times.append(time.perf_counter()-self.start)

def cell(task, way, lr, seed):
    "The error that a way at a rate leads to."
    torch.set_num_threads(1)
    learn = make(task, seed, n_groups=2 if way in ('stock', 'LP-FT') else 4)
    clock = EpochTimes()
    with contextlib.redirect_stdout(io.StringIO()), learn.added_cbs(clock): ways[way](learn, lr)
    return dict(task=task, way=way, lr=lr, seed=seed, error=error(learn), epoch_seconds=clock.times)

def key(c): return c['task'],c['way'],c['lr'],c['seed']

def kept_cells()->dict:
    "The cells that were trained before."
    path = cache_dir/'fine_tune_cells.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return {key(c): c for c in map(json.loads, lines)}

def train(wanted, n_processes=None):
    "Train the cells `wanted`, (task, way, rate, seed), that are not there, and keep them."
    done = kept_cells()
    todo = [o for o in wanted if o not in done]
    with ProcessPoolExecutor(n_processes or os.cpu_count()) as pool:
        for i,job in enumerate(as_completed([pool.submit(cell, *o) for o in todo])):
            with (cache_dir/'fine_tune_cells.jsonl').open('a') as f: print(json.dumps(job.result()), file=f)
            if i % 50 == 49: print(f'{i+1} of {len(todo)}', flush=True)

def wanted(names)->list:
    "All cells of the protocol, those of ours and stock's first."
    grid = [(t, way, lr, seed) for way in ways if way not in at_one_rate for t in names for lr in rates for seed in tasks[t].seeds]
    own = [(t, *o, seed) for t in names for o in (('ours', default), ('averaged', default), ('base_lr=None', 0.)) for seed in tasks[t].seeds]
    return own + grid

# --- what they say -------------------------------------------------------------------------------------------------------------
class Errors:
    "The errors of a way on a task, of those rates at which all its seeds were trained."
    def __init__(self, cells, task, way):
        self.by_lr = {}
        for c in cells:
            if (c['task'], c['way']) == (task, way): self.by_lr.setdefault(c['lr'], {})[c['seed']] = c['error']
        n = max(map(len, self.by_lr.values()), default=0)
        self.by_lr = {lr: seeds for lr,seeds in sorted(self.by_lr.items()) if len(seeds) == n}
    def __bool__(self): return set(rates) <= set(self.by_lr)
    def mean(self, lr): return float(np.mean(list(self.by_lr[lr].values())))
    @property
    def best_lr(self): return min(rates, key=self.mean)
    @property
    def best(self): return self.mean(self.best_lr)
    @property
    def tolerance(self): return float(np.mean([self.mean(lr) for lr in tolerated]))
    @property
    def excess(self): return max(self.mean(lr) for lr in tolerated) - self.best
    @property
    def width(self):
        "The factor of neighbouring rates around the best one that are within 2 points of it."
        good = [self.mean(lr) <= self.best+0.02 for lr in rates]
        i = j = rates.index(self.best_lr)
        while i and good[i-1]: i -= 1
        while j < len(rates)-1 and good[j+1]: j += 1
        return rates[j]/rates[i]
    def minus(self, lr, other, other_lr)->tuple:
        "The mean difference to another way, paired by seed, and its standard error."
        a,b = self.by_lr[lr],other.by_lr[other_lr]
        d = np.array([a[s]-b[s] for s in a.keys() & b.keys()])
        return float(d.mean()),float(d.std(ddof=1)/len(d)**0.5) if len(d) > 1 else np.nan

def percent(x): return f'{100*x:.1f}'
def signed(d):
    "A difference, with its standard error if there is one."
    return f'{100*d[0]:+.1f}' + ('' if np.isnan(d[1]) else f' ± {100*d[1]:.1f}')

def row(cells, task)->dict:
    "What a task says of ours and stock's."
    mine,theirs,asked = (Errors(cells, task, way) for way in ('ours', 'stock', 'base_lr=None'))
    at_default,best = mine.mean(default),mine.minus(default, theirs, theirs.best_lr)
    searched = asked.minus(0., mine, mine.best_lr) if asked.by_lr else (np.nan, np.nan)
    return {'ours at 1e-2': percent(at_default), "stock at 2e-3": percent(theirs.mean(2e-3)),
            'stock at its best': percent(theirs.best), 'ours at 1e-2 less that': signed(best),
            'ours at its best': percent(mine.best), 'tolerance: ours': percent(mine.tolerance), "stock's": percent(theirs.tolerance),
            'worst above best: ours': percent(mine.excess), "stock's ": percent(theirs.excess),
            'width: ours': f'{mine.width:.0f}', "stock's  ": f'{theirs.width:.0f}',
            'base_lr=None less ours at its best': signed(searched) if asked.by_lr else '', 'below': best[0] < 0, 'above': best[0] > 2*best[1],
            'within_3': mine.excess <= 0.03, 'tolerant': mine.tolerance < theirs.tolerance,
            'asked_within_1': searched[0] <= 0.01}

def table(found:dict)->list:
    "Lines of a table of rows by task."
    columns = [k for k,v in next(iter(found.values())).items() if isinstance(v, str)]
    lines = ['| | ' + ' | '.join(columns) + ' |', '|---'*(len(columns)+1) + '|']
    return lines + [f'| {name} | ' + ' | '.join(r[k] for k in columns) + ' |' for name,r in found.items()]

def verdict(found:list)->str:
    "How the goals are met."
    n = len(found)
    count = lambda k: sum(r[k] for r in found)
    asked = [r for r in found if r['base_lr=None less ours at its best']]
    return (f"On these {n} tasks ours at its default is below stock at its best rate on {count('below')}, and above by more than two standard "
            f"errors on {count('above')}; from 4e-4 to 1.2e-2 it stays within 3 points of its own best on {count('within_3')}; its tolerance "
            f"is better than stock's on {count('tolerant')}; with `base_lr=None` it is within 1 point of its best rate on "
            f"{sum(r['asked_within_1'] for r in asked)} of {len(asked)}.")

def others(cells, names)->list:
    "The best error and the tolerance of every way on the tasks where more were trained than ours and stock's."
    found = {name: errors for name in names if len(errors := {way: e for way in ways if (e := Errors(cells, name, way))}) > 2}
    if not found: return []
    shown = [w for w in ways if any(w in e for e in found.values())]
    def entry(errors, way): return f'{percent(errors[way].best)} ({percent(errors[way].tolerance)})' if way in errors else ''
    return ['## Other ways', '', 'Error at the best of six rates, and in brackets the tolerance. Empty: not run.', '', '| | ' + ' | '.join(shown) + ' |',
            '|---'*(len(shown)+1) + '|', *(f'| {name} | ' + ' | '.join(entry(e, w) for w in shown) + ' |' for name,e in found.items()), '']

def average_lines(cells, names)->list:
    "What `Average()` adds at the default rate, on the tasks where it was run."
    found = {}
    for name in names:
        mine,mean = Errors(cells, name, 'ours'),Errors(cells, name, 'averaged')
        if mean.by_lr: found[name] = percent(mine.mean(default)),percent(mean.mean(default)),mean.minus(default, mine, default)
    if not found: return []
    better,worse = (sum(sign*d > 2*se for *_,(d,se) in found.values()) for sign in (-1, 1))
    return ['## With an average', '', f'Ours at its default, alone and with `Average()`: better by more than two standard errors on {better} of {len(found)} tasks, '
            f'worse on {worse}.', '', '| | alone | averaged | difference |', '|---|---|---|---|',
            *(f'| {name} | {a} | {b} | {signed(d)} |' for name,(a,b,d) in found.items()), '']

def epoch_time(cells)->float:
    "The median of ours over stock's, of epochs of the same task, seed and rate that train all, on the same machine."
    by_key = {key(c): c for c in cells}
    pairs = [(c, by_key.get((c['task'], 'stock', c['lr'], c['seed']))) for c in cells if c['way'] == 'ours']
    return float(np.median([np.median(a['epoch_seconds'][1:])/np.median(b['epoch_seconds'][1:]) for a,b in pairs
                            if b and a.get('device') == b.get('device')]))

def draw(cells, path):
    "Error against rate, a panel for each task."
    fig,axes = new_axes(5, 3, size=(4.2, 2.5))
    colors = {'ours': 'C0', 'stock': 'C1'}
    for ax,name in zip(axes.flat, tasks):
        for way in ('ours', 'stock'):
            errors = Errors(cells, name, way)
            if errors: ax.semilogx(rates, [100*errors.mean(lr) for lr in rates], marker='o', ms=3, color=colors[way], label=way)
            at = default if way == 'ours' else 2e-3
            if errors: ax.plot(at, 100*errors.mean(at), marker='*', ms=12, color=colors[way])
        ax.set(title=name + (' (kept aside)' if name in held_out else ''), xlabel='rate', ylabel='error, %')
        ax.title.set_fontsize('small')
    axes.flat[0].legend(title='star: default')
    fig.tight_layout()
    fig.savefig(path, dpi=110)

def judged(cells, names)->list:
    "What these tasks say, in a sentence and a table."
    found = {name: row(cells, name) for name in names}
    return [verdict(list(found.values())), '', *table(found), '']

def report(cells, res)->str:
    "The results as a page."
    return '\n'.join(['# Fine-tuning', '', 'Five epochs; errors in percent on 700 to 1000 other pictures or texts, means of 5 seeds (3 with '
        f"ImageNet's networks, whose six rates were run on {res['real_on']}; all else on {res['machine']}). Ours is `fine_tune_discriminative(5)` with "
        "`base_lr` as given, stock is `fine_tune(4)`. Tolerance is the mean error over five rates from 4e-4 to 1.2e-2, width the factor of "
        'neighbouring rates within 2 points of the best; `base_lr=None` is compared, where it was run, with runs of the same seeds.', '',
        '![Error against rate on fifteen tasks](fine_tune.png)', '',
        '## Kept aside', '', *judged(cells, held_out), '## Those that judged', '', *judged(cells, design), *others(cells, tasks),
        *average_lines(cells, tasks),
        '## Time', '', f"An epoch of ours takes {res['time']:.2f} times as long as one of stock's (median over all runs).", '',
        'Reproduce: `python benchmarks/bench_fine_tune.py`. Tasks and protocol: `fine_tune_tasks.py`, `bench_fine_tune.py`.', ''])

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--part', choices=('design', 'aside'))
    parser.add_argument('--no-training', action='store_true', help='report the cells that are there')
    args = parser.parse_args()
    names = dict(design=design, aside=held_out).get(args.part, tasks)
    if not args.no_training: train(wanted(names))
    kept = kept_cells()
    cells = [kept[o] for o in wanted(tasks) if o in kept]
    devices = {c.get('device', 'the same machine') for c in cells if tasks[c['task']].is_real and c['way'] != 'base_lr=None' and c['lr'] != default}
    res = dict(machine=machine(), real_on=' and '.join(sorted(devices)), time=epoch_time(cells), cells=cells)
    draw(cells, results/'fine_tune.png')
    publish('fine_tune', res, report(cells, res), indent=None)

if __name__=='__main__': main()
