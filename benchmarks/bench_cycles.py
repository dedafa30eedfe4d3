"""Do cycles, snapshot ensembles and averages pay? Speed compared with a fixed rate, test errors with single models.

Protocol, fixed before these results:
- Tasks: digits with 40% of their training labels wrong (a perceptron with SGD, a CNN with Adam), and colored shapes in
  noise (a CNN with SGD, a CNN with Adam). 600 or 1000 items to train on, a validation set on which accuracy is measured
  after every epoch, and a test set; both have the right labels.
- Every schedule trains for 15 epochs: a fixed rate; steps (a tenth after 8 and after 12 epochs); linear to zero; WSD
  (constant, the last fifth down to zero by 1-sqrt); triangular and triangular2 (3 cycles of 5 epochs, down to a quarter
  of the rate); SGDR (cycles of 1, 2, 4 and 8 epochs); one-cycle; and, for ensembles, SGDR in 5 cycles of 3 epochs.
  Averages: one-cycle with `Average()`, a fixed rate with `Average('tail', 0.5)`.
- Every schedule has its own best rate of five (digits) or seven (shapes, where the best of the first five was at their
  upper edge): the one with the highest mean validation accuracy at the end, over two seeds that are used for nothing
  else. Then it runs with 5 seeds, which draw weights, order and dropout. Momentum stays at its default.
- (a) The goal on a task is the mean validation accuracy that the fixed rate ends with. Reported: the first epoch after
  which a run reaches it, median of the seeds. The claim: on at least half of the tasks, a cyclical schedule
  (triangular, triangular2 or SGDR) needs at most half of the 15 epochs.
- (b) Test error of the mean of the last m of 5 snapshots (m=3 is the ensemble of the claim, m=5 is shown), of the last
  snapshot, of the snapshot with the lowest validation loss, of their soup (`to_model()`), and of the last model of each
  schedule of (a); differences to the ensemble, paired by seed, with their standard error. The claim: never worse than
  the last snapshot by more than two standard errors, and better by more than two on at least two tasks.
- (c) Averages that can be added to a run and cost as much as one model: at one-cycle's best rate also `Average('tail',
  [0.1, 0.25, 0.5], better=True)`, whose window is chosen by validation loss. The claim: one-cycle with `Average()` is
  never worse than one-cycle alone at the same rate by more than two standard errors, and better by two on half of the
  tasks.
- Noise and sizes of the tasks were set in runs with a fixed rate only.

`python benchmarks/bench_cycles.py` writes results/cycles.{json,md,png}; about 40 minutes on 2 cores. It does not
repeat runs that are in cycles.json; `--anew` does."""
import argparse, contextlib, io, json, os, warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from collections import Counter
from functools import cache, partial

os.environ.setdefault('OMP_NUM_THREADS', '1')   # tiny models, one process per core
warnings.simplefilter('ignore')
import numpy as np, torch
from torch import nn
from fastai.basics import *
from fastai.callback.schedule import *
from fastai.layers import ConvLayer
from fastai_lrx.all import *
from fastai_lrx.core.plots import new_axes
from measure import machine, page, picture, publish, quiet, results, stored, table
from suggest_tasks import digits, shapes

epochs,seeds,search_seeds = 15,range(5),(100, 101)
rates = dict(sgd=(3e-3, 1e-2, 3e-2, 1e-1, 3e-1), adam=(3e-4, 1e-3, 3e-3, 1e-2, 3e-2))
higher = {'shapes cnn sgd': (1., 3.), 'shapes cnn adam': (0.1, 0.3)}
optimizers = dict(sgd=partial(SGD, mom=0.9), adam=Adam)

# --- tasks ------------------------------------------------------------------------------------------------------------------------
@cache
def data(name):
    "Items to train on, to validate with and to test on"
    parts = digits() if name == 'digits' else shapes(n=3000)
    x,y = (torch.cat(o) for o in zip(*parts))
    rng = np.random.default_rng(0)
    if name == 'digits':
        n = 600
        # labels to train on
        seen = torch.where(torch.as_tensor(rng.random(n) < 0.4), torch.as_tensor(rng.integers(0, 10, n)), y[:n])
        y = torch.cat([seen, y[n:]])
    else:
        n = 1000
        x = x + torch.as_tensor(rng.normal(0, 0.4, x.shape), dtype=torch.float)
    items = list(zip(x, y))
    return items[:n],items[n:2*n],items[2*n:]

