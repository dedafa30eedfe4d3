"""Not knowing for how long: models for 5, 10, 15 and 30 epochs from one trunk at a constant rate, against one-cycle trained anew for each.

Protocol, fixed before any result:
- The four tasks of `bench_cycles.py`, 5 seeds. The trunk's rate is the one that WSD had as its best there, one-cycle's its own best, both for 15 epochs.
- A trunk of 24 epochs: `fit_anytime`, `more` and `cooldown`, with the last fifth of each budget spent on the cooldown (4+1, 8+2, 12+3 and 24+6). In all 36
  epochs are trained, where one-cycle takes 60.
- Counted is the test error at each budget; differences are paired by seed: their mean, and its standard error over the seeds. The goal: within 0.3 points of
  one-cycle at each budget.

`python benchmarks/bench_anytime.py` writes results/anytime.{json,md,png}; about 10 minutes on 2 cores."""
import argparse, contextlib, io, json, os
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault('OMP_NUM_THREADS', '1')
from bench_cycles import best_rate, data, make, seeds, tasks, versus
from fastai.basics import *
from fastai_lrx.core.plots import new_axes
from measure import machine, publish, results

budgets = {5: 1, 10: 2, 15: 3, 30: 6}                      # epochs in all, and of the cooldown

def test_error(learn, task): return 1-learn.validate(dl=learn.dls.valid.new(data(tasks[task][0])[2]))[1]

def run(task, seed, trunk_lr, cycle_lr):
    "Test errors at each budget, by way"
    torch.set_num_threads(1)
    res = dict(task=task, seed=seed, anytime={}, one_cycle={})
    with contextlib.redirect_stdout(io.StringIO()):
        learn,trunk = make(task, seed),None
        for n,cooldown in budgets.items():
            if trunk is None: trunk = learn.fit_anytime(n-cooldown, trunk_lr, warmup=0)
            else: trunk.more(n-cooldown-trunk.n_epoch)
            trunk.cooldown(cooldown)
            res['anytime'][str(n)] = test_error(learn, task)
            other = make(task, seed)
            other.fit_one_cycle(n, cycle_lr)
            res['one_cycle'][str(n)] = test_error(other, task)
    return res

def errors(rows, task, way, n): return np.array([r[way][str(n)] for r in rows if r['task'] == task])

def table(rows)->list:
    "A line for each task: errors of both, and the difference, at each budget"
    lines = ['| | ' + ' | '.join(f'{n} epochs' for n in budgets) + ' |', '|---'*(len(budgets)+1) + '|']
    for t in tasks:
        cells = []
        for n in budgets:
            a,b = errors(rows, t, 'anytime', n),errors(rows, t, 'one_cycle', n)
            mean,se = versus(a, b)
            cells.append(f'{a.mean():.1%} / {b.mean():.1%} ({100*mean:+.1f} ± {100*se:.1f})')
        lines.append(f'| {t} | ' + ' | '.join(cells) + ' |')
    return lines

def verdict(rows)->str:
    "How far the goal is met"
    found = [versus(errors(rows, t, 'anytime', n), errors(rows, t, 'one_cycle', n)) for t in tasks for n in budgets]
    return (f"The anytime model is at most 0.3 points worse than one-cycle in {sum(mean <= 0.003 for mean,_ in found)} of {len(found)} cases, and worse "
            f"by more than two standard errors in {sum(mean > 2*se for mean,se in found)}.")

def draw(rows, path):
    fig,axes = new_axes(2, 2, size=(5.2, 3.2))
    for t,ax in zip(tasks, axes.flat):
        for way,label,color in (('anytime', 'one trunk with cooldowns', 'C0'), ('one_cycle', 'one-cycle, anew for each', 'C2')):
            ax.plot(list(budgets), [100*errors(rows, t, way, n).mean() for n in budgets], 'o-', color=color, label=label)
        ax.set(title=t, xlabel='epochs', ylabel='test error, %', xticks=list(budgets))
    axes[0,0].legend(frameon=False, fontsize='small')
    fig.savefig(path, dpi=110)

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--processes', type=int, default=2)
    n_processes = parser.parse_args().processes
    search = json.loads((results/'cycles.json').read_text())['search']
    jobs = [(t, seed, best_rate(search, t, 'WSD'), best_rate(search, t, 'one-cycle')) for t in tasks for seed in seeds]
    with ProcessPoolExecutor(n_processes) as pool: rows = [f.result() for f in [pool.submit(run, *job) for job in jobs]]
    spent = sum(budgets.values()) + max(n-c for n,c in budgets.items())
    res = dict(machine=machine(), rows=rows)
    draw(rows, results/'anytime.png')
    publish('anytime', res, '\n'.join(['# Training without knowing for how long', '',
        f"Measured on {res['machine']}; {len(seeds)} seeds. Test error of a model that was cooled down from one trunk / of one-cycle trained for this budget (difference, "
        f'paired by seed, in points ± its standard error). One trunk and its cooldowns take {spent} epochs, the four one-cycles {sum(budgets)}.', '',
        f'- {verdict(rows)}', '', *table(rows), '', '![Test error against epochs](anytime.png)', '',
        'Reproduce: `python benchmarks/bench_anytime.py`, after `bench_cycles.py`, which finds the rates.', '']), indent=None)

if __name__=='__main__': main()
