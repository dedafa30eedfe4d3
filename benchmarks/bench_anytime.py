"""Models for 5, 10, 15 and 30 epochs from one run at a constant rate, compared with a one-cycle run for each.

Protocol, fixed before any result:
- Tasks: the four of `bench_cycles.py`, 5 seeds. The constant rate is the one that was best for WSD there, one-cycle has
  its own best; both were chosen for 15 epochs.
- The run trains 24 epochs at the constant rate with `fit_anytime` and `more`. `cooldown` takes the last fifth of each
  budget (4+1, 8+2, 12+3 and 24+6 epochs). That is 36 epochs in all; the one-cycle runs take 60.
- Reported: the test error at each budget, and the mean difference, paired by seed, with its standard error. The goal:
  at most 0.3 points worse than one-cycle at each budget.

`python benchmarks/bench_anytime.py` writes results/anytime.{json,md,png}; about 10 minutes on 2 cores."""
import argparse, contextlib, io, json, os
from concurrent.futures import ProcessPoolExecutor

os.environ.setdefault('OMP_NUM_THREADS', '1')
from bench_cycles import best_rate, better_and_worse, data, make, seeds, tasks, versus
from fastai.basics import *
from fastai_lrx.core.plots import new_axes
from measure import machine, page, picture, publish, results, stored, table

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

def differences(rows)->dict:
    "How much more the anytime model errs than one-cycle, and the standard error, by task and budget"
    return {(t, n): versus(*(errors(rows, t, way, n) for way in ('anytime', 'one_cycle')))
            for t in tasks for n in budgets}

def report(res):
    rows,found = res['rows'],differences(res['rows'])
    spent = sum(budgets.values()) + max(n-c for n,c in budgets.items())
    better,worse = better_and_worse([(-mean, se) for mean,se in found.values()])
    low,high = min(found, key=found.get),max(found, key=found.get)
    def points(mean): return f'{100*mean:+.1f}'
    def cell(t, n):
        a,b = (errors(rows, t, way, n).mean() for way in ('anytime', 'one_cycle'))
        mean,se = found[t, n]
        return f'{a:.1%} / {b:.1%} ({points(mean)} ± {100*se:.1f})'
    return page('anytime', 'Can one run replace separate runs for several budgets?',
        "`fit_anytime` trains at a constant rate, and `cooldown` ends it with a falling rate at 5, 10, 15 and 30 "
        "epochs. Each of the four models is compared with a one-cycle run of as many epochs, on four small tasks "
        f"with {len(seeds)} seeds. Measured on {res['machine']}.",
        f"One run with four cooldowns takes {spent} epochs instead of the {sum(budgets)} of four one-cycle runs, but the models "
        "are not equally good. The anytime model is at most 0.3 points worse than one-cycle in "
        f"{sum(mean <= 0.003 for mean,_ in found.values())} of {len(found)} cases; by more than two standard errors "
        f"it is worse in {worse} and better in {better}.",
        "The goal was at most 0.3 points in every case. Which is better depends on the task and the budget: the "
        f"difference ranges from {points(found[low][0])} points ({low[0]}, {low[1]} epochs) to "
        f"{points(found[high][0])} ({high[0]}, {high[1]} epochs).",
        picture('anytime', 'Test error against the number of epochs on four tasks, for models from one run with '
                           'cooldowns and for separate one-cycle runs'),
        'Test error of the anytime model / of one-cycle; in brackets the difference in points, paired by seed, ± its '
        'standard error.',
        table(['', *(f'{n} epochs' for n in budgets)], [[t, *(cell(t, n) for n in budgets)] for t in tasks]))

def draw(rows):
    fig,axes = new_axes(2, 2, size=(4, 2.4))
    for t,ax in zip(tasks, axes.flat):
        for way,label,color in (('anytime', 'one run with cooldowns', 'C0'), ('one_cycle', 'one-cycle runs', 'C2')):
            found = np.array([errors(rows, t, way, n) for n in budgets])*100
            ax.errorbar(list(budgets), found.mean(1), found.std(1, ddof=1)/len(seeds)**0.5, fmt='o-', ms=4, capsize=2,
                        color=color, label=label)
        ax.set(title=t, xlabel='epochs', ylabel='test error, %', xticks=list(budgets))
    axes[0,0].legend(frameon=False, fontsize='small')
    return fig

def measure():
    parser = argparse.ArgumentParser()
    parser.add_argument('--processes', type=int, default=2)
    n_processes = parser.parse_args().processes
    search = json.loads((results/'cycles.json').read_text())['search']
    jobs = [(t, seed, best_rate(search, t, 'WSD'), best_rate(search, t, 'one-cycle')) for t in tasks for seed in seeds]
    with ProcessPoolExecutor(n_processes) as pool: rows = [f.result() for f in [pool.submit(run, *job) for job in jobs]]
    return dict(machine=machine(), rows=rows)

def main():
    res = stored('anytime') or measure()
    publish('anytime', res, report(res), dict(anytime=draw(res['rows'])), indent=None)

if __name__=='__main__': main()