def perceptron():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.2), nn.Linear(128, 128), nn.ReLU(),
                         nn.Linear(128, 10))
def cnn(n_in, n_out):
    return nn.Sequential(ConvLayer(n_in, 16), ConvLayer(16, 32, stride=2), ConvLayer(32, 32, stride=2),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(32, n_out))

tasks = {'digits perceptron': ('digits', 'sgd', perceptron), 'digits cnn': ('digits', 'adam', partial(cnn, 1, 10)),
         'shapes cnn sgd': ('shapes', 'sgd', partial(cnn, 3, 6)),
         'shapes cnn adam': ('shapes', 'adam', partial(cnn, 3, 6))}

def make(task, seed):
    "A learner for a task, its weights drawn with a seed"
    name,opt,model = tasks[task]
    train,valid,_ = data(name)
    set_seed(seed)
    dls = DataLoaders.from_dsets(train, valid, bs=32, num_workers=0)
    dls.valid.bs = 300
    return quiet(Learner(dls, model(), loss_func=CrossEntropyLossFlat(), opt_func=optimizers[opt], metrics=accuracy))

# --- schedules ---------------------------------------------------------------------------------------------------------------------
def steps(lr): return Scheduled(lr=join([Flat(lr), Flat(lr/10), Flat(lr/100)], [8, 4, 3]))
schedules = {'fixed': lambda learn, lr, cbs: learn.fit(epochs, lr, cbs=cbs),
             'steps': lambda learn, lr, cbs: learn.fit(epochs, cbs=[steps(lr), *cbs]),
             'triangular': lambda learn, lr, cbs: learn.fit_triangular(3, 5, lr, cbs=cbs),
             'triangular2': lambda learn, lr, cbs: learn.fit_triangular(3, 5, lr, mode='triangular2', cbs=cbs),
             'SGDR': lambda learn, lr, cbs: learn.fit_sgdr(4, 1, lr, cbs=cbs),
             'one-cycle': lambda learn, lr, cbs: learn.fit_one_cycle(epochs, lr, cbs=cbs),
             'linear': lambda learn, lr, cbs: learn.fit(epochs, cbs=[Scheduled(lr=Linear(lr)), *cbs]),
             'WSD': lambda learn, lr, cbs: learn.fit_wsd(epochs, lr, warmup=0., cbs=cbs),
             '5 equal cycles': lambda learn, lr, cbs: learn.fit_sgdr(5, 3, lr, cycle_mult=1, cbs=cbs),
             'fixed, averaged': lambda learn, lr, cbs: learn.fit(epochs, lr, cbs=[Average('tail', 0.5), *cbs]),
             'one-cycle, averaged': lambda learn, lr, cbs: learn.fit_one_cycle(epochs, lr, cbs=[Average(), *cbs])}
windows = 0.1, 0.25, 0.5
at_rate_of_one_cycle = {
    'one-cycle, averaged, same rate': schedules['one-cycle, averaged'],
    'one-cycle, tail, window by validation':
        lambda learn, lr, cbs: learn.fit_one_cycle(epochs, lr, cbs=[Average('tail', windows, better=True), *cbs])}
cyclical = 'triangular', 'triangular2', 'SGDR'
def rates_of(task): return rates[tasks[task][1]] + higher.get(task, ())

def run(task, schedule, lr, seed):
    "One run: validation accuracy after each epoch; and test errors, of the ensembles too where there are snapshots"
    torch.set_num_threads(1)
    learn,snaps = make(task, seed),Snapshots()
    equal = schedule == '5 equal cycles'
    with contextlib.redirect_stdout(io.StringIO()):
        (schedules | at_rate_of_one_cycle)[schedule](learn, lr, [snaps] if equal else [])
    res = dict(task=task, schedule=schedule, lr=lr, seed=seed, accuracy=[float(v[2]) for v in learn.recorder.values])
    test = learn.dls.valid.new(data(tasks[task][0])[2])
    res |= dict(error=1-learn.validate(dl=test)[1], valid_accuracy=learn.validate()[1])
    if equal:
        curve = 1-SnapshotEnsemble(learn, snaps).curve(dl=test)['accuracy']
        best = min(snaps.snapshots, key=lambda s: s.loss)
        res |= dict(members=curve.tolist(), best_single=1-SnapshotEnsemble(learn, [best]).validate(dl=test)[1])
        learn.model = SnapshotEnsemble(learn, snaps).to_model()
        res['soup'] = 1-learn.validate(dl=test)[1]
    return res

def kept_runs()->dict:
    "The runs of cycles.json, those of snapshots only where they have a soup"
    path = results/'cycles.json'
    res = json.loads(path.read_text()) if path.exists() else dict(search=[], rows=[])
    return {(r['task'], r['schedule'], r['lr'], r['seed']): r for r in [*res['search'], *res['rows']]
            if r['schedule'] != '5 equal cycles' or 'soup' in r or r['seed'] in search_seeds}

def run_all(n_processes, kept):
    "The runs that look for each schedule's best rate, and those at that rate; those `kept` are not run"
    with ProcessPoolExecutor(n_processes) as pool:
        def results_of(jobs):
            futures = {pool.submit(run, *job): job for job in jobs if job not in kept}
            for i,f in enumerate(as_completed(futures)):
                if i % 20 == 0: print(f'{i} of {len(futures)}', flush=True)
                kept[futures[f]] = f.result()
            return [kept[job] for job in jobs]
        search = results_of([(t, s, lr, seed) for t in tasks for s in schedules for lr in rates_of(t) for seed in search_seeds])
        own = results_of([(t, s, best_rate(search, t, s), seed) for t in tasks for s in schedules for seed in seeds])
        return search,own + results_of([(t, s, best_rate(search, t, 'one-cycle'), seed) for t in tasks
                                        for s in at_rate_of_one_cycle for seed in seeds])

def of(rows, task, schedule, key, lr=None):
    return np.array([r[key] for r in rows if (r['task'], r['schedule']) == (task, schedule) and lr in (None, r['lr'])])
def in_the_end(r): return r.get('valid_accuracy', r['accuracy'][-1])
def best_rate(search, task, schedule):
    def mean(lr): return np.mean([in_the_end(r) for r in search if (r['task'], r['schedule'], r['lr']) == (task, schedule, lr)])
    return max(rates_of(task), key=mean)

# --- report ---------------------------------------------------------------------------------------------------------------------------
def epochs_to(accuracies, goal):
    "Epochs until each run is as good as the goal; infinite where it never is"
    return np.array([next((i+1 for i,a in enumerate(run) if a >= goal), np.inf) for run in accuracies])

def goal_of(rows, task): return of(rows, task, 'fixed', 'accuracy')[:,-1].mean()
def number(n): return '-' if np.isinf(n) else f'{n:g}'

def speed_table(rows):
    "A line per schedule: epochs to the goal (median and range of the seeds), the accuracy at the end, and the rate"
    def cell(t, s):
        acc = of(rows, t, s, 'accuracy')
        n = epochs_to(acc, goal_of(rows, t))
        return (f"{number(np.median(n))} ({number(n.min())} to {number(n.max())}); {acc[:,-1].mean():.1%} at "
                f"{of(rows, t, s, 'lr')[0]:g}")
    # between epochs an averaged run is the schedule without
    goals = 'goal: accuracy of the fixed rate at the end',*(f'{goal_of(rows, t):.1%}' for t in tasks)
    return table(['', *tasks], [goals, *([s, *(cell(t, s) for t in tasks)] for s in schedules if 'averaged' not in s)])

def versus(a, b):
    "Mean of paired differences and its standard error"
    d = a-b
    return d.mean(),d.std(ddof=1)/len(d)**0.5

def ensemble_errors(rows, t)->dict:
    "Test errors of each seed on a task: first of the mean of the last three snapshots, then of the others"
    equal = partial(of, rows, t, '5 equal cycles')
    return ({'mean of the last 3 snapshots': equal('members')[:,2], 'mean of all 5': equal('members')[:,4],
             'last snapshot': equal('members')[:,0], 'best snapshot by validation loss': equal('best_single'),
             'soup of all 5': equal('soup')}
            | {f'{s}, 15 epochs': of(rows, t, s, 'error') for s in schedules | at_rate_of_one_cycle
               if s != '5 equal cycles'})

def ensemble_table(rows):
    "Test errors of the ensemble of the last three, and of the others; in brackets how much higher these are"
    found = [ensemble_errors(rows, t) for t in tasks]
    ensemble,*others = found[0]
    def cell(errors, name):
        mean,se = versus(errors[name], errors[ensemble])
        return f'{errors[name].mean():.2%} ({mean:+.2%} ± {se:.2%})'
    return table(['', *tasks], [[f'**{ensemble}**', *(f'**{errors[ensemble].mean():.2%}**' for errors in found)],
                                *([name, *(cell(errors, name) for errors in found)] for name in others)])

def edges(search)->str:
    "How many best rates lie at the edge of their grid"
    best = [(best_rate(search, t, s), rates_of(t)) for t in tasks for s in schedules]
    n = sum(lr in (grid[0], grid[-1]) for lr,grid in best)
    return f'{n} of {len(best)} best rates lie at an edge of their grid.'

def better_and_worse(gains)->tuple:
    "How many of these means, each with its standard error, are above zero by more than two of them, and how many below"
    return tuple(sum(sign*mean > 2*se for mean,se in gains) for sign in (1, -1))

def gain(rows, plain:str, averaged:str)->tuple:
    "On how many tasks an averaged run is better than a plain one, and on how many worse"
    return better_and_worse([versus(of(rows, t, plain, 'error'), of(rows, t, averaged, 'error')) for t in tasks])

def counted(names)->str:
    return '; '.join(f"{k.removesuffix(', 15 epochs')} on {n}" for k,n in Counter(names).most_common())

def plot(rows):
    "Mean validation accuracy over epochs: fixed against cyclical"
    fig,axes = new_axes(2, 2, size=(4, 2.5))
    for t,ax in zip(tasks, axes.flat):
        for s,color in zip(('fixed', 'steps', 'triangular2', 'SGDR', 'one-cycle'), ('0.4', 'C4', 'C1', 'C0', 'C2')):
            acc = of(rows, t, s, 'accuracy')
            ax.plot(range(1, epochs+1), acc.mean(0), '.-', color=color, label=s, lw=1.4, ms=4)
        ax.axhline(goal_of(rows, t), color='0.4', lw=0.8, ls=':')
        top = max(of(rows, t, s, 'accuracy').mean(0).max() for s in schedules)
        ax.set(title=t, xlabel='epoch', ylabel='validation accuracy',
               ylim=(goal_of(rows, t)-2.5*(top-goal_of(rows, t)) - 0.1, top+0.02))
    axes[0,0].legend(frameon=False, fontsize='small')
    return fig

def plot_errors(rows):
    "Test errors of the ensemble and of the others, a panel for each task"
    fig,axes = new_axes(1, 4, size=(2, 4))
    for t,ax in zip(tasks, axes):
        found = {k.removesuffix(', 15 epochs'): 100*v for k,v in ensemble_errors(rows, t).items()}
        for i,errors in enumerate(found.values()):
            ax.errorbar(errors.mean(), i, xerr=errors.std(ddof=1)/len(errors)**0.5, fmt='o', ms=4, capsize=2,
                        color='C0' if i < 2 else '0.4')
        ax.axvline(next(iter(found.values())).mean(), color='C0', lw=0.8, ls=':')
        ax.set(yticks=range(len(found)), yticklabels=list(found), ylim=(len(found)-0.5, -0.5), xlabel='test error, %')
        ax.set_title(t, fontsize='medium')
        ax.label_outer()
    return fig

def report(res):
    rows,n = res['rows'],len(tasks)
    fast = sum(min(np.median(epochs_to(of(rows, t, s, 'accuracy'), goal_of(rows, t))) for s in cyclical) <= epochs/2
               for t in tasks)
    members = [of(rows, t, '5 equal cycles', 'members') for t in tasks]
    better,worse = better_and_worse([versus(m[:,0], m[:,2]) for m in members])
    fixed,one_cycle = gain(rows, 'fixed', 'fixed, averaged'),gain(rows, 'one-cycle', 'one-cycle, averaged, same rate')
    at_end = [{s: of(rows, t, s, 'accuracy')[:,-1].mean() for s in schedules if 'averaged' not in s} for t in tasks]
    single = [{k: v.mean() for k,v in ensemble_errors(rows, t).items() if not k.startswith('mean of')} for t in tasks]
    return page('cycles', 'Do cycles, snapshot ensembles and averages pay?',
        f"Nine schedules of {epochs} epochs, each at the best of five or seven rates, are compared on four small "
        f"tasks: digits with wrong labels (a perceptron and a CNN) and shapes in noise (a CNN with SGD and with "
        f"Adam). {len(seeds)} seeds; "
        f"{edges(res['search'])} Measured on {res['machine']}.",
        f"On {fast} of {n} tasks a cyclical schedule needs at most half of the {epochs} epochs to reach the accuracy "
        "that a fixed rate ends with. The mean of the last three snapshots is better than the last snapshot on "
        f"{better} tasks and worse on {worse or 'none'}. Averaging the weights makes the fixed rate better on "
        f"{fixed[0] or 'none'} and worse on {fixed[1] or 'none'}; it makes one-cycle better on {one_cycle[0] or 'none'} "
        f"and worse on {one_cycle[1] or 'none'}. Better and worse mean by more than two standard errors.",
        '## Epochs until a schedule is as good as a fixed rate in the end',
        f"On {sum(min(o, key=o.get) == 'fixed' for o in at_end)} of {n} tasks every other schedule ends with a higher "
        f"accuracy than the fixed rate. The schedule with the highest: {counted(max(o, key=o.get) for o in at_end)}.",
        picture('cycles', 'Validation accuracy after each epoch for a fixed rate, steps, triangular2, SGDR and '
                          'one-cycle, one panel for each of four tasks; a dotted line is the accuracy that the fixed '
                          'rate ends with'),
        'Median (range) over the seeds, "-" where it is never reached; then validation accuracy after the last '
        'epoch, and the best rate.',
        speed_table(rows),
        '## Ensembles, averages, single models',
        f"The claim was that the ensemble of three is never worse than the last snapshot: it is worse on {worse or 'none'} of "
        f"{n} tasks. Another was that `Average()` makes one-cycle better on half of the tasks: it does on "
        f"{one_cycle[0] or 'none'}. The model with the lowest test error, of those that cost one forward pass: "
        f"{counted(min(o, key=o.get) for o in single)}.",
        picture('cycles_errors', 'Test error of the mean of three and of five snapshots and of all single models, '
                                 'one panel for each of four tasks'),
        'Test error; in brackets the difference to the mean of the last three, paired by seed, ± its standard error. '
        'At inference the mean of the last 3 costs three forward passes, that of all 5 five, every other row one. '
        '"fixed, averaged" is `Average(\'tail\', 0.5)`, "one-cycle, averaged" is `Average()`.',
        ensemble_table(rows))

def main():
    if not (res := stored('cycles')):
        parser = argparse.ArgumentParser()
        parser.add_argument('--processes', type=int, default=2)
        parser.add_argument('--anew', action='store_true', help='repeat the runs that cycles.json has')
        args = parser.parse_args()
        search,rows = run_all(args.processes, {} if args.anew else kept_runs())
        res = dict(machine=machine(), search=search, rows=rows)
    figs = dict(cycles=plot(res['rows']), cycles_errors=plot_errors(res['rows']))
    publish('cycles', res, report(res), figs, indent=None)

if __name__=='__main__': main()
